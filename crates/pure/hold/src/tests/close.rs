//! The race between the last request and the step to zero.

use super::*;

#[derive(Debug, Clone, Copy)]
enum Step {
    Arrive,
    Finish,
    Close(u64),
    Up,
    Down,
    Ack(u64),
    Tick(f64),
}

/// Plays steps 0.1 s apart on a hold that begins with one replica of 4 slots, and lists what it said.
fn play(steps: &[Step]) -> Vec<String> {
    let mut bench = Bench::plain();
    bench.up(0.0, "a", 4);
    let (mut said, mut open) = (Vec::new(), std::collections::VecDeque::new());
    for (count, step) in steps.iter().enumerate() {
        let mut now = 1.0 + 0.1 * loadline_base::num::usize_to_f64(count);
        let effects = match step {
            Step::Arrive => {
                let (key, effects) = bench.arrive(now);
                open.push_back(key);
                effects
            }
            Step::Finish => bench.finish(now, open.pop_front().expect("a request")),
            Step::Close(epoch) => {
                bench.hold.close(at(now), *epoch, &mut bench.effects);
                bench.take()
            }
            Step::Up => bench.up(now, "a", 4),
            Step::Down => {
                bench.hold.replica_down(at(now), &replica("a"), &mut bench.effects);
                bench.take()
            }
            Step::Ack(epoch) => {
                bench.hold.acknowledge(at(now), *epoch, None);
                Vec::new()
            }
            Step::Tick(later) => {
                now = *later;
                bench.tick(now)
            }
        };
        for effect in effects {
            said.push(match effect {
                Effect::Grant { attempt, .. } => format!("grant {attempt}"),
                Effect::Closed { epoch, accepted } => format!("closed {epoch} {accepted}"),
                Effect::Wake { epoch, held } => format!("wake {epoch} {held}"),
                other => format!("{other:?}"),
            });
        }
        assert_eq!(bench.hold.counts().exit_violations(), 0, "{steps:?}");
    }
    said
}

#[test]
fn the_race_to_zero_loses_nothing() {
    use Step::{Ack, Arrive, Close, Down, Finish, Tick, Up};
    let cases: &[(&str, &[Step], &[&str])] = &[
        ("idle closes", &[Close(1)], &["closed 1 true"]),
        ("said twice, the same answer", &[Close(1), Close(1)], &["closed 1 true", "closed 1 true"]),
        ("in flight refuses", &[Arrive, Close(1), Finish], &["grant 1", "closed 1 false"]),
        ("closes after the end", &[Arrive, Finish, Close(1)], &["grant 1", "closed 1 true"]),
        (
            "a refused epoch stays refused",
            &[Arrive, Close(1), Finish, Close(1), Close(2)],
            &["grant 1", "closed 1 false", "closed 1 false", "closed 2 true"],
        ),
        (
            "an arrival after the close is held and wakes, though the replica is still up",
            &[Close(1), Arrive],
            &["closed 1 true", "wake 2 1"],
        ),
        (
            "the close is over once something arrived",
            &[Close(1), Arrive, Close(1), Close(2)],
            &["closed 1 true", "wake 2 1", "closed 1 false", "closed 2 false"],
        ),
        ("the writer keeps the replica after all", &[Close(1), Arrive, Up], &["closed 1 true", "wake 2 1", "grant 1"]),
        ("the replica goes first", &[Close(1), Arrive, Down, Up], &["closed 1 true", "wake 2 1", "grant 1"]),
        ("down, then an arrival", &[Close(1), Down, Arrive, Up], &["closed 1 true", "wake 2 1", "grant 1"]),
        ("one wake for many", &[Close(1), Arrive, Arrive, Up], &["closed 1 true", "wake 2 1", "grant 1", "grant 1"]),
        (
            "repeats until acknowledged",
            &[Close(1), Arrive, Tick(2.2), Tick(4.3), Ack(2), Tick(9.4)],
            &["closed 1 true", "wake 2 1", "wake 2 1", "wake 2 1"],
        ),
        (
            "an old acknowledgement does not count",
            &[Close(1), Arrive, Ack(1), Tick(2.2)],
            &["closed 1 true", "wake 2 1", "wake 2 1"],
        ),
        ("an older epoch is refused", &[Close(5), Up, Close(4)], &["closed 5 true", "closed 4 false"]),
        (
            "reopened without an arrival",
            &[Close(1), Up, Close(1), Arrive],
            &["closed 1 true", "closed 1 false", "grant 1"],
        ),
        (
            "two cycles",
            &[Close(1), Arrive, Up, Finish, Close(3), Arrive],
            &["closed 1 true", "wake 2 1", "grant 1", "closed 3 true", "wake 4 1"],
        ),
    ];
    for (name, steps, expect) in cases {
        assert_eq!(play(steps), *expect, "{name}");
    }
}
