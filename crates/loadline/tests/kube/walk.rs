//! The walk of `docs/kubernetes.md`, run as it stands there: every `sh` block, line by line, on a control plane of its own.

use crate::world::World;
use crate::{Case, world};
use anyhow::{Context, Result, bail, ensure};
use loadline_testkit::controlplane::ControlPlane;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

pub(crate) const CASES: [Case; 1] = [("walk::every_command_of_the_page_works_as_it_stands", works_as_it_stands)];

/// What the page shows, and what its commands must therefore print.
const SHOWN: [&str; 10] = [
    "release \"loadline\" uninstalled",
    "rather than 7: `maxReplicas`",
    "SuccessfulRescale",
    "ValidMetricFound",
    "the desired replica count is more than the maximum replica count",
    "New size: 1; reason: 1 rather than 0: `minReplicas`",
    "sent 5, answered 5, failed 0",
    "queued (where the answer says so)",
    "MetricValueList",
    "every signal that decisions need is there",
];

fn root() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", ".."].iter().collect()
}

/// The lines of every `sh` block of a page.
fn commands(page: &str) -> Vec<&str> {
    let mut is_inside = false;
    let mut out = Vec::new();
    for line in page.lines() {
        match line {
            "```sh" => is_inside = true,
            "```" => is_inside = false,
            line if is_inside => out.push(line),
            _ => {}
        }
    }
    out
}

fn works_as_it_stands() -> Result<()> {
    let path = root().join("docs/kubernetes.md");
    let page = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let commands = commands(&page);
    ensure!(commands.len() > 20, "the page has {} commands", commands.len());
    let world = World::with_nodes(ControlPlane::beside(world::options()?)?)?;
    let environment = world.plane.environment()?;
    let begun = Instant::now();
    let mut printed = String::new();
    for command in commands {
        let output = Command::new("sh")
            .args(["-c", command])
            .current_dir(root())
            .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
            .output()
            .with_context(|| format!("`{command}` could not be run"))?;
        printed.push_str(&String::from_utf8_lossy(&output.stdout));
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr);
            let all = Command::new("kubectl")
                .args(["get", "ia,deployments,pods,events", "--all-namespaces"])
                .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
                .output()
                .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
                .unwrap_or_default();
            bail!("`{command}`: {told}\n{printed}\n{all}");
        }
    }
    for shown in SHOWN {
        ensure!(page.contains(shown), "the page does not show `{shown}` any more");
        ensure!(printed.contains(shown), "nothing printed `{shown}`, which the page shows:\n{printed}");
    }
    eprintln!("the walk took {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}
