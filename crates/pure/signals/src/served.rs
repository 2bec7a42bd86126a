//! The latest value of every series of every scraped pod, as the metrics APIs serve them.
//!
//! What a page repeats, pods share: the text of each series is kept once however many pods serve it, a page's sequence of series (its *layout*) once for
//! all pods of one build, and a pod keeps its numbers only. A page that looks like the one before is read by comparing, not by parsing.
//!
//! Beside it, [`crate::store`] keeps history, and only of the few series that a policy or query names; here is no history, and every series.
//!
//! What counts as a value:
//! - Names compare with `:` and `_` alike. `loadline:NAME` is the normalised signal NAME ([`crate::dialect::SignalName`]).
//! - Several series of one name on one pod join by [`FOLD_RULES`]. Of SGLang's series the total counts and not its parts, one rank and not its repetitions, as
//!   for the normalised signals. A histogram is no value; its `_count`, `_sum` and `_bucket` series are.
//! - A series whose labels name another existing pod belongs to that pod (exporters), unless that pod's own pages carry the metric.
//! - A sample is a value until it is [`STALE_AFTER_PERIODS`] periods of its source old, by the time of the scrape. A time on the page is reported if
//!   it is within [`MAX_CLOCK_ERROR`] of the scrape, and never decides about age: clocks of pods may be wrong.
//! - NaN and infinity are no values. One part that is none makes the whole none: a sum of survivors is never given for a sum.
//! - Samples end with their pod, and with its restart (another `started_at`).
//!
//! Deliberately absent: judging values. A counter that was reset and a gauge that is frozen are given as they are.

mod explain;
mod index;
mod ingest;
mod layout;
mod nearest;
mod query;
mod reason;
mod rules;
mod selector;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use explain::{Explanation, Origin, PodExplanation, SeriesExplanation};
pub use ingest::{Keep, Page, PageError, Relabel};
pub use query::{ExternalValue, PodReading, PodValue};
pub use reason::{NoValue, PodNoValue, PodReason};
pub use rules::{FOLD_RULES, Fold, FoldRule};
pub use selector::{Operator, PodSelector, Requirement, Selector};

use crate::dialect::{EngineKind, SignalName};
use crate::exposition::Limits;
use index::Index;
use layout::Layout;
use loadline_base::{Labels, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// After how many periods of its source a sample is no value any more (the evidence STALE ends there).
pub const STALE_AFTER_PERIODS: u32 = 10;

/// How far a time on a page may be from the scrape to be reported as the sample's time.
pub const MAX_CLOCK_ERROR: Duration = Duration::from_secs(300);

/// What a number on a page is charged, in bytes.
pub const VALUE_BYTES: usize = 8;

/// Bounds of a [`Served`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServedLimits {
    /// Most pods; of more, those last in order are not known.
    pub max_pods: usize,
    /// Most endpoints of one pod.
    pub max_endpoints_per_pod: usize,
    /// Most series kept of one page; those behind are left out and counted.
    pub max_series_per_page: usize,
    /// Most bytes over all pods: texts and layouts as charged by [`Served::bytes`], and [`VALUE_BYTES`] for each number.
    pub max_bytes: usize,
    /// Bounds of reading a page.
    pub page: Limits,
}

impl Default for ServedLimits {
    /// 10,000 pods of 8 endpoints each, 20,000 series on a page, 192 MiB. Pods that serve the pages of one build need about 7 kB each.
    fn default() -> Self {
        Self {
            max_pods: 10_000,
            max_endpoints_per_pod: 8,
            max_series_per_page: 20_000,
            max_bytes: 192 << 20,
            page: Limits::default(),
        }
    }
}

/// A pod's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name there.
    pub name: Arc<str>,
}

impl PodKey {
    /// A key.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod whose metrics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Whether it is ready. A pod that is not has values of its own, and is left out of sums over a pool.
    pub is_ready: bool,
    /// When its containers started, by the node's clock; only compared for equality: another time is another life.
    pub started_at: Option<Timestamp>,
}

/// Where a page comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSource {
    /// The pod scraped.
    pub pod: PodKey,
    /// Which of its pages: a port, or port and path. Pages of one pod add up, so one URL must have one endpoint name.
    pub endpoint: Arc<str>,
}

impl PageSource {
    /// The page of a pod that has only one.
    #[must_use]
    pub fn new(namespace: &str, pod: &str) -> Self {
        Self::at(namespace, pod, "")
    }

    /// One of several pages of a pod.
    #[must_use]
    pub fn at(namespace: &str, pod: &str, endpoint: &str) -> Self {
        Self { pod: PodKey::new(namespace, pod), endpoint: endpoint.into() }
    }
}

/// What is kept of one endpoint.
#[derive(Debug, Default)]
struct Source {
    /// Absent until a page was read.
    page: Option<Kept>,
    /// The last failed scrape, by its time.
    failure: Option<(Timestamp, String)>,
}

/// The last page that was read.
#[derive(Debug)]
struct Kept {
    layout: Arc<Layout>,
    /// One number for each item of the layout.
    values: Box<[f64]>,
    /// Times on the page that are reported, by position; nearly always empty.
    times: Box<[(usize, Timestamp)]>,
    /// When it was scraped.
    at: Timestamp,
    period: Duration,
    /// Counts pages over all sources: tells whether a page came before or after the restart of a pod it is about.
    turn: u64,
    engine: Option<EngineKind>,
    signals: Box<[(SignalName, f64)]>,
    /// Series left out for a limit.
    left_out: usize,
    /// Samples whose time on the page was too far from the scrape.
    clock_errors: usize,
}

impl Kept {
    fn limit(&self) -> Duration {
        self.period.saturating_mul(STALE_AFTER_PERIODS)
    }

    fn is_stale(&self, now: Timestamp) -> bool {
        now.since(self.at) > self.limit()
    }

    fn bytes(&self) -> usize {
        self.values.len() * VALUE_BYTES
    }
}

#[derive(Debug)]
struct Pod {
    labels: Labels,
    /// See [`rules::siblings`].
    siblings: Box<str>,
    is_ready: bool,
    started_at: Option<Timestamp>,
    /// Pages up to this turn are of a former life.
    since: u64,
    sources: BTreeMap<Arc<str>, Source>,
}

/// The latest values. Pure: the caller gives every time, and puts it behind a lock of its own.
#[derive(Debug, Default)]
pub struct Served {
    limits: ServedLimits,
    pods: BTreeMap<PodKey, Pod>,
    index: Index,
    /// For each pod that series of other pods' pages are about: those pages.
    claims: BTreeMap<PodKey, BTreeSet<PageSource>>,
    turn: u64,
    /// Bytes of the numbers.
    value_bytes: usize,
    /// Pods given and not taken for [`ServedLimits::max_pods`].
    pods_left_out: usize,
    scratch: ingest::Scratch,
}

impl Served {
    /// Nothing yet.
    #[must_use]
    pub fn new(limits: ServedLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Makes these the pods. Samples of pods that are gone, or that live another life, end here. Returns how many pods were left out for
    /// [`ServedLimits::max_pods`].
    pub fn set_pods(&mut self, pods: Vec<ServedPod>) -> usize {
        let mut before = std::mem::take(&mut self.pods);
        let given: BTreeMap<PodKey, ServedPod> =
            pods.into_iter().map(|pod| (PodKey::new(&pod.namespace, &pod.name), pod)).collect();
        self.pods_left_out = given.len().saturating_sub(self.limits.max_pods);
        for (key, pod) in given.into_iter().take(self.limits.max_pods) {
            let ServedPod { labels, is_ready, started_at, .. } = pod;
            let known = before.remove(&key);
            let siblings = match &known {
                Some(known) if known.labels == labels => known.siblings.clone(),
                _ => rules::siblings(&labels),
            };
            let restarted = known.as_ref().is_some_and(|pod| pod.started_at.is_some() && pod.started_at != started_at);
            let fresh = match known {
                Some(known) if !restarted => Pod { labels, siblings, is_ready, started_at, ..known },
                Some(known) => {
                    self.drop_sources(&key, known.sources);
                    Pod { labels, siblings, is_ready, started_at, since: self.turn, sources: BTreeMap::new() }
                }
                None => Pod { labels, siblings, is_ready, started_at, since: self.turn, sources: BTreeMap::new() },
            };
            self.pods.insert(key, fresh);
        }
        for (key, gone) in before {
            self.drop_sources(&key, gone.sources);
        }
        self.pods_left_out
    }

    /// A scrape that failed, and why: part of the reason where a value is missing. What was read before stays until it is stale.
    pub fn failed(&mut self, at: Timestamp, source: &PageSource, why: &str) {
        let limit = self.limits.max_endpoints_per_pod;
        let Some(pod) = self.pods.get_mut(&source.pod) else { return };
        if pod.sources.len() >= limit && !pod.sources.contains_key(&source.endpoint) {
            return;
        }
        let known = pod.sources.entry(Arc::clone(&source.endpoint)).or_default();
        if known.failure.as_ref().is_none_or(|(last, _)| *last < at) {
            known.failure = Some((at, why.to_owned()));
        }
    }

    /// An endpoint that is not scraped any more: its samples end.
    pub fn forget(&mut self, source: &PageSource) {
        let gone = self.pods.get_mut(&source.pod).and_then(|pod| pod.sources.remove_entry(&source.endpoint));
        self.drop_sources(&source.pod, gone.into_iter().collect());
    }

    /// Every endpoint that something is known of.
    pub fn sources(&self) -> impl Iterator<Item = PageSource> {
        self.pods.iter().flat_map(|(pod, known)| {
            known.sources.keys().map(|endpoint| PageSource { pod: pod.clone(), endpoint: Arc::clone(endpoint) })
        })
    }

    fn drop_sources(&mut self, pod: &PodKey, sources: BTreeMap<Arc<str>, Source>) {
        for (endpoint, source) in sources {
            if let Some(kept) = source.page {
                let from = PageSource { pod: pod.clone(), endpoint };
                self.unclaim(&from, &kept.layout);
                self.value_bytes -= kept.bytes();
                self.index.release(kept.layout);
            }
        }
    }

    fn claim(&mut self, from: &PageSource, layout: &Layout) {
        for owner in layout.owners.iter().filter(|owner| **owner != from.pod) {
            self.claims.entry(owner.clone()).or_default().insert(from.clone());
        }
    }

    fn unclaim(&mut self, from: &PageSource, layout: &Layout) {
        for owner in &layout.owners {
            if let Some(pages) = self.claims.get_mut(owner) {
                pages.remove(from);
                if pages.is_empty() {
                    self.claims.remove(owner);
                }
            }
        }
    }

    /// Bytes charged now.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.value_bytes + self.index.bytes()
    }

    /// Pods known.
    #[must_use]
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }

    /// Different series texts and different layouts kept.
    #[must_use]
    pub fn shared_count(&self) -> (usize, usize) {
        self.index.counts()
    }

    /// Names that can be asked for as Pods metrics, each in the spelling served and with `_` for `:`, and the normalised signals that some page carries in both
    /// spellings.
    #[must_use]
    pub fn custom_names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for (served, folded) in self.index.names() {
            names.insert(served.to_owned());
            names.insert(folded.to_owned());
        }
        let pages = self.pods.values().flat_map(|pod| pod.sources.values()).filter_map(|source| source.page.as_ref());
        let signals: BTreeSet<SignalName> = pages.flat_map(|page| page.signals.iter().map(|(name, _)| *name)).collect();
        names.extend(
            signals.into_iter().flat_map(|signal| query::SIGNAL_PREFIXES.map(|prefix| format!("{prefix}{signal}"))),
        );
        names
    }

    /// Names that can be asked for as External metrics: sums over pods of the same names.
    #[must_use]
    pub fn external_names(&self) -> BTreeSet<String> {
        self.custom_names()
    }
}
