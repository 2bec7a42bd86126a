//! From the samples of a page to signals.

use super::kinds::{EngineKind, SignalName};
use super::page::{Kept, Page};
use super::table::{Fold, Layer, Only, Source, layers};
use super::{Histogram, SignalReading};
use std::collections::BTreeMap;

/// Above this a KV use is a percentage. All known engines report a fraction, whatever their names say.
const PERCENT_FROM: f64 = 1.5;

/// The labels in which the ranks of one engine differ, the one that decides first in front.
const RANKS: [&str; 4] = ["pp_rank", "tp_rank", "moe_ep_rank", "pid"];

pub(super) fn signals(engine: EngineKind, page: &Page<'_>) -> BTreeMap<SignalName, SignalReading> {
    let mut found = BTreeMap::new();
    for layer in layers(engine) {
        let reader = Reader { page, layer };
        for rule in layer.rules {
            if found.contains_key(&rule.signal) {
                continue;
            }
            if let Some(mut reading) = rule.sources.iter().find_map(|source| reader.source(source)) {
                if rule.signal == SignalName::KvCacheUtilization {
                    reading.value = as_fraction(reading.value);
                }
                if reading.value.is_finite() {
                    found.insert(rule.signal, reading);
                }
            }
        }
    }
    found
}

fn as_fraction(use_of_kv: f64) -> f64 {
    let fraction = if use_of_kv > PERCENT_FROM { use_of_kv / 100.0 } else { use_of_kv };
    fraction.clamp(0.0, 1.0)
}

struct Reader<'p, 'a> {
    page: &'p Page<'a>,
    layer: &'static Layer,
}

impl<'a> Reader<'_, 'a> {
    fn source(&self, source: &Source) -> Option<SignalReading> {
        match source {
            Source::Gauge { name, plus, fold, only } => {
                let mut used = self.gauges(name, *only);
                if used.is_empty() {
                    return None;
                }
                for name in *plus {
                    used.extend(self.gauges(name, *only));
                }
                Some(plain(folded(&used, *fold), &used))
            }
            Source::Counter { name, only } => {
                let used = self.counters(name, *only);
                (!used.is_empty()).then(|| plain(folded(&used, Fold::Sum), &used))
            }
            Source::Histogram { name, only } => self.histogram(name, *only),
            Source::Difference { of, less } => self.pair(of, less, |of, less| Some((of - less).max(0.0))),
            Source::Ratio { of, by } => self.pair(of, by, |of, by| (by > 0.0).then(|| of / by)),
            Source::Product { of, by, label } => self.product(of, by, label),
            Source::LabelValue { name, label } => {
                self.label_numbers(name, Fold::Sum, |sample| number(sample, &[label]))
            }
            Source::LabelProduct { name, sizes, counts, fold } => {
                self.label_numbers(name, *fold, |sample| Some(number(sample, sizes)? * number(sample, counts)?))
            }
        }
    }

    fn pair(&self, a: &str, b: &str, of: impl Fn(f64, f64) -> Option<f64>) -> Option<SignalReading> {
        let (a, b) = (self.gauges(a, None), self.gauges(b, None));
        if a.is_empty() || b.is_empty() {
            return None;
        }
        let value = of(folded(&a, Fold::Sum), folded(&b, Fold::Sum))?;
        Some(plain(value, &[a, b].concat()))
    }

    fn product(&self, of: &str, by: &str, label: &str) -> Option<SignalReading> {
        let sizes = self.gauges(by, None);
        let mut used = Vec::new();
        let mut total = 0.0;
        for one in self.gauges(of, None) {
            let wanted = one.labels.get(label);
            let size = sizes.iter().find(|size| size.labels.get(label) == wanted)?;
            total += one.value * size.value;
            used.extend([one, *size]);
        }
        (!used.is_empty()).then(|| plain(total, &used))
    }

    /// A number from the labels of every series; nothing if one of them lacks it (Python writes `None`).
    fn label_numbers(&self, name: &str, fold: Fold, read: impl Fn(&Kept<'a>) -> Option<f64>) -> Option<SignalReading> {
        let used = self.gauges(name, None);
        let numbers: Option<Vec<f64>> = used.iter().map(read).collect();
        let value = numbers?.into_iter().reduce(|a, b| join(a, b, fold))?;
        Some(plain(value, &used))
    }

    fn gauges(&self, name: &str, only: Only) -> Vec<Kept<'a>> {
        let mut samples = self.counters(name, only);
        if self.layer.ranked {
            samples.retain(|sample| sample.labels.get("priority").is_none_or(|priority| priority.is_empty()));
        }
        samples
    }

    fn counters(&self, name: &str, only: Only) -> Vec<Kept<'a>> {
        let mut samples = self.page.of(name);
        if let Some((label, value)) = only {
            samples.retain(|sample| sample.labels.get(label).is_some_and(|found| found == value));
        }
        if self.layer.ranked { lowest_ranks(samples) } else { samples }
    }

    fn histogram(&self, name: &str, only: Only) -> Option<SignalReading> {
        let counts = self.counters(&format!("{name}_count"), only);
        if counts.is_empty() {
            return None;
        }
        let sums = self.counters(&format!("{name}_sum"), only);
        let buckets = self.counters(&format!("{name}_bucket"), only);
        let count = folded(&counts, Fold::Sum);
        let sum = folded(&sums, Fold::Sum);
        let histogram =
            (!sums.is_empty() && sum.is_finite()).then(|| Histogram { buckets: added_buckets(&buckets), sum, count });
        Some(SignalReading { histogram, ..plain(count, &[counts, sums].concat()) })
    }
}

fn plain(value: f64, used: &[Kept<'_>]) -> SignalReading {
    SignalReading { value, series: used.iter().map(|sample| sample.series.to_owned()).collect(), histogram: None }
}

fn folded(samples: &[Kept<'_>], fold: Fold) -> f64 {
    samples.iter().map(|sample| sample.value).reduce(|a, b| join(a, b, fold)).unwrap_or_default()
}

fn join(a: f64, b: f64, fold: Fold) -> f64 {
    match fold {
        Fold::Sum => a + b,
        Fold::Max => a.max(b),
        Fold::Min => a.min(b),
    }
}

fn number(sample: &Kept<'_>, labels: &[&str]) -> Option<f64> {
    let text = labels.iter().find_map(|label| sample.labels.get(label))?;
    text.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0)
}

/// Of series that differ only in their ranks, the one of the lowest: the others repeat it. Data-parallel ranks are not among these labels.
pub(crate) fn lowest_ranks(samples: Vec<Kept<'_>>) -> Vec<Kept<'_>> {
    let ranks: Vec<[u64; RANKS.len()]> = samples.iter().map(ranks).collect();
    if ranks.windows(2).all(|pair| pair.first() == pair.last()) {
        return samples;
    }
    let mut lowest: BTreeMap<String, usize> = BTreeMap::new();
    for (at, sample) in samples.iter().enumerate() {
        let others = sample.labels.iter().filter(|(name, _)| !RANKS.contains(&name.as_ref()));
        let key = others.map(|(name, value)| format!("{name}={value:?},")).collect();
        let best = lowest.entry(key).or_insert(at);
        if ranks.get(at) < ranks.get(*best) {
            *best = at;
        }
    }
    let mut kept: Vec<usize> = lowest.into_values().collect();
    kept.sort_unstable();
    kept.iter().filter_map(|at| samples.get(*at)).copied().collect()
}

fn ranks(sample: &Kept<'_>) -> [u64; RANKS.len()] {
    let mut ranks = [0; RANKS.len()];
    for (name, value) in sample.labels.iter() {
        let place = RANKS.iter().position(|rank| *rank == name).and_then(|at| ranks.get_mut(at));
        if let Some(place) = place {
            *place = value.parse().unwrap_or(u64::MAX);
        }
    }
    ranks
}

/// An edge, ordered as a number.
#[derive(Debug, Clone, Copy)]
struct Edge(f64);

impl PartialEq for Edge {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Edge {}

impl PartialOrd for Edge {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Edge {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Adds cumulative buckets by edge. `le` compares as a number: `1`, `1.0` and `1e+00` are one edge.
fn added_buckets(samples: &[Kept<'_>]) -> Vec<(f64, f64)> {
    let mut edges: BTreeMap<Edge, (f64, usize)> = BTreeMap::new();
    for sample in samples {
        let edge = sample.labels.get("le").and_then(|le| le.parse().ok()).filter(|edge: &f64| !edge.is_nan());
        if let Some(edge) = edge {
            // -0.0 and 0.0 are one edge
            let (count, series) = edges.entry(Edge(edge + 0.0)).or_insert((0.0, 0));
            *count += sample.value;
            *series += 1;
        }
    }
    let all = edges.values().map(|(_, series)| *series).max().unwrap_or_default();
    let exact = edges.into_iter().filter(|(_, (_, series))| *series == all);
    exact.map(|(edge, (count, _))| (edge.0, count)).collect()
}
