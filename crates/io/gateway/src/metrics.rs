//! Counters, each reached without a lock or a look-up.

use http::StatusCode;
use loadline_hold::{Failure, Reason};
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The largest number seen since it was last read.
#[derive(Debug, Default)]
pub(crate) struct Peak(AtomicU64);

impl Peak {
    pub(crate) fn raise(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }

    pub(crate) fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// Upper ends of the buckets of every histogram, in seconds.
pub(crate) const BUCKETS: [f64; 18] =
    [0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0];

/// A histogram of seconds.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Histogram {
    pub(crate) fn observe(&self, seconds: f64) {
        if let Some((_, bucket)) = BUCKETS.iter().zip(&self.buckets).find(|(end, _)| seconds <= **end) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(loadline_base::num::f64_to_u64_trunc(seconds * 1e6), Ordering::Relaxed);
    }

    /// The cumulative buckets with their upper ends, the count, and the sum.
    pub(crate) fn read(&self) -> (Vec<(f64, u64)>, u64, f64) {
        let mut total = 0;
        let buckets = BUCKETS
            .iter()
            .zip(&self.buckets)
            .map(|(end, bucket)| {
                total += bucket.load(Ordering::Relaxed);
                (*end, total)
            })
            .collect();
        let sum = loadline_base::num::u64_to_f64(self.micros.load(Ordering::Relaxed)) / 1e6;
        (buckets, self.count.load(Ordering::Relaxed).max(total), sum)
    }
}

/// The counters of one model.
#[derive(Debug, Default)]
pub(crate) struct ModelMetrics {
    pub(crate) wakes: Counter,
    pub(crate) keepalives: Counter,
    pub(crate) cancelled: Counter,
    pub(crate) broken: Counter,
    pub(crate) timeouts: Counter,
    pub(crate) retries_refused: Counter,
    pub(crate) retries_reset: Counter,
    pub(crate) retries_unavailable: Counter,
    pub(crate) drops: [Counter; Reason::ALL.len()],
    pub(crate) queue_seconds: Histogram,
    pub(crate) first_byte_seconds: Histogram,
    pub(crate) request_seconds: Histogram,
    pub(crate) cold_start_seconds: Histogram,
    /// Our own time between a request read and its first attempt, without the time held.
    pub(crate) overhead_seconds: Histogram,
    pub(crate) peak: Peak,
}

impl ModelMetrics {
    pub(crate) fn dropped(&self, reason: Reason) {
        if let Some((_, counter)) = Reason::ALL.iter().zip(&self.drops).find(|(known, _)| **known == reason) {
            counter.add(1);
        }
    }

    pub(crate) fn retried(&self, failure: Failure) {
        match failure {
            Failure::Refused => self.retries_refused.add(1),
            Failure::Reset => self.retries_reset.add(1),
            Failure::Unavailable => self.retries_unavailable.add(1),
        }
    }

    /// Requests that ended with an error of the gateway.
    pub(crate) fn errors(&self) -> u64 {
        self.drops.iter().map(Counter::get).sum::<u64>() + self.timeouts.get() + self.broken.get()
    }
}

/// The counters of the gateway as a whole.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) connections: Counter,
    pub(crate) connections_closed: Counter,
    pub(crate) connections_refused: Counter,
    client_errors: Counter,
    server_errors: Counter,
}

impl Metrics {
    pub(crate) fn refused(&self, status: StatusCode) {
        if status.is_client_error() { &self.client_errors } else { &self.server_errors }.add(1);
    }

    /// Errors of the gateway: those laid to the client, and the others.
    pub(crate) fn errors(&self) -> (u64, u64) {
        (self.client_errors.get(), self.server_errors.get())
    }
}
