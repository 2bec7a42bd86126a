//! From a spec to policies, one per pool, with the evidence gate on.

use super::validate::Problems;
use super::{GatewayRef, InferenceAutoscalerSpec, MetricSpec, Mode, Problem, ScrapeSpec, defaults, validate};
use crate::config::{GATEWAY_METRICS, ModelMetric, Origin, SignalMetric};
use crate::hpa::{
    Behavior, CrossVersionObjectReference, Direction, LabelSelector, MetricTarget, behavior_of, default_rules,
};
use loadline_base::{ModelId, PoolId, Quantity};
use loadline_policy::hpa::{self as peer, Controller, HpaRule};
use loadline_policy::signal::REQUESTS_DEMAND;
use loadline_policy::{Fallback, Gate, Idle, Policy, PoolPolicy, Rule};
use std::collections::BTreeMap;
use std::time::Duration;

/// The default metric where no gateway is configured.
const REQUESTS_WAITING: &str = "requests_waiting";

/// Where the value of a metric comes from in a cluster.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricOrigin {
    /// Requests held and in flight at the gateways, with the peak since the last decision.
    GatewayDemand,
    /// Requests held at the gateways.
    GatewayHeld,
    /// Requests in flight at the gateways.
    GatewayInFlight,
    /// A normalised signal of every replica's engine, by its name.
    Engine(String),
    /// One value of a series per replica.
    PerReplica {
        /// The series; `:` and `_` are equal.
        series: String,
        /// Labels it must carry.
        labels: BTreeMap<String, String>,
    },
    /// Usage of a resource, from metrics.k8s.io.
    Resource {
        /// `cpu`, `memory` or an extended resource.
        name: String,
        /// One container of each pod; whole pods without it.
        container: Option<String>,
        /// Whether the target is in percent of the request, so that requests are needed too.
        of_request: bool,
    },
    /// A metric of external.metrics.k8s.io of the autoscaler's namespace, added over its series.
    External {
        /// Its name.
        name: String,
        /// Which of its series; all without it.
        selector: Option<LabelSelector>,
    },
    /// Nothing answers it; the text says why and what to do.
    Unsupported(String),
}

/// One metric, in the policy's order.
#[derive(Debug, Clone, PartialEq)]
pub struct LoweredMetric {
    /// The name as people know it.
    pub name: String,
    /// Where its value comes from.
    pub origin: MetricOrigin,
    /// Its part of the policy.
    pub spec: peer::MetricSpec,
    /// The target for status: per replica, in all, or percent.
    pub target: Option<Quantity>,
}

/// One pool of an autoscaler, ready for the control loop.
#[derive(Debug, Clone, PartialEq)]
pub struct LoweredPool {
    /// `namespace/autoscaler`, with several pools `namespace/autoscaler/pool`; the name of the policy's one pool too.
    pub model: ModelId,
    /// The pool's own name, where `pools` is written.
    pub pool: Option<String>,
    /// The model as clients name it.
    pub served_as: String,
    /// What is scaled.
    pub target: CrossVersionObjectReference,
    /// The policy; it holds exactly one pool.
    pub policy: Policy,
    /// Where the value of each metric of the policy comes from.
    pub metrics: Vec<LoweredMetric>,
    /// How pages are read, where the spec says it.
    pub scrape: Option<ScrapeSpec>,
    /// Requests in flight per replica.
    pub slots: u32,
    /// The gateway in front, where there is one.
    pub gateway: Option<GatewayRef>,
    /// How long a replica may finish its requests.
    pub drain_timeout: Duration,
    /// How long a start is expected to take until one has been seen.
    pub start_estimate: Duration,
    /// Whether decisions are carried out.
    pub mode: Mode,
}

impl LoweredPool {
    /// Raises the least count to a floor (of a schedule); the greatest count still holds.
    pub fn raise_floor(&mut self, floor: u32) {
        for pool in self.policy.pools.values_mut() {
            pool.min_replicas = pool.min_replicas.max(floor.min(pool.max_replicas));
        }
    }
}

/// The pools of an autoscaler. `scrape_period` is that of `serve.yaml`; `spec.scrape.interval` wins.
///
/// # Errors
/// Everything that [`validate`] finds, and what is not carried out yet: the autoscaler then does nothing and says so.
pub fn lower(
    namespace: &str,
    name: &str,
    spec: &InferenceAutoscalerSpec,
    scrape_period: Duration,
) -> Result<Vec<LoweredPool>, Vec<Problem>> {
    let mut problems = Problems(validate(spec));
    if spec.objective.is_some() {
        let text = "objective is not carried out yet; write `metrics` instead, such as the signal `requests_waiting`";
        problems.add("spec.objective", text);
    }
    if !problems.0.is_empty() {
        return Err(problems.0);
    }
    let slots = spec.gateway.as_ref().and_then(|gateway| gateway.slots).unwrap_or(defaults::SLOTS.count_u32());
    let metrics = metrics(spec, slots);
    let own = |pool: Option<String>, target: &CrossVersionObjectReference, min: Option<u32>, max: u32| {
        let model = match &pool {
            Some(pool) if spec.pools.len() > 1 => format!("{namespace}/{name}/{pool}"),
            _ => format!("{namespace}/{name}"),
        };
        LoweredPool {
            policy: policy(spec, &model, (min, max), &metrics, scrape_period),
            model: ModelId::new(model),
            pool,
            served_as: spec.model.clone().unwrap_or_else(|| name.to_owned()),
            target: target.clone(),
            metrics: metrics.clone(),
            scrape: spec.scrape.clone(),
            slots,
            gateway: spec.gateway.clone(),
            drain_timeout: spec.drain_timeout.map_or(defaults::DRAIN_TIMEOUT.span(), |span| span.0),
            start_estimate: spec.start_time.map_or(defaults::START_TIME.span(), |span| span.0),
            mode: spec.mode,
        }
    };
    let single = spec.scale_target_ref.as_ref().zip(spec.max_replicas);
    let single = single.map(|(target, max)| own(None, target, spec.min_replicas, max));
    let several = spec
        .pools
        .iter()
        .map(|pool| own(Some(pool.name.clone()), &pool.scale_target_ref, pool.min_replicas, pool.max_replicas));
    Ok(single.into_iter().chain(several).collect())
}

fn policy(
    spec: &InferenceAutoscalerSpec,
    pool: &str,
    (min, max): (Option<u32>, u32),
    metrics: &[LoweredMetric],
    scrape_period: Duration,
) -> Policy {
    let min_replicas = min.unwrap_or(defaults::MIN_REPLICAS.count_u32());
    let idle = spec.idle.as_ref().filter(|_| min_replicas == 0);
    let interval = spec.scrape.as_ref().and_then(|scrape| scrape.interval);
    let one = PoolPolicy {
        min_replicas,
        max_replicas: max,
        rule: Rule::Hpa(HpaRule {
            metrics: metrics.iter().map(|metric| metric.spec.clone()).collect(),
            behavior: Some(behavior_of(behavior(spec.behavior.clone()))),
            controller: Controller::default(),
        }),
        idle: idle.map(|idle| Idle { after: idle.after.map_or(defaults::IDLE_AFTER.span(), |span| span.0) }),
        fallback: spec.fallback.as_ref().map(|fallback| Fallback {
            replicas: fallback.replicas,
            after: fallback.after.map_or(defaults::FALLBACK_AFTER.span(), |span| span.0),
        }),
        gpus_per_replica: spec.gpus_per_replica.unwrap_or_default(),
        scrape_period: interval.map_or(scrape_period, |span| span.0),
    };
    Policy { pools: BTreeMap::from([(PoolId::new(pool), one)]), gate: Gate::On }
}

/// `behavior` with every default filled in, the window of the HPA controller too.
pub(super) fn behavior(written: Option<Behavior>) -> Behavior {
    let written = written.unwrap_or_default();
    let mut down = default_rules(Direction::Down, written.scale_down);
    down.stabilization_window_seconds.get_or_insert(defaults::DOWN_WINDOW_SECONDS.count_i32());
    Behavior { scale_up: Some(default_rules(Direction::Up, written.scale_up)), scale_down: Some(down) }
}

/// The part of a metric that autoscaling/v2 has too.
pub(super) fn plain(metric: &MetricSpec) -> crate::hpa::MetricSpec {
    crate::hpa::MetricSpec {
        kind: metric.kind.clone(),
        resource: metric.resource.clone(),
        container_resource: metric.container_resource.clone(),
        pods: metric.pods.clone(),
        object: metric.object.clone(),
        external: metric.external.clone(),
    }
}

fn metrics(spec: &InferenceAutoscalerSpec, slots: u32) -> Vec<LoweredMetric> {
    if spec.metrics.is_empty() {
        let (name, milli) = if spec.gateway.is_some() {
            let percent = i64::try_from(defaults::DEMAND_PERCENT.count()).unwrap_or(100);
            (REQUESTS_DEMAND, (i64::from(slots) * 10 * percent).max(1_000))
        } else {
            (REQUESTS_WAITING, i64::from(defaults::WAITING_TARGET.count_i32()) * 1_000)
        };
        return vec![signal(name, Quantity::from_milli(milli))];
    }
    spec.metrics.iter().map(|metric| self::metric(metric, spec.gateway.is_some())).collect()
}

fn signal(name: &str, average_value: Quantity) -> LoweredMetric {
    let metric = ModelMetric::Signal(SignalMetric { name: name.to_owned(), average_value });
    LoweredMetric {
        name: name.to_owned(),
        origin: owned(metric.origin()),
        spec: metric.spec(),
        target: Some(average_value),
    }
}

fn owned(origin: Origin<'_>) -> MetricOrigin {
    match origin {
        Origin::GatewayDemand => MetricOrigin::GatewayDemand,
        Origin::GatewayHeld => MetricOrigin::GatewayHeld,
        Origin::GatewayInFlight => MetricOrigin::GatewayInFlight,
        Origin::Engine(name) => MetricOrigin::Engine(name.to_owned()),
        Origin::PerReplica { series, labels } => {
            MetricOrigin::PerReplica { series: series.to_owned(), labels: labels.clone() }
        }
        Origin::Total { series, .. } => MetricOrigin::External { name: series.to_owned(), selector: None },
    }
}

fn target_quantity(target: &MetricTarget) -> Option<Quantity> {
    let percent = target.average_utilization.map(|percent| Quantity::from_milli(i64::from(percent) * 1_000));
    target.average_value.or(target.value).or(percent)
}

fn metric(metric: &MetricSpec, has_gateway: bool) -> LoweredMetric {
    if let Some(source) = &metric.signal {
        return signal(&source.name, source.target.average_value.unwrap_or_default());
    }
    let (name, origin, target) = if let Some(source) = &metric.pods {
        (source.metric.name.clone(), owned(ModelMetric::Pods(source.clone()).origin()), &source.target)
    } else if let Some(source) = &metric.external {
        (source.metric.name.clone(), external(source, has_gateway), &source.target)
    } else if let Some(source) = &metric.resource {
        let of_request = source.target.average_utilization.is_some();
        let origin = MetricOrigin::Resource { name: source.name.clone(), container: None, of_request };
        (source.name.clone(), origin, &source.target)
    } else if let Some(source) = &metric.container_resource {
        let origin = MetricOrigin::Resource {
            name: source.name.clone(),
            container: Some(source.container.clone()),
            of_request: source.target.average_utilization.is_some(),
        };
        (format!("{} of container {}", source.name, source.container), origin, &source.target)
    } else if let Some(source) = &metric.object {
        let object = &source.described_object;
        let text = format!(
            "the metric `{}` of {} `{}` is not read: Loadline reads pages of pods; write `type: External` with a metric of external.metrics.k8s.io, or `type: Pods` with a series of the pods' pages",
            source.metric.name, object.kind, object.name
        );
        (source.metric.name.clone(), MetricOrigin::Unsupported(text), &source.target)
    } else {
        // validation has refused it
        let text = format!("a metric of type `{}` has no source", metric.kind);
        return LoweredMetric {
            name: metric.kind.clone(),
            origin: MetricOrigin::Unsupported(text),
            spec: crate::hpa::metric_of(&plain(metric)),
            target: None,
        };
    };
    LoweredMetric { name, origin, spec: crate::hpa::metric_of(&plain(metric)), target: target_quantity(target) }
}

/// A gateway's count by one of its names, where a gateway is configured; else a metric of the external metrics API.
fn external(source: &crate::hpa::ExternalSource, has_gateway: bool) -> MetricOrigin {
    let name = source.metric.name.as_str();
    match GATEWAY_METRICS.iter().find(|(known, _)| has_gateway && *known == name) {
        Some((_, origin)) => owned(*origin),
        None => MetricOrigin::External { name: name.to_owned(), selector: source.metric.selector.clone() },
    }
}
