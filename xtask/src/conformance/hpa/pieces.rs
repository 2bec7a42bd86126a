//! Vectors of single steps.

use super::input::{
    NOW, behavior, contains, events, field, int, int_map, int32, list, optional, pod_usage, pod_value, pods,
    recommendations, rules, same, seconds, text,
};
use anyhow::{Context, Result, bail};
use loadline_policy::hpa::history::{change_within, stabilize, stabilize_legacy, store_event};
use loadline_policy::hpa::limits::{Counts, Events, by_behavior, legacy, scale_down_limit, scale_up_limit};
use loadline_policy::hpa::{
    Controller, Gates, Group, PodSample, empty_text, external_total, group, request, usage, usage_ratio,
    utilization_ratio,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Runs one vector of a small kind.
pub(super) fn run(kind: &str, input: &Value, expected: &Value) -> Result<()> {
    match kind {
        "group_pods" => group_pods(input, expected),
        "pod_requests" => pod_requests(input, expected),
        "utilization_ratio" => utilization(input, expected),
        "usage_ratio" => average(input, expected),
        "resource_metrics_fetch" => resource_fetch(input, expected),
        "custom_metrics_fetch" => custom_fetch(input, expected),
        "external_metrics_fetch" => external_fetch(input, expected),
        "legacy_limit" => legacy_limit(input, expected),
        "scale_up_limit" => rate_limit(input, expected, true),
        "scale_down_limit" => rate_limit(input, expected, false),
        "behavior_rate" => behavior_rate(input, expected),
        "store_scale_event" => store_scale_event(input, expected),
        "stabilize_legacy" => stabilize_without_behavior(input, expected),
        "stabilize_behavior" => stabilize_with_behavior(input, expected),
        other => bail!("unknown kind `{other}`"),
    }
}

fn group_pods(input: &Value, expected: &Value) -> Result<()> {
    let controller = Controller {
        cpu_initialization_period: seconds(input, "cpu_initialization_period_s")?,
        initial_readiness_delay: seconds(input, "initial_readiness_delay_s")?,
        ..Controller::default()
    };
    let cpu = text(input, "resource")? == "cpu";
    let metrics = field(input, "metrics")?;
    let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut ready = 0;
    for pod in pods(input)? {
        let sample = match optional(metrics, &pod.name) {
            Some(value) => Some(PodSample {
                value_milli: int(value, "value")?,
                at: super::input::age(value, "age_s")?,
                window: seconds(value, "window_s")?,
            }),
            None => None,
        };
        match group(&pod, sample.as_ref(), cpu, &controller, NOW) {
            Group::Ready => ready += 1,
            Group::Unready => found.entry("unready").or_default().push(pod.name),
            Group::Missing => found.entry("missing").or_default().push(pod.name),
            Group::Ignored => found.entry("ignored").or_default().push(pod.name),
            Group::Lost => bail!("`{}` is lost; the peer has no such group", pod.name),
        }
    }
    same("ready_count", &ready, &int(expected, "ready_count")?)?;
    for name in ["unready", "missing", "ignored"] {
        let mut got = found.remove(name).unwrap_or_default();
        got.sort();
        let want: Vec<String> = serde_json::from_value(field(expected, name)?.clone())?;
        same(name, &got, &want)?;
    }
    Ok(())
}

fn pod_requests(input: &Value, expected: &Value) -> Result<()> {
    let container = text(input, "container")?;
    let container = Some(container.as_str()).filter(|name| !name.is_empty());
    let resource = text(input, "resource")?;
    let gates = Gates {
        pod_level_resources: field(input, "pod_level_resources")?.as_bool().context("not a flag")?,
        ..Gates::default()
    };
    let got: Result<BTreeMap<String, i64>, _> = pods(input)?
        .iter()
        .map(|pod| request(pod, container, &resource, gates).map(|amount| (pod.name.clone(), amount)))
        .collect();
    match (got, optional(expected, "error")) {
        (Err(error), Some(want)) => same("error", &Some(error.to_string().as_str()), &want.as_str()),
        (Err(error), None) => bail!("failed: {error}"),
        (Ok(got), _) => same("requests_m", &got, &int_map(field(expected, "requests_m")?)?),
    }
}

fn utilization(input: &Value, expected: &Value) -> Result<()> {
    let (values, requests) = (int_map(field(input, "values_m")?)?, int_map(field(input, "requests_m")?)?);
    let pairs = values.iter().filter_map(|(pod, value)| Some((*value, *requests.get(pod)?)));
    let got = utilization_ratio(pairs, int32(input, "target_percent")?);
    match (got, optional(expected, "error_contains")) {
        (Err(error), Some(want)) => contains(&error, want),
        (Err(error), None) => bail!("failed: {error}"),
        (Ok(_), Some(want)) => bail!("got a ratio, expected the error {want}"),
        (Ok(got), None) => ratio(&got, expected),
    }
}

fn ratio(got: &loadline_policy::hpa::Ratio, expected: &Value) -> Result<()> {
    same("ratio", &Some(got.ratio), &field(expected, "ratio")?.as_f64())?;
    let (percent, average) = match got.shown {
        loadline_policy::hpa::Shown::Utilization { percent, average_milli } => {
            (Some(i64::from(percent)), average_milli)
        }
        loadline_policy::hpa::Shown::Average { milli } | loadline_policy::hpa::Shown::Value { milli } => (None, milli),
    };
    same("average_m", &average, &int(expected, "average_m")?)?;
    same("utilization_percent", &percent, &optional(expected, "utilization_percent").and_then(Value::as_i64))
}

fn average(input: &Value, expected: &Value) -> Result<()> {
    let values = int_map(field(input, "values_m")?)?;
    ratio(&usage_ratio(values.into_values(), 0, int(input, "target_m")?), expected)
}

fn fetched(got: BTreeMap<String, PodSample>, expected: &Value) -> Result<()> {
    let values: BTreeMap<String, i64> = got.iter().map(|(pod, sample)| (pod.clone(), sample.value_milli)).collect();
    same("values_m", &values, &int_map(field(expected, "values_m")?)?)?;
    let Some(windows) = optional(expected, "windows_s") else { return Ok(()) };
    let got: BTreeMap<String, Option<i64>> =
        got.into_iter().map(|(pod, sample)| (pod, i64::try_from(sample.window.as_secs()).ok())).collect();
    let want = int_map(windows)?.into_iter().map(|(pod, seconds)| (pod, Some(seconds))).collect();
    same("windows_s", &got, &want)
}

/// The error of an answer that is empty or failed, if it is either.
fn fetch_error(metrics: &Value, items: &str, api: &str) -> Result<Option<String>> {
    if let Some(error) = optional(metrics, "error") {
        return Ok(error.as_str().map(str::to_owned));
    }
    Ok(list(metrics, items)?.is_empty().then(|| empty_text(api)))
}

fn resource_fetch(input: &Value, expected: &Value) -> Result<()> {
    let metrics = field(input, "metrics")?;
    if let Some(error) = fetch_error(metrics, "pods", "resource")? {
        return contains(&error, field(expected, "error_contains")?);
    }
    let container = optional(input, "container").and_then(Value::as_str).filter(|name| !name.is_empty());
    let mut got = BTreeMap::new();
    for pod in list(metrics, "pods")? {
        let pod = pod_usage(pod)?;
        if let Some(sample) = usage(&pod, container) {
            got.insert(pod.pod, sample);
        }
    }
    fetched(got, expected)
}

fn custom_fetch(input: &Value, expected: &Value) -> Result<()> {
    let metrics = field(input, "metrics")?;
    if let Some(error) = fetch_error(metrics, "pods", "custom")? {
        return contains(&error, field(expected, "error_contains")?);
    }
    let pods = list(metrics, "pods")?.iter().map(pod_value).collect::<Result<Vec<_>>>()?;
    fetched(pods.into_iter().map(|value| (value.pod.clone(), value.sample())).collect(), expected)
}

fn external_fetch(input: &Value, expected: &Value) -> Result<()> {
    let metrics = field(input, "metrics")?;
    if let Some(error) = fetch_error(metrics, "values_m", "external")? {
        return contains(&error, field(expected, "error_contains")?);
    }
    let values: Vec<i64> = serde_json::from_value(field(metrics, "values_m")?.clone())?;
    let total = external_total(&values).map_err(anyhow::Error::msg)?;
    let want: Vec<i64> = serde_json::from_value(field(expected, "values_m")?.clone())?;
    same("values_m", &values, &want)?;
    same("total", &total, &want.iter().fold(0_i64, |sum, value| sum.saturating_add(*value)))
}

fn counts(input: &Value) -> Result<Counts> {
    Ok(Counts {
        current: int32(input, "current_replicas")?,
        desired: int32(input, "desired_replicas")?,
        min: int32(input, "min_replicas")?,
        max: int32(input, "max_replicas")?,
    })
}

fn limited(got: loadline_policy::hpa::limits::Limited, expected: &Value) -> Result<()> {
    same("replicas", &got.replicas, &int32(expected, "replicas")?)?;
    same("reason", &got.reason.to_string(), &text(expected, "reason")?)
}

fn legacy_limit(input: &Value, expected: &Value) -> Result<()> {
    let (factor, minimum) = (int32(input, "legacy_scale_up_factor")?, int32(input, "legacy_scale_up_minimum")?);
    limited(legacy(counts(input)?, factor, minimum), expected)
}

fn rate_limit(input: &Value, expected: &Value, up: bool) -> Result<()> {
    let (ups, downs) = (events(input, "scale_up_events")?, events(input, "scale_down_events")?);
    let events = Events { up: &ups, down: &downs };
    let rules = rules(field(input, "rules")?)?;
    let current = int32(input, "current_replicas")?;
    let limit = if up { scale_up_limit } else { scale_down_limit };
    same("limit", &limit(current, events, &rules, NOW), &int32(expected, "limit")?)
}

fn behavior_rate(input: &Value, expected: &Value) -> Result<()> {
    let behavior = behavior(optional(input, "behavior"))?.context("`behavior` is missing")?;
    let (ups, downs) = (events(input, "scale_up_events")?, events(input, "scale_down_events")?);
    limited(by_behavior(counts(input)?, &behavior, Events { up: &ups, down: &downs }, NOW), expected)
}

fn store_scale_event(input: &Value, expected: &Value) -> Result<()> {
    let mut log = events(input, "events")?;
    let before = change_within(&log, Duration::from_secs(60), NOW);
    same("change_in_last_60s_before", &before, &int32(expected, "change_in_last_60s_before")?)?;
    let rules = optional(input, "rules").map(rules).transpose()?;
    store_event(&mut log, rules.as_ref(), int32(input, "change")?, NOW);
    let got: Vec<(i32, bool)> = log.iter().map(|event| (event.change, event.outdated)).collect();
    let want = list(expected, "events")?
        .iter()
        .map(|event| Ok((int32(event, "change")?, event.get("outdated").and_then(Value::as_bool).unwrap_or(false))))
        .collect::<Result<Vec<_>>>()?;
    same("events", &got, &want)
}

fn stabilize_without_behavior(input: &Value, expected: &Value) -> Result<()> {
    let mut log = recommendations(list(input, "recommendations")?)?;
    let got = stabilize_legacy(&mut log, int32(input, "desired_replicas")?, seconds(input, "window_s")?, NOW);
    same("replicas", &got, &int32(expected, "replicas")?)?;
    same("log_length", &i64::try_from(log.len())?, &int(expected, "log_length")?)
}

fn stabilize_with_behavior(input: &Value, expected: &Value) -> Result<()> {
    let mut log = recommendations(list(input, "recommendations")?)?;
    let windows = (seconds(input, "up_window_s")?, seconds(input, "down_window_s")?);
    let (current, desired) = (int32(input, "current_replicas")?, int32(input, "desired_replicas")?);
    let got = stabilize(&mut log, current, desired, windows, NOW);
    same("replicas", &got, &int32(expected, "replicas")?)?;
    let got: Vec<i32> = log.iter().map(|entry| entry.replicas).collect();
    match optional(expected, "log") {
        Some(want) => same("log", &got, &serde_json::from_value::<Vec<i32>>(want.clone())?),
        None => Ok(()),
    }
}
