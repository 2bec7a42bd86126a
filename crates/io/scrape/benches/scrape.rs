//! CPU time and memory of scraping many targets and keeping their latest values: one `name<TAB>value` line per figure.
//!
//! First with pages from this process, then over sockets of a server on another thread, whose time does not count.
#![expect(clippy::indexing_slicing, reason = "a benchmark may stop at its own mistakes; nothing of it is input")]

use bytes::Bytes;
use loadline_base::{ModelId, ReplicaId, Timestamp};
use loadline_net::Clock;
use loadline_scrape::{PageUse, ScrapeReport, ScrapeSettings, Scraper, Target};
use loadline_signals::served::{Page, PageSource, Selector, Served, ServedLimits, ServedPod};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const PODS: usize = 2_000;
/// How long is measured, after as long a warm-up.
const SPAN: Duration = Duration::from_secs(5);
const NS: &str = "ai";
const PAGES: [&str; 3] = ["vllm-0.32.0-load.prom", "sglang-0.5.23-load.prom", "dynamo-1.6.1-mocker-load.prom"];

fn main() -> std::io::Result<()> {
    let pages: Vec<Bytes> = PAGES.map(capture).into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure("direct", &pages, None))?;
    let (told, address) = std::sync::mpsc::channel();
    let served = pages.clone();
    std::thread::spawn(move || -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(server(served, told))
    });
    let address = address.recv().map_err(std::io::Error::other)?;
    runtime.block_on(measure("sockets", &pages, Some(address)))
}

fn capture(name: &str) -> Bytes {
    let path = format!("{}/../../../testdata/metrics/{name}", env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read(&path).unwrap_or_default();
    assert!(!page.is_empty(), "cannot read `{path}`");
    page.into()
}

async fn measure(name: &str, pages: &[Bytes], address: Option<SocketAddr>) -> std::io::Result<()> {
    let clock = Clock::real();
    let mut served = Served::new(ServedLimits::default());
    assert_eq!(served.set_pods((0..PODS).map(pod).collect()), 0, "all pods fit");
    let (sender, mut reports) = mpsc::channel(1_024);
    let settings = ScrapeSettings { pages: PageUse::Keep, ..ScrapeSettings::default() };
    let scraper = match address {
        Some(_) => Scraper::start(clock.clone(), settings, sender),
        None => {
            let pages = pages.to_vec();
            Scraper::start_direct(
                clock.clone(),
                settings,
                sender,
                Arc::new(move |target: &Target| {
                    let number = target.url.rsplit('/').next().and_then(|number| number.parse::<usize>().ok());
                    Ok(pages[number.unwrap_or_default() % PAGES.len()].clone())
                }),
            )
        }
    };
    let address = address.map_or_else(|| "in-process".to_owned(), |address| address.to_string());
    let target = |number: usize| {
        Target::new(ReplicaId::from(&*format!("{number}")), ModelId::from("m"), format!("http://{address}/{number}"))
    };
    scraper.set_targets((0..PODS).map(target).collect());
    take(&clock, &mut served, &mut reports).await;
    let before = thread_cpu_nanos()?;
    let (count, bytes) = take(&clock, &mut served, &mut reports).await;
    let spent = thread_cpu_nanos()? - before;
    figure(&format!("{name}_cores"), spent / 1e9 / SPAN.as_secs_f64());
    figure(&format!("{name}_scrapes_per_s"), loadline_base::num::u64_to_f64(count) / SPAN.as_secs_f64());
    figure(&format!("{name}_page_mb_per_s"), loadline_base::num::usize_to_f64(bytes) / 1e6 / SPAN.as_secs_f64());
    figure(&format!("{name}_process_rss_mb"), rss_mb()?);
    let values = served.pods_metric(clock.now(), NS, &Selector::all(), "loadline:requests_waiting", &Selector::all());
    figure(&format!("{name}_pods_with_a_value"), values.map_or(0.0, |v| loadline_base::num::usize_to_f64(v.len())));
    scraper.stop().await;
    Ok(())
}

/// Takes reports in for a while; gives how many pages there were, and their bytes.
async fn take(clock: &Clock, served: &mut Served, reports: &mut mpsc::Receiver<ScrapeReport>) -> (u64, usize) {
    let end = clock.now().plus(SPAN);
    let (mut count, mut bytes) = (0, 0);
    while clock.now() < end {
        let Some(report) = reports.recv().await else { break };
        let source = PageSource::new(NS, report.replica.as_str());
        match (&report.outcome, &report.page) {
            (Ok(_), Some(page)) => {
                let taken = served.page(&Page { period: report.period, ..Page::new(&source, report.at, page) });
                assert!(taken.is_ok(), "a real capture: {taken:?}");
                count += 1;
                bytes += page.len();
            }
            (outcome, _) => assert!(outcome.is_ok(), "{outcome:?}"),
        }
    }
    (count, bytes)
}

fn pod(number: usize) -> ServedPod {
    ServedPod {
        namespace: NS.to_owned(),
        name: number.to_string(),
        labels: [("app", "llm")].into_iter().collect(),
        is_ready: true,
        started_at: Some(Timestamp::from_secs(1)),
    }
}

async fn server(pages: Vec<Bytes>, told: std::sync::mpsc::Sender<SocketAddr>) -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    told.send(listener.local_addr()?).map_err(std::io::Error::other)?;
    let mut number = 0;
    loop {
        let (mut stream, _) = listener.accept().await?;
        let page = pages[number % pages.len()].clone();
        number += 1;
        tokio::spawn(async move {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", page.len());
            let mut buffer = [0; 2048];
            // each request comes in one piece
            while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(&page).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// CPU time of this thread: the first field of `schedstat` (Linux, Documentation/scheduler/sched-stats.rst).
fn thread_cpu_nanos() -> std::io::Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    text.split(' ').next().and_then(|nanos| nanos.parse().ok()).ok_or(std::io::ErrorKind::InvalidData.into())
}

/// Resident memory of the process, in megabytes: `VmRSS` (Linux, proc_pid_status(5)).
fn rss_mb() -> std::io::Result<f64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kilobytes.map(|kilobytes| kilobytes * 1_024.0 / 1e6).ok_or(std::io::ErrorKind::InvalidData.into())
}

fn figure(name: &str, value: f64) {
    let written = writeln!(std::io::stdout(), "{name}\t{value:.3}");
    assert!(written.is_ok(), "standard output is closed");
}
