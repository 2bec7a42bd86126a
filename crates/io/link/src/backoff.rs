//! Pauses between attempts to connect.

use crate::limits::LinkLimits;
use std::time::Duration;

/// Doubling pauses, each between its half and its whole, so that many gateways do not come back at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
    state: u64,
}

impl Backoff {
    pub(crate) fn new(limits: &LinkLimits, seed: u64) -> Self {
        let first = limits.backoff_first.min(limits.backoff_max);
        Self { first, max: limits.backoff_max, next: first, state: seed }
    }

    /// The next pause.
    pub(crate) fn pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.max);
        whole / 2 + whole.mul_f64(self.chance() / 2.0)
    }

    /// An attempt has succeeded.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// A number from 0 to 1 (the splitmix64 generator: Steele, Lea, Flood, 2014).
    fn chance(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        loadline_base::num::u64_to_f64((mixed ^ (mixed >> 31)) >> 11) / loadline_base::num::u64_to_f64(1 << 53)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_differ_between_gateways() {
        let limits = LinkLimits::default();
        let (mut one, mut other) = (Backoff::new(&limits, 1), Backoff::new(&limits, 2));
        let mut same = 0;
        for whole in [50, 100, 200, 400, 800, 1_600, 2_000, 2_000].map(Duration::from_millis) {
            let (a, b) = (one.pause(), other.pause());
            assert!(a >= whole / 2 && a <= whole && b >= whole / 2 && b <= whole, "{whole:?}: {a:?} {b:?}");
            same += usize::from(a == b);
        }
        assert_eq!(same, 0);
        one.reset();
        assert!(one.pause() <= limits.backoff_first);
    }
}
