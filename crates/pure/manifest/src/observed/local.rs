//! From the observed file to what `decide` takes for a model of `loadline.yaml`.

use super::lower::memory_of;
use super::{NOW, Observed, ObservedMetric, ObservedReplica};
use crate::config::{ModelConfig, Origin};
use loadline_base::{PoolId, Quantity, ReplicaId, Timestamp};
use loadline_policy::{
    Evidence, GatewayObservation, Memory, MetricAnswer, Observation, Policy, PoolMemory, PoolObservation,
    ReplicaObservation, ReplicaState, ReplicaValue, Signal,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// The age of a replica's state where none is written: past every grace.
const STATE_AGE: Duration = Duration::from_secs(3_600);
/// The most replicas that are made up where none are listed.
const MOST_ASSUMED: u32 = 10_000;

/// Makes observation and memory for a model and its policy, which is [`ModelConfig::policy`].
#[must_use]
pub fn lower_model(observed: &Observed, model: &ModelConfig, policy: &Policy) -> (Observation, Memory) {
    let mut pools = BTreeMap::new();
    let mut memory = BTreeMap::new();
    for id in policy.pools.keys() {
        pools.insert(PoolId::clone(id), pool_of(observed, model));
        memory.insert(id.clone(), PoolMemory { hpa: memory_of(observed), ..PoolMemory::default() });
    }
    (Observation { now: NOW, pools }, Memory { pools: memory })
}

fn pool_of(observed: &Observed, model: &ModelConfig) -> PoolObservation {
    let assumed = vec![ObservedReplica::default(); usize::try_from(observed.replicas.min(MOST_ASSUMED)).unwrap_or(0)];
    let written = observed.replica_states.as_ref().unwrap_or(&assumed);
    let replicas: Vec<ReplicaObservation> = written.iter().enumerate().map(replica_of).collect();
    let gateway = gateway_of(observed);
    let metrics = model.metrics.iter().map(|metric| {
        let named = observed.metrics.iter().find(|answer| answer.name == metric.name());
        answer_of(metric.origin(), metric.name(), named, &replicas, gateway)
    });
    PoolObservation {
        spec_replicas: observed.replicas,
        status_replicas: observed.status_replicas.unwrap_or_else(|| u32::try_from(replicas.len()).unwrap_or(u32::MAX)),
        metrics: metrics.collect(),
        gateway,
        replicas,
        ..PoolObservation::default()
    }
}

fn replica_of((index, written): (usize, &ObservedReplica)) -> ReplicaObservation {
    let since = NOW.minus(written.age.map_or(STATE_AGE, |age| age.0));
    let state = written.state.unwrap_or(ReplicaState::Ready);
    let speaks = !written.missing && matches!(state, ReplicaState::Ready | ReplicaState::Draining);
    let signal = |value: Option<Quantity>| speaks.then(|| live(value.map_or(0.0, Quantity::approximate_f64), NOW));
    ReplicaObservation {
        id: ReplicaId::new(written.name.clone().unwrap_or_else(|| format!("replica-{index}"))),
        state,
        since,
        created_at: since,
        known: true,
        running: signal(written.running),
        waiting: signal(written.waiting),
        idle_since: written.idle_for.map(|age| NOW.minus(age.0)),
    }
}

fn live(value: f64, at: Timestamp) -> Signal {
    Signal { value, at, evidence: Evidence::Live }
}

fn gateway_of(observed: &Observed) -> GatewayObservation {
    let seen = observed.gateway.unwrap_or_default();
    if seen.missing {
        return GatewayObservation::Missing;
    }
    let (held, in_flight) = (seen.held, seen.in_flight);
    GatewayObservation::Live {
        held,
        in_flight,
        peak: seen.peak.unwrap_or_else(|| held.saturating_add(in_flight)),
        idle_since: seen.idle_for.map(|age| NOW.minus(age.0)),
        at: NOW.minus(seen.age.map_or(Duration::ZERO, |age| age.0)),
    }
}

/// The answer of the source that the metric has on one machine.
fn answer_of(
    origin: Origin<'_>,
    name: &str,
    written: Option<&ObservedMetric>,
    replicas: &[ReplicaObservation],
    gateway: GatewayObservation,
) -> MetricAnswer {
    let at = NOW.minus(written.and_then(|metric| metric.age).map_or(Duration::ZERO, |age| age.0));
    let failed = |error: String| MetricAnswer::Failed { error };
    if let Some(error) = written.and_then(|metric| metric.error.clone()) {
        return failed(error);
    }
    let total = |value: f64, source: &'static str| MetricAnswer::Total {
        signal: live(value, at),
        source: [("source", source)].into_iter().collect(),
    };
    let from_gateway = |pick: fn(u32, u32, u32) -> u32| match gateway {
        GatewayObservation::Live { held, in_flight, peak, .. } => {
            total(f64::from(pick(held, in_flight, peak)), "gateway")
        }
        _ => failed("no gateway has reported lately".to_owned()),
    };
    match origin {
        Origin::GatewayDemand => from_gateway(|held, in_flight, peak| peak.max(held.saturating_add(in_flight))),
        Origin::GatewayHeld => from_gateway(|held, _, _| held),
        Origin::GatewayInFlight => from_gateway(|_, in_flight, _| in_flight),
        Origin::Engine("requests_running") => own(replicas, |replica| replica.running),
        Origin::Engine("requests_waiting") => own(replicas, |replica| replica.waiting),
        Origin::Engine(_) | Origin::PerReplica { .. } => match written.and_then(|metric| metric.pods.as_ref()) {
            Some(values) => MetricAnswer::PerReplica { values: values_of(values, replicas, at) },
            None => failed(format!("the observed file has no `pods` for `{name}`, one value per replica")),
        },
        Origin::Total { .. } => {
            let values = |metric: &ObservedMetric| -> Vec<Quantity> {
                metric.value.into_iter().chain(metric.values.iter().flatten().copied()).collect()
            };
            match written.map(values).filter(|values| !values.is_empty()) {
                Some(values) => total(values.into_iter().map(Quantity::approximate_f64).sum(), "replicas"),
                None => failed(format!("the observed file has no `value` for `{name}`")),
            }
        }
    }
}

/// A count that stands with the replicas themselves.
fn own(replicas: &[ReplicaObservation], pick: fn(&ReplicaObservation) -> Option<Signal>) -> MetricAnswer {
    let value =
        |replica: &ReplicaObservation| Some(ReplicaValue { replica: replica.id.clone(), signal: pick(replica)? });
    MetricAnswer::PerReplica { values: replicas.iter().filter_map(value).collect() }
}

/// Values by replica name, in the order of the replicas.
fn values_of(
    written: &BTreeMap<String, Quantity>,
    replicas: &[ReplicaObservation],
    at: Timestamp,
) -> Vec<ReplicaValue> {
    let value = |replica: &ReplicaObservation| {
        let value = written.get(replica.id.as_str())?.approximate_f64();
        Some(ReplicaValue { replica: replica.id.clone(), signal: live(value, at) })
    };
    replicas.iter().filter_map(value).collect()
}
