//! A scale target that does what it is told, seen and decided once a period.

use super::build::{PERIOD, at, policy_of, pool, signal_metric};
use crate::hpa::HpaRule;
use crate::laws::{Made, check_all};
use crate::{
    Evidence, GatewayObservation, Memory, MetricAnswer, Observation, Policy, PoolDecision, PoolObservation, PoolPolicy,
    ReplicaObservation, ReplicaState, ReplicaValue, Rule, Signal, decide,
};
use loadline_base::{ReplicaId, Timestamp};
use std::time::Duration;

/// One autoscaler without gateway and its target, whose replicas are ready at once and share the load.
pub(super) struct Target {
    pub(super) policy: Policy,
    pub(super) memory: Memory,
    /// Periods since the beginning.
    pub(super) period: i64,
    pub(super) count: u32,
    /// Requests in the system.
    pub(super) load: f64,
    /// Whether the pages can be read.
    pub(super) speaks: bool,
    /// Answers that replace the engines' own.
    pub(super) metrics: Option<Vec<MetricAnswer>>,
    pub(super) gateway: GatewayObservation,
}

impl Target {
    /// 4 running requests per replica, 1 to 10 replicas, a scale-down window of a minute.
    pub(super) fn new(count: u32, change: impl FnOnce(&mut PoolPolicy)) -> Self {
        let rule = HpaRule { metrics: vec![signal_metric("requests_running", 4_000)], ..HpaRule::default() };
        let mut policy = policy_of(rule, 1, 10);
        let pool_policy = policy.pools.get_mut(&pool()).expect("a pool");
        let Rule::Hpa(rule) = &mut pool_policy.rule;
        rule.controller.downscale_stabilization = Duration::from_secs(60);
        change(pool_policy);
        Self {
            policy,
            memory: Memory::default(),
            period: 0,
            count,
            load: f64::from(count) * 4.0,
            speaks: true,
            metrics: None,
            gateway: GatewayObservation::Absent,
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        at(self.period * i64::try_from(PERIOD.as_secs()).expect("small"))
    }

    /// What a decision would see now.
    pub(super) fn observation(&self) -> Observation {
        let now = self.now();
        let heard = if self.speaks { now } else { at(-10_000) };
        let share = if self.count == 0 { 0.0 } else { self.load / f64::from(self.count) };
        let signal = |value| Signal { value, at: heard, evidence: Evidence::of_age(now, heard, PERIOD) };
        let replicas: Vec<ReplicaObservation> = (0..self.count)
            .map(|index| ReplicaObservation {
                id: ReplicaId::new(format!("r{index}")),
                state: ReplicaState::Ready,
                since: at(-20_000),
                created_at: at(-20_000),
                known: true,
                running: Some(signal(share)),
                waiting: Some(signal(0.0)),
                idle_since: None,
            })
            .collect();
        let values = replicas.iter().map(|replica| ReplicaValue { replica: replica.id.clone(), signal: signal(share) });
        let own = vec![MetricAnswer::PerReplica { values: values.collect() }];
        let seen = PoolObservation {
            spec_replicas: self.count,
            status_replicas: self.count,
            metrics: self.metrics.clone().unwrap_or(own),
            replicas,
            gateway: self.gateway,
            ..PoolObservation::default()
        };
        Observation { now, pools: std::collections::BTreeMap::from([(pool(), seen)]) }
    }

    /// One period passes, one decision is made and carried out. Every law is checked.
    pub(super) fn step(&mut self) -> PoolDecision {
        self.period += 1;
        let seen = self.observation();
        let before = self.memory.clone();
        let (decision, after) = decide(&self.policy, &seen, before.clone());
        let made = Made { policy: &self.policy, seen: &seen, before: &before, decision: &decision, after: &after };
        assert_eq!(check_all(made), vec![], "{decision:#?}");
        self.memory = after;
        let decided = super::build::only(decision);
        self.count = decided.desired;
        decided
    }

    /// Someone else writes the count, and whoever carries decisions out sees it.
    pub(super) fn write(&mut self, count: u32) {
        if count != self.count {
            self.memory.overwritten(&pool(), self.count);
            self.count = count;
        }
    }

    /// Several periods; the last decision.
    pub(super) fn run(&mut self, periods: u32) -> PoolDecision {
        let mut last = self.step();
        for _ in 1..periods {
            last = self.step();
        }
        last
    }
}
