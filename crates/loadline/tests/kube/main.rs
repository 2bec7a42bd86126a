//! Loadline on a real control plane, with pods as local processes: `cargo xtask test kube [--minor 1.33]`.
//!
//! The binary enters a private network namespace before the first test. Tests share one control plane, each in a Kubernetes
//! namespace of its own; those that break a control plane start one beside it.

mod control_plane;
mod pods;
mod world;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use loadline_testkit::controlplane::tools;
use loadline_testkit::netns::{self, Life};
use std::process::ExitCode;

/// A test: its name and what it does.
type Case = (&'static str, fn() -> Result<()>);

fn trials() -> Vec<Trial> {
    let groups: [&[Case]; 2] = [&pods::CASES, &control_plane::CASES];
    let trial =
        |&(name, run): &Case| Trial::test(name, move || run().map_err(|error| Failed::from(format!("{error:#}"))));
    groups.into_iter().flatten().map(trial).collect()
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    // A list needs no cluster.
    if !arguments.list {
        let entered = world::minor().and_then(tools::build).and_then(|()| netns::enter(Life::WithParent));
        if let Err(error) = entered {
            eprintln!("error: {error:#}");
            return ExitCode::from(2);
        }
    }
    libtest_mimic::run(&arguments, trials()).exit_code()
}
