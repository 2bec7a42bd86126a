//! `idle`: what `loadline up` costs while its one model is at zero.

use super::figure::{Figure, Goal};
use super::replica::COMMAND;
use super::rig;
use super::up::Up;
use anyhow::{Context, Result};
use serde_json::json;
use std::time::{Duration, Instant};

/// Time after the start that does not count.
const SETTLE: Duration = Duration::from_secs(3);
/// How long it is watched.
const WATCH: Duration = Duration::from_secs(30);
/// Goal: resident memory, MB.
const RESIDENT_GOAL: f64 = 40.0;
/// Goal: percent of one core.
const CPU_GOAL: f64 = 0.5;

/// Starts it, lets it settle, and watches.
pub(crate) fn run() -> Result<Vec<Figure>> {
    let binary = rig::loadline()?;
    let folder = rig::folder("idle")?;
    let this = std::env::current_exe().context("cannot find this program")?;
    let log = folder.join("replica.times");
    let command = json!([this, COMMAND, "--port", "{port}", "--log", log, "--ready-after", "0"]);
    let models = [json!({ "name": "m", "command": command, "minReplicas": 0 })];
    let up = Up::start(&binary, &folder, &models, None)?;
    std::thread::sleep(SETTLE);
    eprintln!("watching an idle `up` for {WATCH:?}");
    let (start, before) = (Instant::now(), up.process.cpu_seconds()?);
    std::thread::sleep(WATCH);
    let used = up.process.cpu_seconds()? - before;
    let percent = 100.0 * used / start.elapsed().as_secs_f64();
    let resident = up.process.resident_bytes()? / 1e6;
    Ok(vec![
        Figure::new("idle, resident, MB", resident, Goal::AtMost(RESIDENT_GOAL)),
        Figure::new("idle, CPU, percent of a core", percent, Goal::AtMost(CPU_GOAL)),
    ])
}
