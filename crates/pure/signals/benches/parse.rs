//! Speed and allocations of the exposition parser: one `name<TAB>value` line per figure.

use loadline_signals::exposition::{Line, Options, WantedNames, scan};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::hint::black_box;
use std::io::Write;
use std::time::Duration;
#[expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How long each batch runs; the fastest of [`BATCHES`] counts, because other work on the machine only ever slows a batch down.
const BATCH: Duration = Duration::from_millis(100);
const BATCHES: usize = 15;

/// Twenty families that the decision core reads of a vLLM page.
const WANTED: [&str; 20] = [
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:num_preemptions_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:gpu_prefix_cache_queries_total",
    "vllm:gpu_prefix_cache_hits_total",
    "vllm:cache_config_info",
    "vllm:request_success_total",
    "vllm:iteration_tokens_total",
    "vllm:engine_sleep_state",
    "vllm:num_requests_waiting_by_reason",
    "vllm:estimated_flops_per_gpu_total",
    "vllm:lora_requests_info",
    "process_start_time_seconds",
    "vllm:corrupted_requests_total",
];

#[expect(clippy::disallowed_methods, reason = "the page is a file of the repository")]
fn main() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../testdata/metrics/vllm-0.32.0-load.prom");
    let page = std::fs::read(path).unwrap_or_default();
    assert!(!page.is_empty(), "cannot read `{path}`");
    let text = String::from_utf8_lossy(&page).into_owned();
    let twenty = WantedNames::families(WANTED);
    let none = WantedNames::exact(["no_such_name"]);
    let all = WantedNames::all();
    for (name, wanted) in [("wanted20", &twenty), ("none", &none), ("all", &all)] {
        let seconds = fastest(|| {
            black_box(values(black_box(&page), wanted));
        });
        figure(&format!("{name}_mb_per_s"), megabytes_per_second(page.len(), seconds));
        figure(&format!("{name}_us_per_page"), seconds * 1e6);
        figure(&format!("{name}_samples"), count(values(&page, wanted).0));
        let region = Region::new(ALLOCATOR);
        black_box(values(&page, wanted));
        figure(&format!("{name}_allocations"), count(region.change().allocations));
    }
    let seconds = fastest(|| {
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        black_box(prometheus_parse::Scrape::parse(lines).map(|scrape| scrape.samples.len()).unwrap_or_default());
    });
    figure("prometheus_parse_mb_per_s", megabytes_per_second(page.len(), seconds));
}

/// Number and sum of the samples, with every label touched.
fn values(page: &[u8], wanted: &WantedNames) -> (usize, f64) {
    let mut seen = (0, 0.0);
    let outcome = scan(page, wanted, &Options::default(), |line| {
        if let Line::Sample(sample) = line {
            seen = (seen.0 + 1, seen.1 + sample.value);
            black_box(sample.labels.raw());
        }
    });
    assert!(outcome.is_ok(), "the page is a real capture: {outcome:?}");
    seen
}

/// Seconds per call in the fastest batch.
#[expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
fn fastest(mut call: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..BATCHES {
        let begin = Instant::now();
        let mut calls = 0_u32;
        while begin.elapsed() < BATCH {
            call();
            calls += 1;
        }
        best = best.min(begin.elapsed().as_secs_f64() / f64::from(calls));
    }
    best
}

fn megabytes_per_second(bytes: usize, seconds: f64) -> f64 {
    count(bytes) / seconds / 1e6
}

fn count(value: usize) -> f64 {
    loadline_base::num::usize_to_f64(value)
}

fn figure(name: &str, value: f64) {
    let written = writeln!(std::io::stdout(), "{name}\t{value}");
    assert!(written.is_ok(), "standard output is closed");
}
