//! Trace files, plain or gzip.

use flate2::bufread::MultiGzDecoder;
use loadline_sim::trace::{self, Limits, Trace, TraceError};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Bytes read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Why a trace file cannot be used.
#[derive(Debug, Error)]
pub enum TraceFileError {
    /// It cannot be opened or read.
    #[error("cannot open the trace `{}`: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// It is no trace.
    #[error("cannot read the trace `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: TraceError,
    },
}

/// Reads a trace in any form of [`loadline_sim::trace`]; gzip is recognised by its first two bytes, whatever the name.
///
/// # Errors
/// With the file, the line, the column and the value.
pub fn read_trace(path: &Path, limits: Limits) -> Result<Trace, TraceFileError> {
    let open = |source| TraceFileError::Open { path: path.to_owned(), source };
    let mut file = BufReader::with_capacity(BUFFER_BYTES, File::open(path).map_err(open)?);
    let gzip = file.fill_buf().map_err(open)?.starts_with(&[0x1f, 0x8b]);
    let read = if gzip {
        trace::read_all(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(file)), limits)
    } else {
        trace::read_all(file, limits)
    };
    read.map_err(|source| TraceFileError::Read { path: path.to_owned(), source })
}
