//! What a pool has while nothing answers.

use super::target::Target;
use crate::{Alarm, Fallback, Gate, Step};
use std::time::Duration;

/// 120 s are 24 periods.
const AFTER: Duration = Duration::from_secs(120);

fn silent(count: u32, replicas: u32, max: u32) -> Target {
    let mut target = Target::new(count, |pool| {
        pool.fallback = Some(Fallback { replicas, after: AFTER });
        pool.max_replicas = max;
    });
    target.run(3);
    target.speaks = false;
    target
}

#[test]
fn it_raises_after_its_time_and_never_lowers() {
    for (name, count, replicas, max, expect) in [
        ("below it", 2, 5, 10, 5),
        ("above it", 7, 5, 10, 7),
        ("equal", 5, 5, 10, 5),
        ("beyond the maximum", 2, 50, 4, 4),
        ("none", 3, 0, 10, 3),
    ] {
        let mut target = silent(count, replicas, max);
        target.run(24);
        assert_eq!(target.count, count, "{name}: 120 s are not over");
        let decided = target.run(3);
        assert_eq!(target.count, expect, "{name}: {:#?}", decided.steps);
        assert!(decided.steps.iter().any(|step| matches!(step, Step::Fallback { .. })), "{name}");
        assert!(decided.alarms.iter().any(|alarm| matches!(alarm, Alarm::CannotAct { .. })), "{name}: {decided:#?}");
    }
}

#[test]
fn an_answer_in_between_begins_the_time_anew() {
    let mut target = silent(2, 5, 10);
    target.run(20);
    target.speaks = true;
    target.run(1);
    target.speaks = false;
    target.run(24);
    assert_eq!(target.count, 2);
    target.run(3);
    assert_eq!(target.count, 5);
}

#[test]
fn the_first_value_afterwards_does_not_lower_it_before_the_window() {
    let mut target = silent(2, 6, 10);
    target.run(30);
    assert_eq!(target.count, 6);
    target.speaks = true;
    target.load = 4.0;
    target.run(11);
    assert_eq!(target.count, 6, "a minute is not over");
    target.run(3);
    assert_eq!(target.count, 1);
}

#[test]
fn a_count_out_of_bounds_is_corrected_as_always() {
    let mut target = silent(2, 5, 10);
    target.run(30);
    target.count = 14;
    target.step();
    assert_eq!(target.count, 10);
    target.run(60);
    assert_eq!(target.count, 10, "and `fallback` lowers nothing");
}

#[test]
fn without_the_gate_there_is_none() {
    let mut target = silent(2, 5, 10);
    target.policy.gate = Gate::Off;
    target.run(60);
    assert_eq!(target.count, 2);
}
