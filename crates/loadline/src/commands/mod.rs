//! One module per command; each has `Args` and `run`.

pub(crate) mod bench;
pub(crate) mod engine;
pub(crate) mod explain;
pub(crate) mod gateway;
pub(crate) mod reference;
pub(crate) mod serve;
pub(crate) mod signals;
pub(crate) mod up;

use anyhow::Context;
use std::io::{Read, Write};
use std::path::Path;

/// Prints to standard output; a reader that has seen enough, such as `head`, is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// The text of a file of at most `most` bytes; one byte more is read, so that who parses it says what is wrong.
pub(crate) fn read_bounded(path: &Path, most: usize) -> anyhow::Result<String> {
    let name = path.display();
    anyhow::ensure!(!path.is_dir(), "`{name}` is a directory; name a file in it");
    let file = std::fs::File::open(path).with_context(|| format!("`{name}` cannot be opened; check the path"))?;
    let most = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let mut text = String::new();
    file.take(most).read_to_string(&mut text).with_context(|| format!("`{name}` cannot be read as UTF-8 text"))?;
    Ok(text)
}

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
