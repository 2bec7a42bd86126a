//! From kinds to resources.

use crate::error::ClusterError;
use crate::key::{Key, TargetKey};
use crate::rest::Rest;
use kube::core::{ApiResource, GroupVersionKind};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Kinds whose `spec.replicas` and `spec.selector` are those of their scale, so that a watch shows the scale itself: group, kind, plural.
const KNOWN: [(&str, &str, &str); 3] = [
    ("apps", "Deployment", "deployments"),
    ("apps", "StatefulSet", "statefulsets"),
    ("apps", "ReplicaSet", "replicasets"),
];
/// How long a kind that exists is believed to exist unchanged.
const KEEP: Duration = Duration::from_secs(600);
/// Kinds remembered.
const MAX_KINDS: usize = 256;

/// A resource with a scale subresource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ScaleResource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    /// The scale can be read off the object itself.
    pub(crate) known: bool,
}

impl ScaleResource {
    pub(crate) fn api_resource(&self) -> ApiResource {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(&self.group, &self.version, &self.kind), &self.plural)
    }

    pub(crate) fn scale_path(&self, key: &Key) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        format!("{root}/namespaces/{}/{}/{}/scale", key.namespace, self.plural, key.name)
    }
}

#[derive(Debug, Deserialize)]
struct ResourceList {
    #[serde(default)]
    resources: Vec<ResourceEntry>,
}

#[derive(Debug, Deserialize)]
struct ResourceEntry {
    name: String,
    kind: String,
    #[serde(default)]
    namespaced: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupEntry {
    preferred_version: GroupVersion,
}

#[derive(Debug, Deserialize)]
struct GroupVersion {
    version: String,
}

/// Group and kind.
type KindName = (Arc<str>, Arc<str>);

/// What is known of one kind, and when it was learnt.
struct Learnt {
    outcome: Result<Arc<ScaleResource>, ClusterError>,
    at: Instant,
}

/// Looks kinds up, and remembers them.
pub(crate) struct Mapper {
    rest: Rest,
    retry: Duration,
    learnt: Mutex<BTreeMap<KindName, Learnt>>,
}

impl Mapper {
    pub(crate) fn new(rest: Rest, retry: Duration) -> Self {
        Self { rest, retry, learnt: Mutex::new(BTreeMap::new()) }
    }

    /// The resource of a target's kind. Misses are asked for again after the retry period.
    pub(crate) async fn resolve(
        &self,
        target: &TargetKey,
        api_version: &str,
    ) -> Result<Arc<ScaleResource>, ClusterError> {
        if let Some((group, kind, plural)) =
            KNOWN.iter().find(|(group, kind, _)| **group == *target.group && **kind == *target.kind)
        {
            return Ok(Arc::new(ScaleResource {
                group: (*group).to_owned(),
                version: "v1".to_owned(),
                kind: (*kind).to_owned(),
                plural: (*plural).to_owned(),
                known: true,
            }));
        }
        let name = (Arc::clone(&target.group), Arc::clone(&target.kind));
        if let Some(learnt) = self.learnt.lock().await.get(&name) {
            let keep = if learnt.outcome.is_ok() { KEEP } else { self.retry };
            if learnt.at.elapsed() < keep {
                return learnt.outcome.clone();
            }
        }
        // asked without the lock: one slow kind must not hold up the others
        let outcome = self.ask(target, api_version).await.map(Arc::new);
        let mut learnt = self.learnt.lock().await;
        if learnt.len() >= MAX_KINDS {
            learnt.clear();
        }
        learnt.insert(name, Learnt { outcome: outcome.clone(), at: Instant::now() });
        outcome
    }

    /// Forgets a kind that turned out to be gone.
    pub(crate) async fn forget(&self, target: &TargetKey) {
        self.learnt.lock().await.remove(&(Arc::clone(&target.group), Arc::clone(&target.kind)));
    }

    async fn ask(&self, target: &TargetKey, api_version: &str) -> Result<ScaleResource, ClusterError> {
        let what = format!("look up kind `{}` of `{api_version}`", target.kind);
        let written = api_version.rsplit_once('/').map_or(api_version, |(_, version)| version);
        let mut version = if written.is_empty() { "v1".to_owned() } else { written.to_owned() };
        let mut list: Option<ResourceList> = self.rest.find(&what, &group_path(&target.group, &version)).await?;
        if list.is_none() && !target.group.is_empty() {
            let path = format!("/apis/{}", target.group);
            let group: GroupEntry = self.rest.get(&what, &path).await.map_err(|error| match error {
                ClusterError::NotFound { what, .. } => ClusterError::NotFound {
                    what,
                    why: format!("the cluster has no API group `{}`; install it or correct `apiVersion`", target.group),
                },
                other => other,
            })?;
            version = group.preferred_version.version;
            list = self.rest.find(&what, &group_path(&target.group, &version)).await?;
        }
        let resources = list.map(|list| list.resources).unwrap_or_default();
        let missing = |why: String| ClusterError::NotFound { what: what.clone(), why };
        let entry = resources
            .iter()
            .find(|entry| entry.kind == *target.kind && entry.namespaced && !entry.name.contains('/'))
            .ok_or_else(|| missing(format!("`{}` has no namespaced kind `{}`", target.group, target.kind)))?;
        let scale = format!("{}/scale", entry.name);
        if !resources.iter().any(|other| other.name == scale) {
            return Err(missing(format!("kind `{}` has no scale subresource, so it cannot be scaled", target.kind)));
        }
        Ok(ScaleResource {
            group: target.group.to_string(),
            version,
            kind: target.kind.to_string(),
            plural: entry.name.clone(),
            known: false,
        })
    }
}

fn group_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}
