//! What every benchmark of processes shares: programs, cores, CPU time, memory, ports, a place for files.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The core of whatever is measured.
pub(super) const PROXY_CORE: &str = "0";
/// The core of load generators and upstream servers.
pub(super) const LOAD_CORE: &str = "1";
/// Ticks per second of `/proc/PID/stat`; Linux shows user programs 100 whatever the kernel's own rate (`man 5 proc`).
const TICKS_PER_SECOND: f64 = 100.0;
/// How long a server may take to answer its first request.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a process may take to end after SIGTERM.
const END_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// A folder of this benchmark under `target/bench`, made empty.
pub(super) fn folder(name: &str) -> Result<PathBuf> {
    let path = target().join("bench").join(name);
    if path.exists() {
        fs::remove_dir_all(&path).with_context(|| format!("cannot empty `{}`", path.display()))?;
    }
    fs::create_dir_all(&path).with_context(|| format!("cannot create `{}`", path.display()))?;
    path.canonicalize().with_context(|| format!("cannot resolve `{}`", path.display()))
}

/// Where cargo puts what it builds.
pub(super) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::root().join("target"), PathBuf::from)
}

/// Builds the release binary and says where it is; `$LOADLINE_BIN` names another one to measure instead.
pub(super) fn loadline() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LOADLINE_BIN").map(PathBuf::from) {
        return path.canonicalize().with_context(|| format!("`$LOADLINE_BIN`: cannot find `{}`", path.display()));
    }
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--package", "loadline"])
        .current_dir(crate::root())
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("`cargo build --release --package loadline` failed");
    }
    let path = target().join("release/loadline");
    path.canonicalize().with_context(|| format!("cannot find `{}`", path.display()))
}

/// Installs the Debian packages of the programs that are missing, or says which they are.
pub(super) fn need(programs: &[(&str, &str)]) -> Result<()> {
    let is_missing = |program: &str| {
        let look = Command::new("sh").args(["-c", "command -v \"$0\"", program]).stdout(Stdio::null()).status();
        !look.is_ok_and(|status| status.success())
    };
    let missing: Vec<&str> =
        programs.iter().filter(|(program, _)| is_missing(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    eprintln!("installing {packages}");
    let install = format!("apt-get update -qq && apt-get install -y -qq --no-install-recommends {packages}");
    let done = Command::new("sh").args(["-c", &install]).stdout(Stdio::null()).status();
    if done.is_ok_and(|status| status.success()) {
        Ok(())
    } else {
        bail!("missing: {packages}; install these packages and run again")
    }
}

/// Fails unless two cores can be told apart.
pub(super) fn need_two_cores() -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 {
        bail!("missing: a second core; the measured process and its load must not share one");
    }
    Ok(())
}

/// Raises the limit on open files as far as the system lets us; all children inherit it.
pub(super) fn raise_open_files(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let maximum = limit.maximum.map(|most| most.max(wanted));
    if setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_err() {
        bail!("missing: {wanted} open files per process; raise `ulimit -n` and run again");
    }
    Ok(())
}

/// A command on one core.
pub(super) fn pinned(core: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program);
    command
}

/// Keeps both cores from sleeping while it lives: on a virtual machine a sleeping core takes longer to wake than a proxy
/// takes to answer. The loops run only when a core has nothing else to do (`SCHED_IDLE`, `man 7 sched`).
pub(super) struct Awake(#[expect(dead_code, reason = "they end when it is dropped")] Vec<Running>);

impl Awake {
    /// Starts one loop per core.
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let loops = [PROXY_CORE, LOAD_CORE].map(|core| {
            let mut command = Command::new("chrt");
            command.args(["--idle", "0", "taskset", "-c", core, "sh", "-c", "while :; do :; done"]);
            Running::start(&format!("awake-{core}"), &mut command, folder)
        });
        loops.into_iter().collect::<Result<_>>().map(Self)
    }
}

/// A port that is free now.
pub(super) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on loopback")?;
    Ok(listener.local_addr()?.port())
}

/// The loopback address of a port.
pub(super) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A process that ends with this value.
pub(super) struct Running {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Running {
    /// Starts it with its output in `LOGS/NAME.log`.
    pub(super) fn start(name: &str, command: &mut Command, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write `{}`", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start `{name}`"))?;
        Ok(Self { child, name: name.to_owned(), log })
    }

    /// Waits until `check` holds; fails when the process ends or the limit passes.
    pub(super) fn wait_until(&mut self, mut check: impl FnMut() -> bool) -> Result<()> {
        let until = Instant::now() + START_LIMIT;
        while !check() {
            if let Some(status) = self.child.try_wait()? {
                bail!("`{}` ended with {status}; see `{}`", self.name, self.log.display());
            }
            if Instant::now() > until {
                bail!("`{}` does not answer after {START_LIMIT:?}; see `{}`", self.name, self.log.display());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn file(&self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.child.id());
        fs::read_to_string(&path).with_context(|| format!("cannot read `{path}` of `{}`", self.name))
    }

    /// CPU time of all its threads so far, seconds; children do not count.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        parse_cpu_ticks(&self.file("stat")?)
            .map(|ticks| ticks / TICKS_PER_SECOND)
            .with_context(|| format!("`/proc/{}/stat` has no CPU times", self.child.id()))
    }

    /// Resident memory, bytes.
    pub(super) fn resident_bytes(&self) -> Result<f64> {
        parse_resident(&self.file("status")?)
            .with_context(|| format!("`/proc/{}/status` has no `VmRSS`", self.child.id()))
    }
}

/// `utime` + `stime` of `/proc/PID/stat`: fields 14 and 15, counted behind the name, which may hold spaces.
fn parse_cpu_ticks(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let user: f64 = times.next()?.parse().ok()?;
    let system: f64 = times.next()?.parse().ok()?;
    Some(user + system)
}

fn parse_resident(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::TERM);
        }
        let until = Instant::now() + END_LIMIT;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(POLL);
        }
        // Nothing is left to do where even this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value below which a share of all lies (nearest rank); NaN without values.
pub(super) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * loadline_base::num::usize_to_f64(sorted.len())).ceil().max(1.0);
    let place = usize::try_from(loadline_base::num::f64_to_u64_trunc(rank)).unwrap_or(usize::MAX);
    sorted.get(place.saturating_sub(1)).or(sorted.last()).copied().unwrap_or(f64::NAN)
}

/// The median (nearest rank).
pub(super) fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_take_the_nearest_rank() {
        struct Case {
            values: &'static [f64],
            share: f64,
            expect: f64,
        }
        let cases = [
            Case { values: &[3.0, 1.0, 2.0], share: 0.5, expect: 2.0 },
            Case { values: &[4.0, 1.0, 2.0, 3.0], share: 0.99, expect: 4.0 },
            Case { values: &[4.0, 1.0, 2.0, 3.0], share: 0.25, expect: 1.0 },
            Case { values: &[7.0], share: 0.0, expect: 7.0 },
        ];
        for case in cases {
            assert!((percentile(case.values, case.share) - case.expect).abs() < f64::EPSILON, "{:?}", case.values);
        }
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn proc_files_are_read_behind_names_with_spaces() {
        let stat = "12 (a) b) S 1 1 1 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 1 1 1";
        assert_eq!(parse_cpu_ticks(stat), Some(200.0));
        assert_eq!(parse_cpu_ticks("12"), None);
        assert_eq!(parse_resident("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2_097_152.0));
        assert_eq!(parse_resident("Name:\tx\n"), None);
    }
}
