//! Loadline on a real control plane, with pods as local processes: `cargo xtask test kube [--minor 1.33]`.
//!
//! The binary enters a private network namespace before the first test. Tests share one control plane, each in a Kubernetes
//! namespace of its own; those that break a control plane start one beside it.

mod autoscaler;
mod control_plane;
mod crd;
mod dcgm;
mod engines;
mod faults;
mod faults_control_plane;
mod faults_pages;
mod faults_pods;
mod faults_restart;
mod faults_rights;
mod faults_writers;
mod gateway;
mod golden;
mod hpa;
mod install;
mod metrics_api;
mod pods;
mod profiles;
mod views;
mod walk;
mod world;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use loadline_testkit::controlplane::tools;
use loadline_testkit::netns::{self, Life};
use std::process::ExitCode;

/// How many tests run at once, whatever the number of cores: they mostly wait, for pods and for periods.
const SIDE_BY_SIDE: usize = 8;

/// A test: its name and what it does.
type Case = (&'static str, fn() -> Result<()>);

fn trials() -> Vec<Trial> {
    let groups: &[&[Case]] = &[
        &pods::CASES,
        &control_plane::CASES,
        &install::CASES,
        &faults_control_plane::CASES,
        &faults_pages::CASES,
        &faults_pods::CASES,
        &faults_restart::CASES,
        &faults_rights::CASES,
        &faults_writers::CASES,
        &gateway::CASES,
        &crd::CASES,
        &hpa::CASES,
        &dcgm::CASES,
        &metrics_api::CASES,
        &autoscaler::CASES,
        &autoscaler::limits::CASES,
        &autoscaler::pages::CASES,
        &walk::CASES,
        &profiles::CASES,
    ];
    let trial =
        |&(name, run): &Case| Trial::test(name, move || run().map_err(|error| Failed::from(format!("{error:#}"))));
    groups.iter().copied().flatten().map(trial).collect()
}

fn main() -> ExitCode {
    if let Some(served) = faults::serve_page_if_asked() {
        return if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Some(code) = dcgm::as_exporter() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(SIDE_BY_SIDE);
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
