//! Builders of policies and observations.

use crate::hpa::{HpaMemory, HpaRule, MetricSource, MetricSpec, MetricTarget};
use crate::{
    Decision, Evidence, GatewayObservation, Idle, Memory, MetricAnswer, Observation, Policy, PoolDecision, PoolMemory,
    PoolObservation, PoolPolicy, ReplicaObservation, ReplicaState, ReplicaValue, Rule, Signal, decide,
};
use loadline_base::{PoolId, ReplicaId, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) const PERIOD: Duration = Duration::from_secs(5);
pub(super) const IDLE_AFTER: Duration = Duration::from_secs(60);

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_secs(1_700_000_000 + seconds)
}

pub(super) fn pool() -> PoolId {
    PoolId::new("p")
}

pub(super) fn signal_metric(name: &str, target_milli: i64) -> MetricSpec {
    MetricSpec {
        source: MetricSource::Signal { name: name.to_owned() },
        target: MetricTarget::average_value(target_milli),
    }
}

/// Demand at 4 requests per replica, no stabilization, 0..10, idle after [`IDLE_AFTER`].
pub(super) fn demand_policy() -> Policy {
    let mut rule = HpaRule { metrics: vec![signal_metric("requests_demand", 4_000)], ..HpaRule::default() };
    rule.controller.downscale_stabilization = Duration::ZERO;
    policy_of(rule, 0, 10)
}

pub(super) fn policy_of(rule: HpaRule, min: u32, max: u32) -> Policy {
    let pool_policy = PoolPolicy {
        min_replicas: min,
        max_replicas: max,
        rule: Rule::Hpa(rule),
        idle: Some(Idle { after: IDLE_AFTER }),
        fallback: None,
        gpus_per_replica: 1,
        scrape_period: PERIOD,
    };
    Policy { pools: BTreeMap::from([(pool(), pool_policy)]), ..Policy::default() }
}

pub(super) fn signal(value: f64, evidence: Evidence, now: Timestamp) -> Signal {
    let age = match evidence {
        Evidence::Live => 0,
        Evidence::Stale => 30,
        Evidence::Missing | Evidence::Absent => 300,
    };
    Signal { value, at: now.minus(Duration::from_secs(age)), evidence }
}

pub(super) fn replica(index: usize, state: ReplicaState, evidence: Evidence, running: f64) -> ReplicaObservation {
    let now = at(0);
    ReplicaObservation {
        id: ReplicaId::new(format!("r{index}")),
        state,
        since: at(-600),
        created_at: at(-700 + i64::try_from(index).unwrap_or(0)),
        known: true,
        running: Some(signal(running, evidence, now)),
        waiting: Some(signal(0.0, evidence, now)),
        idle_since: None,
    }
}

pub(super) fn gateway(held: u32, in_flight: u32) -> GatewayObservation {
    GatewayObservation::Live { held, in_flight, peak: 0, idle_since: None, at: at(0) }
}

pub(super) fn idle_gateway(for_seconds: i64) -> GatewayObservation {
    GatewayObservation::Live { held: 0, in_flight: 0, peak: 0, idle_since: Some(at(-for_seconds)), at: at(0) }
}

pub(super) fn observed(replicas: Vec<ReplicaObservation>, gateway: GatewayObservation) -> Observation {
    let count = u32::try_from(replicas.len()).unwrap_or(0);
    let seen = PoolObservation {
        spec_replicas: count,
        status_replicas: count,
        replicas,
        gateway,
        ..PoolObservation::default()
    };
    Observation { now: at(0), pools: BTreeMap::from([(pool(), seen)]) }
}

/// An answer with one value per replica that has one.
pub(super) fn per_replica(values: &[(usize, f64, Evidence)]) -> MetricAnswer {
    MetricAnswer::PerReplica {
        values: values
            .iter()
            .map(|&(index, value, evidence)| ReplicaValue {
                replica: ReplicaId::new(format!("r{index}")),
                signal: signal(value, evidence, at(0)),
            })
            .collect(),
    }
}

/// Decides with an empty history: not as after a start, where the seeded count holds a scale-down for a window.
pub(super) fn decide_pool(policy: &Policy, seen: &Observation) -> PoolDecision {
    let hpa = HpaMemory { recommendations: Some(Vec::new()), ..HpaMemory::default() };
    let remembered = PoolMemory { hpa, ..PoolMemory::default() };
    only(decide(policy, seen, Memory { pools: BTreeMap::from([(pool(), remembered)]) }).0)
}

pub(super) fn only(decision: Decision) -> PoolDecision {
    decision.pools.into_values().next().expect("one pool")
}
