//! From what is known of a model to the observation of a decision.

use crate::event::MetricQuery;
use crate::model::Model;
use crate::replicas::{Replica, Replicas};
use loadline_base::Timestamp;
use loadline_policy::observation::ReplicaValue;
use loadline_policy::{Evidence, GatewayObservation, MetricAnswer, Observation, PoolObservation, ReplicaState, Signal};
use std::collections::BTreeMap;

/// Everything a decision for this model may know.
pub(crate) fn observe(now: Timestamp, model: &Model) -> Observation {
    let gateway = model.gateways.observe(now);
    let metrics = model.spec.queries.iter().map(|query| answer(now, model, gateway, query)).collect();
    let pool = PoolObservation {
        spec_replicas: model.scaling.serving(),
        status_replicas: u32::try_from(model.replicas.table.len()).unwrap_or(u32::MAX),
        replicas: model.replicas.observe(now, model.spec.scrape_period),
        metrics,
        gateway,
        ..PoolObservation::default()
    };
    Observation { now, pools: BTreeMap::from([(model.spec.pool.clone(), pool)]) }
}

fn answer(now: Timestamp, model: &Model, gateway: GatewayObservation, query: &MetricQuery) -> MetricAnswer {
    let from_gateway = |pick: fn(u32, u32, u32) -> u32| match gateway {
        GatewayObservation::Live { held, in_flight, peak, at, .. } => MetricAnswer::Total {
            signal: Signal { value: f64::from(pick(held, in_flight, peak)), at, evidence: Evidence::Live },
            source: [("source", "gateway")].into_iter().collect(),
        },
        GatewayObservation::Missing => MetricAnswer::Failed { error: "no gateway has reported lately".to_owned() },
        GatewayObservation::Absent => MetricAnswer::Failed { error: "no gateway serves this model".to_owned() },
    };
    match query {
        MetricQuery::GatewayDemand => from_gateway(|held, in_flight, peak| peak.max(held.saturating_add(in_flight))),
        MetricQuery::GatewayHeld => from_gateway(|held, _, _| held),
        MetricQuery::GatewayInFlight => from_gateway(|_, in_flight, _| in_flight),
        MetricQuery::Engine(name) => {
            per_replica(model, |replica| Replicas::signal(now, replica, *name, model.spec.scrape_period))
        }
        MetricQuery::Series { key } => per_replica(model, |replica| {
            let (at, reading) = replica.reading.as_ref()?;
            let evidence = Evidence::of_age(now, *at, model.spec.scrape_period);
            Some(Signal { value: *reading.named.get(key)?, at: *at, evidence })
        }),
        MetricQuery::Unanswerable(why) => MetricAnswer::Failed { error: why.clone() },
    }
}

/// One value per replica that serves; those without one are missing, not zero.
fn per_replica(model: &Model, signal: impl Fn(&Replica) -> Option<Signal>) -> MetricAnswer {
    let values = model
        .replicas
        .table
        .iter()
        .filter(|(_, replica)| matches!(replica.state, ReplicaState::Ready | ReplicaState::Draining))
        .filter_map(|(id, replica)| Some(ReplicaValue { replica: id.clone(), signal: signal(replica)? }))
        .collect();
    MetricAnswer::PerReplica { values }
}
