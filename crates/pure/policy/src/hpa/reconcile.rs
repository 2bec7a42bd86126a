//! One pass of the controller (`reference/hpa.md` 3, 6, 7, 8), without its calls: reading the scale and writing it belong to the
//! caller, who reports the outcome of the write through [`settle`].

use super::Answer;
use super::calculator::{Lost, Proposal};
use super::condition::{ConditionKind, Conditions, Reason};
use super::evaluate::{Evaluator, MetricFailure};
use super::history::{Recommendation, ScaleEvent, span, stabilize, stabilize_legacy, store_event};
use super::limits::{self, Counts, Events, Limited};
use super::pod::Pod;
use super::selector::Selector;
use super::spec::{HpaRule, MetricSource};
use crate::observation::PoolObservation;
use crate::step::Step;
use loadline_base::{Labels, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Why the scale of the target is unknown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleFailure {
    /// For people.
    pub error: String,
    /// Whether `scaleTargetRef` itself is wrong.
    #[serde(default)]
    pub spec: bool,
}

/// Another HPA of the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherHpa {
    /// Its name.
    pub name: String,
    /// The labels its target selects.
    pub selector: Labels,
}

/// What only a Kubernetes observation carries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HpaObservation {
    /// Set where the scale could not be read.
    pub scale_failure: Option<ScaleFailure>,
    /// `status.selector` of the scale.
    pub selector: String,
    /// The pods that the selector selects.
    pub pods: Vec<Pod>,
    /// One answer per metric of the rule, in its order. Signals are answered in [`PoolObservation::metrics`] instead.
    pub answers: Vec<Answer>,
    /// Other HPAs known in the namespace.
    pub others: Vec<OtherHpa>,
}

/// What a rule of this kind remembers between passes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HpaMemory {
    /// Unstabilized recommendations; `None` until the first pass, which seeds it with the current count.
    pub recommendations: Option<Vec<Recommendation>>,
    /// Changes upwards.
    pub up_events: Vec<ScaleEvent>,
    /// Changes downwards.
    pub down_events: Vec<ScaleEvent>,
    /// As status holds them between passes.
    pub conditions: Conditions,
}

/// How zero replicas are left and reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ZeroRule {
    /// The peer's `ScaledToZero` protocol (section 8).
    Peer,
    /// Loadline's evidence rules decide; the pass computes at zero as anywhere else.
    Evidence,
}

/// Everything one pass reads.
pub(crate) struct Pass<'a> {
    pub(crate) now: Timestamp,
    pub(crate) min: i32,
    pub(crate) max: i32,
    pub(crate) rule: &'a HpaRule,
    pub(crate) seen: &'a PoolObservation,
    pub(crate) zero: ZeroRule,
    pub(crate) lost: Lost,
    pub(crate) silent: i32,
    pub(crate) grace: Duration,
}

/// Which branch a pass took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Branch {
    /// The scale could not be read.
    Unreadable,
    /// Zero replicas that the controller did not make.
    Disabled,
    /// The current count was outside min and max; metrics were not read.
    OutOfRange,
    /// Metrics gave no usable count.
    Failed,
    /// Computed.
    Computed,
}

/// The result of one pass, before the write.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The branch taken.
    pub branch: Branch,
    /// `spec.replicas` as read.
    pub current: i32,
    /// The count after all limits; `None` leaves `status.desiredReplicas` as it was.
    pub desired: Option<i32>,
    /// One result per metric, in the rule's order; empty where metrics were not read.
    pub metrics: Vec<Result<Proposal, MetricFailure>>,
    /// The largest proposal and the index of its metric.
    pub proposal: Option<(i32, usize)>,
    /// The largest count that known load alone asks for.
    pub need: i32,
    /// Conditions before the write.
    pub conditions: Conditions,
    /// The error of the pass, and whether the specification is at fault.
    pub error: Option<MetricFailure>,
    /// What was done and why.
    pub steps: Vec<Step>,
}

impl Outcome {
    /// Whether the scale must be written.
    #[must_use]
    pub fn rescales(&self) -> bool {
        self.desired.is_some_and(|desired| desired != self.current)
    }
}

/// Runs one pass with the peer's exact semantics.
#[must_use]
pub fn reconcile(
    rule: &HpaRule,
    (min, max): (i32, i32),
    seen: &PoolObservation,
    now: Timestamp,
    memory: &mut HpaMemory,
) -> Outcome {
    Pass { now, min, max, rule, seen, zero: ZeroRule::Peer, lost: Lost::Peer, silent: 0, grace: Duration::ZERO }
        .run(memory)
}

impl Pass<'_> {
    pub(crate) fn run(&self, memory: &mut HpaMemory) -> Outcome {
        let current = i32::try_from(self.seen.spec_replicas).unwrap_or(i32::MAX);
        let mut out = Outcome {
            branch: Branch::Computed,
            current,
            desired: None,
            metrics: Vec::new(),
            proposal: None,
            need: 0,
            conditions: std::mem::take(&mut memory.conditions),
            error: None,
            steps: Vec::new(),
        };
        if let Some(failure) = self.seen.hpa.as_ref().and_then(|hpa| hpa.scale_failure.as_ref()) {
            let text = format!("the HPA controller was unable to get the target's current scale: {}", failure.error);
            out.conditions.set(ConditionKind::AbleToScale, false, Reason::FailedGetScale, text);
            out.steps.push(Step::ScaleUnreadable { error: failure.error.clone() });
            out.error = Some(MetricFailure { text: failure.error.clone(), spec: failure.spec });
            out.branch = Branch::Unreadable;
        } else {
            let text = "the HPA controller was able to get the target's current scale";
            out.conditions.set(ConditionKind::AbleToScale, true, Reason::SucceededGetScale, text);
            memory.recommendations.get_or_insert_with(|| vec![Recommendation { at: self.now, replicas: current }]);
            self.choose(&mut out, memory);
        }
        memory.conditions = out.conditions.clone();
        out
    }

    /// Section 3, step 5, and section 8.
    fn choose(&self, out: &mut Outcome, memory: &mut HpaMemory) {
        let armed = out.conditions.get(ConditionKind::ScaledToZero).is_some_and(|condition| condition.status);
        let gate = self.rule.controller.gates.scale_to_zero;
        if out.current == 0
            && self.zero == ZeroRule::Peer
            && !(gate && armed && (self.min != 0 || self.has_outside_metric()))
        {
            let text = "scaling is disabled since the replica count of the target is zero";
            out.conditions.set(ConditionKind::ScalingActive, false, Reason::ScalingDisabled, text);
            if !gate {
                out.conditions.remove(ConditionKind::ScaledToZero);
            }
            out.steps.push(Step::Disabled);
            out.branch = Branch::Disabled;
            out.desired = Some(0);
            return;
        }
        // the peer's pass at zero is limited by its minimum only after it has computed
        let below = out.current < self.min && (out.current != 0 || self.zero == ZeroRule::Evidence);
        let bound = if out.current > self.max { Some(self.max) } else { below.then_some(self.min) };
        if let Some(bound) = bound {
            out.branch = Branch::OutOfRange;
            out.steps.push(Step::OutOfRange { current: out.current, min: self.min, max: self.max });
            out.desired = Some(bound);
            return;
        }
        let Some((proposal, need)) = self.combine(out) else {
            out.branch = Branch::Failed;
            return;
        };
        out.need = need;
        let mut desired = self.normalize(out, memory, proposal.max(0));
        if out.current == 0 && self.zero == ZeroRule::Peer && self.min != 0 && desired < self.min {
            out.steps.push(Step::Bounded { wanted: desired, bound: self.min, at: crate::step::Bound::Min });
            desired = self.min;
        }
        out.desired = Some(desired);
    }

    fn has_outside_metric(&self) -> bool {
        has_outside_metric(self.rule)
    }

    /// Section 6. `None` is a total failure, whose conditions are set.
    fn combine(&self, out: &mut Outcome) -> Option<(i32, i32)> {
        if let Some((reason, text)) = self.selector_problem() {
            out.conditions.set(ConditionKind::ScalingActive, false, reason, text.clone());
            out.steps.push(Step::AllMetricsFailed { failed: 0, of: 0, first: text.clone() });
            out.error = Some(text.into());
            return None;
        }
        let evaluator = Evaluator {
            rule: self.rule,
            seen: self.seen,
            now: self.now,
            current: out.current,
            lost: self.lost,
            silent: self.silent,
            grace: self.grace,
        };
        let mut need = 0;
        let mut first_failure: Option<(Reason, String)> = None;
        let mut failed = 0;
        for (index, metric) in self.rule.metrics.iter().enumerate() {
            let result = evaluator.propose(index, metric);
            match &result {
                Ok(proposal) => {
                    if out.proposal.is_none_or(|(best, _)| proposal.replicas > best) {
                        out.proposal = Some((proposal.replicas, index));
                    }
                    need = need.max(proposal.replicas.saturating_sub(proposal.lost));
                    out.steps.push(Step::proposal(metric, proposal));
                }
                Err(failure) => {
                    failed += 1;
                    if first_failure.is_none() {
                        first_failure = Some((metric.source.failure_reason(), failure.text.clone()));
                    }
                    out.steps.push(Step::MetricFailed { metric: metric.to_string(), error: failure.text.clone() });
                }
            }
            out.metrics.push(result);
        }
        let of = self.rule.metrics.len();
        let (first_reason, first_text) =
            first_failure.unwrap_or((Reason::InvalidMetricSourceType, "no metric is set".to_owned()));
        let error = format!("invalid metrics ({failed} invalid out of {of}), first error is: {first_text}");
        match out.proposal {
            Some((replicas, index)) if failed == 0 || replicas >= out.current => {
                let name = self.rule.metrics.get(index).map(ToString::to_string).unwrap_or_default();
                let text = format!("the HPA was able to successfully calculate a replica count from {name}");
                out.conditions.set(ConditionKind::ScalingActive, true, Reason::ValidMetricFound, text);
                out.error = (failed > 0).then(|| error.into());
                Some((replicas, need))
            }
            _ => {
                let text = format!("the HPA was unable to compute the replica count: {first_text}");
                out.conditions.set(ConditionKind::ScalingActive, false, first_reason, text);
                out.steps.push(Step::AllMetricsFailed { failed, of, first: first_text });
                out.error = Some(error.into());
                None
            }
        }
    }

    /// The largest proposal, without history and limits.
    pub(crate) fn largest_proposal(&self) -> Option<i32> {
        let current = i32::try_from(self.seen.spec_replicas).unwrap_or(i32::MAX);
        let Self { rule, seen, now, lost, silent, grace, .. } = *self;
        let evaluator = Evaluator { rule, seen, now, current, lost, silent, grace };
        let proposals = rule.metrics.iter().enumerate();
        proposals.filter_map(|(index, metric)| evaluator.propose(index, metric).ok()).map(|p| p.replicas).max()
    }

    fn selector_problem(&self) -> Option<(Reason, String)> {
        let hpa = self.seen.hpa.as_ref()?;
        if hpa.selector.is_empty() {
            return Some((Reason::InvalidSelector, "the HPA target's scale is missing a selector".to_owned()));
        }
        if let Err(error) = Selector::parse(&hpa.selector) {
            let text = format!("couldn't convert selector into a corresponding internal selector object: {error}");
            return Some((Reason::InvalidSelector, text));
        }
        let rivals: Vec<&str> = hpa
            .others
            .iter()
            .filter(|other| {
                let selector = Selector::of_labels(&other.selector);
                hpa.pods.iter().any(|pod| selector.matches(&pod.labels))
            })
            .map(|other| other.name.as_str())
            .collect();
        (!rivals.is_empty()).then(|| {
            let text =
                format!("pods by selector {} are controlled by multiple HPAs: {}", hpa.selector, rivals.join(", "));
            (Reason::AmbiguousSelector, text)
        })
    }

    /// Section 7.
    fn normalize(&self, out: &mut Outcome, memory: &mut HpaMemory, desired: i32) -> i32 {
        let log = memory.recommendations.get_or_insert_default();
        let current = out.current;
        let down_window = self.down_window();
        let controller = &self.rule.controller;
        let (stabilized, limited) = if let Some(behavior) = &self.rule.behavior {
            let up_window = span(behavior.scale_up.stabilization_window_seconds.unwrap_or(0));
            let stabilized = stabilize(log, current, desired, (up_window, down_window), self.now);
            let counts = Counts { current, desired: stabilized, min: self.min, max: self.max };
            let events = Events { up: &memory.up_events, down: &memory.down_events };
            (stabilized, limits::by_behavior(counts, behavior, events, self.now))
        } else {
            let stabilized = stabilize_legacy(log, desired, down_window, self.now);
            let counts = Counts { current, desired: stabilized, min: self.min, max: self.max };
            let limited = limits::legacy(counts, controller.legacy_scale_up_factor, controller.legacy_scale_up_minimum);
            (stabilized, limited)
        };
        let up = self.rule.behavior.is_some() && desired >= current;
        let (reason, text) = if stabilized == desired {
            (Reason::ReadyForNewScale, "recommended size matches current size")
        } else if up {
            let text = "recent recommendations were lower than current one, applying the lowest recent recommendation";
            (Reason::ScaleUpStabilized, text)
        } else {
            let text =
                "recent recommendations were higher than current one, applying the highest recent recommendation";
            (Reason::ScaleDownStabilized, text)
        };
        out.conditions.set(ConditionKind::AbleToScale, true, reason, text);
        if stabilized != desired {
            let window = if up { span(self.up_window_seconds()) } else { down_window };
            out.steps.push(Step::Stabilized { wanted: desired, kept: stabilized, window_seconds: window.as_secs() });
        }
        let changed = limited.replicas != stabilized;
        out.conditions.set(ConditionKind::ScalingLimited, changed, limited.reason, limit_text(limited.reason));
        if changed {
            let Limited { replicas, reason } = limited;
            out.steps.push(Step::Limited { current, wanted: stabilized, allowed: replicas, reason });
        }
        limited.replicas
    }

    fn up_window_seconds(&self) -> i32 {
        self.rule.behavior.as_ref().and_then(|b| b.scale_up.stabilization_window_seconds).unwrap_or(0)
    }

    fn down_window(&self) -> Duration {
        let own = self.rule.behavior.as_ref().and_then(|b| b.scale_down.stabilization_window_seconds);
        own.map_or(self.rule.controller.downscale_stabilization, span)
    }
}

/// Whether a metric works without pods: only then can the peer be at zero and come back.
fn has_outside_metric(rule: &HpaRule) -> bool {
    let outside = |source: &MetricSource| matches!(source, MetricSource::Object { .. } | MetricSource::External { .. });
    rule.metrics.iter().any(|metric| outside(&metric.source))
}

fn limit_text(reason: Reason) -> &'static str {
    match reason {
        Reason::TooFewReplicas => "the desired replica count is less than the minimum replica count",
        Reason::TooManyReplicas => "the desired replica count is more than the maximum replica count",
        Reason::ScaleUpLimit => "the desired replica count is increasing faster than the maximum scale rate",
        Reason::ScaleDownLimit => "the desired replica count is decreasing faster than the maximum scale rate",
        _ => "the desired count is within the acceptable range",
    }
}

/// Takes the result of writing the scale into conditions and memory (`reference/hpa.md` 3, step 8; 7.2 events; 8.3). `at` is the
/// time of the change.
pub fn settle(
    rule: &HpaRule,
    min: i32,
    (from, to): (i32, i32),
    written: Result<(), &str>,
    at: Timestamp,
    memory: &mut HpaMemory,
) {
    let conditions = &mut memory.conditions;
    if let Err(error) = written {
        let text = format!("the HPA controller was unable to update the target scale: {error}");
        conditions.set(ConditionKind::AbleToScale, false, Reason::FailedUpdateScale, text);
        return;
    }
    let text = format!("the HPA controller was able to update the target scale to {to}");
    conditions.set(ConditionKind::AbleToScale, true, Reason::SucceededRescale, text);
    let behavior = rule.behavior.as_ref();
    if to > from {
        let rules = behavior.map(|behavior| &behavior.scale_up);
        store_event(&mut memory.up_events, rules, to.saturating_sub(from), at);
    } else {
        let rules = behavior.map(|behavior| &behavior.scale_down);
        store_event(&mut memory.down_events, rules, from.saturating_sub(to), at);
    }
    if !rule.controller.gates.scale_to_zero {
        conditions.remove(ConditionKind::ScaledToZero);
    } else if from > 0 && to == 0 && min == 0 && has_outside_metric(rule) {
        let text = "the HPA controller scaled the workload to zero";
        conditions.set(ConditionKind::ScaledToZero, true, Reason::ScaledToZero, text);
    } else {
        let text = "the HPA controller did not scale the workload to zero";
        conditions.set(ConditionKind::ScaledToZero, false, Reason::NotScaledToZero, text);
    }
}
