//! What the demo found, as tables and as one JSON object.

use crate::demo::screen::clock_text;
use crate::stack::Snapshot;
use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use loadline_base::{Timestamp, num};
use loadline_load::{Quantiles, Report};
use serde::Serialize;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

/// One change of the number of wanted replicas.
#[derive(Debug, Clone, Serialize)]
struct Change {
    /// Seconds of workload time since the start.
    time: f64,
    from: u32,
    to: u32,
    reason: String,
}

/// The result.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    report: Report,
    replica_time: Duration,
    static_time: Duration,
    max_replicas: usize,
    changes: Vec<Change>,
    is_at_zero: bool,
    violations: Vec<(String, u64)>,
}

/// The object of `-o json`; times in seconds of workload time.
#[derive(Serialize)]
struct Json<'a> {
    sent: u64,
    answered: u64,
    failed: u64,
    attainment: Option<f64>,
    attainment_ttft: Option<f64>,
    attainment_tpot: Option<f64>,
    ttft_p50: Option<f64>,
    ttft_p95: Option<f64>,
    ttft_p99: Option<f64>,
    tpot_p50: Option<f64>,
    tpot_p95: Option<f64>,
    tpot_p99: Option<f64>,
    e2e_p50: Option<f64>,
    e2e_p95: Option<f64>,
    e2e_p99: Option<f64>,
    replica_seconds: f64,
    static_replica_seconds: f64,
    max_replicas: usize,
    ended_at_zero: bool,
    scale_events: &'a [Change],
    law_violations: u64,
    failures: &'a std::collections::BTreeMap<String, loadline_load::FailureCount>,
}

impl Outcome {
    /// Gathers it.
    pub(crate) fn new(
        report: Report,
        snapshot: &Snapshot,
        gateway_violations: [u64; 3],
        started: Timestamp,
        now: Timestamp,
    ) -> Self {
        let peak = u32::try_from(snapshot.most_replicas).unwrap_or(u32::MAX);
        let mut violations: Vec<(String, u64)> =
            snapshot.violations.iter().map(|(law, count)| (law.clone(), *count)).collect();
        for (law, count) in ["L5", "L6", "L7"].into_iter().zip(gateway_violations) {
            if count > 0 {
                violations.push((law.to_owned(), count));
            }
        }
        Self {
            replica_time: snapshot.replica_time,
            static_time: num::duration_from_secs(report.duration).min(now.since(started)).saturating_mul(peak),
            max_replicas: snapshot.most_replicas,
            changes: snapshot
                .scaled
                .iter()
                .map(|event| Change {
                    time: event.at.since(started).as_secs_f64(),
                    from: event.from,
                    to: event.to,
                    reason: event.reason.clone(),
                })
                .collect(),
            is_at_zero: snapshot.live_replicas == 0,
            violations,
            report,
        }
    }

    fn violation_total(&self) -> u64 {
        self.violations.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// 0 if every request was answered, the pool came back to zero and no law was broken.
    pub(crate) fn exit_code(&self) -> ExitCode {
        let is_good =
            self.report.failed == 0 && self.report.unfinished == 0 && self.violation_total() == 0 && self.is_at_zero;
        if is_good { ExitCode::SUCCESS } else { ExitCode::from(1) }
    }

    /// What went wrong, in one line, for those who asked for JSON or look only at the last line.
    pub(crate) fn complaint(&self) -> Option<String> {
        let mut faults = Vec::new();
        if self.violation_total() > 0 {
            let laws: Vec<String> = self.violations.iter().map(|(law, count)| format!("{law} {count} times")).collect();
            faults.push(format!("broken laws: {}; this is a defect of Loadline: please report it", laws.join(", ")));
        }
        if self.report.failed > 0 {
            faults.push(format!("{} requests failed", self.report.failed));
        }
        if self.report.unfinished > 0 {
            faults.push(format!("{} requests were not finished", self.report.unfinished));
        }
        if !self.is_at_zero {
            faults.push("replicas were still there at the end".to_owned());
        }
        (!faults.is_empty()).then(|| format!("demo failed: {}", faults.join("; ")))
    }

    /// One JSON object.
    pub(crate) fn json(&self) -> Result<String> {
        let report = &self.report;
        let object = Json {
            sent: report.sent,
            answered: report.answered,
            failed: report.failed,
            attainment: report.attainment,
            attainment_ttft: report.attainment_ttft,
            attainment_tpot: report.attainment_tpot,
            ttft_p50: report.ttft.p50,
            ttft_p95: report.ttft.p95,
            ttft_p99: report.ttft.p99,
            tpot_p50: report.tpot.p50,
            tpot_p95: report.tpot.p95,
            tpot_p99: report.tpot.p99,
            e2e_p50: report.e2e.p50,
            e2e_p95: report.e2e.p95,
            e2e_p99: report.e2e.p99,
            replica_seconds: self.replica_time.as_secs_f64(),
            static_replica_seconds: self.static_time.as_secs_f64(),
            max_replicas: self.max_replicas,
            ended_at_zero: self.is_at_zero,
            scale_events: &self.changes,
            law_violations: self.violation_total(),
            failures: &report.failures,
        };
        Ok(serde_json::to_string_pretty(&object)?)
    }

    /// Tables and a verdict.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let report = &self.report;
        let mut changes = Table::new();
        changes.load_style(presets::NOTHING).set_header(["time", "replicas", "why"]);
        for change in &self.changes {
            let at = clock_text(num::duration_from_secs(change.time));
            changes.add_row([at, format!("{} -> {}", change.from, change.to), change.reason.clone()]);
        }
        let mut latencies = Table::new();
        latencies.load_style(presets::NOTHING).set_header(["seconds", "p50", "p95", "p99"]);
        for (name, quantiles) in [("TTFT", &report.ttft), ("TPOT", &report.tpot), ("E2E", &report.e2e)] {
            latencies.add_row(row(name, quantiles));
        }
        for column in latencies.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let percent =
            |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0));
        let saved = 1.0 - self.replica_time.as_secs_f64() / self.static_time.as_secs_f64().max(f64::MIN_POSITIVE);
        let _ = writeln!(text, "{changes}\n\n{latencies}\n");
        let _ = writeln!(
            text,
            "requests         {} sent, {} answered, {} failed",
            report.sent, report.answered, report.failed
        );
        let _ = writeln!(
            text,
            "SLO attainment   {} (TTFT {}, TPOT {})",
            percent(report.attainment),
            percent(report.attainment_ttft),
            percent(report.attainment_tpot)
        );
        let _ = writeln!(
            text,
            "replica-seconds  {:.0}, against {:.0} of a static pool of {} replicas ({:.0} % saved)",
            self.replica_time.as_secs_f64(),
            self.static_time.as_secs_f64(),
            self.max_replicas,
            saved * 100.0
        );
        for (reason, failure) in &report.failures {
            let _ = writeln!(text, "FAILED           {} times {reason}: {}", failure.count, failure.example);
        }
        if !self.is_at_zero {
            let _ = writeln!(text, "NOT AT ZERO      replicas were still there at the end");
        }
        for (law, count) in &self.violations {
            let _ =
                writeln!(text, "LAW BROKEN       {law}, {count} times; this is a defect of Loadline: please report it");
        }
        text.trim_end().to_owned()
    }
}

fn row(name: &str, quantiles: &Quantiles) -> [String; 4] {
    let seconds = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
    [name.to_owned(), seconds(quantiles.p50), seconds(quantiles.p95), seconds(quantiles.p99)]
}
