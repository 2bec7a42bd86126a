//! The same answers with everything that went into them.

use super::query::{Metric, chosen, selects};
use super::rules::{self, FoldRule};
use super::{PodKey, PodReason, PodSelector, Selector, Served};
use crate::dialect::SignalName;
use loadline_base::Timestamp;
use std::time::Duration;

/// How a name was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A normalised signal.
    Signal(SignalName),
    /// Series as served, joined by this rule.
    Series(FoldRule),
}

/// What a metric is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// As asked.
    pub metric: String,
    /// How it was understood.
    pub origin: Origin,
    /// Every selected pod, in order.
    pub pods: Vec<PodExplanation>,
}

/// One pod's part.
#[derive(Debug, Clone, PartialEq)]
pub struct PodExplanation {
    /// The pod.
    pub pod: PodKey,
    /// Whether it is ready; if not, it is in no sum over a pool.
    pub is_ready: bool,
    /// Its value and the time of its oldest sample, or why there is none.
    pub outcome: Result<(f64, Timestamp), PodReason>,
    /// The series of the name, whatever their labels and ages.
    pub series: Vec<SeriesExplanation>,
}

/// One series.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesExplanation {
    /// Name and labels as served.
    pub series: String,
    /// As served; may be NaN.
    pub value: f64,
    /// Its time.
    pub at: Timestamp,
    /// How long ago its page was scraped.
    pub age: Duration,
    /// Whose page it stands on.
    pub page: PodKey,
    /// Whether the metric selector selects it and it is no part of another.
    pub counts: bool,
    /// Samples of the page whose own time was too far from the scrape to be true ([`super::MAX_CLOCK_ERROR`]).
    pub clock_errors: usize,
}

impl Served {
    /// What [`Self::pods_metric`] would answer, and from what.
    #[must_use]
    pub fn explain(
        &self,
        now: Timestamp,
        namespace: &str,
        selector: &PodSelector,
        metric: &str,
        metric_selector: &Selector,
    ) -> Explanation {
        let metric = Metric::new(metric);
        let rule = rules::fold_of(&metric.folded);
        let origin = metric.signal.map_or(Origin::Series(rule), Origin::Signal);
        let selected = self.of_namespace(namespace).filter(|(_, pod)| selector.matches(&pod.labels));
        let pods = selected.map(|(key, pod)| {
            let found = self.found(key, pod, &metric.folded);
            let counted = chosen(found.clone(), &metric.folded, metric_selector).unwrap_or_default();
            let series = found.iter().map(|one| SeriesExplanation {
                series: one.series.shown(),
                value: one.value(),
                at: one.at(),
                age: now.since(one.kept.at),
                page: one.page.clone(),
                counts: selects(metric_selector, one.series)
                    && counted
                        .iter()
                        .any(|other| std::ptr::eq(other.series, one.series) && std::ptr::eq(other.kept, one.kept)),
                clock_errors: one.kept.clock_errors,
            });
            PodExplanation {
                pod: key.clone(),
                is_ready: pod.is_ready,
                outcome: self.pod_value(now, key, pod, &metric, metric_selector),
                series: series.collect(),
            }
        });
        Explanation { metric: metric.asked.to_owned(), origin, pods: pods.collect() }
    }
}
