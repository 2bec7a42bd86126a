//! From what is known of a model to the observation of a decision.

use crate::event::{MetricQuery, Supplied};
use crate::model::Model;
use crate::replicas::{Replica, Replicas};
use loadline_base::{ReplicaId, Timestamp};
use loadline_policy::observation::ReplicaValue;
use loadline_policy::{Evidence, GatewayObservation, MetricAnswer, Observation, PoolObservation, ReplicaState, Signal};
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything a decision for this model may know.
pub(crate) fn observe(now: Timestamp, model: &Model) -> Observation {
    let gateway = model.gateway(now);
    let queries = model.spec.queries.iter().enumerate();
    let metrics = queries.map(|(at, query)| answer(now, model, gateway, at, query)).collect();
    let pool = PoolObservation {
        spec_replicas: model.serving(),
        status_replicas: u32::try_from(model.replicas.table.len()).unwrap_or(u32::MAX).saturating_add(model.unlisted),
        replicas: model.replicas.observe(now, model.spec.scrape_period, model.spec.start_estimate),
        metrics,
        gateway,
        ..PoolObservation::default()
    };
    Observation { now, pools: BTreeMap::from([(model.spec.pool.clone(), pool)]) }
}

/// The answer to the metric at this place of the policy.
pub(crate) fn answer(
    now: Timestamp,
    model: &Model,
    gateway: GatewayObservation,
    metric: usize,
    query: &MetricQuery,
) -> MetricAnswer {
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
        MetricQuery::Series { key } => per_replica(model, |replica| series(now, model, replica, key)),
        MetricQuery::SeriesTotal { key } => total(model, key, |replica| series(now, model, replica, key)),
        MetricQuery::Supplied { period } => supplied(now, model, metric, *period),
        MetricQuery::Unanswerable(why) => MetricAnswer::Failed { error: why.clone() },
    }
}

/// A value that was brought from outside, as long as it may be used; then why there is no newer one.
fn supplied(now: Timestamp, model: &Model, metric: usize, period: Duration) -> MetricAnswer {
    let none = |error: Option<&String>| MetricAnswer::Failed {
        error: error.cloned().unwrap_or_else(|| "its source has given no value yet".to_owned()),
    };
    let Some(value) = model.supplied.get(&metric) else { return none(None) };
    let Some((at, last)) = &value.last else { return none(value.error.as_ref()) };
    let evidence = Evidence::of_age(now, *at, period);
    if let (Evidence::Missing, Some(_)) = (evidence, &value.error) {
        return none(value.error.as_ref());
    }
    let signal = |value: f64| Signal { value, at: *at, evidence };
    match last {
        Supplied::Total(value) if value.is_finite() => {
            MetricAnswer::Total { signal: signal(*value), source: [("source", "supplied")].into_iter().collect() }
        }
        Supplied::Total(value) => {
            MetricAnswer::Failed { error: format!("its source gave `{value}`, which is no number") }
        }
        Supplied::PerReplica(values) => per_replica_named(model, |id| values.get(id).map(|value| signal(*value))),
    }
}

/// A series of one replica's page.
fn series(now: Timestamp, model: &Model, replica: &Replica, key: &str) -> Option<Signal> {
    let (at, reading) = replica.reading.as_ref()?;
    let evidence = Evidence::of_age(now, *at, model.spec.scrape_period);
    Some(Signal { value: *reading.named.get(key)?, at: *at, evidence })
}

fn serves(replica: &Replica) -> bool {
    matches!(replica.state, ReplicaState::Ready | ReplicaState::Draining)
}

/// The sum over replicas that serve, as old and as doubtful as its worst part. A sum of survivors is not a sum of all.
fn total(model: &Model, key: &str, signal: impl Fn(&Replica) -> Option<Signal>) -> MetricAnswer {
    let mut sum: Option<Signal> = None;
    for (id, replica) in model.replicas.table.iter().filter(|(_, replica)| serves(replica)) {
        let part = signal(replica).filter(|part| matches!(part.evidence, Evidence::Live | Evidence::Stale));
        let Some(part) = part else {
            return MetricAnswer::Failed {
                error: format!("replica `{id}` gives no value of `{key}`, so there is no total"),
            };
        };
        sum = Some(sum.map_or(part, |sum| Signal {
            value: sum.value + part.value,
            at: sum.at.min(part.at),
            evidence: sum.evidence.max(part.evidence),
        }));
    }
    match sum {
        Some(signal) => MetricAnswer::Total { signal, source: [("source", "replicas")].into_iter().collect() },
        None => MetricAnswer::Failed { error: format!("no replica serves, so there is no total of `{key}`") },
    }
}

/// One value per replica that serves, or finishes what it has; those without one are missing, not zero.
fn per_replica(model: &Model, signal: impl Fn(&Replica) -> Option<Signal>) -> MetricAnswer {
    let serving = model.replicas.table.iter().filter(|(_, replica)| serves(replica) || model.is_finishing(replica));
    let value =
        |(id, replica): (&ReplicaId, &Replica)| Some(ReplicaValue { replica: id.clone(), signal: signal(replica)? });
    MetricAnswer::PerReplica { values: serving.filter_map(value).collect() }
}

/// The same from values that are kept by name.
fn per_replica_named(model: &Model, signal: impl Fn(&ReplicaId) -> Option<Signal>) -> MetricAnswer {
    let serving = model.replicas.table.iter().filter(|(_, replica)| serves(replica)).map(|(id, _)| id);
    let value = |id: &ReplicaId| Some(ReplicaValue { replica: id.clone(), signal: signal(id)? });
    MetricAnswer::PerReplica { values: serving.filter_map(value).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{GatewayUse, Mode, ModelSpec, Removal};
    use loadline_policy::{Memory, Policy};
    use loadline_signals::dialect::{NamedQueries, NamedQuery, Reading, read_with};
    use loadline_signals::exposition::Limits;
    use std::sync::Arc;

    fn page(value: Option<u32>) -> Arc<Reading> {
        let named = NamedQueries::new(&[NamedQuery { name: "queue".into(), matching: loadline_base::Labels::new() }]);
        let text = value.map_or_else(|| "other 1\n".to_owned(), |value| format!("queue {value}\n"));
        Arc::new(read_with(text.as_bytes(), None, &named, &Limits::default()).expect("reads"))
    }

    /// One page per ready replica with its age in seconds; one replica without a page starts.
    fn answer_of(pages: &[(Option<u32>, i64)]) -> MetricAnswer {
        let spec = ModelSpec {
            model: "m".into(),
            pool: "m".into(),
            policy: Policy::default(),
            queries: vec![MetricQuery::SeriesTotal { key: "queue".to_owned() }],
            slots: 1,
            scrape_period: Duration::from_secs(1),
            start_estimate: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(1),
            gateway: GatewayUse::default(),
            removal: Removal::default(),
            mode: Mode::default(),
        };
        let mut model = Model::new(spec, Memory::default());
        for (index, (value, age)) in pages.iter().enumerate() {
            let (id, at) = (ReplicaId::new(format!("m-{index}")), Timestamp::from_secs(1_000 - age));
            model.replicas.started(at, id.clone(), at, String::new());
            model.replicas.ready(at, &id);
            model.replicas.scraped(at, Duration::from_secs(1), &id, Ok(page(*value)));
        }
        let starting = ReplicaId::new("m-starting");
        model.replicas.started(Timestamp::from_secs(1_000), starting, Timestamp::from_secs(1_000), String::new());
        let seen = observe(Timestamp::from_secs(1_000), &model);
        seen.pools.values().next().expect("one pool").metrics.first().expect("one answer").clone()
    }

    #[test]
    fn a_total_is_of_all_replicas_or_none() {
        struct Case {
            name: &'static str,
            pages: &'static [(Option<u32>, i64)],
            expect: Result<(f64, Evidence, i64), &'static str>,
        }
        for case in [
            Case { name: "all fresh", pages: &[(Some(3), 0), (Some(4), 1)], expect: Ok((7.0, Evidence::Live, 999)) },
            Case { name: "one late", pages: &[(Some(3), 0), (Some(4), 5)], expect: Ok((7.0, Evidence::Stale, 995)) },
            Case {
                name: "one silent",
                pages: &[(Some(3), 0), (Some(4), 60)],
                expect: Err("replica `m-1` gives no value of `queue`"),
            },
            Case {
                name: "not on the page",
                pages: &[(Some(3), 0), (None, 0)],
                expect: Err("replica `m-1` gives no value of `queue`"),
            },
            Case { name: "nobody serves", pages: &[], expect: Err("no replica serves") },
        ] {
            match (answer_of(case.pages), case.expect) {
                (MetricAnswer::Total { signal, .. }, Ok((value, evidence, at))) => {
                    let expect = Signal { value, evidence, at: Timestamp::from_secs(at) };
                    assert_eq!(signal, expect, "{}", case.name);
                }
                (MetricAnswer::Failed { error }, Err(text)) => assert!(error.contains(text), "{}: {error}", case.name),
                (got, _) => panic!("{}: {got:?}", case.name),
            }
        }
    }
}
