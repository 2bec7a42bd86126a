//! Engine dialects: from the names an engine happens to use to one set of signals.
//!
//! One table ([`table`]) holds, per engine, each signal's source names newest first. The first source that the page carries wins; generations of the
//! same thing are never added. Names compare with `:` and `_` alike, because the same series arrives as `vllm:x`, `vllm_x` or `ray_vllm_x`.
//!
//! How series combine:
//! - counts and counters add over engines, data-parallel ranks, models, handles and workers;
//! - `kv_cache_utilization` is the maximum over engines: one full engine preempts, whatever the mean says;
//! - tensor-, pipeline- and expert-parallel ranks of SGLang repeat each other: of series that differ only there, the lowest rank counts;
//! - SGLang gauges with a priority label count only with `priority=""`, which is their total; its counters have no total and add.
//!
//! What a page does not carry is not a key of the result. NaN and infinite samples count as not carried.

mod combine;
mod kinds;
mod named;
mod names;
mod page;
mod table;
mod table_engines;
mod table_fronts;

#[cfg(test)]
mod captures_engines;
#[cfg(test)]
mod captures_fronts;
#[cfg(test)]
mod captures_vllm;
#[cfg(test)]
mod tests;

pub use kinds::{EngineKind, SignalName, UnknownEngine};
pub use named::{NamedQueries, NamedQuery};

pub(crate) use combine::lowest_ranks;
pub(crate) use page::Kept;

pub use crate::exposition::Limits;

use crate::exposition::{BadLines, ExpositionError, Format, Options, Summary, scan};
use std::collections::BTreeMap;

/// What one page says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reading {
    /// Whose page it is: as declared, else as detected from the names on it; `None` if no known name is there.
    pub engine: Option<EngineKind>,
    /// The signals the page carries.
    pub signals: BTreeMap<SignalName, SignalReading>,
    /// Sums of series that were asked for by their own names ([`NamedQueries`]), by key.
    pub named: BTreeMap<String, f64>,
    /// Lines left out because they could not be read.
    pub rejected_lines: usize,
    /// The first of them, with their places.
    pub errors: Vec<ExpositionError>,
}

impl Reading {
    /// The value of a signal, if the page carries it.
    #[must_use]
    pub fn value(&self, signal: SignalName) -> Option<f64> {
        self.signals.get(&signal).map(|reading| reading.value)
    }
}

/// One signal.
#[derive(Debug, Clone, PartialEq)]
pub struct SignalReading {
    /// Finite. Of a histogram the number of observations.
    pub value: f64,
    /// The series the value was made from, as served, in the page's order; of a histogram its `_count` and `_sum` series.
    pub series: Vec<String>,
    /// The whole histogram, where the signal is one.
    pub histogram: Option<Histogram>,
}

/// A cumulative histogram, added over its series.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Upper edge and number of observations at or below it, edges ascending; the last edge is usually infinite. Where series
    /// have different edges, only those that all of them have are kept, so that every count is exact. Empty for a summary.
    pub buckets: Vec<(f64, f64)>,
    /// Sum of all observations.
    pub sum: f64,
    /// Number of observations.
    pub count: f64,
}

/// Reads a page. With `engine` given, only that engine's names are looked for and no other is ever detected; without, the engine is
/// detected from the names on the page in the fixed order of [`EngineKind::DETECTION_ORDER`].
///
/// # Errors
/// With line and offset: a page over the limits, one cut off, or one that is no metrics page at all. Single bad lines are counted and left out.
pub fn read(page: &[u8], engine: Option<EngineKind>, limits: &Limits) -> Result<Reading, ExpositionError> {
    let catalog = names::catalog();
    let mut seen = page::Page::new(catalog);
    let summary = scan(page, catalog.wanted(engine), &options(limits), |line| seen.visit(line))?;
    Ok(reading(engine, &seen, summary))
}

/// [`read`], and the sums of the named series beside it, in one pass. A bad line of a named series is a rejected line too.
///
/// # Errors
/// As [`read`].
pub fn read_with(
    page: &[u8],
    engine: Option<EngineKind>,
    named: &NamedQueries,
    limits: &Limits,
) -> Result<Reading, ExpositionError> {
    let mut seen = page::Page::new(names::catalog());
    let mut sums = named::Sums::new(named);
    let summary = scan(page, named.wanted(engine), &options(limits), |line| {
        sums.visit(&line);
        seen.visit(line);
    })?;
    Ok(Reading { named: sums.sums, ..reading(engine, &seen, summary) })
}

/// The place of a sample's or family's name in the catalog of all dialects.
pub(crate) fn catalog_id(name: &str) -> Option<u16> {
    names::catalog().id(name).and_then(|id| u16::try_from(id).ok())
}

/// A line that is known without reading: the place of its name in the catalog, and its sample unless it is a declaration.
pub(crate) type KnownLine<'a> = (u16, Option<Kept<'a>>);

/// [`read`] from lines that are known: whose page it is, and its signals. In the page's order.
pub(crate) fn read_known<'a>(
    lines: impl Iterator<Item = KnownLine<'a>>,
    engine: Option<EngineKind>,
) -> (Option<EngineKind>, BTreeMap<SignalName, SignalReading>) {
    let mut seen = page::Page::new(names::catalog());
    for (id, sample) in lines {
        match sample {
            Some(sample) => seen.put(usize::from(id), sample),
            None => seen.declare(usize::from(id)),
        }
    }
    let engine = engine.or_else(|| seen.detect());
    (engine, engine.map(|engine| combine::signals(engine, &seen)).unwrap_or_default())
}

const fn options(limits: &Limits) -> Options {
    Options { format: Format::Detect, bad_lines: BadLines::Skip, limits: *limits }
}

fn reading(engine: Option<EngineKind>, seen: &page::Page<'_>, summary: Summary) -> Reading {
    let engine = engine.or_else(|| seen.detect());
    let signals = engine.map(|engine| combine::signals(engine, seen)).unwrap_or_default();
    Reading { engine, signals, named: BTreeMap::new(), rejected_lines: summary.bad_lines, errors: summary.errors }
}
