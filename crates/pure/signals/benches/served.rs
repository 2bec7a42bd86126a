//! Speed and memory of the served latest values: one `name<TAB>value` line per figure.
#![expect(clippy::indexing_slicing, reason = "a benchmark may stop at its own mistakes; nothing of it is input")]

use loadline_base::{Timestamp, num};
use loadline_signals::dialect;
use loadline_signals::exposition::Limits;
use loadline_signals::served::{Page, PageSource, Selector, Served, ServedLimits, ServedPod};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::hint::black_box;
use std::io::Write;
use std::time::Duration;
#[expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Pods of the cluster that is measured.
const PODS: usize = 2_000;
/// Every how many-th pod is of the application that is asked for: 500 of them.
const EVERY: usize = 4;
/// Questions for one percentile.
const QUESTIONS: usize = 1_000;
/// Rounds of pages for a mean.
const ROUNDS: u16 = 10;

/// The pages that the pods serve, in turn.
const ENGINES: [&str; 4] =
    ["vllm-0.32.0-load.prom", "vllm-0.32.0-after.prom", "sglang-0.5.23-load.prom", "dynamo-1.6.1-mocker-load.prom"];

fn main() {
    let vllm = [capture("vllm-0.32.0-load.prom")];
    let mixed: Vec<_> = ENGINES.map(capture).into();
    figure("page_bytes", count(vllm[0].len()));
    single(&vllm[0]);
    cluster("vllm", &|_| vllm[0].clone());
    cluster("mixed", &|number| mixed[number % mixed.len()].clone());
    // a label of its own on every series of every pod: nothing is shared but names
    cluster("unshared", &|number| {
        let own = format!("{{replica=\"pod-{number}\",");
        String::from_utf8_lossy(&vllm[0]).replace('{', &own).into_bytes()
    });
}

#[expect(clippy::disallowed_methods, reason = "the pages are files of the repository")]
fn capture(name: &str) -> Vec<u8> {
    let path = format!("{}/../../../testdata/metrics/{name}", env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read(&path).unwrap_or_default();
    assert!(!page.is_empty(), "cannot read `{path}`");
    page
}

/// One page again and again: taken in with its signals, beside reading its signals only.
fn single(page: &[u8]) {
    let mut served = Served::new(ServedLimits::default());
    served.set_pods(vec![pod(0)]);
    let source = source(0);
    let mut at = 0;
    let ingest = best(|| {
        at += 1;
        served.page(&Page::new(&source, Timestamp::from_secs(at), page)).map_or(0, |reading| reading.signals.len())
    });
    figure("ingest_us_per_page", ingest * 1e6);
    let read = best(|| dialect::read(page, None, &Limits::default()).map_or(0, |reading| reading.signals.len()));
    figure("signals_only_us_per_page", read * 1e6);
    // a value of a label changes at each scrape: a series goes and another comes
    let changing: Vec<_> = (0..2).map(|n| [format!("first{{n=\"{n}\"}} 1\n").as_bytes(), page].concat()).collect();
    let change = best(|| {
        at += 1;
        let text = &changing[usize::try_from(at % 2).unwrap_or_default()];
        served.page(&Page::new(&source, Timestamp::from_secs(at), text)).map_or(0, |reading| reading.signals.len())
    });
    figure("ingest_changing_us_per_page", change * 1e6);
    let first = best(|| {
        let mut served = Served::new(ServedLimits::default());
        served.set_pods(vec![pod(0)]);
        served.page(&Page::new(&source, Timestamp::from_secs(1), page)).map_or(0, |reading| reading.signals.len())
    });
    figure("ingest_first_us_per_page", first * 1e6);
    let region = Region::new(ALLOCATOR);
    at += 1;
    assert!(served.page(&Page::new(&source, Timestamp::from_secs(at), page)).is_ok(), "the page is a real capture");
    figure("ingest_allocations", count(region.change().allocations));
}

/// Many pods: memory, the time of a round of scrapes, and of questions over 500 of them.
#[expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
fn cluster(name: &str, page_of: &dyn Fn(usize) -> Vec<u8>) {
    let region = Region::new(ALLOCATOR);
    let mut served = Served::new(ServedLimits { max_bytes: 1 << 30, ..ServedLimits::default() });
    assert_eq!(served.set_pods((0..PODS).map(pod).collect()), 0, "all pods fit");
    let sources: Vec<_> = (0..PODS).map(source).collect();
    let mut spent = Duration::ZERO;
    for round in 0..=ROUNDS {
        for (number, source) in sources.iter().enumerate() {
            let text = page_of(number);
            let begin = Instant::now();
            let taken = served.page(&Page::new(source, Timestamp::from_secs(i64::from(round) + 1), &text));
            assert!(taken.is_ok(), "the page is a real capture: {taken:?}");
            drop(taken);
            if round > 0 {
                spent += begin.elapsed();
            }
        }
    }
    let change = region.change();
    let held = change.bytes_allocated.saturating_sub(change.bytes_deallocated);
    figure(&format!("{name}_memory_mb"), count(held) / 1e6);
    figure(&format!("{name}_charged_mb"), count(served.bytes()) / 1e6);
    figure(&format!("{name}_series"), count(served.shared_count().0));
    figure(&format!("{name}_layouts"), count(served.shared_count().1));
    figure(&format!("{name}_core_share_at_1s"), spent.as_secs_f64() / f64::from(ROUNDS));
    let now = Timestamp::from_secs(i64::from(ROUNDS) + 2);
    let (app, all) = (Selector::equal([("app", "app-0")]), Selector::all());
    for (question, metric) in [("series", "vllm:num_requests_waiting"), ("signal", "loadline:requests_waiting")] {
        let mut times: Vec<f64> = (0..QUESTIONS)
            .map(|_| {
                let begin = Instant::now();
                let values = served.pods_metric(now, "ai", &app, metric, &all);
                assert!(values.is_ok_and(|values| values.len() == PODS / EVERY), "all pods have it");
                begin.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        figure(&format!("{name}_{question}_500_pods_p99_ms"), times[QUESTIONS * 99 / 100] * 1e3);
    }
    let begin = Instant::now();
    assert!(black_box(served.external(now, "ai", "loadline:requests_waiting", &app)).is_ok(), "there is a sum");
    figure(&format!("{name}_external_500_pods_ms"), begin.elapsed().as_secs_f64() * 1e3);
    let begin = Instant::now();
    assert!(
        black_box(served.pods_metric(now, "ai", &app, "no_such_name_at_all", &all)).is_err(),
        "there is no such name"
    );
    figure(&format!("{name}_unknown_500_pods_ms"), begin.elapsed().as_secs_f64() * 1e3);
    let begin = Instant::now();
    black_box(served.custom_names());
    figure(&format!("{name}_names_ms"), begin.elapsed().as_secs_f64() * 1e3);
}

fn pod(number: usize) -> ServedPod {
    ServedPod {
        namespace: "ai".to_owned(),
        name: format!("pod-{number}"),
        labels: [("app", format!("app-{}", number % EVERY)), ("pod-template-hash", "5d4f8c7b9".to_owned())]
            .into_iter()
            .collect(),
        is_ready: true,
        started_at: Some(Timestamp::from_secs(1)),
    }
}

fn source(number: usize) -> PageSource {
    PageSource::new("ai", &format!("pod-{number}"))
}

/// Seconds of the fastest of many calls.
#[expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
fn best(mut call: impl FnMut() -> usize) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..2_000 {
        let begin = Instant::now();
        black_box(call());
        best = best.min(begin.elapsed().as_secs_f64());
    }
    best
}

fn count(value: usize) -> f64 {
    num::usize_to_f64(value)
}

fn figure(name: &str, value: f64) {
    let written = writeln!(std::io::stdout(), "{name}\t{value:.3}");
    assert!(written.is_ok(), "standard output is closed");
}
