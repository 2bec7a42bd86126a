//! From InferenceAutoscalers to what the control loop is configured with: one model per pool.

use super::schedule;
use super::supply::{Need, Usage, Wanted};
use loadline_base::{PoolId, Timestamp};
use loadline_cluster::{AutoscalerSeen, Key, PodKey, PodSeen, PortRef, Snapshot, TargetKey};
use loadline_control::{GatewayUse, MetricQuery, Mode, ModelSpec, Removal};
use loadline_manifest::autoscaler::{self, IntOrString, LoweredPool, MetricOrigin};
use loadline_manifest::hpa::LabelSelector;
use loadline_signals::dialect::{NamedQueries, NamedQuery, SignalName};
use loadline_signals::served::{Operator, Requirement, Selector};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What the configuration says about all autoscalers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolsSettings {
    /// How often pages are read where an autoscaler does not say.
    pub(crate) scrape_period: Duration,
    /// Autoscalers served; more are refused with a condition.
    pub(crate) max_autoscalers: usize,
}

/// One pool that is served.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServedPool {
    /// Its autoscaler.
    pub(crate) autoscaler: Key,
    /// Its name; empty with the single `scaleTargetRef`.
    pub(crate) name: String,
    /// What is scaled.
    pub(crate) target: TargetKey,
    /// The target's `apiVersion` as written.
    pub(crate) api_version: Arc<str>,
    /// What the loop is told.
    pub(crate) spec: ModelSpec,
    /// Nothing is written.
    pub(crate) is_advisory: bool,
    /// The gateway in front of it.
    pub(crate) gateway: Option<String>,
    /// Values from elsewhere that its metrics need.
    pub(crate) needs: Vec<Need>,
    /// Where its pods serve, as written.
    port: Option<PortRef>,
    /// Series that its metrics name.
    named: Option<Arc<NamedQueries>>,
}

/// How often usage of cpu and memory is measured anew.
const USAGE_PERIOD: Duration = Duration::from_secs(15);

/// Ports that a serving container usually names so.
const SERVING_PORTS: [&str; 3] = ["http", "serving", "api"];

impl ServedPool {
    /// Where a pod of it serves.
    pub(crate) fn serving_port(&self, pod: &PodSeen) -> Option<u16> {
        match &self.port {
            Some(port) => pod.port(port),
            None => SERVING_PORTS
                .iter()
                .find_map(|name| pod.port(&PortRef::Name((*name).into())))
                .or_else(|| pod.ports.first().map(|port| port.port)),
        }
    }

    /// Whether the target's controller looks at `pod-deletion-cost`.
    pub(crate) fn has_deletion_costs(&self) -> bool {
        removal(&self.target) == Removal::Named
    }
}

/// What became of one autoscaler: its pools, or reason and sentence.
type Outcome = Result<Vec<(PoolId, Arc<ServedPool>)>, (String, String)>;

/// What was made of one autoscaler and what it was made from: the same again gives the same.
#[derive(Debug, Clone)]
struct Made {
    uid: Arc<str>,
    generation: i64,
    floor: Result<Option<u32>, String>,
    is_contested: bool,
    selectors: Vec<Option<Arc<str>>>,
    outcome: Outcome,
}

/// All pools, and the autoscalers that cannot be carried out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pools {
    /// By the name that the control loop has for them.
    pub(crate) served: BTreeMap<PoolId, Arc<ServedPool>>,
    /// Reason and sentence for the condition.
    pub(crate) refused: BTreeMap<Key, (String, String)>,
    made: BTreeMap<Key, Made>,
    by_pod: BTreeMap<PodKey, Arc<NamedQueries>>,
}

impl Pools {
    /// Every pool of a snapshot, with the floors of `now`. With hundreds of autoscalers and a snapshot for every change of a pod, what is
    /// as it was in `before` is taken from there.
    pub(crate) fn of(snapshot: &Snapshot, now: Timestamp, settings: &PoolsSettings, before: &Self) -> Self {
        let mut pools = Self::default();
        for (index, (key, seen)) in snapshot.autoscalers.iter().filter(|(_, seen)| !seen.deleting).enumerate() {
            if index >= settings.max_autoscalers {
                let text =
                    format!("{} autoscalers are served already (`limits.autoscalers`)", settings.max_autoscalers);
                pools.refused.insert(key.clone(), ("TooMany".to_owned(), text));
                continue;
            }
            let made = make(snapshot, key, seen, now, settings, before.made.get(key));
            match &made.outcome {
                Ok(own) => pools.served.extend(own.iter().map(|(id, pool)| (id.clone(), Arc::clone(pool)))),
                Err(refused) => {
                    pools.refused.insert(key.clone(), refused.clone());
                }
            }
            pools.made.insert(key.clone(), made);
        }
        pools.by_pod = pools.named_by_pod(snapshot);
        pools
    }

    /// Whether the control loop would be told the same.
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        let is_same = |(one, other): (&Arc<ServedPool>, &Arc<ServedPool>)| Arc::ptr_eq(one, other) || one == other;
        self.refused == other.refused
            && self.served.keys().eq(other.served.keys())
            && self.served.values().zip(other.served.values()).all(is_same)
    }

    /// Series that the autoscaler of each pod asks for by name.
    fn named_by_pod(&self, snapshot: &Snapshot) -> BTreeMap<PodKey, Arc<NamedQueries>> {
        let mut out = BTreeMap::new();
        for pool in self.served.values() {
            let Some(named) = &pool.named else { continue };
            for pod in snapshot.pods_of(&pool.target) {
                out.entry(pod.key.clone()).or_insert_with(|| Arc::clone(named));
            }
        }
        out
    }

    /// The same for one pod.
    pub(crate) fn named_of(&self, pod: &PodKey) -> Option<&NamedQueries> {
        self.by_pod.get(pod).map(|named| &**named)
    }
}

fn make(
    snapshot: &Snapshot,
    key: &Key,
    seen: &AutoscalerSeen,
    now: Timestamp,
    settings: &PoolsSettings,
    before: Option<&Made>,
) -> Made {
    // a floor that cannot be told is not one that may be undercut
    let floor = seen.spec.as_ref().map_or(Ok(None), |spec| schedule::floor(&spec.schedules, now));
    // somebody else scales it too: nothing is written until only one is left
    let is_contested = !snapshot.conflicts_of(key).is_empty();
    let selector = |target| snapshot.targets.get(target).map(|seen| Arc::clone(&seen.selector_text));
    let selectors: Vec<Option<Arc<str>>> = seen.targets.iter().map(|pool| selector(&pool.target)).collect();
    let is_same = |before: &&Made| {
        seen.spec.is_ok()
            && (&before.uid, before.generation) == (&seen.uid, seen.generation)
            && (&before.floor, before.is_contested, &before.selectors) == (&floor, is_contested, &selectors)
    };
    let outcome = match before.filter(is_same) {
        Some(before) => before.outcome.clone(),
        None => lower(snapshot, key, seen, (&floor, is_contested), settings),
    };
    Made { uid: Arc::clone(&seen.uid), generation: seen.generation, floor, is_contested, selectors, outcome }
}

/// Who chooses the pod that goes when the count of a target is lowered.
fn removal(target: &TargetKey) -> Removal {
    match (&*target.group, &*target.kind) {
        ("apps", "Deployment" | "ReplicaSet") | ("", "ReplicationController") => Removal::Named,
        ("apps", "StatefulSet") => Removal::HighestOrdinal,
        _ => Removal::Unknown,
    }
}

fn lower(
    snapshot: &Snapshot,
    key: &Key,
    seen: &AutoscalerSeen,
    (floor, is_contested): (&Result<Option<u32>, String>, bool),
    settings: &PoolsSettings,
) -> Outcome {
    let spec = seen.spec.as_ref().map_err(|why| ("InvalidSpec".to_owned(), why.to_string()))?;
    let lowered = autoscaler::lower(&key.namespace, &key.name, spec, settings.scrape_period).map_err(|problems| {
        let reason = if spec.objective.is_some() { "NotCarriedOut" } else { "InvalidSpec" };
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        (reason.to_owned(), text.join("; "))
    })?;
    let floor = floor.as_ref().map_err(|why| ("InvalidSpec".to_owned(), why.clone()))?;
    Ok(lowered
        .into_iter()
        .map(|mut pool| {
            if let Some(floor) = floor {
                pool.raise_floor(*floor);
            }
            let (id, pool) = served(snapshot, key, pool, is_contested, settings);
            (id, Arc::new(pool))
        })
        .collect())
}

/// A port as written.
pub(crate) fn port_ref(port: &IntOrString) -> PortRef {
    match port {
        IntOrString::Int(number) => PortRef::Number(*number),
        IntOrString::Text(name) => PortRef::Name(name.as_str().into()),
    }
}

fn served(
    snapshot: &Snapshot,
    key: &Key,
    pool: LoweredPool,
    is_contested: bool,
    settings: &PoolsSettings,
) -> (PoolId, ServedPool) {
    let id = PoolId::new(pool.model.as_str());
    let target = TargetKey::new(&key.namespace, &pool.target.api_version, &pool.target.kind, &pool.target.name);
    let is_advisory = pool.mode == autoscaler::Mode::Advisory;
    let selector = snapshot.targets.get(&target).map(|seen| seen.selector_text.to_string()).unwrap_or_default();
    let needs = pool.metrics.iter().enumerate().filter_map(|(metric, lowered)| {
        Some(Need { model: pool.model.clone(), metric, wanted: wanted(key, &selector, &lowered.origin)? })
    });
    let needs = needs.collect();
    let named: Vec<NamedQuery> = pool.metrics.iter().filter_map(|metric| named_query(&metric.origin)).collect();
    let scrape_period = pool.policy.pools.values().next().map_or(settings.scrape_period, |policy| policy.scrape_period);
    let spec = ModelSpec {
        model: pool.model,
        pool: id.clone(),
        policy: pool.policy,
        queries: pool.metrics.iter().map(|metric| query(&metric.origin, scrape_period)).collect(),
        slots: pool.slots,
        scrape_period,
        start_estimate: pool.start_estimate,
        drain_timeout: pool.drain_timeout,
        gateway: if pool.gateway.is_some() { GatewayUse::Configured } else { GatewayUse::Absent },
        removal: removal(&target),
        mode: if is_advisory || is_contested { Mode::Advisory } else { Mode::Active },
    };
    let served = ServedPool {
        autoscaler: key.clone(),
        name: pool.pool.unwrap_or_default(),
        target,
        api_version: pool.target.api_version.as_str().into(),
        spec,
        is_advisory,
        gateway: pool.gateway.as_ref().map(|gateway| gateway.name.clone()),
        needs,
        port: pool.gateway.as_ref().and_then(|gateway| gateway.port.as_ref()).map(port_ref),
        named: (!named.is_empty()).then(|| Arc::new(NamedQueries::new(&named))),
    };
    (id, served)
}

fn query(origin: &MetricOrigin, period: Duration) -> MetricQuery {
    match origin {
        MetricOrigin::GatewayDemand => MetricQuery::GatewayDemand,
        MetricOrigin::GatewayHeld => MetricQuery::GatewayHeld,
        MetricOrigin::GatewayInFlight => MetricQuery::GatewayInFlight,
        MetricOrigin::Engine(name) => match SignalName::from_name(name) {
            Some(signal) => MetricQuery::Engine(signal),
            None => MetricQuery::Unanswerable(format!("there is no signal `{name}`")),
        },
        MetricOrigin::PerReplica { .. } => match named_query(origin) {
            Some(named) => MetricQuery::Series { key: named.key() },
            None => MetricQuery::Unanswerable("the series has no name".to_owned()),
        },
        MetricOrigin::External { .. } => MetricQuery::Supplied { period },
        // metrics-server measures every 15 s
        MetricOrigin::Resource { .. } => MetricQuery::Supplied { period: USAGE_PERIOD },
        MetricOrigin::Unsupported(why) => MetricQuery::Unanswerable(why.clone()),
    }
}

fn named_query(origin: &MetricOrigin) -> Option<NamedQuery> {
    match origin {
        MetricOrigin::PerReplica { series, labels } => Some(NamedQuery {
            name: series.clone(),
            matching: labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        }),
        _ => None,
    }
}

fn wanted(key: &Key, pods: &str, origin: &MetricOrigin) -> Option<Wanted> {
    match origin {
        MetricOrigin::External { name, selector } => {
            let (selector, text) = selector.as_ref().map(selector_of).unwrap_or_default();
            Some(Wanted::External { namespace: key.namespace.to_string(), metric: name.clone(), selector, text })
        }
        MetricOrigin::Resource { name, container, of_request } => Some(Wanted::Usage(Usage {
            namespace: key.namespace.to_string(),
            selector: pods.to_owned(),
            resource: name.clone(),
            container: container.clone(),
            of_request: *of_request,
        })),
        _ => None,
    }
}

/// A selector as it is matched, and as it stands in a request.
fn selector_of(selector: &LabelSelector) -> (Selector, String) {
    let equal = selector.match_labels.iter().map(|(label, value)| Requirement::equal(label.clone(), value.clone()));
    let expressions = selector.match_expressions.iter().map(|one| {
        let operator = match one.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            _ => Operator::DoesNotExist,
        };
        Requirement { key: one.key.clone(), operator, values: one.values.clone() }
    });
    let requirements: Vec<Requirement> = equal.chain(expressions).collect();
    let texts: Vec<String> = requirements.iter().map(ToString::to_string).collect();
    (Selector { requirements }, texts.join(","))
}
