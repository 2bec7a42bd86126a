//! What a request brings, where it is, and the counts of all.

use crate::queue::Limits;
use crate::slab::ReplicaKey;
use loadline_base::Timestamp;
use std::time::Duration;

/// A request that has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Size of its body.
    pub bytes: u64,
    /// Whether its answer is to be streamed.
    pub streamed: bool,
    /// The longest the client wants to wait, if it said so.
    pub ttl: Option<Duration>,
}

/// Counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Requests held.
    pub held: u32,
    /// Bytes of bodies held.
    pub held_bytes: u64,
    /// Requests given to replicas and not finished.
    pub in_flight: u32,
    /// Replicas that may be given requests.
    pub serving: u32,
    /// Whether requests are (or would be) held because no replica exists.
    pub cold: bool,
    /// Requests admitted since the start.
    pub admitted_total: u64,
    /// Requests that have left since the start.
    pub left_total: u64,
    /// Since when the oldest held request waits.
    pub oldest: Option<Timestamp>,
    /// Times a slot was granted beyond a replica's slots: a broken law L6.
    pub slot_violations: u64,
    /// Times a request was held beyond a bound: a broken law L7.
    pub bound_violations: u64,
}

impl Counts {
    /// How far the admitted, the left and the present requests are from adding up: a broken law L5 unless zero.
    #[must_use]
    pub fn exit_violations(&self) -> u64 {
        let present = u64::from(self.held) + u64::from(self.in_flight);
        self.admitted_total.abs_diff(self.left_total.saturating_add(present))
    }
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Held,
    Granted { replica: ReplicaKey, at: Timestamp, answered: bool },
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) sequence: u64,
    pub(crate) bytes: u64,
    pub(crate) place: Place,
    pub(crate) attempts: u32,
    pub(crate) limits: Limits,
    /// What was left of the budgets when it was granted.
    pub(crate) left: (u64, u64),
    pub(crate) arrived: Timestamp,
    pub(crate) held_since: Timestamp,
    pub(crate) waited: Duration,
    pub(crate) cold: bool,
    pub(crate) committed: bool,
    pub(crate) keepalive_at: Option<Timestamp>,
}
