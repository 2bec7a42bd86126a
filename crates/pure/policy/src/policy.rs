//! What an autoscaler is asked to do.

use crate::hpa::HpaRule;
use loadline_base::PoolId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Whether the evidence rules of DESIGN section 4 apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// They do.
    #[default]
    On,
    /// They do not: a user's own HPA keeps the peer's exact semantics.
    Off,
}

/// When a pool without work goes to zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idle {
    /// For how long idleness must be proven.
    #[serde(with = "loadline_base::duration::text")]
    pub after: Duration,
}

/// What a pool shall have while its metrics say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fallback {
    /// The least count meanwhile; it never lowers the count there is.
    pub replicas: u32,
    /// For how long no metric must have answered.
    #[serde(with = "loadline_base::duration::text")]
    pub after: Duration,
}

/// How the replica count of a pool is computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "kebab-case")]
pub enum Rule {
    /// `autoscaling/v2`.
    Hpa(HpaRule),
}

/// The policy of one pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolPolicy {
    /// The least count; 0 needs `idle` with the gate on.
    pub min_replicas: u32,
    /// The greatest count, at least 1 and at least `min_replicas`.
    pub max_replicas: u32,
    /// How the count is computed.
    pub rule: Rule,
    /// With the gate on and `min_replicas` 0: when to go to zero. Without it the pool stays at 1 or more once woken.
    #[serde(default)]
    pub idle: Option<Idle>,
    /// With the gate on: what to have while no metric answers.
    #[serde(default)]
    pub fallback: Option<Fallback>,
    /// GPUs that one replica takes from the budget over all models.
    #[serde(default)]
    pub gpus_per_replica: u32,
    /// How often the pool's sources speak; ages of signals are counted in it.
    #[serde(with = "loadline_base::duration::text", default = "default_period")]
    pub scrape_period: Duration,
}

/// The scrape period where a policy names none.
pub const DEFAULT_SCRAPE_PERIOD: Duration = Duration::from_secs(5);

const fn default_period() -> Duration {
    DEFAULT_SCRAPE_PERIOD
}

/// The policy of one autoscaler.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Policy {
    /// One entry per pool.
    pub pools: BTreeMap<PoolId, PoolPolicy>,
    /// Whether the evidence rules apply.
    #[serde(default)]
    pub gate: Gate,
}
