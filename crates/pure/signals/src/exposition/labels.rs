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
#[inline]
pub(crate) fn skip_blank(text: &str) -> &str {
    // nearly always nothing, or one space, stands there
    match text.as_bytes() {
        [b' ' | b'\t', b' ' | b'\t', ..] => text.trim_start_matches([' ', '\t']),
        [b' ' | b'\t', ..] => text.get(1..).unwrap_or_default(),
        _ => text,
    }
}

/// Reads a quoted string whose opening quote is already gone; gives the raw content and what follows the closing quote.
#[inline]
pub(crate) fn read_quoted(text: &str) -> Result<(&str, &str), LineProblem> {
    // most values are short: two words are looked at before the vector search is worth its call
    let (words, _) = text.as_bytes().as_chunks::<8>();
    for (word, start) in words.iter().zip([0, 8]) {
        if let Some(place) = quote_or_backslash(u64::from_le_bytes(*word)) {
            return match text.split_at_checked(start + place) {
                Some((content, rest)) if rest.starts_with('"') => Ok((content, rest.get(1..).unwrap_or_default())),
                _ => read_long_quoted(text),
            };
        }
    }
    read_long_quoted(text)
}

/// The place of the first `"` or `\` in eight bytes.
#[inline]
fn quote_or_backslash(word: u64) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zeros = |word: u64| word.wrapping_sub(LOW) & !word & HIGH;
    // a borrow can only mark bytes behind the first zero, so the lowest mark is right
    let marks = zeros(word ^ (LOW * 0x22)) | zeros(word ^ (LOW * 0x5C));
    if marks == 0 { None } else { usize::try_from(marks.trailing_zeros() / 8).ok() }
}

fn read_long_quoted(text: &str) -> Result<(&str, &str), LineProblem> {
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

/// What a byte may be in a legacy name.
const LABEL: u8 = 1;
const DIGIT: u8 = 2;
const COLON: u8 = 4;

/// The class of each byte.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        let class = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => LABEL,
            b'0'..=b'9' => DIGIT,
            b':' => COLON,
            _ => 0,
        };
        #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler; every `u8` is inside")]
        {
            classes[byte as usize] = class;
        }
        byte += 1;
    }
    classes
};

/// Whether a byte is of one of these classes.
#[inline]
fn is_of(byte: u8, classes: u8) -> bool {
    CLASSES.get(usize::from(byte)).is_some_and(|class| class & classes != 0)
}

/// Splits off the leading name in the legacy alphabet; `colon` allows `:`, which only metric names may hold. `None` if there is none.
#[inline]
pub(crate) fn split_legacy_name(text: &str, colon: bool) -> Option<(&str, &str)> {
    let first = if colon { LABEL | COLON } else { LABEL };
    let mut classes = first;
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest
        && is_of(*byte, classes)
    {
        classes = first | DIGIT;
        rest = tail;
    }
    text.split_at_checked(text.len() - rest.len()).filter(|(name, _)| !name.is_empty())
}

#[inline]
fn read_label(text: &str) -> Result<(RawLabel<'_>, &str), LineProblem> {
    let (name, rest) = match text.strip_prefix('"') {
        Some(quoted) => read_quoted(quoted)?,
        None => split_legacy_name(text, false).ok_or_else(|| LineProblem::expected(text, "a label name"))?,
    };
    let (value, rest) = match rest.strip_prefix("=\"") {
        Some(after) => read_quoted(after)?,
        None => read_spaced_value(rest)?,
    };
    Ok((RawLabel { name, value }, rest))
}

/// Reads `=` and a quoted value with blanks between.
fn read_spaced_value(text: &str) -> Result<(&str, &str), LineProblem> {
    let rest = skip_blank(text);
    let rest = rest.strip_prefix('=').ok_or_else(|| LineProblem::expected(rest, "`=` after the label name"))?;
    let rest = skip_blank(rest);
    read_quoted(rest.strip_prefix('"').ok_or_else(|| LineProblem::expected(rest, "a label value in double quotes"))?)
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

/// Splits off a legacy metric name. `previous` is one that was read before, or empty: lines of one name follow each other.
#[inline]
pub(super) fn split_metric_name<'a>(text: &'a str, previous: &str) -> Result<(&'a str, &'a str), LineProblem> {
    match text.split_at_checked(previous.len()) {
        Some((name, rest)) if matches!(rest.as_bytes(), [b'{' | b' ', ..]) && name == previous && !name.is_empty() => {
            Ok((name, rest))
        }
        _ => split_legacy_name(text, true).ok_or_else(|| LineProblem::expected(text, "a metric name")),
    }
}

/// The name and labels in front of a value.
pub(super) struct MetricSeries<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) labels: LabelText<'a>,
    /// Both as served.
    pub(super) series: &'a str,
}

/// Reads `name`, `name{labels}` or `{"name",labels}`. `previous` as in [`split_metric_name`].
pub(super) fn read_series<'a>(
    text: &'a str,
    previous: &str,
    max_labels: usize,
) -> Result<(MetricSeries<'a>, &'a str), LineProblem> {
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
            let (name, rest) = split_metric_name(text, previous)?;
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
