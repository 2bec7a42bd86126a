//! Waking, draining, explaining, and what is remembered between decisions.

use super::build::{
    at, decide_pool, demand_policy, gateway, observed, only, per_replica, policy_of, pool, replica, signal_metric,
};
use crate::Evidence::{Live, Missing};
use crate::hpa::{Behavior, ConditionKind, HpaRule, PolicyKind, Reason, ScalingPolicy};
use crate::step::Step;
use crate::{Action, Alarm, GatewayObservation, Memory, ReplicaState, Rule, decide};
use loadline_base::ReplicaId;

#[test]
fn demand_at_zero_starts_at_least_one_at_once() {
    let mut policy = demand_policy();
    let slow = ScalingPolicy { kind: PolicyKind::Percent, value: 100, period_seconds: 60 };
    let Rule::Hpa(rule) = &mut policy.pools.get_mut(&pool()).expect("pool").rule;
    let mut behavior = Behavior::api_default();
    behavior.scale_up.policies = vec![slow];
    behavior.scale_up.stabilization_window_seconds = Some(300);
    rule.behavior = Some(behavior);
    for (held, expect) in [(0, 0), (1, 1), (4, 1), (9, 3), (400, 10)] {
        let decided = decide_pool(&policy, &observed(Vec::new(), gateway(held, 0)));
        assert_eq!(decided.desired, expect, "{held} held: {:#?}", decided.steps);
    }
    let peak = GatewayObservation::Live { held: 0, in_flight: 0, peak: 1, idle_since: None, at: at(0) };
    assert_eq!(decide_pool(&policy, &observed(Vec::new(), peak)).desired, 1, "a burst between two decisions counts");
}

#[test]
fn a_metric_of_replicas_does_not_keep_a_pool_at_zero() {
    let mut policy = demand_policy();
    let Rule::Hpa(rule) = &mut policy.pools.get_mut(&pool()).expect("pool").rule;
    rule.metrics = vec![signal_metric("kv_cache_utilization", 800)];
    assert_eq!(decide_pool(&policy, &observed(Vec::new(), gateway(3, 0))).desired, 1);
    // at rest at zero, or while the first replica starts, there is nothing to complain about
    let starting = vec![replica(0, ReplicaState::Starting, Missing, 0.0)];
    for (seen, expect) in [(observed(Vec::new(), gateway(0, 0)), 0), (observed(starting, gateway(3, 0)), 1)] {
        let mut memory = Memory::default();
        for second in [0, 20] {
            let mut later = seen.clone();
            later.now = at(second);
            if let GatewayObservation::Live { at: time, .. } = &mut later.pools.get_mut(&pool()).expect("pool").gateway
            {
                *time = at(second);
            }
            let (decision, next) = decide(&policy, &later, memory);
            memory = next;
            let decided = only(decision);
            assert_eq!((decided.desired, decided.alarms), (expect, vec![]), "{second} s");
        }
    }
}

#[test]
fn starting_replicas_count_toward_capacity() {
    let mut replicas = vec![replica(0, ReplicaState::Ready, Live, 4.0)];
    replicas.extend((1..3).map(|index| replica(index, ReplicaState::Starting, Missing, 0.0)));
    let decided = decide_pool(&demand_policy(), &observed(replicas, gateway(8, 4)));
    assert_eq!((decided.desired, decided.actions.len()), (3, 0), "{:#?}", decided.steps);
}

#[test]
fn ratios_are_averaged_over_ready_replicas() {
    let rule = HpaRule { metrics: vec![signal_metric("kv_cache_utilization", 500)], ..HpaRule::default() };
    let policy = policy_of(rule, 1, 10);
    for (values, second, expect) in [
        (vec![(0, 0.9, Live), (1, 0.9, Live)], Live, 4),
        (vec![(0, 0.52, Live), (1, 0.52, Live)], Live, 2),
        // silent altogether: no spare capacity in it
        (vec![(0, 0.9, Live), (1, 0.0, Missing)], Missing, 3),
        // it speaks and only lacks this value: nothing is known that would ask for a third
        (vec![(0, 0.9, Live), (1, 0.0, Missing)], Live, 2),
        (vec![(0, 1.2, Live), (1, 0.0, Missing)], Live, 3),
        (vec![(0, 0.52, Live)], Live, 2),
        (vec![(0, 0.1, Live)], Live, 2),
    ] {
        let engines = [Live, second];
        let replicas = engines.iter().enumerate();
        let mut seen =
            observed(replicas.map(|(i, &e)| replica(i, ReplicaState::Ready, e, 1.0)).collect(), gateway(0, 2));
        seen.pools.get_mut(&pool()).expect("pool").metrics = vec![per_replica(&values)];
        let decided = decide_pool(&policy, &seen);
        assert_eq!(decided.desired, expect, "{values:?}: {:#?}", decided.steps);
    }
}

#[test]
fn the_least_valuable_replicas_go_first() {
    let mut replicas: Vec<_> =
        [3.0, 0.0, 2.0].iter().enumerate().map(|(i, &load)| replica(i, ReplicaState::Ready, Live, load)).collect();
    replicas.push(replica(3, ReplicaState::Starting, Missing, 0.0));
    let decided = decide_pool(&demand_policy(), &observed(replicas, gateway(0, 5)));
    let gone: Vec<ReplicaId> = ["r3", "r1"].map(ReplicaId::from).to_vec();
    assert_eq!(
        decided.actions,
        vec![
            Action::Drain { pool: pool(), replica: gone[0].clone() },
            Action::Drain { pool: pool(), replica: gone[1].clone() },
            Action::SetReplicas { pool: pool(), from: 4, to: 2, remove_first: gone },
        ]
    );
}

#[test]
fn a_draining_replica_is_kept_when_it_is_needed_again() {
    let replicas = vec![replica(0, ReplicaState::Ready, Live, 4.0), replica(1, ReplicaState::Draining, Live, 1.0)];
    let decided = decide_pool(&demand_policy(), &observed(replicas, gateway(3, 5)));
    assert_eq!(decided.desired, 2);
    assert_eq!(decided.actions, vec![Action::Undrain { pool: pool(), replica: ReplicaId::from("r1") }]);
}

#[test]
fn a_change_says_what_one_more_or_less_would_have_meant() {
    let seen = observed(vec![replica(0, ReplicaState::Ready, Live, 4.0)], gateway(6, 4));
    let decided = decide_pool(&demand_policy(), &seen);
    let text = decided.steps.last().expect("a step").to_string();
    assert_eq!(
        text,
        "from 1 to 3 replicas, decided by requests_demand; it is then 3.33 per replica, 5 with one less, \
         2.5 with one more; the target is 4"
    );
    assert_eq!(
        decided.summary(),
        "1 -> 3: requests_demand is 10 per replica against a target of 4, which asks for 3 replicas"
    );
    let able = decided.conditions.get(ConditionKind::AbleToScale).expect("a condition");
    assert_eq!((able.status, able.reason), (true, Reason::SucceededRescale));
}

#[test]
fn a_change_enters_the_history_only_when_it_is_seen() {
    let mut policy = demand_policy();
    let Rule::Hpa(rule) = &mut policy.pools.get_mut(&pool()).expect("pool").rule;
    rule.behavior = Some(Behavior::api_default());
    let mut seen = observed(vec![replica(0, ReplicaState::Ready, Live, 4.0)], gateway(6, 4));
    let (_, refused) = decide(&policy, &seen, Memory::default());
    seen.now = at(1);
    let (_, still) = decide(&policy, &seen, refused.clone());
    assert!(still.pools[&pool()].hpa.up_events.is_empty(), "the count did not move, so nothing happened");
    let done = observed((0..3).map(|i| replica(i, ReplicaState::Ready, Live, 3.0)).collect(), gateway(0, 10));
    let (decision, moved) = decide(&policy, &done, refused.clone());
    assert_eq!(moved.pools[&pool()].hpa.up_events.iter().map(|event| event.change).collect::<Vec<_>>(), [2]);
    assert!(only(decision).alarms.is_empty());
    let other = observed((0..7).map(|i| replica(i, ReplicaState::Ready, Live, 3.0)).collect(), gateway(0, 20));
    let alarms = only(decide(&policy, &other, refused).0).alarms;
    assert_eq!(alarms, [Alarm::ForeignWrite { expected: 3, found: 7 }]);
}

#[test]
fn an_unobserved_pool_and_an_unknown_signal_change_nothing() {
    let policy = demand_policy();
    let mut nothing = observed(Vec::new(), gateway(0, 0));
    nothing.pools.clear();
    let decided = decide_pool(&policy, &nothing);
    assert_eq!((decided.from, decided.desired, decided.steps), (0, 0, vec![Step::PoolUnobserved]));
    let rule = HpaRule { metrics: vec![signal_metric("requests_dreamt", 1)], ..HpaRule::default() };
    let seen = observed((0..3).map(|i| replica(i, ReplicaState::Ready, Live, 1.0)).collect(), gateway(0, 3));
    let decided = decide_pool(&policy_of(rule, 1, 9), &seen);
    assert_eq!(decided.desired, 3);
    assert!(decided.summary().contains("there is no signal `requests_dreamt`"), "{}", decided.summary());
}

#[test]
fn a_replica_that_just_became_ready_is_capacity_before_its_first_scrape() {
    let mut fresh = replica(0, ReplicaState::Ready, Missing, 0.0);
    (fresh.running, fresh.waiting) = (None, None);
    let others = |index| replica(index, ReplicaState::Starting, Missing, 0.0);
    for (ready_for, expect) in [(0, 3), (10, 3), (11, 4)] {
        fresh.since = at(-ready_for);
        let seen = observed(vec![fresh.clone(), others(1), others(2)], gateway(9, 0));
        assert_eq!(decide_pool(&demand_policy(), &seen).desired, expect, "ready for {ready_for} s");
    }
}

#[test]
fn what_is_not_a_number_is_not_zero() {
    let rule = HpaRule { metrics: vec![signal_metric("kv_cache_utilization", 500)], ..HpaRule::default() };
    let policy = policy_of(rule, 1, 10);
    for value in [f64::NAN, f64::INFINITY] {
        let replicas = (0..3).map(|i| replica(i, ReplicaState::Ready, Live, value)).collect();
        let mut seen = observed(replicas, gateway(0, 1));
        let values: Vec<_> = (0..3).map(|index| (index, value, Live)).collect();
        seen.pools.get_mut(&pool()).expect("pool").metrics = vec![per_replica(&values)];
        assert_eq!(decide_pool(&policy, &seen).desired, 3, "{value}");
    }
}

#[test]
fn earlier_recommendations_do_not_start_a_replica_again_after_zero() {
    // with the default window of five minutes and an idle time of one
    let rule = HpaRule { metrics: vec![signal_metric("requests_demand", 4_000)], ..HpaRule::default() };
    let policy = policy_of(rule, 0, 10);
    let mut memory = Memory::default();
    let mut count = 1;
    for second in 0..400 {
        let replicas: Vec<_> = (0..count).map(|index| replica(index, ReplicaState::Ready, Live, 0.0)).collect();
        let mut seen = observed(replicas, GatewayObservation::Absent);
        seen.now = at(second);
        let pool_seen = seen.pools.get_mut(&pool()).expect("pool");
        for replica in &mut pool_seen.replicas {
            for signal in [&mut replica.running, &mut replica.waiting].into_iter().flatten() {
                signal.at = at(second);
            }
        }
        pool_seen.gateway =
            GatewayObservation::Live { held: 0, in_flight: 0, peak: 0, idle_since: Some(at(0)), at: at(second) };
        let signal = crate::Signal { value: 0.0, at: at(second), evidence: Live };
        pool_seen.metrics = vec![crate::MetricAnswer::Total { signal, source: loadline_base::Labels::new() }];
        let (decision, next) = decide(&policy, &seen, memory);
        memory = next;
        let decided = only(decision);
        assert_eq!(decided.desired, u32::from(second < 60), "{second} s: {:#?}", decided.steps);
        count = usize::try_from(decided.desired).expect("small");
    }
}
