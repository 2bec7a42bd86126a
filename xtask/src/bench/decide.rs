//! `decide`: the time of one HPA decision over 100 pods and 3 metrics.

use super::figure::{Figure, Goal};
use anyhow::{Context, Result, bail};
use std::process::Command;

/// The goal on one decision, microseconds.
const GOAL_MICROSECONDS: f64 = 10.0;

/// Runs the benchmark of `loadline-policy` and reads its lines of `name<TAB>value`.
pub(crate) fn run() -> Result<Vec<Figure>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["bench", "-q", "-p", "loadline-policy", "--bench", "decide"])
        .output()
        .context("cannot run `cargo bench`")?;
    if !output.status.success() {
        bail!("`cargo bench -p loadline-policy` failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let figures = String::from_utf8_lossy(&output.stdout).lines().map(read).collect::<Result<Vec<_>>>()?;
    if figures.is_empty() {
        bail!("`cargo bench -p loadline-policy --bench decide` printed no figure");
    }
    Ok(figures)
}

fn read(line: &str) -> Result<Figure> {
    let (name, value) = line.split_once('\t').with_context(|| format!("`{line}` is not `name<TAB>value`"))?;
    let value: f64 = value.trim().parse().with_context(|| format!("`{value}` is not a number"))?;
    // the best round of 500 decisions, the cost without what else the machine does, is shown beside the median
    let goal = if name.ends_with("median") { Goal::AtMost(GOAL_MICROSECONDS) } else { Goal::Shown };
    Ok(Figure::new(name, value, goal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_figures() {
        let figure = read("decide, us, median\t3.5").expect("a figure");
        assert!((figure.value - 3.5).abs() < f64::EPSILON);
        assert!(read("no tab").is_err());
        assert!(read("name\tnot a number").is_err());
    }
}
