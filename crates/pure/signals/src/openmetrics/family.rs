//! The rules of one metric family.

use super::grammar::{LabelSet, Moment, StrictSample};
use super::histogram::HistogramCheck;
use super::rule;
use crate::exposition::{LineProblem, MetricKind, parse_float};
use std::collections::BTreeSet;

pub(super) struct Family<'a> {
    pub(super) name: &'a str,
    pub(super) kind: Option<MetricKind>,
    pub(super) help: bool,
    pub(super) unit: Option<&'a str>,
    pub(super) has_samples: bool,
    /// Labels of the metric that the last sample belongs to.
    group: Option<LabelSet<'a>>,
    group_timestamp: Option<Moment>,
    /// Metrics that were seen; one may not come back after another.
    seen_groups: BTreeSet<LabelSet<'a>>,
    /// Series of the current metric at the current timestamp.
    seen_series: BTreeSet<(&'a str, LabelSet<'a>)>,
    histogram: HistogramCheck,
}

impl<'a> Family<'a> {
    pub(super) fn new(name: &'a str) -> Self {
        Self {
            name,
            kind: None,
            help: false,
            unit: None,
            has_samples: false,
            group: None,
            group_timestamp: None,
            seen_groups: BTreeSet::new(),
            seen_series: BTreeSet::new(),
            histogram: HistogramCheck::default(),
        }
    }

    fn kind(&self) -> MetricKind {
        self.kind.unwrap_or(MetricKind::Unknown)
    }

    /// What may follow the family's name in its samples.
    pub(super) fn suffixes(&self) -> &'static [&'static str] {
        match self.kind() {
            MetricKind::Counter => &["_total", "_created"],
            MetricKind::Summary => &["", "_count", "_sum", "_created"],
            MetricKind::Histogram => &["_count", "_sum", "_bucket", "_created"],
            MetricKind::GaugeHistogram => &["_gcount", "_gsum", "_bucket"],
            MetricKind::Info => &["_info"],
            MetricKind::Gauge | MetricKind::StateSet | MetricKind::Unknown => &[""],
        }
    }

    fn suffix_of(&self, sample: &'a str) -> Option<&'a str> {
        sample.strip_prefix(self.name).filter(|suffix| self.suffixes().contains(suffix))
    }

    pub(super) fn takes(&self, sample: &'a str) -> bool {
        self.suffix_of(sample).is_some()
    }

    pub(super) fn sample(&mut self, line: &'a str, sample: &StrictSample<'a>) -> Result<(), LineProblem> {
        self.has_samples = true;
        let suffix = self.suffix_of(sample.name).unwrap_or("");
        let edge = self.check_labels(line, suffix, sample)?;
        self.check_value(line, suffix, sample)?;
        let takes_exemplar = match self.kind() {
            MetricKind::Histogram | MetricKind::GaugeHistogram => suffix == "_bucket",
            MetricKind::Counter => suffix == "_total",
            _ => false,
        };
        if sample.has_exemplar && !takes_exemplar {
            return Err(rule(line, "only buckets and the `_total` of counters may carry exemplars"));
        }
        if self.check_order(line, suffix, sample)? {
            self.histogram.sample(line, suffix, edge, sample.value)?;
        }
        Ok(())
    }

    /// Checks the label that the type asks for; gives the upper edge of a bucket.
    fn check_labels(&self, line: &str, suffix: &str, sample: &StrictSample<'_>) -> Result<Option<f64>, LineProblem> {
        let label =
            |name: &str| sample.labels.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_ref());
        let number = |name: &str| {
            // infinity has one spelling
            label(name)
                .and_then(|text| Some((text, parse_float(text)?)))
                .filter(|(text, value)| !value.is_nan() && (*value != f64::INFINITY || *text == "+Inf"))
                .map(|(_, value)| value)
        };
        match self.kind() {
            MetricKind::Histogram | MetricKind::GaugeHistogram if suffix == "_bucket" => match number("le") {
                Some(edge) => Ok(Some(edge)),
                None => Err(rule(line, "a bucket needs an `le` label with a number; infinity is written `+Inf`")),
            },
            MetricKind::Summary if suffix.is_empty() => match number("quantile") {
                Some(quantile) if (0.0..=1.0).contains(&quantile) => Ok(None),
                _ => Err(rule(line, "a quantile needs a `quantile` label from 0 to 1")),
            },
            MetricKind::StateSet if label(self.name).is_none() => {
                Err(rule(line, "a state needs a label with the name of its family"))
            }
            _ => Ok(None),
        }
    }

    fn check_value(&self, line: &str, suffix: &str, sample: &StrictSample<'_>) -> Result<(), LineProblem> {
        let value = sample.value;
        let counter_like = ["_total", "_sum", "_count", "_bucket", "_gcount"].contains(&suffix);
        if value.is_nan() && (counter_like || suffix == "_gsum") {
            return Err(rule(line, "totals, sums, counts and buckets cannot be NaN"));
        }
        if value < 0.0 && counter_like {
            return Err(rule(line, "totals, sums, counts and buckets cannot be negative"));
        }
        if ["_count", "_bucket", "_gcount"].contains(&suffix) && (value.fract() != 0.0 || value.is_infinite()) {
            return Err(rule(line, "counts and buckets are whole numbers"));
        }
        match self.kind() {
            MetricKind::StateSet if value != 0.0 && value != 1.0 => Err(rule(line, "a state is 0 or 1")),
            MetricKind::Info if value != 1.0 => Err(rule(line, "the value of an info metric is 1")),
            MetricKind::Summary if suffix.is_empty() && value < 0.0 => {
                Err(rule(line, "the value of a quantile cannot be negative"))
            }
            _ => Ok(()),
        }
    }

    /// The labels that tell metrics of this family apart.
    fn group_of(&self, suffix: &str, sample: &StrictSample<'a>) -> LabelSet<'a> {
        let own = match self.kind() {
            // the labels of an info metric are its content
            MetricKind::Info => return LabelSet::new(),
            MetricKind::Summary if suffix.is_empty() => "quantile",
            MetricKind::StateSet => self.name,
            MetricKind::Histogram | MetricKind::GaugeHistogram if suffix == "_bucket" => "le",
            _ => return sample.labels.clone(),
        };
        sample.labels.iter().filter(|(name, _)| *name != own).cloned().collect()
    }

    /// Checks grouping, timestamps and repetition; `false` for a repetition that only the rounding of timestamps explains.
    fn check_order(&mut self, line: &'a str, suffix: &str, sample: &StrictSample<'a>) -> Result<bool, LineProblem> {
        let group = self.group_of(suffix, sample);
        let same_group = self.group.as_ref() == Some(&group);
        let same_time = self.group_timestamp == sample.timestamp;
        if same_group {
            if sample.timestamp.is_some() != self.group_timestamp.is_some() {
                return Err(rule(line, "either all or no samples of a metric have a timestamp"));
            }
            if sample.timestamp < self.group_timestamp && self.kind() != MetricKind::Info {
                return Err(rule(line, "timestamps of a metric must not go backwards"));
            }
        } else if self.seen_groups.contains(&group) {
            return Err(rule(line, "samples of one metric must stand together"));
        }
        if !same_group || !same_time {
            self.histogram_end(line)?;
            self.seen_series.clear();
        }
        self.group_timestamp = sample.timestamp;
        if !same_group {
            self.seen_groups.insert(group.clone());
            self.group = Some(group);
        }
        let fresh = self.seen_series.insert((sample.name, sample.labels.clone()));
        if !fresh && sample.timestamp.is_none() {
            return Err(rule(line, "the series is repeated without a timestamp"));
        }
        Ok(fresh)
    }

    fn histogram_end(&mut self, line: &str) -> Result<(), LineProblem> {
        let begun = self.group.is_some();
        match self.kind() {
            MetricKind::Histogram | MetricKind::GaugeHistogram if begun => {
                std::mem::take(&mut self.histogram).finish(line)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn finish(&self, line: &str) -> Result<(), LineProblem> {
        let unit = self.unit.unwrap_or("");
        if !unit.is_empty() {
            if !self.name.strip_suffix(unit).is_some_and(|stem| stem.ends_with('_')) {
                return Err(rule(line, "the name of the family before this line does not end in its unit"));
            }
            if matches!(self.kind(), MetricKind::Info | MetricKind::StateSet) {
                return Err(rule(line, "the family before this line has a type that takes no unit"));
            }
        }
        match self.kind() {
            MetricKind::Histogram | MetricKind::GaugeHistogram if self.group.is_some() => self.histogram.finish(line),
            _ => Ok(()),
        }
    }
}
