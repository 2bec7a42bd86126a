//! What was seen: the whole input of a decision apart from policy and memory.

use loadline_base::{Labels, PoolId, ReplicaId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How much a value can be trusted (DESIGN section 4). Age limits are counted in scrape periods of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// Seen within 2 periods.
    Live,
    /// Seen within 10 periods.
    Stale,
    /// A source is configured and silent for longer, or never spoke.
    Missing,
    /// No source is configured.
    Absent,
}

impl Evidence {
    /// Classifies a value last seen at `at` by a source that speaks every `period`.
    #[must_use]
    pub fn of_age(now: Timestamp, at: Timestamp, period: std::time::Duration) -> Self {
        let age = now.since(at);
        if age <= period.saturating_mul(2) {
            Self::Live
        } else if age <= period.saturating_mul(10) {
            Self::Stale
        } else {
            Self::Missing
        }
    }
}

/// One value with its time and evidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// Finite.
    pub value: f64,
    /// When it was measured.
    pub at: Timestamp,
    /// How much it can be trusted now.
    pub evidence: Evidence,
}

/// Everything seen at one moment. Nothing is fetched later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The moment of the decision.
    pub now: Timestamp,
    /// One entry per pool of the policy.
    pub pools: BTreeMap<PoolId, PoolObservation>,
}

/// What was seen of one pool.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolObservation {
    /// The replica count the scale target was last told to have (`spec.replicas`).
    pub spec_replicas: u32,
    /// The replica count the scale target says exists (`status.replicas`).
    pub status_replicas: u32,
    /// Every known replica, in id order.
    pub replicas: Vec<ReplicaObservation>,
    /// One answer per metric of the policy, in the policy's order.
    pub metrics: Vec<MetricAnswer>,
    /// What the gateways say.
    pub gateway: GatewayObservation,
    /// Pods and answers of the metrics APIs; only where the target is a Kubernetes workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hpa: Option<crate::hpa::HpaObservation>,
}

/// The life stage of one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaState {
    /// Created, not yet able to serve.
    Starting,
    /// Serving.
    Ready,
    /// Finishing what it has; takes nothing new.
    Draining,
    /// Ended or broken; counts as no capacity.
    Failed,
}

/// What was seen of one replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaObservation {
    /// Its name.
    pub id: ReplicaId,
    /// Its life stage.
    pub state: ReplicaState,
    /// When it entered that stage.
    pub since: Timestamp,
    /// When it was created.
    pub created_at: Timestamp,
    /// Whether its process or pod is known to exist from the supervisor itself, not from a scrape.
    pub known: bool,
    /// Requests in the running batch, as its engine reports; `None` where nothing is configured or was ever read.
    pub running: Option<Signal>,
    /// Requests waiting in its engine; `None` where nothing is configured or was ever read.
    pub waiting: Option<Signal>,
    /// Since when its engine has reported nothing running and nothing waiting without interruption.
    pub idle_since: Option<Timestamp>,
}

/// What all gateways in front of a pool say together.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum GatewayObservation {
    /// No gateway is configured for this pool.
    #[default]
    Absent,
    /// One is configured and at least one instance has been silent for longer than 10 periods, or never spoke.
    Missing,
    /// Every instance speaks.
    Live {
        /// Requests held: begun to be read and not yet given to a replica.
        held: u32,
        /// Requests given to replicas and not yet finished.
        in_flight: u32,
        /// The largest `held + in_flight` since the previous decision: bursts shorter than a period show here.
        peak: u32,
        /// Since when arrivals, in-flight and held have all been zero at every gateway, if they are now.
        idle_since: Option<Timestamp>,
        /// When the oldest contributing report was made.
        at: Timestamp,
    },
}

/// One value of a per-replica metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaValue {
    /// Which replica.
    pub replica: ReplicaId,
    /// The value and its evidence.
    pub signal: Signal,
}

/// The answer to one metric of a policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum MetricAnswer {
    /// Values per replica; replicas without a value are missing, not zero.
    PerReplica {
        /// In replica order.
        values: Vec<ReplicaValue>,
    },
    /// One total for the pool.
    Total {
        /// The value and its evidence.
        signal: Signal,
        /// Where it came from, for explanations.
        #[serde(default)]
        source: Labels,
    },
    /// The source is configured and gave an error or nothing.
    Failed {
        /// What went wrong, and where.
        error: String,
    },
}
