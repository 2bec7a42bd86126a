//! The explanation of a decision: typed steps, one clear sentence each.

use crate::evidence::{EngineEvidence, GatewayEvidence};
use crate::hpa::{Assumed, MetricSource, MetricSpec, Proposal, Reason, Shown};
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
    Proposal {
        metric: String,
        shown: Shown,
        target: Option<i64>,
        replicas: i32,
        lost: i32,
        #[serde(default, skip_serializing_if = "Assumed::is_nothing")]
        assumed: Assumed,
    },
    MetricFailed {
        metric: String,
        error: String,
    },
    AllMetricsFailed {
        failed: usize,
        of: usize,
        first: String,
    },
    ScaleUnreadable {
        error: String,
    },
    Disabled,
    OutOfRange {
        current: i32,
        min: i32,
        max: i32,
    },
    Stabilized {
        wanted: i32,
        kept: i32,
        window_seconds: u64,
    },
    Limited {
        current: i32,
        wanted: i32,
        allowed: i32,
        reason: Reason,
    },
    LastKept,
    Bounded {
        wanted: i32,
        bound: i32,
        at: Bound,
    },
    FromZero {
        held: u32,
        in_flight: u32,
        peak: u32,
        wanted: u32,
    },
    IdleProven {
        proof: IdleProof,
        since: Timestamp,
        for_seconds: u64,
        needed_seconds: u64,
    },
    IdleWithheld {
        why: NotIdle,
    },
    HeldByEvidence {
        engine: EngineEvidence,
        gateway: GatewayEvidence,
        wanted: u32,
        kept: u32,
    },
    HeldForLost {
        lost: u32,
        need: u32,
        wanted: u32,
        kept: u32,
    },
    HeldForLate {
        metric: String,
        wanted: u32,
        kept: u32,
    },
    Budget {
        wanted: u32,
        granted: u32,
        gpus_per_replica: u32,
        budget: u32,
        demanded: u64,
    },
    ForeignWrite {
        expected: u32,
        found: u32,
    },
    HeldForForeign {
        expected: u32,
        found: u32,
        wanted: u32,
        kept: u32,
        for_seconds: u64,
        undone: u32,
    },
    Fallback {
        for_seconds: u64,
        replicas: u32,
        kept: u32,
    },
    Unplaced {
        started: u32,
        wanted: u32,
        unschedulable: u32,
        stuck: u32,
        why: String,
    },
    PoolUnobserved,
    Changed {
        from: u32,
        to: u32,
        binding: String,
        margin: Option<Margin>,
    },
    Unchanged {
        replicas: u32,
    },
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
            assumed: proposal.assumed,
        }
    }

    /// Whether this step alone can explain why a count changed or was kept against what was computed.
    #[must_use]
    pub const fn binds(&self) -> bool {
        !matches!(
            self,
            Self::MetricFailed { .. }
                | Self::IdleWithheld { .. }
                | Self::Unchanged { .. }
                | Self::ForeignWrite { .. }
                | Self::Unplaced { .. }
        )
    }

    /// Whether the floor of 1, which a rule has where only proven idleness leads to zero, kept the last replica.
    pub(crate) const fn keeps_one(&self) -> bool {
        matches!(self, Self::Limited { wanted: 0, allowed: 1, reason: Reason::TooFewReplicas, .. })
    }

    /// What holds the result of this step in place, in a few words; the binding constraint of [`Step::Changed`].
    #[must_use]
    pub fn constraint(&self) -> String {
        match self {
            Self::Proposal { metric, .. } => metric.clone(),
            Self::OutOfRange { .. } | Self::Bounded { .. } => "`minReplicas` and `maxReplicas`".to_owned(),
            Self::Stabilized { .. } => "the stabilization window".to_owned(),
            Self::Limited { reason, .. } => limit_name(*reason).to_owned(),
            Self::LastKept => "the last replica, which only proven idleness ends".to_owned(),
            Self::FromZero { .. } => "demand at zero replicas".to_owned(),
            Self::IdleProven { .. } => "proven idleness".to_owned(),
            Self::HeldByEvidence { .. } => "missing evidence".to_owned(),
            Self::HeldForLost { .. } => "replicas whose load is unknown".to_owned(),
            Self::HeldForLate { metric, .. } => format!("{metric}, which is late"),
            Self::Budget { .. } => "the GPU budget".to_owned(),
            Self::HeldForForeign { .. } => "someone else's write of the replica count".to_owned(),
            Self::Fallback { .. } => "`fallback`".to_owned(),
            Self::AllMetricsFailed { .. } => "failed metrics".to_owned(),
            other => other.to_string(),
        }
    }
}

impl Step {
    /// The sentences of what the peer's algorithm does not have: evidence, zero and budgets.
    fn own_sentence(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FromZero { held, in_flight, peak, wanted } => write!(
                f,
                "no replica exists and work has arrived ({held} held, {in_flight} in flight, {peak} at the peak), so {} at once",
                if *wanted == 1 { "1 starts".to_owned() } else { format!("{wanted} start") }
            ),
            Self::IdleProven { proof, for_seconds, needed_seconds, .. } => {
                let who = match proof {
                    IdleProof::Gateways => "every gateway",
                    IdleProof::Replicas => "every replica",
                };
                write!(
                    f,
                    "{who} has reported no work for {for_seconds} s and `idle.after` is {needed_seconds} s, so the pool goes to zero"
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
                write!(f, "the pool may not go to zero: {why}")
            }
            Self::HeldByEvidence { engine, gateway, wanted, kept } => {
                write!(
                    f,
                    "{kept} kept rather than {wanted}, too little is known: engine signals are {engine} and the gateway is {gateway}"
                )
            }
            Self::HeldForLost { lost, need, wanted, kept } => write!(
                f,
                "{kept} kept rather than {wanted}: the load that is known needs {need}, and {} of unknown load {} as full",
                counted(i32::try_from(*lost).unwrap_or(i32::MAX), "replica"),
                if *lost == 1 { "counts" } else { "count" }
            ),
            Self::HeldForLate { metric, wanted, kept } => {
                write!(f, "{kept} kept rather than {wanted}: the last value of {metric} is late, and may be higher now")
            }
            Self::Budget { wanted, granted, gpus_per_replica, budget, demanded } => write!(
                f,
                "{granted} rather than {wanted}: all models together ask for {demanded} GPUs and `gpuBudget` is {budget} (a replica here takes {gpus_per_replica})"
            ),
            Self::ForeignWrite { expected, found } => {
                write!(f, "the replica count was {expected} and someone else made it {found}")
            }
            Self::HeldForForeign { expected, found, wanted, kept, for_seconds, undone } => {
                write!(
                    f,
                    "{kept} kept rather than {wanted}: someone else made the replica count {found} instead of {expected}"
                )?;
                if *undone > 0 {
                    write!(f, ", the {undone}. time in a row that a change was undone")?;
                }
                write!(f, ", and it is not changed back for another {for_seconds} s")
            }
            Self::Fallback { for_seconds, replicas, kept } => write!(
                f,
                "no metric has answered for {for_seconds} s, so at least the {replicas} of `fallback` and never less than there are: {kept}"
            ),
            Self::Unplaced { started, wanted, unschedulable, stuck, why } => {
                write!(f, "{started} of {wanted} replicas have started")?;
                if *unschedulable > 0 {
                    write!(f, "; {unschedulable} cannot be scheduled: {why}")?;
                }
                if *stuck > 0 {
                    write!(
                        f,
                        "; {stuck} should have started long ago and {} not counted on",
                        if *stuck == 1 { "is" } else { "are" }
                    )?;
                }
                Ok(())
            }
            Self::PoolUnobserved => write!(f, "nothing was observed of this pool, so nothing changes"),
            peer => write!(f, "{peer:?}"),
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
            Self::Proposal { metric, shown, target, replicas, lost, assumed } => {
                proposal_sentence(f, metric, *shown, *target)?;
                assumed_sentence(f, *assumed)?;
                write!(f, ", which asks for {}", counted(*replicas, "replica"))?;
                if *lost > 0 {
                    write!(f, ", {lost} of them in place of replicas whose load is unknown")
                } else {
                    Ok(())
                }
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
                write!(
                    f,
                    "{} is outside `minReplicas` {min} to `maxReplicas` {max}, which is corrected at once",
                    counted(*current, "replica")
                )
            }
            Self::Stabilized { wanted, kept, window_seconds } => {
                let (direction, extreme) =
                    if kept > wanted { ("scale-down", "highest") } else { ("scale-up", "lowest") };
                write!(
                    f,
                    "{kept} rather than {wanted}, the {extreme} recommendation of the last {window_seconds} s ({direction} stabilization window)"
                )
            }
            Self::Limited { current, wanted, allowed, reason } => {
                write!(f, "{allowed} rather than {wanted}: {}", limit_name(*reason))?;
                match reason {
                    Reason::ScaleUpLimit | Reason::ScaleDownLimit => {
                        write!(f, " allows no more at once, starting from {current}")
                    }
                    _ => Ok(()),
                }
            }
            Self::LastKept => {
                write!(f, "1 rather than 0: metrics alone do not lead to zero, only proven idleness does")
            }
            Self::Bounded { wanted, bound, at: Bound::Min } => {
                write!(f, "{bound} rather than {wanted}: `minReplicas`")
            }
            Self::Bounded { wanted, bound, at: Bound::Max } => {
                write!(f, "{bound} rather than {wanted}: `maxReplicas`")
            }
            Self::Changed { from, to, binding, margin } => changed_sentence(f, (*from, *to), binding, margin.as_ref()),
            Self::Unchanged { replicas } => write!(f, "the count stays at {replicas}"),
            own => own.own_sentence(f),
        }
    }
}

/// A rate limit in the words of the manifest.
fn limit_name(reason: Reason) -> &'static str {
    match reason {
        Reason::ScaleUpLimit => "the rate limit of `behavior.scaleUp`",
        Reason::ScaleDownLimit => "the rate limit of `behavior.scaleDown`",
        Reason::TooFewReplicas => "`minReplicas`",
        Reason::TooManyReplicas => "`maxReplicas`",
        _ => "`behavior`",
    }
}

fn counted(count: i32, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

fn assumed_sentence(f: &mut fmt::Formatter<'_>, assumed: Assumed) -> fmt::Result {
    let Assumed { silent, silent_full, unready } = assumed;
    let (silent_pods, unready_pods) = (counted(silent, "silent pod"), counted(unready, "unready pod"));
    match (silent > 0, unready > 0) {
        (false, false) => Ok(()),
        (true, false) if silent_full => write!(f, ", with {silent_pods} counted as full"),
        (true, false) => write!(f, ", with {silent_pods} counted as 0"),
        (false, true) => write!(f, ", with {unready_pods} counted as 0"),
        (true, true) if silent_full => write!(f, ", with {silent_pods} counted as full and {unready_pods} as 0"),
        (true, true) => write!(f, ", with {silent_pods} and {unready_pods} counted as 0"),
    }
}

/// A number with at most two decimals, none where there is nothing behind the point.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.2}", self.0);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
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
    write!(f, "from {from} to {}, decided by {binding}", counted(i32::try_from(to).unwrap_or(i32::MAX), "replica"))?;
    let Some(margin) = margin else { return Ok(()) };
    let name = if margin.metric == binding { "it" } else { margin.metric.as_str() };
    write!(f, "; {name} is then {} per replica", Short(margin.chosen))?;
    if let Some(less) = margin.one_less {
        write!(f, ", {} with one less", Short(less))?;
    }
    write!(f, ", {} with one more; the target is {}", Short(margin.one_more), Short(margin.target))
}
