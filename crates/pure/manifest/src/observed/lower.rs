//! From the observed file to what `decide` takes.

use super::{Observed, ObservedMetric, ObservedPod};
use loadline_base::{PoolId, Quantity, Timestamp};
use loadline_policy::hpa::{
    Answer, ConditionKind, Container, ContainerUsage, HpaMemory, HpaObservation, HpaRule, MetricSource, Phase, Pod,
    PodUsage, PodValue, Ready, Reason, Recommendation, ScaleEvent,
};
use loadline_policy::{Memory, Observation, Policy, PoolMemory, PoolObservation, Rule};
use std::collections::BTreeMap;
use std::time::Duration;

/// The moment that all ages count back from. Its value has no meaning.
pub const NOW: Timestamp = Timestamp::from_secs(1_000_000_000);

/// The age of a pod that names none: past every start-up rule.
const POD_AGE: Duration = Duration::from_secs(3_600);
/// The container that carries a pod's requests and usage where no metric names one.
const CONTAINER: &str = "main";
/// The selector of the scale: any text that selects the pods of the file.
const SELECTOR: &str = "app=observed";

/// Makes observation and memory for every pool of a policy (an HPA's has one).
#[must_use]
pub fn lower(observed: &Observed, policy: &Policy) -> (Observation, Memory) {
    let mut pools = BTreeMap::new();
    let mut memory = BTreeMap::new();
    for (id, pool) in &policy.pools {
        let Rule::Hpa(rule) = &pool.rule;
        pools.insert(PoolId::clone(id), pool_of(observed, rule));
        memory.insert(id.clone(), PoolMemory { hpa: memory_of(observed), ..PoolMemory::default() });
    }
    (Observation { now: NOW, pools }, Memory { pools: memory })
}

fn pool_of(observed: &Observed, rule: &HpaRule) -> PoolObservation {
    let container = rule.metrics.iter().find_map(|metric| match &metric.source {
        MetricSource::ContainerResource { container, .. } => Some(container.as_str()),
        _ => None,
    });
    let container = container.unwrap_or(CONTAINER);
    let assumed = |index: u32| ObservedPod { name: format!("pod-{index}"), ..ObservedPod::default() };
    let pods = observed.pods.clone().unwrap_or_else(|| (0..observed.replicas.min(10_000)).map(assumed).collect());
    PoolObservation {
        spec_replicas: observed.replicas,
        status_replicas: observed.status_replicas.unwrap_or(observed.replicas),
        hpa: Some(HpaObservation {
            selector: SELECTOR.to_owned(),
            pods: pods.iter().map(|pod| pod_of(pod, container)).collect(),
            answers: rule.metrics.iter().map(|metric| answer_of(observed, &metric.source)).collect(),
            ..HpaObservation::default()
        }),
        ..PoolObservation::default()
    }
}

fn pod_of(pod: &ObservedPod, container: &str) -> Pod {
    let age = pod.age.map_or(POD_AGE, |age| age.0);
    let ready = pod.ready.unwrap_or(pod.phase == Phase::Running);
    let request_milli = pod.requests.iter().map(|(name, amount)| (name.clone(), amount.milli_value())).collect();
    Pod {
        name: pod.name.clone(),
        phase: pod.phase,
        ready: Some(if ready { Ready::True } else { Ready::False }),
        ready_at: Some(NOW.minus(pod.ready_age.map_or(age, |age| age.0))),
        started_at: Some(NOW.minus(age)),
        deleted: pod.deleted,
        containers: vec![Container { name: container.to_owned(), request_milli, ..Container::default() }],
        ..Pod::default()
    }
}

/// The name under which the file answers a metric.
fn name_of(source: &MetricSource) -> &str {
    match source {
        MetricSource::Resource { name }
        | MetricSource::ContainerResource { name, .. }
        | MetricSource::Signal { name } => name,
        MetricSource::Pods { metric, .. }
        | MetricSource::Object { metric, .. }
        | MetricSource::External { metric, .. } => metric,
        MetricSource::Unknown { kind } => kind,
    }
}

fn answer_of(observed: &Observed, source: &MetricSource) -> Answer {
    let name = name_of(source);
    let failed = |error: String| Answer::Failed { error };
    let Some(metric) = observed.metrics.iter().find(|metric| metric.name == name) else {
        return failed(format!("the observed file has no answer for `{name}`"));
    };
    if let Some(error) = &metric.error {
        return failed(error.clone());
    }
    let at = NOW.minus(metric.age.map_or(Duration::ZERO, |age| age.0));
    let window = metric.window.map_or(loadline_policy::hpa::DEFAULT_CUSTOM_WINDOW, |age| age.0);
    let milli = Quantity::milli_value;
    match source {
        MetricSource::Resource { .. } | MetricSource::ContainerResource { .. } => {
            let container = match source {
                MetricSource::ContainerResource { container, .. } => container.as_str(),
                _ => CONTAINER,
            };
            let usage = |(pod, value): (&String, &Quantity)| PodUsage {
                pod: pod.clone(),
                at,
                window,
                containers: vec![ContainerUsage { name: container.to_owned(), usage_milli: Some(milli(*value)) }],
            };
            per_pod(metric, name, |pods| Answer::Usage { pods: pods.iter().map(usage).collect() })
        }
        MetricSource::Pods { .. } => {
            let value = |(pod, value): (&String, &Quantity)| PodValue {
                pod: pod.clone(),
                at,
                window_seconds: Some(window.as_secs()),
                value_milli: milli(*value),
            };
            per_pod(metric, name, |pods| Answer::Pods { pods: pods.iter().map(value).collect() })
        }
        MetricSource::Object { .. } => match metric.value {
            Some(value) => Answer::Object { value_milli: milli(value) },
            None => failed(loadline_policy::hpa::empty_text("custom")),
        },
        MetricSource::External { .. } => {
            let values: Vec<Quantity> =
                metric.value.into_iter().chain(metric.values.iter().flatten().copied()).collect();
            Answer::External { values_milli: values.into_iter().map(milli).collect() }
        }
        MetricSource::Signal { .. } | MetricSource::Unknown { .. } => failed(format!("`{name}` has no metrics API")),
    }
}

fn per_pod(metric: &ObservedMetric, name: &str, answer: impl Fn(&BTreeMap<String, Quantity>) -> Answer) -> Answer {
    match &metric.pods {
        Some(pods) => answer(pods),
        None if metric.missing => answer(&BTreeMap::new()),
        None => Answer::Failed { error: format!("the answer for `{name}` needs `pods`, one value per pod") },
    }
}

pub(super) fn memory_of(observed: &Observed) -> HpaMemory {
    let history = &observed.history;
    let signed = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    let events = |changes: &[super::PastChange]| {
        changes
            .iter()
            .map(|past| ScaleEvent { at: NOW.minus(past.age.0), change: signed(past.change), outdated: false })
            .collect()
    };
    let mut memory = HpaMemory {
        recommendations: history.recommendations.as_ref().map(|log| {
            log.iter()
                .map(|past| Recommendation { at: NOW.minus(past.age.0), replicas: signed(past.replicas) })
                .collect()
        }),
        up_events: events(&history.scale_ups),
        down_events: events(&history.scale_downs),
        ..HpaMemory::default()
    };
    if history.scaled_to_zero {
        memory.conditions.set(
            ConditionKind::ScaledToZero,
            true,
            Reason::ScaledToZero,
            "the HPA controller scaled the workload to zero",
        );
    }
    memory
}
