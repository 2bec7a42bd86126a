//! Request traces: what arrived when, how long the prompts and answers were, and which prefixes they shared.
//!
//! Forms read, told apart by the first line:
//!
//! | form | first line | arrival |
//! | --- | --- | --- |
//! | own CSV | `arrival_s,input_tokens,output_tokens[,client]` | seconds from the start |
//! | Azure CSV (AzurePublicDataset, LLM inference 2023 and 2024) | `TIMESTAMP,ContextTokens,GeneratedTokens` | wall time; the earliest row is time 0 |
//! | BurstGPT CSV, 6 and 8 columns | `Timestamp,..,Request tokens,Response tokens,..` | seconds from the start |
//! | Mooncake JSONL (`FAST25-release/traces`) | `timestamp`, `input_length`, `output_length`, `hash_ids` | milliseconds from the start |
//! | Bailian JSONL (qwen-bailian-usagetraces-anon) | the same and `chat_id` | seconds from the start |
//!
//! Columns are found by name, so their order does not matter and further ones are passed over. A gzip file is undone by the caller.

mod fields;
mod lines;
#[cfg(test)]
mod tests;

use fields::{Columns, Row};
use lines::Lines;
use std::io::BufRead;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// One request of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// Time from the start of the trace.
    pub arrival: Duration,
    /// Prompt length in tokens.
    pub input_tokens: u32,
    /// Answer length in tokens; some traces record failed requests with 0.
    pub output_tokens: u32,
    /// The tenant, where the trace names one.
    pub client: Option<Arc<str>>,
    /// Ids of the prompt's prefix blocks, in order; empty where the trace has none. The block length is [`Format::prefix_block_tokens`].
    pub prefix_hashes: Vec<u64>,
}

/// The form of a trace file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// Our own CSV.
    Own,
    /// Azure LLM inference trace.
    Azure,
    /// BurstGPT.
    BurstGpt,
    /// Mooncake.
    Mooncake,
    /// Qwen-Bailian.
    Bailian,
}

impl Format {
    /// The form's name in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Own => "Loadline CSV",
            Self::Azure => "Azure CSV",
            Self::BurstGpt => "BurstGPT CSV",
            Self::Mooncake => "Mooncake JSONL",
            Self::Bailian => "Bailian JSONL",
        }
    }

    /// Tokens per prefix block, for the forms that carry prefix hashes.
    #[must_use]
    pub const fn prefix_block_tokens(self) -> Option<u32> {
        match self {
            Self::Mooncake => Some(512),
            Self::Bailian => Some(16),
            Self::Own | Self::Azure | Self::BurstGpt => None,
        }
    }

    /// Whether arrivals are wall times, of which the earliest becomes time 0.
    const fn has_wall_times(self) -> bool {
        matches!(self, Self::Azure)
    }
}

/// Bounds on what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest line, in bytes.
    pub line_bytes: usize,
    /// Most requests that [`read_all`] keeps; it stops reading there.
    pub requests: usize,
    /// [`read_all`] leaves out what arrives at this time or later.
    pub until: Duration,
}

/// Longest line by default; a Bailian line of a 200,000-token prompt has about 100 KB.
pub const DEFAULT_LINE_BYTES: usize = 1 << 20;
/// Most requests kept by default; the largest trace of the field that is commonly used whole has 1.4 million.
pub const DEFAULT_REQUESTS: usize = 10_000_000;

impl Default for Limits {
    fn default() -> Self {
        Self { line_bytes: DEFAULT_LINE_BYTES, requests: DEFAULT_REQUESTS, until: Duration::MAX }
    }
}

/// Why a trace cannot be read.
#[derive(Debug, Error)]
pub enum TraceError {
    /// Reading failed.
    #[error("line {line}: reading failed: {source}")]
    Read {
        /// Line number, from 1.
        line: u64,
        /// The reader's error.
        source: std::io::Error,
    },
    /// Nothing but blank lines.
    #[error(
        "the trace is empty: expected a header such as `arrival_s,input_tokens,output_tokens` or JSON lines with `timestamp`"
    )]
    Empty,
    /// The first line is no known form.
    #[error(
        "line {line}: `{text}` is no trace header: expected `arrival_s,input_tokens,output_tokens[,client]`, \
         `TIMESTAMP,ContextTokens,GeneratedTokens`, BurstGPT's `Timestamp,Model,Request tokens,..`, or JSON lines with \
         `timestamp`, `input_length` and `output_length`"
    )]
    UnknownForm {
        /// Line number, from 1.
        line: u64,
        /// The start of the line.
        text: String,
    },
    /// A line over the limit.
    #[error("line {line} is longer than {limit} bytes: split it, or raise the line limit")]
    LineTooLong {
        /// Line number, from 1.
        line: u64,
        /// The limit in force.
        limit: usize,
    },
    /// A row with too few fields.
    #[error("line {line}: the column `{column}` is missing: the row has {found} fields")]
    MissingField {
        /// Line number, from 1.
        line: u64,
        /// The column that should be there.
        column: String,
        /// Fields found.
        found: usize,
    },
    /// A value that cannot be used.
    #[error("line {line}, column `{column}`: `{value}` is not {expected}")]
    BadValue {
        /// Line number, from 1.
        line: u64,
        /// The column.
        column: String,
        /// The value as written, shortened.
        value: String,
        /// What it should have been.
        expected: &'static str,
    },
    /// A JSON line that does not parse.
    #[error("line {line}: not a JSON object with `timestamp`, `input_length` and `output_length`: {reason}")]
    BadJson {
        /// Line number, from 1.
        line: u64,
        /// The parser's words.
        reason: String,
    },
    /// Streaming met an arrival before an earlier one.
    #[error(
        "line {line}: arrival {arrival_s} s is before the previous one at {previous_s} s: sort the file by arrival, \
         or load it whole, which sorts"
    )]
    Unsorted {
        /// Line number, from 1.
        line: u64,
        /// This arrival in seconds.
        arrival_s: f64,
        /// The previous arrival in seconds.
        previous_s: f64,
    },
}

/// Streams a trace in the order of the file, one line in memory at a time.
///
/// Arrivals must not go back (several at one instant are fine); [`read_all`] also takes unsorted files. After an error the iterator ends.
#[derive(Debug)]
pub struct Reader<R> {
    rows: Rows<R>,
    origin: Option<i64>,
    previous: i64,
    failed: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the first line and finds the form.
    ///
    /// # Errors
    /// When nothing readable is there or the first line is no known form.
    pub fn new(input: R, limits: Limits) -> Result<Self, TraceError> {
        Ok(Self { rows: Rows::new(input, limits.line_bytes)?, origin: None, previous: i64::MIN, failed: false })
    }

    /// The form of the file.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.rows.columns.format()
    }

    fn step(&mut self) -> Result<Option<Request>, TraceError> {
        let Some(row) = self.rows.next_row()? else { return Ok(None) };
        if row.nanos < self.previous {
            return Err(TraceError::Unsorted {
                line: self.rows.lines.number(),
                arrival_s: loadline_base::num::i64_to_f64(row.nanos) / 1e9,
                previous_s: loadline_base::num::i64_to_f64(self.previous) / 1e9,
            });
        }
        self.previous = row.nanos;
        let first = if self.rows.columns.format().has_wall_times() { row.nanos } else { 0 };
        let origin = *self.origin.get_or_insert(first);
        Ok(Some(row.request(origin)))
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Request, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        step.transpose()
    }
}

/// A whole trace in memory, sorted by arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The form it was read from.
    pub format: Format,
    /// The requests, by arrival; those of one instant keep the order of the file.
    pub requests: Vec<Request>,
}

/// Reads a whole trace and sorts it by arrival.
///
/// # Errors
/// The first line that cannot be used, with its number, column and value.
pub fn read_all<R: BufRead>(input: R, limits: Limits) -> Result<Trace, TraceError> {
    let mut rows = Rows::new(input, limits.line_bytes)?;
    let format = rows.columns.format();
    let mut kept: Vec<Row> = Vec::new();
    let until = i64::try_from(limits.until.as_nanos()).unwrap_or(i64::MAX);
    while kept.len() < limits.requests {
        let Some(row) = rows.next_row()? else { break };
        if format.has_wall_times() || row.nanos < until {
            kept.push(row);
        }
    }
    kept.sort_by_key(|row| row.nanos);
    let origin = if format.has_wall_times() { kept.first().map_or(0, |row| row.nanos) } else { 0 };
    let requests =
        kept.into_iter().map(|row| row.request(origin)).filter(|request| request.arrival < limits.until).collect();
    Ok(Trace { format, requests })
}

/// Rows in the order of the file.
#[derive(Debug)]
struct Rows<R> {
    lines: Lines<R>,
    columns: Columns,
    /// The first line of a form without a header is a row of its own.
    pending: bool,
}

impl<R: BufRead> Rows<R> {
    fn new(input: R, line_bytes: usize) -> Result<Self, TraceError> {
        let mut lines = Lines::new(input, line_bytes);
        if !lines.advance()? {
            return Err(TraceError::Empty);
        }
        let columns = Columns::detect(lines.line())
            .ok_or_else(|| TraceError::UnknownForm { line: lines.number(), text: fields::shorten(lines.line()) })?;
        let pending = columns.first_line_is_a_row();
        Ok(Self { lines, columns, pending })
    }

    fn next_row(&mut self) -> Result<Option<Row>, TraceError> {
        if !std::mem::take(&mut self.pending) && !self.lines.advance()? {
            return Ok(None);
        }
        self.columns.row(self.lines.line(), self.lines.number()).map(Some)
    }
}
