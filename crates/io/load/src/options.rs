//! Bounds of a run.

use crate::report::Slo;
use std::time::Duration;

/// Connections open at once by default; also bounded by the process's descriptors.
pub const DEFAULT_CONNECTIONS: usize = 8_192;
/// Descriptors left for everything that is no load connection.
const RESERVED_DESCRIPTORS: usize = 64;

/// Bounds and measures of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Connections, and so requests in flight, at once. A request that is due while all are taken waits, and counts as late.
    pub max_connections: usize,
    /// From sending a request to the end of its answer, in model time.
    pub request_timeout: Duration,
    /// Making a connection, in wall time.
    pub connect_timeout: Duration,
    /// Largest answer, in bytes.
    pub max_answer_bytes: u64,
    /// Times a request is sent again after a refused connection, a 429 or a 503, having waited as `retry-after` says. 0 is off.
    pub retries: u32,
    /// Longest wait that a `retry-after` can ask for, in model time.
    pub max_retry_wait: Duration,
    /// Records of single requests kept for the report.
    pub max_records: usize,
    /// The objective that attainment is measured against.
    pub slo: Slo,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: DEFAULT_CONNECTIONS.min(descriptor_budget()),
            request_timeout: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(10),
            max_answer_bytes: 256 << 20,
            retries: 0,
            max_retry_wait: Duration::from_secs(120),
            max_records: 0,
            slo: Slo::default(),
        }
    }
}

/// How many connections the process's limit of open files leaves.
#[must_use]
pub fn descriptor_budget() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let files = limit.current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    files.saturating_sub(RESERVED_DESCRIPTORS).max(1)
}

/// Raises this process's limit of open files to the most that it may have, as a program that makes many connections should. Children inherit
/// it. Where the system refuses, the limit stays, and [`descriptor_budget`] says what it allows.
pub fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
}
