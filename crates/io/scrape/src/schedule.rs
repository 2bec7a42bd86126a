//! When a target is scraped: on a grid of its own, so that many targets spread over the period and keep their places.

use loadline_base::Timestamp;
use std::time::Duration;

/// The shortest period, in model time; shorter ones count as this.
pub(crate) const MIN_PERIOD: Duration = Duration::from_millis(1);

/// The first moment after `now` on the grid of `id`.
pub(crate) fn next_turn(now: Timestamp, id: &str, period: Duration) -> Timestamp {
    let period = u64::try_from(period.max(MIN_PERIOD).as_nanos()).unwrap_or(u64::MAX);
    let phase = i128::from(hash(id) % period);
    let period = i128::from(period);
    let since = (i128::from(now.as_nanos()) - phase).rem_euclid(period);
    now.plus(Duration::from_nanos(u64::try_from(period - since).unwrap_or(u64::MAX)))
}

/// FNV-1a with a finishing mix, because ids often differ in their last character only.
fn hash(id: &str) -> u64 {
    let mut state = id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    state ^= state >> 32;
    state = state.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    state ^ (state >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn turns_are_one_period_apart_and_lie_ahead(start in any::<i32>(), millis in 1_u64..100_000, id in "[a-z0-9-]{0,12}") {
            let period = Duration::from_millis(millis);
            let now = Timestamp::from_nanos(i64::from(start) * 1_000_003);
            let first = next_turn(now, &id, period);
            prop_assert!(first > now && first.since(now) <= period);
            prop_assert_eq!(next_turn(first, &id, period), first.plus(period));
            // a late or a restarted scraper is back on the same grid
            prop_assert_eq!(next_turn(first.plus(period / 2), &id, period), first.plus(period));
        }
    }

    #[test]
    fn targets_spread_over_the_period() {
        let period = Duration::from_secs(1);
        let mut tenths = [0; 10];
        for number in 0..1000 {
            let wait =
                next_turn(Timestamp::from_secs(7), &format!("replica-{number}"), period).since(Timestamp::from_secs(7));
            let tenth = usize::try_from((wait.as_nanos() - 1) / 100_000_000).expect("below ten");
            tenths[tenth] += 1;
        }
        assert!(tenths.iter().all(|count| (60..=140).contains(count)), "{tenths:?}");
    }
}
