//! Runs folders of test vectors against the real code; the last line is `N passed, N failed`.

mod hpa;
mod hpa_manifest;
mod openmetrics;

use anyhow::{Result, bail};
use std::process::ExitCode;

/// Runs one conformance suite over a folder.
pub(crate) fn run(args: &[&str]) -> Result<ExitCode> {
    match args {
        ["hpa", folder] => hpa::run(std::path::Path::new(folder)),
        ["openmetrics", folder] => openmetrics::run(std::path::Path::new(folder)),
        _ => bail!("usage: cargo xtask conformance <hpa|openmetrics> DIR"),
    }
}
