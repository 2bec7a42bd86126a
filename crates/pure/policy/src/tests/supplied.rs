//! Values that are brought from outside, beside engines that speak; and replicas on their way out.

use super::build::{
    IDLE_AFTER, PERIOD, at, decide_pool, observed, per_replica, policy_of, pool, replica, signal, signal_metric,
};
use crate::Evidence::{Live, Missing, Stale};
use crate::hpa::{HpaRule, MetricSource, MetricSpec, MetricTarget};
use crate::laws::{Made, check_all};
use crate::{
    Evidence, GatewayObservation, Memory, MetricAnswer, Observation, Policy, PoolDecision, ReplicaState, Step, decide,
};
use loadline_base::Labels;
use proptest::prelude::*;
use std::time::Duration;

fn policy(source: MetricSource, target: MetricTarget) -> Policy {
    let mut rule = HpaRule { metrics: vec![MetricSpec { source, target }], ..HpaRule::default() };
    rule.controller.downscale_stabilization = Duration::ZERO;
    policy_of(rule, 0, 20)
}

fn cpu() -> Policy {
    policy(MetricSource::Resource { name: "cpu".to_owned() }, MetricTarget::utilization(50))
}

fn external() -> Policy {
    policy(MetricSource::External { metric: "queue".to_owned(), selector: None }, MetricTarget::average_value(4_000))
}

/// This many ready replicas whose engines speak, and have been idle for a time.
fn engines(count: usize, idle_for: Option<i64>, answer: MetricAnswer) -> Observation {
    let replicas = (0..count).map(|index| crate::ReplicaObservation {
        idle_since: idle_for.map(|seconds| at(-seconds)),
        ..replica(index, ReplicaState::Ready, Live, if idle_for.is_some() { 0.0 } else { 2.0 })
    });
    let mut seen = observed(replicas.collect(), GatewayObservation::Absent);
    seen.pools.get_mut(&pool()).expect("a pool").metrics = vec![answer];
    seen
}

fn total(value: f64, evidence: Evidence) -> MetricAnswer {
    MetricAnswer::Total { signal: signal(value, evidence, at(0)), source: Labels::new() }
}

/// Decides, and no law is broken.
fn lawful(policy: &Policy, seen: &Observation) -> PoolDecision {
    let before = Memory::default();
    let (decision, after) = decide(policy, seen, before.clone());
    let made = Made { policy, seen, before: &before, decision: &decision, after: &after };
    assert_eq!(check_all(made), vec![], "{decision:#?}");
    decide_pool(policy, seen)
}

#[test]
fn replicas_without_a_value_count_nothing_going_up_and_full_going_down() {
    for (name, count, values, expect) in [
        ("all known, up", 2, vec![(0, 80.0, Live), (1, 90.0, Live)], 4),
        ("two have none yet, and with their share it is enough", 4, vec![(0, 80.0, Live), (1, 90.0, Live)], 4),
        (
            "two have none, and even if they had nothing to do it is too little",
            4,
            vec![(0, 180.0, Live), (1, 150.0, Live)],
            7,
        ),
        ("all but one have none", 10, vec![(0, 400.0, Live)], 10),
        ("down, with those that have none full", 4, vec![(0, 5.0, Live), (1, 5.0, Live)], 3),
        ("down, with late ones full", 4, vec![(0, 5.0, Live), (1, 5.0, Live), (2, 5.0, Stale), (3, 5.0, Missing)], 3),
        ("down, all late", 4, vec![(0, 5.0, Stale), (1, 5.0, Stale), (2, 5.0, Stale), (3, 5.0, Stale)], 4),
        ("up, all late", 2, vec![(0, 80.0, Stale), (1, 90.0, Stale)], 4),
        ("down, all known", 4, vec![(0, 5.0, Live), (1, 5.0, Live), (2, 5.0, Live), (3, 5.0, Live)], 1),
        ("none at all", 4, vec![], 4),
    ] {
        let decided = lawful(&cpu(), &engines(count, None, per_replica(&values)));
        assert_eq!(decided.desired, expect, "{name}: {:#?}", decided.steps);
    }
}

#[test]
fn a_count_does_not_run_away_from_replicas_that_are_never_measured() {
    // two are over their target whatever happens; all that are added stay without a value
    let mut count = 2_usize;
    for _ in 0..20 {
        let decided = lawful(&cpu(), &engines(count, None, per_replica(&[(0, 85.0, Live), (1, 85.0, Live)])));
        count = usize::try_from(decided.desired).expect("small");
    }
    assert_eq!(count, 4, "what 2 at 85 % of 50 % ask for");
}

#[test]
fn a_late_total_raises_and_does_not_lower() {
    for (name, count, answer, expect) in [
        ("fresh, down", 5, total(8.0, Live), 2),
        ("late, down", 5, total(8.0, Stale), 5),
        ("late, up", 2, total(16.0, Stale), 4),
        ("gone", 5, total(8.0, Missing), 5),
        ("an error", 5, MetricAnswer::Failed { error: "503".to_owned() }, 5),
    ] {
        let decided = lawful(&external(), &engines(count, None, answer));
        assert_eq!(decided.desired, expect, "{name}: {:#?}", decided.steps);
        let is_said = decided.steps.iter().any(|step| matches!(step, Step::HeldForLate { .. }));
        assert_eq!(is_said, name == "late, down", "{name}");
    }
}

#[test]
fn zero_needs_every_replica_and_a_fresh_word_that_nothing_waits_elsewhere() {
    let idle = i64::try_from(IDLE_AFTER.as_secs()).expect("small") + 1;
    let none = || MetricAnswer::Failed { error: "metrics.k8s.io answers 503".to_owned() };
    let some = |value: f64| per_replica(&[(0, value, Live), (1, value, Live)]);
    for (name, policy, answer, idle_for, expect) in [
        ("idle, nothing queued", external(), total(0.0, Live), Some(idle), 0),
        ("not for long enough", external(), total(0.0, Live), Some(idle - 2), 1),
        ("something queued elsewhere", external(), total(1.0, Live), Some(idle), 1),
        ("the queue's word is late", external(), total(0.0, Stale), Some(idle), 2),
        ("the queue is silent", external(), none(), Some(idle), 2),
        ("work in the engines", external(), total(0.0, Live), None, 1),
        // usage is no proof of work: an idle engine uses cpu, too
        ("idle, and cpu is used", cpu(), some(90.0), Some(idle), 0),
        ("idle, and cpu is not known", cpu(), none(), Some(idle), 0),
        ("work in the engines, and no cpu", cpu(), some(0.0), None, 1),
    ] {
        let decided = lawful(&policy, &engines(2, idle_for, answer));
        assert_eq!(decided.desired, expect, "{name}: {:#?}", decided.steps);
    }
    // one replica that says nothing stands in the way
    let mut seen = engines(2, Some(idle), total(0.0, Live));
    let replicas = &mut seen.pools.get_mut(&pool()).expect("a pool").replicas;
    replicas[1].running = Some(signal(0.0, Stale, at(0)));
    assert_eq!(lawful(&external(), &seen).desired, 1);
    let replicas = &mut seen.pools.get_mut(&pool()).expect("a pool").replicas;
    (replicas[1].running, replicas[1].idle_since) = (Some(signal(0.0, Live, at(0))), None);
    assert_eq!(lawful(&external(), &seen).desired, 1);
}

#[test]
fn what_a_draining_replica_still_carries_is_load_of_the_pool() {
    for (name, metric, target, loads, draining, expect) in [
        ("the pool does not go on down", "requests_running", 4_000, [2.0, 2.0, 2.0], vec![2.0, 2.0], 3),
        ("nothing left in them", "requests_running", 4_000, [2.0, 2.0, 2.0], vec![0.0, 0.0], 2),
        ("a burst takes them back", "requests_running", 4_000, [4.0, 4.0, 4.0], vec![4.0, 4.0], 5),
        ("inside the dead band of those that stay", "requests_running", 4_000, [3.5, 3.5, 3.5], vec![1.0, 1.0], 3),
        ("an average, down", "kv_cache_utilization", 800, [0.4, 0.4, 0.4], vec![0.4, 0.4], 3),
        ("an average, up", "kv_cache_utilization", 800, [0.8, 0.8, 0.8], vec![0.8, 0.8], 5),
    ] {
        let states = [ReplicaState::Draining, ReplicaState::Failed];
        for (state, expect) in states.into_iter().zip([expect, expect.min(3)]) {
            let mut rule = HpaRule { metrics: vec![signal_metric(metric, target)], ..HpaRule::default() };
            rule.controller.downscale_stabilization = Duration::ZERO;
            let all: Vec<(ReplicaState, f64)> = loads
                .iter()
                .map(|load| (ReplicaState::Ready, *load))
                .chain(draining.iter().map(|load| (state, *load)))
                .collect();
            let replicas = all.iter().enumerate().map(|(at, (state, load))| replica(at, *state, Live, *load)).collect();
            let mut seen = observed(replicas, GatewayObservation::Absent);
            let pool_seen = seen.pools.get_mut(&pool()).expect("a pool");
            pool_seen.spec_replicas = 3;
            let values: Vec<_> = all.iter().enumerate().map(|(at, (_, load))| (at, *load, Live)).collect();
            pool_seen.metrics = vec![per_replica(&values)];
            let decided = lawful(&policy_of(rule, 1, 10), &seen);
            // what is being ended holds a count, and does not raise it
            assert_eq!(decided.desired, expect, "{name}, {state:?}: {:#?}", decided.steps);
        }
    }
}

#[test]
fn shares_are_added_up_before_they_are_rounded() {
    let rule = HpaRule { metrics: vec![signal_metric("requests_running", 4_000)], ..HpaRule::default() };
    let share = 4.0 / 6.0;
    let values: Vec<_> = (0..6).map(|at| (at, share, Live)).collect();
    let mut seen =
        observed((0..6).map(|at| replica(at, ReplicaState::Ready, Live, share)).collect(), GatewayObservation::Absent);
    seen.pools.get_mut(&pool()).expect("a pool").metrics = vec![per_replica(&values)];
    let mut policy = policy_of(rule, 1, 10);
    let crate::Rule::Hpa(rule) = &mut policy.pools.get_mut(&pool()).expect("a pool").rule;
    rule.controller.downscale_stabilization = Duration::ZERO;
    assert_eq!(lawful(&policy, &seen).desired, 1);
}

fn evidence() -> impl Strategy<Value = Option<Evidence>> {
    prop_oneof![4 => Just(Some(Live)), 1 => Just(Some(Stale)), 1 => Just(Some(Missing)), 1 => Just(None)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Laws L1 to L3 where values are brought from outside and engines speak or not.
    #[test]
    fn laws_hold_for_values_from_outside(
        seeds in prop::collection::vec((0_u8..6, evidence(), evidence(), 0.0_f64..200.0, prop::option::of(0_i64..200)), 0..12),
        outside in (0.0_f64..60.0, evidence()),
        min in 0_u32..2,
        gateway in prop_oneof![Just(GatewayObservation::Absent), Just(GatewayObservation::Missing)],
    ) {
        let state = |kind: u8| match kind {
            0 => ReplicaState::Draining,
            1 => ReplicaState::Starting,
            2 => ReplicaState::Failed,
            _ => ReplicaState::Ready,
        };
        let replicas: Vec<_> = seeds.iter().enumerate().map(|(at, (kind, engine, _, load, idle))| {
            let mut replica = replica(at, state(*kind), engine.unwrap_or(Missing), (load / 20.0).floor());
            replica.idle_since = idle.filter(|_| *load < 20.0).map(|seconds| super::build::at(-seconds));
            if *kind == 5 {
                replica.since = super::build::at(-i64::try_from(PERIOD.as_secs()).expect("small"));
            }
            replica
        }).collect();
        let values: Vec<_> = seeds.iter().enumerate()
            .filter_map(|(at, (_, _, value, load, _))| value.map(|evidence| (at, *load, evidence)))
            .collect();
        let serving = seeds.iter().filter(|seed| !matches!(state(seed.0), ReplicaState::Draining | ReplicaState::Failed));
        let serving = u32::try_from(serving.count()).expect("small");
        let mut seen = observed(replicas, gateway);
        let mut policy = cpu();
        let pool_policy = policy.pools.get_mut(&pool()).expect("a pool");
        pool_policy.min_replicas = min;
        let crate::Rule::Hpa(rule) = &mut pool_policy.rule;
        let crate::Rule::Hpa(other) = &external().pools[&pool()].rule.clone();
        rule.metrics.extend(other.metrics.clone());
        let pool_seen = seen.pools.get_mut(&pool()).expect("a pool");
        pool_seen.spec_replicas = serving;
        let answer = outside.1.map_or(MetricAnswer::Failed { error: "503".to_owned() }, |e| total(outside.0, e));
        pool_seen.metrics = vec![per_replica(&values), answer];
        let before = Memory { pools: std::collections::BTreeMap::from([(pool(), crate::PoolMemory {
            hpa: crate::hpa::HpaMemory { recommendations: Some(Vec::new()), ..Default::default() },
            ..Default::default()
        })]) };
        let (decision, after) = decide(&policy, &seen, before.clone());
        let made = Made { policy: &policy, seen: &seen, before: &before, decision: &decision, after: &after };
        prop_assert_eq!(check_all(made), vec![], "{:#?}", decision);
    }
}
