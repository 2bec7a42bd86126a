//! The one clock.

use loadline_base::{Timestamp, num};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Monotonic time, anchored to wall time when made, optionally running faster.
///
/// At speed-up `s` one second of wall time is `s` seconds of *model* time: every period, window and engine step is given
/// in model time, and all reports are in model time.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Anchor>);

#[derive(Debug)]
struct Anchor {
    instant: Instant,
    wall_nanos: i64,
    speedup: f64,
}

impl Clock {
    /// A clock that runs with wall time.
    #[must_use]
    pub fn real() -> Self {
        Self::scaled(1.0)
    }

    /// A clock that runs `speedup` times as fast as wall time; values that are not positive and finite count as 1.
    #[must_use]
    pub fn scaled(speedup: f64) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(Arc::new(Anchor {
            instant: Instant::now(),
            wall_nanos: i64::try_from(wall.as_nanos()).unwrap_or(i64::MAX),
            speedup: if speedup.is_finite() && speedup > 0.0 { speedup } else { 1.0 },
        }))
    }

    /// The present, in model time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let elapsed = self.to_model(self.0.instant.elapsed());
        Timestamp::from_nanos(self.0.wall_nanos).plus(elapsed)
    }

    /// Model seconds per wall second.
    #[must_use]
    pub fn speedup(&self) -> f64 {
        self.0.speedup
    }

    /// How long `model` takes on the wall.
    #[must_use]
    pub fn to_wall(&self, model: Duration) -> Duration {
        if self.0.speedup == 1.0 { model } else { num::duration_from_secs(model.as_secs_f64() / self.0.speedup) }
    }

    /// How much model time passes in `wall`.
    #[must_use]
    pub fn to_model(&self, wall: Duration) -> Duration {
        if self.0.speedup == 1.0 { wall } else { num::duration_from_secs(wall.as_secs_f64() * self.0.speedup) }
    }

    /// The instant of the runtime's timer at which the clock will read `at`.
    #[must_use]
    pub fn instant_of(&self, at: Timestamp) -> Instant {
        let from_anchor = self.to_wall(at.since(Timestamp::from_nanos(self.0.wall_nanos)));
        self.0.instant.checked_add(from_anchor).unwrap_or_else(|| self.0.instant + Duration::from_secs(86_400 * 365))
    }

    /// Waits until the clock reads `at`; returns at once if it already does.
    pub async fn sleep_until(&self, at: Timestamp) {
        tokio::time::sleep_until(self.instant_of(at)).await;
    }

    /// Waits for a span of model time.
    pub async fn sleep(&self, span: Duration) {
        tokio::time::sleep(self.to_wall(span)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_scaled_clock_runs_faster_and_sleeps_in_model_time() {
        let clock = Clock::scaled(10.0);
        let start = clock.now();
        clock.sleep(Duration::from_secs(50)).await;
        let passed = clock.now().since(start);
        assert!(passed >= Duration::from_secs(50) && passed < Duration::from_millis(50_100), "{passed:?}");
        clock.sleep_until(start.plus(Duration::from_secs(80))).await;
        assert!(clock.now() >= start.plus(Duration::from_millis(79_990)));
    }
}
