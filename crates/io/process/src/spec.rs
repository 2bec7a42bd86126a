//! What is to run: settings, limits, and one specification per pool.

use crate::backoff::BackOff;
use loadline_base::PoolId;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// Stands for the replica's port in the command and in environment values.
pub const PORT_PLACEHOLDER: &str = "{port}";
/// Stands for the replica's slot, counted from 0, in the command and in environment values.
pub const SLOT_PLACEHOLDER: &str = "{slot}";
/// Stands for the replica's slot's device list, such as `0,1`, in the command and in environment values.
pub const DEVICES_PLACEHOLDER: &str = "{gpu}";
/// Set to the replica's slot's device list.
pub const DEVICES_VARIABLE: &str = "CUDA_VISIBLE_DEVICES";

/// The first argument with which the binary re-executes itself as a keeper.
pub const KEEPER_ARGUMENT: &str = "keeper";

/// How a keeper is started: the binary re-executing itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeeperCommand {
    /// The program.
    pub program: PathBuf,
    /// What goes before the arguments of [`crate::keeper`].
    pub args: Vec<OsString>,
}

impl KeeperCommand {
    /// This very binary, even if its file was replaced or removed, with [`KEEPER_ARGUMENT`].
    #[must_use]
    pub fn this_binary() -> Self {
        Self { program: PathBuf::from("/proc/self/exe"), args: vec![OsString::from(KEEPER_ARGUMENT)] }
    }
}

/// What holds for all pools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How keepers are started.
    pub keeper: KeeperCommand,
    /// Bounds and periods.
    pub limits: Limits,
}

/// Bounds and periods, in wall time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Between the beginnings of two readiness probes of a replica whose port is still closed; these cost it nothing.
    pub connect_period: Duration,
    /// The same of a replica that answers and is not ready.
    pub probe_period: Duration,
    /// The same while it is ready.
    pub ready_probe_period: Duration,
    /// How long one probe may take.
    pub probe_timeout: Duration,
    /// Failed probes in a row after which a ready replica counts as not ready.
    pub not_ready_after: u32,
    /// Lines of output kept per replica.
    pub log_lines: usize,
    /// Bytes kept of one line of output.
    pub log_line_bytes: usize,
    /// Pools at once.
    pub max_pools: usize,
    /// Replicas of one pool at once.
    pub max_replicas_per_pool: u32,
    /// New ports tried in a row, without back-off, when another process has taken the one that was chosen.
    pub port_attempts: u32,
    /// How long a keeper may outlive the termination grace before it is killed itself.
    pub keeper_margin: Duration,
    /// Events kept for a slow receiver; beyond them the oldest are dropped, and the log says so.
    pub pending_events: usize,
}

impl Limits {
    /// The defaults of every field.
    pub const DEFAULT: Self = Self {
        connect_period: Duration::from_millis(20),
        probe_period: Duration::from_millis(40),
        ready_probe_period: Duration::from_secs(1),
        probe_timeout: Duration::from_millis(300),
        not_ready_after: 3,
        log_lines: 40,
        log_line_bytes: 4096,
        max_pools: 256,
        max_replicas_per_pool: 512,
        port_attempts: 5,
        keeper_margin: Duration::from_secs(5),
        pending_events: 4096,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// When a replica is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// When a GET of this path is answered with a 2xx status.
    Http(String),
    /// When its port accepts a connection.
    Connect,
}

/// One pool: what runs as each of its replicas. Spans are model time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSpec {
    /// Its name; replica ids begin with it.
    pub pool: PoolId,
    /// Program and arguments; `{port}`, `{slot}` and `{gpu}` are replaced.
    pub command: Vec<String>,
    /// Added to Loadline's own environment; `{port}`, `{slot}` and `{gpu}` are replaced.
    pub env: BTreeMap<String, String>,
    /// Where it runs; Loadline's own working directory if absent.
    pub working_directory: Option<PathBuf>,
    /// When a replica is ready.
    pub readiness: Readiness,
    /// From start to ready.
    pub startup_timeout: Duration,
    /// From SIGTERM to SIGKILL.
    pub termination_grace: Duration,
    /// Waits before restarts.
    pub restart: BackOff,
    /// One `CUDA_VISIBLE_DEVICES` value per slot, such as `0` or `0,1`; slots may name the same device. Where it is not
    /// empty there are never more replicas than slots, ending ones included.
    pub devices: Vec<String>,
    /// Whether each line of output also goes to Loadline's log, with the replica's id in front.
    pub forward_logs: bool,
}

impl PoolSpec {
    /// A pool with the defaults: ready when `GET /health` says so within 10 minutes, 30 s of grace, no devices.
    #[must_use]
    pub fn new(pool: PoolId, command: Vec<String>) -> Self {
        Self {
            pool,
            command,
            env: BTreeMap::new(),
            working_directory: None,
            readiness: Readiness::Http("/health".to_owned()),
            startup_timeout: Duration::from_secs(600),
            termination_grace: Duration::from_secs(30),
            restart: BackOff::DEFAULT,
            devices: Vec::new(),
            forward_logs: false,
        }
    }
}

/// Why a set of pools is not accepted; nothing of it takes effect.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpecError {
    /// No program.
    #[error("pool `{pool}`: `command` is empty; write a program and its arguments, with `{{port}}` for the port")]
    NoCommand {
        /// The pool.
        pool: PoolId,
    },
    /// The replica could not know its port.
    #[error("pool `{pool}`: neither `command` nor `env` has `{{port}}`, so a replica cannot know where to listen")]
    NoPort {
        /// The pool.
        pool: PoolId,
    },
    /// There is nothing to put in the place of `{gpu}`.
    #[error("pool `{pool}`: `{{gpu}}` is used but no devices are given; list one set of devices per replica slot")]
    NoDevices {
        /// The pool.
        pool: PoolId,
    },
    /// A zero byte cannot be passed to a process, nor `=` in a variable's name.
    #[error("pool `{pool}`: `{text}` cannot be passed to a process; remove the zero byte or the `=` in the name")]
    NotPassable {
        /// The pool.
        pool: PoolId,
        /// The text.
        text: String,
    },
    /// Two pools with one name.
    #[error("pool `{pool}` is given twice; names must differ")]
    Twice {
        /// The pool.
        pool: PoolId,
    },
    /// More pools than the limit.
    #[error("{count} pools are more than the limit of {limit}; raise `max_pools`")]
    TooMany {
        /// How many were given.
        count: usize,
        /// The limit.
        limit: usize,
    },
}

pub(crate) fn check(pools: &[PoolSpec], limits: &Limits) -> Result<(), SpecError> {
    if pools.len() > limits.max_pools {
        return Err(SpecError::TooMany { count: pools.len(), limit: limits.max_pools });
    }
    let mut seen = BTreeSet::new();
    for spec in pools {
        let pool = || spec.pool.clone();
        if !seen.insert(&spec.pool) {
            return Err(SpecError::Twice { pool: pool() });
        }
        if spec.command.first().is_none_or(String::is_empty) {
            return Err(SpecError::NoCommand { pool: pool() });
        }
        let uses = |placeholder| spec.command.iter().chain(spec.env.values()).any(|text| text.contains(placeholder));
        if !uses(PORT_PLACEHOLDER) {
            return Err(SpecError::NoPort { pool: pool() });
        }
        if spec.devices.is_empty() && uses(DEVICES_PLACEHOLDER) {
            return Err(SpecError::NoDevices { pool: pool() });
        }
        let bad_name = spec.env.keys().find(|name| name.is_empty() || name.contains('='));
        let texts = spec.command.iter().chain(spec.env.keys()).chain(spec.env.values()).chain(&spec.devices);
        if let Some(text) = bad_name.or_else(|| texts.into_iter().find(|text| text.contains('\0'))) {
            return Err(SpecError::NotPassable { pool: pool(), text: text.replace('\0', "\\0") });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_run_is_refused_with_what_to_do() {
        let pool =
            |command: &[&str]| PoolSpec::new(PoolId::from("a"), command.iter().map(|s| (*s).to_owned()).collect());
        let by_env = PoolSpec { env: BTreeMap::from([("P".to_owned(), "{port}".to_owned())]), ..pool(&["x"]) };
        let bad_env = PoolSpec { env: BTreeMap::from([("A=B".to_owned(), "1".to_owned())]), ..pool(&["x", "{port}"]) };
        for (specs, part) in [
            (vec![pool(&["x", "--port={port}"])], ""),
            (vec![by_env], ""),
            (vec![], ""),
            (vec![pool(&[])], "`command` is empty"),
            (vec![pool(&["", "{port}"])], "`command` is empty"),
            (vec![pool(&["x"])], "has `{port}`"),
            (vec![pool(&["x", "{port}", "{gpu}"])], "`{gpu}` is used but no devices"),
            (vec![PoolSpec { devices: vec!["0".to_owned()], ..pool(&["x", "{port}", "{gpu}"]) }], ""),
            (vec![pool(&["x", "{port}"]), pool(&["x", "{port}"])], "given twice"),
            (vec![pool(&["x\0", "{port}"])], "`x\\0` cannot be passed"),
            (vec![bad_env], "`A=B` cannot be passed"),
        ] {
            match check(&specs, &Limits::DEFAULT) {
                Ok(()) => assert_eq!(part, "", "{specs:?}"),
                Err(error) => assert!(!part.is_empty() && error.to_string().contains(part), "{error} / {part}"),
            }
        }
        let limits = Limits { max_pools: 0, ..Limits::DEFAULT };
        assert_eq!(check(&[pool(&["x"])], &limits), Err(SpecError::TooMany { count: 1, limit: 0 }));
    }
}
