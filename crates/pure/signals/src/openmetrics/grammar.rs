//! The exact shape of a line: single spaces, no forgiveness.

use crate::exposition::{LineProblem, Problem, parse_float, read_quoted, split_legacy_name, unescape};
use std::borrow::Cow;

/// Most characters in the names and values of one exemplar's labels together (specification, section Exemplars).
const MAX_EXEMPLAR_CHARS: usize = 128;

/// Label names and values in name order.
pub(super) type LabelSet<'a> = Vec<(&'a str, Cow<'a, str>)>;

pub(super) struct StrictSample<'a> {
    pub(super) name: &'a str,
    pub(super) labels: LabelSet<'a>,
    pub(super) value: f64,
    pub(super) timestamp: Option<Moment>,
    pub(super) has_exemplar: bool,
}

/// A timestamp that compares exactly to the nanosecond for plain decimals of any size: whole seconds, then nanoseconds of the same sign.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(super) struct Moment(f64, i64);

/// Splits `# WORD name rest`.
pub(super) fn metadata(line: &str) -> Result<(&str, &str, &str), LineProblem> {
    let shape = || LineProblem::expected(line, "`# HELP name text`, `# TYPE name type`, `# UNIT name unit` or `# EOF`");
    let mut parts = line.strip_prefix("# ").ok_or_else(shape)?.splitn(3, ' ');
    let (Some(word), Some(name), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(shape());
    };
    match split_legacy_name(name, true) {
        Some((_, "")) => Ok((word, name, rest)),
        _ => Err(LineProblem::expected(line, "a metric name in the metadata line")),
    }
}

pub(super) fn sample(line: &str) -> Result<StrictSample<'_>, LineProblem> {
    let (name, rest) = split_legacy_name(line, true).ok_or_else(|| LineProblem::expected(line, "a metric name"))?;
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(block) => label_block(block)?,
        None => (Vec::new(), rest),
    };
    let (value, rest) = value(rest)?;
    let (timestamp, rest) = match rest.strip_prefix(' ') {
        Some(after) if !after.starts_with('#') => {
            let (word, tail) = word(after);
            (Some(moment(word).ok_or_else(|| LineProblem::expected(after, "a timestamp in seconds"))?), tail)
        }
        _ => (None, rest),
    };
    let has_exemplar = !rest.is_empty();
    if has_exemplar {
        exemplar(rest)?;
    }
    Ok(StrictSample { name, labels, value, timestamp, has_exemplar })
}

fn exemplar(text: &str) -> Result<(), LineProblem> {
    let block =
        text.strip_prefix(" # {").ok_or_else(|| LineProblem::expected(text, "the end of the line or ` # {`"))?;
    let (labels, rest) = label_block(block)?;
    let chars: usize = labels.iter().map(|(name, value)| name.chars().count() + value.chars().count()).sum();
    if chars > MAX_EXEMPLAR_CHARS {
        let rule = "the labels of an exemplar have more than 128 characters";
        return Err(LineProblem { left: block.len(), problem: Problem::Rule { rule } });
    }
    let (_, rest) = value(rest)?;
    let Some(after) = rest.strip_prefix(' ') else {
        return if rest.is_empty() { Ok(()) } else { Err(LineProblem::expected(rest, "the end of the line")) };
    };
    match moment(after) {
        Some(_) => Ok(()),
        None => Err(LineProblem::expected(after, "a timestamp in seconds")),
    }
}

/// Reads labels from behind `{` up to and with `}`.
fn label_block(block: &str) -> Result<(LabelSet<'_>, &str), LineProblem> {
    let mut labels = LabelSet::new();
    let mut rest = block;
    if let Some(after) = rest.strip_prefix('}') {
        return Ok((labels, after));
    }
    loop {
        let (name, tail) = split_legacy_name(rest, false).ok_or_else(|| LineProblem::expected(rest, "a label name"))?;
        let quoted =
            tail.strip_prefix("=\"").ok_or_else(|| LineProblem::expected(tail, "`=\"` after the label name"))?;
        let (value, tail) = read_quoted(quoted)?;
        labels.push((name, unescape(value)));
        if let Some(after) = tail.strip_prefix('}') {
            rest = after;
            break;
        }
        rest = tail.strip_prefix(',').ok_or_else(|| LineProblem::expected(tail, "`,` or `}`"))?;
    }
    labels.sort_unstable();
    let repeated = labels.iter().zip(labels.iter().skip(1)).any(|(one, next)| one.0 == next.0);
    let reserved = labels.iter().any(|(name, _)| *name == "__name__");
    match (repeated, reserved) {
        (true, _) => {
            Err(LineProblem { left: block.len(), problem: Problem::Rule { rule: "a label name is repeated" } })
        }
        (_, true) => Err(LineProblem { left: block.len(), problem: Problem::Rule { rule: "`__name__` is reserved" } }),
        _ => Ok((labels, rest)),
    }
}

/// Reads one space and a number.
fn value(text: &str) -> Result<(f64, &str), LineProblem> {
    let after = text.strip_prefix(' ').ok_or_else(|| LineProblem::expected(text, "one space and a value"))?;
    let (word, rest) = word(after);
    match parse_float(word).filter(|value| !value.is_nan() || word.eq_ignore_ascii_case("nan")) {
        Some(value) => Ok((value, rest)),
        None => Err(LineProblem::expected(after, "a number as the value")),
    }
}

fn word(text: &str) -> (&str, &str) {
    text.split_at_checked(text.find(' ').unwrap_or(text.len())).unwrap_or((text, ""))
}

fn moment(text: &str) -> Option<Moment> {
    let seconds = parse_float(text).filter(|seconds| seconds.is_finite())?;
    if text.contains(['e', 'E']) {
        let nanos = loadline_base::num::f64_to_i64_trunc((seconds.fract() * 1e9).round());
        return Some(Moment(seconds.trunc(), nanos));
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0_i64, |sum, digit| sum * 10 + i64::from(digit.saturating_sub(b'0')));
    let seconds = whole.parse().unwrap_or(0.0);
    Some(Moment(seconds, if text.starts_with('-') { -nanos } else { nanos }))
}
