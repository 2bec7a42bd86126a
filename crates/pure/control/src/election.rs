//! Which process may write: leader election on one record with optimistic locking, as a state machine.
//!
//! The rule is that of Kubernetes' `client-go` (`tools/leaderelection`): a record is expired once this process has not seen it change
//! for the duration it names. Only times that this process itself observed are ever compared; the times in a record are for people. A
//! write of the record carries the version that was seen, so that of two takers one is refused.
//!
//! Invariants
//! - [`Election::is_writer`] holds for at most one process at a time, whatever is delayed, lost or refused, as long as clocks run at
//!   about the same rate: a holder stops [`ElectionSettings::renew_deadline`] after the *start* of its last successful write; others
//!   wait the longer [`ElectionSettings::lease_duration`] from when they *saw* it.
//! - What a writer sends elsewhere has to end by [`Election::write_deadline`]; then it has ended before anybody else can write.
//! - Losing needs no event: it holds as soon as the time has passed.
//!
//! Deliberately absent: reading and writing the record, and waiting.

use loadline_base::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use thiserror::Error;

/// `client-go`'s defaults.
pub const DEFAULT_LEASE_DURATION: Duration = Duration::from_secs(15);
/// `client-go`'s defaults.
pub const DEFAULT_RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// `client-go`'s defaults.
pub const DEFAULT_RETRY_PERIOD: Duration = Duration::from_secs(2);

/// What a released record names as its duration: anybody may take it at once, and a reader that only looks at durations waits no longer.
const RELEASED_DURATION: Duration = Duration::from_secs(1);

/// How an election runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElectionSettings {
    /// The name of this process; no other process, and no earlier one that may still run, has it.
    pub identity: String,
    /// How long others wait after they last saw the record change. Whole seconds.
    pub lease_duration: Duration,
    /// For how long after the start of a successful write this process may write elsewhere.
    pub renew_deadline: Duration,
    /// The longest time between two tries.
    pub retry_period: Duration,
    /// Seed of the jitter.
    pub seed: u64,
}

/// Settings that could let two processes write.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// No name.
    #[error("an election needs an identity; use the pod's name with something that changes with every start")]
    NoIdentity,
    /// A record counts whole seconds.
    #[error("the lease duration is {0:?}; it has to be at least 1 s and whole seconds")]
    NotWholeSeconds(Duration),
    /// The order of the three times is wrong.
    #[error(
        "the lease duration ({lease_duration:?}) has to be longer than the renew deadline ({renew_deadline:?}), and that longer than \
         twice the retry period ({retry_period:?}), which has to be positive"
    )]
    Order {
        /// As given.
        lease_duration: Duration,
        /// As given.
        renew_deadline: Duration,
        /// As given.
        retry_period: Duration,
    },
}

impl ElectionSettings {
    /// `client-go`'s times.
    #[must_use]
    pub fn new(identity: impl Into<String>, seed: u64) -> Self {
        Self {
            identity: identity.into(),
            lease_duration: DEFAULT_LEASE_DURATION,
            renew_deadline: DEFAULT_RENEW_DEADLINE,
            retry_period: DEFAULT_RETRY_PERIOD,
            seed,
        }
    }

    fn check(&self) -> Result<(), SettingsError> {
        let Self { lease_duration, renew_deadline, retry_period, .. } = *self;
        if self.identity.is_empty() {
            return Err(SettingsError::NoIdentity);
        }
        if lease_duration.is_zero() || lease_duration.subsec_nanos() != 0 {
            return Err(SettingsError::NotWholeSeconds(lease_duration));
        }
        let is_ordered = lease_duration > renew_deadline
            && renew_deadline > retry_period.saturating_mul(2)
            && !retry_period.is_zero();
        if is_ordered { Ok(()) } else { Err(SettingsError::Order { lease_duration, renew_deadline, retry_period }) }
    }
}

/// The record that the processes share: the `spec` of a `coordination.k8s.io/v1` Lease.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// `holderIdentity`; empty where nobody holds it.
    pub holder: String,
    /// `leaseDurationSeconds`.
    pub duration: Duration,
    /// `acquireTime`, for people.
    pub acquire_time: Timestamp,
    /// `renewTime`, for people; it changes with every renewal.
    pub renew_time: Timestamp,
    /// `leaseTransitions`.
    pub transitions: u32,
    /// `metadata.resourceVersion`, opaque. `None` in a record to write: it does not exist and has to be created.
    pub resource_version: Option<String>,
}

impl LeaseRecord {
    /// Whether a holder has said something new; a change of anything else in the object is none.
    fn is_same_word(&self, other: &Self) -> bool {
        (&self.holder, self.duration, self.acquire_time, self.renew_time, self.transitions)
            == (&other.holder, other.duration, other.acquire_time, other.renew_time, other.transitions)
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElectionStep {
    /// Nothing before this time.
    Wait(Timestamp),
    /// Read the record, no cache in between, and say [`Election::observe`] or [`Election::read_failed`].
    Read,
    /// Write this record, refused if the stored version is another (or, with none, if one exists), and say [`Election::wrote`]. Give up
    /// at [`Election::give_up_at`].
    Write(LeaseRecord),
}

/// What this process saw last.
#[derive(Debug, Clone)]
struct Seen {
    /// `None`: there is no record.
    record: Option<LeaseRecord>,
    /// When this process first saw it like that.
    changed_at: Timestamp,
    /// How long its holder may still be at work after that.
    protects: Duration,
}

/// One process in an election: see the module's documentation.
#[derive(Debug, Clone)]
pub struct Election {
    settings: ElectionSettings,
    seen: Option<Seen>,
    /// The record was read since the last try.
    is_fresh: bool,
    next_try: Timestamp,
    /// Until when this process may write elsewhere; `None` if it does not hold the record.
    held_until: Option<Timestamp>,
    term: u64,
    is_released: bool,
    chance: u64,
    last_error: Option<String>,
}

impl Election {
    /// A process that has seen nothing yet.
    ///
    /// # Errors
    /// When the settings could let two processes write at once.
    pub fn new(settings: ElectionSettings) -> Result<Self, SettingsError> {
        settings.check()?;
        Ok(Self {
            chance: settings.seed,
            settings,
            seen: None,
            is_fresh: false,
            next_try: Timestamp::from_nanos(i64::MIN),
            held_until: None,
            term: 0,
            is_released: false,
            last_error: None,
        })
    }

    /// Whether this process may write now.
    #[must_use]
    pub fn is_writer(&self, now: Timestamp) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    /// The number of times this process became the writer, if it is one now. Another number than before means that the record was
    /// lost in between: what was decided then is void, even if nobody looked.
    #[must_use]
    pub fn writer_term(&self, now: Timestamp) -> Option<u64> {
        self.is_writer(now).then_some(self.term)
    }

    /// By when everything that the writer sends elsewhere has to have ended; `None` if this process does not hold the record.
    #[must_use]
    pub fn write_deadline(&self) -> Option<Timestamp> {
        self.held_until
    }

    /// Who holds the record, as last seen; `None` where nobody does or nothing was seen.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        let record = self.seen.as_ref()?.record.as_ref()?;
        (!record.holder.is_empty()).then_some(record.holder.as_str())
    }

    /// Why the last read or write failed, if it did.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// When a read or write begun now has to be given up, so that another try fits in before the renew deadline.
    #[must_use]
    pub fn give_up_at(&self, now: Timestamp) -> Timestamp {
        now.plus(self.settings.renew_deadline / 2)
    }

    /// What to do now. Asking twice gives the same; a `Read` or `Write` is asked for until its outcome is said.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> ElectionStep {
        if self.is_released {
            return ElectionStep::Wait(Timestamp::MAX);
        }
        if now < self.next_try {
            let lost_at = self.held_until.filter(|until| *until > now).unwrap_or(Timestamp::MAX);
            return ElectionStep::Wait(self.next_try.min(lost_at));
        }
        match &self.seen {
            Some(seen) if self.is_fresh => ElectionStep::Write(self.claim(now, seen.record.as_ref())),
            _ => ElectionStep::Read,
        }
    }

    /// Takes in the record as it was just read; `None` if there is none.
    pub fn observe(&mut self, now: Timestamp, record: Option<LeaseRecord>) {
        self.last_error = None;
        self.see(now, record);
        let Some(seen) = &self.seen else { return };
        let is_mine = seen.record.as_ref().is_some_and(|record| record.holder == self.settings.identity);
        if !is_mine && seen.record.as_ref().is_some_and(|record| !record.holder.is_empty()) {
            self.held_until = None;
        }
        let free_at = seen.changed_at.plus(seen.protects);
        if is_mine || free_at <= now {
            self.is_fresh = true;
            self.next_try = now;
        } else {
            self.is_fresh = false;
            self.next_try = self.pause(now).min(free_at);
        }
    }

    /// The record could not be read.
    pub fn read_failed(&mut self, now: Timestamp, why: String) {
        self.last_error = Some(why);
        self.is_fresh = false;
        self.next_try = self.pause(now);
    }

    /// What became of a write that was begun at `started`: the record as stored, or why it was not, or is not known to have been.
    pub fn wrote(&mut self, started: Timestamp, now: Timestamp, outcome: Result<LeaseRecord, String>) {
        if self.is_released {
            return;
        }
        match outcome {
            Ok(record) if record.holder == self.settings.identity => {
                self.last_error = None;
                if !self.is_writer(now) {
                    self.term = self.term.saturating_add(1);
                }
                let until = started.plus(self.settings.renew_deadline);
                self.held_until = Some(self.held_until.map_or(until, |held| held.max(until)));
                self.see(now, Some(record));
                // renewals need no read before them: the version is known
                self.is_fresh = true;
                self.next_try = started.plus(self.settings.retry_period).max(now);
            }
            Ok(record) => self.observe(now, Some(record)),
            Err(why) => {
                self.last_error = Some(why);
                self.is_fresh = false;
                // a holder reads at once: its own write may have arrived without an answer
                self.next_try =
                    if self.is_writer(now) { now.plus(self.settings.retry_period / 4) } else { self.pause(now) };
            }
        }
    }

    /// Gives the record up on shutdown: this process is no writer any more and takes no further part. The record to write, if it held
    /// one; writing it lets the next one in at once, failing to costs the others a lease duration. End all other writes first.
    pub fn release(&mut self, now: Timestamp) -> Option<LeaseRecord> {
        self.is_released = true;
        self.held_until.take()?;
        let record = self.seen.take()?.record?;
        (record.holder == self.settings.identity).then(|| LeaseRecord {
            holder: String::new(),
            duration: RELEASED_DURATION,
            renew_time: now,
            ..record
        })
    }

    fn see(&mut self, now: Timestamp, record: Option<LeaseRecord>) {
        let duration = |record: &LeaseRecord| {
            if record.duration.is_zero() { self.settings.lease_duration } else { record.duration }
        };
        let is_held = |record: &LeaseRecord| !record.holder.is_empty() && record.holder != self.settings.identity;
        let (is_same, before) = match &self.seen {
            Some(seen) => match (&seen.record, &record) {
                (Some(old), Some(new)) => (old.is_same_word(new), Some(seen)),
                (None, None) => (true, Some(seen)),
                _ => (false, Some(seen)),
            },
            None => (false, None),
        };
        if let (true, Some(Seen { changed_at, protects, .. })) = (is_same, before) {
            let (changed_at, protects) = (*changed_at, *protects);
            self.seen = Some(Seen { record, changed_at, protects });
            return;
        }
        let protects = match &record {
            Some(record) if is_held(record) => duration(record),
            Some(_) => Duration::ZERO,
            // somebody deleted the record under its holder, which may still be at work
            None => {
                before.and_then(|seen| seen.record.as_ref()).filter(|old| is_held(old)).map_or(Duration::ZERO, duration)
            }
        };
        self.seen = Some(Seen { record, changed_at: now, protects });
    }

    /// The record with this process as its holder.
    fn claim(&self, now: Timestamp, old: Option<&LeaseRecord>) -> LeaseRecord {
        let identity = self.settings.identity.clone();
        let is_mine = old.is_some_and(|old| old.holder == identity);
        let transitions = old.map_or(0, |old| old.transitions.saturating_add(u32::from(!is_mine)));
        LeaseRecord {
            holder: identity,
            duration: self.settings.lease_duration,
            acquire_time: old.filter(|_| is_mine).map_or(now, |old| old.acquire_time),
            renew_time: now,
            transitions,
            resource_version: old.and_then(|old| old.resource_version.clone()),
        }
    }

    /// Between three quarters of the retry period and all of it, so that processes do not keep in step.
    fn pause(&mut self, now: Timestamp) -> Timestamp {
        // splitmix64 (Steele, Lea, Flood 2014)
        self.chance = self.chance.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.chance;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let part = u32::try_from((bits ^ (bits >> 31)) % 1_000).unwrap_or(0);
        let quarter = self.settings.retry_period / 4;
        now.plus(quarter.saturating_mul(3)).plus(quarter.saturating_mul(part) / 1_000)
    }
}
