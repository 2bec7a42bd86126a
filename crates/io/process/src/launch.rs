//! From a pool's specification to a started keeper.

use crate::keeper;
use crate::spec::{DEVICES_PLACEHOLDER, DEVICES_VARIABLE, KeeperCommand, PORT_PLACEHOLDER, PoolSpec, SLOT_PLACEHOLDER};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use thiserror::Error;
use tokio::process::{Child, Command};

/// Marks everything a replica starts, so that it can be found when its keeper is gone.
pub(crate) const TOKEN_VARIABLE: &str = "LOADLINE_REPLICA";

/// Why a replica could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StartError {
    /// No such program.
    #[error("command `{program}` was not found; install it, or write its full path in `command`")]
    NotFound {
        /// As written.
        program: String,
    },
    /// It is there, but not executable.
    #[error("command `{program}` may not be executed; make it executable with `chmod +x {program}`")]
    NotExecutable {
        /// As written.
        program: String,
    },
    /// The working directory is not there.
    #[error("working directory `{path}` does not exist; create it or correct `working_directory`")]
    NoDirectory {
        /// As written.
        path: PathBuf,
    },
    /// No port on loopback.
    #[error("no free port on 127.0.0.1: {error}; end processes that hold many connections")]
    NoPort {
        /// What the system said.
        error: String,
    },
    /// The keeper did not start.
    #[error("cannot start the keeper `{program}`: {error}; raise the limits on processes, open files or memory")]
    Keeper {
        /// The keeper.
        program: PathBuf,
        /// What the system said.
        error: String,
    },
}

/// A port on loopback that nothing listens on now.
pub(crate) fn free_address() -> Result<SocketAddr, StartError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| StartError::NoPort { error: error.to_string() })
}

fn fill(text: &str, port: u16, slot: u32, devices: &str) -> String {
    // other braces stay: JSON in arguments is common
    text.replace(PORT_PLACEHOLDER, &port.to_string())
        .replace(SLOT_PLACEHOLDER, &slot.to_string())
        .replace(DEVICES_PLACEHOLDER, devices)
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn check_program(spec: &PoolSpec) -> Result<(), StartError> {
    if let Some(path) = spec.working_directory.as_ref().filter(|path| !path.is_dir()) {
        return Err(StartError::NoDirectory { path: path.clone() });
    }
    let program = spec.command.first().cloned().unwrap_or_default();
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![spec.working_directory.clone().unwrap_or_default().join(&program)]
    } else {
        let path = spec.env.get("PATH").map(std::ffi::OsString::from).or_else(|| std::env::var_os("PATH"));
        std::env::split_paths(&path.unwrap_or_default()).map(|folder| folder.join(&program)).collect()
    };
    if candidates.iter().any(|path| is_executable(path)) {
        Ok(())
    } else if candidates.iter().any(|path| path.exists()) {
        Err(StartError::NotExecutable { program })
    } else {
        Err(StartError::NotFound { program })
    }
}

/// Starts the keeper of one replica.
pub(crate) fn spawn(
    keeper: &KeeperCommand,
    spec: &PoolSpec,
    (port, slot): (u16, u32),
    grace: Duration,
    token: &str,
) -> Result<Child, StartError> {
    check_program(spec)?;
    let devices = usize::try_from(slot).ok().and_then(|slot| spec.devices.get(slot));
    let fill = |text: &str| fill(text, port, slot, devices.map_or("", String::as_str));
    let mut command = Command::new(&keeper.program);
    command
        .args(&keeper.args)
        .args(keeper::arguments(grace))
        .args(spec.command.iter().map(|text| fill(text)))
        .envs(spec.env.iter().map(|(name, value)| (name, fill(value))))
        .env(TOKEN_VARIABLE, token)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(devices) = devices {
        command.env(DEVICES_VARIABLE, devices);
    }
    if let Some(path) = &spec.working_directory {
        command.current_dir(path);
    }
    command.spawn().map_err(|error| StartError::Keeper { program: keeper.program.clone(), error: error.to_string() })
}
