//! `loadline keeper`: holds one replica and ends it when Loadline is gone.

use std::ffi::OsString;
use std::process::ExitCode;

/// Passed on to `loadline_process::keeper`, which documents them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs the keeper.
pub(crate) fn run(args: Args) -> ExitCode {
    loadline_process::keeper::run(args.arguments)
}
