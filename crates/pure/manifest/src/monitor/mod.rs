//! PodMonitor and ServiceMonitor of `monitoring.coreos.com/v1`, as far as they say where and how pages are read.
//!
//! Unknown fields are passed over: the objects belong to others, and most of their fields are about storage in Prometheus.

mod md5;
pub mod pattern;
pub mod relabel;

use crate::autoscaler::IntOrString;
use crate::hpa::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The API group of both kinds.
pub const GROUP: &str = "monitoring.coreos.com";
/// Their API version.
pub const VERSION: &str = "v1";

/// A PodMonitor or ServiceMonitor.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Monitor {
    /// `PodMonitor` or `ServiceMonitor`.
    pub kind: String,
    /// Name and namespace.
    pub metadata: MonitorMeta,
    /// What it selects and how pages are read.
    pub spec: MonitorSpec,
}

/// Name and namespace of a monitor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MonitorMeta {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
}

impl From<&ObjectMeta> for MonitorMeta {
    fn from(meta: &ObjectMeta) -> Self {
        Self { name: meta.name.clone(), namespace: meta.namespace.clone() }
    }
}

/// The spec of both kinds; the endpoint list that the other kind has is empty.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MonitorSpec {
    /// Labels of the pods (PodMonitor) or Services (ServiceMonitor); an empty selector selects all.
    pub selector: Selector,
    /// Namespaces; without it the monitor's own.
    pub namespace_selector: NamespaceSelector,
    /// Pages of a PodMonitor.
    pub pod_metrics_endpoints: Vec<Endpoint>,
    /// Pages of a ServiceMonitor.
    pub endpoints: Vec<Endpoint>,
    /// Pod labels put on every series.
    pub pod_target_labels: Vec<String>,
    /// Service labels put on every series.
    pub target_labels: Vec<String>,
}

impl MonitorSpec {
    /// The pages, of whichever kind.
    #[must_use]
    pub fn pages(&self) -> &[Endpoint] {
        if self.pod_metrics_endpoints.is_empty() { &self.endpoints } else { &self.pod_metrics_endpoints }
    }
}

/// A label selector that passes over unknown fields.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    /// Labels that must be equal.
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    pub match_expressions: Vec<crate::hpa::LabelSelectorRequirement>,
}

impl From<Selector> for LabelSelector {
    fn from(selector: Selector) -> Self {
        Self { match_labels: selector.match_labels, match_expressions: selector.match_expressions }
    }
}

/// Which namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NamespaceSelector {
    /// All.
    pub any: bool,
    /// These; where empty and `any` is off: the monitor's own.
    pub match_names: Vec<String>,
}

impl NamespaceSelector {
    /// Whether a namespace is selected by a monitor that stands in `own`.
    #[must_use]
    pub fn selects(&self, own: &str, namespace: &str) -> bool {
        self.any
            || if self.match_names.is_empty() {
                own == namespace
            } else {
                self.match_names.iter().any(|name| name == namespace)
            }
    }
}

/// One page.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Name of the container port (PodMonitor) or Service port (ServiceMonitor).
    pub port: Option<String>,
    /// The container port by number (PodMonitor).
    pub port_number: Option<u16>,
    /// The container port by number or name.
    pub target_port: Option<IntOrString>,
    /// Path; `/metrics` without it.
    pub path: Option<String>,
    /// `http` or `https`, in any case; `http` without it.
    pub scheme: Option<String>,
    /// Query parameters.
    pub params: BTreeMap<String, Vec<String>>,
    /// How often, in Prometheus's form.
    pub interval: Option<String>,
    /// How long, in Prometheus's form.
    pub scrape_timeout: Option<String>,
    /// A Secret key with a bearer token.
    pub bearer_token_secret: Option<SecretKey>,
    /// A file with a bearer token in Prometheus's own container, which nobody else can read.
    pub bearer_token_file: Option<String>,
    /// An `Authorization` header.
    pub authorization: Option<Authorization>,
    /// How the certificate is checked.
    pub tls_config: Option<TlsConfig>,
    /// Whether labels of the page win over those of the target.
    pub honor_labels: bool,
    /// What becomes of the target's labels before the page is read.
    pub relabelings: Vec<RelabelConfig>,
    /// What becomes of each series.
    pub metric_relabelings: Vec<RelabelConfig>,
}

/// One key of a Secret or ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretKey {
    /// Name of the object.
    pub name: String,
    /// The key.
    pub key: String,
}

/// An `Authorization` header.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Authorization {
    /// The scheme; `Bearer` without it.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Where the credentials stand.
    pub credentials: Option<SecretKey>,
}

/// How a certificate is checked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsConfig {
    /// Where the authority's certificates stand.
    pub ca: Option<SecretOrConfigMap>,
    /// Any certificate is taken.
    pub insecure_skip_verify: bool,
    /// The name that the certificate must have.
    pub server_name: Option<String>,
    /// A file in Prometheus's own container, which nobody else can read.
    pub ca_file: Option<String>,
}

/// A key of one of two kinds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretOrConfigMap {
    /// In a Secret.
    pub secret: Option<SecretKey>,
    /// In a ConfigMap.
    pub config_map: Option<SecretKey>,
}

/// One relabeling step as written; [`relabel::Rules`] is the checked form.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RelabelConfig {
    /// Labels whose values are joined.
    pub source_labels: Vec<String>,
    /// What they are joined with; `;` without it.
    pub separator: Option<String>,
    /// The label written.
    pub target_label: Option<String>,
    /// What the joined text must match as a whole; `(.*)` without it.
    pub regex: Option<String>,
    /// For `hashmod`.
    pub modulus: Option<u64>,
    /// What is written; `$1` without it.
    pub replacement: Option<String>,
    /// What is done; `replace` without it. In any case: the operator's objects write `Replace` or `replace`.
    pub action: Option<String>,
}

#[cfg(test)]
mod tests;
