//! `wake`: from the first held request to the start of a process, and from a ready replica to its first request.

use super::figure::{Figure, Goal};
use super::replica::{COMMAND, wall_nanos};
use super::rig::{self, percentile};
use super::up::Up;
use super::{http, wrk};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::Path;

/// Models, each woken once; the 99th percentile is the second largest.
const MODELS: u64 = 200;
/// Shortest start, milliseconds.
const START_MILLIS: u64 = 100;
/// Starts differ by up to one probe period, so that they end at every phase of it.
const PROBE_MILLIS: u64 = 50;
/// A step that meets every phase: it shares no factor with [`PROBE_MILLIS`].
const PHASE_STEP: u64 = 7;
/// Goal: first held request to process start, p99, milliseconds.
const START_GOAL: f64 = 10.0;
/// Goal: replica ready to first dispatch, p99, milliseconds.
const DISPATCH_GOAL: f64 = 60.0;

/// One wake, milliseconds.
struct Wake {
    to_start: f64,
    to_dispatch: f64,
}

/// Wakes every model once, one after the other.
pub(crate) fn run() -> Result<Vec<Figure>> {
    let binary = rig::loadline()?;
    let folder = rig::folder("wake")?;
    let this = std::env::current_exe().context("cannot find this program")?;
    let models: Vec<_> = (0..MODELS)
        .map(|index| {
            let log = folder.join(format!("m{index}.times"));
            let ready = START_MILLIS + index * PHASE_STEP % PROBE_MILLIS;
            json!({
                "name": format!("m{index}"),
                "command": [this, COMMAND, "--port", "{port}", "--log", log, "--ready-after", ready.to_string()],
                "minReplicas": 0,
                // ends soon after its wake: two hundred live replicas would be a different measurement
                "idle": { "after": "1s" },
            })
        })
        .collect();
    let up = Up::start(&binary, &folder, &models, None)?;
    eprintln!("waking {MODELS} models");
    let wakes = (0..MODELS).map(|index| wake(&up, &folder, index)).collect::<Result<Vec<_>>>()?;
    let starts: Vec<f64> = wakes.iter().map(|wake| wake.to_start).collect();
    let dispatches: Vec<f64> = wakes.iter().map(|wake| wake.to_dispatch).collect();
    Ok(vec![
        Figure::new("wake, first held request to process start, p50, ms", percentile(&starts, 0.5), Goal::Shown),
        Figure::new(
            "wake, first held request to process start, p99, ms",
            percentile(&starts, 0.99),
            Goal::AtMost(START_GOAL),
        ),
        Figure::new("wake, replica ready to first dispatch, p50, ms", percentile(&dispatches, 0.5), Goal::Shown),
        Figure::new(
            "wake, replica ready to first dispatch, p99, ms",
            percentile(&dispatches, 0.99),
            Goal::AtMost(DISPATCH_GOAL),
        ),
    ])
}

fn wake(up: &Up, folder: &Path, index: u64) -> Result<Wake> {
    let name = format!("m{index}");
    let request = http::post(wrk::PATH, &http::completion_body(&name, false));
    let mut stream = http::connect(up.address)?;
    let sent = wall_nanos();
    stream.write_all(request.as_bytes())?;
    let status = http::read_status(&mut stream).with_context(|| format!("the request that wakes `{name}`"))?;
    if status != 200 {
        bail!("the request that wakes `{name}` was answered {status}");
    }
    let path = folder.join(format!("{name}.times"));
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let time = |event: &str| -> Result<u128> {
        let found = text.lines().find_map(|line| line.strip_prefix(event)?.trim().parse().ok());
        found.with_context(|| format!("`{}` has no `{event}`", path.display()))
    };
    Ok(Wake { to_start: millis(sent, time("started ")?), to_dispatch: millis(time("ready ")?, time("request ")?) })
}

fn millis(from: u128, to: u128) -> f64 {
    let nanos = u64::try_from(to.saturating_sub(from)).unwrap_or(u64::MAX);
    loadline_base::num::u64_to_f64(nanos) / 1e6
}
