//! `cargo xtask cluster`: the test kit's cluster, built when needed and run in place. What it does is said there.

use crate::root;
use crate::test::PROFILE;
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Commands that start something new, for which the programs are brought up to date.
const FRESH: [&str; 2] = ["up", "build"];

/// Runs the `cluster` binary with these words.
pub(crate) fn run(words: &[&str]) -> Result<ExitCode> {
    let mut program = program()?;
    if !program.exists() || words.first().is_some_and(|word| FRESH.contains(word)) {
        // Both: the cluster's pods run the other one, which it looks for beside itself.
        program = built(&["cluster", "loadline"])?;
    }
    let status = Command::new(&program).args(words).status();
    let status = status.with_context(|| format!("{} could not be run", program.display()))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Brings binaries of the workspace up to date, with the profile and the features of the tests; the path of `cluster`, with the
/// others beside it.
pub(crate) fn built(binaries: &[&str]) -> Result<PathBuf> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--workspace", "--profile", PROFILE, "--locked"]);
    for binary in binaries {
        command.args(["--bin", binary]);
    }
    let status = command.current_dir(root()).status().context("cargo could not be run")?;
    anyhow::ensure!(status.success(), "{} could not be built", binaries.join(" and "));
    program()
}

/// Beside this program's own folder: both are in one target folder.
fn program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("the path of this program is unknown")?;
    let target = own.parent().and_then(|profile| profile.parent()).context("this program lies in no target folder")?;
    Ok(target.join(PROFILE).join("cluster"))
}
