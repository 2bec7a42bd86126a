//! What may be configured; every limit of this crate stands here.

use crate::snapshot::Part;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// Which namespaces are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchScope {
    /// All of them; needs a ClusterRole.
    Cluster,
    /// One; a Role is enough. Nodes are not watched then.
    Namespace(String),
}

/// How to reach the cluster and how much of it to keep.
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// A kubeconfig file; else the environment's, else the pod's own service account.
    pub kubeconfig: Option<PathBuf>,
    /// A context of that file; else its current one.
    pub context: Option<String>,
    /// Where is watched.
    pub scope: WatchScope,
    /// What is watched; other parts stay empty, count as absent, and need no right. Without [`Part::Autoscalers`] and [`Part::Hpas`] there
    /// are no [`Part::Targets`].
    pub parts: BTreeSet<Part>,
    /// Where Loadline itself lives: its lease, checkpoints and certificates.
    pub install_namespace: String,
    /// The name of the Lease there.
    pub lease_name: String,
    /// This process, as it appears in the lease and in events: the pod's name.
    pub identity: String,
    /// How long one request may take.
    pub request_timeout: Duration,
    /// Changes closer together than this are published as one snapshot.
    pub coalesce: Duration,
    /// Objects in one page of a list.
    pub page_size: u32,
    /// Objects of one kind that are kept; more are left out and named in the part's error.
    pub max_objects: usize,
    /// Scale targets of one cluster that are followed.
    pub max_targets: usize,
    /// How often a scale is read again where nothing changed.
    pub scale_resync: Duration,
    /// The smallest gap between two reads of one scale that follow from changes of its object.
    pub scale_gap: Duration,
    /// How often missing kinds are looked for again.
    pub kind_retry: Duration,
    /// How often the API server is asked whether it is there; also keeps a connection warm for writes.
    pub heartbeat: Duration,
    /// Events per object and minute; more are counted and told with the next.
    pub events_per_minute: u32,
    /// Events waiting to be written; more are dropped and counted.
    pub event_queue: usize,
    /// Whether a monitor's longer `interval` is kept to; else every page is read at our own period.
    pub respect_monitor_interval: bool,
    /// How long a bearer token or certificate of an endpoint is used before it is read again.
    pub secret_ttl: Duration,
}

impl ClusterSettings {
    /// The defaults for a process called `identity` that lives in `install_namespace`.
    #[must_use]
    pub fn new(install_namespace: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            kubeconfig: None,
            context: None,
            scope: WatchScope::Cluster,
            parts: Part::ALL.into_iter().collect(),
            install_namespace: install_namespace.into(),
            lease_name: LEASE_NAME.to_owned(),
            identity: identity.into(),
            request_timeout: Duration::from_secs(5),
            coalesce: Duration::from_millis(20),
            page_size: 500,
            max_objects: 20_000,
            max_targets: 2_000,
            scale_resync: Duration::from_secs(60),
            scale_gap: Duration::from_millis(200),
            kind_retry: Duration::from_secs(30),
            heartbeat: Duration::from_secs(5),
            events_per_minute: 30,
            event_queue: 1_024,
            respect_monitor_interval: false,
            secret_ttl: Duration::from_secs(60),
        }
    }
}

/// Largest checkpoint of one autoscaler.
pub const MAX_CHECKPOINT_BYTES: usize = 64 * 1024;
/// The name of our Lease where nothing else is configured.
pub const LEASE_NAME: &str = "loadline";
/// The Lease's annotation with the address at which gateways reach the writer.
pub const WRITER_ADDRESS: &str = "loadline.dev/writer-address";
/// Who we are in `managedFields`, user agents and events.
pub const COMPONENT: &str = "loadline";
/// The pod annotation that tells the ReplicaSet controller which pods to remove first.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
