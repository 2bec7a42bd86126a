//! Bounded memory.

use super::build::{at, demand_policy, gateway, observed, pool, replica};
use crate::hpa::history::{bound_events, bound_recommendations, change_within, stabilize};
use crate::hpa::{Behavior, Recommendation, ScaleEvent};
use crate::memory::MAX_MEMORY_BYTES;
use crate::{Evidence, Memory, ReplicaState, Rule, decide};
use proptest::prelude::*;
use std::time::Duration;

#[test]
fn memory_stays_within_its_bound() {
    let mut policy = demand_policy();
    let template = policy.pools.get_mut(&pool()).expect("pool");
    let Rule::Hpa(rule) = &mut template.rule;
    let mut behavior = Behavior::api_default();
    behavior.scale_down.stabilization_window_seconds = Some(3_600);
    for direction in [&mut behavior.scale_up, &mut behavior.scale_down] {
        direction.policies.iter_mut().for_each(|policy| policy.period_seconds = 1_800);
    }
    rule.behavior = Some(behavior);
    let template = template.clone();
    for index in 0..20 {
        policy.pools.insert(loadline_base::PoolId::new(format!("pool-with-a-long-name-{index:04}")), template.clone());
    }
    let mut memory = Memory::default();
    for second in 0..4_000_u32 {
        let count = usize::try_from(second % 7).unwrap_or(0) + 1;
        let replicas = (0..count).map(|i| replica(i, ReplicaState::Ready, Evidence::Live, 1.0)).collect();
        let one = observed(replicas, gateway(0, second % 40)).pools.remove(&pool()).expect("pool");
        let now = at(i64::from(second));
        let seen = crate::Observation { now, pools: policy.pools.keys().map(|id| (id.clone(), one.clone())).collect() };
        memory = decide(&policy, &seen, memory).1;
        if second % 500 == 499 {
            let bytes = serde_json::to_string(&memory).expect("JSON").len();
            assert!(bytes < MAX_MEMORY_BYTES, "{bytes} bytes after {second} s");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_shortened_log_holds_back_at_least_as_much(
        entries in prop::collection::vec((0_i64..4_000, 0_i32..50), 1..60),
        limit in 1_usize..40,
        current in 0_i32..50,
        desired in 0_i32..50,
        window in 0_u64..4_000,
    ) {
        let mut whole: Vec<Recommendation> =
            entries.iter().map(|&(age, replicas)| Recommendation { at: at(-age), replicas }).collect();
        let mut short = whole.clone();
        bound_recommendations(&mut short, limit);
        prop_assert!(short.len() <= limit.max(1) + 1);
        // upwards windows are zero here: only how far down a count may go is at stake
        let windows = (Duration::ZERO, Duration::from_secs(window));
        let (a, b) = (
            stabilize(&mut whole, current, desired, windows, at(0)),
            stabilize(&mut short, current, desired, windows, at(0)),
        );
        prop_assert!(b >= a, "{b} < {a}");
    }

    #[test]
    fn shortened_events_raise_the_count_a_period_started_from(
        entries in prop::collection::vec((0_i64..2_000, 1_i32..9), 1..40),
        limit in 1_usize..20,
        period in 0_u64..2_000,
    ) {
        let whole: Vec<ScaleEvent> =
            entries.iter().map(|&(age, change)| ScaleEvent { at: at(-age), change, outdated: false }).collect();
        let period = Duration::from_secs(period);
        let before = change_within(&whole, period, at(0));
        let (mut added, mut removed) = (whole.clone(), whole);
        bound_events(&mut added, false, limit);
        bound_events(&mut removed, true, limit);
        prop_assert!(change_within(&added, period, at(0)) <= before);
        prop_assert!(change_within(&removed, period, at(0)) >= before);
    }
}
