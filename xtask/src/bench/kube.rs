//! `kube`: `loadline serve` on a real control plane: how soon a load step is a replica count, what a large fleet costs, how fast lists are.
//!
//! The test kit's `kube-bench` measures inside a private namespace; here its figures get their goals.

use super::figure::{Figure, Goal};
use super::rig;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A line of `kube-bench`, how it is shown, and what it must be.
type Row = (&'static str, &'static str, Goal);

/// Load steps and wakes.
const STEPS: [Row; 15] = [
    ("step_loadline_count", "kube, load steps for Loadline", Goal::Shown),
    ("step_loadline_p50_ms", "kube, load step to /scale, p50, ms", Goal::AtMost(1_500.0)),
    ("step_loadline_p99_ms", "kube, load step to /scale, p99, ms", Goal::AtMost(3_000.0)),
    ("step_loadline_max_ms", "kube, load step to /scale, most, ms", Goal::Shown),
    ("wake_count", "kube, wakes from zero", Goal::Shown),
    ("wake_p50_ms", "kube, held request to /scale, p50, ms", Goal::Shown),
    ("wake_p99_ms", "kube, held request to /scale, p99, ms", Goal::AtMost(50.0)),
    ("wake_max_ms", "kube, held request to /scale, most, ms", Goal::Shown),
    ("step_hpa_loadline_count", "kube, load steps for each stock HPA", Goal::Shown),
    ("step_hpa_loadline_p50_ms", "kube, stock HPA fed by Loadline, p50, ms", Goal::Shown),
    ("step_hpa_loadline_max_ms", "kube, stock HPA fed by Loadline, most, ms", Goal::Shown),
    ("step_hpa_prometheus_p50_ms", "kube, stock HPA fed by Prometheus and adapter, p50, ms", Goal::Shown),
    ("step_hpa_prometheus_max_ms", "kube, stock HPA fed by Prometheus and adapter, most, ms", Goal::Shown),
    ("load_average_before", "kube, load steps, load average before", Goal::Shown),
    ("load_average_after", "kube, load steps, load average after", Goal::Shown),
];

/// The fleet.
const SCALE: [Row; 14] = [
    ("scale_pods", "kube, fleet, pods", Goal::Shown),
    ("scale_autoscalers", "kube, fleet, autoscalers", Goal::Shown),
    ("scale_cores", "kube, fleet, cores", Goal::AtMost(1.0)),
    ("scale_rss_at_most_mb", "kube, fleet, resident memory at its largest, MB", Goal::AtMost(300.0)),
    ("scale_scrapes_per_pod_and_second", "kube, fleet, readings of each page a second", Goal::AtLeast(0.98)),
    ("scale_scrape_errors", "kube, fleet, failed readings", Goal::AtMost(0.0)),
    (
        "scale_decisions_per_autoscaler_and_second",
        "kube, fleet, decisions of each autoscaler a second",
        Goal::AtLeast(0.9),
    ),
    ("list_pods", "kube, pods in a list", Goal::Shown),
    ("list_aggregated_p50_ms", "kube, list through the aggregator, p50, ms", Goal::Shown),
    ("list_aggregated_p99_ms", "kube, list through the aggregator, p99, ms", Goal::AtMost(20.0)),
    ("list_direct_p50_ms", "kube, list directly, p50, ms", Goal::Shown),
    ("list_direct_p99_ms", "kube, list directly, p99, ms", Goal::AtMost(20.0)),
    ("load_average_before", "kube, fleet, load average before", Goal::Shown),
    ("load_average_after", "kube, fleet, load average after", Goal::Shown),
];

/// Runs both parts, one after the other.
pub(crate) fn run() -> Result<Vec<Figure>> {
    let binary = rig::loadline()?;
    let bench = kube_bench()?;
    let logs = rig::folder("kube")?;
    let mut figures = Vec::new();
    for (part, rows) in [("steps", &STEPS[..]), ("scale", &SCALE[..])] {
        let mut command = Command::new(&bench);
        command.arg(part).env("LOADLINE_BIN", &binary).env("KUBE_BENCH_LOGS", &logs);
        let output = command.stderr(Stdio::inherit()).output().context("`kube-bench` could not be run")?;
        if !output.status.success() {
            bail!("`kube-bench {part}` failed; its logs are in `{}`", logs.display());
        }
        let printed = String::from_utf8_lossy(&output.stdout);
        let seen = read(&printed)?;
        for (line, name, goal) in rows {
            let value = seen.get(*line).with_context(|| format!("`kube-bench {part}` printed no `{line}`"))?;
            figures.push(Figure::new(*name, *value, *goal));
        }
    }
    Ok(figures)
}

/// `name<TAB>value` lines.
fn read(text: &str) -> Result<BTreeMap<&str, f64>> {
    let figure = |line| {
        let (name, value) = str::split_once(line, '\t').with_context(|| format!("`{line}` is no figure"))?;
        Ok((name, value.parse().with_context(|| format!("`{line}` is no figure"))?))
    };
    text.lines().map(figure).collect()
}

/// Builds the measuring program and says where it is.
fn kube_bench() -> Result<PathBuf> {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--package", "loadline-testkit", "--bin", "kube-bench"])
        .current_dir(crate::root())
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("`cargo build --release --package loadline-testkit --bin kube-bench` failed");
    }
    let path = rig::target().join("release/kube-bench");
    path.canonicalize().with_context(|| format!("cannot find `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_figures() {
        let seen = read("a_b\t1.5\nc\t2\n").expect("figures");
        assert_eq!(seen, BTreeMap::from([("a_b", 1.5), ("c", 2.0)]));
        assert!(read("a\tmany\n").is_err() && read("no tab\n").is_err());
    }
}
