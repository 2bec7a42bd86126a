//! The server's own counters.

use http::StatusCode;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the latency histogram, in seconds.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];
/// The codes that are counted apart; the last place counts all others.
const CODES: [u16; 13] = [200, 304, 400, 401, 403, 404, 405, 406, 429, 500, 503, 504, 0];

/// What a request was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Custom,
    External,
    Discovery,
    Health,
    Other,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Custom, Self::External, Self::Discovery, Self::Health, Self::Other];

    const fn name(self) -> &'static str {
        match self {
            Self::Custom => "custom",
            Self::External => "external",
            Self::Discovery => "discovery",
            Self::Health => "health",
            Self::Other => "other",
        }
    }
}

#[derive(Default)]
struct OfKind {
    codes: [AtomicU64; CODES.len()],
    buckets: [AtomicU64; BUCKETS.len()],
    nanos: AtomicU64,
}

/// Counters of the server; reading and counting never wait.
#[derive(Default)]
pub(crate) struct Meter {
    kinds: [OfKind; Kind::ALL.len()],
    /// Connections accepted.
    pub(crate) connections: AtomicU64,
    /// Handshakes that failed or took too long.
    pub(crate) handshakes_failed: AtomicU64,
    /// Requests whose access or token review gave no answer.
    pub(crate) reviews_failed: AtomicU64,
}

impl Meter {
    /// Counts one up.
    pub(crate) fn up(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one reply.
    pub(crate) fn reply(&self, kind: Kind, code: StatusCode, took: Duration) {
        let Some(of) = Kind::ALL.iter().position(|known| *known == kind).and_then(|at| self.kinds.get(at)) else {
            return;
        };
        let place = CODES.iter().position(|known| *known == code.as_u16()).unwrap_or(CODES.len() - 1);
        if let Some(counter) = of.codes.get(place) {
            Self::up(counter);
        }
        of.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let seconds = took.as_secs_f64();
        if let Some(counter) = BUCKETS.iter().position(|bound| seconds <= *bound).and_then(|at| of.buckets.get(at)) {
            Self::up(counter);
        }
    }

    /// In the Prometheus text format.
    pub(crate) fn exposition(&self) -> String {
        let mut text = String::with_capacity(8192);
        // writing to a String cannot fail
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let name = "loadline_metricsapi_requests_total";
        writeln!(
            text,
            "# HELP {name} Replies of the metrics APIs by what was asked and status code.\n# TYPE {name} counter"
        )?;
        for (kind, of) in Kind::ALL.iter().zip(&self.kinds) {
            for (code, counter) in CODES.iter().zip(&of.codes) {
                let count = counter.load(Ordering::Relaxed);
                let code = if *code == 0 { "other".to_owned() } else { code.to_string() };
                if count > 0 {
                    writeln!(text, "{name}{{kind=\"{}\",code=\"{code}\"}} {count}", kind.name())?;
                }
            }
        }
        let name = "loadline_metricsapi_request_duration_seconds";
        writeln!(text, "# HELP {name} Time from a request's head to its reply.\n# TYPE {name} histogram")?;
        for (kind, of) in Kind::ALL.iter().zip(&self.kinds) {
            let kind = kind.name();
            let mut sum = 0_u64;
            for (bound, counter) in BUCKETS.iter().zip(&of.buckets) {
                sum = sum.saturating_add(counter.load(Ordering::Relaxed));
                writeln!(text, "{name}_bucket{{kind=\"{kind}\",le=\"{bound}\"}} {sum}")?;
            }
            let count: u64 = of.codes.iter().map(|counter| counter.load(Ordering::Relaxed)).sum();
            // a reply counted between the two reads would make the last bucket smaller than the one before
            let count = count.max(sum);
            writeln!(text, "{name}_bucket{{kind=\"{kind}\",le=\"+Inf\"}} {count}")?;
            let seconds = Duration::from_nanos(of.nanos.load(Ordering::Relaxed)).as_secs_f64();
            writeln!(text, "{name}_sum{{kind=\"{kind}\"}} {seconds}\n{name}_count{{kind=\"{kind}\"}} {count}")?;
        }
        for (name, help, counter) in [
            ("loadline_metricsapi_connections_total", "Connections accepted by the metrics APIs.", &self.connections),
            (
                "loadline_metricsapi_handshake_failures_total",
                "TLS handshakes of the metrics APIs that failed or took too long.",
                &self.handshakes_failed,
            ),
            (
                "loadline_metricsapi_review_failures_total",
                "Requests refused because their access or token review gave no answer.",
                &self.reviews_failed,
            ),
        ] {
            let count = counter.load(Ordering::Relaxed);
            writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {count}")?;
        }
        Ok(())
    }
}
