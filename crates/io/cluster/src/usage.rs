//! Metrics that others serve: metrics.k8s.io for cpu and memory, external.metrics.k8s.io for values from outside.

use crate::error::ClusterError;
use crate::key::{Key, PodKey};
use crate::rest::Rest;
use crate::time::parse_rfc3339;
use loadline_base::{Quantity, Timestamp};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What one pod used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodUsage {
    /// Which.
    pub pod: PodKey,
    /// The end of the window measured, by that server's clock.
    pub at: Option<Timestamp>,
    /// Per container: cpu and memory.
    pub containers: BTreeMap<Arc<str>, ContainerUsage>,
}

/// What one container used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContainerUsage {
    /// Cores.
    pub cpu: Option<Quantity>,
    /// Bytes.
    pub memory: Option<Quantity>,
}

/// One value of an external metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalUsage {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: Quantity,
    /// When it was measured, by that server's clock.
    pub at: Option<Timestamp>,
}

/// Reads them.
#[derive(Clone)]
pub struct UsageReader {
    rest: Rest,
}

#[derive(Debug, Deserialize)]
struct RawList<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Debug, Deserialize)]
struct RawUsage {
    metadata: RawName,
    #[serde(default)]
    timestamp: Option<String>,
    #[serde(default)]
    containers: Vec<RawContainer>,
}

#[derive(Debug, Deserialize)]
struct RawName {
    name: String,
}

#[derive(Debug, Deserialize)]
struct RawContainer {
    name: String,
    #[serde(default)]
    usage: BTreeMap<String, Quantity>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawExternal {
    #[serde(default)]
    metric_labels: BTreeMap<String, String>,
    #[serde(default)]
    timestamp: Option<String>,
    value: Quantity,
}

impl UsageReader {
    pub(crate) const fn new(rest: Rest) -> Self {
        Self { rest }
    }

    /// Usage of the pods that a selector selects.
    ///
    /// # Errors
    /// Those of the request; 404 where nobody serves metrics.k8s.io.
    pub async fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<PodUsage>, ClusterError> {
        let path =
            format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={}", percent(selector));
        let what = format!("read cpu and memory of pods in `{namespace}`");
        let list: RawList<RawUsage> = self.rest.get(&what, &path).await?;
        let usage = |raw: RawUsage| PodUsage {
            pod: Key::new(namespace, raw.metadata.name),
            at: raw.timestamp.and_then(|text| parse_rfc3339(&text)),
            containers: raw
                .containers
                .into_iter()
                .map(|one| {
                    let read = |name: &str| one.usage.get(name).copied();
                    (one.name.as_str().into(), ContainerUsage { cpu: read("cpu"), memory: read("memory") })
                })
                .collect(),
        };
        Ok(list.items.into_iter().map(usage).collect())
    }

    /// Values of an external metric that another provider serves.
    ///
    /// # Errors
    /// Those of the request.
    pub async fn external(
        &self,
        namespace: &str,
        metric: &str,
        selector: &str,
    ) -> Result<Vec<ExternalUsage>, ClusterError> {
        let path = format!(
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{}?labelSelector={}",
            percent(metric),
            percent(selector)
        );
        let list: RawList<RawExternal> = self.rest.get(&format!("read external metric `{metric}`"), &path).await?;
        let value = |raw: RawExternal| ExternalUsage {
            labels: raw.metric_labels,
            value: raw.value,
            at: raw.timestamp.and_then(|text| parse_rfc3339(&text)),
        };
        Ok(list.items.into_iter().map(value).collect())
    }
}

/// Text for a path segment or query value: all but unreserved characters (RFC 3986, 2.3) as percent signs.
pub(crate) fn percent(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
