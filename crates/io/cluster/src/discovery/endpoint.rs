//! Where a pod's page is read, and why not where it is not.

use crate::key::{Key, PodKey};
use loadline_base::Labels;
pub use loadline_manifest::autoscaler::{EngineKind, Scheme};
use loadline_manifest::monitor::RelabelConfig;
use loadline_manifest::monitor::relabel::{RelabelError, Rules};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A port by number or by the name of a container port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortRef {
    /// By number.
    Number(u16),
    /// By name.
    Name(Arc<str>),
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// What said that a page exists, strongest first: of two that name one port and path, the first is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointSource {
    /// `spec.scrape` of an InferenceAutoscaler whose target the pod belongs to.
    Autoscaler(Key),
    /// A PodMonitor.
    PodMonitor(Key),
    /// A ServiceMonitor.
    ServiceMonitor(Key),
    /// The pod's own annotations `loadline.dev/*`.
    Annotations,
    /// The pod's own annotations `prometheus.io/*`.
    PrometheusAnnotations,
    /// Nothing says so, but the pod belongs to the target of this InferenceAutoscaler: its first metrics port is tried.
    AutoscalerDefault(Key),
    /// Nothing says so, but the pod belongs to the target of this HPA with a Pods or Object metric: its first metrics port is tried.
    HpaDefault(Key),
}

impl fmt::Display for EndpointSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Autoscaler(key) => write!(f, "InferenceAutoscaler {key} (`spec.scrape`)"),
            Self::PodMonitor(key) => write!(f, "PodMonitor {key}"),
            Self::ServiceMonitor(key) => write!(f, "ServiceMonitor {key}"),
            Self::Annotations => f.write_str("annotations `loadline.dev/*`"),
            Self::PrometheusAnnotations => f.write_str("annotations `prometheus.io/*`"),
            Self::AutoscalerDefault(key) => write!(f, "InferenceAutoscaler {key} (first metrics port)"),
            Self::HpaDefault(key) => write!(f, "HorizontalPodAutoscaler {key} (first metrics port)"),
        }
    }
}

/// Which kind of object holds a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HolderKind {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

/// One key of a Secret or ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValueRef {
    /// The kind.
    pub kind: HolderKind,
    /// The object.
    pub object: Key,
    /// The key within it.
    pub key: Arc<str>,
}

/// How a page's certificate is checked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct EndpointTls {
    /// Where the trusted authorities stand; those of the image where unset.
    pub ca: Option<ValueRef>,
    /// Take any certificate.
    pub insecure_skip_verify: bool,
    /// The name that the certificate must have; the pod's address where unset.
    pub server_name: Option<Arc<str>>,
}

/// Relabelings as written and compiled, once per monitor and not per pod. Two are equal if they are written alike.
#[derive(Debug, Clone, Default)]
pub struct Relabelings {
    written: Arc<[RelabelConfig]>,
    rules: Arc<Rules>,
}

impl Relabelings {
    /// Checks and compiles.
    ///
    /// # Errors
    /// Names the first rule that is wrong.
    pub fn compile(written: &[RelabelConfig]) -> Result<Self, RelabelError> {
        Ok(Self { rules: Arc::new(Rules::compile(written)?), written: written.into() })
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.written.is_empty()
    }

    /// Ready to be applied.
    #[must_use]
    pub const fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }
}

impl PartialEq for Relabelings {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Eq for Relabelings {}

/// One page of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrapeEndpoint {
    /// Whose.
    pub pod: PodKey,
    /// The pod's uid.
    pub uid: Arc<str>,
    /// Where.
    pub address: SocketAddr,
    /// Path with query.
    pub path: Arc<str>,
    /// With or without TLS.
    pub scheme: Scheme,
    /// Whose names the page has.
    pub engine: EngineKind,
    /// How often, where not at our own period.
    pub period: Option<Duration>,
    /// Where the bearer token stands.
    pub bearer: Option<ValueRef>,
    /// How the certificate is checked, with https.
    pub tls: EndpointTls,
    /// Labels that the source puts on every series.
    pub labels: Labels,
    /// Whether labels of the page win over `labels`.
    pub honor_labels: bool,
    /// What becomes of each series.
    pub metric_relabelings: Relabelings,
    /// What said so.
    pub source: EndpointSource,
}

impl ScrapeEndpoint {
    /// A name that is the same as long as it is the same page of the same pod: `namespace/pod:port/path`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}:{}{}", self.pod, self.address.port(), self.path)
    }
}

/// One reason why a page is not read, or not as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotScraped {
    /// Nothing selects the pod.
    NotSelected,
    /// Its annotation `loadline.dev/scrape` is `false`.
    OptedOut,
    /// It has no address yet, does not run, or has ended.
    NotRunning,
    /// The source names a port that the pod does not declare.
    NoSuchPort {
        /// The source.
        source: EndpointSource,
        /// The port as written.
        port: String,
        /// Ports that the pod declares, as `name=number`.
        declared: String,
    },
    /// It declares no port at all, and no number is given.
    NoPorts {
        /// The source.
        source: EndpointSource,
    },
    /// A relabeling of the source drops it.
    Dropped {
        /// The source.
        source: EndpointSource,
    },
    /// Another source, stronger, already names this port and path.
    Covered {
        /// The weaker source.
        source: EndpointSource,
        /// The stronger.
        by: EndpointSource,
    },
    /// A value is not usable.
    Invalid {
        /// The source.
        source: EndpointSource,
        /// Field, value and what to write.
        why: String,
    },
}

impl fmt::Display for NotScraped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSelected => f.write_str(
                "nothing selects it: no autoscaler's target, no PodMonitor or ServiceMonitor, no annotation `loadline.dev/scrape`",
            ),
            Self::OptedOut => f.write_str("its annotation `loadline.dev/scrape` is `false`"),
            Self::NotRunning => f.write_str("it does not run or has no address"),
            Self::NoSuchPort { source, port, declared } => {
                write!(f, "{source} names port `{port}`, but the pod declares {declared}")
            }
            Self::NoPorts { source } => {
                write!(f, "{source}: the pod declares no port; declare one named `metrics` or set annotation `loadline.dev/port`")
            }
            Self::Dropped { source } => write!(f, "a relabeling of {source} drops it"),
            Self::Covered { source, by } => write!(f, "{source} names the same page as {by}, which wins"),
            Self::Invalid { source, why } => write!(f, "{source}: {why}"),
        }
    }
}

/// What one pod is scraped at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodScrape {
    /// Its pages, strongest source first; one per port and path.
    pub endpoints: Vec<ScrapeEndpoint>,
    /// Why there are none, or why others are left out.
    pub reasons: Vec<NotScraped>,
}
