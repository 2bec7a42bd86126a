//! Who asks.

use std::collections::BTreeMap;

/// The group that may do everything (kube-apiserver's own, and the administrator's).
pub(crate) const MASTERS: &str = "system:masters";
/// The group of everybody who was authenticated.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// The name of a caller without credentials.
pub(crate) const ANONYMOUS: &str = "system:anonymous";
/// The group of callers without credentials.
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";

/// A caller, as Kubernetes describes one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct User {
    /// The name; never empty.
    pub(crate) name: String,
    /// The unique id, or empty.
    pub(crate) uid: String,
    /// Groups in the order they were given.
    pub(crate) groups: Vec<String>,
    /// Further attributes.
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// The caller without credentials.
    pub(crate) fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..Self::default() }
    }

    /// Adds the group of the authenticated, unless the caller was handed on as one without credentials.
    pub(crate) fn authenticated(mut self) -> Self {
        if !self.is_in(AUTHENTICATED) && !self.is_in(UNAUTHENTICATED) && self.name != ANONYMOUS {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }

    /// Whether it has a group.
    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|have| have == group)
    }
}
