//! Label blocks and series names, kept as the text that was served.

use super::error::{LineProblem, Problem};
use loadline_base::Labels;
use std::borrow::Cow;
use std::fmt;

/// The labels of one sample as served, already checked; names and values are unescaped only when asked for.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct LabelText<'a> {
    raw: &'a str,
}

impl<'a> LabelText<'a> {
    pub(crate) const fn checked(raw: &'a str) -> Self {
        Self { raw }
    }

    /// The text between the braces, without a quoted metric name.
    #[must_use]
    pub const fn raw(&self) -> &'a str {
        self.raw
    }

    /// Names and values in the order served. Values borrow from the page unless they hold an escape.
    #[must_use]
    pub const fn iter(&self) -> LabelIter<'a> {
        LabelIter { rest: self.raw }
    }

    /// The value of `name`; the first one if a broken page repeats it. An empty value is `Some("")`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        self.iter().find(|(found, _)| found == name).map(|(_, value)| value)
    }

    /// Whether there are no labels.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// An owned set; the first value wins if a broken page repeats a name.
    #[must_use]
    pub fn to_labels(&self) -> Labels {
        let mut labels = Labels::new();
        for (name, value) in self.iter() {
            if labels.get(&name).is_none() {
                labels.insert(name, value);
            }
        }
        labels
    }
}

impl fmt::Debug for LabelText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.raw)
    }
}

/// Iterates over the labels of a [`LabelText`].
#[derive(Debug, Clone)]
pub struct LabelIter<'a> {
    rest: &'a str,
}

impl<'a> Iterator for LabelIter<'a> {
    type Item = (Cow<'a, str>, Cow<'a, str>);

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.rest.trim_start_matches([' ', '\t', ',']);
        if text.is_empty() {
            return None;
        }
        let (label, rest) = read_label(text).ok()?;
        self.rest = rest;
        Some((unescape(label.name), unescape(label.value)))
    }
}

/// One label as it stands in the text; a quoted name has its quotes removed and its escapes kept.
pub(crate) struct RawLabel<'a> {
    pub(crate) name: &'a str,
    pub(crate) value: &'a str,
}

/// Replaces `\\`, `\"` and `\n`; other escapes stay as written, as Prometheus keeps them.
pub(crate) fn unescape(raw: &str) -> Cow<'_, str> {
    let Some(first) = memchr::memchr(b'\\', raw.as_bytes()) else {
        return Cow::Borrowed(raw);
    };
    let (clean, escaped) = raw.split_at_checked(first).unwrap_or((raw, ""));
    let mut out = String::with_capacity(raw.len());
    out.push_str(clean);
    let mut chars = escaped.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some(kept @ ('\\' | '"')) => out.push(kept),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    Cow::Owned(out)
}

/// Splits off spaces and tabs.
pub(crate) fn skip_blank(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

/// Reads a quoted string whose opening quote is already gone; gives the raw content and what follows the closing quote.
pub(crate) fn read_quoted(text: &str) -> Result<(&str, &str), LineProblem> {
    let bytes = text.as_bytes();
    let mut from = 0;
    while let Some(found) = bytes.get(from..).and_then(|tail| memchr::memchr2(b'"', b'\\', tail)) {
        let at = from + found;
        if bytes.get(at) == Some(&b'"') {
            let content = text.get(..at).unwrap_or_default();
            return Ok((content, text.get(at + 1..).unwrap_or_default()));
        }
        from = at + 2;
    }
    Err(LineProblem::expected("", "a closing `\"`"))
}

/// Length of the leading name in the legacy alphabet; `colon` allows `:`, which only metric names may hold.
pub(crate) fn legacy_name_len(text: &str, colon: bool) -> usize {
    let fits = |(at, byte): (usize, u8)| {
        byte.is_ascii_alphabetic() || byte == b'_' || (colon && byte == b':') || (at > 0 && byte.is_ascii_digit())
    };
    text.bytes().enumerate().position(|item| !fits(item)).unwrap_or(text.len())
}

/// Splits off a legacy name; `None` if there is none.
pub(crate) fn split_legacy_name(text: &str, colon: bool) -> Option<(&str, &str)> {
    text.split_at_checked(legacy_name_len(text, colon)).filter(|(name, _)| !name.is_empty())
}

fn read_label(text: &str) -> Result<(RawLabel<'_>, &str), LineProblem> {
    let (name, rest) = match text.strip_prefix('"') {
        Some(quoted) => read_quoted(quoted)?,
        None => split_legacy_name(text, false).ok_or_else(|| LineProblem::expected(text, "a label name"))?,
    };
    let rest = skip_blank(rest);
    let rest = rest.strip_prefix('=').ok_or_else(|| LineProblem::expected(rest, "`=` after the label name"))?;
    let rest = skip_blank(rest);
    let rest = rest.strip_prefix('"').ok_or_else(|| LineProblem::expected(rest, "a label value in double quotes"))?;
    let (value, rest) = read_quoted(rest)?;
    Ok((RawLabel { name, value }, rest))
}

/// Checks labels from behind the opening brace; gives their text and what follows the closing brace.
pub(super) fn read_labels(block: &str, max: usize) -> Result<(LabelText<'_>, &str), LineProblem> {
    let mut rest = skip_blank(block);
    let mut count = 0;
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            let raw = block.get(..block.len() - rest.len()).unwrap_or_default();
            return Ok((LabelText::checked(raw), after));
        }
        if count == max {
            return Err(LineProblem { left: rest.len(), problem: Problem::TooManyLabels { limit: max } });
        }
        rest = skip_blank(read_label(rest)?.1);
        count += 1;
        match rest.strip_prefix(',') {
            Some(after) => rest = skip_blank(after),
            None if rest.starts_with('}') => {}
            None => return Err(LineProblem::expected(rest, "`,` or `}` after the label value")),
        }
    }
}

/// The name and labels in front of a value.
pub(super) struct MetricSeries<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) labels: LabelText<'a>,
    /// Both as served.
    pub(super) series: &'a str,
}

/// Reads `name`, `name{labels}` or `{"name",labels}`.
pub(super) fn read_series(text: &str, max_labels: usize) -> Result<(MetricSeries<'_>, &str), LineProblem> {
    let (name, labels, rest) = match text.strip_prefix('{') {
        Some(block) => {
            let inner = skip_blank(block);
            let quoted = inner.strip_prefix('"').ok_or_else(|| LineProblem::expected(inner, "a quoted metric name"))?;
            let (raw, rest) = read_quoted(quoted)?;
            if raw.is_empty() {
                return Err(LineProblem::expected(quoted, "a metric name that is not empty"));
            }
            let rest = skip_blank(rest);
            let rest = match rest.strip_prefix(',') {
                Some(after) => after,
                None if rest.starts_with('}') => rest,
                None => return Err(LineProblem::expected(rest, "`,` or `}` after the metric name")),
            };
            let (labels, rest) = read_labels(rest, max_labels)?;
            (unescape(raw), labels, rest)
        }
        None => {
            let (name, rest) =
                split_legacy_name(text, true).ok_or_else(|| LineProblem::expected(text, "a metric name"))?;
            match skip_blank(rest).strip_prefix('{') {
                Some(block) => {
                    let (labels, rest) = read_labels(block, max_labels)?;
                    (Cow::Borrowed(name), labels, rest)
                }
                None => (Cow::Borrowed(name), LabelText::default(), rest),
            }
        }
    };
    let series = text.get(..text.len() - rest.len()).unwrap_or_default();
    Ok((MetricSeries { name, labels, series }, rest))
}
