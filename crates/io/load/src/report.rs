//! What a run found.

use crate::client::{Answer, Failure};
use crate::histogram::{Latencies, Quantiles};
use loadline_base::num;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::time::Duration;

/// A latency objective, in model time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slo {
    /// Greatest time to the first token.
    pub ttft: Duration,
    /// Greatest mean time per further token.
    pub tpot: Duration,
}

impl Default for Slo {
    /// MLPerf inference's server objective for Llama 3.1 8B: 2 s and 100 ms.
    fn default() -> Self {
        Self { ttft: Duration::from_secs(2), tpot: Duration::from_millis(100) }
    }
}

/// Requests that failed in one way.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct FailureCount {
    /// How many.
    pub count: u64,
    /// What the first one said.
    pub example: String,
}

/// One request, in seconds of model time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// When it was due, from the start of the run.
    pub due: f64,
    /// Prompt tokens asked for.
    pub input_tokens: u32,
    /// Answer tokens asked for.
    pub requested_tokens: u32,
    /// Answer tokens received.
    pub output_tokens: u64,
    /// From due to the first token.
    pub ttft: Option<f64>,
    /// Mean time per token after the first; absent for single tokens.
    pub tpot: Option<f64>,
    /// From due to the last token.
    pub e2e: Option<f64>,
    /// Time in a gateway's queue, where it said so.
    pub queued: Option<f64>,
    /// How late the client was to send it, in wall time.
    pub lateness: f64,
    /// `ok`, `unfinished`, or the name of the failure.
    pub outcome: String,
}

/// What a run found. Latencies in seconds of model time, counted from when a request was due.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Requests whose time came: answered, failed and unfinished.
    pub sent: u64,
    /// Requests answered whole.
    pub answered: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests cut off by the end of the run.
    pub unfinished: u64,
    /// Answered requests with fewer tokens than asked for.
    pub short: u64,
    /// Failures by name.
    pub failures: BTreeMap<String, FailureCount>,
    /// The objective in force.
    pub slo: Slo,
    /// Share of all sent requests that met both parts; absent when none was sent.
    pub attainment: Option<f64>,
    /// Share of all sent requests that met the first-token part.
    pub attainment_ttft: Option<f64>,
    /// Share of all sent requests that met the per-token part.
    pub attainment_tpot: Option<f64>,
    /// Time to the first token.
    pub ttft: Quantiles,
    /// Time per token after the first.
    pub tpot: Quantiles,
    /// Time to the last token.
    pub e2e: Quantiles,
    /// Time queued in a gateway, for the answers that said so.
    pub queued: Quantiles,
    /// How late the client sent, in seconds of wall time: its own share of the latencies.
    pub lateness: Quantiles,
    /// Length of the run in seconds of model time.
    pub duration: f64,
    /// Prompt tokens of answered requests, as asked for.
    pub input_tokens: u64,
    /// Answer tokens received whole.
    pub output_tokens: u64,
    /// Requests sent again.
    pub retries: u64,
    /// Keep-alive comments received.
    pub comments: u64,
    /// Single requests, as many as [`crate::Options::max_records`] allows, in the order they ended.
    pub records: Vec<Record>,
}

impl Report {
    fn per_second(&self, count: f64) -> f64 {
        if self.duration > 0.0 { count / self.duration } else { 0.0 }
    }

    /// Answered requests per second of model time.
    #[must_use]
    pub fn requests_per_second(&self) -> f64 {
        self.per_second(num::u64_to_f64(self.answered))
    }

    /// Answer tokens per second of model time.
    #[must_use]
    pub fn tokens_per_second(&self) -> f64 {
        self.per_second(num::u64_to_f64(self.output_tokens))
    }

    /// Requests per second of model time that met the objective.
    #[must_use]
    pub fn goodput(&self) -> f64 {
        self.per_second(self.attainment.unwrap_or(0.0) * num::u64_to_f64(self.sent))
    }
}

impl Serialize for Report {
    /// One flat object; quantiles as `ttft_p95` and so on, null where nothing was measured; `records` only if some were kept.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, count) in [
            ("sent", self.sent),
            ("answered", self.answered),
            ("failed", self.failed),
            ("unfinished", self.unfinished),
            ("short", self.short),
        ] {
            map.serialize_entry(name, &count)?;
        }
        map.serialize_entry("failures", &self.failures)?;
        map.serialize_entry("slo_ttft", &self.slo.ttft.as_secs_f64())?;
        map.serialize_entry("slo_tpot", &self.slo.tpot.as_secs_f64())?;
        map.serialize_entry("attainment", &self.attainment)?;
        map.serialize_entry("attainment_ttft", &self.attainment_ttft)?;
        map.serialize_entry("attainment_tpot", &self.attainment_tpot)?;
        for (name, quantiles) in [
            ("ttft", self.ttft),
            ("tpot", self.tpot),
            ("e2e", self.e2e),
            ("queued", self.queued),
            ("client_lateness", self.lateness),
        ] {
            for (part, value) in [
                ("p50", quantiles.p50),
                ("p95", quantiles.p95),
                ("p99", quantiles.p99),
                ("max", quantiles.max),
                ("mean", quantiles.mean),
            ] {
                map.serialize_entry(&format!("{name}_{part}"), &value)?;
            }
        }
        map.serialize_entry("duration", &self.duration)?;
        map.serialize_entry("requests_per_second", &self.requests_per_second())?;
        map.serialize_entry("output_tokens_per_second", &self.tokens_per_second())?;
        map.serialize_entry("goodput", &self.goodput())?;
        for (name, count) in [
            ("input_tokens", self.input_tokens),
            ("output_tokens", self.output_tokens),
            ("retries", self.retries),
            ("keep_alive_comments", self.comments),
        ] {
            map.serialize_entry(name, &count)?;
        }
        if !self.records.is_empty() {
            map.serialize_entry("records", &self.records)?;
        }
        map.end()
    }
}

/// How a request ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answered(Answer),
    Failed(Failure),
    Unfinished,
}

/// One ended request with what is needed to judge it. Times in model time except lateness.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) due: Duration,
    pub(crate) input_tokens: u32,
    pub(crate) requested_tokens: u32,
    pub(crate) lateness: Duration,
    pub(crate) retries: u64,
    /// From due to the first and the last token; zero unless answered.
    pub(crate) ttft: Duration,
    pub(crate) e2e: Duration,
    pub(crate) outcome: Outcome,
}

/// Gathers ended requests.
#[derive(Debug)]
pub(crate) struct Collector {
    slo: Slo,
    max_records: usize,
    met: [u64; 3],
    ttft: Latencies,
    tpot: Latencies,
    e2e: Latencies,
    queued: Latencies,
    lateness: Latencies,
    report: Report,
}

impl Collector {
    pub(crate) fn new(slo: Slo, max_records: usize) -> Self {
        let none = Quantiles::default();
        let report = Report {
            sent: 0,
            answered: 0,
            failed: 0,
            unfinished: 0,
            short: 0,
            failures: BTreeMap::new(),
            slo,
            attainment: None,
            attainment_ttft: None,
            attainment_tpot: None,
            ttft: none,
            tpot: none,
            e2e: none,
            queued: none,
            lateness: none,
            duration: 0.0,
            input_tokens: 0,
            output_tokens: 0,
            retries: 0,
            comments: 0,
            records: Vec::new(),
        };
        let new = Latencies::new;
        Self {
            slo,
            max_records,
            met: [0; 3],
            ttft: new(),
            tpot: new(),
            e2e: new(),
            queued: new(),
            lateness: new(),
            report,
        }
    }

    pub(crate) fn add(&mut self, ended: &Ended) {
        let report = &mut self.report;
        report.sent += 1;
        report.retries += ended.retries;
        self.lateness.record(ended.lateness);
        let mut record = Record {
            due: ended.due.as_secs_f64(),
            input_tokens: ended.input_tokens,
            requested_tokens: ended.requested_tokens,
            output_tokens: 0,
            ttft: None,
            tpot: None,
            e2e: None,
            queued: None,
            lateness: ended.lateness.as_secs_f64(),
            outcome: "ok".to_owned(),
        };
        match &ended.outcome {
            Outcome::Answered(answer) => {
                report.answered += 1;
                report.short += u64::from(answer.tokens < u64::from(ended.requested_tokens));
                report.input_tokens += u64::from(ended.input_tokens);
                report.output_tokens += answer.tokens;
                report.comments += answer.comments;
                let tpot = per_token(ended, answer.tokens);
                self.ttft.record(ended.ttft);
                self.e2e.record(ended.e2e);
                if let Some(tpot) = tpot {
                    self.tpot.record(tpot);
                }
                if let Some(queued) = answer.queued {
                    self.queued.record(queued);
                }
                let (first, rest) = (ended.ttft <= self.slo.ttft, tpot.is_none_or(|tpot| tpot <= self.slo.tpot));
                for (count, met) in self.met.iter_mut().zip([first && rest, first, rest]) {
                    *count += u64::from(met);
                }
                record.output_tokens = answer.tokens;
                record.ttft = Some(ended.ttft.as_secs_f64());
                record.tpot = tpot.map(|tpot| tpot.as_secs_f64());
                record.e2e = Some(ended.e2e.as_secs_f64());
                record.queued = answer.queued.map(|queued| queued.as_secs_f64());
            }
            Outcome::Failed(failure) => {
                report.failed += 1;
                record.outcome = failure.reason.name();
                let entry = report.failures.entry(failure.reason.name()).or_default();
                if entry.count == 0 {
                    entry.example.clone_from(&failure.message);
                }
                entry.count += 1;
            }
            Outcome::Unfinished => {
                report.unfinished += 1;
                "unfinished".clone_into(&mut record.outcome);
            }
        }
        if report.records.len() < self.max_records {
            report.records.push(record);
        }
    }

    pub(crate) fn finish(&mut self, duration: Duration) -> Report {
        let mut report = self.report.clone();
        let share = |met: u64| (report.sent > 0).then(|| num::u64_to_f64(met) / num::u64_to_f64(report.sent));
        let [joint, first, rest] = self.met.map(share);
        (report.attainment, report.attainment_ttft, report.attainment_tpot) = (joint, first, rest);
        report.ttft = self.ttft.quantiles();
        report.tpot = self.tpot.quantiles();
        report.e2e = self.e2e.quantiles();
        report.queued = self.queued.quantiles();
        report.lateness = self.lateness.quantiles();
        report.duration = duration.as_secs_f64();
        report
    }
}

/// (last - first token) / (tokens - 1); absent for a single token.
fn per_token(ended: &Ended, tokens: u64) -> Option<Duration> {
    let gaps = tokens.checked_sub(1).filter(|gaps| *gaps > 0)?;
    let span = ended.e2e.saturating_sub(ended.ttft);
    Some(Duration::from_nanos(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX) / gaps))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Reason;
    use tokio::time::Instant;

    fn ended(ttft_ms: u64, e2e_ms: u64, tokens: u64) -> Ended {
        let now = Instant::now();
        Ended {
            due: Duration::from_secs(1),
            input_tokens: 10,
            requested_tokens: 11,
            lateness: Duration::from_millis(1),
            retries: 0,
            ttft: Duration::from_millis(ttft_ms),
            e2e: Duration::from_millis(e2e_ms),
            outcome: Outcome::Answered(Answer { first: now, last: now, tokens, comments: 0, queued: None }),
        }
    }

    #[test]
    fn failed_and_unfinished_requests_are_misses() {
        let slo = Slo { ttft: Duration::from_millis(500), tpot: Duration::from_millis(50) };
        let mut collector = Collector::new(slo, 3);
        collector.add(&ended(500, 1000, 11)); // 50 ms a token: both met, at their very bounds
        collector.add(&ended(501, 1001, 11)); // first token late
        collector.add(&ended(100, 1110, 11)); // 101 ms a token
        collector.add(&ended(100, 100, 1)); // a single token has no second part
        collector.add(&Ended { outcome: Outcome::Failed(Failure::new(Reason::Status(503), "no")), ..ended(0, 0, 0) });
        collector
            .add(&Ended { outcome: Outcome::Failed(Failure::new(Reason::Status(503), "later")), ..ended(0, 0, 0) });
        collector.add(&Ended { outcome: Outcome::Failed(Failure::new(Reason::Timeout, "slow")), ..ended(0, 0, 0) });
        collector.add(&Ended { outcome: Outcome::Unfinished, ..ended(0, 0, 0) });
        let report = collector.finish(Duration::from_secs(2));
        assert_eq!((report.sent, report.answered, report.failed, report.unfinished, report.short), (8, 4, 3, 1, 1));
        assert_eq!(report.attainment, Some(2.0 / 8.0));
        assert_eq!(report.attainment_ttft, Some(3.0 / 8.0));
        assert_eq!(report.attainment_tpot, Some(3.0 / 8.0));
        assert_eq!(report.failures["status_503"], FailureCount { count: 2, example: "no".to_owned() });
        assert_eq!(report.failures["timeout"].count, 1);
        assert_eq!(report.records.len(), 3);
        assert_eq!((report.requests_per_second(), report.tokens_per_second(), report.goodput()), (2.0, 17.0, 1.0));
        let json = serde_json::to_value(&report).expect("serialisable");
        assert_eq!(json["attainment"], 0.25);
        assert!((json["tpot_p95"].as_f64().expect("measured") - 0.101).abs() < 0.001);
        assert_eq!(json["queued_p95"], serde_json::Value::Null);
        assert_eq!(json["records"][0]["outcome"], "ok");
    }

    #[test]
    fn an_empty_run_has_no_attainment() {
        let report = Collector::new(Slo::default(), 0).finish(Duration::ZERO);
        assert_eq!((report.attainment, report.requests_per_second()), (None, 0.0));
    }
}
