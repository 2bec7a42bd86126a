//! Values of metrics that are on no page of the pool's own pods: sums over other pods, and usage from metrics.k8s.io.

use super::pools::Pools;
use loadline_base::{ModelId, ReplicaId, Timestamp};
use loadline_cluster::UsageReader;
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
    /// Usage of cpu or memory per pod, in cores or bytes.
    Usage {
        /// The pods' namespace.
        namespace: String,
        /// The pods' selector.
        selector: String,
        /// `cpu` or `memory`.
        resource: String,
        /// Of this container only.
        container: Option<String>,
        /// In percent of what the pod asks for.
        of_request: bool,
    },
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
        usage: UsageReader,
        events: mpsc::Sender<Event>,
        cancel: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let (needs, wanted) = watch::channel(Vec::new());
        let reader = Reader { clock, period, served, usage, last: BTreeMap::new() };
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
            for need in &wanted {
                let outcome = self.read(&need.wanted).await;
                let at = self.clock.now();
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

    async fn read(&mut self, wanted: &Wanted) -> Result<Supplied, String> {
        match wanted {
            Wanted::External { namespace, metric, selector, text } => {
                self.external(namespace, metric, selector, text).await.map(Supplied::Total)
            }
            Wanted::Usage { namespace, selector, resource, container, of_request: _ } => {
                let key = format!("{namespace}/{selector}/{resource}/{}", container.as_deref().unwrap_or_default());
                let now = self.clock.now();
                let is_due = self.last.get(&key).is_none_or(|(at, _)| now.since(*at) >= USAGE_PERIOD);
                if is_due {
                    let read = self.usage_of(namespace, selector, resource, container.as_deref()).await;
                    self.last.insert(key.clone(), (now, read));
                }
                match self.last.get(&key) {
                    Some((_, Ok(values))) => Ok(Supplied::PerReplica(values.clone())),
                    Some((_, Err(why))) => Err(why.clone()),
                    None => Err("it has not been read yet".to_owned()),
                }
            }
        }
    }

    async fn external(&self, namespace: &str, metric: &str, selector: &Selector, text: &str) -> Result<f64, String> {
        let own = {
            let served = self.served.read().unwrap_or_else(PoisonError::into_inner);
            served.external(self.clock.now(), namespace, metric, selector)
        };
        match own {
            Ok(values) => Ok(values.iter().map(|value| value.value).sum()),
            Err(why) => match self.usage.external(namespace, metric, text).await {
                Ok(values) if !values.is_empty() => Ok(values.iter().map(|value| value.value.approximate_f64()).sum()),
                // what is on our own pages explains more than a provider's empty answer
                _ => Err(why.to_string()),
            },
        }
    }

    async fn usage_of(
        &self,
        namespace: &str,
        selector: &str,
        resource: &str,
        container: Option<&str>,
    ) -> Result<BTreeMap<ReplicaId, f64>, String> {
        let now = self.clock.now();
        let pods = self.usage.pods(namespace, selector).await.map_err(|error| error.to_string())?;
        let mut out = BTreeMap::new();
        for pod in pods.iter().filter(|pod| pod.at.is_some_and(|at| now.since(at) <= USAGE_AGE)) {
            let wanted =
                pod.containers.iter().filter(|(name, _)| container.is_none_or(|container| container == &***name));
            let values = wanted.map(|(_, used)| if resource == "memory" { used.memory } else { used.cpu });
            // a container without a value makes the pod's sum unknown
            if let Some(sum) = values.map(|value| value.map(|value| value.approximate_f64())).sum::<Option<f64>>() {
                out.insert(ReplicaId::new(pod.pod.to_string()), sum);
            }
        }
        Ok(out)
    }
}
