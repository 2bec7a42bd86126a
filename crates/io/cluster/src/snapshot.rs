//! What the watches have seen, as one value.

use crate::discovery::PodScrape;
use crate::key::{Key, PodKey, TargetKey};
use crate::labels::{LabelSet, Selector};
use loadline_base::{Quantity, Timestamp};
use loadline_manifest::autoscaler::{InferenceAutoscalerSpec, InferenceAutoscalerStatus};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The parts of a snapshot that come from watches of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Pods.
    Pods,
    /// InferenceAutoscalers.
    Autoscalers,
    /// Nodes; only with cluster scope.
    Nodes,
    /// HorizontalPodAutoscalers.
    Hpas,
    /// KEDA's ScaledObjects, where their kind exists.
    ScaledObjects,
    /// PodMonitors, where their kind exists.
    PodMonitors,
    /// ServiceMonitors, where their kind exists.
    ServiceMonitors,
    /// Services.
    Services,
    /// EndpointSlices.
    EndpointSlices,
    /// Scale targets of every kind together.
    Targets,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 10] = [
        Self::Pods,
        Self::Autoscalers,
        Self::Nodes,
        Self::Hpas,
        Self::ScaledObjects,
        Self::PodMonitors,
        Self::ServiceMonitors,
        Self::Services,
        Self::EndpointSlices,
        Self::Targets,
    ];
}

/// How far a part can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartState {
    /// A whole list has been seen at least once; until then absence means nothing.
    pub synced: bool,
    /// The kind does not exist in this cluster; then the part is empty and synced.
    pub absent: bool,
    /// When the watch last said anything (objects, bookmarks do not count).
    pub last_event: Option<Timestamp>,
    /// Since when the watch has failed without interruption.
    pub failing_since: Option<Timestamp>,
    /// Why it fails, or that objects are left out.
    pub error: Option<Arc<str>>,
}

/// Whether the API server answers at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApiState {
    /// When it last answered anything.
    pub last_answer: Option<Timestamp>,
    /// Since when it has not answered.
    pub away_since: Option<Timestamp>,
    /// What happened instead.
    pub error: Option<Arc<str>>,
}

/// Everything seen; cheap to clone, never changed once published.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// When it was made.
    pub at: Timestamp,
    /// Grows by one with each snapshot.
    pub sequence: u64,
    /// Whether the API server answers.
    pub api: ApiState,
    /// How far each part can be trusted.
    pub parts: BTreeMap<Part, PartState>,
    /// Pods.
    pub pods: Arc<BTreeMap<PodKey, Arc<PodSeen>>>,
    /// InferenceAutoscalers.
    pub autoscalers: Arc<BTreeMap<Key, Arc<AutoscalerSeen>>>,
    /// HorizontalPodAutoscalers.
    pub hpas: Arc<BTreeMap<Key, Arc<HpaSeen>>>,
    /// ScaledObjects.
    pub scaled_objects: Arc<BTreeMap<Key, Arc<ScaledObjectSeen>>>,
    /// Nodes by name.
    pub nodes: Arc<BTreeMap<Arc<str>, Arc<NodeSeen>>>,
    /// Services.
    pub services: Arc<BTreeMap<Key, Arc<ServiceSeen>>>,
    /// EndpointSlices.
    pub slices: Arc<BTreeMap<Key, Arc<SliceSeen>>>,
    /// Every target that an InferenceAutoscaler or an HPA names.
    pub targets: Arc<BTreeMap<TargetKey, Arc<TargetSeen>>>,
    /// Pods of each target by its selector, in name order.
    pub members: Arc<BTreeMap<TargetKey, Arc<Vec<PodKey>>>>,
    /// What each pod is scraped at, and why not where it is not.
    pub scrape: Arc<BTreeMap<PodKey, Arc<PodScrape>>>,
    /// Who scales each target; more than one is a conflict.
    pub claims: Arc<BTreeMap<TargetKey, Vec<Claim>>>,
}

impl Snapshot {
    /// Whether a whole list of `part` has been seen.
    #[must_use]
    pub fn is_synced(&self, part: Part) -> bool {
        self.parts.get(&part).is_some_and(|state| state.synced)
    }

    /// Whether decisions can be made: pods, autoscalers and targets have been seen whole.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        [Part::Pods, Part::Autoscalers, Part::Targets].into_iter().all(|part| self.is_synced(part))
    }

    /// Since when this snapshot no longer follows the cluster: the earliest of the API server's silence and the failures of the watches
    /// that decisions stand on.
    #[must_use]
    pub fn stale_since(&self) -> Option<Timestamp> {
        let watches = [Part::Pods, Part::Autoscalers, Part::Targets]
            .into_iter()
            .filter_map(|part| self.parts.get(&part).and_then(|state| state.failing_since));
        watches.chain(self.api.away_since).min()
    }

    /// The pods of a target.
    pub fn pods_of(&self, target: &TargetKey) -> impl Iterator<Item = &Arc<PodSeen>> {
        self.members.get(target).into_iter().flat_map(|keys| keys.iter()).filter_map(|key| self.pods.get(key))
    }

    /// Everybody but `autoscaler` who scales one of its targets, as `HorizontalPodAutoscaler ml/vllm`.
    #[must_use]
    pub fn conflicts_of(&self, autoscaler: &Key) -> Vec<String> {
        let Some(seen) = self.autoscalers.get(autoscaler) else { return Vec::new() };
        let mut out: Vec<String> = seen
            .targets
            .iter()
            .filter_map(|pool| self.claims.get(&pool.target).map(|claims| (pool, claims)))
            .flat_map(|(pool, claims)| {
                claims
                    .iter()
                    .filter(|claim| claim.by != ClaimBy::InferenceAutoscaler || claim.key != *autoscaler)
                    .filter(|claim| claim.active)
                    .map(move |claim| format!("{} {} also scales {}", claim.by.kind(), claim.key, pool.target))
            })
            .collect();
        out.sort();
        out.dedup();
        out
    }

    /// GPUs that nodes offer: the sum of `nvidia.com/gpu` (and its peers) over nodes that take pods.
    #[must_use]
    pub fn gpu_capacity(&self) -> u64 {
        self.nodes.values().filter(|node| node.schedulable && node.ready).map(|node| node.gpus).sum()
    }
}

/// Who scales a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClaimBy {
    /// Ours.
    InferenceAutoscaler,
    /// A stock HPA.
    HorizontalPodAutoscaler,
    /// A ScaledObject of KEDA.
    ScaledObject,
}

impl ClaimBy {
    /// The kind's name.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::InferenceAutoscaler => "InferenceAutoscaler",
            Self::HorizontalPodAutoscaler => "HorizontalPodAutoscaler",
            Self::ScaledObject => "ScaledObject",
        }
    }
}

/// One autoscaler's claim on a target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The kind.
    pub by: ClaimBy,
    /// Its name.
    pub key: Key,
    /// Whether it writes: an advisory InferenceAutoscaler, a paused ScaledObject or an HPA that is switched off does not.
    pub active: bool,
}

/// The life stage of a pod (`status.phase`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PodPhase {
    /// Accepted, not all containers run.
    #[default]
    Pending,
    /// At least one container runs.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
}

/// One declared container port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPort {
    /// Its name.
    pub name: Option<Arc<str>>,
    /// Its number.
    pub port: u16,
}

/// What one container asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSeen {
    /// Its name.
    pub name: Arc<str>,
    /// `requests.cpu`.
    pub cpu_request: Option<Quantity>,
    /// `requests.memory`.
    pub memory_request: Option<Quantity>,
    /// GPUs asked for.
    pub gpus: u64,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSeen {
    /// Its name.
    pub key: PodKey,
    /// Its uid: a StatefulSet's new pod has the old one's name.
    pub uid: Arc<str>,
    /// Its labels.
    pub labels: LabelSet,
    /// Those annotations that mean something here.
    pub annotations: LabelSet,
    /// Its address.
    pub ip: Option<IpAddr>,
    /// Its stage.
    pub phase: PodPhase,
    /// Condition `Ready`.
    pub ready: bool,
    /// When condition `Ready` last changed, by the API server's clock.
    pub ready_changed: Option<Timestamp>,
    /// When it was created, by the API server's clock.
    pub created_at: Timestamp,
    /// When the kubelet took it (`status.startTime`).
    pub started_at: Option<Timestamp>,
    /// Where it runs.
    pub node: Option<Arc<str>>,
    /// It is being deleted, until then.
    pub deletion: Option<Timestamp>,
    /// Why the scheduler finds no node for it.
    pub unschedulable: Option<Arc<str>>,
    /// Why a container does not run: `ImagePullBackOff: ...`, `CrashLoopBackOff: ...`.
    pub waiting: Option<Arc<str>>,
    /// Its declared ports in order.
    pub ports: Arc<[PodPort]>,
    /// Its containers in order.
    pub containers: Arc<[ContainerSeen]>,
    /// Restarts of all containers.
    pub restarts: u32,
    /// `Kind/name` of its controller.
    pub owner: Option<Arc<str>>,
}

impl PodSeen {
    /// Whether it takes requests: ready, with an address, not on its way out.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.ready && self.ip.is_some() && self.deletion.is_none() && self.phase == PodPhase::Running
    }

    /// Whether it has ended.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.phase, PodPhase::Succeeded | PodPhase::Failed)
    }

    /// The port that `wanted` names or numbers.
    #[must_use]
    pub fn port(&self, wanted: &crate::discovery::PortRef) -> Option<u16> {
        match wanted {
            crate::discovery::PortRef::Number(number) => Some(*number),
            crate::discovery::PortRef::Name(name) => {
                self.ports.iter().find(|port| port.name.as_deref() == Some(name)).map(|port| port.port)
            }
        }
    }

    /// `host:port` as an address is written, brackets included.
    #[must_use]
    pub fn address(&self, port: u16) -> Option<String> {
        self.ip.map(|ip| std::net::SocketAddr::new(ip, port).to_string())
    }

    /// GPUs that all its containers ask for.
    #[must_use]
    pub fn gpus(&self) -> u64 {
        self.containers.iter().map(|container| container.gpus).sum()
    }
}

/// One pool of an autoscaler and what it scales.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolTarget {
    /// The pool's name; empty with the single `scaleTargetRef`.
    pub pool: Arc<str>,
    /// Its target.
    pub target: TargetKey,
    /// The `apiVersion` as written, for the choice of the version to talk to.
    pub api_version: Arc<str>,
}

/// One InferenceAutoscaler.
#[derive(Debug, Clone, PartialEq)]
pub struct AutoscalerSeen {
    /// Its name.
    pub key: Key,
    /// Its uid.
    pub uid: Arc<str>,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.resourceVersion`.
    pub resource_version: Arc<str>,
    /// When it was created.
    pub created_at: Timestamp,
    /// Its deletion has begun.
    pub deleting: bool,
    /// What it says, or why it cannot be read: such an object is kept for its status.
    pub spec: Result<Arc<InferenceAutoscalerSpec>, Arc<str>>,
    /// Its status as last seen; `None` where there is none or it cannot be read.
    pub status: Option<Arc<InferenceAutoscalerStatus>>,
    /// What it scales.
    pub targets: Vec<PoolTarget>,
}

/// One scale target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSeen {
    /// Which.
    pub key: TargetKey,
    /// Its uid.
    pub uid: Option<Arc<str>>,
    /// `scale.spec.replicas`.
    pub spec_replicas: u32,
    /// `scale.status.replicas`.
    pub status_replicas: u32,
    /// `scale.status.selector` as written.
    pub selector_text: Arc<str>,
    /// The same, read; `None` where it is empty or wrong.
    pub selector: Option<Arc<Selector>>,
    /// The version to write against.
    pub resource_version: Arc<str>,
    /// When these counts were seen.
    pub at: Timestamp,
    /// Why it could not be read just now; the fields above are then what was seen last, if anything.
    pub error: Option<TargetError>,
}

/// Why a target cannot be read or scaled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetError {
    /// A reason in the HPA's vocabulary: `FailedGetScale`, `InvalidSelector`.
    pub reason: &'static str,
    /// The sentence.
    pub message: Arc<str>,
    /// Whether counts were ever seen.
    pub seen_before: bool,
}

/// One HorizontalPodAutoscaler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HpaSeen {
    /// Its name.
    pub key: Key,
    /// What it scales.
    pub target: TargetKey,
    /// The `apiVersion` as written.
    pub api_version: Arc<str>,
    /// Names of its Pods metrics.
    pub pods_metrics: Vec<Arc<str>>,
    /// Names of its Object metrics.
    pub object_metrics: Vec<Arc<str>>,
    /// Names of its External metrics.
    pub external_metrics: Vec<Arc<str>>,
    /// `spec.minReplicas`, default 1.
    pub min_replicas: u32,
    /// `spec.maxReplicas`.
    pub max_replicas: u32,
    /// Condition `ScalingActive`, if it is there, with its reason.
    pub scaling_active: Option<(bool, Arc<str>)>,
    /// The ScaledObject that owns it.
    pub owned_by_scaled_object: bool,
}

/// One ScaledObject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaledObjectSeen {
    /// Its name.
    pub key: Key,
    /// What it scales.
    pub target: TargetKey,
    /// Annotations pause it.
    pub paused: bool,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSeen {
    /// Its name.
    pub name: Arc<str>,
    /// Condition `Ready`.
    pub ready: bool,
    /// Not cordoned.
    pub schedulable: bool,
    /// Allocatable GPUs of every vendor.
    pub gpus: u64,
    /// Its labels.
    pub labels: LabelSet,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name.
    pub name: Option<Arc<str>>,
    /// Its number.
    pub port: u16,
    /// The pods' port.
    pub target: crate::discovery::PortRef,
}

/// One Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSeen {
    /// Its name.
    pub key: Key,
    /// Its labels.
    pub labels: LabelSet,
    /// Its pod selector; `None` where endpoints are made by somebody else.
    pub selector: Option<Arc<Selector>>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// One EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceSeen {
    /// Its name.
    pub key: Key,
    /// Its Service (`kubernetes.io/service-name`).
    pub service: Option<Arc<str>>,
    /// Its ports: name and number.
    pub ports: Vec<(Option<Arc<str>>, u16)>,
    /// Its endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// The pod behind it.
    pub pod: Option<PodKey>,
    /// Its first address.
    pub address: Arc<str>,
    /// It takes requests.
    pub ready: bool,
    /// It is on its way out.
    pub terminating: bool,
}
