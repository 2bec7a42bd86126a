//! How long to wait before a replica that ended on its own is started again.

use loadline_base::Timestamp;
use std::time::Duration;

/// Exponential back-off between restarts, in model time; the figures are those of the kubelet, capped lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    /// After the first failure.
    pub first: Duration,
    /// Doubling stops here.
    pub max: Duration,
    /// A replica that lived this long starts again from `first`.
    pub reset_after: Duration,
}

impl BackOff {
    /// 1 s, doubled up to 60 s, forgotten after 10 minutes.
    pub const DEFAULT: Self =
        Self { first: Duration::from_secs(1), max: Duration::from_secs(60), reset_after: Duration::from_secs(600) };

    /// The wait after the given number of failures in a row; zero for none.
    #[must_use]
    pub fn wait(&self, failures: u32) -> Duration {
        match failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => {
                self.first.saturating_mul(1_u32.checked_shl(doublings.min(31)).unwrap_or(u32::MAX)).min(self.max)
            }
        }
    }

    /// The failures in a row once a replica started at `started` has ended at `ended`.
    pub(crate) fn count(&self, failures: u32, started: Timestamp, ended: Timestamp) -> u32 {
        if ended.since(started) >= self.reset_after { 1 } else { failures.saturating_add(1) }
    }
}

impl Default for BackOff {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_a_stable_time_resets_them() {
        let backoff = BackOff {
            first: Duration::from_millis(100),
            max: Duration::from_millis(1000),
            reset_after: Duration::from_secs(10),
        };
        for (failures, millis) in
            [(0, 0), (1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (40, 1000), (u32::MAX, 1000)]
        {
            assert_eq!(backoff.wait(failures), Duration::from_millis(millis), "{failures}");
        }
        let at = Timestamp::from_secs;
        assert_eq!(backoff.count(4, at(0), at(9)), 5);
        assert_eq!(backoff.count(4, at(0), at(10)), 1);
        assert_eq!(backoff.count(u32::MAX, at(0), at(1)), u32::MAX);
    }
}
