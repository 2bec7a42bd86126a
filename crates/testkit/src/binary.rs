//! The built `loadline` binary as a child process.

use crate::wait_for;
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Lines kept of a child's output; later ones are read and dropped.
pub const MAX_LINES: usize = 100_000;

/// The built binary: `LOADLINE_BIN`, or beside the running test's folder.
///
/// # Errors
/// If it is in neither place.
pub fn path() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LOADLINE_BIN") {
        return Ok(path.into());
    }
    let test = std::env::current_exe()?;
    let found = test.ancestors().skip(1).take(3).map(|folder| folder.join("loadline")).find(|path| path.is_file());
    found.context("the `loadline` binary is not built; run `cargo build -p loadline` or set `LOADLINE_BIN`")
}

/// A running child; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Running {
    /// Starts `command` with no input and both outputs captured.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let lines = Arc::default();
        if let Some(output) = child.stdout.take() {
            capture(output, Arc::clone(&lines));
        }
        if let Some(output) = child.stderr.take() {
            capture(output, Arc::clone(&lines));
        }
        Ok(Self { child, lines })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Every line so far of both outputs.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a line that contains `part`.
    ///
    /// # Errors
    /// After `patience`, with the output so far.
    pub fn line_with(&self, part: &str, patience: Duration) -> Result<String> {
        let look = || self.lines().into_iter().find(|line| line.contains(part));
        wait_for(&format!("a line with `{part}`"), patience, look).with_context(|| self.lines().join("\n"))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// After `patience`, with the output so far.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let child = &mut self.child;
        let ended = wait_for("the end of the process", patience, || child.try_wait().transpose());
        ended.with_context(|| self.lines().join("\n"))?.context("cannot wait for the process")
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn capture(output: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let Ok(line) = line else { return };
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() < MAX_LINES {
                lines.push(line);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_captured_and_the_end_is_seen() {
        let mut child = Running::start(Command::new("/bin/sh").args(["-c", "echo a; echo b >&2; exit 4"])).expect("sh");
        child.line_with("a", crate::PATIENCE).expect("a");
        child.line_with("b", crate::PATIENCE).expect("b");
        assert_eq!(child.wait(crate::PATIENCE).expect("end").code(), Some(4));
        assert!(child.line_with("c", Duration::from_millis(1)).is_err());
    }
}
