use super::super::writes::{Begin, Done, Order, Verdict, Writes, is_victims_cost};
use super::{at, chat, target};
use loadline_base::{PoolId, Timestamp};
use loadline_cluster::{ClusterError, Key, PodKey, ScaleFailure, ScaleWritten, TargetKey, TargetSeen};
use std::collections::BTreeMap;
use std::time::Duration;

struct Bench {
    writes: Writes,
    pool: PoolId,
    seen: TargetSeen,
}

impl Bench {
    /// A target that is known with `replicas`.
    fn new(replicas: u32) -> Self {
        let mut bench = Self { writes: Writes::of_term(1), pool: PoolId::new("ml/chat"), seen: target(replicas, "10") };
        assert_eq!(bench.see(0, replicas, "10"), Some(replicas), "the first count is news");
        bench
    }

    fn see(&mut self, seconds: u64, replicas: u32, version: &str) -> Option<u32> {
        self.seen = target(replicas, version);
        self.writes.seen(at(seconds), &self.pool, &self.seen)
    }

    fn order(&mut self, from: u32, to: u32, victims: &[&str]) {
        let victims: Vec<PodKey> = victims.iter().map(|name| Key::new("ml", *name)).collect();
        let order = Order { target: chat(), api_version: "apps/v1".into(), from, to, victims, marked: Vec::new() };
        self.writes.order(&self.pool, order);
    }

    fn begin(&mut self, seconds: u64) -> Option<Begin> {
        let seen = &self.seen;
        let mut begun = self.writes.begin(at(seconds), |_| Some(seen));
        assert!(begun.len() <= 1, "one write at a time: {begun:?}");
        begun.pop()
    }

    fn done(&mut self, seconds: u64, begun: Begin, outcome: Result<ScaleWritten, ScaleFailure>) -> Verdict {
        self.writes.done(at(seconds), done(begun, at(0), outcome))
    }
}

fn done(begun: Begin, began: Timestamp, outcome: Result<ScaleWritten, ScaleFailure>) -> Done {
    Done { pool: begun.pool, number: begun.number, order: begun.order, began, outcome }
}

fn written(replicas: u32, version: &str) -> Result<ScaleWritten, ScaleFailure> {
    Ok(ScaleWritten { replicas, resource_version: version.into(), changed: true, attempts: 1 })
}

fn busy() -> ScaleFailure {
    ScaleFailure::Busy(ClusterError::Unreachable { what: "put scale".to_owned(), why: "refused".to_owned() })
}

#[test]
fn a_write_is_made_on_the_version_that_was_seen_and_an_old_view_is_no_foreign_write() {
    let mut bench = Bench::new(1);
    bench.order(1, 3, &[]);
    let begin = bench.begin(1).expect("a write");
    assert_eq!(begin.seen, Some(("uid-chat".into(), "10".into())));
    assert!(bench.begin(1).is_none(), "it is under way");
    assert_eq!(bench.see(1, 2, "11"), None, "nothing is judged while a write is under way");
    assert_eq!(bench.done(2, begin, written(3, "12")), Verdict::Written { from: 1, to: 3, changed: true });
    assert_eq!(bench.see(2, 1, "10"), None, "the watch is behind");
    assert_eq!(bench.see(3, 3, "12"), None, "our own count");
    assert_eq!(bench.see(4, 7, "13"), Some(7), "somebody else's count");
    assert_eq!(bench.see(5, 7, "14"), None, "it is said once");
    assert!(bench.begin(5).is_none(), "and not fought");
}

#[test]
fn the_last_order_wins_and_starts_from_what_was_written() {
    let mut bench = Bench::new(1);
    bench.order(1, 3, &[]);
    let first = bench.begin(1).expect("a write");
    bench.order(3, 5, &[]);
    bench.order(5, 4, &[]);
    bench.done(2, first, written(3, "12"));
    let next = bench.begin(2).expect("the next write");
    assert_eq!((next.order.from, next.order.to), (3, 4));
    assert_eq!(next.seen, None, "the view is older than the last write");
    assert_eq!(bench.writes.expected(&bench.pool), Some(4));
}

#[test]
fn a_foreign_write_ends_the_order() {
    let mut bench = Bench::new(2);
    bench.order(2, 6, &[]);
    let begin = bench.begin(1).expect("a write");
    let failure = ScaleFailure::ForeignWrite { target: chat(), from: 2, found: 9 };
    assert_eq!(bench.done(1, begin, Err(failure)), Verdict::Foreign(9));
    assert!(bench.begin(2).is_none());
    assert_eq!(bench.see(2, 9, "12"), None, "it is known already");
}

#[test]
fn a_failed_write_is_tried_again_with_growing_pauses_until_it_succeeds() {
    let mut bench = Bench::new(1);
    bench.order(1, 2, &[]);
    let mut now = at(0);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let begun = bench.writes.begin(now, |_| None).pop().expect("a try");
        let done = done(begun, now, Err(busy()));
        assert!(matches!(bench.writes.done(now, done), Verdict::Failed { reason: "FailedUpdateScale", .. }));
        let next = bench.writes.next_retry().expect("a next try");
        pauses.push(next.since(now).as_millis());
        assert!(bench.writes.begin(now, |_| None).is_empty(), "not before its time");
        assert_eq!(bench.writes.seen(now, &bench.pool, &bench.seen), None, "an untouched target is no foreign write");
        now = next;
    }
    assert_eq!(pauses, [250, 500, 1_000, 2_000, 4_000, 5_000, 5_000]);
    assert!(bench.writes.failure(&bench.pool).is_some_and(|(_, text)| text.contains("cannot be reached")));
    let last = bench.writes.begin(now, |_| None).pop().expect("a try");
    let done = done(last, now, written(2, "12"));
    bench.writes.done(now.plus(Duration::from_millis(5)), done);
    assert_eq!((bench.writes.failure(&bench.pool), bench.writes.next_retry()), (None, None));
}

#[test]
fn victims_get_their_cost_before_the_write_and_lose_it_with_the_next_order() {
    let mut bench = Bench::new(4);
    bench.order(4, 2, &["c", "a"]);
    let begin = bench.begin(1).expect("a write");
    let cost = |name: &str, cost: Option<i32>| (Key::new("ml", name), cost);
    let expect = BTreeMap::from([cost("c", Some(-1_000_000)), cost("a", Some(-999_999))]);
    assert_eq!(begin.costs, expect, "the first named goes first");
    bench.done(1, begin, written(2, "12"));
    bench.see(1, 2, "12");
    bench.order(2, 3, &[]);
    let begin = bench.begin(2).expect("a write");
    assert_eq!(begin.costs, BTreeMap::from([cost("c", None), cost("a", None)]));
}

#[test]
fn costs_that_an_earlier_writer_left_are_cleared() {
    let mut bench = Bench::new(4);
    let left = Key::new("ml", "b");
    let order = Order {
        target: chat(),
        api_version: "apps/v1".into(),
        from: 4,
        to: 5,
        victims: Vec::new(),
        marked: vec![left.clone()],
    };
    bench.writes.order(&bench.pool, order);
    assert_eq!(bench.begin(1).expect("a write").costs, BTreeMap::from([(left, None)]));
    for (text, expect) in [("-1000000", true), ("-999999", true), ("-1", false), ("0", false), ("x", false)] {
        assert_eq!(is_victims_cost(text), expect, "{text}");
    }
}

#[test]
fn another_target_of_the_same_pool_begins_anew() {
    let mut bench = Bench::new(1);
    bench.order(1, 5, &["a"]);
    let begin = bench.begin(1).expect("a write");
    bench.done(2, begin, written(5, "90"));
    bench.order(5, 6, &[]);
    let other = TargetSeen {
        key: TargetKey::new("ml", "apps/v1", "Deployment", "other"),
        uid: Some("uid-other".into()),
        ..target(2, "20")
    };
    assert_eq!(bench.writes.seen(at(3), &bench.pool, &other), Some(2), "whose version is older than our last write");
    assert!(bench.begin(3).is_none(), "what was ordered for the first one is not written to anything");
}

#[test]
fn the_end_of_a_write_says_nothing_about_a_pool_that_was_made_anew() {
    let mut bench = Bench::new(1);
    bench.order(1, 2, &[]);
    let begin = bench.begin(1).expect("a write");
    bench.writes.retain(|_| false);
    assert_eq!(bench.see(2, 1, "10"), Some(1), "it begins anew");
    bench.order(1, 4, &[]);
    let next = bench.begin(2).expect("a write");
    assert_eq!(bench.done(3, begin, written(2, "12")), Verdict::Outdated);
    assert_eq!(bench.writes.expected(&bench.pool), Some(4));
    assert!(matches!(bench.done(4, next, written(4, "13")), Verdict::Written { to: 4, .. }));
}

#[test]
fn a_write_that_was_given_up_and_carried_out_all_the_same_is_ours() {
    for is_seen_first in [true, false] {
        let mut bench = Bench::new(1);
        bench.order(1, 3, &[]);
        let begin = bench.begin(1).expect("a write");
        bench.order(1, 5, &[]);
        assert!(matches!(bench.done(2, begin, Err(busy())), Verdict::Failed { .. }));
        if is_seen_first {
            assert_eq!(bench.see(3, 3, "12"), None, "nobody else made it 3");
        }
        let mut begin = bench.begin(20).expect("the next order");
        if !is_seen_first {
            assert_eq!((begin.order.from, begin.order.to), (1, 5));
            let met = ScaleFailure::ForeignWrite { target: chat(), from: 1, found: 3 };
            assert_eq!(bench.done(20, begin, Err(met)), Verdict::Outdated);
            begin = bench.begin(21).expect("once more, from there");
        }
        assert_eq!((begin.order.from, begin.order.to), (3, 5));
        assert!(matches!(bench.done(21, begin, written(5, "14")), Verdict::Written { to: 5, .. }));
        assert_eq!(bench.see(30, 4, "20"), Some(4), "that one is somebody else's");
    }
}
