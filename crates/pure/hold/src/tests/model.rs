//! Random sequences of events against a plain model: laws L5, L6 and L7, order, and no starvation.

use super::*;
use crate::{Failure, Retry};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Op {
    Arrive { bytes: u64, streamed: bool },
    FirstByte(usize),
    Finish(usize),
    Cancel(usize),
    Fail(usize, u8),
    Up(u8, u32),
    Drain(u8),
    Down(u8),
    Close,
    Pass(u32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1..60_u64, any::<bool>()).prop_map(|(bytes, streamed)| Op::Arrive { bytes, streamed }),
        3 => any::<usize>().prop_map(Op::FirstByte),
        4 => any::<usize>().prop_map(Op::Finish),
        1 => any::<usize>().prop_map(Op::Cancel),
        2 => (any::<usize>(), 0..3_u8).prop_map(|(pick, kind)| Op::Fail(pick, kind)),
        3 => (0..3_u8, 1..4_u32).prop_map(|(name, slots)| Op::Up(name, slots)),
        1 => (0..3_u8).prop_map(Op::Drain),
        1 => (0..3_u8).prop_map(Op::Down),
        1 => Just(Op::Close),
        3 => (1..40_000_u32).prop_map(Op::Pass),
    ]
}

/// Where the model believes a request to be: its order, and the attempt if granted.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Seen {
    Held,
    Granted { replica: crate::ReplicaKey, attempt: u32, answered: bool },
}

struct Model {
    bench: Bench,
    now: Timestamp,
    order: BTreeMap<RequestKey, u64>,
    seen: BTreeMap<RequestKey, Seen>,
    left: u64,
    admitted: u64,
}

impl Model {
    fn grab(&self, pick: usize, wanted: fn(&Seen) -> bool) -> Option<RequestKey> {
        let keys: Vec<_> = self.seen.iter().filter(|(_, seen)| wanted(seen)).map(|(key, _)| *key).collect();
        (!keys.is_empty()).then(|| keys[pick % keys.len()])
    }

    fn gone(&mut self, key: RequestKey) {
        assert!(self.seen.remove(&key).is_some(), "{key:?} left twice");
        self.order.remove(&key);
        self.left += 1;
    }

    fn apply(&mut self) {
        for effect in std::mem::take(&mut self.bench.effects) {
            match effect {
                Effect::Grant { request, replica, attempt, .. } => {
                    let first =
                        self.seen.iter().filter(|(_, seen)| **seen == Seen::Held).map(|(k, _)| self.order[k]).min();
                    assert_eq!(Some(self.order[&request]), first, "first come, first served");
                    assert!(attempt <= self.bench.hold.settings.max_attempts);
                    self.seen.insert(request, Seen::Granted { replica, attempt, answered: false });
                }
                Effect::Reject { request, rejection } => {
                    let seconds = rejection.retry_after.as_secs();
                    assert!((1..=120).contains(&seconds));
                    assert!(rejection.waited <= self.bench.hold.settings.hold_limit, "expired on time");
                    self.gone(request);
                }
                Effect::AbortStream { request } => {
                    assert!(matches!(self.seen[&request], Seen::Granted { answered: true, .. }));
                    self.gone(request);
                }
                Effect::Requeued { request } => {
                    assert!(matches!(self.seen[&request], Seen::Granted { answered: false, .. }));
                    self.seen.insert(request, Seen::Held);
                }
                Effect::Closed { accepted, .. } => assert!(!accepted || self.seen.is_empty()),
                Effect::Demand => {
                    let demand = self.bench.hold.demand(self.now, &"g".into(), &"m".into());
                    let total = demand.held + demand.in_flight;
                    assert!(demand.peak >= total && demand.idle_since.is_some() == (total == 0));
                }
                Effect::KeepAlive { request } => assert!(self.seen.contains_key(&request)),
                Effect::Wake { held, .. } => assert!(held > 0),
                Effect::ReplicaLoad { .. } => {}
            }
        }
    }

    fn check(&self) {
        let counts = self.bench.hold.counts();
        assert_eq!((counts.exit_violations(), counts.slot_violations, counts.bound_violations), (0, 0, 0));
        assert_eq!((counts.admitted_total, counts.left_total), (self.admitted, self.left));
        let mut each: BTreeMap<crate::ReplicaKey, u32> = BTreeMap::new();
        for seen in self.seen.values() {
            if let Seen::Granted { replica, .. } = seen {
                *each.entry(*replica).or_default() += 1;
            }
        }
        for view in self.bench.hold.replicas() {
            assert_eq!(each.get(&view.key).copied().unwrap_or(0), view.in_flight, "{view:?}");
        }
        let held = self.seen.values().filter(|seen| **seen == Seen::Held).count();
        assert_eq!(usize::try_from(counts.held), Ok(held));
        if held > 0 {
            assert!(counts.oldest.is_some());
        }
    }

    fn step(&mut self, op: Op) {
        let now = self.now;
        let Bench { hold, effects } = &mut self.bench;
        match op {
            Op::Arrive { bytes, streamed } => {
                if let Ok(key) = hold.arrive(now, Arrival { bytes, streamed, ttl: None }, effects) {
                    self.admitted += 1;
                    self.order.insert(key, self.admitted);
                    self.seen.insert(key, Seen::Held);
                }
            }
            Op::FirstByte(pick) => {
                if let Some(key) = self.grab(pick, |seen| matches!(seen, Seen::Granted { .. })) {
                    if let Some(Seen::Granted { answered, .. }) = self.seen.get_mut(&key) {
                        *answered = true;
                    }
                    self.bench.hold.first_byte(now, key, &mut self.bench.effects);
                }
            }
            Op::Finish(pick) => {
                if let Some(key) = self.grab(pick, |seen| matches!(seen, Seen::Granted { .. })) {
                    self.gone(key);
                    self.bench.hold.finished(now, key, &mut self.bench.effects);
                }
            }
            Op::Cancel(pick) => {
                if let Some(key) = self.grab(pick, |_| true) {
                    self.gone(key);
                    self.bench.hold.cancelled(now, key, &mut self.bench.effects);
                    self.bench.hold.cancelled(now, key, &mut self.bench.effects);
                }
            }
            Op::Fail(pick, kind) => {
                let Some(key) = self.grab(pick, |seen| matches!(seen, Seen::Granted { answered: false, .. })) else {
                    return;
                };
                let Seen::Granted { attempt, .. } = self.seen[&key] else { return };
                let failure = [Failure::Refused, Failure::Reset, Failure::Unavailable][usize::from(kind)];
                match self.bench.hold.failed(now, key, attempt, failure, &mut self.bench.effects) {
                    Retry::Held => drop(self.seen.insert(key, Seen::Held)),
                    Retry::Over(_) => self.gone(key),
                    Retry::Stale => panic!("the attempt was the present one"),
                }
            }
            Op::Up(name, slots) => {
                hold.replica_up(now, &replica(&name.to_string()), "127.0.0.1:1", slots, effects);
            }
            Op::Drain(name) => hold.drain(now, &replica(&name.to_string()), effects),
            Op::Down(name) => hold.replica_down(now, &replica(&name.to_string()), effects),
            Op::Close => {
                let epoch = self.admitted + self.left + 1;
                hold.close(now, epoch, effects);
            }
            Op::Pass(millis) => self.pass(Duration::from_millis(u64::from(millis))),
        }
    }

    /// Lets time pass, ticking at every deadline.
    fn pass(&mut self, span: Duration) {
        let until = self.now.plus(span);
        let mut ticks = 0;
        loop {
            let next = self.bench.hold.next_deadline().max(self.now);
            if next > until {
                break;
            }
            self.now = next;
            self.bench.hold.tick(next, &mut self.bench.effects);
            self.apply();
            ticks += 1;
            assert!(ticks < 5_000, "a tick must move its deadline");
        }
        self.now = until;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn laws_hold_in_every_sequence(ops in prop::collection::vec(op(), 1..120), ramp: bool) {
        let settings = HoldSettings {
            max_held: 8,
            max_held_bytes: 300,
            saturated_budget: Duration::from_secs(20),
            cold_budget: Some(Duration::from_secs(30)),
            hold_limit: Duration::from_secs(45),
            ramp,
            ..HoldSettings::default()
        };
        let mut model = Model {
            bench: Bench::new(settings),
            now: at(1.0),
            order: BTreeMap::new(),
            seen: BTreeMap::new(),
            left: 0,
            admitted: 0,
        };
        for op in ops {
            model.step(op);
            model.apply();
            model.check();
        }
        // Nobody starves: with a replica up and every grant finished, all are served.
        model.bench.hold.replica_up(model.now, &replica("last"), "127.0.0.1:1", 1, &mut model.bench.effects);
        model.apply();
        for _ in 0..200 {
            if let Some(key) = model.grab(0, |seen| matches!(seen, Seen::Granted { .. })) {
                model.gone(key);
                model.bench.hold.finished(model.now, key, &mut model.bench.effects);
            }
            model.apply();
            model.pass(Duration::from_millis(1));
        }
        prop_assert!(model.seen.is_empty(), "{:?}", model.seen);
        model.check();
    }
}
