//! What a hold asks its caller to do.

use crate::slab::{ReplicaKey, RequestKey};
use loadline_base::ReplicaId;
use std::time::Duration;

/// One thing to carry out, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send the request to this replica; a slot there is taken for it.
    Grant {
        /// Which request.
        request: RequestKey,
        /// Where to.
        replica: ReplicaKey,
        /// 1 for the first time; to be named again in [`crate::Hold::failed`].
        attempt: u32,
        /// How long it was held in all.
        waited: Duration,
        /// Whether it was ever held because no replica existed.
        cold: bool,
    },
    /// Answer the request with an error; it has left.
    Reject {
        /// Which request.
        request: RequestKey,
        /// Why, and when to try again.
        rejection: Rejection,
    },
    /// Write a comment on this held stream (and before the first one its status and headers).
    KeepAlive {
        /// Which request.
        request: RequestKey,
    },
    /// Its replica is gone and no byte had come back: give up the attempt and wait for the next grant.
    Requeued {
        /// Which request.
        request: RequestKey,
    },
    /// Its replica is gone after bytes had come back: end the answer with an error in its stream; it has left.
    AbortStream {
        /// Which request.
        request: RequestKey,
    },
    /// Ask the writer for a replica.
    Wake {
        /// The epoch this hold is in.
        epoch: u64,
        /// Requests held.
        held: u32,
    },
    /// Answer the writer's close.
    Closed {
        /// The epoch of the order.
        epoch: u64,
        /// True only if nothing was held or in flight.
        accepted: bool,
    },
    /// Tell the writer how much a replica still has.
    ReplicaLoad {
        /// Which replica.
        replica: ReplicaId,
        /// Requests in flight there.
        in_flight: u32,
    },
    /// A report of demand is due: take it with [`crate::Hold::demand`] and send it.
    Demand,
}

/// Why a request was not given to a replica, or not again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Too many requests, or too many bytes, are held.
    QueueFull,
    /// The budget for waiting on a free slot is spent.
    SaturatedTimeout,
    /// The budget for waiting on a first replica is spent.
    ColdTimeout,
    /// No replica can be expected within the request's budget.
    NoCapacity,
    /// The gateway is shutting down or the model was removed.
    Draining,
    /// Every allowed attempt failed before a byte came back.
    UpstreamReset,
}

impl Reason {
    /// All reasons, in a fixed order.
    pub const ALL: [Self; 6] = [
        Self::QueueFull,
        Self::SaturatedTimeout,
        Self::ColdTimeout,
        Self::NoCapacity,
        Self::Draining,
        Self::UpstreamReset,
    ];

    /// The HTTP status: 429 where capacity exists, 503 where it does not (`gateway.md` 7).
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::QueueFull | Self::SaturatedTimeout => 429,
            Self::ColdTimeout | Self::NoCapacity | Self::Draining => 503,
            Self::UpstreamReset => 502,
        }
    }

    /// The `code` of the error body (`gateway.md` 4).
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::SaturatedTimeout => "queue_timeout_saturated",
            Self::ColdTimeout => "cold_start_timeout",
            Self::NoCapacity => "no_capacity",
            Self::Draining => "draining",
            Self::UpstreamReset => "upstream_reset",
        }
    }
}

/// A refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// Why.
    pub reason: Reason,
    /// When to try again: within 1 and 120 s, with its jitter already applied (openai-python gives up beyond 120 s).
    pub retry_after: Duration,
    /// How long the request was held.
    pub waited: Duration,
    /// Whether it was ever held because no replica existed.
    pub cold: bool,
}

/// How an attempt failed before the first byte of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection could be made; nothing was sent.
    Refused,
    /// The connection broke after the request was sent.
    Reset,
    /// The replica answered that it is not available, and nothing more.
    Unavailable,
}

/// What became of a request whose attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It is held again, by its arrival; wait for the next [`Effect::Grant`].
    Held,
    /// It has left; answer with this.
    Over(Rejection),
    /// The attempt was already given up (see [`Effect::Requeued`]), or the request has left.
    Stale,
}
