//! What an autoscaler's status says: conditions in the HPA's words, each signal with value, evidence and time, and the steps of the last
//! decision.

use loadline_base::{Quantity, Timestamp};
use loadline_cluster::status as words;
use loadline_manifest::autoscaler::{
    Condition, InferenceAutoscalerStatus, MAX_STEPS, MAX_TEXT, PoolStatus, SignalStatus,
};
use loadline_policy::hpa::{ConditionKind, MetricSource, MetricSpec};
use loadline_policy::{
    Evidence, MetricAnswer, Policy, PoolDecision, PoolObservation, ReplicaState, Rule, Signal, Step,
};
use std::collections::BTreeMap;

/// What is known of one pool.
#[derive(Debug, Clone)]
pub(crate) struct PoolReport {
    /// Its name; empty with the single `scaleTargetRef`.
    pub(crate) name: String,
    /// What its policy is.
    pub(crate) policy: Policy,
    /// Replicas that its target was told to have.
    pub(crate) replicas: Option<u32>,
    /// Replicas that serve.
    pub(crate) ready: u32,
    /// The selector of its pods.
    pub(crate) selector: Option<String>,
    /// What was seen last.
    pub(crate) seen: Option<PoolObservation>,
    /// The last decision.
    pub(crate) decision: Option<PoolDecision>,
    /// When it was made.
    pub(crate) decided_at: Option<Timestamp>,
    /// Why its target could not be read or written, as reason and sentence.
    pub(crate) failure: Option<(String, String)>,
}

/// What is known of one autoscaler.
#[derive(Debug, Clone, Default)]
pub(crate) struct AutoscalerReport {
    /// Its `metadata.generation`.
    pub(crate) generation: i64,
    /// Its pools.
    pub(crate) pools: Vec<PoolReport>,
    /// Why it cannot be carried out, as reason and sentence.
    pub(crate) refused: Option<(String, String)>,
    /// Others that scale the same target.
    pub(crate) conflicts: Vec<String>,
    /// What a person should know.
    pub(crate) alarms: Vec<String>,
    /// Decisions are made and not carried out.
    pub(crate) is_advisory: bool,
    /// When Loadline last changed a count.
    pub(crate) last_scale: Option<Timestamp>,
}

/// The status to write.
pub(crate) fn status(report: &AutoscalerReport) -> InferenceAutoscalerStatus {
    let several = report.pools.len() > 1;
    let sum = |count: fn(&PoolReport) -> Option<u32>| {
        report.pools.iter().try_fold(0_u32, |sum, pool| Some(sum.saturating_add(count(pool)?)))
    };
    let has_pools = !report.pools.is_empty();
    InferenceAutoscalerStatus {
        observed_generation: Some(report.generation),
        replicas: sum(|pool| pool.replicas).filter(|_| has_pools),
        desired_replicas: sum(|pool| pool.decision.as_ref().map(|decision| decision.desired)).filter(|_| has_pools),
        last_scale_time: report.last_scale.map(time_text),
        binding_signal: report.pools.iter().find_map(binding),
        selector: (!several).then(|| report.pools.first().and_then(|pool| pool.selector.clone())).flatten(),
        conditions: conditions(report),
        signals: report.pools.iter().flat_map(|pool| signals(pool, several)).collect(),
        steps: steps(&report.pools, several),
        last_decision_time: report.pools.iter().filter_map(|pool| pool.decided_at).max().map(time_text),
        pools: if several { report.pools.iter().map(pool_status).collect() } else { Vec::new() },
    }
}

fn pool_status(pool: &PoolReport) -> PoolStatus {
    PoolStatus {
        name: pool.name.clone(),
        replicas: pool.replicas,
        desired_replicas: pool.decision.as_ref().map(|decision| decision.desired),
        ready_replicas: Some(pool.ready),
        binding_signal: binding(pool),
        selector: pool.selector.clone(),
    }
}

/// The metric or limit that determines the count.
fn binding(pool: &PoolReport) -> Option<String> {
    let decision = pool.decision.as_ref()?;
    let changed = decision.steps.iter().rev().find_map(|step| match step {
        Step::Changed { binding, .. } => Some(binding.clone()),
        _ => None,
    });
    Some(cut(&changed.or_else(|| decision.binding().map(Step::constraint))?))
}

fn steps(pools: &[PoolReport], several: bool) -> Vec<String> {
    let mut out = Vec::new();
    for pool in pools {
        for step in pool.decision.iter().flat_map(|decision| &decision.steps) {
            out.push(cut(&if several { format!("{}: {step}", pool.name) } else { step.to_string() }));
        }
    }
    // the last steps say what came of it
    out.split_off(out.len().saturating_sub(MAX_STEPS))
}

/// Text within the bounds of the API.
fn cut(text: &str) -> String {
    if text.chars().count() <= MAX_TEXT {
        return text.to_owned();
    }
    text.chars().take(MAX_TEXT.saturating_sub(1)).chain(['\u{2026}']).collect()
}

/// RFC 3339 with whole seconds, as Kubernetes writes times.
pub(crate) fn time_text(at: Timestamp) -> String {
    jiff::Timestamp::from_second(at.as_nanos().div_euclid(1_000_000_000))
        .map_or_else(|_| String::new(), |at| at.to_string())
}

fn conditions(report: &AutoscalerReport) -> Vec<Condition> {
    let mut by_kind: BTreeMap<&str, Condition> = BTreeMap::new();
    let mut set = |kind: &'static str, status: bool, reason: &str, message: &str| {
        let new = words::condition(kind, status, reason, cut(message));
        let is_worse = |old: &Condition| if kind == words::SCALING_LIMITED { status } else { old.status == "True" };
        match by_kind.get(kind) {
            Some(old) if !is_worse(old) => {}
            _ => {
                by_kind.insert(kind, new);
            }
        }
    };
    for pool in &report.pools {
        for condition in pool.decision.iter().flat_map(|decision| decision.conditions.iter()) {
            let kind = match condition.kind {
                ConditionKind::AbleToScale => words::ABLE_TO_SCALE,
                ConditionKind::ScalingActive => words::SCALING_ACTIVE,
                ConditionKind::ScalingLimited => words::SCALING_LIMITED,
                // the peer's own bookkeeping; here evidence leads to zero
                ConditionKind::ScaledToZero => continue,
            };
            set(kind, condition.status, &condition.reason.to_string(), &condition.message);
        }
        if let Some((reason, message)) = &pool.failure {
            set(words::ABLE_TO_SCALE, false, reason, message);
        }
    }
    if let Some((reason, message)) = &report.refused {
        set(words::SCALING_ACTIVE, false, reason, message);
    }
    if report.is_advisory && report.conflicts.is_empty() {
        set(words::ABLE_TO_SCALE, false, "Advisory", "`mode: Advisory`: decisions are made and not carried out");
    }
    if report.conflicts.is_empty() {
        set(words::CONFLICT, false, "NoConflict", "nobody else scales its targets");
    } else {
        let who = report.conflicts.join("; ");
        set(words::ABLE_TO_SCALE, false, "Conflict", &format!("{who}: nothing is written until only one is left"));
        by_kind.insert(words::CONFLICT, words::condition(words::CONFLICT, true, "OtherAutoscaler", cut(&who)));
    }
    let silent = report.pools.iter().map(silent_replicas).fold(0, u32::saturating_add);
    let degraded = match report.alarms.as_slice() {
        [] if silent > 0 => words::condition(words::DEGRADED, true, "ReplicasSilent", silence(silent)),
        [] => words::condition(words::DEGRADED, false, "AsExpected", "every signal that decisions need is there"),
        alarms => words::condition(words::DEGRADED, true, "Alarm", cut(&alarms.join("; "))),
    };
    by_kind.insert(words::DEGRADED, degraded);
    let order = [words::ABLE_TO_SCALE, words::SCALING_ACTIVE, words::SCALING_LIMITED, words::DEGRADED, words::CONFLICT];
    let mut out: Vec<Condition> = order.iter().filter_map(|kind| by_kind.remove(kind)).collect();
    out.extend(by_kind.into_values());
    for condition in &mut out {
        condition.observed_generation = Some(report.generation);
    }
    out
}

/// Replicas that serve and say nothing, as the last decision counted them.
fn silent_replicas(pool: &PoolReport) -> u32 {
    let steps = pool.decision.iter().flat_map(|decision| &decision.steps);
    let lost = steps.map(|step| match step {
        Step::Proposal { lost, .. } => u32::try_from(*lost).unwrap_or(0),
        Step::HeldForLost { lost, .. } => *lost,
        _ => 0,
    });
    lost.max().unwrap_or(0)
}

fn silence(replicas: u32) -> String {
    let who = if replicas == 1 {
        "1 replica serves and says".to_owned()
    } else {
        format!("{replicas} replicas serve and say")
    };
    format!("{who} nothing of its load: full on the way down, no capacity on the way up; `/status` has the reason")
}

fn signals(pool: &PoolReport, several: bool) -> Vec<SignalStatus> {
    let (Some(seen), Some(Rule::Hpa(rule))) = (&pool.seen, pool.policy.pools.values().next().map(|one| &one.rule))
    else {
        return Vec::new();
    };
    let with_pool = |signal: SignalStatus| SignalStatus { pool: several.then(|| pool.name.clone()), ..signal };
    rule.metrics.iter().zip(&seen.metrics).map(|(metric, answer)| with_pool(signal(metric, answer, seen))).collect()
}

/// The worst evidence and the oldest time of values that make one.
fn joined<'a>(signals: impl Iterator<Item = &'a Signal>) -> Option<(Evidence, Timestamp)> {
    signals.fold(None, |joined, signal| {
        let (evidence, at) = joined.unwrap_or((signal.evidence, signal.at));
        Some((evidence.max(signal.evidence), at.min(signal.at)))
    })
}

fn signal(metric: &MetricSpec, answer: &MetricAnswer, seen: &PoolObservation) -> SignalStatus {
    let name = match &metric.source {
        MetricSource::Signal { name } => name.clone(),
        _ => metric.to_string(),
    };
    let target = metric.target.average_value_milli.or(metric.target.value_milli).map(Quantity::from_milli);
    let none = SignalStatus { name: cut(&name), target, ..SignalStatus::default() };
    let ready = seen.replicas.iter().filter(|replica| replica.state == ReplicaState::Ready).count().max(1);
    let (sum, count, found) = match answer {
        MetricAnswer::PerReplica { values } => {
            let sum: f64 = values.iter().map(|value| value.signal.value).sum();
            (sum, values.len(), joined(values.iter().map(|value| &value.signal)))
        }
        MetricAnswer::Total { signal, .. } => {
            let is_average = metric.target.average_value_milli.is_some();
            (signal.value, if is_average { ready } else { 1 }, joined(std::iter::once(signal)))
        }
        MetricAnswer::Failed { error } => {
            return SignalStatus { evidence: Some("Missing".to_owned()), message: Some(cut(error)), ..none };
        }
    };
    let Some((evidence, at)) = found else {
        let message = Some("no replica gives a value".to_owned());
        return SignalStatus { evidence: Some("Missing".to_owned()), message, ..none };
    };
    let missing = if let MetricAnswer::PerReplica { .. } = answer { ready.saturating_sub(count) } else { 0 };
    let message = (missing > 0).then(|| format!("{missing} of {ready} replicas give no value"));
    let count = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    SignalStatus {
        value: milli(sum / count),
        evidence: Some(format!("{evidence:?}")),
        time: Some(time_text(at)),
        message,
        ..none
    }
}

/// A value to a thousandth, as Kubernetes shows metrics.
fn milli(value: f64) -> Option<Quantity> {
    let text = format!("{:.3}", value);
    text.parse().ok()
}
