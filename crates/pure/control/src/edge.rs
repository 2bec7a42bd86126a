//! Crossed thresholds: values that would change what the metrics of a policy ask for need not wait for the period.
//!
//! Per metric the sum over the replicas is kept up to date with every page, at the cost of one lookup, and is set right with every
//! decision. A crossing is a hint that a decision is worth making now; what is decided comes from the whole observation.

use crate::event::{MetricQuery, ModelSpec};
use loadline_base::Timestamp;
use loadline_base::num::i64_to_f64;
use loadline_policy::hpa::{HpaRule, MetricTarget};
use loadline_policy::{Evidence, MetricAnswer, Rule};
use loadline_signals::dialect::Reading;
use std::time::Duration;

/// The least time between two decisions of one model, where a crossed threshold asks for the second: pages that arrive together are
/// decided together.
pub(crate) const EDGE_SPACING: Duration = Duration::from_millis(100);

/// What is watched of one model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Edges {
    metrics: Vec<Watched>,
    bounds: (u32, u32),
}

#[derive(Debug, Clone, Copy)]
struct Watched {
    target: f64,
    /// The target is one replica's share; else it is the whole.
    is_share: bool,
    /// The dead band around the target, as factors.
    band: (f64, f64),
    /// The sum at the last decision; `None` where there was no answer.
    decided: Option<f64>,
    latest: f64,
}

impl Edges {
    /// Watches the metrics of a model's policy.
    pub(crate) fn of(spec: &ModelSpec) -> Self {
        let Some(policy) = spec.policy.pools.get(&spec.pool) else { return Self::default() };
        let Rule::Hpa(rule) = &policy.rule;
        let (down, up) = tolerance(rule);
        let metrics = rule.metrics.iter().map(|metric| {
            let (target, is_share) = aim(metric.target);
            Watched { target, is_share, band: (1.0 - down, 1.0 + up), decided: None, latest: 0.0 }
        });
        Self { metrics: metrics.collect(), bounds: (policy.min_replicas, policy.max_replicas) }
    }

    /// A decision was made from these answers.
    pub(crate) fn decided(&mut self, answers: &[MetricAnswer]) {
        for (at, watched) in self.metrics.iter_mut().enumerate() {
            watched.decided = answers.get(at).and_then(sum);
            watched.latest = watched.decided.unwrap_or(0.0);
        }
    }

    /// A page of one replica replaces an earlier one.
    pub(crate) fn page(&mut self, queries: &[MetricQuery], old: Option<&Reading>, new: &Reading) {
        for (watched, query) in self.metrics.iter_mut().zip(queries) {
            let value = |reading: &Reading| match query {
                MetricQuery::Engine(name) => reading.signals.get(name).map(|signal| signal.value),
                MetricQuery::Series { key } | MetricQuery::SeriesTotal { key } => reading.named.get(key).copied(),
                _ => None,
            };
            let finite = |reading: &Reading| value(reading).filter(|value| value.is_finite());
            watched.latest += finite(new).unwrap_or(0.0) - old.and_then(finite).unwrap_or(0.0);
        }
    }

    /// A metric has this answer now.
    pub(crate) fn answered(&mut self, metric: usize, answer: &MetricAnswer) {
        if let (Some(watched), Some(sum)) = (self.metrics.get_mut(metric), sum(answer)) {
            watched.latest = sum;
        }
    }

    /// Whether a metric now asks for another count than it did at the last decision, seen from the count that is wanted.
    pub(crate) fn is_crossed(&self, wanted: u32) -> bool {
        let (min, max) = self.bounds;
        self.metrics.iter().any(|watched| watched.crosses_up(wanted) && wanted < max)
            || self.metrics.iter().any(|watched| watched.crosses_down(wanted) && wanted > min.max(1))
    }
}

impl Watched {
    /// More is asked for than is wanted, and than was asked for at the last decision.
    fn crosses_up(&self, wanted: u32) -> bool {
        let Some(decided) = self.decided else { return false };
        let full = self.full(wanted);
        if self.latest <= full * self.band.1 {
            return false;
        }
        let asked_before =
            if self.is_share { (decided / self.target).ceil() * self.target } else { full * self.band.1 };
        decided <= full * self.band.1 || self.latest > asked_before
    }

    fn crosses_down(&self, wanted: u32) -> bool {
        let least = self.full(wanted) * self.band.0;
        self.latest < least && self.decided.is_some_and(|decided| decided >= least)
    }

    /// What `wanted` replicas should carry.
    fn full(&self, wanted: u32) -> f64 {
        if self.is_share { self.target * f64::from(wanted) } else { self.target }
    }
}

fn aim(target: MetricTarget) -> (f64, bool) {
    match (target.per_replica(), target.value_milli) {
        (Some(milli), _) => (i64_to_f64(milli) / 1000.0, true),
        (None, Some(milli)) => (i64_to_f64(milli) / 1000.0, false),
        // nothing to compare with: never crossed
        (None, None) => (f64::INFINITY, false),
    }
}

fn tolerance(rule: &HpaRule) -> (f64, f64) {
    let own = |pick: fn(&loadline_policy::hpa::Behavior) -> Option<f64>| {
        let allowed = rule.behavior.as_ref().filter(|_| rule.controller.gates.configurable_tolerance);
        allowed.and_then(pick).unwrap_or(rule.controller.tolerance)
    };
    (own(|behavior| behavior.scale_down.tolerance), own(|behavior| behavior.scale_up.tolerance))
}

fn sum(answer: &MetricAnswer) -> Option<f64> {
    let usable = |signal: &loadline_policy::Signal| {
        signal.value.is_finite() && matches!(signal.evidence, Evidence::Live | Evidence::Stale)
    };
    match answer {
        MetricAnswer::PerReplica { values } => {
            Some(values.iter().filter(|value| usable(&value.signal)).map(|value| value.signal.value).sum())
        }
        MetricAnswer::Total { signal, .. } => usable(signal).then_some(signal.value),
        MetricAnswer::Failed { .. } => None,
    }
}

/// When a crossing may be decided: at once, or a little after the last decision.
pub(crate) fn due(now: Timestamp, decided_at: Option<Timestamp>) -> Timestamp {
    decided_at.map_or(now, |at| at.plus(EDGE_SPACING).max(now))
}
