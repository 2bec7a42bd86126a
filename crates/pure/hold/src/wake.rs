//! Asking for a first replica, and the epochs that settle the race between the last request and the step to zero.

use crate::effect::Effect;
use loadline_base::Timestamp;
use std::time::Duration;

/// Time to the next wake after each one that was not acknowledged; the last repeats (`gateway.md` 6.4).
const REPEATS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(5)];
/// An acknowledged wake is asked again after this, should the writer have been replaced since.
const ACK_LIFE: Duration = Duration::from_secs(30);

/// The wake of one model: at most one is outstanding.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wake {
    /// The largest epoch used or heard.
    epoch: u64,
    /// A close of `epoch` was accepted and nothing has arrived since.
    closed: bool,
    since: Option<Timestamp>,
    next: Option<Timestamp>,
    sent: usize,
}

impl Wake {
    /// Since when a replica has been asked for, if one is.
    pub(crate) const fn since(&self) -> Option<Timestamp> {
        self.since
    }

    /// When to ask again.
    pub(crate) const fn next(&self) -> Option<Timestamp> {
        self.next
    }

    /// Brings the wake in line with what is held: `needed` is true while requests wait and no replica exists.
    pub(crate) fn follow(&mut self, now: Timestamp, needed: bool, held: u32, effects: &mut Vec<Effect>) {
        if !needed {
            (self.since, self.next, self.sent) = (None, None, 0);
            return;
        }
        if self.next.is_some_and(|next| now < next) {
            return;
        }
        if self.closed {
            self.closed = false;
            self.epoch = self.epoch.saturating_add(1);
        }
        self.since = self.since.or(Some(now));
        let pause = REPEATS.get(self.sent).or(REPEATS.last()).copied().unwrap_or_default();
        self.next = Some(now.plus(pause));
        self.sent = self.sent.saturating_add(1);
        effects.push(Effect::Wake { epoch: self.epoch, held });
    }

    /// The writer has heard a wake.
    pub(crate) fn acknowledge(&mut self, now: Timestamp, epoch: u64) {
        if self.next.is_some() && epoch >= self.epoch {
            self.next = Some(now.plus(ACK_LIFE));
            self.sent = 0;
        }
    }

    /// There is a new writer, which has heard nothing yet.
    pub(crate) fn forget_acknowledgement(&mut self, now: Timestamp) {
        if self.next.is_some() {
            (self.next, self.sent) = (Some(now), 0);
        }
    }

    /// Answers a close; `idle` is true if nothing is held or in flight. True only if accepted.
    pub(crate) fn close(&mut self, epoch: u64, idle: bool) -> bool {
        if self.closed && epoch == self.epoch {
            return idle;
        }
        let accepted = idle && epoch > self.epoch;
        self.epoch = self.epoch.max(epoch);
        self.closed |= accepted;
        accepted
    }

    /// A replica may be used again.
    pub(crate) const fn reopen(&mut self) {
        self.closed = false;
    }
}
