//! The replicas of one model and the choice among them.
//!
//! One gateway knows its own in-flight counts exactly, so the least loaded replica is chosen (share of slots in use, then
//! longest without a grant), which is never worse than the better of two random ones and needs no chance.

use crate::settings::HoldSettings;
use crate::slab::{ReplicaKey, Slab};
use loadline_base::{ReplicaId, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// Each step of the ramp multiplies what a new replica may have: 1, 4, 16, ... (`gateway.md` 6.3).
const RAMP_FACTOR: u32 = 4;
/// More replicas count for the fair share of a new one only if the next is expected within this.
const SHARE_HORIZON: Duration = Duration::from_secs(2);
/// Repeats after which the pause of an ejected replica no longer doubles.
const MAX_DOUBLINGS: u32 = 16;

/// What a replica may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaPhase {
    /// New requests.
    Serving,
    /// Nothing new; what it has may finish.
    Draining,
    /// Nothing, since a close was accepted; `ReplicaUp` makes it serve again.
    Closed,
}

/// One replica as seen from outside.
#[derive(Debug, Clone, Copy)]
pub struct ReplicaView<'a> {
    /// Its key, as grants name it.
    pub key: ReplicaKey,
    /// Its name.
    pub id: &'a ReplicaId,
    /// Where it listens.
    pub address: &'a str,
    /// Requests it may have at once.
    pub slots: u32,
    /// Requests it has.
    pub in_flight: u32,
    /// What it may be given.
    pub phase: ReplicaPhase,
}

#[derive(Debug, Clone)]
pub(crate) struct Replica {
    pub(crate) id: ReplicaId,
    pub(crate) address: String,
    pub(crate) slots: u32,
    pub(crate) in_flight: u32,
    pub(crate) phase: ReplicaPhase,
    /// Requests it may have while it is new.
    allowance: u32,
    step_at: Option<Timestamp>,
    /// At most this many until then, because others are about to come.
    share: Option<(u32, Timestamp)>,
    /// Gets nothing until then.
    pub(crate) ejected_until: Option<Timestamp>,
    pub(crate) ejected_at: Option<Timestamp>,
    ejections: u32,
    last_grant: u64,
    /// Its entry in the list of candidates, if it has one.
    entry: Option<Candidate>,
}

impl Replica {
    fn limit(&self) -> u32 {
        let share = self.share.map_or(u32::MAX, |(share, _)| share);
        self.slots.min(self.allowance).min(share)
    }

    fn is_open(&self) -> bool {
        self.phase == ReplicaPhase::Serving && self.ejected_until.is_none() && self.in_flight < self.limit()
    }

    /// When a limit of this replica may change by itself.
    fn next_change(&self) -> Option<Timestamp> {
        if self.phase != ReplicaPhase::Serving {
            return None;
        }
        let ramp = if self.allowance < self.slots { self.step_at } else { None };
        ramp.into_iter().chain(self.share.map(|(_, until)| until)).chain(self.ejected_until).min()
    }
}

/// Order of choice: the greatest is chosen. Loads and grants are stored negated so that taking from the end is cheap.
type Candidate = (u64, u64, u32);

/// The replicas of one model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replicas {
    table: Slab<ReplicaKey, Replica>,
    by_id: BTreeMap<ReplicaId, ReplicaKey>,
    /// Those with a free slot, sorted; a sorted vector never allocates once it has grown.
    open: Vec<(Candidate, ReplicaKey)>,
    grants: u64,
    serving: u32,
    in_flight: u32,
}

impl Replicas {
    /// Replicas that are neither draining nor closed.
    pub(crate) const fn serving(&self) -> u32 {
        self.serving
    }

    /// Requests in flight over all replicas.
    pub(crate) const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Whether a slot is free.
    pub(crate) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    pub(crate) fn get(&self, key: ReplicaKey) -> Option<&Replica> {
        self.table.get(key)
    }

    pub(crate) fn find(&self, id: &ReplicaId) -> Option<ReplicaKey> {
        self.by_id.get(id).copied()
    }

    pub(crate) fn views(&self) -> impl Iterator<Item = ReplicaView<'_>> {
        self.table.iter().map(|(key, replica)| ReplicaView {
            key,
            id: &replica.id,
            address: &replica.address,
            slots: replica.slots,
            in_flight: replica.in_flight,
            phase: replica.phase,
        })
    }

    /// Adds a replica that is new here.
    pub(crate) fn add(&mut self, id: ReplicaId, address: String, slots: u32, ramp: bool) -> ReplicaKey {
        let replica = Replica {
            id: id.clone(),
            address,
            slots,
            in_flight: 0,
            phase: ReplicaPhase::Serving,
            allowance: if ramp { 1 } else { u32::MAX },
            step_at: None,
            share: None,
            ejected_until: None,
            ejected_at: None,
            ejections: 0,
            last_grant: 0,
            entry: None,
        };
        let key = self.table.insert(replica);
        self.by_id.insert(id, key);
        self.serving += 1;
        self.refresh(key);
        key
    }

    /// Caps a new replica at its part of `held`, if `starting` more are expected soon.
    pub(crate) fn share_out(
        &mut self,
        key: ReplicaKey,
        held: u32,
        starting: u32,
        expected: Option<Timestamp>,
        now: Timestamp,
    ) {
        let Some(until) = expected.filter(|at| starting > 0 && *at > now && at.since(now) <= SHARE_HORIZON) else {
            return;
        };
        let replicas = self.serving.saturating_add(starting).max(1);
        if let Some(replica) = self.table.get_mut(key) {
            replica.share = Some((held.div_ceil(replicas).max(1), until));
        }
        self.refresh(key);
    }

    /// Says again that a replica can take requests; true if its drain is undone by that.
    pub(crate) fn restate(&mut self, key: ReplicaKey, slots: u32) -> bool {
        let Some(replica) = self.table.get_mut(key) else { return false };
        let was = replica.phase;
        replica.slots = slots;
        replica.phase = ReplicaPhase::Serving;
        (replica.ejected_until, replica.ejections) = (None, 0);
        if was != ReplicaPhase::Serving {
            self.serving += 1;
        }
        self.refresh(key);
        was == ReplicaPhase::Draining
    }

    /// Stops giving requests to a replica.
    pub(crate) fn stop(&mut self, key: ReplicaKey, phase: ReplicaPhase) {
        let Some(replica) = self.table.get_mut(key) else { return };
        if replica.phase == ReplicaPhase::Serving {
            self.serving = self.serving.saturating_sub(1);
        }
        replica.phase = phase;
        self.refresh(key);
    }

    /// Stops giving requests to any replica.
    pub(crate) fn close(&mut self) {
        for (_, replica) in self.table.iter_mut() {
            if replica.phase == ReplicaPhase::Serving {
                replica.phase = ReplicaPhase::Closed;
            }
            replica.entry = None;
        }
        self.serving = 0;
        self.open.clear();
    }

    /// Forgets a replica; its requests must have been released before.
    pub(crate) fn remove(&mut self, key: ReplicaKey) {
        self.stop(key, ReplicaPhase::Draining);
        if let Some(replica) = self.table.remove(key) {
            self.by_id.remove(&replica.id);
        }
    }

    /// Takes a slot on the best replica that has one free.
    pub(crate) fn take(&mut self, now: Timestamp, ramp_step: Duration) -> Option<ReplicaKey> {
        let (_, key) = *self.open.last()?;
        self.grants += 1;
        let grants = self.grants;
        let replica = self.table.get_mut(key)?;
        replica.in_flight += 1;
        replica.last_grant = grants;
        if replica.allowance < replica.slots && replica.step_at.is_none() {
            replica.step_at = Some(now.plus(ramp_step));
        }
        self.in_flight += 1;
        self.refresh(key);
        Some(key)
    }

    /// Gives a slot back; the requests left there.
    pub(crate) fn release(&mut self, key: ReplicaKey) -> u32 {
        let Some(replica) = self.table.get_mut(key) else { return 0 };
        replica.in_flight = replica.in_flight.saturating_sub(1);
        let left = replica.in_flight;
        self.in_flight = self.in_flight.saturating_sub(1);
        self.refresh(key);
        left
    }

    /// A first byte came back: the replica works.
    pub(crate) fn proved(&mut self, key: ReplicaKey, now: Timestamp, ramp_step: Duration) {
        let Some(replica) = self.table.get_mut(key) else { return };
        replica.ejections = 0;
        if replica.allowance < replica.slots {
            replica.allowance = replica.allowance.saturating_mul(RAMP_FACTOR);
            replica.step_at = Some(now.plus(ramp_step));
            self.refresh(key);
        }
    }

    /// A connection was refused or reset: the replica gets nothing for a while, then one request. True if this is the
    /// first such failure since it last worked.
    pub(crate) fn eject(&mut self, key: ReplicaKey, now: Timestamp, settings: &HoldSettings) -> bool {
        let Some(replica) = self.table.get_mut(key) else { return false };
        if replica.ejected_until.is_some() {
            return false;
        }
        let doubled = settings.eject_first.saturating_mul(1 << replica.ejections.min(MAX_DOUBLINGS));
        replica.ejected_until = Some(now.plus(doubled.min(settings.eject_max)));
        replica.ejected_at = Some(now);
        let first = replica.ejections == 0;
        replica.ejections = replica.ejections.saturating_add(1);
        (replica.allowance, replica.step_at) = (1, None);
        self.refresh(key);
        first
    }

    /// Takes the steps that are due: ramps, shares, ends of ejection.
    pub(crate) fn advance(&mut self, now: Timestamp, ramp_step: Duration) {
        if self.next_change().is_none_or(|next| next > now) {
            return;
        }
        let mut changed = Vec::new();
        for (key, replica) in self.table.iter_mut() {
            while replica.allowance < replica.slots
                && let Some(at) = replica.step_at.filter(|at| *at <= now)
            {
                replica.allowance = replica.allowance.saturating_mul(RAMP_FACTOR);
                replica.step_at = Some(at.plus(ramp_step.max(Duration::from_millis(1))));
            }
            replica.share = replica.share.filter(|(_, until)| *until > now);
            replica.ejected_until = replica.ejected_until.filter(|until| *until > now);
            changed.push(key);
        }
        for key in changed {
            self.refresh(key);
        }
    }

    /// When [`Self::advance`] is due.
    pub(crate) fn next_change(&self) -> Option<Timestamp> {
        self.table.iter().filter_map(|(_, replica)| replica.next_change()).min()
    }

    /// Brings the list of candidates in line with one replica.
    fn refresh(&mut self, key: ReplicaKey) {
        let Some(replica) = self.table.get_mut(key) else { return };
        let wanted = replica.is_open().then(|| {
            let load = (u64::from(replica.in_flight) << 32) / u64::from(replica.slots.max(1));
            (u64::MAX - load, u64::MAX - replica.last_grant, u32::MAX - u32::try_from(key.slot()).unwrap_or(u32::MAX))
        });
        let present = std::mem::replace(&mut replica.entry, wanted);
        if let Some(old) = present
            && let Ok(at) = self.open.binary_search_by(|(candidate, _)| candidate.cmp(&old))
        {
            self.open.remove(at);
        }
        if let Some(new) = wanted {
            let at = self.open.partition_point(|(candidate, _)| *candidate < new);
            self.open.insert(at, (new, key));
        }
    }
}
