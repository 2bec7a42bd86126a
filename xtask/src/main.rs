//! `cargo xtask`: everything a developer or CI runs.
//!
//! `test`, `cluster`, `conformance`, `bench`, `layers`, `codegen`. Deliberately absent: anything a user needs.

mod bench;
mod cluster;
mod codegen;
mod conformance;
mod layers;
mod test;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask <command>
  test [--full] [--minor M] [PART...]
                                     everything CI runs, or the named parts (see CONTRIBUTING.md); --full adds the long
                                     variants, --minor names the Kubernetes of the `kube` part (1.37, or 1.33)
  cluster up|exec|shell|status|down  a Kubernetes cluster on this machine to play with: a real control plane, and pods as
                                     local processes in a private network; `cluster` alone says more
  conformance hpa|openmetrics DIR    test vectors of a folder; last line `N passed, N failed`
  bench [parse|decide|gateway|wake|idle|kube ...]
                                     figures with their goals; exit code 1 on a miss
  layers                             tiers, dependencies, licences, file and function sizes
  codegen [--check]                  generated reference pages; --check compares without writing";

/// The repository root.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Where shared test material lies: `$LOADLINE_SHARED`, or `shared` beside the repository.
pub(crate) fn shared() -> PathBuf {
    std::env::var_os("LOADLINE_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["test", rest @ ..] => test::run(rest),
        ["cluster", rest @ ..] => cluster::run(rest),
        ["conformance", rest @ ..] => conformance::run(rest),
        ["bench", rest @ ..] => bench::run(rest),
        // Started by benchmarks only.
        [bench::replica::COMMAND, rest @ ..] => bench::replica::run(rest),
        ["layers"] => layers::run(),
        ["codegen"] => codegen::run(codegen::Mode::Write),
        ["codegen", "--check"] => codegen::run(codegen::Mode::Check),
        _ => Err(anyhow::anyhow!("{USAGE}")),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
