//! Watches of everything, feeding one snapshot.

pub(crate) mod feed;
mod parse;
mod scales;
mod store;
#[cfg(test)]
mod tests;

use crate::client::Cluster;
use crate::error::ClusterError;
use crate::key::Key;
use crate::labels::Interner;
use crate::settings::{ClusterSettings, WatchScope};
use crate::snapshot::{
    AutoscalerSeen, HpaSeen, NodeSeen, Part, PodSeen, ScaledObjectSeen, ServiceSeen, SliceSeen, Snapshot,
};
use feed::{Change, Scope};
use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope, GroupVersionKind};
use loadline_manifest::monitor::MonitorSpec;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Changes waiting for the store; a full queue slows the watches down, which is what it should do.
const QUEUE: usize = 1_024;

/// What watches tell the store.
pub(crate) enum Told {
    Pods(Change<Key, PodSeen>),
    Autoscalers(Change<Key, AutoscalerSeen>),
    Nodes(Change<Arc<str>, NodeSeen>),
    Hpas(Change<Key, HpaSeen>),
    ScaledObjects(Change<Key, ScaledObjectSeen>),
    PodMonitors(Change<Key, Result<MonitorSpec, Arc<str>>>),
    ServiceMonitors(Change<Key, Result<MonitorSpec, Arc<str>>>),
    Services(Change<Key, ServiceSeen>),
    Slices(Change<Key, SliceSeen>),
    /// A kind does not exist.
    Absent(Part),
    /// The API server answered, or did not.
    Heartbeat(Result<(), ClusterError>),
    Target(scales::TargetNews),
}

/// One watched kind.
struct Kind {
    part: Part,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
}

const PODS: Kind = Kind { part: Part::Pods, group: "", version: "v1", kind: "Pod", plural: "pods" };
const NODES: Kind = Kind { part: Part::Nodes, group: "", version: "v1", kind: "Node", plural: "nodes" };
const SERVICES: Kind = Kind { part: Part::Services, group: "", version: "v1", kind: "Service", plural: "services" };
const SLICES: Kind = Kind {
    part: Part::EndpointSlices,
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
};
const HPAS: Kind = Kind {
    part: Part::Hpas,
    group: "autoscaling",
    version: "v2",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
};
const AUTOSCALERS: Kind = Kind {
    part: Part::Autoscalers,
    group: loadline_manifest::autoscaler::GROUP,
    version: loadline_manifest::autoscaler::VERSION,
    kind: loadline_manifest::autoscaler::KIND,
    plural: loadline_manifest::autoscaler::PLURAL,
};
const SCALED_OBJECTS: Kind = Kind {
    part: Part::ScaledObjects,
    group: "keda.sh",
    version: "v1alpha1",
    kind: "ScaledObject",
    plural: "scaledobjects",
};
const POD_MONITORS: Kind = Kind {
    part: Part::PodMonitors,
    group: loadline_manifest::monitor::GROUP,
    version: loadline_manifest::monitor::VERSION,
    kind: "PodMonitor",
    plural: "podmonitors",
};
const SERVICE_MONITORS: Kind = Kind {
    part: Part::ServiceMonitors,
    group: loadline_manifest::monitor::GROUP,
    version: loadline_manifest::monitor::VERSION,
    kind: "ServiceMonitor",
    plural: "servicemonitors",
};

pub(crate) fn start(
    cluster: &Cluster,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> watch::Receiver<Arc<Snapshot>> {
    let (told_tx, told_rx) = mpsc::channel(QUEUE);
    let (snapshot_tx, snapshot_rx) = watch::channel(Arc::new(Snapshot::default()));
    let (wanted_tx, wanted_rx) = watch::channel(Arc::default());
    let starter =
        Starter { cluster: cluster.clone(), told: told_tx.clone(), tasks: tasks.clone(), cancel: cancel.clone() };
    let mut pods = parse::PodReader::default();
    starter.follow(PODS, Told::Pods, move |object: parse::PodObject| pods.read(object));
    starter.follow(AUTOSCALERS, Told::Autoscalers, parse::autoscaler);
    starter.follow(HPAS, Told::Hpas, parse::hpa);
    starter.follow(SCALED_OBJECTS, Told::ScaledObjects, parse::scaled_object);
    starter.follow(POD_MONITORS, Told::PodMonitors, parse::monitor);
    starter.follow(SERVICE_MONITORS, Told::ServiceMonitors, parse::monitor);
    let mut strings = Interner::default();
    starter.follow(SERVICES, Told::Services, move |object| parse::service(&mut strings, object));
    starter.follow(SLICES, Told::Slices, parse::slice);
    let mut strings = Interner::default();
    starter.follow(NODES, Told::Nodes, move |object| parse::node(&mut strings, object));
    starter.heartbeat();
    scales::start(cluster, told_tx, wanted_rx, tasks, cancel);
    let store = store::Store::new(cluster.settings.clone(), cluster.clock.clone(), wanted_tx);
    let cancel = cancel.clone();
    tasks.spawn(async move {
        tokio::select! { () = store.run(told_rx, snapshot_tx) => {}, () = cancel.cancelled() => {} }
    });
    snapshot_rx
}

/// Whether a part is watched at all.
fn is_watched(settings: &ClusterSettings, part: Part) -> bool {
    // nodes are nobody's in one namespace
    settings.parts.contains(&part) && (part != Part::Nodes || settings.scope == WatchScope::Cluster)
}

struct Starter {
    cluster: Cluster,
    told: mpsc::Sender<Told>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Starter {
    /// Watches a kind for as long as it exists, and waits for it while it does not.
    fn follow<O, K, V>(
        &self,
        kind: Kind,
        told: fn(Change<K, V>) -> Told,
        mut map: impl FnMut(O) -> Option<(K, V)> + Send + 'static,
    ) where
        O: Resource<DynamicType = ApiResource, Scope = DynamicResourceScope>,
        O: Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        K: Ord + Send + 'static,
        V: Send + 'static,
    {
        if !is_watched(&self.cluster.settings, kind.part) {
            return;
        }
        let (cluster, tx, cancel) = (self.cluster.clone(), self.told.clone(), self.cancel.clone());
        let gvk = GroupVersionKind::gvk(kind.group, kind.version, kind.kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, kind.plural);
        self.tasks.spawn(async move {
            let scope = Scope::of(&cluster.settings.scope);
            let following = async {
                loop {
                    let api = scope.api::<O>(cluster.client(), &resource);
                    let sink = |change| {
                        let tx = tx.clone();
                        async move { drop(tx.send(told(change)).await) }
                    };
                    feed::run(api, scope.config(cluster.settings.page_size), &cluster.clock, &mut map, sink).await;
                    if tx.send(Told::Absent(kind.part)).await.is_err() {
                        return;
                    }
                    cluster.clock.sleep(cluster.settings.kind_retry).await;
                }
            };
            tokio::select! { () = following => {}, () = cancel.cancelled() => {} }
        });
    }

    /// Asks for the server's version now and then: it needs no right beyond being somebody, and keeps a connection warm for writes.
    fn heartbeat(&self) {
        let (cluster, tx, cancel) = (self.cluster.clone(), self.told.clone(), self.cancel.clone());
        self.tasks.spawn(async move {
            let beating = async {
                loop {
                    let answer: Result<serde_json::Value, _> =
                        cluster.rest.get("ask for the version", "/version").await;
                    let answer = match answer {
                        // a refusal is an answer too
                        Ok(_) | Err(ClusterError::Forbidden { .. } | ClusterError::Malformed { .. }) => Ok(()),
                        Err(error) => Err(error),
                    };
                    if tx.send(Told::Heartbeat(answer)).await.is_err() {
                        return;
                    }
                    cluster.clock.sleep(cluster.settings.heartbeat).await;
                }
            };
            tokio::select! { () = beating => {}, () = cancel.cancelled() => {} }
        });
    }
}
