//! Values of metrics that are on no page of the pool's own pods: sums over other pods, and usage from metrics.k8s.io.

use super::pools::Pools;
use loadline_base::{ModelId, ReplicaId, Timestamp};
use loadline_cluster::{PodUsage, Snapshot, UsageReader};
use loadline_control::{Event, Supplied};
use loadline_net::Clock;
use loadline_signals::served::{Selector, Served};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How often usage is read; metrics-server measures every 15 s.
const USAGE_PERIOD: Duration = Duration::from_secs(5);

/// Usage older than this is no value.
const USAGE_AGE: Duration = Duration::from_secs(90);

/// Which value is wanted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Wanted {
    /// A metric as external.metrics.k8s.io answers it: ours first, then the cluster's other provider.
    External {
        /// Its namespace.
        namespace: String,
        /// Its name.
        metric: String,
        /// Which of its series, as text and read.
        selector: Selector,
        /// The selector as written for the API.
        text: String,
    },
    /// Usage of cpu or memory per pod.
    Usage(Usage),
}

/// Usage of cpu (cores) or memory (bytes) per pod, or in percent of what the pod asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Usage {
    /// The pods' namespace.
    pub(crate) namespace: String,
    /// The pods' selector.
    pub(crate) selector: String,
    /// `cpu` or `memory`.
    pub(crate) resource: String,
    /// Of this container only.
    pub(crate) container: Option<String>,
    /// In percent.
    pub(crate) of_request: bool,
}

impl Wanted {
    /// Whether it is the usage that is remembered under this key.
    fn is_usage(&self, key: &str) -> bool {
        matches!(self, Self::Usage(usage) if format!("{usage:?}") == key)
    }
}

impl Usage {
    fn is_of(&self, container: &str) -> bool {
        self.container.as_deref().is_none_or(|wanted| wanted == container)
    }
}

/// One value with its place in a policy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Need {
    /// The model.
    pub(crate) model: ModelId,
    /// The metric's place in its policy.
    pub(crate) metric: usize,
    /// What is wanted.
    pub(crate) wanted: Wanted,
}

/// Says what is wanted; a task of its own reads it.
pub(crate) struct Supply {
    needs: watch::Sender<Vec<Need>>,
}

impl Supply {
    /// Nothing is wanted yet.
    pub(crate) fn new(
        clock: Clock,
        period: Duration,
        served: Arc<RwLock<Served>>,
        (usage, snapshots): (UsageReader, watch::Receiver<Arc<Snapshot>>),
        events: mpsc::Sender<Event>,
        cancel: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let (needs, wanted) = watch::channel(Vec::new());
        let reader = Reader { clock, period, served, usage, snapshots, last: BTreeMap::new() };
        (Self { needs }, reader.run(wanted, events, cancel))
    }

    /// What the pools want from now on.
    pub(crate) fn set(&self, pools: &Pools) {
        let needs: Vec<Need> = pools.served.values().flat_map(|pool| pool.needs.clone()).collect();
        self.needs.send_if_modified(|before| {
            let is_new = *before != needs;
            *before = needs;
            is_new
        });
    }
}

/// A usage read: when, and what came of it.
type Read = (Timestamp, Result<BTreeMap<ReplicaId, f64>, String>);

struct Reader {
    clock: Clock,
    period: Duration,
    served: Arc<RwLock<Served>>,
    usage: UsageReader,
    /// What pods ask for stands in their specs.
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The last reading of each kind of usage, so that several metrics share one request.
    last: BTreeMap<String, Read>,
}

impl Reader {
    async fn run(
        mut self,
        mut needs: watch::Receiver<Vec<Need>>,
        events: mpsc::Sender<Event>,
        cancel: CancellationToken,
    ) {
        loop {
            let wanted = needs.borrow_and_update().clone();
            self.last.retain(|key, _| wanted.iter().any(|need| need.wanted.is_usage(key)));
            for need in &wanted {
                let (at, outcome) = match self.read(&need.wanted).await {
                    Ok((at, value)) => (at, Ok(value)),
                    Err(why) => (self.clock.now(), Err(why)),
                };
                let event = Event::Supplied { model: need.model.clone(), metric: need.metric, at, outcome };
                if events.send(event).await.is_err() {
                    return;
                }
            }
            let next = if wanted.is_empty() { Timestamp::MAX } else { self.clock.now().plus(self.period) };
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = needs.changed() => if changed.is_err() { return },
                () = self.clock.sleep_until(next) => {}
            }
        }
    }

    /// A value, and as of when.
    async fn read(&mut self, wanted: &Wanted) -> Result<(Timestamp, Supplied), String> {
        match wanted {
            Wanted::External { namespace, metric, selector, text } => {
                let (at, value) = self.external(namespace, metric, selector, text).await?;
                Ok((at, Supplied::Total(value)))
            }
            Wanted::Usage(usage) => {
                let key = format!("{usage:?}");
                let now = self.clock.now();
                let is_due = self.last.get(&key).is_none_or(|(at, _)| now.since(*at) >= USAGE_PERIOD);
                if is_due {
                    let read = self.usage_of(usage).await;
                    self.last.insert(key.clone(), (now, read));
                }
                match self.last.get(&key) {
                    Some((at, Ok(values))) => Ok((*at, Supplied::PerReplica(values.clone()))),
                    Some((_, Err(why))) => Err(why.clone()),
                    None => Err("it has not been read yet".to_owned()),
                }
            }
        }
    }

    async fn external(
        &self,
        namespace: &str,
        metric: &str,
        selector: &Selector,
        text: &str,
    ) -> Result<(Timestamp, f64), String> {
        let now = self.clock.now();
        let own = {
            let served = self.served.read().unwrap_or_else(PoisonError::into_inner);
            served.external(self.clock.now(), namespace, metric, selector)
        };
        match own {
            // as old as the oldest page in it
            Ok(values) => {
                let at = values.iter().map(|value| value.at).min().unwrap_or(now);
                Ok((at, values.iter().map(|value| value.value).sum()))
            }
            Err(why) => match self.usage.external(namespace, metric, text).await {
                Ok(values) if !values.is_empty() => {
                    Ok((now, values.iter().map(|value| value.value.approximate_f64()).sum()))
                }
                // what is on our own pages explains more than a provider's empty answer
                _ => Err(why.to_string()),
            },
        }
    }

    async fn usage_of(&self, wanted: &Usage) -> Result<BTreeMap<ReplicaId, f64>, String> {
        let now = self.clock.now();
        let pods = self.usage.pods(&wanted.namespace, &wanted.selector).await.map_err(|error| error.to_string())?;
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let mut out = BTreeMap::new();
        for pod in pods.iter().filter(|pod| pod.at.is_some_and(|at| now.since(at) <= USAGE_AGE)) {
            let Some(used) = used(pod, wanted) else { continue };
            let value = if wanted.of_request {
                let Some(request) = requested(&snapshot, pod, wanted).filter(|request| *request > 0.0) else {
                    return Err(format!(
                        "pod `{}` requests no {}, of which a percentage could be taken; set `resources.requests` or write `averageValue`",
                        pod.pod, wanted.resource
                    ));
                };
                used / request * 100.0
            } else {
                used
            };
            out.insert(ReplicaId::new(pod.pod.to_string()), value);
        }
        Ok(out)
    }
}

/// What a pod uses; a container without a value makes its sum unknown.
fn used(pod: &PodUsage, wanted: &Usage) -> Option<f64> {
    pod.containers
        .iter()
        .filter(|(name, _)| wanted.is_of(name))
        .map(|(_, used)| if wanted.resource == "memory" { used.memory } else { used.cpu })
        .map(|value| value.map(|value| value.approximate_f64()))
        .sum()
}

/// What a pod asks for.
fn requested(snapshot: &Snapshot, pod: &PodUsage, wanted: &Usage) -> Option<f64> {
    let seen = snapshot.pods.get(&pod.pod)?;
    seen.containers
        .iter()
        .filter(|container| wanted.is_of(&container.name))
        .map(|container| if wanted.resource == "memory" { container.memory_request } else { container.cpu_request })
        .map(|value| value.map(|value| value.approximate_f64()))
        .sum()
}
