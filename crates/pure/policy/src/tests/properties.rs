//! Laws and general properties over arbitrary observations.

use super::build::{IDLE_AFTER, PERIOD, at, only, pool, signal, signal_metric};
use crate::hpa::{Behavior, HpaMemory, HpaRule, Recommendation};
use crate::laws::{Made, check_all};
use crate::{
    Decision, Evidence, Gate, GatewayObservation, Idle, Memory, MetricAnswer, Observation, Policy, PoolMemory,
    PoolObservation, PoolPolicy, ReplicaObservation, ReplicaState, ReplicaValue, Rule, decide,
};
use loadline_base::ReplicaId;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

fn evidence() -> impl Strategy<Value = Evidence> {
    prop_oneof![4 => Just(Evidence::Live), 1 => Just(Evidence::Stale), 2 => Just(Evidence::Missing)]
}

fn state() -> impl Strategy<Value = ReplicaState> {
    prop_oneof![
        6 => Just(ReplicaState::Ready),
        1 => Just(ReplicaState::Starting),
        1 => Just(ReplicaState::Draining),
        1 => Just(ReplicaState::Failed),
    ]
}

fn any_gateway() -> impl Strategy<Value = GatewayObservation> {
    let live = (0_u32..60, 0_u32..60, 0_u32..60, 0_i64..70).prop_map(|(held, in_flight, peak, age)| {
        GatewayObservation::Live { held, in_flight, peak, idle_since: None, at: at(-age) }
    });
    let idle = (0_i64..200, 0_i64..20).prop_map(|(since, age)| GatewayObservation::Live {
        held: 0,
        in_flight: 0,
        peak: 0,
        idle_since: Some(at(-since)),
        at: at(-age),
    });
    prop_oneof![4 => live, 3 => idle, 1 => Just(GatewayObservation::Missing), 2 => Just(GatewayObservation::Absent)]
}

type Seed = (ReplicaState, Evidence, f64, f64, Option<i64>);

fn any_replica() -> impl Strategy<Value = Seed> {
    (state(), evidence(), 0.0_f64..12.0, 0.0_f64..1.2, prop::option::of(0_i64..200))
}

fn observation(seeds: &[Seed], gateway: GatewayObservation, spec: Option<u32>) -> Observation {
    let id = |index: usize| ReplicaId::new(format!("r{index:03}"));
    let replicas: Vec<ReplicaObservation> = seeds
        .iter()
        .enumerate()
        .map(|(index, &(state, evidence, load, _, idle))| ReplicaObservation {
            id: id(index),
            state,
            since: at(if index % 3 == 2 { -5 } else { -100 }),
            created_at: at(-200),
            known: true,
            running: Some(signal(load.floor(), evidence, at(0))),
            waiting: Some(signal(0.0, evidence, at(0))),
            idle_since: idle.filter(|_| load < 1.0).map(|seconds| at(-seconds)),
        })
        .collect();
    let values = |pick: fn(&Seed) -> f64| MetricAnswer::PerReplica {
        values: seeds
            .iter()
            .enumerate()
            .map(|(index, seed)| ReplicaValue { replica: id(index), signal: signal(pick(seed), seed.1, at(0)) })
            .collect(),
    };
    let count = u32::try_from(replicas.len()).unwrap_or(0);
    let seen = PoolObservation {
        spec_replicas: spec.unwrap_or(count),
        status_replicas: count,
        metrics: vec![
            MetricAnswer::Failed { error: "gateway signals are read from the gateway".to_owned() },
            values(|seed| seed.2.floor()),
            values(|seed| seed.3),
        ],
        replicas,
        gateway,
        hpa: None,
    };
    Observation { now: at(0), pools: BTreeMap::from([(pool(), seen)]) }
}

fn policy(which: u8, behavior: bool, min: u32) -> Policy {
    let metrics = vec![
        signal_metric("requests_demand", 4_000),
        signal_metric("requests_running", 6_000),
        signal_metric("kv_cache_utilization", 700),
    ];
    let mut rule = HpaRule { metrics, behavior: behavior.then(Behavior::api_default), ..HpaRule::default() };
    // the order of answers is that of the metrics, so shorter rules keep the front
    rule.metrics.truncate(usize::from(which % 3) + 1);
    rule.controller.downscale_stabilization = Duration::from_secs(30);
    let pool_policy = PoolPolicy {
        min_replicas: min,
        max_replicas: 12,
        rule: Rule::Hpa(rule),
        idle: Some(Idle { after: IDLE_AFTER }),
        fallback: None,
        gpus_per_replica: 1,
        scrape_period: PERIOD,
    };
    Policy { pools: BTreeMap::from([(pool(), pool_policy)]), gate: Gate::On }
}

fn memory(history: &[(i64, i32)], blocked: Option<i64>) -> Memory {
    let entries = history.iter().map(|&(age, replicas)| Recommendation { at: at(-age), replicas }).collect();
    let remembered = PoolMemory {
        hpa: HpaMemory { recommendations: Some(entries), ..HpaMemory::default() },
        blocked_since: blocked.map(|age| at(-age)),
        ..PoolMemory::default()
    };
    Memory { pools: BTreeMap::from([(pool(), remembered)]) }
}

fn json<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).expect("writes")).expect("reads")
}

fn desired(policy: &Policy, seen: &Observation, memory: &Memory) -> u32 {
    only(decide(policy, seen, memory.clone()).0).desired
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn laws_hold(
        seeds in prop::collection::vec(any_replica(), 0..12),
        gateway in any_gateway(),
        spec in prop::option::of(0_u32..16),
        (which, behavior, min) in (any::<u8>(), any::<bool>(), 0_u32..3),
        (history, blocked) in (prop::collection::vec((0_i64..60, 0_i32..12), 0..4), prop::option::of(0_i64..60)),
    ) {
        let (policy, seen) = (policy(which, behavior, min), observation(&seeds, gateway, spec));
        let before = memory(&history, blocked);
        let (decision, after) = decide(&policy, &seen, before.clone());
        let made = Made { policy: &policy, seen: &seen, before: &before, decision: &decision, after: &after };
        prop_assert_eq!(check_all(made), vec![], "{:#?}", decision);
        for step in &only(decision.clone()).steps {
            prop_assert!(!step.to_string().is_empty());
        }
        // L4 after a round trip of everything through JSON
        let (again, remembered) = decide(&json(&policy), &json(&seen), json(&before));
        prop_assert_eq!(&again, &decision);
        prop_assert_eq!(&remembered, &after);
        prop_assert_eq!(json::<Decision>(&decision), decision);
        prop_assert_eq!(json::<Memory>(&after), after);
    }

    #[test]
    fn the_order_of_replicas_and_values_has_no_meaning(
        seeds in prop::collection::vec(any_replica(), 1..10),
        gateway in any_gateway(),
        which in any::<u8>(),
    ) {
        let (policy, seen) = (policy(which, true, 0), observation(&seeds, gateway, None));
        let mut turned = seen.clone();
        let observed = turned.pools.get_mut(&pool()).expect("pool");
        observed.replicas.reverse();
        for answer in &mut observed.metrics {
            if let MetricAnswer::PerReplica { values } = answer {
                values.rotate_left(1);
            }
        }
        let (a, b) = (decide(&policy, &seen, Memory::default()).0, decide(&policy, &turned, Memory::default()).0);
        prop_assert_eq!(a, b);
    }

    #[test]
    fn more_demand_never_asks_for_less(
        seeds in prop::collection::vec(any_replica(), 0..10),
        (held, in_flight, more) in (0_u32..40, 0_u32..40, 0_u32..40),
        which in any::<u8>(),
        history in prop::collection::vec((0_i64..60, 0_i32..12), 0..4),
    ) {
        let policy = policy(which, false, 0);
        let live = |held| GatewayObservation::Live { held, in_flight, peak: 0, idle_since: None, at: at(0) };
        let before = memory(&history, None);
        let less = desired(&policy, &observation(&seeds, live(held), None), &before);
        let greater = desired(&policy, &observation(&seeds, live(held + more), None), &before);
        prop_assert!(greater >= less, "{greater} < {less}");
    }

    #[test]
    fn at_rest_nothing_moves(
        count in 1_usize..10,
        off in -0.1_f64..0.1,
    ) {
        let policy = policy(0, true, 1);
        let replicas = u32::try_from(count).unwrap_or(1);
        let exact = f64::from(replicas) * 4.0;
        // whole requests, never outside the dead band of 10 %
        let total = loadline_base::num::f64_to_u32_trunc(exact + (exact * off).trunc());
        let seeds = vec![(ReplicaState::Ready, Evidence::Live, 3.0, 0.5, None); count];
        let gateway = GatewayObservation::Live { held: 0, in_flight: total, peak: 0, idle_since: None, at: at(0) };
        let mut seen = observation(&seeds, gateway, None);
        let mut memory = Memory::default();
        for second in 0..5 {
            seen.now = at(second);
            let (decision, next) = decide(&policy, &seen, memory);
            memory = next;
            let decided = only(decision);
            // inside the tolerance there is no flap, and a decision at rest asks for nothing
            prop_assert_eq!(decided.desired, replicas);
            prop_assert!(decided.actions.is_empty());
        }
    }
}
