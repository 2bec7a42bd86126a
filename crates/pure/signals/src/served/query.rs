//! Answers: one pod, the pods of a selector, the sum over a pool.

use super::layout::Series;
use super::nearest::nearest;
use super::reason::{NoValue, PodNoValue, PodReason};
use super::rules::{self, Fold, PART_LABELS};
use super::{Kept, Pod, PodKey, PodSelector, Requirement, Selector, Served, Source};
use crate::dialect::{self, EngineKind, SignalName};
use loadline_base::{Labels, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// What stands before the name of a normalised signal; the second is the first as adapters spell it.
pub(super) const SIGNAL_PREFIXES: [&str; 2] = ["loadline:", "loadline_"];

/// How the names of SGLang's series begin: of them totals count and not their parts, one rank and not its repetitions.
const RANKED_PREFIX: &str = "sglang_";

/// One pod's value.
#[derive(Debug, Clone, PartialEq)]
pub struct PodValue {
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// The pod.
    pub pod: Arc<str>,
    /// Finite.
    pub value: f64,
    /// The time of the oldest sample in it.
    pub at: Timestamp,
}

/// A pool's value.
#[derive(Debug, Clone, PartialEq)]
pub struct ExternalValue {
    /// The labels that the selector fixed.
    pub labels: Labels,
    /// The sum over the pods; finite.
    pub value: f64,
    /// The time of the oldest sample in it.
    pub at: Timestamp,
    /// How many pods are in it.
    pub pods: usize,
}

/// The normalised signals of one pod.
#[derive(Debug, Clone, PartialEq)]
pub struct PodReading {
    /// Whose pages they are, as declared or detected.
    pub engine: Option<EngineKind>,
    /// What the pages carry.
    pub signals: BTreeMap<SignalName, f64>,
    /// The time of the oldest page in it.
    pub at: Timestamp,
}

/// What a name asks for.
#[derive(Debug)]
pub(super) struct Metric<'m> {
    /// As asked.
    pub(super) asked: &'m str,
    /// With `_` for `:`.
    pub(super) folded: String,
    pub(super) signal: Option<SignalName>,
}

impl<'m> Metric<'m> {
    pub(super) fn new(asked: &'m str) -> Self {
        let folded = asked.replace(':', "_");
        let signal =
            SIGNAL_PREFIXES.iter().find_map(|prefix| folded.strip_prefix(prefix)).and_then(SignalName::from_name);
        Self { asked, folded, signal }
    }
}

/// A series of a pod, on whatever page.
#[derive(Clone, Copy)]
pub(super) struct Found<'s> {
    pub(super) page: &'s PodKey,
    pub(super) source: &'s Source,
    pub(super) kept: &'s Kept,
    pub(super) place: usize,
    pub(super) series: &'s Series,
}

impl Found<'_> {
    pub(super) fn value(&self) -> f64 {
        self.kept.values.get(self.place).copied().unwrap_or(f64::NAN)
    }

    pub(super) fn at(&self) -> Timestamp {
        let on_page = self.kept.times.iter().find(|(place, _)| *place == self.place);
        on_page.map_or(self.kept.at, |(_, at)| *at)
    }
}

/// How signals of several pages of one pod join.
fn join(signal: SignalName, a: f64, b: f64) -> f64 {
    match signal {
        SignalName::KvCacheUtilization => a.max(b),
        SignalName::EngineAwake => a.min(b),
        _ => a + b,
    }
}

impl Served {
    /// The value of every pod of a namespace that `selector` selects by its labels and that has one, in order of the names. Pods that are not
    /// ready are among them: who asks decides about these. Series labels are selected by `metric_selector`.
    ///
    /// # Errors
    /// When no pod is selected, or none of them has a value.
    pub fn pods_metric(
        &self,
        now: Timestamp,
        namespace: &str,
        selector: &PodSelector,
        metric: &str,
        metric_selector: &Selector,
    ) -> Result<Vec<PodValue>, NoValue> {
        let metric = Metric::new(metric);
        let (mut values, mut reasons) = (Vec::new(), Vec::new());
        for (key, pod) in self.of_namespace(namespace).filter(|(_, pod)| selector.matches(&pod.labels)) {
            match self.pod_value(now, key, pod, &metric, metric_selector) {
                Ok((value, at)) => values.push(PodValue {
                    namespace: Arc::clone(&key.namespace),
                    pod: Arc::clone(&key.name),
                    value,
                    at,
                }),
                Err(reason) => reasons.push(PodNoValue { pod: key.clone(), reason }),
            }
        }
        if !values.is_empty() {
            return Ok(values);
        }
        Err(self.none(namespace, &selector.to_string(), &metric, reasons))
    }

    /// The value of one pod.
    ///
    /// # Errors
    /// When the pod is not known or has no value.
    pub fn pod_metric(
        &self,
        now: Timestamp,
        namespace: &str,
        pod: &str,
        metric: &str,
        metric_selector: &Selector,
    ) -> Result<PodValue, NoValue> {
        let metric = Metric::new(metric);
        let key = PodKey::new(namespace, pod);
        let outcome = match self.pods.get(&key) {
            Some(known) => self.pod_value(now, &key, known, &metric, metric_selector),
            None => Err(PodReason::UnknownPod),
        };
        match outcome {
            Ok((value, at)) => Ok(PodValue { namespace: key.namespace, pod: key.name, value, at }),
            Err(reason @ PodReason::NotOnPage { .. }) => {
                Err(self.none(namespace, "", &metric, vec![PodNoValue { pod: key, reason }]))
            }
            Err(reason) => {
                Err(NoValue::Pod { metric: metric.asked.to_owned(), reason: PodNoValue { pod: key, reason } })
            }
        }
    }

    /// The sum over the ready pods of a namespace that `selector` selects. Each of its conditions is held against the pod's label where the pod has one of
    /// that name, else against the labels of the series. There is one value or none: a ready pod that should have the metric, because it or a pod with
    /// the same labels has it, and that has no value now, leaves the whole sum without one.
    ///
    /// # Errors
    /// When no pod is selected, none of them has a value, or one lacks the value it should have.
    pub fn external(
        &self,
        now: Timestamp,
        namespace: &str,
        metric: &str,
        selector: &Selector,
    ) -> Result<Vec<ExternalValue>, NoValue> {
        let metric = Metric::new(metric);
        let chosen: Vec<Chosen<'_>> =
            self.of_namespace(namespace).filter_map(|(key, pod)| Chosen::of(key, pod, selector)).collect();
        let having: Vec<&Chosen<'_>> = chosen.iter().filter(|chosen| self.had(chosen, &metric)).collect();
        let families: BTreeSet<&str> = having.iter().map(|chosen| &*chosen.pod.siblings).collect();
        let mut sum = ExternalValue { labels: fixed(selector), value: 0.0, at: Timestamp::MAX, pods: 0 };
        let (mut missing, mut other) = (Vec::new(), Vec::new());
        for Chosen { key, pod, on_series } in chosen {
            let refused = |reason| PodNoValue { pod: key.clone(), reason };
            if !pod.is_ready {
                other.push(refused(PodReason::NotReady));
                continue;
            }
            match self.pod_value(now, key, pod, &metric, &on_series) {
                Ok((value, at)) => {
                    sum.value += value;
                    sum.at = sum.at.min(at);
                    sum.pods += 1;
                }
                // its page says that it has nothing to add
                Err(reason @ PodReason::NoSeries { .. }) => other.push(refused(reason)),
                Err(reason) if families.contains(&*pod.siblings) => missing.push(refused(reason)),
                Err(reason) => other.push(refused(reason)),
            }
        }
        if !missing.is_empty() {
            let ready = sum.pods + missing.len();
            return Err(NoValue::Incomplete { metric: metric.asked.to_owned(), ready, reasons: missing });
        }
        if sum.pods == 0 {
            return Err(self.none(namespace, &selector.to_string(), &metric, other));
        }
        Ok(vec![sum])
    }

    /// The normalised signals of a pod.
    ///
    /// # Errors
    /// When the pod is not known or has no fresh page.
    pub fn reading(&self, now: Timestamp, namespace: &str, pod: &str) -> Result<PodReading, NoValue> {
        let key = PodKey::new(namespace, pod);
        let refused =
            |reason| NoValue::Pod { metric: "loadline:*".to_owned(), reason: PodNoValue { pod: key.clone(), reason } };
        let known = self.pods.get(&key).ok_or_else(|| refused(PodReason::UnknownPod))?;
        let mut all = PodReading { engine: None, signals: BTreeMap::new(), at: Timestamp::MAX };
        for source in known.sources.values() {
            let Some(kept) = source.page.as_ref().filter(|kept| !kept.is_stale(now)) else {
                return Err(refused(unread(now, source)));
            };
            all.engine = all.engine.or(kept.engine);
            all.at = all.at.min(kept.at);
            for (signal, value) in &kept.signals {
                let joined = all.signals.get(signal).map_or(*value, |known| join(*signal, *known, *value));
                all.signals.insert(*signal, joined);
            }
        }
        if known.sources.is_empty() { Err(refused(PodReason::NeverScraped)) } else { Ok(all) }
    }

    pub(super) fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = (&PodKey, &Pod)> {
        let first = PodKey::new(namespace, "");
        let from = self.pods.range((Bound::Included(&first), Bound::Unbounded));
        let namespace = Arc::clone(&first.namespace);
        from.take_while(move |(key, _)| key.namespace == namespace).collect::<Vec<_>>().into_iter()
    }

    /// The value of a pod, and the time of its oldest sample.
    pub(super) fn pod_value(
        &self,
        now: Timestamp,
        key: &PodKey,
        pod: &Pod,
        metric: &Metric<'_>,
        selector: &Selector,
    ) -> Result<(f64, Timestamp), PodReason> {
        if let Some(signal) = metric.signal
            && let Some(value) = signal_value(now, pod, signal, selector)
        {
            return value;
        }
        let found = self.found(key, pod, &metric.folded);
        if found.is_empty() {
            return Err(absent(now, pod));
        }
        let chosen = chosen(found, &metric.folded, selector)?;
        if let Some(stale) = chosen.iter().find(|found| found.kept.is_stale(now)) {
            return Err(unread(now, stale.source));
        }
        if let Some(none) = chosen.iter().find(|found| !found.value().is_finite()) {
            return Err(PodReason::NotFinite { series: none.series.shown(), value: none.value() });
        }
        let fold = rules::fold_of(&metric.folded).fold;
        let at = chosen.iter().map(Found::at).min().unwrap_or(now);
        let value = folded(fold, &metric.folded, &chosen);
        value
            .filter(|value| value.is_finite())
            .map(|value| (value, at))
            .ok_or(PodReason::NotFinite { series: metric.asked.to_owned(), value: f64::INFINITY })
    }

    /// The series of a name that are about a pod: on its own pages, else on those of others.
    pub(super) fn found<'s>(&'s self, key: &'s PodKey, pod: &'s Pod, folded: &'s str) -> Vec<Found<'s>> {
        let mut found = Vec::new();
        for source in pod.sources.values() {
            let is_own =
                |owner: Option<&PodKey>| owner.is_none_or(|owner| owner == key || !self.pods.contains_key(owner));
            add_found(&mut found, key, source, folded, &is_own);
        }
        if found.is_empty() {
            for page in self.claims.get(key).into_iter().flatten().filter(|page| page.pod != *key) {
                let source = self
                    .pods
                    .get_key_value(&page.pod)
                    .and_then(|(pod, known)| Some((pod, known.sources.get(&page.endpoint)?)));
                // a page from before the pod's restart is about its former life
                let lived = |kept: &Kept| kept.turn > pod.since;
                if let Some((from, source)) = source.filter(|(_, source)| source.page.as_ref().is_some_and(lived)) {
                    add_found(&mut found, from, source, folded, &|owner| owner == Some(key));
                }
            }
        }
        found
    }

    /// Whether the pod's pages had the metric when they were last read, with a series that the selector selects.
    fn had(&self, chosen: &Chosen<'_>, metric: &Metric<'_>) -> bool {
        let Chosen { key, pod, on_series } = chosen;
        let by_signal = metric.signal.is_some_and(|signal| {
            let mut pages = pod.sources.values().filter_map(|source| source.page.as_ref());
            on_series.matches(&Labels::new()) && pages.any(|kept| kept.signals.iter().any(|(name, _)| *name == signal))
        });
        by_signal || self.found(key, pod, &metric.folded).iter().any(|found| selects(on_series, found.series))
    }

    /// Why none of the selected pods has a value.
    fn none(&self, namespace: &str, selector: &str, metric: &Metric<'_>, reasons: Vec<PodNoValue>) -> NoValue {
        if reasons.is_empty() {
            let known = self.of_namespace(namespace).count();
            return NoValue::NoPods { namespace: namespace.to_owned(), selector: selector.to_owned(), known };
        }
        let is_absent = |reason: &&PodNoValue| matches!(reason.reason, PodReason::NotOnPage { left_out: 0 });
        let absent = reasons.iter().filter(is_absent).count();
        let is_unread = |reason: &&PodNoValue| {
            matches!(reason.reason, PodReason::NeverScraped | PodReason::NeverRead { .. } | PodReason::Stale { .. })
        };
        let unread = reasons.iter().filter(is_unread).count();
        let metric = metric.asked.to_owned();
        if absent == 0 || absent + unread < reasons.len() {
            return NoValue::NoneNow { metric, reasons };
        }
        let nearest = self.nearest_name(&metric, &reasons);
        NoValue::UnknownMetric { metric, namespace: namespace.to_owned(), pods: reasons.len(), unread, nearest }
    }

    /// The name on the pages of these pods that is most like the one asked for.
    fn nearest_name(&self, metric: &str, pods: &[PodNoValue]) -> Option<String> {
        let pods = pods.iter().filter_map(|pod| self.pods.get(&pod.pod));
        let pages = pods.flat_map(|pod| pod.sources.values()).filter_map(|source| source.page.as_ref());
        let mut names: BTreeSet<&str> = BTreeSet::new();
        let mut signals = BTreeSet::new();
        let mut layouts = BTreeSet::new();
        for kept in pages {
            signals.extend(kept.signals.iter().map(|(signal, _)| format!("{}{signal}", SIGNAL_PREFIXES[0])));
            if layouts.insert(Arc::as_ptr(&kept.layout)) {
                names.extend(kept.layout.names().map(|name| &*name.served));
            }
        }
        nearest(metric, names.into_iter().chain(signals.iter().map(String::as_str))).map(str::to_owned)
    }
}

/// A pod whose own labels fit, with the conditions that are left for its series.
struct Chosen<'s> {
    key: &'s PodKey,
    pod: &'s Pod,
    on_series: Selector,
}

impl<'s> Chosen<'s> {
    fn of(key: &'s PodKey, pod: &'s Pod, selector: &Selector) -> Option<Self> {
        let mut on_series = Selector::all();
        for requirement in &selector.requirements {
            match pod.labels.get(&requirement.key) {
                Some(value) if requirement.matches(Some(value)) => {}
                Some(_) => return None,
                None => on_series.requirements.push(requirement.clone()),
            }
        }
        Some(Self { key, pod, on_series })
    }
}

/// The labels that a selector leaves one value.
fn fixed(selector: &Selector) -> Labels {
    let one = |requirement: &Requirement| match (requirement.operator, requirement.values.as_slice()) {
        (super::Operator::In, [value]) => Some((requirement.key.clone(), value.clone())),
        _ => None,
    };
    selector.requirements.iter().filter_map(one).collect()
}

pub(super) fn selects(selector: &Selector, series: &Series) -> bool {
    selector.requirements.iter().all(|requirement| {
        // a label with an empty value is an absent one, as Prometheus has it
        let value = series.label(&requirement.key).filter(|value| !value.is_empty());
        requirement.matches(value.as_deref())
    })
}

fn add_found<'s>(
    found: &mut Vec<Found<'s>>,
    page: &'s PodKey,
    source: &'s Source,
    folded: &'s str,
    is_about: &dyn Fn(Option<&PodKey>) -> bool,
) {
    let Some(kept) = &source.page else { return };
    let of_pod = kept.layout.of(folded).filter(|(_, series)| is_about(series.owner.as_deref()));
    found.extend(of_pod.map(|(place, series)| Found { page, source, kept, place, series }));
}

/// Those that count: selected, and of several that say one thing, one.
pub(super) fn chosen<'s>(
    found: Vec<Found<'s>>,
    folded: &str,
    selector: &Selector,
) -> Result<Vec<Found<'s>>, PodReason> {
    let mut chosen: Vec<Found<'s>> = found.into_iter().filter(|found| selects(selector, found.series)).collect();
    if chosen.is_empty() {
        return Err(PodReason::NoSeries { selector: selector.to_string() });
    }
    for (label, ending) in PART_LABELS {
        let mut values = chosen.iter().map(|found| found.series.label(label));
        let first = values.next().flatten();
        if ending.is_none_or(|ending| folded.ends_with(ending)) && values.any(|value| value != first) {
            return Err(PodReason::Ambiguous { label });
        }
    }
    if folded.starts_with(RANKED_PREFIX) && !selector.names("priority") {
        let is_total = |found: &Found<'_>| found.series.label("priority").is_none_or(|priority| priority.is_empty());
        if chosen.iter().any(is_total) {
            chosen.retain(is_total);
        }
    }
    Ok(chosen)
}

fn folded(fold: Fold, name: &str, chosen: &[Found<'_>]) -> Option<f64> {
    if chosen.len() > 1 && name.starts_with(RANKED_PREFIX) {
        let samples = chosen.iter().map(|found| dialect::Kept {
            value: found.value(),
            series: &found.series.text,
            labels: found.series.raw_labels(),
        });
        return fold.join(dialect::lowest_ranks(samples.collect()).into_iter().map(|sample| sample.value));
    }
    fold.join(chosen.iter().map(Found::value))
}

/// A signal of a pod; `None` if no page of it has it.
fn signal_value(
    now: Timestamp,
    pod: &Pod,
    signal: SignalName,
    selector: &Selector,
) -> Option<Result<(f64, Timestamp), PodReason>> {
    let mut joined: Option<(f64, Timestamp)> = None;
    for source in pod.sources.values() {
        let Some(kept) = &source.page else { continue };
        let Some((_, value)) = kept.signals.iter().find(|(name, _)| *name == signal) else { continue };
        if kept.is_stale(now) {
            return Some(Err(unread(now, source)));
        }
        joined = Some(joined.map_or((*value, kept.at), |(known, at)| (join(signal, known, *value), at.min(kept.at))));
    }
    let value = joined?;
    // a signal has no labels of its own
    let selected = selector.matches(&Labels::new());
    Some(if selected { Ok(value) } else { Err(PodReason::NoSeries { selector: selector.to_string() }) })
}

/// Why a pod has no series of a name.
pub(super) fn absent(now: Timestamp, pod: &Pod) -> PodReason {
    let is_fresh = |source: &&Source| source.page.as_ref().is_some_and(|kept| !kept.is_stale(now));
    match pod.sources.values().find(|source| !is_fresh(source)) {
        Some(source) => unread(now, source),
        None if pod.sources.is_empty() => PodReason::NeverScraped,
        None => {
            let left_out =
                pod.sources.values().filter_map(|source| source.page.as_ref()).map(|kept| kept.left_out).sum();
            PodReason::NotOnPage { left_out }
        }
    }
}

/// Why a source has no fresh page.
pub(super) fn unread(now: Timestamp, source: &Source) -> PodReason {
    let why = source.failure.as_ref().map(|(_, why)| why.clone());
    match &source.page {
        Some(kept) => {
            let since = |(at, why): &(Timestamp, String)| (*at > kept.at).then(|| why.clone());
            let why = source.failure.as_ref().and_then(since);
            PodReason::Stale { age: now.since(kept.at), limit: kept.limit(), why }
        }
        None => why.map_or(PodReason::NeverScraped, |why| PodReason::NeverRead { why }),
    }
}
