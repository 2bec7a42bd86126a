//! Counts that can be watched while a run goes on.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a run in progress; cheap to update, read with [`Live::snapshot`].
#[derive(Debug, Default)]
pub struct Live {
    pub(crate) planned: AtomicU64,
    pub(crate) due: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) streaming: AtomicU64,
    pub(crate) answered: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) tokens: AtomicU64,
}

/// Counts at one instant; each only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LiveCounts {
    /// Requests in the plan.
    pub planned: u64,
    /// Requests whose time has come.
    pub due: u64,
    /// Requests sent.
    pub sent: u64,
    /// Requests whose first token has come.
    pub streaming: u64,
    /// Requests answered whole.
    pub answered: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Answer tokens received.
    pub tokens: u64,
}

impl LiveCounts {
    /// Requests that are due or sent and not done.
    #[must_use]
    pub const fn in_flight(&self) -> u64 {
        self.due.saturating_sub(self.answered).saturating_sub(self.failed)
    }
}

pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Live {
    /// The counts now. They are read one after another, so a request may be missing from one of two.
    #[must_use]
    pub fn snapshot(&self) -> LiveCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LiveCounts {
            planned: read(&self.planned),
            answered: read(&self.answered),
            failed: read(&self.failed),
            streaming: read(&self.streaming),
            sent: read(&self.sent),
            due: read(&self.due),
            tokens: read(&self.tokens),
        }
    }
}
