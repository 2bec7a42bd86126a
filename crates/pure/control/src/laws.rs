//! A counter per law, in production.

use loadline_policy::laws::Violation;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How often each law was found broken since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LawCounts(BTreeMap<String, u64>);

impl LawCounts {
    /// Counts one violation.
    pub(crate) fn count(&mut self, violation: &Violation) {
        *self.0.entry(violation.law.clone()).or_default() += 1;
    }

    /// Law id and count, for laws that were broken.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(law, count)| (law.as_str(), *count))
    }

    /// All violations together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }
}
