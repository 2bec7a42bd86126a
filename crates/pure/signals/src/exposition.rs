//! Zero-copy reader of the Prometheus text formats 0.0.4 and 1.0.0 and of OpenMetrics 1.0, tolerant where real engines need it.
//!
//! A page is judged by its content, not by its declared version: engines send wrong or missing versions. What is accepted beyond the formats:
//! mixed spaces and tabs, CRLF, blank lines, any order of families and of suffixes inside one, missing metadata, a missing last newline,
//! trailing commas, unknown escapes (kept as written), exemplars and quoted UTF-8 names in every format.
//! Sources: <https://prometheus.io/docs/instrumenting/exposition_formats/>,
//! <https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>.

mod error;
mod labels;
mod line;
mod number;
mod scan;
mod wanted;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use error::{ExpositionError, Problem};
pub use labels::{LabelIter, LabelText};
pub use line::{Exemplar, Line, MetricKind, Sample};
pub use scan::scan;
pub use wanted::WantedNames;

pub(crate) use error::LineProblem;
pub(crate) use labels::{read_quoted, split_legacy_name, unescape};
pub(crate) use line::read_numbers;
pub(crate) use number::parse_float;
pub(crate) use scan::{Visit, scan_with};

/// The two families of text formats; they differ in the meaning of timestamps and in `# EOF`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// OpenMetrics when the last line that is not blank is `# EOF`, else text.
    #[default]
    Detect,
    /// Prometheus text 0.0.4 or 1.0.0: timestamps are integer milliseconds, `# EOF` is a comment.
    Text,
    /// OpenMetrics 1.0: timestamps are seconds; a page without `# EOF` is truncated and refused.
    OpenMetrics,
}

/// What to do with a line that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BadLines {
    /// Leave the line out, count it, remember the first [`Limits::max_remembered_errors`], and go on.
    #[default]
    Skip,
    /// End the scan with its error.
    Fail,
}

/// Bounds on hostile or broken pages. Exceeding a page bound ends the scan; exceeding a line bound makes the line a bad line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest page, in bytes. The largest known real page is Ray's with 0.6 MB.
    pub max_page_bytes: usize,
    /// Longest line, in bytes without the line end. The longest line in the captures has 1,052 bytes.
    pub max_line_bytes: usize,
    /// Most wanted samples on a page; the scan ends with an error beyond it.
    pub max_samples: usize,
    /// Most labels on one wanted sample or exemplar.
    pub max_labels_per_sample: usize,
    /// How many bad lines are remembered with their errors; all are counted.
    pub max_remembered_errors: usize,
}

impl Default for Limits {
    /// 8 MiB, 64 KiB, 200,000 samples, 64 labels, 8 errors.
    fn default() -> Self {
        Self {
            max_page_bytes: 8 << 20,
            max_line_bytes: 64 << 10,
            max_samples: 200_000,
            max_labels_per_sample: 64,
            max_remembered_errors: 8,
        }
    }
}

/// How to read a page. The default is what scraping uses: detect the format, skip bad lines, default limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// The format, where it is known from outside.
    pub format: Format,
    /// What to do with lines that cannot be read.
    pub bad_lines: BadLines,
    /// Bounds.
    pub limits: Limits,
}

/// What a scan saw.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// Lines of every sort, blank ones too.
    pub lines: usize,
    /// Wanted samples handed to the visitor.
    pub samples: usize,
    /// Lines left out because they could not be read.
    pub bad_lines: usize,
    /// The first bad lines.
    pub errors: Vec<ExpositionError>,
    /// Whether the page was read as OpenMetrics and ended with `# EOF`.
    pub open_metrics: bool,
}
