//! The Lease that makes one process the writer.

use crate::error::ClusterError;
use crate::rest::{Rest, by};
use crate::settings::{COMPONENT, ClusterSettings, WRITER_ADDRESS};
use crate::time::{parse_rfc3339, rfc3339_micro};
use crate::watch::feed::{self, Change, Scope};
use kube::core::{ApiResource, GroupVersionKind};
use loadline_base::Timestamp;
use loadline_control::election::LeaseRecord;
use loadline_net::clock::Clock;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The Lease as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseSeen {
    /// What the election reads.
    pub record: LeaseRecord,
    /// Where gateways reach the writer: `host:port`.
    pub writer_address: Option<Arc<str>>,
}

/// Reads and writes the Lease.
#[derive(Clone)]
pub struct LeaseClient {
    rest: Rest,
    clock: Clock,
    namespace: Arc<str>,
    settings: ClusterSettings,
}

impl LeaseClient {
    pub(crate) fn new(rest: Rest, clock: Clock, settings: ClusterSettings) -> Self {
        Self { rest, clock, namespace: settings.install_namespace.as_str().into(), settings }
    }

    /// The Lease now, or `None` where there is none.
    ///
    /// # Errors
    /// Those of the request.
    pub async fn read(&self) -> Result<Option<LeaseSeen>, ClusterError> {
        let found: Option<RawLease> =
            self.rest.find(&format!("read Lease `{}`", self.settings.lease_name), &self.path()).await?;
        Ok(found.map(|raw| raw.seen()))
    }

    /// Writes `record` against the version it carries; without one the Lease is created. The outcome is known before `deadline`, or it is an
    /// error.
    ///
    /// # Errors
    /// [`ClusterError::Conflict`] where somebody else wrote or created it since.
    pub async fn write(
        &self,
        record: &LeaseRecord,
        writer_address: Option<&str>,
        deadline: Instant,
    ) -> Result<LeaseSeen, ClusterError> {
        let raw = RawLease::of(&self.namespace, &self.settings.lease_name, record, writer_address);
        let what = &format!("write Lease `{}`", self.settings.lease_name);
        let written: RawLease = if record.resource_version.is_some() {
            by(what, deadline, self.rest.put(what, &format!("{}?fieldManager={COMPONENT}", self.path()), &raw)).await?
        } else {
            let path = format!("{}?fieldManager={COMPONENT}", self.folder());
            by(what, deadline, self.rest.post(what, &path, &raw)).await?
        };
        Ok(written.seen())
    }

    /// Follows the Lease, for gateways: the last one seen, `None` before the first and after its deletion.
    #[must_use]
    pub fn watch(&self, tasks: &TaskTracker, cancel: &CancellationToken) -> watch::Receiver<Option<Arc<LeaseSeen>>> {
        let (tx, rx) = watch::channel(None);
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("coordination.k8s.io", "v1", "Lease"), "leases");
        let scope = Scope::one(&self.namespace, &self.settings.lease_name);
        let (client, clock, cancel) = (self.rest.client().clone(), self.clock.clone(), cancel.clone());
        let page_size = self.settings.page_size;
        tasks.spawn(async move {
            let map = |object: kube::core::DynamicObject| read_dynamic(object).map(|lease| ((), lease));
            let sink = |change: Change<(), LeaseSeen>| {
                match change {
                    Change::Whole(all) => drop(tx.send_replace(all.into_values().next().map(Arc::new))),
                    Change::Apply((), lease) => drop(tx.send_replace(Some(Arc::new(lease)))),
                    Change::Delete(()) => drop(tx.send_replace(None)),
                    Change::Failing { .. } | Change::Alive => {}
                }
                std::future::ready(())
            };
            let api = scope.api(client, &resource);
            let feed = feed::run(api, scope.config(page_size), &clock, map, sink);
            tokio::select! { () = feed => {}, () = cancel.cancelled() => {} }
        });
        rx
    }

    fn folder(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace)
    }

    fn path(&self) -> String {
        format!("{}/{}", self.folder(), self.settings.lease_name)
    }
}

fn read_dynamic(object: kube::core::DynamicObject) -> Option<LeaseSeen> {
    let value = serde_json::to_value(object).ok()?;
    serde_json::from_value::<RawLease>(value).ok().map(|raw| raw.seen())
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawLease {
    api_version: String,
    kind: String,
    metadata: RawMeta,
    spec: RawSpec,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawMeta {
    name: String,
    namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_version: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    holder_identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_duration_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acquire_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    renew_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_transitions: Option<u32>,
}

impl RawLease {
    fn of(namespace: &str, name: &str, record: &LeaseRecord, writer_address: Option<&str>) -> Self {
        let annotation = writer_address.map(|address| (WRITER_ADDRESS.to_owned(), address.to_owned()));
        Self {
            api_version: "coordination.k8s.io/v1".to_owned(),
            kind: "Lease".to_owned(),
            metadata: RawMeta {
                name: name.to_owned(),
                namespace: namespace.to_owned(),
                resource_version: record.resource_version.clone(),
                annotations: annotation.into_iter().collect(),
                labels: [("app.kubernetes.io/managed-by".to_owned(), COMPONENT.to_owned())].into(),
            },
            spec: RawSpec {
                // an empty holder is written as no holder
                holder_identity: (!record.holder.is_empty()).then(|| record.holder.clone()),
                lease_duration_seconds: Some(u32::try_from(record.duration.as_secs()).unwrap_or(u32::MAX).max(1)),
                acquire_time: Some(rfc3339_micro(record.acquire_time)),
                renew_time: Some(rfc3339_micro(record.renew_time)),
                lease_transitions: Some(record.transitions),
            },
        }
    }

    fn seen(self) -> LeaseSeen {
        let time = |text: Option<String>| text.and_then(|text| parse_rfc3339(&text)).unwrap_or(Timestamp::ZERO);
        let address = self.metadata.annotations.get(WRITER_ADDRESS).map(|address| address.as_str().into());
        LeaseSeen {
            record: LeaseRecord {
                holder: self.spec.holder_identity.unwrap_or_default(),
                duration: Duration::from_secs(u64::from(self.spec.lease_duration_seconds.unwrap_or(0))),
                acquire_time: time(self.spec.acquire_time),
                renew_time: time(self.spec.renew_time),
                transitions: self.spec.lease_transitions.unwrap_or(0),
                resource_version: self.metadata.resource_version,
            },
            writer_address: address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_reads_back_what_it_wrote() {
        let record = LeaseRecord {
            holder: "loadline-1".to_owned(),
            duration: Duration::from_secs(15),
            acquire_time: Timestamp::from_secs(1_000),
            renew_time: Timestamp::from_nanos(1_000_123_456_000),
            transitions: 3,
            resource_version: Some("42".to_owned()),
        };
        let text =
            serde_json::to_string(&RawLease::of("ops", "loadline", &record, Some("10.0.0.1:9444"))).expect("json");
        assert!(text.contains(r#""renewTime":"1970-01-01T00:16:40.123456Z""#), "{text}");
        let seen = serde_json::from_str::<RawLease>(&text).expect("own form").seen();
        assert_eq!(seen.record, record);
        assert_eq!(seen.writer_address.as_deref(), Some("10.0.0.1:9444"));
    }

    #[test]
    fn a_released_lease_has_no_holder_and_a_positive_duration() {
        let record = LeaseRecord {
            holder: String::new(),
            duration: Duration::ZERO,
            acquire_time: Timestamp::ZERO,
            renew_time: Timestamp::ZERO,
            transitions: 0,
            resource_version: None,
        };
        let text = serde_json::to_string(&RawLease::of("ops", "loadline", &record, None)).expect("json");
        assert!(!text.contains("holderIdentity") && text.contains(r#""leaseDurationSeconds":1"#), "{text}");
    }
}
