//! What the gateways in front of one model said last.

use loadline_base::{GatewayId, ModelId, ReplicaId, Timestamp};
use loadline_hold::protocol::Demand;
use loadline_policy::GatewayObservation;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A gateway reports at least once a second ([`loadline_hold::protocol::GatewayReport::Demand`]).
pub(crate) const REPORT_PERIOD: Duration = Duration::from_secs(1);

/// A gateway that has been silent for this many report periods is missing.
const MISSING_AFTER_PERIODS: u32 = 10;

/// All gateways of one model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gateways {
    known: BTreeMap<GatewayId, Heard>,
    /// Those that run and have not spoken yet.
    awaited: BTreeSet<GatewayId>,
}

#[derive(Debug, Clone)]
struct Heard {
    demand: Demand,
    /// When the report arrived here.
    heard_at: Timestamp,
    /// The largest `held + in_flight` since the last decision.
    peak: u32,
    /// Requests in flight per draining replica.
    draining: BTreeMap<ReplicaId, u32>,
    /// The close this gateway accepted last.
    accepted_close: Option<u64>,
}

impl Heard {
    fn new(now: Timestamp, demand: Demand) -> Self {
        let peak = demand.held.saturating_add(demand.in_flight).max(demand.peak);
        Self { demand, heard_at: now, peak, draining: BTreeMap::new(), accepted_close: None }
    }
}

/// What a report changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heed {
    /// A gateway that knows nothing yet: it spoke for the first time, or was restarted.
    New,
    /// Demand appeared where there was none.
    Edge,
    /// Nothing that cannot wait for the next period.
    Routine,
}

impl Gateways {
    /// Takes a report in; older reports of the same gateway are dropped. A gateway that was restarted counts from one again, at a later
    /// time: it knows no replica, no drain and no close.
    pub(crate) fn hear(&mut self, now: Timestamp, demand: Demand) -> Heed {
        let load = demand.held.saturating_add(demand.in_flight).max(demand.peak);
        match self.known.get_mut(&demand.gateway) {
            Some(heard) if (heard.demand.at, heard.demand.sequence) >= (demand.at, demand.sequence) => Heed::Routine,
            Some(heard) if heard.demand.sequence < demand.sequence => {
                let was_idle = heard.demand.held == 0 && heard.demand.in_flight == 0;
                heard.peak = heard.peak.max(load);
                heard.heard_at = now;
                heard.demand = demand;
                if was_idle && load > 0 { Heed::Edge } else { Heed::Routine }
            }
            _ => {
                self.awaited.remove(&demand.gateway);
                self.known.insert(demand.gateway.clone(), Heard::new(now, demand));
                Heed::New
            }
        }
    }

    /// A wake says at least this many are held, even if the report with the counts is still on its way, and even if it is the first word
    /// of its gateway.
    pub(crate) fn hear_wake(&mut self, now: Timestamp, gateway: &GatewayId, model: &ModelId, held: u32) -> Heed {
        if let Some(heard) = self.known.get_mut(gateway) {
            heard.demand.held = heard.demand.held.max(held);
            heard.demand.idle_since = None;
            heard.peak = heard.peak.max(held);
            heard.heard_at = now;
            return Heed::Edge;
        }
        let demand = Demand {
            gateway: gateway.clone(),
            model: model.clone(),
            sequence: 0,
            held,
            in_flight: 0,
            peak: held,
            arrivals_total: u64::from(held),
            idle_since: None,
            at: now,
        };
        self.awaited.remove(gateway);
        self.known.insert(gateway.clone(), Heard::new(now, demand));
        Heed::New
    }

    /// These run: what those among them that have not spoken hold is not known.
    pub(crate) fn running(&mut self, running: BTreeSet<GatewayId>) {
        self.awaited = running;
        self.awaited.retain(|gateway| !self.known.contains_key(gateway));
    }

    /// Records the load of a draining replica at one gateway.
    pub(crate) fn hear_load(&mut self, gateway: &GatewayId, replica: &ReplicaId, in_flight: u32) {
        if let Some(heard) = self.known.get_mut(gateway) {
            heard.draining.insert(replica.clone(), in_flight);
        }
    }

    /// Requests in flight on a draining replica, once every gateway has said so.
    pub(crate) fn drained_load(&self, replica: &ReplicaId) -> Option<u32> {
        if !self.awaited.is_empty() {
            return None;
        }
        self.known.values().try_fold(0_u32, |sum, heard| Some(sum.saturating_add(*heard.draining.get(replica)?)))
    }

    /// Forgets the drain reports of a replica.
    pub(crate) fn forget_replica(&mut self, replica: &ReplicaId) {
        for heard in self.known.values_mut() {
            heard.draining.remove(replica);
        }
    }

    /// Records an accepted close.
    pub(crate) fn hear_accepted(&mut self, gateway: &GatewayId, epoch: u64) {
        if let Some(heard) = self.known.get_mut(gateway) {
            heard.accepted_close = Some(epoch);
        }
    }

    /// Whether every gateway has accepted the close of this epoch.
    pub(crate) fn have_accepted(&self, epoch: u64) -> bool {
        self.awaited.is_empty() && self.known.values().all(|heard| heard.accepted_close == Some(epoch))
    }

    /// Forgets a gateway that is gone; whether it was known.
    pub(crate) fn remove(&mut self, gateway: &GatewayId) -> bool {
        self.awaited.remove(gateway) | self.known.remove(gateway).is_some()
    }

    /// Whether nothing was held or in flight at any gateway when it last spoke.
    pub(crate) fn is_unloaded(&self) -> bool {
        self.awaited.is_empty()
            && self.known.values().all(|heard| heard.demand.held == 0 && heard.demand.in_flight == 0)
    }

    /// Whether no gateway is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.awaited.is_empty()
    }

    /// All gateways together, for a decision.
    pub(crate) fn observe(&self, now: Timestamp) -> GatewayObservation {
        let limit = REPORT_PERIOD.saturating_mul(MISSING_AFTER_PERIODS);
        if self.known.is_empty()
            || !self.awaited.is_empty()
            || self.known.values().any(|heard| now.since(heard.heard_at) > limit)
        {
            return GatewayObservation::Missing;
        }
        let mut held = 0_u32;
        let mut in_flight = 0_u32;
        let mut peak = 0_u32;
        let mut idle_since = Some(Timestamp::from_nanos(i64::MIN));
        let mut at = now;
        for heard in self.known.values() {
            held = held.saturating_add(heard.demand.held);
            in_flight = in_flight.saturating_add(heard.demand.in_flight);
            peak = peak.saturating_add(heard.peak);
            idle_since = idle_since.zip(heard.demand.idle_since).map(|(a, b)| a.max(b));
            at = at.min(heard.demand.at);
        }
        GatewayObservation::Live { held, in_flight, peak: peak.max(held.saturating_add(in_flight)), idle_since, at }
    }

    /// Starts a new peak window, after a decision.
    pub(crate) fn start_window(&mut self) {
        for heard in self.known.values_mut() {
            heard.peak = heard.demand.held.saturating_add(heard.demand.in_flight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(gateway: &str, sequence: u64, held: u32, in_flight: u32, idle_since: Option<i64>) -> Demand {
        Demand {
            gateway: gateway.into(),
            model: "m".into(),
            sequence,
            held,
            in_flight,
            peak: held + in_flight,
            arrivals_total: 0,
            idle_since: idle_since.map(Timestamp::from_secs),
            at: Timestamp::from_secs(100),
        }
    }

    #[test]
    fn idle_needs_every_gateway_and_the_latest_of_their_times() {
        let now = Timestamp::from_secs(100);
        let mut gateways = Gateways::default();
        assert_eq!(gateways.observe(now), GatewayObservation::Missing);
        gateways.hear(now, demand("a", 1, 0, 0, Some(10)));
        gateways.hear(now, demand("b", 1, 0, 0, Some(40)));
        let GatewayObservation::Live { idle_since, .. } = gateways.observe(now) else { panic!("both speak") };
        assert_eq!(idle_since, Some(Timestamp::from_secs(40)));
        assert_eq!(gateways.hear(now, demand("b", 2, 0, 1, None)), Heed::Edge);
        let GatewayObservation::Live { idle_since, in_flight, .. } = gateways.observe(now) else {
            panic!("both speak")
        };
        assert_eq!((idle_since, in_flight), (None, 1));
    }

    #[test]
    fn a_silent_gateway_is_missing_not_idle() {
        let mut gateways = Gateways::default();
        gateways.hear(Timestamp::from_secs(100), demand("a", 1, 0, 0, Some(10)));
        assert!(matches!(gateways.observe(Timestamp::from_secs(110)), GatewayObservation::Live { .. }));
        assert_eq!(gateways.observe(Timestamp::from_secs(111)), GatewayObservation::Missing);
    }

    #[test]
    fn bursts_between_decisions_are_kept_and_old_reports_dropped() {
        let now = Timestamp::from_secs(100);
        let mut gateways = Gateways::default();
        gateways.hear(now, demand("a", 1, 5, 3, None));
        gateways.hear(now, demand("a", 3, 0, 1, None));
        gateways.hear(now, demand("a", 2, 9, 9, None));
        let GatewayObservation::Live { peak, held, in_flight, .. } = gateways.observe(now) else { panic!("it speaks") };
        assert_eq!((peak, held, in_flight), (8, 0, 1));
        gateways.start_window();
        let GatewayObservation::Live { peak, .. } = gateways.observe(now) else { panic!("it speaks") };
        assert_eq!(peak, 1);
    }

    #[test]
    fn a_drain_and_a_close_need_every_gateway() {
        let now = Timestamp::from_secs(100);
        let mut gateways = Gateways::default();
        gateways.hear(now, demand("a", 1, 0, 0, None));
        gateways.hear(now, demand("b", 1, 0, 0, None));
        let r1 = ReplicaId::from("r1");
        gateways.hear_load(&"a".into(), &r1, 0);
        assert_eq!(gateways.drained_load(&r1), None);
        gateways.hear_load(&"b".into(), &r1, 2);
        assert_eq!(gateways.drained_load(&r1), Some(2));
        gateways.hear_accepted(&"a".into(), 7);
        assert!(!gateways.have_accepted(7));
        gateways.hear_accepted(&"b".into(), 7);
        assert!(gateways.have_accepted(7));
    }

    #[test]
    fn one_that_runs_and_has_not_spoken_is_missing_and_neither_empty_nor_closed() {
        let now = Timestamp::from_secs(100);
        let mut gateways = Gateways::default();
        let both: BTreeSet<GatewayId> = ["a".into(), "b".into()].into();
        gateways.running(both.clone());
        assert!(!gateways.is_empty());
        gateways.hear(now, demand("a", 1, 0, 0, Some(10)));
        gateways.hear_load(&"a".into(), &"r1".into(), 0);
        gateways.hear_accepted(&"a".into(), 7);
        assert_eq!(gateways.observe(now), GatewayObservation::Missing);
        assert_eq!((gateways.drained_load(&"r1".into()), gateways.have_accepted(7)), (None, false));
        assert_eq!(gateways.hear(now, demand("b", 1, 0, 0, Some(20))), Heed::New);
        gateways.running(both);
        assert!(matches!(gateways.observe(now), GatewayObservation::Live { .. }));
        gateways.running(["c".into()].into());
        assert_eq!(gateways.observe(now), GatewayObservation::Missing);
        gateways.running(BTreeSet::new());
        assert!(matches!(gateways.observe(now), GatewayObservation::Live { .. }));
    }

    #[test]
    fn a_restarted_gateway_counts_from_one_and_is_heard() {
        let mut gateways = Gateways::default();
        let at = |seconds, demand: Demand| Demand { at: Timestamp::from_secs(seconds), ..demand };
        assert_eq!(gateways.hear(Timestamp::from_secs(100), at(100, demand("a", 900, 0, 4, None))), Heed::New);
        gateways.hear_accepted(&"a".into(), 7);
        assert_eq!(gateways.hear(Timestamp::from_secs(105), at(105, demand("a", 1, 2, 0, None))), Heed::New);
        assert!(!gateways.have_accepted(7), "the close died with the process that had accepted it");
        assert_eq!(gateways.hear(Timestamp::from_secs(105), at(99, demand("a", 899, 9, 9, None))), Heed::Routine);
        let GatewayObservation::Live { held, in_flight, .. } = gateways.observe(Timestamp::from_secs(105)) else {
            panic!("it speaks")
        };
        assert_eq!((held, in_flight), (2, 0));
    }
}
