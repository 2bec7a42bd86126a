//! From another process's clock to ours.

use loadline_base::Timestamp;
use std::time::Duration;

/// A smallest delay older than this many nanoseconds no longer counts, so that clocks may drift apart.
const WINDOW: Duration = Duration::from_secs(60);

/// The difference between our clock and a peer's, by the frame that was least delayed in the last one or two minutes.
///
/// What a peer stamped is shifted by it: it is never later than its arrival, and older by as much as its frame was delayed
/// beyond the least.
#[derive(Debug, Clone, Default)]
pub(crate) struct Offset {
    current: Option<i64>,
    previous: Option<i64>,
    since: Timestamp,
}

impl Offset {
    /// Takes note of a frame.
    pub(crate) fn saw(&mut self, sent_at: Timestamp, received_at: Timestamp) {
        let difference = received_at.as_nanos().saturating_sub(sent_at.as_nanos());
        if self.current.is_none() || received_at.since(self.since) > WINDOW {
            (self.previous, self.since) = (self.current.take(), received_at);
        }
        self.current = Some(self.current.map_or(difference, |least| least.min(difference)));
    }

    /// The time in our clock of what a peer stamped, at the latest `received_at`.
    pub(crate) fn to_ours(&self, theirs: Timestamp, received_at: Timestamp) -> Timestamp {
        let least = self.current.into_iter().chain(self.previous).min().unwrap_or(0);
        Timestamp::from_nanos(theirs.as_nanos().saturating_add(least)).min(received_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_clock_that_is_wrong_by_an_hour_changes_nothing_and_a_late_frame_is_old() {
        for wrong in [-3_600_i64, 0, 3_600] {
            let theirs = |ms: i64| Timestamp::from_nanos((wrong * 1_000 + ms) * 1_000_000);
            let ours = |ms: i64| Timestamp::from_nanos(ms * 1_000_000);
            let mut offset = Offset::default();
            offset.saw(theirs(1_000), ours(1_001));
            assert_eq!(offset.to_ours(theirs(1_000), ours(1_001)), ours(1_001));
            // two seconds on its way
            offset.saw(theirs(2_000), ours(4_001));
            assert_eq!(offset.to_ours(theirs(2_000), ours(4_001)), ours(2_001));
            // stamped half a second before it was sent
            offset.saw(theirs(5_000), ours(5_001));
            assert_eq!(offset.to_ours(theirs(4_500), ours(5_001)), ours(4_501));
        }
    }

    #[test]
    fn clocks_that_drift_apart_are_followed() {
        let mut offset = Offset::default();
        // the peer's clock loses a millisecond per second
        for second in 0..600_i64 {
            let (theirs, ours) = (second * 999, second * 1_000);
            let at = Timestamp::from_nanos(ours * 1_000_000);
            let stamp = Timestamp::from_nanos(theirs * 1_000_000);
            offset.saw(stamp, at);
            assert!(at.since(offset.to_ours(stamp, at)) <= Duration::from_millis(121), "{second}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_later_than_its_arrival(frames in proptest::collection::vec((any::<i64>(), any::<i64>(), any::<i64>()), 1..50)) {
            let mut offset = Offset::default();
            for (sent, received, stamp) in frames {
                let received = Timestamp::from_nanos(received);
                offset.saw(Timestamp::from_nanos(sent), received);
                prop_assert!(offset.to_ours(Timestamp::from_nanos(stamp), received) <= received);
            }
        }
    }
}
