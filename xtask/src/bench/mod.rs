//! Benchmarks with goals: each figure is printed with its goal and `met` or `missed`; a miss exits 1.

mod decide;
mod figure;
mod gateway;
mod held;
mod http;
mod idle;
mod kube;
mod parse;
mod peers;
pub(crate) mod replica;
mod rig;
mod up;
mod wake;
mod wrk;

use anyhow::{Result, bail};
use figure::Figure;
use std::process::ExitCode;

type Bench = fn() -> Result<Vec<Figure>>;

const BENCHES: [(&str, Bench); 6] = [
    ("parse", parse::run),
    ("decide", decide::run),
    ("gateway", gateway::run),
    ("wake", wake::run),
    ("idle", idle::run),
    ("kube", kube::run),
];

/// Runs the named benchmarks, or all. One that cannot run is a miss; the others still run.
pub(crate) fn run(names: &[&str]) -> Result<ExitCode> {
    if let Some(unknown) = names.iter().find(|name| !BENCHES.iter().any(|(known, _)| known == *name)) {
        let known: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
        bail!("there is no benchmark `{unknown}`; they are {}", known.join(", "));
    }
    let mut figures = Vec::new();
    let mut failed = Vec::new();
    for (name, bench) in BENCHES.iter().filter(|(name, _)| names.is_empty() || names.contains(name)) {
        eprintln!("== {name}");
        match bench() {
            Ok(more) => figures.extend(more),
            Err(error) => failed.push(format!("{name} could not run: {error:#}")),
        }
    }
    let verdict = figure::report(&figures);
    for failure in &failed {
        println!("{failure}");
    }
    Ok(if failed.is_empty() { verdict } else { ExitCode::from(1) })
}
