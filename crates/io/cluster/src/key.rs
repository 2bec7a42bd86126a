//! Names of objects.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A namespaced name; ordered by namespace first, so that one namespace is one range.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl Key {
    /// Joins a namespace and a name.
    #[must_use]
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Reads `namespace/name`, the form in which replicas and autoscalers are named elsewhere.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        (!namespace.is_empty() && !name.is_empty() && !name.contains('/')).then(|| Self::new(namespace, name))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod's name.
pub type PodKey = Key;

/// A scale target: any object whose kind has a scale subresource.
///
/// The version is not part of the identity: `apps/v1` and `apps/v1beta1` of one Deployment are one target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TargetKey {
    /// The API group; empty for the core group.
    pub group: Arc<str>,
    /// The kind.
    pub kind: Arc<str>,
    /// Where it is.
    pub key: Key,
}

impl TargetKey {
    /// A target from the fields of a `scaleTargetRef`; `api_version` may be empty, which means the core group.
    #[must_use]
    pub fn new(namespace: &str, api_version: &str, kind: &str, name: &str) -> Self {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        Self { group: group.into(), kind: kind.into(), key: Key::new(namespace, name) }
    }
}

impl fmt::Display for TargetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_what_they_write() {
        let key = Key::new("ml", "vllm-0");
        assert_eq!(Key::parse(&key.to_string()), Some(key));
        for text in ["", "a", "/a", "a/", "a/b/c"] {
            assert_eq!(Key::parse(text), None, "{text}");
        }
    }

    #[test]
    fn versions_are_not_part_of_a_target() {
        assert_eq!(
            TargetKey::new("a", "apps/v1", "Deployment", "x"),
            TargetKey::new("a", "apps/v1beta2", "Deployment", "x")
        );
        assert_eq!(&*TargetKey::new("a", "v1", "ReplicationController", "x").group, "");
    }
}
