//! The explanation of a decision: typed steps, one clear sentence each.

use crate::evidence::{EngineEvidence, GatewayEvidence};
use crate::hpa::{MetricSource, MetricSpec, Proposal, Reason, Shown};
use loadline_base::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which end of the allowed range was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// `minReplicas`.
    Min,
    /// `maxReplicas`.
    Max,
}

/// What proved that a pool is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdleProof {
    /// Every gateway.
    Gateways,
    /// Every replica, where no gateway is configured.
    Replicas,
}

/// Why idleness does not lead to zero yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotIdle {
    /// A gateway is silent.
    GatewaySilent,
    /// A replica's engine is silent.
    EngineSilent,
    /// A replica is not known to its supervisor.
    ReplicaUnknown,
    /// An engine reports work that no gateway knows of.
    EngineBusy,
    /// A metric of something outside the pool still asks for replicas, or fails.
    OutsideWork,
}

/// What binds a change, for comparison with one replica less or more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Margin {
    /// The metric.
    pub metric: String,
    /// Its target per replica.
    pub target: f64,
    /// What each replica would carry at the count chosen.
    pub chosen: f64,
    /// The same with one replica less; `None` where none would be left.
    pub one_less: Option<f64>,
    /// The same with one replica more.
    pub one_more: f64,
}

/// One step of a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the sentence of each variant in `Display` is its documentation")]
pub enum Step {
    Proposal { metric: String, shown: Shown, target: Option<i64>, replicas: i32, lost: i32 },
    MetricFailed { metric: String, error: String },
    AllMetricsFailed { failed: usize, of: usize, first: String },
    ScaleUnreadable { error: String },
    Disabled,
    OutOfRange { current: i32, min: i32, max: i32 },
    Stabilized { wanted: i32, kept: i32, window_seconds: u64 },
    Limited { current: i32, wanted: i32, allowed: i32, reason: Reason },
    Bounded { wanted: i32, bound: i32, at: Bound },
    FromZero { held: u32, in_flight: u32, peak: u32, wanted: u32 },
    IdleProven { proof: IdleProof, since: Timestamp, for_seconds: u64, needed_seconds: u64 },
    IdleWithheld { why: NotIdle },
    HeldByEvidence { engine: EngineEvidence, gateway: GatewayEvidence, wanted: u32, kept: u32 },
    HeldForLost { lost: u32, need: u32, wanted: u32, kept: u32 },
    Budget { wanted: u32, granted: u32, gpus_per_replica: u32, budget: u32, demanded: u64 },
    ForeignWrite { expected: u32, found: u32 },
    PoolUnobserved,
    Changed { from: u32, to: u32, binding: String, margin: Option<Margin> },
    Unchanged { replicas: u32 },
}

impl Step {
    pub(crate) fn proposal(metric: &MetricSpec, proposal: &Proposal) -> Self {
        let target = metric.target;
        Self::Proposal {
            metric: match &metric.source {
                MetricSource::Signal { name } => name.clone(),
                _ => metric.to_string(),
            },
            shown: proposal.shown,
            target: target.average_value_milli.or(target.average_utilization.map(i64::from)).or(target.value_milli),
            replicas: proposal.replicas,
            lost: proposal.lost,
        }
    }

    /// Whether this step alone can explain why a count changed or was kept against what was computed.
    #[must_use]
    pub const fn binds(&self) -> bool {
        !matches!(
            self,
            Self::MetricFailed { .. } | Self::IdleWithheld { .. } | Self::Unchanged { .. } | Self::ForeignWrite { .. }
        )
    }

    /// What holds the result of this step in place, in a few words; the binding constraint of [`Step::Changed`].
    #[must_use]
    pub fn constraint(&self) -> String {
        match self {
            Self::Proposal { metric, .. } => metric.clone(),
            Self::OutOfRange { .. } | Self::Bounded { .. } => "`minReplicas` and `maxReplicas`".to_owned(),
            Self::Stabilized { .. } => "the stabilization window".to_owned(),
            Self::Limited { reason, .. } => reason.to_string(),
            Self::FromZero { .. } => "demand at zero replicas".to_owned(),
            Self::IdleProven { .. } => "proven idleness".to_owned(),
            Self::HeldByEvidence { .. } => "missing evidence".to_owned(),
            Self::HeldForLost { .. } => "replicas whose load is unknown".to_owned(),
            Self::Budget { .. } => "the GPU budget".to_owned(),
            Self::AllMetricsFailed { .. } => "failed metrics".to_owned(),
            other => other.to_string(),
        }
    }
}

/// Milli-units as a decimal number.
struct Milli(i64);

impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 1000, (self.0 % 1000).unsigned_abs());
        if part == 0 {
            return write!(f, "{whole}");
        }
        let sign = if self.0 < 0 && whole == 0 { "-" } else { "" };
        let digits = format!("{part:03}");
        write!(f, "{sign}{whole}.{}", digits.trim_end_matches('0'))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proposal { metric, shown, target, replicas, lost } => {
                proposal_sentence(f, metric, *shown, *target)?;
                write!(f, ", which asks for {replicas}")?;
                if *lost > 0 { write!(f, ", {lost} of them for replicas whose load is unknown") } else { Ok(()) }
            }
            Self::MetricFailed { metric, error } => write!(f, "{metric} gave no value: {error}"),
            Self::AllMetricsFailed { of: 0, first, .. } => write!(f, "no count was computed: {first}"),
            Self::AllMetricsFailed { failed, of, first } => {
                write!(
                    f,
                    "{failed} of {of} metrics failed and the rest ask for no more, so nothing is lowered; the first error: {first}"
                )
            }
            Self::ScaleUnreadable { error } => write!(f, "the scale of the target could not be read: {error}"),
            Self::Disabled => {
                write!(f, "the target has zero replicas that this autoscaler did not make, so it is left alone")
            }
            Self::OutOfRange { current, min, max } => {
                write!(f, "{current} replicas are outside {min}..{max}, which is corrected at once")
            }
            Self::Stabilized { wanted, kept, window_seconds } => {
                write!(f, "{wanted} became {kept}, a recommendation of the last {window_seconds} s")
            }
            Self::Limited { current, wanted, allowed, reason } => {
                write!(f, "from {current}, {wanted} became {allowed} ({reason})")
            }
            Self::Bounded { wanted, bound, at: Bound::Min } => write!(f, "{wanted} became the minimum {bound}"),
            Self::Bounded { wanted, bound, at: Bound::Max } => write!(f, "{wanted} became the maximum {bound}"),
            Self::FromZero { held, in_flight, peak, wanted } => write!(
                f,
                "there are no replicas and {held} requests are held, {in_flight} in flight, {peak} at the peak, so {wanted} start at once"
            ),
            Self::IdleProven { proof, for_seconds, needed_seconds, .. } => {
                let who = match proof {
                    IdleProof::Gateways => "every gateway",
                    IdleProof::Replicas => "every replica",
                };
                write!(
                    f,
                    "{who} has reported no work for {for_seconds} s, longer than the {needed_seconds} s asked for"
                )
            }
            Self::IdleWithheld { why } => {
                let why = match why {
                    NotIdle::GatewaySilent => "a gateway is silent",
                    NotIdle::EngineSilent => "the engine of a replica is silent",
                    NotIdle::ReplicaUnknown => "a replica is not known to its supervisor",
                    NotIdle::EngineBusy => "an engine reports work that no gateway knows of",
                    NotIdle::OutsideWork => "a metric from outside the pool asks for replicas or fails",
                };
                write!(f, "zero is not allowed: {why}")
            }
            Self::HeldByEvidence { engine, gateway, wanted, kept } => {
                write!(f, "{wanted} became {kept}: engine signals are {engine} and the gateway is {gateway}")
            }
            Self::HeldForLost { lost, need, wanted, kept } => write!(
                f,
                "{wanted} became {kept}: known load needs {need} and {lost} replicas of unknown load count as full"
            ),
            Self::Budget { wanted, granted, gpus_per_replica, budget, demanded } => write!(
                f,
                "{wanted} became {granted}: all models together ask for {demanded} GPUs of {budget} ({gpus_per_replica} per replica here)"
            ),
            Self::ForeignWrite { expected, found } => {
                write!(f, "the replica count was {expected} and someone else made it {found}")
            }
            Self::PoolUnobserved => write!(f, "nothing was observed of this pool, so nothing changes"),
            Self::Changed { from, to, binding, margin } => changed_sentence(f, (*from, *to), binding, margin.as_ref()),
            Self::Unchanged { replicas } => write!(f, "{replicas} stays"),
        }
    }
}

fn proposal_sentence(f: &mut fmt::Formatter<'_>, metric: &str, shown: Shown, target: Option<i64>) -> fmt::Result {
    match shown {
        Shown::Utilization { percent, .. } => {
            write!(f, "{metric} is {percent} % against a target of {} %", target.unwrap_or(0))
        }
        Shown::Average { milli } => {
            write!(f, "{metric} is {} per replica against a target of {}", Milli(milli), Milli(target.unwrap_or(0)))
        }
        Shown::Value { milli } => {
            write!(f, "{metric} is {} in all against a target of {}", Milli(milli), Milli(target.unwrap_or(0)))
        }
    }
}

fn changed_sentence(
    f: &mut fmt::Formatter<'_>,
    (from, to): (u32, u32),
    binding: &str,
    margin: Option<&Margin>,
) -> fmt::Result {
    write!(f, "{from} becomes {to}, decided by {binding}")?;
    let Some(margin) = margin else { return Ok(()) };
    write!(f, ": {:.3} of {} per replica for a target of {:.3}", margin.chosen, margin.metric, margin.target)?;
    if let Some(less) = margin.one_less {
        write!(f, "; one less would carry {less:.3}")?;
    }
    write!(f, ", one more {:.3}", margin.one_more)
}
