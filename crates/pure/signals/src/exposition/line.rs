//! One line: metadata or a sample.

use super::error::{LineProblem, Problem};
use super::labels::{LabelText, read_labels, read_quoted, read_series, skip_blank, split_metric_name, unescape};
use super::number::{parse_millis, parse_seconds, split_float};
use loadline_base::Timestamp;
use std::borrow::Cow;

/// The type a page declares for a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetricKind {
    /// Only grows, until its process restarts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative buckets with `le`, `_sum`, `_count`.
    Histogram,
    /// A histogram of current values: buckets, `_gsum`, `_gcount`.
    GaugeHistogram,
    /// Quantiles, `_sum`, `_count`.
    Summary,
    /// One series per state, 0 or 1.
    StateSet,
    /// Labels with the value 1.
    Info,
    /// `unknown` or `untyped`.
    Unknown,
}

impl MetricKind {
    /// Reads the word of a TYPE line, in the spelling of either format.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "counter" => Self::Counter,
            "gauge" => Self::Gauge,
            "histogram" => Self::Histogram,
            "gaugehistogram" => Self::GaugeHistogram,
            "summary" => Self::Summary,
            "stateset" => Self::StateSet,
            "info" => Self::Info,
            "unknown" | "untyped" => Self::Unknown,
            _ => return None,
        })
    }
}

/// A line of interest.
#[derive(Debug, Clone, PartialEq)]
pub enum Line<'a> {
    /// `# HELP name text`.
    Help {
        /// Family name as served (OpenMetrics: without `_total`).
        name: Cow<'a, str>,
        /// Unescaped text.
        text: Cow<'a, str>,
    },
    /// `# TYPE name kind`.
    Type {
        /// Family name as served (OpenMetrics: without `_total`).
        name: Cow<'a, str>,
        /// The declared type.
        kind: MetricKind,
    },
    /// `# UNIT name unit`.
    Unit {
        /// Family name as served.
        name: Cow<'a, str>,
        /// The unit; may be empty.
        unit: &'a str,
    },
    /// A sample.
    Sample(Sample<'a>),
}

/// One value of one series.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<'a> {
    /// The name as served: with its suffix, and with its colons.
    pub name: Cow<'a, str>,
    /// The labels as served.
    pub labels: LabelText<'a>,
    /// The value; may be NaN or infinite.
    pub value: f64,
    /// The time the page gives; rare, none of the captured engines sends one.
    pub timestamp: Option<Timestamp>,
    /// The exemplar, if there is one.
    pub exemplar: Option<Exemplar<'a>>,
    /// Name and labels as served: the identity of the series within one process.
    pub series: &'a str,
}

/// An example observation behind a counter or bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar<'a> {
    /// Its labels.
    pub labels: LabelText<'a>,
    /// Its value.
    pub value: f64,
    /// Its time; always in seconds on the page.
    pub timestamp: Option<Timestamp>,
}

/// Splits off the next word.
pub(super) fn next_word(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|byte| byte == b' ' || byte == b'\t').unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// Reads a sample line that has no blanks in front. `previous` is the name of the sample before it, or empty.
pub(super) fn read_sample<'a>(
    text: &'a str,
    previous: &str,
    seconds: bool,
    max_labels: usize,
) -> Result<Sample<'a>, LineProblem> {
    let (head, rest) = read_series(text, previous, max_labels)?;
    let Numbers { value, timestamp, exemplar } = read_numbers(rest, seconds, max_labels)?;
    Ok(Sample { name: head.name, labels: head.labels, value, timestamp, exemplar, series: head.series })
}

/// What follows the series on a sample line.
pub(crate) struct Numbers<'a> {
    pub(crate) value: f64,
    pub(crate) timestamp: Option<Timestamp>,
    pub(crate) exemplar: Option<Exemplar<'a>>,
}

/// Reads what follows the series on a sample line. Times are in seconds, or in whole milliseconds.
#[inline]
pub(crate) fn read_numbers(text: &str, seconds: bool, max_labels: usize) -> Result<Numbers<'_>, LineProblem> {
    let after = skip_blank(text);
    let (value, rest) = split_float(after).ok_or_else(|| LineProblem::expected(after, "a number as the value"))?;
    let mut rest = skip_blank(rest);
    let mut timestamp = None;
    if !rest.is_empty() && !rest.starts_with('#') {
        let (word, tail) = next_word(rest);
        let (read, expected): (fn(&str) -> Option<Timestamp>, _) = if seconds {
            (parse_seconds, "a timestamp in seconds")
        } else {
            (parse_millis, "a timestamp in whole milliseconds")
        };
        timestamp = Some(read(word).ok_or_else(|| LineProblem::expected(rest, expected))?);
        rest = skip_blank(tail);
    }
    let exemplar = match rest.strip_prefix('#') {
        Some(text) => Some(read_exemplar(skip_blank(text), max_labels)?),
        None if rest.is_empty() => None,
        None => return Err(LineProblem::expected(rest, "the end of the line")),
    };
    Ok(Numbers { value, timestamp, exemplar })
}

fn read_exemplar(text: &str, max_labels: usize) -> Result<Exemplar<'_>, LineProblem> {
    let block = text.strip_prefix('{').ok_or_else(|| LineProblem::expected(text, "`{` of an exemplar"))?;
    let (labels, rest) = read_labels(block, max_labels)?;
    let rest = skip_blank(rest);
    let (value, tail) =
        split_float(rest).ok_or_else(|| LineProblem::expected(rest, "a number as the exemplar's value"))?;
    let rest = skip_blank(tail);
    if rest.is_empty() {
        return Ok(Exemplar { labels, value, timestamp: None });
    }
    let (word, tail) = next_word(rest);
    let timestamp = parse_seconds(word).ok_or_else(|| LineProblem::expected(rest, "a timestamp in seconds"))?;
    let end = skip_blank(tail);
    if end.is_empty() {
        Ok(Exemplar { labels, value, timestamp: Some(timestamp) })
    } else {
        Err(LineProblem { left: end.len(), problem: Problem::Expected { expected: "the end of the line" } })
    }
}

/// The sort of a metadata line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetadataKind {
    Help,
    Type,
    Unit,
}

/// Splits `# HELP rest`; `None` for a comment.
pub(crate) fn split_metadata(text: &str) -> Option<(MetadataKind, &str)> {
    for (usual, kind) in [("# HELP ", MetadataKind::Help), ("# TYPE ", MetadataKind::Type)] {
        if let Some(rest) = text.strip_prefix(usual) {
            return Some((kind, skip_blank(rest)));
        }
    }
    let body = skip_blank(text.strip_prefix('#')?);
    let (word, rest) = next_word(body);
    let kind = match word {
        "HELP" => MetadataKind::Help,
        "TYPE" => MetadataKind::Type,
        "UNIT" => MetadataKind::Unit,
        _ => return None,
    };
    Some((kind, skip_blank(rest)))
}

/// Splits a family name, quoted or not, from what follows it. `previous` is a legacy name that was read before, or empty.
pub(super) fn split_family<'a>(text: &'a str, previous: &str) -> Result<(Cow<'a, str>, &'a str), LineProblem> {
    let (name, rest) = match text.strip_prefix('"') {
        Some(quoted) => {
            let (raw, rest) = read_quoted(quoted)?;
            (unescape(raw), rest)
        }
        None => {
            let (name, rest) = split_metric_name(text, previous)?;
            (Cow::Borrowed(name), rest)
        }
    };
    if rest.is_empty() || rest.starts_with([' ', '\t']) {
        Ok((name, skip_blank(rest)))
    } else {
        Err(LineProblem::expected(rest, "a blank after the metric name"))
    }
}

/// Reads what follows the name of a metadata line.
pub(crate) fn read_metadata<'a>(
    kind: MetadataKind,
    name: Cow<'a, str>,
    rest: &'a str,
) -> Result<Line<'a>, LineProblem> {
    match kind {
        MetadataKind::Help => Ok(Line::Help { name, text: unescape(rest) }),
        MetadataKind::Unit => Ok(Line::Unit { name, unit: rest.trim_end_matches([' ', '\t']) }),
        MetadataKind::Type => {
            let word = rest.trim_end_matches([' ', '\t']);
            match MetricKind::from_word(word) {
                Some(kind) => Ok(Line::Type { name, kind }),
                None => Err(LineProblem::expected(rest, "a metric type such as `counter`, `gauge` or `histogram`")),
            }
        }
    }
}
