//! One metric against one observation: finds the values, then asks the calculator.

use super::HpaObservation;
use super::answer::{self, Answer, Joined};
use super::calculator::{
    Assumed, Lost, PerPod, PerPodTarget, Proposal, Shown, Tolerance, propose_average, propose_value,
};
use super::pod::{Group, Phase, PodSample, Ready, group, request};
use super::spec::{HpaRule, MetricSource, MetricSpec, TargetKind};
use crate::evidence;
use crate::observation::{Evidence, GatewayObservation, MetricAnswer, PoolObservation, ReplicaState, Signal};
use crate::signal::{self, SignalEntry, SignalKind};
use loadline_base::Timestamp;
use loadline_base::num::f64_to_i64_trunc;
use serde::{Deserialize, Serialize};

/// Why a metric gave no proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricFailure {
    /// For people.
    pub text: String,
    /// Whether the specification is at fault rather than the world (the label `spec` of the peer's metrics).
    pub spec: bool,
}

impl From<String> for MetricFailure {
    fn from(text: String) -> Self {
        Self { text, spec: false }
    }
}

/// What a metric is computed from.
pub(crate) struct Evaluator<'a> {
    pub(crate) rule: &'a HpaRule,
    pub(crate) seen: &'a PoolObservation,
    pub(crate) now: Timestamp,
    /// `spec.replicas`.
    pub(crate) current: i32,
    pub(crate) lost: Lost,
    /// Replicas whose engine is silent; counted only with [`Lost::NoSpare`].
    pub(crate) silent: i32,
    /// For how long a replica that became ready may have no value yet; zero with [`Lost::Peer`].
    pub(crate) grace: std::time::Duration,
}

/// The proposal of one metric of a rule with the peer's exact semantics, without limits.
///
/// # Errors
/// Why there is none.
pub fn propose_metric(
    rule: &HpaRule,
    index: usize,
    seen: &PoolObservation,
    now: Timestamp,
) -> Result<Proposal, MetricFailure> {
    let current = i32::try_from(seen.spec_replicas).unwrap_or(i32::MAX);
    let evaluator =
        Evaluator { rule, seen, now, current, lost: Lost::Peer, silent: 0, grace: std::time::Duration::ZERO };
    let metric = rule.metrics.get(index).ok_or_else(|| MetricFailure::from("there is no such metric".to_owned()))?;
    evaluator.propose(index, metric)
}

/// Milli-units of a signal, rounded away from zero as quantities are; the tiny slack undoes the noise of the multiplication.
pub(crate) fn milli(value: f64) -> i64 {
    let scaled = value * 1000.0;
    f64_to_i64_trunc(if scaled < 0.0 { (scaled + 1e-6).floor() } else { (scaled - 1e-6).ceil() })
}

impl Evaluator<'_> {
    fn tolerance(&self) -> Tolerance {
        Tolerance::of(&self.rule.controller, self.rule.behavior.as_ref())
    }

    /// The proposal of the metric at `index` of the rule.
    pub(crate) fn propose(&self, index: usize, metric: &MetricSpec) -> Result<Proposal, MetricFailure> {
        let target = metric.target;
        match &metric.source {
            MetricSource::Resource { name } => Ok(self.resource(index, name, None, metric)?),
            MetricSource::ContainerResource { name, container } => {
                Ok(self.resource(index, name, Some(container), metric)?)
            }
            MetricSource::Pods { .. } => match target.average_value_milli {
                Some(target) => Ok(self.pods(index, target)?),
                None => Err("invalid pods metric source: no average value target was set".to_owned().into()),
            },
            MetricSource::Object { .. } => {
                let usage = self.object(index)?;
                match (target.kind, target.value_milli, target.average_value_milli) {
                    (Some(TargetKind::Value), Some(target), _) => Ok(self.by_value(usage, target)?),
                    (Some(TargetKind::AverageValue), _, Some(target)) => Ok(self.by_average(usage, target)),
                    _ => {
                        Err("invalid object metric source: neither a value target nor an average value target was set"
                            .to_owned()
                            .into())
                    }
                }
            }
            MetricSource::External { .. } => match (target.average_value_milli, target.value_milli) {
                (Some(target), _) => Ok(self.by_average(self.external(index)?, target)),
                (None, Some(target)) => Ok(self.by_value(self.external(index)?, target)?),
                (None, None) => {
                    Err("invalid external metric source: neither a value target nor an average value target was set"
                        .to_owned()
                        .into())
                }
            },
            MetricSource::Signal { name } => self.signal(index, name, metric),
            MetricSource::Unknown { kind } => {
                Err(MetricFailure { text: format!("unknown metric source type `{kind}`"), spec: true })
            }
        }
    }

    fn by_value(&self, usage: i64, target: i64) -> Result<Proposal, String> {
        propose_value(usage, target, self.current, self.tolerance(), || self.ready_pods())
    }

    fn by_average(&self, usage: i64, target: i64) -> Proposal {
        let status = i32::try_from(self.seen.status_replicas).unwrap_or(i32::MAX);
        propose_average(usage, target, status, self.tolerance())
    }

    /// Running and Ready pods; a terminating pod that is still Ready counts.
    fn ready_pods(&self) -> Result<usize, String> {
        let none = || {
            "unable to calculate ready pods: no pods returned by selector while calculating replica count".to_owned()
        };
        match &self.seen.hpa {
            Some(hpa) if hpa.pods.is_empty() => Err(none()),
            Some(hpa) => {
                Ok(hpa.pods.iter().filter(|p| p.phase == Phase::Running && p.ready == Some(Ready::True)).count())
            }
            None if self.seen.replicas.is_empty() => Err(none()),
            None => {
                let serving = |state| matches!(state, ReplicaState::Ready | ReplicaState::Draining);
                Ok(self.seen.replicas.iter().filter(|replica| serving(replica.state)).count())
            }
        }
    }

    fn native(&self, index: usize) -> Option<(&HpaObservation, &Answer)> {
        let hpa = self.seen.hpa.as_ref()?;
        Some((hpa, hpa.answers.get(index)?))
    }

    fn resource(
        &self,
        index: usize,
        name: &str,
        container: Option<&str>,
        metric: &MetricSpec,
    ) -> Result<Proposal, String> {
        let fail =
            |error: &str| format!("failed to get {name} usage: unable to get metrics for resource {name}: {error}");
        // observed beside the replicas: percent of their requests, where the target is a percentage
        if let (None, Some(_), Some(target)) =
            (&self.seen.hpa, self.seen.metrics.get(index), metric.target.per_replica())
        {
            return self.per_replica(index, target).map_err(|error| fail(&error));
        }
        let (hpa, list) = match self.native(index) {
            Some((hpa, Answer::Usage { pods })) if !pods.is_empty() => (hpa, pods),
            Some((_, Answer::Usage { .. })) => return Err(fail(&answer::empty_text("resource"))),
            Some((_, Answer::Failed { error })) => return Err(fail(error)),
            _ => return Err(fail("no answer of the resource metrics API was observed")),
        };
        let joined = answer::join(
            hpa.pods.iter().map(|pod| pod.name.as_str()),
            list.len(),
            |at| list.get(at).map_or("", |usage| usage.pod.as_str()),
            |at| list.get(at).and_then(|usage| answer::usage(usage, container)),
        );
        let (groups, values) = self.grouped(hpa, &joined, name == "cpu")?;
        let strangers = joined.strangers();
        let requests: Vec<i64>;
        // the field that is set decides, an average before a percentage
        let target = match (metric.target.average_value_milli, metric.target.average_utilization) {
            (Some(milli), _) => PerPodTarget::Average { milli },
            (None, Some(percent)) => {
                // nothing to judge is reported before a missing request
                if !groups.contains(&Group::Ready) && strangers.is_empty() {
                    return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
                }
                let gates = self.rule.controller.gates;
                requests = hpa
                    .pods
                    .iter()
                    .map(|pod| request(pod, container, name, gates).map_err(|error| error.to_string()))
                    .collect::<Result<_, _>>()?;
                PerPodTarget::Utilization { percent, requests: &requests }
            }
            (None, None) => {
                return Err(
                    "invalid resource metric source: neither an average utilization target nor an average value \
                            target was set"
                        .to_owned(),
                );
            }
        };
        self.per_pod(&groups, &values, &strangers, target).propose()
    }

    fn pods(&self, index: usize, target: i64) -> Result<Proposal, String> {
        let fail = |error: &str| format!("unable to get pods metric: {error}");
        match self.native(index) {
            Some((hpa, Answer::Pods { pods })) if !pods.is_empty() => {
                let joined = answer::join(
                    hpa.pods.iter().map(|pod| pod.name.as_str()),
                    pods.len(),
                    |at| pods.get(at).map_or("", |value| value.pod.as_str()),
                    |at| pods.get(at).map(answer::PodValue::sample),
                );
                let (groups, values) = self.grouped(hpa, &joined, false)?;
                let target = PerPodTarget::Average { milli: target };
                self.per_pod(&groups, &values, &joined.strangers(), target).propose()
            }
            Some((_, Answer::Pods { .. })) => Err(fail(&answer::empty_text("custom"))),
            Some((_, Answer::Failed { error })) => Err(fail(error)),
            _ => self.per_replica(index, target).map_err(|error| fail(&error)),
        }
    }

    fn object(&self, index: usize) -> Result<i64, String> {
        let fail = |error: &str| format!("unable to get object metric: {error}");
        match self.native(index) {
            Some((_, Answer::Object { value_milli })) => Ok(*value_milli),
            Some((_, Answer::Failed { error })) => Err(fail(error)),
            _ => self.total(index).map_err(|error| fail(&error)),
        }
    }

    fn external(&self, index: usize) -> Result<i64, String> {
        let fail = |error: &str| format!("unable to get external metric: {error}");
        match self.native(index) {
            Some((_, Answer::External { values_milli })) => {
                answer::external_total(values_milli).map_err(|error| fail(&error))
            }
            Some((_, Answer::Failed { error })) => Err(fail(error)),
            _ => self.total(index).map_err(|error| fail(&error)),
        }
    }

    /// A total that was observed outside the metrics APIs.
    fn total(&self, index: usize) -> Result<i64, String> {
        match self.seen.metrics.get(index) {
            Some(MetricAnswer::Total { signal, .. }) if usable(*signal) => Ok(milli(signal.value)),
            Some(MetricAnswer::Total { signal, .. }) => {
                let age = self.now.since(signal.at).as_secs();
                Err(format!("the last value, {}, is {age} s old", signal.value))
            }
            Some(MetricAnswer::Failed { error }) => Err(error.clone()),
            Some(MetricAnswer::PerReplica { .. }) => {
                Err("one value per replica was observed, a total was expected".to_owned())
            }
            None => Err("no answer was observed".to_owned()),
        }
    }

    fn grouped(
        &self,
        hpa: &HpaObservation,
        joined: &Joined,
        cpu: bool,
    ) -> Result<(Vec<Group>, Vec<Option<i64>>), String> {
        if hpa.pods.is_empty() {
            return Err("no pods returned by selector while calculating replica count".to_owned());
        }
        let controller = &self.rule.controller;
        let of =
            |(pod, sample): (&super::Pod, &Option<PodSample>)| group(pod, sample.as_ref(), cpu, controller, self.now);
        let groups = hpa.pods.iter().zip(&joined.samples).map(of).collect();
        Ok((groups, joined.samples.iter().map(|sample| sample.map(|sample| sample.value_milli)).collect()))
    }

    fn per_pod<'b>(
        &self,
        groups: &'b [Group],
        values: &'b [Option<i64>],
        strangers: &'b [i64],
        target: PerPodTarget<'b>,
    ) -> PerPod<'b> {
        let (current, tolerance) = (self.current, self.tolerance());
        PerPod { groups, values, strangers, leaving: 0, target, current, tolerance }
    }

    fn signal(&self, index: usize, name: &str, metric: &MetricSpec) -> Result<Proposal, MetricFailure> {
        let spec = |text: String| MetricFailure { text, spec: true };
        let entry = signal::lookup(name).ok_or_else(|| spec(format!("there is no signal `{name}`")))?;
        let target = metric.target.average_value_milli.ok_or_else(|| {
            spec(format!("signal `{name}` needs `target.averageValue`: the amount that one replica should carry"))
        })?;
        Ok(match (entry.gateway, entry.kind) {
            (true, _) => self.demand(entry, target)?,
            (false, SignalKind::PerReplica) => self.per_replica(index, target)?,
            (false, SignalKind::Total) => self.engine_total(index, entry, target)?,
        })
    }

    /// Totals of the gateway: complete even where an engine is silent, but held work needs a replica that is not.
    fn demand(&self, entry: &SignalEntry, target: i64) -> Result<Proposal, String> {
        let GatewayObservation::Live { held, in_flight, peak, .. } = self.seen.gateway else {
            return Err(format!("signal `{}` comes from the gateway, and no gateway speaks", entry.name));
        };
        let total = if entry.name == signal::REQUESTS_HELD { held } else { held.saturating_add(in_flight).max(peak) };
        let milli = |count: u32| i64::from(count) * 1000;
        let proposal = propose_average(milli(total), target, self.current, self.tolerance());
        let need = proposal.replicas;
        let beside = if self.lost == Lost::NoSpare && self.silent > 0 && held > 0 {
            // a count of 0 replicas has no dead band: the plain quotient
            propose_average(milli(held), target, 0, self.tolerance()).replicas.saturating_add(self.silent)
        } else {
            0
        };
        let shown = if self.current == 0 { Shown::Value { milli: milli(total) } } else { proposal.shown };
        let lost = beside.saturating_sub(need).max(0);
        Ok(Proposal { replicas: need.max(beside), lost, shown, ..proposal })
    }

    /// Values of a metric beside the replicas.
    fn replica_values(&self, index: usize) -> Result<ReplicaValues, String> {
        if self.seen.replicas.is_empty() {
            return Err("there is no replica yet".to_owned());
        }
        let values = match self.seen.metrics.get(index) {
            Some(MetricAnswer::PerReplica { values }) => values,
            Some(MetricAnswer::Failed { error }) => return Err(error.clone()),
            Some(MetricAnswer::Total { .. }) => {
                return Err("a total was observed, one value per replica was expected".to_owned());
            }
            None => return Err("no answer was observed".to_owned()),
        };
        let joined = answer::join(
            self.seen.replicas.iter().map(|replica| replica.id.as_str()),
            values.len(),
            |at| values.get(at).map_or("", |value| value.replica.as_str()),
            |at| values.get(at).map(|value| value.signal).filter(|signal| usable(*signal)).map(|signal| signal.value),
        );
        let (mut leaving, mut finishing) = (0.0, 0.0);
        let mut groups = Vec::with_capacity(joined.samples.len());
        for (replica, value) in self.seen.replicas.iter().zip(&joined.samples) {
            match (replica.state, self.lost, value) {
                (ReplicaState::Draining, Lost::NoSpare, Some(value)) => leaving += value,
                (ReplicaState::Failed, Lost::NoSpare, Some(value)) => finishing += value,
                _ => {}
            }
            groups.push(self.group(replica, value.is_some()));
        }
        Ok(ReplicaValues { groups, values: joined.samples, leaving, finishing })
    }

    fn group(&self, replica: &crate::ReplicaObservation, has_value: bool) -> Group {
        match replica.state {
            ReplicaState::Draining | ReplicaState::Failed => Group::Ignored,
            ReplicaState::Starting => Group::Unready,
            ReplicaState::Ready if has_value => Group::Ready,
            ReplicaState::Ready if evidence::is_new(replica, self.now, self.grace) => Group::Unready,
            ReplicaState::Ready if self.lost == Lost::NoSpare && evidence::is_silent(replica) => Group::Lost,
            ReplicaState::Ready => Group::Missing,
        }
    }

    fn per_replica(&self, index: usize, target: i64) -> Result<Proposal, String> {
        let ReplicaValues { groups, values, leaving, finishing } = self.replica_values(index)?;
        let values: Vec<Option<i64>> = values.into_iter().map(|value| value.map(milli)).collect();
        let target = PerPodTarget::Average { milli: target };
        let propose =
            |leaving: f64| PerPod { leaving: milli(leaving), ..self.per_pod(&groups, &values, &[], target) }.propose();
        let proposal = propose(leaving)?;
        if finishing > 0.0 && proposal.replicas < self.current {
            let with = propose(leaving + finishing)?.replicas.min(self.current);
            return Ok(Proposal { replicas: proposal.replicas.max(with), ..proposal });
        }
        Ok(proposal)
    }

    fn engine_total(&self, index: usize, entry: &SignalEntry, target: i64) -> Result<Proposal, String> {
        let (total, finishing, lost, missing) = if let Some(MetricAnswer::Total { .. }) = self.seen.metrics.get(index) {
            (self.total(index)?, 0, self.silent, 0)
        } else {
            let ReplicaValues { groups, values, leaving, finishing } = self.replica_values(index)?;
            let count_of = |group: Group| groups.iter().filter(|&&g| g == group).count();
            let ready = groups.iter().zip(&values).filter(|(group, _)| **group == Group::Ready);
            if ready.clone().count() == 0 {
                return Err(format!("no ready replica reports `{}`", entry.name));
            }
            // added up before it is rounded: a share of each replica rounded up is not the total rounded up
            let total = ready.filter_map(|(_, value)| *value).sum::<f64>() + leaving;
            let signed = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
            (milli(total), milli(finishing), signed(count_of(Group::Lost)), signed(count_of(Group::Missing)))
        };
        let lost = if self.lost == Lost::NoSpare { lost } else { 0 };
        let judged = self.current.saturating_sub(lost).max(0);
        let propose = |total: i64| propose_average(total, target, judged, self.tolerance());
        let mut proposal = propose(total);
        let mut assumed = Assumed::default();
        let is_down = proposal.replicas < judged;
        if missing > 0 && self.lost == Lost::NoSpare {
            assumed = Assumed { silent: missing, silent_full: is_down, unready: 0 };
        }
        if is_down && (missing > 0 || finishing > 0) {
            let full = if self.lost == Lost::NoSpare { target.saturating_mul(i64::from(missing)) } else { 0 };
            let filled = propose(total.saturating_add(finishing).saturating_add(full)).replicas;
            proposal.replicas = filled.min(judged).max(proposal.replicas);
        }
        let shown = if judged == 0 { Shown::Value { milli: total } } else { proposal.shown };
        Ok(Proposal { replicas: proposal.replicas.saturating_add(lost), lost, shown, assumed })
    }
}

/// Values of one metric beside the replicas.
struct ReplicaValues {
    groups: Vec<Group>,
    values: Vec<Option<f64>>,
    /// What draining replicas still carry: load of the pool until they are gone.
    leaving: f64,
    /// What replicas that are ended may still carry. It may be with others already, so it holds a count and does not raise it.
    finishing: f64,
}

/// Values that may be computed with; whether they may also lower a count is the evidence gate's question. What is not a finite
/// number is no value.
fn usable(signal: Signal) -> bool {
    matches!(signal.evidence, Evidence::Live | Evidence::Stale) && signal.value.is_finite()
}
