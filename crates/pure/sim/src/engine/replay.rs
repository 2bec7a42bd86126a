//! The model against a recorded run of the real engine.
#![expect(clippy::disallowed_methods, reason = "the recording lies beside the repository")]
#![expect(clippy::disallowed_macros, reason = "figures and skips are said aloud")]

use super::*;
use crate::profile::Profile;
use loadline_base::num;

/// Greatest error of every latency figure, in percent.
const LATENCY_ERROR: f64 = 5.0;
/// Greatest mean absolute error of the running gauge.
const RUNNING_ERROR: f64 = 2.0;
/// Greatest mean absolute error of KV utilization, in percentage points.
const KV_ERROR: f64 = 5.0;

/// The gauges' clock is this far ahead of the requests': the shift at which the recorded arrivals and ends agree best
/// with the recorded running + waiting (0.3 requests mean difference).
const CLOCK_SHIFT: f64 = 0.25;

fn table(kind: &str) -> Option<Vec<Vec<f64>>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../..");
    let shared = std::env::var("LOADLINE_SHARED").unwrap_or_else(|_| format!("{root}/../shared"));
    let path = format!("{shared}/traces/real-vllm-runs/llama31-8b_rtx4090_tp1.{kind}.csv");
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("SKIPPED: `{path}` is not there");
        return None;
    };
    Some(text.lines().skip(1).map(|line| line.split(',').map(|field| field.parse().unwrap()).collect()).collect())
}

fn seconds(value: f64) -> Timestamp {
    Timestamp::ZERO.plus(num::duration_from_secs(value))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / num::usize_to_f64(values.len())
}

fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (below, rest) = ((sorted.len() - 1) * percent / 100, (sorted.len() - 1) * percent % 100);
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * num::usize_to_f64(rest) / 100.0
}

/// One figure per request.
struct Figure {
    name: &'static str,
    simulated: fn(&Timing) -> f64,
    measured: fn(&[f64]) -> f64,
}

/// The run saturates the KV cache and preempts: the best single test of the scheduling rules. Nothing is calibrated.
#[test]
fn replays_a_saturated_vllm_run() {
    let (Some(rows), Some(series)) = (table("requests"), table("timeseries")) else { return };
    let profile = Profile::find("rtx4090/llama-3.1-8b/tp1").unwrap();
    let make = EngineConfig { max_num_seqs: 256, ..EngineConfig::from_profile(profile) };
    let mut engine = Engine::new(make, 1, Timestamp::ZERO).unwrap();
    let mut done = Vec::new();
    let mut note = |_: Timestamp, event: Event| {
        if let Event::Finished { timing, .. } = event {
            done.push(timing);
        }
    };
    let (mut running, mut kv) = (Vec::new(), Vec::new());
    let mut rest = rows.iter().peekable();
    for second in &series {
        let now = second[0] - CLOCK_SHIFT;
        while let Some(row) = rest.next_if(|row| row[1] <= now) {
            engine.advance(seconds(row[1]), &mut note);
            let (input_tokens, output_tokens) = (num::f64_to_u32_trunc(row[2]), num::f64_to_u32_trunc(row[3]));
            let request = Request { input_tokens, output_tokens, ..Request::default() };
            engine.submit(seconds(row[1]), request).unwrap();
        }
        engine.advance(seconds(now), &mut note);
        let gauges = engine.gauges();
        running.push((num::usize_to_f64(gauges.running) - second[3]).abs());
        kv.push((gauges.kv_utilization() * 100.0 - second[5]).abs());
    }
    while let Some(next) = engine.next_event() {
        engine.advance(next, &mut note);
    }
    assert_eq!(done.len(), rows.len());
    eprintln!("preemptions {}", engine.counters().preemptions);
    let mut worst: f64 = 0.0;
    for figure in [
        Figure { name: "TTFT", simulated: Timing::ttft_seconds, measured: |row| row[7] - row[1] },
        Figure {
            name: "TPOT",
            simulated: |timing| timing.tpot_seconds().unwrap(),
            measured: |row| (row[8] - row[7]) / (row[3] - 1.0),
        },
        Figure { name: "E2E", simulated: Timing::e2e_seconds, measured: |row| row[8] - row[1] },
    ] {
        let ours: Vec<f64> = done.iter().map(figure.simulated).collect();
        let real: Vec<f64> = rows.iter().map(|row| (figure.measured)(row)).collect();
        let mut compare = |label: &str, ours: f64, real: f64| {
            let error = (ours / real - 1.0) * 100.0;
            eprintln!("{} {label}: {ours:.4} s, measured {real:.4} s, {error:+.1} %", figure.name);
            worst = worst.max(error.abs());
        };
        compare("mean", mean(&ours), mean(&real));
        for percent in [50, 90, 99] {
            compare(&format!("p{percent}"), percentile(&ours, percent), percentile(&real, percent));
        }
    }
    assert!(worst <= LATENCY_ERROR, "worst latency error {worst:.1} %");
    let (running, kv) = (mean(&running), mean(&kv));
    eprintln!("mean absolute error: running {running:.2}, KV {kv:.2} points");
    assert!(running <= RUNNING_ERROR && kv <= KV_ERROR, "running {running:.2}, KV {kv:.2}");
}
