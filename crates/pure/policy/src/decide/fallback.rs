//! What to have while no metric answers.

use super::{Course, PoolPass};
use crate::evidence::PoolEvidence;
use crate::hpa::{Branch, HpaRule, MetricSource, Outcome};
use crate::memory::PoolMemory;
use crate::signal;
use crate::step::Step;

impl PoolPass<'_> {
    /// The count of `fallback`, if no metric has answered for its time. It only ever raises: in the middle of a burst a small static
    /// number would be the worst answer to silence.
    pub(super) fn fall_back(
        &self,
        rule: &HpaRule,
        evidence: PoolEvidence,
        memory: &mut PoolMemory,
        outcome: &Outcome,
        course: &mut Course,
    ) {
        let is_asked = outcome.branch != Branch::OutOfRange && !outcome.metrics.is_empty();
        let is_silent = outcome.metrics.iter().all(Result::is_err) && !self.waits_for_replicas(evidence);
        if !is_asked || !is_silent || !self.should_answer(rule) {
            // bounds are corrected without asking metrics; that says nothing about them
            if is_asked {
                memory.unanswered_since = None;
            }
            return;
        }
        let since = *memory.unanswered_since.get_or_insert(self.now);
        let Some(fallback) = self.policy.fallback.filter(|fallback| self.now.since(since) >= fallback.after) else {
            return;
        };
        let kept = course.desired.max(fallback.replicas.min(self.policy.max_replicas)).max(self.seen.spec_replicas);
        let for_seconds = self.now.since(since).as_secs();
        course.steps.push(Step::Fallback { for_seconds, replicas: fallback.replicas, kept });
        course.desired = kept;
        // the first value after the silence does not lower it at once
        if let Some(log) = &mut memory.hpa.recommendations {
            let replicas = i32::try_from(kept).unwrap_or(i32::MAX);
            log.push(crate::hpa::history::Recommendation { at: self.now, replicas });
        }
    }

    /// At zero, metrics of replicas have nothing to say; only what is measured elsewhere can be missed.
    fn should_answer(&self, rule: &HpaRule) -> bool {
        let outside = |source: &MetricSource| match source {
            MetricSource::Object { .. } | MetricSource::External { .. } => true,
            MetricSource::Signal { name } => signal::lookup(name).is_some_and(|entry| entry.gateway),
            _ => false,
        };
        self.seen.spec_replicas > 0 || rule.metrics.iter().any(|metric| outside(&metric.source))
    }
}
