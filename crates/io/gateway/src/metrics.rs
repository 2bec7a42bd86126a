//! Counters, each reached without a lock or a look-up.

use http::StatusCode;
use loadline_hold::{Failure, Reason, Rejection};
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

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
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

/// What became of a request in the queue, in the endpoint picker's words (`reference/gateway.md` 3.1); one for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueOutcome {
    Dispatched,
    RejectedCapacity,
    RejectedNoEndpoints,
    RejectedOther,
    EvictedTtl,
    EvictedContextCancelled,
    EvictedOther,
}

impl QueueOutcome {
    pub(crate) const ALL: [Self; 7] = [
        Self::Dispatched,
        Self::RejectedCapacity,
        Self::RejectedNoEndpoints,
        Self::RejectedOther,
        Self::EvictedTtl,
        Self::EvictedContextCancelled,
        Self::EvictedOther,
    ];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Dispatched => "Dispatched",
            Self::RejectedCapacity => "RejectedCapacity",
            Self::RejectedNoEndpoints => "RejectedNoEndpoints",
            Self::RejectedOther => "RejectedOther",
            Self::EvictedTtl => "EvictedTTL",
            Self::EvictedContextCancelled => "EvictedContextCancelled",
            Self::EvictedOther => "EvictedOther",
        }
    }

    /// Of a request refused on arrival.
    pub(crate) const fn of_arrival(rejection: &Rejection) -> Self {
        match rejection.reason {
            Reason::QueueFull | Reason::SaturatedTimeout if !rejection.cold => Self::RejectedCapacity,
            Reason::QueueFull | Reason::SaturatedTimeout | Reason::ColdTimeout | Reason::NoCapacity => {
                Self::RejectedNoEndpoints
            }
            Reason::Draining | Reason::UpstreamReset => Self::RejectedOther,
        }
    }

    /// Of a request refused after it was held.
    pub(crate) const fn of_held(reason: Reason) -> Self {
        match reason {
            Reason::SaturatedTimeout | Reason::ColdTimeout => Self::EvictedTtl,
            Reason::QueueFull | Reason::NoCapacity | Reason::Draining | Reason::UpstreamReset => Self::EvictedOther,
        }
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
    queue_seconds: [Histogram; QueueOutcome::ALL.len()],
    /// Answers that are not streamed, and those that are.
    pub(crate) first_byte_seconds: [Histogram; 2],
    pub(crate) request_seconds: Histogram,
    pub(crate) cold_start_seconds: Histogram,
    /// Our own time between a request read and its first attempt, without the time held.
    pub(crate) overhead_seconds: Histogram,
    pub(crate) peak: Peak,
}

impl ModelMetrics {
    /// The times held of requests with this outcome.
    pub(crate) const fn queue(&self, outcome: QueueOutcome) -> &Histogram {
        let [dispatched, full, no_endpoints, refused, ttl, cancelled, other] = &self.queue_seconds;
        match outcome {
            QueueOutcome::Dispatched => dispatched,
            QueueOutcome::RejectedCapacity => full,
            QueueOutcome::RejectedNoEndpoints => no_endpoints,
            QueueOutcome::RejectedOther => refused,
            QueueOutcome::EvictedTtl => ttl,
            QueueOutcome::EvictedContextCancelled => cancelled,
            QueueOutcome::EvictedOther => other,
        }
    }

    /// The times to the head of answers that are streamed, or of those that are not.
    pub(crate) const fn first_byte(&self, streamed: bool) -> &Histogram {
        let [whole, chunks] = &self.first_byte_seconds;
        if streamed { chunks } else { whole }
    }

    /// Requests that ended with an error of the gateway, by the endpoint picker's `error_code`.
    pub(crate) fn errors(&self) -> [(&'static str, u64); 3] {
        let drops = |reasons: &[Reason]| -> u64 {
            let known = Reason::ALL.iter().zip(&self.drops).filter(|(reason, _)| reasons.contains(reason));
            known.map(|(_, counter)| counter.get()).sum()
        };
        [
            ("InferencePoolResourceExhausted", drops(&[Reason::QueueFull, Reason::SaturatedTimeout])),
            ("ServiceUnavailable", drops(&[Reason::ColdTimeout, Reason::NoCapacity, Reason::Draining])),
            ("ModelServerError", drops(&[Reason::UpstreamReset]) + self.timeouts.get() + self.broken.get()),
        ]
    }

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
