//! Memory that survives a restart: one ConfigMap per autoscaler, in the install namespace.

use crate::error::ClusterError;
use crate::key::Key;
use crate::rest::Rest;
use crate::settings::{COMPONENT, MAX_CHECKPOINT_BYTES};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The key of the memory within a ConfigMap.
const DATA_KEY: &str = "memory.json";
/// The label that all of them have.
const LABEL: &str = "loadline.dev/checkpoint";
/// The annotation with the autoscaler's name; names of objects are hashed because two names together can be too long.
const OF: &str = "loadline.dev/autoscaler";
/// The annotation with its uid.
const UID: &str = "loadline.dev/autoscaler-uid";
/// ConfigMaps in one page: each may have 64 KiB.
const PAGE: u32 = 50;
/// Pages read at most.
const MAX_PAGES: u32 = 200;

/// One checkpoint as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointSeen {
    /// The uid of the autoscaler it was written for; another uid means that the autoscaler was made anew.
    pub uid: Arc<str>,
    /// The memory.
    pub json: String,
}

/// Reads and writes checkpoints. Cheap to clone; clones share what they know of versions.
#[derive(Clone)]
pub struct Checkpoints {
    rest: Rest,
    namespace: Arc<str>,
    versions: Arc<Mutex<BTreeMap<Key, String>>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawConfigMap {
    api_version: String,
    kind: String,
    metadata: RawMeta,
    data: BTreeMap<String, String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawMeta {
    name: String,
    namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_version: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawList {
    metadata: RawListMeta,
    items: Vec<RawConfigMap>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawListMeta {
    #[serde(rename = "continue")]
    next: String,
}

impl Checkpoints {
    pub(crate) fn new(rest: Rest, namespace: &str) -> Self {
        Self { rest, namespace: namespace.into(), versions: Arc::default() }
    }

    /// Every checkpoint there is. Called by a new writer before its first decision; it also learns the versions to write against.
    ///
    /// # Errors
    /// Those of the requests.
    pub async fn load_all(&self) -> Result<BTreeMap<Key, CheckpointSeen>, ClusterError> {
        let mut out = BTreeMap::new();
        let mut versions = BTreeMap::new();
        let mut next = String::new();
        for _ in 0..MAX_PAGES {
            let path = format!("{}?labelSelector={LABEL}%3Dtrue&limit={PAGE}&continue={next}", self.folder());
            let list: RawList = self.rest.get("list checkpoints", &path).await?;
            for map in list.items {
                let Some(key) = map.metadata.annotations.get(OF).and_then(|of| Key::parse(of)) else { continue };
                if map.metadata.name != name_of(&key) {
                    continue;
                }
                versions.insert(key.clone(), map.metadata.resource_version.unwrap_or_default());
                let uid = map.metadata.annotations.get(UID).map_or("", String::as_str).into();
                if let Some(json) = map.data.into_iter().find(|(name, _)| name == DATA_KEY).map(|(_, json)| json) {
                    out.insert(key, CheckpointSeen { uid, json });
                }
            }
            next = crate::usage::percent(&list.metadata.next);
            if next.is_empty() {
                break;
            }
        }
        *self.versions.lock().unwrap_or_else(PoisonError::into_inner) = versions;
        Ok(out)
    }

    /// Stores the memory of one autoscaler.
    ///
    /// # Errors
    /// [`ClusterError::Conflict`] where somebody else wrote it since: another writer. The next store reads its version first.
    /// [`ClusterError::TooLarge`] above [`MAX_CHECKPOINT_BYTES`].
    pub async fn store(&self, autoscaler: &Key, uid: &str, json: &str) -> Result<(), ClusterError> {
        let what = format!("store checkpoint of {autoscaler}");
        if json.len() > MAX_CHECKPOINT_BYTES {
            return Err(ClusterError::TooLarge { what, size: json.len(), limit: MAX_CHECKPOINT_BYTES });
        }
        let known = self.lock().get(autoscaler).cloned();
        let version = match known {
            Some(version) => Some(version),
            None => {
                let found: Option<RawConfigMap> = self.rest.find(&what, &self.path(autoscaler)).await?;
                match found {
                    Some(map) if map.metadata.annotations.get(OF).is_some_and(|of| *of != autoscaler.to_string()) => {
                        let why = "its name belongs to another autoscaler's checkpoint".to_owned();
                        return Err(ClusterError::Invalid { what, why });
                    }
                    found => found.and_then(|map| map.metadata.resource_version),
                }
            }
        };
        let body = self.body(autoscaler, uid, json, version.clone());
        let written: Result<RawConfigMap, ClusterError> = if version.is_some() {
            self.rest.put(&what, &format!("{}?fieldManager={COMPONENT}", self.path(autoscaler)), &body).await
        } else {
            self.rest.post(&what, &format!("{}?fieldManager={COMPONENT}", self.folder()), &body).await
        };
        match written {
            Ok(map) => {
                self.lock().insert(autoscaler.clone(), map.metadata.resource_version.unwrap_or_default());
                Ok(())
            }
            Err(error) => {
                // after any failure the version is no longer known
                self.lock().remove(autoscaler);
                Err(error)
            }
        }
    }

    /// Removes the memory of an autoscaler that is gone.
    ///
    /// # Errors
    /// Those of the request; one that is not there is no error.
    pub async fn remove(&self, autoscaler: &Key) -> Result<(), ClusterError> {
        self.lock().remove(autoscaler);
        self.rest.delete(&format!("remove checkpoint of {autoscaler}"), &self.path(autoscaler)).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, String>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn body(&self, autoscaler: &Key, uid: &str, json: &str, version: Option<String>) -> RawConfigMap {
        RawConfigMap {
            api_version: "v1".to_owned(),
            kind: "ConfigMap".to_owned(),
            metadata: RawMeta {
                name: name_of(autoscaler),
                namespace: self.namespace.to_string(),
                resource_version: version,
                labels: [
                    ("app.kubernetes.io/managed-by".to_owned(), COMPONENT.to_owned()),
                    (LABEL.to_owned(), "true".to_owned()),
                ]
                .into(),
                annotations: [(OF.to_owned(), autoscaler.to_string()), (UID.to_owned(), uid.to_owned())].into(),
            },
            data: [(DATA_KEY.to_owned(), json.to_owned())].into(),
        }
    }

    fn folder(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps", self.namespace)
    }

    fn path(&self, autoscaler: &Key) -> String {
        format!("{}/{}", self.folder(), name_of(autoscaler))
    }
}

/// `loadline-memory-` and the FNV-1a hash of `namespace/name`.
fn name_of(autoscaler: &Key) -> String {
    format!("loadline-memory-{:016x}", fnv1a(autoscaler.to_string().as_bytes()))
}

/// FNV-1a with 64 bits (Fowler, Noll, Vo), the same in every build.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
