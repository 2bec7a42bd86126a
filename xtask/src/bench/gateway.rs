//! `gateway`: one core for the proxy, 32 connections, 1 KB bodies, a fixed answer; peers take turns with us in every round.

use super::figure::{Figure, Goal};
use super::peers::{self, Proxy};
use super::rig::{self, Awake, PROXY_CORE, Running, median};
use super::up::Up;
use super::wrk::{self, Script};
use super::{held, http};
use anyhow::Result;
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;

/// Rounds; every server is loaded once in each.
const ROUNDS: u32 = 5;
/// Connections of the throughput case.
const CONNECTIONS: u32 = 32;
/// Seconds of each run, and of the one before it that is not counted.
const BUSY_SECONDS: u32 = 4;
const SINGLE_SECONDS: u32 = 2;
const WARM_UP_SECONDS: u32 = 1;
/// Goals of the issue: CPU per request (microseconds), and over sglang-router's.
const CPU_GOAL: f64 = 42.0;
const CPU_RATIO_GOAL: f64 = 0.67;
/// Goal: requests/s over sglang-router's.
const RATE_RATIO_GOAL: f64 = 1.5;
/// Goal: added median latency at one connection, microseconds.
const ADDED_GOAL: f64 = 100.0;
/// The peer that does the same work.
const CLASS: &str = "sglang-router";
/// What stands for ourselves in the figures.
const OURS: &str = "loadline";

/// A server under load, and what was seen of it per round.
struct Entry {
    name: &'static str,
    address: SocketAddr,
    process: Option<Running>,
    rounds: Vec<Round>,
}

/// One round of one server.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// CPU of the process per request, microseconds.
    cpu: f64,
    /// Requests per second over all connections.
    rate: f64,
    /// 99th percentile over all connections, microseconds.
    p99: f64,
    /// Median at one connection, microseconds, while no core sleeps.
    single: f64,
    /// The same while idle cores may sleep.
    sleepy: f64,
}

/// Runs all rounds, then the held requests.
pub(crate) fn run() -> Result<Vec<Figure>> {
    rig::need_two_cores()?;
    rig::need(&[
        ("nginx", "nginx-light"),
        ("haproxy", "haproxy"),
        ("wrk", "wrk"),
        ("taskset", "util-linux"),
        ("chrt", "util-linux"),
        ("python3", "python3-venv"),
    ])?;
    let binary = rig::loadline()?;
    let folder = rig::folder("gateway")?;
    let upstream_script = peers::upstream_script(&folder)?;
    let script = Script::write(&folder, "m")?;
    let direct = peers::upstream(&folder, &upstream_script)?;
    let upstream = direct.address;
    let peer =
        |name, proxy: Proxy| Entry { name, address: proxy.address, process: Some(proxy.process), rounds: Vec::new() };
    let mut entries = vec![
        Entry { name: "direct", address: upstream, process: None, rounds: Vec::new() },
        ours(&binary, &folder, &upstream_script)?,
        peer("nginx", peers::nginx(&folder, upstream)?),
        peer("haproxy", peers::haproxy(&folder, upstream)?),
        peer(CLASS, peers::router(&folder, upstream)?),
    ];
    for round in 1..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        for entry in &mut entries {
            let seen = entry.round(&script, &folder)?;
            eprintln!(
                "  {:<14} {:>7.0} requests/s {:>6.1} us CPU {:>6.0} us p99 {:>4.0} us p50 alone ({:>4.0} sleepy)",
                entry.name, seen.rate, seen.cpu, seen.p99, seen.single, seen.sleepy
            );
            entry.rounds.push(seen);
        }
    }
    let mut figures = figures(&entries);
    // Nothing else runs beside the last case.
    drop((entries, direct));
    figures.extend(held::run(&binary)?);
    Ok(figures)
}

fn ours(binary: &Path, folder: &Path, upstream_script: &Path) -> Result<Entry> {
    let models = [json!({
        "name": "m",
        "command": ["sh", upstream_script, "{port}"],
        // More than any case needs, so that no request waits for a slot.
        "slots": 256,
        "minReplicas": 1,
        "maxReplicas": 1,
    })];
    let mut up = Up::start(binary, folder, &models, Some(PROXY_CORE))?;
    let request = http::post(wrk::PATH, &http::completion_body("m", false));
    let address = up.address;
    up.process.wait_until(|| http::answers(address, &request))?;
    Ok(Entry { name: OURS, address, process: Some(up.process), rounds: Vec::new() })
}

impl Entry {
    fn cpu_seconds(&self) -> Result<f64> {
        self.process.as_ref().map_or(Ok(0.0), Running::cpu_seconds)
    }

    fn round(&self, script: &Script, folder: &Path) -> Result<Round> {
        script.load(self.address, CONNECTIONS, WARM_UP_SECONDS)?;
        let before = self.cpu_seconds()?;
        let busy = script.load(self.address, CONNECTIONS, BUSY_SECONDS)?;
        let cpu = 1e6 * (self.cpu_seconds()? - before) / busy.requests;
        let sleepy = script.load(self.address, 1, SINGLE_SECONDS)?.p50;
        let awake = Awake::start(folder)?;
        let single = script.load(self.address, 1, SINGLE_SECONDS)?.p50;
        drop(awake);
        Ok(Round { cpu, rate: busy.requests / busy.seconds, p99: busy.p99, single, sleepy })
    }

    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(&self.rounds.iter().map(of).collect::<Vec<_>>())
    }

    /// The median over rounds of a comparison with another server in the same round.
    fn against(&self, other: &Self, compare: impl Fn(&Round, &Round) -> f64) -> f64 {
        median(&self.rounds.iter().zip(&other.rounds).map(|(a, b)| compare(a, b)).collect::<Vec<_>>())
    }
}

fn figures(entries: &[Entry]) -> Vec<Figure> {
    let mut figures = Vec::new();
    let find = |name: &str| entries.iter().find(|entry| entry.name == name);
    let Some(direct) = find("direct") else { return figures };
    if let (Some(ours), Some(class)) = (find(OURS), find(CLASS)) {
        figures.extend([
            Figure::new("gateway, CPU per request, us", ours.median(|r| r.cpu), Goal::AtMost(CPU_GOAL)),
            Figure::new(
                format!("gateway, CPU per request over {CLASS}'s"),
                ours.against(class, |a, b| a.cpu / b.cpu),
                Goal::AtMost(CPU_RATIO_GOAL),
            ),
            Figure::new(
                format!("gateway, requests/s over {CLASS}'s"),
                ours.against(class, |a, b| a.rate / b.rate),
                Goal::AtLeast(RATE_RATIO_GOAL),
            ),
            Figure::new(
                "gateway, added p50 at 1 connection, us",
                ours.against(direct, |a, b| a.single - b.single),
                Goal::AtMost(ADDED_GOAL),
            ),
            Figure::new(
                "gateway, the same where idle cores sleep, us",
                ours.against(direct, |a, b| a.sleepy - b.sleepy),
                Goal::Shown,
            ),
        ]);
    }
    for entry in entries {
        let mut show = |what: &str, value: f64| {
            figures.push(Figure::new(format!("  {}, {what}", entry.name), value, Goal::Shown));
        };
        show("requests/s", entry.median(|r| r.rate));
        show(&format!("p99 at {CONNECTIONS} connections, us"), entry.median(|r| r.p99));
        if entry.process.is_none() {
            show("p50 at 1 connection, us", entry.median(|r| r.single));
            show("the same where idle cores sleep, us", entry.median(|r| r.sleepy));
        } else {
            show("CPU per request, us", entry.median(|r| r.cpu));
            show("added p50 at 1 connection, us", entry.against(direct, |a, b| a.single - b.single));
            show("the same where idle cores sleep, us", entry.against(direct, |a, b| a.sleepy - b.sleepy));
        }
    }
    figures
}
