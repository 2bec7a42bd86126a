//! What the supervisor tells.

use crate::launch::StartError;
use loadline_base::{PoolId, ReplicaId, Timestamp};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Why a replica's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReason {
    /// It returned this code. Keepers and shells report death by signal n as 128 + n.
    Code(u8),
    /// Its keeper was killed from outside; the replica was killed after it.
    KeeperKilled,
    /// It was terminated because it was not ready in time.
    StartTimedOut,
    /// It was terminated because another process listens on the port it was given.
    PortTaken(u16),
    /// It could not be watched, and was killed.
    Unwatchable(String),
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => {
                let number = code.checked_sub(128).map(i32::from).filter(|n| *n > 0);
                match number.and_then(|n| nix::sys::signal::Signal::try_from(n).ok()) {
                    Some(signal) => write!(f, "ended by signal {} ({})", signal as i32, signal.as_str()),
                    None => write!(f, "exited with code {code}"),
                }
            }
            Self::KeeperKilled => f.write_str("its keeper was killed from outside, and the replica with it"),
            Self::StartTimedOut => f.write_str("terminated because it was not ready in time"),
            Self::PortTaken(port) => write!(f, "another process took port {port} before it could listen"),
            Self::Unwatchable(error) => write!(f, "killed because it could not be watched: {error}"),
        }
    }
}

/// One change of one replica. Per replica the order is `Started`, then `Ready` and `NotReady` in turn or
/// `StartTimedOut`, then `Exited` or `Stopped`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessEvent {
    /// Its process was started.
    Started {
        /// Which.
        replica: ReplicaId,
        /// Its pool.
        pool: PoolId,
        /// Where it will listen.
        address: SocketAddr,
        /// When.
        created_at: Timestamp,
        /// The process id of its keeper.
        keeper: u32,
    },
    /// A readiness probe succeeded.
    Ready {
        /// Which.
        replica: ReplicaId,
        /// When.
        at: Timestamp,
    },
    /// It was ready, and several readiness probes in a row failed; it keeps running.
    NotReady {
        /// Which.
        replica: ReplicaId,
        /// What the last probe saw.
        why: String,
    },
    /// It was not ready in time and is being terminated; `Exited` follows.
    StartTimedOut {
        /// Which.
        replica: ReplicaId,
        /// The limit.
        limit: Duration,
        /// What the last probe saw.
        why: String,
        /// The end of its output.
        last_lines: Vec<String>,
    },
    /// It ended without having been asked to.
    Exited {
        /// Which.
        replica: ReplicaId,
        /// Why.
        reason: ExitReason,
        /// The end of its output.
        last_lines: Vec<String>,
        /// When its successor is started, from now.
        restart_in: Duration,
    },
    /// It ended as asked, with everything it had started.
    Stopped {
        /// Which.
        replica: ReplicaId,
    },
    /// A replica of this pool could not be started at all; the text says what to do.
    CannotStart {
        /// The pool.
        pool: PoolId,
        /// Why.
        error: StartError,
        /// When the next attempt is made, from now.
        retry_in: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_read_as_sentences() {
        for (reason, text) in [
            (ExitReason::Code(0), "exited with code 0"),
            (ExitReason::Code(128), "exited with code 128"),
            (ExitReason::Code(137), "ended by signal 9 (SIGKILL)"),
            (ExitReason::Code(143), "ended by signal 15 (SIGTERM)"),
            (ExitReason::Code(255), "exited with code 255"),
            (ExitReason::PortTaken(80), "another process took port 80 before it could listen"),
        ] {
            assert_eq!(reason.to_string(), text);
        }
    }
}
