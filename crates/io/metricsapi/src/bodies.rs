//! Lists of values as the two groups print them (k8s.io/metrics `custom_metrics` and `external_metrics` types).

use crate::route::{CUSTOM, CustomVersion, EXTERNAL, EXTERNAL_VERSION};
use crate::selector::LabelSelector;
use crate::source::{Described, Value};
use crate::status::{JSON, Reply, json};
use loadline_base::{Labels, Quantity, Timestamp, num};
use serde::Serialize;
use std::time::Duration;

/// A value as it is served: cut to whole milli-units towards zero, as prometheus-adapter does it
/// (`int64(value * 1000)`), so that both give an HPA the same number. `None` for what is no number or too large: those
/// are errors here, where that adapter prints the smallest integer.
pub(crate) fn quantity(value: f64) -> Option<Quantity> {
    let milli = value * 1000.0;
    // 2^63: the first double that an i64 does not hold
    let limit = 9_223_372_036_854_775_808.0;
    (milli > -limit && milli < limit).then(|| Quantity::from_milli(num::f64_to_i64_trunc(milli)))
}

/// Prints instants in whole seconds, RFC 3339; most items of a list share one.
#[derive(Default)]
struct Instants {
    last: Option<(i64, String)>,
}

impl Instants {
    fn print(&mut self, at: Timestamp) -> String {
        let seconds = at.as_nanos().div_euclid(1_000_000_000);
        match &self.last {
            Some((have, text)) if *have == seconds => text.clone(),
            _ => {
                let text = jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string();
                self.last = Some((seconds, text.clone()));
                text
            }
        }
    }
}

#[derive(Serialize)]
struct Metadata {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<T> {
    kind: &'static str,
    api_version: String,
    metadata: Metadata,
    items: Vec<T>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reference<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    name: &'a str,
    api_version: &'static str,
}

#[derive(Serialize)]
struct Identifier<'a> {
    name: &'a str,
    selector: &'a Option<LabelSelector>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ItemV2<'a> {
    described_object: Reference<'a>,
    metric: Identifier<'a>,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_seconds: Option<u64>,
    value: Quantity,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ItemV1<'a> {
    described_object: Reference<'a>,
    metric_name: &'a str,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<u64>,
    value: Quantity,
    selector: &'a Option<LabelSelector>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ItemExternal<'a> {
    metric_name: &'a str,
    metric_labels: Option<&'a Labels>,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<u64>,
    value: Quantity,
}

/// What all items of a list share.
pub(crate) struct Shared<'a> {
    /// The metric's name as it was asked for.
    pub(crate) metric: &'a str,
    /// The metric selector as it was asked for.
    pub(crate) selector: Option<LabelSelector>,
    /// The window.
    pub(crate) window: Duration,
}

impl Shared<'_> {
    /// Whole seconds, rounded up; unset when there is none.
    fn seconds(&self) -> Option<u64> {
        let whole = self.window.as_secs() + u64::from(self.window.subsec_nanos() > 0);
        (whole > 0).then_some(whole)
    }
}

/// The name of the first value that cannot be printed.
#[derive(Debug, PartialEq)]
pub(crate) struct NoNumber(pub(crate) f64);

/// A `MetricValueList`. Values that describe no object are left out.
pub(crate) fn custom(version: CustomVersion, values: &[Value], shared: &Shared<'_>) -> Result<Reply, NoNumber> {
    let mut instants = Instants::default();
    let window = shared.seconds();
    let mut read = |value: &Value| Ok((quantity(value.value).ok_or(NoNumber(value.value))?, instants.print(value.at)));
    let objects = values.iter().filter_map(|value| match &value.of {
        Described::Object { kind, api_version, namespace, name } => {
            Some((value, Reference { kind, namespace: namespace.as_deref(), name, api_version }))
        }
        Described::Labels(_) => None,
    });
    match version {
        CustomVersion::V1Beta2 => {
            let item = |(value, described_object)| {
                let (quantity, timestamp) = read(value)?;
                let metric = Identifier { name: shared.metric, selector: &shared.selector };
                Ok(ItemV2 { described_object, metric, timestamp, window_seconds: window, value: quantity })
            };
            let items = objects.map(item).collect::<Result<Vec<_>, NoNumber>>()?;
            Ok(list("MetricValueList", CUSTOM, version.name(), items))
        }
        CustomVersion::V1Beta1 => {
            let item = |(value, described_object)| {
                let (quantity, timestamp) = read(value)?;
                let (metric_name, selector) = (shared.metric, &shared.selector);
                Ok(ItemV1 { described_object, metric_name, timestamp, window, value: quantity, selector })
            };
            let items = objects.map(item).collect::<Result<Vec<_>, NoNumber>>()?;
            Ok(list("MetricValueList", CUSTOM, version.name(), items))
        }
    }
}

/// An `ExternalMetricValueList`.
pub(crate) fn external(values: &[Value], shared: &Shared<'_>) -> Result<Reply, NoNumber> {
    let mut instants = Instants::default();
    let window = shared.seconds();
    let item = |value: &'_ Value| {
        let metric_labels = match &value.of {
            Described::Labels(labels) if !labels.is_empty() => Some(labels.clone()),
            _ => None,
        };
        Ok((metric_labels, quantity(value.value).ok_or(NoNumber(value.value))?, instants.print(value.at)))
    };
    let read = values.iter().map(item).collect::<Result<Vec<_>, NoNumber>>()?;
    let items = read
        .iter()
        .map(|(labels, value, timestamp)| ItemExternal {
            metric_name: shared.metric,
            metric_labels: labels.as_ref(),
            timestamp: timestamp.clone(),
            window,
            value: *value,
        })
        .collect();
    Ok(list("ExternalMetricValueList", EXTERNAL, EXTERNAL_VERSION, items))
}

fn list<T: Serialize>(kind: &'static str, group: &str, version: &str, items: Vec<T>) -> Reply {
    json(&List { kind, api_version: format!("{group}/{version}"), metadata: Metadata {}, items }, JSON)
}
