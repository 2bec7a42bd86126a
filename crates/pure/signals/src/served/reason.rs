//! Why there is no value, typed, with the sentence for people as `Display`.

use super::PodKey;
use std::fmt;
use std::time::Duration;
use thiserror::Error;

/// How many pods a sentence names; the rest are counted.
const NAMED_PODS: usize = 3;

/// Why one pod has no value of a metric.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum PodReason {
    /// No such pod is known.
    #[error("no such pod is known: it does not exist, or nothing selects it for scraping")]
    UnknownPod,
    /// Nothing is known of any page of the pod.
    #[error("not scraped yet")]
    NeverScraped,
    /// Every scrape so far failed.
    #[error("no page was read yet: {why}")]
    NeverRead {
        /// What the last attempt said.
        why: String,
    },
    /// The newest sample is too old to be a value.
    #[error("last scraped {} ago, limit {}{}", seconds(*age), seconds(*limit), behind_colon(why))]
    Stale {
        /// Age of the sample.
        age: Duration,
        /// The age from which it is no value any more: [`super::STALE_AFTER_PERIODS`] periods of its source.
        limit: Duration,
        /// What the last failed scrape said.
        why: Option<String>,
    },
    /// The pod's pages are fresh and do not carry the metric.
    #[error("the metric is not on its page{}", left_out_of(*left_out))]
    NotOnPage {
        /// How many series of the page were left out for a limit.
        left_out: usize,
    },
    /// The metric is there, and no series of it has the labels asked for.
    #[error("no series matches the metric selector `{selector}`")]
    NoSeries {
        /// As asked.
        selector: String,
    },
    /// A series is NaN or infinite, which is how clients say "no value".
    #[error("`{series}` is {value}, which is no value")]
    NotFinite {
        /// The first such series.
        series: String,
        /// As served.
        value: f64,
    },
    /// Adding the series would count one observation several times.
    #[error("the series differ in `{label}` and cannot be added: select one with a metric selector on `{label}`")]
    Ambiguous {
        /// `le` or `quantile`.
        label: &'static str,
    },
    /// The pod is not ready, which leaves it out of pool sums.
    #[error("not ready")]
    NotReady,
}

/// Whole seconds where that is precise enough for a person, else tenths.
fn seconds(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    if seconds >= 10.0 || span.subsec_nanos() == 0 { format!("{seconds:.0} s") } else { format!("{seconds:.1} s") }
}

fn behind_colon(why: &Option<String>) -> String {
    why.as_ref().map(|why| format!(": {why}")).unwrap_or_default()
}

fn left_out_of(left_out: usize) -> String {
    if left_out == 0 {
        String::new()
    } else {
        format!("; {left_out} series of it were left out (`max_series_per_page`)")
    }
}

/// A pod with its reason.
#[derive(Debug, Clone, PartialEq)]
pub struct PodNoValue {
    /// The pod.
    pub pod: PodKey,
    /// Why it has no value.
    pub reason: PodReason,
}

impl fmt::Display for PodNoValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod `{}`: {}", self.pod.name, self.reason)
    }
}

/// Why a question has no answer. `Display` is the whole reason, written for the person whose autoscaler shows it.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum NoValue {
    /// No known pod of the namespace matches.
    #[error("no pod matches selector `{selector}` in namespace `{namespace}`; {known} pods are known there")]
    NoPods {
        /// The namespace.
        namespace: String,
        /// As asked.
        selector: String,
        /// Pods known in the namespace.
        known: usize,
    },
    /// The pods are scraped, and the metric is on none of their pages.
    #[error(
        "metric `{metric}` is on no page of the {} selected in namespace `{namespace}`{}{}",
        counted(*pods), unread_of(*unread), nearest_of(nearest.as_deref())
    )]
    UnknownMetric {
        /// As asked.
        metric: String,
        /// The namespace.
        namespace: String,
        /// Pods selected.
        pods: usize,
        /// How many of them have no fresh page: what they would say is not known.
        unread: usize,
        /// The most similar name that is there.
        nearest: Option<String>,
    },
    /// The metric is known, or may be, and no selected pod has a value now.
    #[error("metric `{metric}` has no value now: {}", listed(reasons))]
    NoneNow {
        /// As asked.
        metric: String,
        /// Each pod's reason.
        reasons: Vec<PodNoValue>,
    },
    /// One pod was asked for.
    #[error("metric `{metric}`: {reason}")]
    Pod {
        /// As asked.
        metric: String,
        /// The reason.
        reason: PodNoValue,
    },
    /// A sum would leave out pods that should be in it.
    #[error("metric `{metric}` is not summed: {} of {} ready pods have no value: {}", reasons.len(), ready, listed(reasons))]
    Incomplete {
        /// As asked.
        metric: String,
        /// Ready pods that should have the metric.
        ready: usize,
        /// Those without a value.
        reasons: Vec<PodNoValue>,
    },
}

fn counted(count: usize) -> String {
    if count == 1 { "1 pod".to_owned() } else { format!("{count} pods") }
}

fn unread_of(unread: usize) -> String {
    if unread == 0 { String::new() } else { format!(" ({unread} without a fresh page)") }
}

fn nearest_of(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; nearest: `{name}`")).unwrap_or_default()
}

fn listed(reasons: &[PodNoValue]) -> String {
    let named: Vec<_> = reasons.iter().take(NAMED_PODS).map(ToString::to_string).collect();
    let more = reasons.len().saturating_sub(NAMED_PODS);
    let tail = if more == 0 { String::new() } else { format!("; and {more} more") };
    format!("{}{tail}", named.join("; "))
}
