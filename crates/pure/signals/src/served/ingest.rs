//! Taking a page in: lines that the page before had are compared, others are read.

use super::index::Index;
use super::layout::{Layout, Series};
use super::{Kept, MAX_CLOCK_ERROR, PageSource, Served, Source};
use crate::dialect::{self, EngineKind, NamedQueries, Reading};
use crate::exposition::{
    BadLines, ExpositionError, Format, Line, Options, Sample, Summary, Visit, WantedNames, read_numbers, scan_with,
};
use loadline_base::{Labels, Timestamp};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// How far ahead in the last page a line is looked for where something is new or gone.
const LOOK_AHEAD: usize = 1_024;

/// Whether relabelling keeps a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It is served, under the name and labels it has now.
    Yes,
    /// It is not served. The normalised signals are read from the page as it was, all the same.
    No,
}

/// Rules that rename or drop series. They see names and labels, never values, so each series goes through them once and not at every scrape.
#[derive(Clone, Copy)]
pub struct Relabel<'a> {
    /// Tells sets of rules apart: the same id must always stand for the same rules. Below [`u64::MAX`].
    pub id: u64,
    /// The rules, over name and labels.
    pub apply: &'a dyn Fn(&mut String, &mut Labels) -> Keep,
}

impl fmt::Debug for Relabel<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Relabel {{ id: {} }}", self.id)
    }
}

/// One page on its way in.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// Where it comes from.
    pub source: &'a PageSource,
    /// When it was scraped.
    pub at: Timestamp,
    /// From one scrape of the source to the next.
    pub period: Duration,
    /// The page.
    pub text: &'a [u8],
    /// The engine, where it is declared; otherwise the page tells.
    pub engine: Option<EngineKind>,
    /// Sums asked for by name, read under the names after relabelling.
    pub named: Option<&'a NamedQueries>,
    /// Rules that rename or drop series.
    pub relabel: Option<Relabel<'a>>,
}

impl<'a> Page<'a> {
    /// A page that is scraped each second, with nothing declared.
    #[must_use]
    pub const fn new(source: &'a PageSource, at: Timestamp, text: &'a [u8]) -> Self {
        Self { source, at, period: Duration::from_secs(1), text, engine: None, named: None, relabel: None }
    }
}

/// Why a page was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PageError {
    /// The pod is not among those of [`Served::set_pods`].
    #[error("pod `{pod}` is not known, or one too many (`max_pods`)")]
    UnknownPod {
        /// The pod.
        pod: String,
    },
    /// [`super::ServedLimits::max_endpoints_per_pod`] is reached.
    #[error("pod `{pod}` has {limit} endpoints already (`max_endpoints_per_pod`)")]
    TooManyEndpoints {
        /// The pod.
        pod: String,
        /// The limit in force.
        limit: usize,
    },
    /// A page that is not newer than the last.
    #[error("pod `{pod}` was already read at {last}: a page from {at} is not newer")]
    NotNewer {
        /// The pod.
        pod: String,
        /// Time of the last page.
        last: Timestamp,
        /// Time of the refused one.
        at: Timestamp,
    },
    /// [`super::ServedLimits::max_bytes`] is reached.
    #[error("the page is not kept: with it {bytes} bytes would be in use, the limit is {limit} (`max_bytes`)")]
    TooManyBytes {
        /// Bytes with the page.
        bytes: usize,
        /// The limit in force.
        limit: usize,
    },
    /// The page cannot be read.
    #[error(transparent)]
    Unreadable(#[from] ExpositionError),
}

/// What is used again from page to page.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    values: Vec<f64>,
    times: Vec<(usize, Timestamp)>,
}

impl Served {
    /// Takes a page in, and gives the normalised signals and the named sums that it holds, as [`dialect::read_with`] reads them; every bad line of the
    /// page is counted. A page that is not taken changes no value; its reason stands where values are missing.
    ///
    /// # Errors
    /// When the pod is not known, the page is no newer than the last of its source, a limit is reached, or it cannot be read.
    pub fn page(&mut self, page: &Page<'_>) -> Result<Reading, PageError> {
        let taken = self.take(page);
        if let Err(error @ (PageError::Unreadable(_) | PageError::TooManyBytes { .. })) = &taken {
            self.failed(page.at, page.source, &error.to_string());
        }
        taken
    }

    fn take(&mut self, page: &Page<'_>) -> Result<Reading, PageError> {
        let old = self.last_layout(page)?;
        // 0 stands for no rules
        let rules = page.relabel.map_or(0, |relabel| relabel.id.saturating_add(1));
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.values.clear();
        scratch.times.clear();
        let mut ingest = Ingest {
            index: &mut self.index,
            page,
            rules,
            old: old.as_deref().filter(|old| old.rules() == rules),
            cursor: 0,
            fresh: None,
            scratch,
            line: &[],
            max_series: self.limits.max_series_per_page,
            max_labels: self.limits.page.max_labels_per_sample,
            left_out: 0,
            clock_errors: 0,
        };
        let options = Options { format: Format::Detect, bad_lines: BadLines::Skip, limits: self.limits.page };
        let outcome = scan_with(page.text, &WantedNames::all(), &options, &mut ingest);
        let read = ingest.finish();
        self.scratch = read.scratch;
        let summary = match outcome {
            Ok(summary) => summary,
            Err(error) => {
                self.index.drop_unused(read.fresh.unwrap_or_default());
                return Err(error.into());
            }
        };
        let layout = match (read.fresh, &old) {
            (None, Some(old)) => Arc::clone(old),
            (fresh, _) => self.index.layout(fresh.unwrap_or_default()),
        };
        let counts = (read.left_out, read.clock_errors);
        self.keep(page, layout, old, counts).map(|kept| reading(page, kept, summary))
    }

    /// The layout of the last page of the source.
    fn last_layout(&self, page: &Page<'_>) -> Result<Option<Arc<Layout>>, PageError> {
        let Page { source, at, .. } = page;
        let name = || source.pod.to_string();
        let pod = self.pods.get(&source.pod).ok_or_else(|| PageError::UnknownPod { pod: name() })?;
        let Some(known) = pod.sources.get(&source.endpoint) else {
            let limit = self.limits.max_endpoints_per_pod;
            let has_room = pod.sources.len() < limit;
            return if has_room { Ok(None) } else { Err(PageError::TooManyEndpoints { pod: name(), limit }) };
        };
        match &known.page {
            Some(last) if last.at >= *at => Err(PageError::NotNewer { pod: name(), last: last.at, at: *at }),
            Some(last) => Ok(Some(Arc::clone(&last.layout))),
            None => Ok(None),
        }
    }

    /// Puts what was read in place of what was there.
    fn keep(
        &mut self,
        page: &Page<'_>,
        layout: Arc<Layout>,
        old: Option<Arc<Layout>>,
        (left_out, clock_errors): (usize, usize),
    ) -> Result<&mut Kept, PageError> {
        let source = page.source;
        let is_same = old.as_ref().is_some_and(|old| Arc::ptr_eq(old, &layout));
        let before = old.as_ref().map_or(0, |old| old.items.len() * super::VALUE_BYTES);
        // only this call and the source hold it now
        drop(old);
        let bytes = self.bytes() + self.scratch.values.len() * super::VALUE_BYTES - before;
        let limit = self.limits.max_bytes;
        if bytes > limit && !is_same {
            self.index.release(layout);
            return Err(PageError::TooManyBytes { bytes, limit });
        }
        self.turn += 1;
        let unknown = || PageError::UnknownPod { pod: source.pod.to_string() };
        let pod = self.pods.get_mut(&source.pod).ok_or_else(unknown)?;
        let known: &mut Source = pod.sources.entry(Arc::clone(&source.endpoint)).or_default();
        let replaced = if is_same { None } else { known.page.take() };
        let values = match &mut known.page {
            Some(last) if last.values.len() == self.scratch.values.len() => {
                let mut values = std::mem::take(&mut last.values);
                values.copy_from_slice(&self.scratch.values);
                values
            }
            _ => self.scratch.values.as_slice().into(),
        };
        let fresh = Kept {
            layout: Arc::clone(&layout),
            values,
            times: self.scratch.times.as_slice().into(),
            at: page.at,
            period: page.period,
            turn: self.turn,
            engine: None,
            signals: Box::default(),
            left_out,
            clock_errors,
        };
        known.page = Some(fresh);
        self.value_bytes = self.value_bytes + self.scratch.values.len() * super::VALUE_BYTES - before;
        if let Some(replaced) = replaced {
            self.unclaim(source, &replaced.layout);
            self.index.release(replaced.layout);
        }
        if !is_same {
            self.claim(source, &layout);
        }
        drop(layout);
        let kept = self.pods.get_mut(&source.pod).and_then(|pod| pod.sources.get_mut(&source.endpoint));
        kept.and_then(|source| source.page.as_mut()).ok_or_else(unknown)
    }
}

/// The signals and named sums of a page, which also stay with it.
fn reading(page: &Page<'_>, kept: &mut Kept, summary: Summary) -> Reading {
    let layout = &kept.layout;
    let wanted = layout.wanted.iter().filter_map(|at| {
        let at = usize::try_from(*at).ok()?;
        let (item, value) = (layout.items.get(at)?, *kept.values.get(at)?);
        let sample = dialect::Kept { value, series: &item.text, labels: item.raw_labels() };
        Some((item.catalog?, (!item.is_declaration).then_some(sample)))
    });
    let (engine, signals) = dialect::read_known(wanted, page.engine);
    let named = page.named.map(|named| sums(named, kept)).unwrap_or_default();
    kept.engine = engine;
    kept.signals = signals.iter().map(|(name, signal)| (*name, signal.value)).collect();
    Reading { engine, signals, named, rejected_lines: summary.bad_lines, errors: summary.errors }
}

fn sums(named: &NamedQueries, kept: &Kept) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for query in named.queries() {
        let series = kept.layout.of(&query.name).filter(|(_, series)| {
            query.matching.iter().all(|(label, value)| series.label(label).as_deref() == Some(value))
        });
        let values = series.filter_map(|(at, _)| kept.values.get(at)).copied().filter(|value| value.is_finite());
        if let Some(sum) = values.reduce(|a, b| a + b) {
            sums.insert(query.key.clone(), sum);
        }
    }
    sums
}

/// A page while it is read.
struct Ingest<'s, 'a> {
    index: &'s mut Index,
    page: &'s Page<'a>,
    rules: u64,
    /// The layout of the last page.
    old: Option<&'s Layout>,
    /// The item of the last page that is expected next.
    cursor: usize,
    /// The items so far, from the first on that was not expected.
    fresh: Option<Vec<Arc<Series>>>,
    scratch: Scratch,
    /// The line under way.
    line: &'a [u8],
    max_series: usize,
    max_labels: usize,
    left_out: usize,
    clock_errors: usize,
}

/// A page that was read to its end.
struct Read {
    scratch: Scratch,
    /// The items, if they are not those of the last page.
    fresh: Option<Vec<Arc<Series>>>,
    left_out: usize,
    clock_errors: usize,
}

impl<'a> Visit<'a> for Ingest<'_, 'a> {
    #[inline]
    fn known(&mut self, line: &'a [u8], open_metrics: bool) -> bool {
        self.line = line;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.starts_with(b"# HELP ") {
            return self.cursor > 0;
        }
        let Some(item) = self.old.and_then(|old| old.items.get(self.cursor)) else { return false };
        let Some(rest) = line.strip_prefix(item.text.as_bytes()) else { return false };
        if item.is_declaration {
            if rest.is_empty() {
                self.expected(item, f64::NAN);
            }
            return rest.is_empty();
        }
        let ([b' ' | b'\t', ..], Ok(rest)) = (rest, std::str::from_utf8(rest)) else { return false };
        let Ok(numbers) = read_numbers(rest, open_metrics, self.max_labels) else { return false };
        self.time(numbers.timestamp);
        self.expected(item, numbers.value);
        true
    }

    fn line(&mut self, line: Line<'a>) {
        match line {
            Line::Sample(sample) => self.sample(&sample),
            Line::Type { name, .. } => self.declaration(&name),
            Line::Help { .. } | Line::Unit { .. } => {}
        }
    }
}

impl Ingest<'_, '_> {
    #[inline]
    fn expected(&mut self, item: &Arc<Series>, value: f64) {
        if let Some(fresh) = &mut self.fresh {
            fresh.push(Arc::clone(item));
        }
        self.scratch.values.push(value);
        self.cursor += 1;
    }

    fn declaration(&mut self, family: &str) {
        let Ok(text) = std::str::from_utf8(self.line.trim_ascii()) else { return };
        if !self.has_room() {
            return;
        }
        let found = self.index.find(self.rules, text).map(Arc::clone);
        let item = found.unwrap_or_else(|| self.index.add(self.rules, |id| Series::declaration(id, text, family)));
        self.unexpected(item, f64::NAN);
    }

    fn sample(&mut self, sample: &Sample<'_>) {
        if !self.has_room() {
            self.left_out += 1;
            return;
        }
        let found = self.index.find(self.rules, sample.series).map(Arc::clone);
        let item = found.unwrap_or_else(|| self.add(sample));
        self.time(sample.timestamp);
        self.unexpected(item, sample.value);
    }

    fn has_room(&self) -> bool {
        self.scratch.values.len() < self.max_series
    }

    fn add(&mut self, sample: &Sample<'_>) -> Arc<Series> {
        let (name, labels) = match &self.page.relabel {
            None => (Some(self.index.name(&sample.name)), None),
            Some(relabel) => {
                let (mut name, mut labels) = (sample.name.clone().into_owned(), sample.labels.to_labels());
                match (relabel.apply)(&mut name, &mut labels) {
                    Keep::Yes if !name.is_empty() => (Some(self.index.name(&name)), Some(labels)),
                    Keep::Yes | Keep::No => (None, None),
                }
            }
        };
        self.index.add(self.rules, |id| Series::sample(id, sample, name, labels))
    }

    /// A line that is not the expected one: it is new here, or lines before it are gone.
    fn unexpected(&mut self, item: Arc<Series>, value: f64) {
        let ahead = self.old.map(|old| old.items.get(self.cursor..).unwrap_or_default()).unwrap_or_default();
        let found = ahead.iter().take(LOOK_AHEAD).position(|known| Arc::ptr_eq(known, &item));
        if self.fresh.is_none() && found != Some(0) {
            let so_far = self.old.map(|old| old.items.get(..self.cursor).unwrap_or_default()).unwrap_or_default();
            self.fresh = Some(so_far.to_vec());
        }
        if let Some(ahead) = found {
            self.cursor += ahead + 1;
        }
        if let Some(fresh) = &mut self.fresh {
            fresh.push(item);
        }
        self.scratch.values.push(value);
    }

    /// A time on the page: reported where it can be true. It never lies ahead of the scrape.
    #[inline]
    fn time(&mut self, on_page: Option<Timestamp>) {
        let Some(on_page) = on_page else { return };
        let at = self.page.at;
        if at.since(on_page).max(on_page.since(at)) <= MAX_CLOCK_ERROR {
            self.scratch.times.push((self.scratch.values.len(), on_page.min(at)));
        } else {
            self.clock_errors += 1;
        }
    }

    fn finish(self) -> Read {
        let Self { old, cursor, fresh, scratch, left_out, clock_errors, .. } = self;
        let fresh = match (fresh, old) {
            (None, Some(old)) if cursor < old.items.len() => Some(old.items.get(..cursor).unwrap_or_default().to_vec()),
            (None, None) => Some(Vec::new()),
            (fresh, _) => fresh,
        };
        Read { scratch, fresh, left_out, clock_errors }
    }
}
