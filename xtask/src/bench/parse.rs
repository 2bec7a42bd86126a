//! `bench parse`: the exposition parser, the `prometheus-parse` crate, and a real Prometheus scraping the same page.

use super::figure::{Figure, Goal};
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long Prometheus settles, and is then measured, with and without targets.
const SETTLE: Duration = Duration::from_secs(4);
const MEASURED: Duration = Duration::from_secs(8);
/// Targets with distinct paths, so that scraping dominates what Prometheus does.
const TARGETS: usize = 20;
const SCRAPE_INTERVAL: &str = "100ms";
/// Kernel ticks per second in `/proc/PID/stat` (`USER_HZ`; 100 on every Linux platform we build for).
const TICKS_PER_SECOND: f64 = 100.0;

/// Rounds of the comparison with Prometheus: in each it runs without targets, then with, and then we scrape the same server.
const ROUNDS: usize = 2;

/// Every figure with the goal it has.
///
/// # Errors
/// When the benchmark does not build or run, or Prometheus is installed and does not start.
pub(crate) fn run() -> Result<Vec<Figure>> {
    let seen = Seen::of(None)?;
    let mut figures = vec![
        Figure::new("parse, 20 wanted names, MB/s", seen.value("wanted20_mb_per_s")?, Goal::AtLeast(1_500.0)),
        Figure::new("parse, 20 wanted names, median MB/s", seen.value("wanted20_median_mb_per_s")?, Goal::Shown),
        Figure::new("parse, every sample wanted, MB/s", seen.value("all_mb_per_s")?, Goal::AtLeast(300.0)),
        Figure::new("parse, every sample wanted, median MB/s", seen.value("all_median_mb_per_s")?, Goal::Shown),
        Figure::new("parse, nothing wanted, MB/s", seen.value("none_mb_per_s")?, Goal::Shown),
        Figure::new("parse, allocations per page, nothing wanted", seen.value("none_allocations")?, Goal::AtMost(0.0)),
        Figure::new("parse, allocations per page, 20 wanted names", seen.value("wanted20_allocations")?, Goal::Shown),
        Figure::new("parse, crate `prometheus-parse`, MB/s", seen.value("prometheus_parse_mb_per_s")?, Goal::Shown),
        Figure::new("parse, 20 wanted names, us per page", seen.value("wanted20_us_per_page")?, Goal::Shown),
        Figure::new("parse, every sample wanted, us per page", seen.value("all_us_per_page")?, Goal::Shown),
        Figure::new("parse, all signals of the page, us per page", seen.value("dialect_us_per_page")?, Goal::Shown),
    ];
    if Command::new("prometheus").arg("--version").output().is_err() {
        println!("skipped: `prometheus` is not installed; `apt-get install prometheus` adds the comparison with it");
        return Ok(figures);
    }
    let (theirs, ours) = micros_per_scrape()?;
    let ratio = |ours: f64, what: &str| {
        Figure::new(format!("parse, CPU of prometheus / ours, {what}"), theirs / ours, Goal::AtLeast(10.0))
    };
    figures.push(Figure::new("parse, prometheus, CPU us per scrape", theirs, Goal::Shown));
    figures.push(Figure::new("parse, ours: fetch and signals, CPU us per scrape", ours, Goal::Shown));
    figures.push(ratio(seen.value("wanted20_us_per_page")?, "20 wanted names"));
    figures.push(ratio(seen.value("all_us_per_page")?, "every sample"));
    figures.push(ratio(ours, "fetch and signals"));
    Ok(figures)
}

/// What the benchmark of the parser printed.
struct Seen(Vec<(String, f64)>);

impl Seen {
    /// Runs it; with an address it measures scraping from there.
    fn of(address: Option<SocketAddr>) -> Result<Self> {
        let output = Command::new("cargo")
            .args(["bench", "-q", "-p", "loadline-signals", "--bench", "parse", "--"])
            .args(address.map(|address| address.to_string()))
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run `cargo bench`")?;
        ensure!(output.status.success(), "`cargo bench -p loadline-signals --bench parse` failed: {}", output.status);
        let text = String::from_utf8(output.stdout).context("the benchmark's output is not UTF-8")?;
        let figures = text.lines().filter_map(|line| line.split_once('\t'));
        let parse = |value: &str| value.parse::<f64>().ok().filter(|value| value.is_finite());
        let figures = figures.map(|(name, value)| {
            Ok((name.to_owned(), parse(value).with_context(|| format!("`{name}` has no number: `{value}`"))?))
        });
        Ok(Self(figures.collect::<Result<_>>()?))
    }

    fn value(&self, name: &str) -> Result<f64> {
        let found = self.0.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| *value).with_context(|| format!("the benchmark did not print `{name}`"))
    }
}

/// CPU time that one more scrape costs Prometheus (with targets, minus the same time without), and us: each the least of all rounds.
fn micros_per_scrape() -> Result<(f64, f64)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/metrics/vllm-0.32.0-load.prom");
    let page = std::fs::read(&page).with_context(|| format!("cannot read `{}`", page.display()))?;
    let served = Arc::new(AtomicU64::new(0));
    let address = serve(page, Arc::clone(&served))?;
    let folder = std::env::temp_dir().join(format!("loadline-bench-{}", std::process::id()));
    let (mut theirs, mut ours) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        let idle = measure(&folder, None, &served)?;
        let busy = measure(&folder, Some(address), &served)?;
        ensure!(busy.1 > 0, "Prometheus did not scrape the page");
        let scrapes = f64::from(u32::try_from(busy.1).unwrap_or(u32::MAX));
        theirs = theirs.min((busy.0 - idle.0).max(0.0) * 1e6 / scrapes);
        ours = ours.min(Seen::of(Some(address))?.value("scrape_cpu_us")?);
    }
    Ok((theirs, ours))
}

/// CPU seconds and scrapes while measured.
fn measure(folder: &Path, target: Option<SocketAddr>, served: &AtomicU64) -> Result<(f64, u64)> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    let config = folder.join("prometheus.yml");
    let mut text = format!(
        "global:\n  scrape_interval: {SCRAPE_INTERVAL}\n  scrape_timeout: {SCRAPE_INTERVAL}\nscrape_configs:\n"
    );
    match target {
        None => text.push_str("  []\n"),
        Some(address) => {
            for index in 0..TARGETS {
                text.push_str(&format!(
                    "  - job_name: t{index}\n    metrics_path: /{index}\n    static_configs: [{{targets: ['{address}']}}]\n"
                ));
            }
        }
    }
    std::fs::write(&config, text).context("cannot write the configuration of Prometheus")?;
    let running = Running::start(folder, &config)?;
    std::thread::sleep(SETTLE);
    let (cpu, count) = (running.cpu_seconds()?, served.load(Ordering::Relaxed));
    std::thread::sleep(MEASURED);
    Ok((running.cpu_seconds()? - cpu, served.load(Ordering::Relaxed) - count))
}

/// A Prometheus that ends, with its folder, when dropped.
struct Running {
    child: Child,
    folder: PathBuf,
}

impl Running {
    fn start(folder: &Path, config: &Path) -> Result<Self> {
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start `prometheus`")?;
        Ok(Self { child, folder: folder.to_owned() })
    }

    /// User and system time so far: fields 14 and 15 of `/proc/PID/stat` (proc(5)).
    fn cpu_seconds(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read `{path}`"))?;
        let fields = text.rsplit_once(')').context("`stat` has no command name")?.1;
        let ticks: Vec<f64> =
            fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
        ensure!(ticks.len() == 2, "`prometheus` ended early, or `{path}` has another form");
        Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // the process may be gone already, and a folder left behind is only untidy
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Serves the page on loopback until this process ends, counting answers.
fn serve(page: Vec<u8>, served: Arc<AtomicU64>) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback")?;
    let address = listener.local_addr()?;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: ";
    let answer: Arc<[u8]> = [format!("{head}{}\r\n\r\n", page.len()).into_bytes(), page].concat().into();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (answer, served) = (Arc::clone(&answer), Arc::clone(&served));
            std::thread::spawn(move || converse(stream, &answer, &served));
        }
    });
    Ok(address)
}

/// Answers every request of one connection; requests of a scrape have no body.
fn converse(mut stream: TcpStream, answer: &[u8], served: &AtomicU64) {
    let mut pending = Vec::new();
    let mut chunk = [0_u8; 4096];
    while let Ok(read @ 1..) = stream.read(&mut chunk) {
        pending.extend_from_slice(chunk.get(..read).unwrap_or_default());
        if pending.ends_with(b"\r\n\r\n") {
            pending.clear();
            if stream.write_all(answer).is_err() {
                return;
            }
            served.fetch_add(1, Ordering::Relaxed);
        }
    }
}
