//! The requests that wait: in order of arrival, and by the moment each has waited enough.

use crate::budget::RegimeClock;
use crate::slab::RequestKey;
use loadline_base::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// When one waiting request must leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The total of cold time at which its cold budget is spent.
    pub(crate) cold: u64,
    /// The total of saturated time at which its saturated budget is spent.
    pub(crate) saturated: u64,
    /// The latest moment in any case.
    pub(crate) at: Timestamp,
}

/// What waits. All operations are O(log n).
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiting {
    order: BTreeMap<u64, RequestKey>,
    cold: BTreeSet<(u64, RequestKey)>,
    saturated: BTreeSet<(u64, RequestKey)>,
    at: BTreeSet<(Timestamp, RequestKey)>,
    bytes: u64,
}

impl Waiting {
    pub(crate) fn insert(&mut self, sequence: u64, key: RequestKey, bytes: u64, limits: Limits) {
        self.order.insert(sequence, key);
        self.cold.insert((limits.cold, key));
        self.saturated.insert((limits.saturated, key));
        self.at.insert((limits.at, key));
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(crate) fn remove(&mut self, sequence: u64, key: RequestKey, bytes: u64, limits: Limits) {
        if self.order.remove(&sequence).is_some() {
            self.cold.remove(&(limits.cold, key));
            self.saturated.remove(&(limits.saturated, key));
            self.at.remove(&(limits.at, key));
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    /// The request that came first.
    pub(crate) fn head(&self) -> Option<RequestKey> {
        self.order.first_key_value().map(|(_, key)| *key)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.order.len()).unwrap_or(u32::MAX)
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All that wait, first come first.
    pub(crate) fn keys(&self) -> impl Iterator<Item = RequestKey> + '_ {
        self.order.values().copied()
    }

    /// A request that has waited enough at the moment up to which `clock` was advanced.
    pub(crate) fn expired(&self, clock: &RegimeClock, now: Timestamp) -> Option<RequestKey> {
        let first = |set: &BTreeSet<(u64, RequestKey)>, total| {
            set.first().filter(|(limit, _)| *limit <= total).map(|(_, key)| *key)
        };
        first(&self.cold, clock.cold_nanos())
            .or_else(|| first(&self.saturated, clock.saturated_nanos()))
            .or_else(|| self.at.first().filter(|(at, _)| *at <= now).map(|(_, key)| *key))
    }

    /// When the next request will have waited enough, if the regime lasts.
    pub(crate) fn next_expiry(&self, clock: &RegimeClock) -> Option<Timestamp> {
        let regime = if clock.is_cold() { &self.cold } else { &self.saturated };
        let by_budget = regime.first().map(|(limit, _)| clock.reaches(*limit));
        let by_time = self.at.first().map(|(at, _)| *at);
        by_budget.into_iter().chain(by_time).min()
    }
}
