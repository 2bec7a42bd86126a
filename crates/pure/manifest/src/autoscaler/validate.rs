//! What the rules of the definition cannot say, and what they say again for objects that no API server has seen.

use super::bounds::SOURCES;
use super::{InferenceAutoscalerSpec, MetricSpec, defaults};
use crate::hpa;
use loadline_policy::signal::{REQUESTS_DEMAND, REQUESTS_HELD, SIGNALS, lookup};
use std::collections::BTreeSet;
use std::fmt;

/// Something wrong in a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field, such as `spec.pools[0].maxReplicas`.
    pub path: String,
    /// What is wrong and what to do.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.path, self.text)
    }
}

#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.0.push(Problem { path: path.into(), text: text.into() });
    }
}

/// Everything wrong in a spec; empty for one that can be lowered, except for what is not carried out yet.
#[must_use]
pub fn validate(spec: &InferenceAutoscalerSpec) -> Vec<Problem> {
    let mut problems = Problems::default();
    targets(&mut problems, spec);
    for (index, metric) in spec.metrics.iter().enumerate() {
        self::metric(&mut problems, metric, spec.gateway.is_some(), &format!("spec.metrics[{index}]"));
    }
    if spec.objective.is_some() && !spec.metrics.is_empty() {
        problems.add("spec.objective", "`objective` and `metrics` are both written; keep one");
    }
    if let Some(behavior) = &spec.behavior {
        let filled = super::lower::behavior(Some(behavior.clone()));
        let errors = hpa::validate_behavior(&filled, "spec.behavior", true);
        problems.0.extend(errors.into_iter().map(|error| Problem { path: error.path, text: error.message }));
    }
    gateway(&mut problems, spec);
    extras(&mut problems, spec);
    problems.0
}

fn targets(problems: &mut Problems, spec: &InferenceAutoscalerSpec) {
    match (&spec.scale_target_ref, spec.pools.is_empty()) {
        (Some(_), false) => problems.add("spec.pools", "`scaleTargetRef` and `pools` are both written; keep one"),
        (None, true) => problems.add("spec.scaleTargetRef", "is missing; name what is scaled, or write `pools`"),
        _ => {}
    }
    if let Some(target) = &spec.scale_target_ref {
        reference(problems, target, "spec.scaleTargetRef");
        let min = spec.min_replicas.unwrap_or(defaults::MIN_REPLICAS.count_u32());
        match spec.max_replicas {
            None => problems.add("spec.maxReplicas", "is missing; write the greatest number of replicas"),
            Some(max) => limits(problems, (min, max), spec, "spec"),
        }
    }
    let mut names = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for (index, pool) in spec.pools.iter().enumerate() {
        let path = format!("spec.pools[{index}]");
        if pool.name.is_empty() {
            problems.add(format!("{path}.name"), "is missing; give the pool a name");
        }
        if !names.insert(&pool.name) {
            problems.add(format!("{path}.name"), format!("`{}` is the name of another pool too", pool.name));
        }
        let target = &pool.scale_target_ref;
        reference(problems, target, &format!("{path}.scaleTargetRef"));
        let group = target.api_version.split_once('/').map_or("", |(group, _)| group);
        if !seen.insert((group, &target.kind, &target.name)) {
            let text =
                format!("{} `{}` is the target of another pool too; each pool needs its own", target.kind, target.name);
            problems.add(format!("{path}.scaleTargetRef"), text);
        }
        let min = pool.min_replicas.unwrap_or(defaults::MIN_REPLICAS.count_u32());
        limits(problems, (min, pool.max_replicas), spec, &path);
    }
}

fn reference(problems: &mut Problems, target: &hpa::CrossVersionObjectReference, path: &str) {
    for (field, value) in [("kind", &target.kind), ("name", &target.name)] {
        if value.is_empty() {
            problems.add(format!("{path}.{field}"), "is missing");
        }
        for fault in hpa::names::path_segment_faults(value) {
            problems.add(format!("{path}.{field}"), fault);
        }
    }
    if !target.api_version.contains('/') && target.kind != "ReplicationController" {
        problems.add(format!("{path}.apiVersion"), "must name an API group, such as `apps/v1`");
    }
}

fn limits(problems: &mut Problems, (min, max): (u32, u32), spec: &InferenceAutoscalerSpec, path: &str) {
    if max < 1 {
        problems.add(format!("{path}.maxReplicas"), "must be at least 1");
    }
    if max < min {
        problems.add(format!("{path}.maxReplicas"), format!("is {max}, less than `minReplicas` {min}; raise it"));
    }
    if min == 0 && spec.idle.is_none() {
        let text = "is 0, and nothing says when to go to zero; add `idle: {after: 5m}`";
        problems.add(format!("{path}.minReplicas"), text);
    }
    if let Some(fallback) = spec.fallback.as_ref().filter(|fallback| fallback.replicas > max) {
        let text = format!("is {}, more than `{path}.maxReplicas` {max}; lower it", fallback.replicas);
        problems.add("spec.fallback.replicas", text);
    }
}

fn gateway(problems: &mut Problems, spec: &InferenceAutoscalerSpec) {
    let Some(gateway) = &spec.gateway else { return };
    if gateway.name.is_empty() {
        problems.add("spec.gateway.name", "is missing; write the `--name` of the gateway");
    }
    if gateway.slots == Some(0) {
        problems.add("spec.gateway.slots", "must be at least 1: a replica without slots serves nothing");
    }
    if spec.pools.len() > 1 {
        problems.add("spec.gateway", "serves one pool; with several pools leave it out");
    }
}

fn extras(problems: &mut Problems, spec: &InferenceAutoscalerSpec) {
    for (path, span) in [
        ("spec.scrape.interval", spec.scrape.as_ref().and_then(|scrape| scrape.interval)),
        ("spec.startTime", spec.start_time),
    ] {
        if span.is_some_and(|span| span.0.is_zero()) {
            problems.add(path, "must be longer than zero; write for example `1s`");
        }
    }
    let tls = spec.scrape.as_ref().and_then(|scrape| scrape.tls.as_ref());
    if let Some(ca) = tls.and_then(|tls| tls.ca.as_ref())
        && ca.secret.is_some() == ca.config_map.is_some()
    {
        problems.add("spec.scrape.tls.ca", "needs exactly one of `secret` and `configMap`");
    }
    let most = spec.max_replicas.into_iter().chain(spec.pools.iter().map(|pool| pool.max_replicas)).max();
    for (index, schedule) in spec.schedules.iter().enumerate() {
        if let Some(most) = most.filter(|most| schedule.min_replicas > *most) {
            let text = format!("is {}, more than any `maxReplicas` ({most}); lower it", schedule.min_replicas);
            problems.add(format!("spec.schedules[{index}].minReplicas"), text);
        }
    }
}

fn metric(problems: &mut Problems, metric: &MetricSpec, has_gateway: bool, path: &str) {
    if metric.kind == "Signal" {
        signal(problems, metric, has_gateway, path);
        return;
    }
    if metric.signal.is_some() {
        problems.add(format!("{path}.signal"), format!("does not belong to `type: {}`; remove it", metric.kind));
    }
    if !SOURCES.iter().any(|(kind, _)| *kind == metric.kind) {
        let known: Vec<String> = SOURCES.iter().map(|(kind, _)| format!("`{kind}`")).collect();
        problems.add(format!("{path}.type"), format!("unknown type `{}`; known are {}", metric.kind, known.join(", ")));
        return;
    }
    let plain = super::lower::plain(metric);
    let errors = hpa::validate_metric(&plain, path);
    problems.0.extend(errors.into_iter().map(|error| Problem { path: error.path, text: error.message }));
    let selected = metric.pods.as_ref().and_then(|source| source.metric.selector.as_ref());
    if selected.is_some_and(|selector| !selector.match_expressions.is_empty()) {
        let text = "only `matchLabels` select series of the pods' pages; write the labels there";
        problems.add(format!("{path}.pods.metric.selector.matchExpressions"), text);
    }
}

fn signal(problems: &mut Problems, metric: &MetricSpec, has_gateway: bool, path: &str) {
    let others = [
        ("pods", metric.pods.is_some()),
        ("external", metric.external.is_some()),
        ("resource", metric.resource.is_some()),
        ("containerResource", metric.container_resource.is_some()),
        ("object", metric.object.is_some()),
    ];
    for (name, _) in others.into_iter().filter(|(_, is_there)| *is_there) {
        problems.add(format!("{path}.{name}"), "does not belong to `type: Signal`; remove it");
    }
    let Some(signal) = &metric.signal else {
        problems.add(format!("{path}.signal"), "is missing; `type: Signal` needs `signal: {name, target}`");
        return;
    };
    if lookup(&signal.name).is_none() {
        let known: Vec<&str> = SIGNALS.iter().map(|entry| entry.name).collect();
        let text = format!("unknown signal `{}`; known are {}", signal.name, known.join(", "));
        problems.add(format!("{path}.signal.name"), text);
    }
    if !has_gateway && [REQUESTS_DEMAND, REQUESTS_HELD].contains(&signal.name.as_str()) {
        let text = format!(
            "`{}` is counted at the gateway, and none is configured; add `spec.gateway` or use `requests_waiting`",
            signal.name
        );
        problems.add(format!("{path}.signal.name"), text);
    }
    let target = &signal.target;
    let is_per_replica =
        target.kind == "AverageValue" && target.value.is_none() && target.average_utilization.is_none();
    if !is_per_replica || target.average_value.is_none_or(|value| value.signum() != 1) {
        let text = "a signal has a positive target per replica; write `target: {type: AverageValue, averageValue: N}`";
        problems.add(format!("{path}.signal.target"), text);
    }
}
