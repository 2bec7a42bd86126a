//! What can be wrong with a page, and where.

use std::fmt;
use thiserror::Error;

/// How many bytes of the offending text an error shows.
const NEAR_BYTES: usize = 40;

/// What is wrong. The text says what to do where that is not obvious.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Problem {
    /// The page is larger than [`super::Limits::max_page_bytes`].
    #[error("the page has {bytes} bytes; the limit is {limit} (`max_page_bytes`)")]
    PageTooLarge {
        /// Size of the page.
        bytes: usize,
        /// The limit in force.
        limit: usize,
    },
    /// The line is longer than [`super::Limits::max_line_bytes`].
    #[error("the line has {bytes} bytes; the limit is {limit} (`max_line_bytes`)")]
    LineTooLong {
        /// Size of the line.
        bytes: usize,
        /// The limit in force.
        limit: usize,
    },
    /// More wanted samples than [`super::Limits::max_samples`].
    #[error("the page has more than {limit} wanted samples (`max_samples`)")]
    TooManySamples {
        /// The limit in force.
        limit: usize,
    },
    /// More labels than [`super::Limits::max_labels_per_sample`].
    #[error("the sample has more than {limit} labels (`max_labels_per_sample`)")]
    TooManyLabels {
        /// The limit in force.
        limit: usize,
    },
    /// The body is something else.
    #[error("this is {what}, not a metrics page; check the path, the port and the `Accept` header")]
    NotMetrics {
        /// What it looks like.
        what: &'static str,
    },
    /// OpenMetrics without `# EOF`.
    #[error("the page does not end with `# EOF`: it was cut off")]
    Truncated,
    /// Bytes that are not UTF-8.
    #[error("the line is not UTF-8")]
    NotUtf8,
    /// The line does not have the shape of the format.
    #[error("expected {expected}")]
    Expected {
        /// What should have stood there.
        expected: &'static str,
    },
    /// The line has the right shape and breaks a rule of OpenMetrics.
    #[error("{rule}")]
    Rule {
        /// The rule.
        rule: &'static str,
    },
}

/// A problem at a place of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpositionError {
    /// Byte offset from the start of the page.
    pub offset: usize,
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: Problem,
    /// The text at the offset, shortened.
    pub near: String,
}

impl fmt::Display for ExpositionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, byte {}: {}", self.line, self.offset, self.problem)?;
        if self.near.is_empty() { Ok(()) } else { write!(f, ", at `{}`", self.near) }
    }
}

impl std::error::Error for ExpositionError {}

impl ExpositionError {
    /// Builds the error; `page` gives the text to show.
    pub(crate) fn at(page: &[u8], offset: usize, line: usize, problem: Problem) -> Self {
        let tail = page.get(offset..).unwrap_or_default();
        let end = memchr::memchr2(b'\n', b'\r', tail.get(..NEAR_BYTES).unwrap_or(tail));
        let shown = tail.get(..end.unwrap_or(NEAR_BYTES.min(tail.len()))).unwrap_or_default();
        let near = shown.utf8_chunks().map(|chunk| chunk.valid().escape_debug().to_string()).collect();
        Self { offset, line, problem, near }
    }
}

/// A problem inside one line, before the place of the line is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LineProblem {
    /// How many bytes of the line were left when it was found.
    pub(crate) left: usize,
    /// What is wrong.
    pub(crate) problem: Problem,
}

impl LineProblem {
    pub(crate) fn expected(rest: &str, expected: &'static str) -> Self {
        Self { left: rest.len(), problem: Problem::Expected { expected } }
    }
}
