//! Speed and allocations of the exposition parser: one `name<TAB>value` line per figure.
//!
//! With the address of an HTTP server as argument, the CPU time of fetching a page from it and reading its signals instead.

use loadline_signals::dialect;
use loadline_signals::exposition::{Limits, Line, Options, WantedNames, scan};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
#[expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How long one batch of one contestant runs. The contestants take turns, so that other work on the machine meets all of them alike.
const BATCH: Duration = Duration::from_millis(20);
/// How many turns each contestant has.
const TURNS: usize = 40;
/// How often the page is fetched for the CPU time of a whole scrape.
const SCRAPES: u32 = 4_000;

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

/// One way to read the page.
struct Contestant<'a> {
    name: &'static str,
    read: Box<dyn Fn() -> usize + 'a>,
}

#[expect(clippy::disallowed_methods, reason = "the page is a file of the repository")]
fn main() {
    if let Some(address) = std::env::args().find_map(|arg| arg.parse().ok()) {
        return figure("scrape_cpu_us", scrape_cpu_micros(address).unwrap_or(f64::NAN));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../testdata/metrics/vllm-0.32.0-load.prom");
    let page = std::fs::read(path).unwrap_or_default();
    assert!(!page.is_empty(), "cannot read `{path}`");
    let text = String::from_utf8_lossy(&page).into_owned();
    let twenty = WantedNames::families(WANTED);
    let none = WantedNames::exact(["no_such_name"]);
    let all = WantedNames::all();
    let contestants = [
        Contestant { name: "wanted20", read: Box::new(|| samples(&page, &twenty)) },
        Contestant { name: "none", read: Box::new(|| samples(&page, &none)) },
        Contestant { name: "all", read: Box::new(|| samples(&page, &all)) },
        Contestant { name: "dialect", read: Box::new(|| signals(&page)) },
        Contestant { name: "prometheus_parse", read: Box::new(|| theirs(&text)) },
    ];
    let mut times: Vec<Vec<f64>> = contestants.iter().map(|_| Vec::new()).collect();
    for _ in 0..TURNS {
        for (contestant, times) in contestants.iter().zip(&mut times) {
            times.push(batch(&contestant.read));
        }
    }
    for (contestant, mut times) in contestants.iter().zip(times) {
        times.sort_by(f64::total_cmp);
        let name = contestant.name;
        let (best, median) = (times.first().copied(), times.get(TURNS / 2).copied());
        let (best, median) = (best.unwrap_or(f64::NAN), median.unwrap_or(f64::NAN));
        figure(&format!("{name}_mb_per_s"), count(page.len()) / best / 1e6);
        figure(&format!("{name}_median_mb_per_s"), count(page.len()) / median / 1e6);
        figure(&format!("{name}_us_per_page"), best * 1e6);
        let region = Region::new(ALLOCATOR);
        let read = black_box((contestant.read)());
        let allocations = region.change().allocations;
        figure(&format!("{name}_read"), count(read));
        figure(&format!("{name}_allocations"), count(allocations));
    }
}

fn signals(page: &[u8]) -> usize {
    let reading = dialect::read(black_box(page), None, &Limits::default());
    reading.map(|reading| reading.signals.len()).unwrap_or_default()
}

fn theirs(text: &str) -> usize {
    let lines = black_box(text).lines().map(|line| Ok(line.to_owned()));
    prometheus_parse::Scrape::parse(lines).map(|scrape| black_box(scrape).samples.len()).unwrap_or_default()
}

/// Number of wanted samples, with value and label text of each touched.
fn samples(page: &[u8], wanted: &WantedNames) -> usize {
    let mut seen = 0;
    let outcome = scan(black_box(page), wanted, &Options::default(), |line| {
        if let Line::Sample(sample) = line {
            seen += 1;
            black_box((sample.value, sample.labels.raw()));
        }
    });
    assert!(outcome.is_ok(), "the page is a real capture: {outcome:?}");
    seen
}

/// CPU microseconds, in user and kernel, that fetching the page once more over a kept connection and reading its signals costs this thread.
fn scrape_cpu_micros(address: SocketAddr) -> std::io::Result<f64> {
    let mut stream = BufReader::with_capacity(64 << 10, TcpStream::connect(address)?);
    let mut page = Vec::new();
    let mut before = 0.0;
    for scrape in 0..=SCRAPES {
        // the first one warms up
        if scrape == 1 {
            before = thread_cpu_nanos()?;
        }
        stream.get_mut().write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\n\r\n")?;
        let mut length = 0;
        let mut line = String::new();
        while stream.read_line(&mut line)? > 2 {
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap_or(0);
            }
            line.clear();
        }
        page.resize(length, 0);
        stream.read_exact(&mut page)?;
        assert!(signals(&page) > 0, "the server does not serve an engine's page");
    }
    Ok((thread_cpu_nanos()? - before) / f64::from(SCRAPES) / 1e3)
}

/// CPU time of this thread: the first field of `schedstat` (Linux, Documentation/scheduler/sched-stats.rst).
#[expect(clippy::disallowed_methods, reason = "a benchmark reads its own CPU time")]
fn thread_cpu_nanos() -> std::io::Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    text.split(' ').next().and_then(|nanos| nanos.parse().ok()).ok_or(std::io::ErrorKind::InvalidData.into())
}

/// Seconds per call in one batch.
#[expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
fn batch(call: &dyn Fn() -> usize) -> f64 {
    let begin = Instant::now();
    let mut calls = 0_u32;
    while begin.elapsed() < BATCH {
        black_box(call());
        calls += 1;
    }
    begin.elapsed().as_secs_f64() / f64::from(calls)
}

fn count(value: usize) -> f64 {
    loadline_base::num::usize_to_f64(value)
}

fn figure(name: &str, value: f64) {
    let written = writeln!(std::io::stdout(), "{name}\t{value}");
    assert!(written.is_ok(), "standard output is closed");
}
