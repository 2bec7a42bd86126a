//! Strict judgement of an OpenMetrics 1.0 page: for what Loadline itself serves, and for telling users what is wrong with theirs.
//!
//! Source: <https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>; where the text is silent, what the reference
//! parser of prometheus/client_python does. Scraping uses [`crate::exposition`], which forgives nearly all of this.

mod family;
mod grammar;
mod histogram;

#[cfg(test)]
mod tests;

use crate::exposition::{ExpositionError, Limits, LineProblem, MetricKind, Problem};
use family::Family;
use std::collections::BTreeSet;

/// Decides whether a page is valid OpenMetrics 1.0. Pages larger than [`Limits::max_page_bytes`]' default are refused.
///
/// # Errors
/// The first broken rule, with its place.
pub fn validate(page: &[u8]) -> Result<(), ExpositionError> {
    let limit = Limits::default().max_page_bytes;
    if page.len() > limit {
        return Err(ExpositionError::at(page, 0, 1, Problem::PageTooLarge { bytes: page.len(), limit }));
    }
    let text = std::str::from_utf8(page).map_err(|error| {
        let offset = error.valid_up_to();
        let line = memchr::memchr_iter(b'\n', page.get(..offset).unwrap_or_default()).count() + 1;
        ExpositionError::at(page, offset, line, Problem::NotUtf8)
    })?;
    let mut families = Families::default();
    let mut offset = 0;
    let mut line = 0;
    for part in text.split_inclusive('\n') {
        line += 1;
        let content = part.strip_suffix('\n').unwrap_or(part);
        families.line(content).map_err(|found| {
            ExpositionError::at(page, offset + content.len() - found.left.min(content.len()), line, found.problem)
        })?;
        offset += part.len();
    }
    if families.ended { Ok(()) } else { Err(ExpositionError::at(page, page.len(), line.max(1), Problem::Truncated)) }
}

/// A broken rule that concerns the whole line.
pub(crate) fn rule(line: &str, rule: &'static str) -> LineProblem {
    LineProblem { left: line.len(), problem: Problem::Rule { rule } }
}

#[derive(Default)]
struct Families<'a> {
    ended: bool,
    current: Option<Family<'a>>,
    /// Every sample name that a family so far may use, and the bare family names.
    taken: BTreeSet<String>,
}

impl<'a> Families<'a> {
    fn line(&mut self, line: &'a str) -> Result<(), LineProblem> {
        if self.ended {
            return Err(rule(line, "nothing may follow `# EOF`"));
        }
        if line.is_empty() {
            return Err(rule(line, "blank lines are not allowed"));
        }
        if line == "# EOF" {
            self.ended = true;
            return self.close(line);
        }
        if line.starts_with('#') { self.metadata(line) } else { self.sample(line) }
    }

    fn metadata(&mut self, line: &'a str) -> Result<(), LineProblem> {
        let (word, name, rest) = grammar::metadata(line)?;
        let family = match &mut self.current {
            Some(family) if family.name == name => family,
            _ => {
                self.close(line)?;
                self.current.insert(Family::new(name))
            }
        };
        if family.has_samples {
            return Err(rule(line, "metadata must stand before the samples of its family"));
        }
        match word {
            "HELP" if family.help => Err(rule(line, "a family has at most one HELP line")),
            "HELP" => {
                family.help = true;
                Ok(())
            }
            "TYPE" if family.kind.is_some() => Err(rule(line, "a family has at most one TYPE line")),
            "TYPE" => {
                let kind = Some(rest).filter(|word| *word != "untyped").and_then(MetricKind::from_word);
                family.kind = Some(kind.ok_or_else(|| LineProblem::expected(rest, "an OpenMetrics metric type"))?);
                Ok(())
            }
            "UNIT" if family.unit.is_some() => Err(rule(line, "a family has at most one UNIT line")),
            "UNIT" => {
                family.unit = Some(rest);
                Ok(())
            }
            _ => Err(rule(line, "only HELP, TYPE, UNIT and EOF comments are allowed")),
        }
    }

    fn sample(&mut self, line: &'a str) -> Result<(), LineProblem> {
        let sample = grammar::sample(line)?;
        let family = match &mut self.current {
            Some(family) if family.takes(sample.name) => family,
            _ => {
                self.close(line)?;
                self.current.insert(Family::new(sample.name))
            }
        };
        family.sample(line, &sample)
    }

    /// Ends the current family: its names must be new, its unit must fit, its last histogram must be whole.
    fn close(&mut self, line: &'a str) -> Result<(), LineProblem> {
        let Some(family) = self.current.take() else {
            return Ok(());
        };
        family.finish(line)?;
        let bare = std::iter::once("").filter(|_| !family.suffixes().contains(&""));
        for suffix in family.suffixes().iter().copied().chain(bare) {
            if !self.taken.insert(format!("{}{suffix}", family.name)) {
                return Err(rule(
                    line,
                    "the family that ends before this line uses a name that an earlier family uses",
                ));
            }
        }
        Ok(())
    }
}
