//! Someone else's writes: noticed, reported, not fought.

use super::target::Target;
use crate::decide::HOLD_PERIODS;
use crate::{Alarm, Fallback, GatewayObservation, Idle, Step};
use proptest::prelude::*;
use std::time::Duration;

fn alarms(decided: &crate::PoolDecision) -> Vec<(u32, u32)> {
    let told = decided.alarms.iter().filter_map(|alarm| match alarm {
        Alarm::ForeignWrite { expected, found } => Some((*expected, *found)),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_raise_is_left_for_the_window_and_said_once() {
    let mut target = Target::new(3, |_| ());
    target.run(20);
    target.write(6);
    let decided = target.step();
    assert_eq!((alarms(&decided), target.count), (vec![(3, 6)], 6));
    for period in 0..10 {
        let decided = target.step();
        assert_eq!((alarms(&decided), target.count), (vec![], 6), "{period}");
    }
    target.run(4);
    assert_eq!(target.count, 3, "then the metrics decide again");
}

#[test]
fn a_cut_below_the_need_is_raised_once_and_then_left_for_longer_each_time() {
    let mut target = Target::new(5, |_| ());
    target.load = 20.0;
    target.run(20);
    let mut waits = Vec::new();
    for _ in 0..5 {
        target.write(2);
        let mut periods = 0;
        while target.count == 2 {
            target.step();
            periods += 1;
            assert!(periods < 2_000, "given up altogether");
        }
        waits.push(periods);
        target.run(1);
        assert_eq!(target.count, 5, "twice as many at most, then the rest");
    }
    assert_eq!(waits[0], 1, "the first is raised again at once");
    assert!(waits.windows(2).skip(1).all(|pair| pair[1] > pair[0]), "{waits:?}");
    assert!(waits[1] >= HOLD_PERIODS, "{waits:?}");
}

#[test]
fn repeated_writes_outside_the_bounds_are_not_fought_either() {
    let mut target = Target::new(3, |_| ());
    target.run(20);
    target.write(14);
    target.step();
    assert_eq!(target.count, 10, "the first is corrected");
    target.write(14);
    let decided = target.step();
    assert_eq!(target.count, 14, "{:#?}", decided.steps);
    assert!(decided.steps.iter().any(|step| matches!(step, Step::HeldForForeign { undone: 1, .. })));
}

#[test]
fn demand_at_zero_is_answered_in_any_argument() {
    let held = |held: u32, target: &Target| GatewayObservation::Live {
        held,
        in_flight: 0,
        peak: held,
        idle_since: None,
        at: super::build::at(0).plus(target.now().since(super::build::at(0))).plus(super::build::PERIOD),
    };
    let mut target = Target::new(1, |pool| {
        pool.min_replicas = 0;
        pool.idle = Some(Idle { after: Duration::from_secs(3_600) });
    });
    for round in 0..5 {
        target.gateway = held(3, &target);
        target.step();
        assert_eq!(target.count, 1, "{round}");
        target.gateway = held(3, &target);
        target.step();
        target.write(0);
    }
}

#[test]
fn what_was_asked_for_is_nobody_elses() {
    let mut target = Target::new(2, |_| ());
    target.run(3);
    target.load = 32.0;
    assert_eq!(target.step().desired, 4, "twice as many at most");
    // the write is late by one period, then is seen
    target.count = 2;
    assert_eq!(alarms(&target.step()), []);
    target.count = 4;
    assert_eq!(alarms(&target.step()), []);
    // a part of it is a budget's cut
    target.count = 6;
    assert_eq!(alarms(&target.step()), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Laws L1, L2, L3, L8 and L10 over loads, silence and writes of others in any order.
    #[test]
    fn laws_hold_whoever_writes(
        turns in prop::collection::vec((0_u8..8, 0_u32..13, 0.0_f64..60.0, 1_u32..12), 1..25),
        min in 0_u32..3,
        fallback in prop::option::of((0_u32..12, 0_u64..90)),
    ) {
        let mut target = Target::new(3, |pool| {
            pool.min_replicas = min;
            pool.fallback = fallback.map(|(replicas, after)| Fallback { replicas, after: Duration::from_secs(after) });
        });
        for (kind, count, load, periods) in turns {
            match kind {
                0..=2 => target.write(count),
                3 => target.speaks = !target.speaks,
                4 => target.memory.resume(),
                _ => target.load = load.floor(),
            }
            // every step checks every law
            target.run(periods);
        }
    }

}

proptest! {
    // each is two hours of decisions
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Two that want different counts come to rest: the longer they argue, the rarer this one writes.
    #[test]
    fn two_writers_come_to_rest(theirs in 1_u32..11, load in 0.0_f64..44.0, every in 1_u32..6) {
        let mut target = Target::new(theirs, |_| ());
        target.load = load.floor();
        let mut writes = Vec::new();
        for period in 0..1_500_u32 {
            if period % every == 0 {
                target.write(theirs);
            }
            let before = target.count;
            target.step();
            if target.count != before {
                writes.push(period);
            }
        }
        // a raise takes several steps, each twice as many at most; together they are one
        let mut turns: Vec<u32> = Vec::new();
        for (at, period) in writes.iter().enumerate() {
            if at == 0 || writes.get(at - 1).is_none_or(|before| period - before > 6) {
                turns.push(*period);
            }
        }
        prop_assert!(turns.len() <= 10, "{} turns: {writes:?}", turns.len());
        let late = turns.iter().filter(|period| **period >= 780).count();
        prop_assert!(late <= 1, "{late} of them in the last hour: {writes:?}");
    }
}
