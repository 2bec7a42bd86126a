//! Child processes with their logs in files, and what the kernel says of them.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// `USER_HZ`: 100 whatever the kernel's own rate (`man 5 proc`).
const TICKS_PER_SECOND: f64 = 100.0;
/// Open files of the page server, with room for the API.
const OPEN_FILES: u64 = 16_384;
/// How long a process may take to end after SIGTERM.
const END_LIMIT: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(20);

/// A process that ends with this value.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it with its output in `FOLDER/NAME.log`.
    pub(crate) fn start(name: &str, command: &mut Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        Ok(Self { child: child.with_context(|| format!("cannot start `{name}`"))?, log })
    }

    /// An error with the end of its log if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}:\n{}", self.log.display(), self.tail()),
        }
    }

    /// The end of its log.
    pub(crate) fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
    }

    /// Its whole log.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Its number, as seen in the namespace.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn file(&self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.child.id());
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }

    /// CPU time of all its threads so far, seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = self.file("stat")?;
        let (_, fields) = stat.rsplit_once(')').context("no process status")?;
        let mut times = fields.split_whitespace().skip(11).map(str::parse::<f64>);
        let (user, system) = (times.next().context("no user time")??, times.next().context("no system time")??);
        Ok((user + system) / TICKS_PER_SECOND)
    }

    /// Memory, megabytes: resident now (`VmRSS`) or at most so far (`VmHWM`).
    pub(crate) fn memory(&self, field: &str) -> Result<f64> {
        let status = self.file("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix("kB")).context("no memory figure")?;
        Ok(kibibytes.trim().parse::<f64>()? * 1024.0 / 1e6)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            // it may have ended by itself
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        let until = Instant::now() + END_LIMIT;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(LOOK);
        }
        // nothing is left to do where even this fails
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Raises the limit on open files; children inherit it.
pub(crate) fn raise_open_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < OPEN_FILES) {
        let maximum = limit.maximum.map(|most| most.max(OPEN_FILES));
        setrlimit(Resource::Nofile, Rlimit { current: Some(OPEN_FILES), maximum })
            .with_context(|| format!("{OPEN_FILES} open files are needed; raise `ulimit -n`"))?;
    }
    Ok(())
}

/// Processes that wanted to run, over the last minute.
pub(crate) fn load_average() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split_whitespace().next().context("no load average")?.parse()?)
}
