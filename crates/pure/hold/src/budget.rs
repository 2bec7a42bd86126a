//! Time budgets, start times, the retry budget, and estimates of waits.

use loadline_base::{Timestamp, num};
use std::time::Duration;

/// Start times remembered.
const START_SAMPLES: usize = 64;
/// The share of the newest sample in the mean time between ends.
const INTERVAL_WEIGHT: f64 = 0.125;
/// `Retry-After` is kept within these (openai-python gives up beyond 120 s).
const RETRY_AFTER: (f64, f64) = (1.0, 120.0);
/// `Retry-After` is spread by up to this share either way, so that refused clients do not come back together.
const RETRY_JITTER: f64 = 0.2;
/// What a retry costs, in hundredths.
const RETRY_COST: u64 = 100;

/// How long the model has, in all, been without a replica, and with replicas.
///
/// Requests wait under one regime or the other; each regime has its own budget, and a change of regime restarts neither.
#[derive(Debug, Clone)]
pub(crate) struct RegimeClock {
    mark: Timestamp,
    cold: bool,
    cold_nanos: u64,
    saturated_nanos: u64,
}

impl RegimeClock {
    pub(crate) const fn new(now: Timestamp) -> Self {
        Self { mark: now, cold: true, cold_nanos: 0, saturated_nanos: 0 }
    }

    /// Counts the time up to `now` under the present regime.
    pub(crate) fn advance(&mut self, now: Timestamp) {
        let passed = u64::try_from(now.since(self.mark).as_nanos()).unwrap_or(u64::MAX);
        let total = if self.cold { &mut self.cold_nanos } else { &mut self.saturated_nanos };
        *total = total.saturating_add(passed);
        self.mark = self.mark.max(now);
    }

    /// Changes the regime; call after [`Self::advance`].
    pub(crate) const fn set_cold(&mut self, cold: bool) {
        self.cold = cold;
    }

    pub(crate) const fn is_cold(&self) -> bool {
        self.cold
    }

    pub(crate) const fn cold_nanos(&self) -> u64 {
        self.cold_nanos
    }

    pub(crate) const fn saturated_nanos(&self) -> u64 {
        self.saturated_nanos
    }

    /// When the present regime's total reaches `limit`, if the regime lasts.
    pub(crate) fn reaches(&self, limit: u64) -> Timestamp {
        let total = if self.cold { self.cold_nanos } else { self.saturated_nanos };
        self.mark.plus(Duration::from_nanos(limit.saturating_sub(total)))
    }
}

/// The latest start times: from the first wake to the first replica.
#[derive(Debug, Clone, Default)]
pub(crate) struct StartTimes {
    samples: Vec<Duration>,
    next: usize,
}

impl StartTimes {
    pub(crate) fn add(&mut self, span: Duration) {
        if self.samples.len() < START_SAMPLES {
            self.samples.push(span);
        } else if let Some(old) = self.samples.get_mut(self.next) {
            *old = span;
        }
        self.next = (self.next + 1) % START_SAMPLES;
    }

    pub(crate) fn count(&self) -> usize {
        self.samples.len()
    }

    /// The 90th percentile (nearest rank), if there is a sample.
    pub(crate) fn p90(&self) -> Option<Duration> {
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * 9).div_ceil(10).saturating_sub(1);
        sorted.get(rank).copied()
    }
}

/// The mean time between two ends of requests while others wait.
#[derive(Debug, Clone, Default)]
pub(crate) struct EndInterval {
    last: Option<Timestamp>,
    mean_nanos: f64,
    count: u32,
}

impl EndInterval {
    /// A slot became free at `now`; `waiting` says whether someone was waiting for it.
    pub(crate) fn ended(&mut self, now: Timestamp, waiting: bool) {
        if let (Some(last), true) = (self.last, waiting) {
            let nanos = now.since(last).as_secs_f64() * 1e9;
            self.mean_nanos =
                if self.count == 0 { nanos } else { self.mean_nanos + (nanos - self.mean_nanos) * INTERVAL_WEIGHT };
            self.count = self.count.saturating_add(1);
        }
        self.last = waiting.then_some(now);
    }

    pub(crate) const fn count(&self) -> u32 {
        self.count
    }

    /// How long until `places` requests have got a slot, if anything was seen.
    pub(crate) fn wait_for(&self, places: u32) -> Option<Duration> {
        (self.count > 0).then(|| num::duration_from_secs(self.mean_nanos / 1e9 * f64::from(places)))
    }
}

/// Retries may be a share of admitted requests, plus a reserve saved up.
#[derive(Debug, Clone)]
pub(crate) struct RetryBudget {
    hundredths: u64,
}

impl RetryBudget {
    pub(crate) fn new(reserve: u32) -> Self {
        Self { hundredths: u64::from(reserve) * RETRY_COST }
    }

    /// A request was admitted.
    pub(crate) fn deposit(&mut self, percent: u32, reserve: u32) {
        self.hundredths = (self.hundredths + u64::from(percent)).min(u64::from(reserve) * RETRY_COST);
    }

    /// Takes one retry, if there is one.
    pub(crate) fn withdraw(&mut self) -> bool {
        match self.hundredths.checked_sub(RETRY_COST) {
            Some(rest) => {
                self.hundredths = rest;
                true
            }
            None => false,
        }
    }
}

/// A seeded stream of numbers: splitmix64 (Steele, Lea and Flood, OOPSLA 2014), whose output no release can change.
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `estimate` with jitter, within the bounds of `Retry-After`.
    pub(crate) fn retry_after(&mut self, estimate: Duration) -> Duration {
        let unit = num::u64_to_f64(self.next() >> 11) / num::u64_to_f64(1 << 53);
        let factor = 1.0 + RETRY_JITTER * (2.0 * unit - 1.0);
        num::duration_from_secs((estimate.as_secs_f64() * factor).clamp(RETRY_AFTER.0, RETRY_AFTER.1))
    }
}
