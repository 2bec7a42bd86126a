//! Replica-seconds: from creation to end, starting and draining included.

use loadline_base::{ReplicaId, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// Adds up how long replicas existed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter {
    live: BTreeMap<ReplicaId, Timestamp>,
    ended: Duration,
    most: usize,
}

impl Meter {
    /// A replica was created.
    pub(crate) fn started(&mut self, replica: ReplicaId, at: Timestamp) {
        self.live.entry(replica).or_insert(at);
        self.most = self.most.max(self.live.len());
    }

    /// A replica is gone.
    pub(crate) fn ended(&mut self, replica: &ReplicaId, at: Timestamp) {
        if let Some(created) = self.live.remove(replica) {
            self.ended = self.ended.saturating_add(at.since(created));
        }
    }

    /// Replica time up to now.
    pub(crate) fn total(&self, now: Timestamp) -> Duration {
        self.live.values().fold(self.ended, |sum, created| sum.saturating_add(now.since(*created)))
    }

    /// How many exist now.
    pub(crate) fn live(&self) -> usize {
        self.live.len()
    }

    /// The most that existed at once.
    pub(crate) fn most(&self) -> usize {
        self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_and_ended_replicas_count_from_creation() {
        let at = Timestamp::from_secs;
        let mut meter = Meter::default();
        meter.started("a".into(), at(10));
        meter.started("b".into(), at(20));
        meter.started("a".into(), at(25));
        meter.ended(&"a".into(), at(40));
        meter.ended(&"a".into(), at(50));
        assert_eq!(meter.total(at(60)), Duration::from_secs(30 + 40));
        assert_eq!(meter.most(), 2);
    }
}
