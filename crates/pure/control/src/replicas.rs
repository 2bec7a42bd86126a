//! The replicas of one model as their supervisor and their pages describe them.

use loadline_base::{ReplicaId, Timestamp};
use loadline_policy::{Evidence, ReplicaObservation, ReplicaState, Signal};
use loadline_signals::dialect::{Reading, SignalName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Start-up times kept to estimate the next one.
const START_SAMPLES: usize = 20;

/// A start that takes this many times as long as usual is stuck: the replica is not counted on any more until it serves.
pub(crate) const STUCK_AFTER_STARTS: u32 = 3;

/// One replica.
#[derive(Debug, Clone)]
pub(crate) struct Replica {
    pub(crate) state: ReplicaState,
    pub(crate) since: Timestamp,
    pub(crate) created_at: Timestamp,
    pub(crate) address: String,
    /// The last page that could be read, and when.
    pub(crate) reading: Option<(Timestamp, Arc<Reading>)>,
    /// Why the last scrape failed, if it did.
    pub(crate) scrape_error: Option<String>,
    /// Since when its engine has reported nothing running and nothing waiting.
    idle_since: Option<Timestamp>,
    /// When a drain must end.
    pub(crate) drain_deadline: Option<Timestamp>,
    /// The supervisor was told to remove it; nothing but its end is expected any more.
    pub(crate) is_leaving: bool,
    /// Its supervisor said that it is being ended.
    pub(crate) is_ending: bool,
    /// It is to go and has no work, but others have to go before it.
    pub(crate) is_drained: bool,
    /// Since when nothing can run it, and why.
    pub(crate) unschedulable: Option<(Timestamp, String)>,
    /// When this process first heard of it.
    heard_at: Timestamp,
    /// Since when it could have been starting, by this process's own clock.
    starting_since: Timestamp,
    /// Its last word was that it can serve.
    pub(crate) is_ready: bool,
    /// It served before this loop knew it.
    is_found: bool,
    /// It was ready before: becoming ready again is not a start.
    pub(crate) has_served: bool,
}

/// All replicas of one model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replicas {
    pub(crate) table: BTreeMap<ReplicaId, Replica>,
    start_times: Vec<Duration>,
}

impl Replica {
    /// Its start takes so long that it is not counted on. One that served before is only unwell.
    fn is_stuck(&self, now: Timestamp, usual: Duration) -> bool {
        self.state == ReplicaState::Starting
            && !self.has_served
            && now.since(self.starting_since) > usual.saturating_mul(STUCK_AFTER_STARTS)
    }
}

impl Replicas {
    /// Adds a replica that was just created.
    pub(crate) fn started(&mut self, now: Timestamp, id: ReplicaId, created_at: Timestamp, address: String) {
        let replica = Replica {
            state: ReplicaState::Starting,
            since: now,
            created_at,
            address,
            reading: None,
            scrape_error: None,
            idle_since: None,
            drain_deadline: None,
            is_leaving: false,
            is_ending: false,
            is_drained: false,
            unschedulable: None,
            heard_at: now,
            starting_since: now,
            is_ready: false,
            is_found: false,
            has_served: false,
        };
        self.table.insert(id, replica);
    }

    /// Notes whether it can serve now, whatever is planned for it.
    pub(crate) fn set_ready(&mut self, id: &ReplicaId, is_ready: bool) {
        if let Some(replica) = self.table.get_mut(id) {
            replica.is_ready = is_ready;
        }
    }

    /// It existed before this loop did: what its engine does is not known before it says so.
    pub(crate) fn found(&mut self, id: &ReplicaId) {
        if let Some(replica) = self.table.get_mut(id) {
            replica.is_found = true;
        }
    }

    /// Marks a replica ready, learns from its start-up time, and says where it listens; `None` if it is not known, on its way out, or
    /// ready already.
    pub(crate) fn ready(&mut self, now: Timestamp, id: &ReplicaId) -> Option<String> {
        let is_waiting = |replica: &Replica| {
            matches!(replica.state, ReplicaState::Starting | ReplicaState::Failed) && !replica.is_leaving
        };
        let replica = self.table.get_mut(id).filter(|replica| is_waiting(replica))?;
        if replica.state == ReplicaState::Starting && !replica.is_found && !replica.has_served {
            if self.start_times.len() == START_SAMPLES {
                self.start_times.remove(0);
            }
            self.start_times.push(now.since(replica.starting_since));
        }
        replica.unschedulable = None;
        replica.state = ReplicaState::Ready;
        replica.is_ready = true;
        replica.since = now;
        replica.has_served = true;
        Some(replica.address.clone())
    }

    /// Nothing can run it now.
    pub(crate) fn unschedulable(&mut self, now: Timestamp, id: &ReplicaId, why: String) {
        if let Some(replica) = self.table.get_mut(id) {
            let since = replica.unschedulable.as_ref().map_or(now, |(since, _)| *since);
            replica.unschedulable = Some((since, why));
        }
    }

    /// Something runs it now: its start begins here.
    pub(crate) fn scheduled(&mut self, now: Timestamp, id: &ReplicaId) {
        if let Some(replica) = self.table.get_mut(id)
            && replica.unschedulable.take().is_some()
        {
            replica.starting_since = now;
        }
    }

    /// A draining replica has nothing left, but cannot go yet.
    pub(crate) fn drained(&mut self, id: &ReplicaId) {
        if let Some(replica) = self.table.get_mut(id) {
            replica.is_drained = true;
            replica.drain_deadline = None;
        }
    }

    /// Moves a known replica to another stage.
    pub(crate) fn set_state(&mut self, now: Timestamp, id: &ReplicaId, state: ReplicaState) {
        if let Some(replica) = self.table.get_mut(id) {
            replica.state = state;
            replica.since = now;
            if state != ReplicaState::Draining {
                replica.drain_deadline = None;
                replica.is_drained = false;
            }
            if matches!(state, ReplicaState::Starting | ReplicaState::Failed) {
                replica.idle_since = None;
            }
        }
    }

    /// The supervisor is about to be told to remove it.
    pub(crate) fn leave(&mut self, now: Timestamp, id: &ReplicaId) {
        self.set_state(now, id, ReplicaState::Failed);
        if let Some(replica) = self.table.get_mut(id) {
            replica.is_leaving = true;
        }
    }

    /// Takes in the outcome of a scrape. The new page and the one before it, if there is a new one. What was read before the replica
    /// was made is of another one with its name.
    pub(crate) fn scraped(
        &mut self,
        at: Timestamp,
        period: Duration,
        id: &ReplicaId,
        outcome: Result<Arc<Reading>, String>,
    ) -> Option<(Option<Arc<Reading>>, Arc<Reading>)> {
        let replica = self.table.get_mut(id)?;
        if at < replica.heard_at || replica.reading.as_ref().is_some_and(|(last, _)| at < *last) {
            return None;
        }
        match outcome {
            Ok(reading) => {
                let value = |name| reading.signals.get(&name).map(|signal| signal.value);
                let is_idle = value(SignalName::RequestsRunning) == Some(0.0)
                    && value(SignalName::RequestsWaiting).is_none_or(|waiting| waiting == 0.0);
                // between two pages that lie too far apart it may have done anything
                let is_unbroken = replica
                    .reading
                    .as_ref()
                    .is_some_and(|(last, _)| matches!(Evidence::of_age(at, *last, period), Evidence::Live));
                let since = replica.idle_since.filter(|_| is_unbroken).unwrap_or(at);
                replica.idle_since = is_idle.then_some(since);
                replica.scrape_error = None;
                let old = replica.reading.replace((at, Arc::clone(&reading)));
                Some((old.map(|(_, old)| old), reading))
            }
            Err(error) => {
                replica.idle_since = None;
                replica.scrape_error = Some(error);
                None
            }
        }
    }

    /// Those in a stage, in id order.
    pub(crate) fn in_state(&self, state: ReplicaState) -> Vec<ReplicaId> {
        self.table.iter().filter(|(_, replica)| replica.state == state).map(|(id, _)| id.clone()).collect()
    }

    /// How many are in a stage.
    pub(crate) fn count(&self, state: ReplicaState) -> u32 {
        u32::try_from(self.table.values().filter(|replica| replica.state == state).count()).unwrap_or(u32::MAX)
    }

    /// The 90th percentile of the start-up times seen, or `fallback` before any was.
    pub(crate) fn start_p90(&self, fallback: Duration) -> Duration {
        let mut sorted = self.start_times.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * 9).div_ceil(10).saturating_sub(1);
        sorted.get(rank).copied().unwrap_or(fallback)
    }

    /// How long until the next starting replica should serve; at least a second, so that nobody is told "now" and then waits.
    pub(crate) fn expected(&self, now: Timestamp, fallback: Duration) -> Option<Duration> {
        let usual = self.start_p90(fallback);
        self.table
            .values()
            .filter(|replica| replica.state == ReplicaState::Starting && !replica.is_stuck(now, usual))
            .map(|replica| usual.saturating_sub(now.since(replica.starting_since)).max(Duration::from_secs(1)))
            .min()
    }

    /// Replicas that start and are counted on.
    pub(crate) fn coming(&self, now: Timestamp, fallback: Duration) -> u32 {
        let usual = self.start_p90(fallback);
        let coming = self.table.values().filter(|r| r.state == ReplicaState::Starting && !r.is_stuck(now, usual));
        u32::try_from(coming.count()).unwrap_or(u32::MAX)
    }

    /// Replicas that exist and cannot run for at least `patience`, with the reason of the first; and those whose start is stuck otherwise.
    pub(crate) fn unplaced(&self, now: Timestamp, fallback: Duration, patience: Duration) -> (u32, u32, String) {
        let usual = self.start_p90(fallback);
        let (mut homeless, mut stuck, mut first) = (0_u32, 0_u32, None);
        for replica in self.table.values().filter(|replica| replica.state == ReplicaState::Starting) {
            match &replica.unschedulable {
                Some((since, why)) if now.since(*since) >= patience => {
                    homeless = homeless.saturating_add(1);
                    first = first.or(Some(why));
                }
                _ => stuck = stuck.saturating_add(u32::from(replica.is_stuck(now, usual))),
            }
        }
        (homeless, stuck, first.cloned().unwrap_or_default())
    }

    /// A signal of one replica's engine with its evidence. An engine that has just become ready has nothing running or waiting yet;
    /// that is known as of that moment and ages like anything else. A page that does not carry the signal gives `None`.
    pub(crate) fn signal(now: Timestamp, replica: &Replica, name: SignalName, period: Duration) -> Option<Signal> {
        match &replica.reading {
            Some((at, reading)) => {
                let value = reading.signals.get(&name)?.value;
                Some(Signal { value, at: *at, evidence: Evidence::of_age(now, *at, period) })
            }
            None if replica.is_found => None,
            None => {
                Some(Signal { value: 0.0, at: replica.since, evidence: Evidence::of_age(now, replica.since, period) })
            }
        }
    }

    /// Every replica, for a decision.
    pub(crate) fn observe(&self, now: Timestamp, period: Duration, start: Duration) -> Vec<ReplicaObservation> {
        let usual = self.start_p90(start);
        self.table
            .iter()
            .map(|(id, replica)| {
                let serves = matches!(replica.state, ReplicaState::Ready | ReplicaState::Draining);
                let signal = |name| if serves { Self::signal(now, replica, name, period) } else { None };
                ReplicaObservation {
                    id: id.clone(),
                    // no capacity to come, and no reason to wait for its word
                    state: if replica.is_stuck(now, usual) { ReplicaState::Failed } else { replica.state },
                    since: replica.since,
                    created_at: replica.created_at,
                    known: true,
                    running: signal(SignalName::RequestsRunning),
                    waiting: signal(SignalName::RequestsWaiting),
                    idle_since: replica.idle_since,
                }
            })
            .collect()
    }
}
