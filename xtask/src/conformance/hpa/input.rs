//! The shared objects of the vectors, as inputs of `loadline-policy`.

use anyhow::{Context, Result, anyhow, bail};
use loadline_base::Timestamp;
use loadline_base::num::f64_to_i64_trunc;
use loadline_policy::hpa::{
    Answer, Behavior, Container, ContainerUsage, MetricSource, MetricSpec, MetricTarget, ObjectRef, Phase, Pod,
    PodUsage, PodValue, PolicyKind, Ready, Recommendation, ScaleEvent, ScalingPolicy, ScalingRules, SelectPolicy,
    TargetKind,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// The moment every vector happens at.
pub(super) const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

/// A field that must be there.
pub(super) fn field<'a>(value: &'a Value, name: &str) -> Result<&'a Value> {
    value.get(name).ok_or_else(|| anyhow!("`{name}` is missing"))
}

/// A field that may be absent or null.
pub(super) fn optional<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).filter(|value| !value.is_null())
}

/// A whole number that must be there.
pub(super) fn int(value: &Value, name: &str) -> Result<i64> {
    field(value, name)?.as_i64().with_context(|| format!("`{name}` is not a whole number"))
}

/// A replica count that must be there.
pub(super) fn int32(value: &Value, name: &str) -> Result<i32> {
    i32::try_from(int(value, name)?).with_context(|| format!("`{name}` is too large"))
}

/// Text that must be there.
pub(super) fn text(value: &Value, name: &str) -> Result<String> {
    Ok(field(value, name)?.as_str().with_context(|| format!("`{name}` is not text"))?.to_owned())
}

/// A list that must be there.
pub(super) fn list<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    field(value, name)?.as_array().with_context(|| format!("`{name}` is not a list"))
}

/// A list that may be absent.
pub(super) fn list_or_empty<'a>(value: &'a Value, name: &str) -> Result<&'a [Value]> {
    match optional(value, name) {
        None => Ok(&[]),
        Some(value) => Ok(value.as_array().with_context(|| format!("`{name}` is not a list"))?),
    }
}

fn flag(value: &Value, name: &str) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or(false)
}

/// Seconds that must be there.
pub(super) fn seconds(value: &Value, name: &str) -> Result<Duration> {
    let seconds = field(value, name)?.as_f64().with_context(|| format!("`{name}` is not a number"))?;
    Ok(loadline_base::num::duration_from_secs(seconds))
}

/// A point in time, given as an age.
pub(super) fn age(value: &Value, name: &str) -> Result<Timestamp> {
    let seconds = field(value, name)?.as_f64().with_context(|| format!("`{name}` is not a number"))?;
    Ok(Timestamp::from_nanos(NOW.as_nanos().saturating_sub(f64_to_i64_trunc(seconds * 1e9))))
}

fn age_or_none(value: &Value, name: &str) -> Result<Option<Timestamp>> {
    optional(value, name).map(|_| age(value, name)).transpose()
}

/// A map of whole numbers.
pub(super) fn int_map(value: &Value) -> Result<BTreeMap<String, i64>> {
    let map = value.as_object().context("not a map")?;
    map.iter()
        .map(|(name, value)| {
            Ok((name.clone(), value.as_i64().with_context(|| format!("`{name}` is not a whole number"))?))
        })
        .collect()
}

/// Pods.
pub(super) fn pods(input: &Value) -> Result<Vec<Pod>> {
    list_or_empty(input, "pods")?.iter().map(pod).collect()
}

fn pod(value: &Value) -> Result<Pod> {
    let containers = list_or_empty(value, "containers")?
        .iter()
        .map(|part| {
            Ok(Container {
                name: text(part, "name")?,
                request_milli: optional(part, "request_m").map(int_map).transpose()?.unwrap_or_default(),
                init: flag(part, "init"),
                restartable: flag(part, "restartable"),
            })
        })
        .collect::<Result<_>>()?;
    let labels = optional(value, "labels").and_then(Value::as_object);
    Ok(Pod {
        name: text(value, "name")?,
        labels: labels
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
        phase: match optional(value, "phase").and_then(Value::as_str) {
            Some("Pending") => Phase::Pending,
            Some("Running") | None => Phase::Running,
            Some("Succeeded") => Phase::Succeeded,
            Some("Failed") => Phase::Failed,
            Some(other) => bail!("unknown phase `{other}`"),
        },
        ready: match optional(value, "ready").and_then(Value::as_str) {
            Some("True") => Some(Ready::True),
            Some("False") => Some(Ready::False),
            Some(_) => Some(Ready::Unknown),
            None => None,
        },
        ready_at: age_or_none(value, "ready_age_s")?,
        started_at: age_or_none(value, "start_age_s")?,
        deleted: flag(value, "deleted"),
        containers,
        request_milli: optional(value, "pod_request_m").map(int_map).transpose()?.unwrap_or_default(),
    })
}

/// One entry of `spec.metrics`.
pub(super) fn metric(value: &Value) -> Result<MetricSpec> {
    let selector = optional(value, "selector").map(ToString::to_string);
    let source = match text(value, "type")?.as_str() {
        "Resource" => MetricSource::Resource { name: text(value, "resource")? },
        "ContainerResource" => {
            MetricSource::ContainerResource { name: text(value, "resource")?, container: text(value, "container")? }
        }
        "Pods" => MetricSource::Pods { metric: name_of(value), selector },
        "Object" => {
            let object = optional(value, "object");
            let word = |name: &str| {
                object.and_then(|o| optional(o, name)).and_then(Value::as_str).unwrap_or_default().to_owned()
            };
            let object = ObjectRef { api_version: word("apiVersion"), kind: word("kind"), name: word("name") };
            MetricSource::Object { metric: name_of(value), selector, object }
        }
        "External" => MetricSource::External { metric: name_of(value), selector },
        kind => MetricSource::Unknown { kind: kind.to_owned() },
    };
    Ok(MetricSpec { source, target: optional(value, "target").map_or(Ok(MetricTarget::default()), target)? })
}

/// The name of a metric; it has no part in the arithmetic, so a vector may leave it out.
fn name_of(value: &Value) -> String {
    optional(value, "metric").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn target(value: &Value) -> Result<MetricTarget> {
    let kind = match optional(value, "type").and_then(Value::as_str) {
        Some("Utilization") => Some(TargetKind::Utilization),
        Some("Value") => Some(TargetKind::Value),
        Some("AverageValue") => Some(TargetKind::AverageValue),
        Some(other) => bail!("unknown target type `{other}`"),
        None => None,
    };
    let amount = optional(value, "value_m").and_then(Value::as_i64);
    Ok(MetricTarget {
        kind,
        average_utilization: optional(value, "utilization_percent")
            .map(|_| int32(value, "utilization_percent"))
            .transpose()?,
        average_value_milli: amount.filter(|_| kind == Some(TargetKind::AverageValue)),
        value_milli: amount.filter(|_| kind == Some(TargetKind::Value)),
    })
}

/// The answer to a metric of a type; `None` gives a failed call.
pub(super) fn answer(source: &MetricSource, value: Option<&Value>) -> Result<Answer> {
    let Some(value) = value else { return Ok(Answer::Failed { error: "no answer in the vector".to_owned() }) };
    if let Some(error) = optional(value, "error") {
        return Ok(Answer::Failed { error: error.as_str().unwrap_or_default().to_owned() });
    }
    Ok(match source {
        MetricSource::Resource { .. } | MetricSource::ContainerResource { .. } => {
            Answer::Usage { pods: list(value, "pods")?.iter().map(pod_usage).collect::<Result<_>>()? }
        }
        MetricSource::Pods { .. } => {
            Answer::Pods { pods: list(value, "pods")?.iter().map(pod_value).collect::<Result<_>>()? }
        }
        MetricSource::Object { .. } => Answer::Object { value_milli: int(value, "value_m")? },
        MetricSource::External { .. } => Answer::External {
            values_milli: list(value, "values_m")?
                .iter()
                .map(|value| value.as_i64().context("not a whole number"))
                .collect::<Result<_>>()?,
        },
        MetricSource::Signal { .. } | MetricSource::Unknown { .. } => {
            Answer::Failed { error: "unknown type".to_owned() }
        }
    })
}

/// Resource usage of a pod.
pub(super) fn pod_usage(value: &Value) -> Result<PodUsage> {
    Ok(PodUsage {
        pod: text(value, "name")?,
        at: age(value, "age_s")?,
        window: seconds(value, "window_s")?,
        containers: list(value, "containers")?
            .iter()
            .map(|part| {
                Ok(ContainerUsage {
                    name: text(part, "name")?,
                    usage_milli: optional(part, "usage_m").and_then(Value::as_i64),
                })
            })
            .collect::<Result<_>>()?,
    })
}

/// A custom metric of a pod.
pub(super) fn pod_value(value: &Value) -> Result<PodValue> {
    Ok(PodValue {
        pod: text(value, "name")?,
        at: age(value, "age_s")?,
        window_seconds: optional(value, "window_s").and_then(Value::as_u64),
        value_milli: int(value, "value_m")?,
    })
}

/// Rules that are already final.
pub(super) fn rules(value: &Value) -> Result<ScalingRules> {
    let policies = list_or_empty(value, "policies")?
        .iter()
        .map(|policy| {
            Ok(ScalingPolicy {
                kind: match text(policy, "type")?.as_str() {
                    "Pods" => PolicyKind::Pods,
                    "Percent" => PolicyKind::Percent,
                    other => bail!("unknown policy type `{other}`"),
                },
                value: int32(policy, "value")?,
                period_seconds: int32(policy, "periodSeconds")?,
            })
        })
        .collect::<Result<_>>()?;
    Ok(ScalingRules {
        stabilization_window_seconds: optional(value, "stabilizationWindowSeconds")
            .map(|_| int32(value, "stabilizationWindowSeconds"))
            .transpose()?,
        select_policy: match optional(value, "selectPolicy").and_then(Value::as_str) {
            Some("Max") | None => SelectPolicy::Max,
            Some("Min") => SelectPolicy::Min,
            Some("Disabled") => SelectPolicy::Disabled,
            Some(other) => bail!("unknown selectPolicy `{other}`"),
        },
        policies,
        tolerance: None,
    })
}

/// Behavior as a user writes it, with the API's defaults filled in by the code that does so for manifests.
pub(super) fn behavior(value: Option<&Value>) -> Result<Option<Behavior>> {
    let Some(value) = value else { return Ok(None) };
    let written: loadline_manifest::hpa::Behavior =
        serde_json::from_value(value.clone()).context("`behavior` cannot be read")?;
    Ok(Some(loadline_manifest::hpa::behavior_of(written)))
}

/// Scale events.
pub(super) fn events(input: &Value, name: &str) -> Result<Vec<ScaleEvent>> {
    list_or_empty(input, name)?
        .iter()
        .map(|event| {
            Ok(ScaleEvent {
                at: age(event, "age_s")?,
                change: int32(event, "change")?,
                outdated: flag(event, "outdated"),
            })
        })
        .collect()
}

/// Recommendations.
pub(super) fn recommendations(list: &[Value]) -> Result<Vec<Recommendation>> {
    list.iter()
        .map(|entry| Ok(Recommendation { at: age(entry, "age_s")?, replicas: int32(entry, "replicas")? }))
        .collect()
}

/// Complains unless two values are equal.
pub(super) fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, want: &T) -> Result<()> {
    if got == want { Ok(()) } else { Err(anyhow!("{what}: got {got:?}, expected {want:?}")) }
}

/// Complains unless an error holds the text.
pub(super) fn contains(got: &str, want: &Value) -> Result<()> {
    let want = want.as_str().context("the expected error is not text")?;
    if got.contains(want) { Ok(()) } else { Err(anyhow!("error: got `{got}`, expected it to hold `{want}`")) }
}
