//! One module per command; each has `Args` and `run`.

pub(crate) mod bench;
pub(crate) mod engine;
pub(crate) mod explain;
pub(crate) mod reference;
pub(crate) mod signals;
pub(crate) mod up;

/// Sends the log to standard error; `LOADLINE_LOG` sets what is in it (default `info`).
pub(crate) fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LOADLINE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let outcome = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .try_init();
    if outcome.is_err() {
        eprintln!("warning: a log is already set up");
    }
}
