//! Figures of `loadline serve` on a real control plane, one `name<TAB>value` line each; `cargo xtask bench kube` runs it and compares them
//! with their goals.
//!
//! Pods are objects without processes: their addresses are local to the private namespace, and one server answers for all of them with
//! scripted pages or captures of real engines. The measured process is `loadline serve` as it is, with the rights of the chart.
#![recursion_limit = "256"]

mod objects;
mod pages;
mod peers;
mod process;
mod scale;
mod stage;
mod steps;
mod wake;

use anyhow::{Context, Result, bail};
use loadline_testkit::controlplane::{Minor, tools};
use loadline_testkit::netns::{self, Life};
use std::process::ExitCode;

const USAGE: &str = "usage: kube-bench steps [--steps N] [--hpas N] [--wakes N] | scale [--autoscalers N] [--pods-each N] [--span SECONDS]";

/// How much is measured; the defaults are what the goals are for.
#[derive(Debug, Clone)]
pub(crate) struct Size {
    /// Load steps for Loadline.
    steps: usize,
    /// Load steps for each way the stock HPA is fed.
    hpas: usize,
    /// Wakes from zero.
    wakes: usize,
    /// Autoscalers of the large fleet.
    autoscalers: usize,
    /// Pods of each of them.
    pods_each: usize,
    /// How long CPU time is counted, seconds.
    span: u64,
}

impl Default for Size {
    fn default() -> Self {
        Self { steps: 200, hpas: 30, wakes: 200, autoscalers: 200, pods_each: 10, span: 60 }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (part, rest) = words.split_first().context(USAGE)?;
    let size = size(rest)?;
    tools::build(Minor::default())?;
    match part.as_str() {
        "steps" => {
            tools::PROMETHEUS.build()?;
            tools::PROMETHEUS_ADAPTER.build()?;
        }
        "scale" => {}
        _ => bail!(USAGE),
    }
    netns::enter(Life::WithParent)?;
    process::raise_open_files()?;
    figure("load_average_before", process::load_average()?);
    if part == "steps" {
        steps::run(&size)?
    } else {
        scale::run(&size)?
    }
    figure("load_average_after", process::load_average()?);
    Ok(())
}

fn size(words: &[String]) -> Result<Size> {
    let mut size = Size::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("`{word}` lacks its value"))?;
        let number = || value.parse::<usize>().with_context(|| format!("`{word} {value}`: a whole number is expected"));
        match word.as_str() {
            "--steps" => size.steps = number()?,
            "--hpas" => size.hpas = number()?,
            "--wakes" => size.wakes = number()?,
            "--autoscalers" => size.autoscalers = number()?,
            "--pods-each" => size.pods_each = number()?,
            "--span" => size.span = u64::try_from(number()?)?,
            _ => bail!("unknown argument `{word}`\n{USAGE}"),
        }
    }
    Ok(size)
}

/// Says what begins, and how long after the program itself.
pub(crate) fn progress(text: &str) {
    static BEGUN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let begun = BEGUN.get_or_init(std::time::Instant::now);
    eprintln!("{:5.0} s  {text}", begun.elapsed().as_secs_f64());
}

/// Prints one figure.
pub(crate) fn figure(name: &str, value: f64) {
    println!("{name}\t{value}");
}

/// Prints the usual quantiles of times in milliseconds.
pub(crate) fn quantiles(name: &str, millis: &[f64]) {
    let mut sorted = millis.to_vec();
    sorted.sort_by(f64::total_cmp);
    figure(&format!("{name}_count"), loadline_base::num::usize_to_f64(sorted.len()));
    for (quantile, per_mille) in [("p50", 500), ("p99", 990), ("max", 1000)] {
        // nearest rank
        let rank = (sorted.len() * per_mille).div_ceil(1000).max(1);
        if let Some(value) = sorted.get(rank - 1) {
            figure(&format!("{name}_{quantile}_ms"), *value);
        }
    }
}
