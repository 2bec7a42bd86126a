//! Ten thousand requests for a model that takes long to start: the memory they cost while they are held.

use super::figure::{Figure, Goal};
use super::replica::COMMAND;
use super::rig;
use super::up::Up;
use super::{http, wrk};
use anyhow::{Context, Result, bail};
use loadline_base::num::{u64_to_f64, usize_to_f64};
use serde_json::json;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Requests held at once.
const HELD: u64 = 10_000;
/// Open files of a process with that many connections, with room for its own.
const OPEN_FILES: u64 = 12_000;
/// How long all of them may take to be held.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(60);
/// How long the memory is watched: beyond the first keep-alive comments to streams.
const WATCH: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(250);
/// Goal: growth beyond the bodies, MB.
const GOAL: f64 = 160.0;

/// Holds them, half of them streams, and reads the gateway's resident memory at its largest.
pub(super) fn run(binary: &Path) -> Result<Vec<Figure>> {
    rig::raise_open_files(OPEN_FILES)?;
    let folder = rig::folder("held")?;
    let this = std::env::current_exe().context("cannot find this program")?;
    let log = folder.join("replica.times");
    let command = json!([this, COMMAND, "--port", "{port}", "--log", log, "--ready-after", "3600000"]);
    let models = [json!({ "name": "m", "command": command, "minReplicas": 0 })];
    let up = Up::start(binary, &folder, &models, None)?;
    let before = up.process.resident_bytes()?;
    eprintln!("holding {HELD} requests");
    let requests = [false, true].map(|stream| http::post(wrk::PATH, &http::completion_body("m", stream)));
    let mut clients = Vec::new();
    for request in requests.iter().cycle().take(usize::try_from(HELD)?) {
        let mut client = http::connect(up.address)?;
        client.write_all(request.as_bytes())?;
        clients.push(client);
    }
    let arrived_by = Instant::now() + ARRIVAL_LIMIT;
    while up.held()? < u64_to_f64(HELD) {
        if Instant::now() > arrived_by {
            bail!("only {} of {HELD} requests are held after {ARRIVAL_LIMIT:?}", up.held()?);
        }
        std::thread::sleep(POLL);
    }
    let cpu_before = up.process.cpu_seconds()?;
    let (start, mut most) = (Instant::now(), 0.0_f64);
    while start.elapsed() < WATCH {
        most = most.max(up.process.resident_bytes()?);
        std::thread::sleep(POLL);
    }
    let cpu = 100.0 * (up.process.cpu_seconds()? - cpu_before) / start.elapsed().as_secs_f64();
    if up.held()? < u64_to_f64(HELD) {
        bail!("{} of {HELD} requests are still held; the others were let go", up.held()?);
    }
    let bodies = usize_to_f64(http::BODY_BYTES) * usize_to_f64(clients.len());
    Ok(vec![
        Figure::new(
            "gateway, 10,000 held, growth beyond their bodies, MB",
            (most - before - bodies) / 1e6,
            Goal::AtMost(GOAL),
        ),
        Figure::new("gateway, 10,000 held, resident in all, MB", most / 1e6, Goal::Shown),
        Figure::new("gateway, 10,000 held, CPU, percent of a core", cpu, Goal::Shown),
    ])
}
