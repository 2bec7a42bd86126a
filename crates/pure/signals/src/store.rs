//! The latest value of every scraped series, with its time, its source, and totals that survive restarts of the source.
//!
//! A *source* is one process that is scraped. A restart is seen per source: a counter went down, or the source's start time went up. A counter of a
//! source that restarted without its value going down continues from zero too, so that no increase is lost.
//! History is kept only for series that were asked for, in bounded rings. Everything else keeps one value.
//!
//! It is for the few series that a policy, rule or query names, of which totals and history are wanted. Every series of every pod, without either, is
//! kept in [`crate::served`], where pods share the texts.

mod histogram;
mod history;

#[cfg(test)]
mod tests;

pub use histogram::{HistogramDelta, HistogramError, quantile};
pub use history::Point;

use history::History;
use loadline_base::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use thiserror::Error;

/// Bounds of a [`Store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// Most sources.
    pub max_sources: usize,
    /// Most series over all sources.
    pub max_series: usize,
    /// Most bytes in the texts of sources, series and names with history, plus [`SERIES_BYTES`] for each series and [`POINT_BYTES`] for each place
    /// of a ring.
    pub max_bytes: usize,
    /// Most series names whose history is kept.
    pub max_histories: usize,
    /// Points in the ring of a series with history; the oldest is dropped.
    pub history_points: usize,
}

/// What one series is charged beside its text.
pub const SERIES_BYTES: usize = 160;
/// What one point of history is charged.
pub const POINT_BYTES: usize = 24;

impl Default for StoreLimits {
    /// 1,024 sources, 500,000 series, 256 MiB, 1,024 names with history, 512 points.
    fn default() -> Self {
        Self {
            max_sources: 1_024,
            max_series: 500_000,
            max_bytes: 256 << 20,
            max_histories: 1_024,
            history_points: 512,
        }
    }
}

/// Why something was not stored.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// [`StoreLimits::max_sources`] is reached.
    #[error("source `{source_name}` is not stored: the store already has {limit} sources (`max_sources`)")]
    TooManySources {
        /// The source refused.
        source_name: String,
        /// The limit in force.
        limit: usize,
    },
    /// [`StoreLimits::max_series`] is reached.
    #[error("series `{series}` is not stored: the store already has {limit} series (`max_series`)")]
    TooManySeries {
        /// The series refused.
        series: String,
        /// The limit in force.
        limit: usize,
    },
    /// [`StoreLimits::max_bytes`] is reached.
    #[error("series `{series}` is not stored: the store would exceed {limit} bytes (`max_bytes`)")]
    TooManyBytes {
        /// The series refused.
        series: String,
        /// The limit in force.
        limit: usize,
    },
    /// [`StoreLimits::max_histories`] is reached.
    #[error("no history of `{series}` is kept: the store already keeps that of {limit} names (`max_histories`)")]
    TooManyHistories {
        /// The series refused.
        series: String,
        /// The limit in force.
        limit: usize,
    },
    /// A scrape that is not newer than the last one of its source.
    #[error("source `{source_name}` was already read at {last}: a scrape from {at} is not newer")]
    NotNewer {
        /// The source.
        source_name: String,
        /// Time of its last scrape.
        last: Timestamp,
        /// Time of the refused scrape.
        at: Timestamp,
    },
}

/// One scraped value on its way into the store.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading<'a> {
    /// Name and labels as served.
    pub series: &'a str,
    /// The value.
    pub value: f64,
    /// Whether it only grows while its process lives: counters, and the buckets, counts and sums of histograms.
    pub cumulative: bool,
}

/// What the store has of one series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latest {
    /// The value as scraped.
    pub value: f64,
    /// The value plus everything counted before restarts; equal to `value` for what is not cumulative.
    pub total: f64,
    /// When its page was scraped.
    pub at: Timestamp,
}

impl Latest {
    /// How old the value is.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Duration {
        now.since(self.at)
    }
}

/// What one scrape did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stored {
    /// Values stored.
    pub stored: usize,
    /// Values refused by a limit.
    pub refused: usize,
    /// The first refusal.
    pub first_error: Option<StoreError>,
    /// Whether the source restarted since its last scrape.
    pub restarted: bool,
}

#[derive(Debug, Clone)]
struct Series {
    latest: Latest,
    cumulative: bool,
    /// The last value of the source's present life; zero from a restart until the series is seen again.
    floor: f64,
    /// Sum of the last values before each restart.
    before: f64,
    history: Option<History>,
}

#[derive(Debug, Clone, Default)]
struct Source {
    series: BTreeMap<Box<str>, Series>,
    last_scrape: Option<Timestamp>,
    started: Option<f64>,
    restarts: u64,
}

/// The store. Pure: the caller gives every time.
#[derive(Debug, Clone, Default)]
pub struct Store {
    limits: StoreLimits,
    sources: BTreeMap<Box<str>, Source>,
    /// Series whose history was asked for.
    asked: BTreeSet<Box<str>>,
    series: usize,
    bytes: usize,
    refused: u64,
}

impl Store {
    /// An empty store.
    #[must_use]
    pub fn new(limits: StoreLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Keeps history of a series, at every source, from its next scrape on. Asking twice is asking once.
    ///
    /// # Errors
    /// When there are too many, or the name does not fit in what is left of [`StoreLimits::max_bytes`]; counted in [`Self::refused`].
    pub fn keep_history(&mut self, series: &str) -> Result<(), StoreError> {
        if self.asked.contains(series) {
            return Ok(());
        }
        let limit = self.limits.max_histories;
        let mut room = self.room();
        let taken = if self.asked.len() < limit {
            room.take(series, 0, series.len())
        } else {
            Err(StoreError::TooManyHistories { series: series.to_owned(), limit })
        };
        if let Err(error) = taken {
            self.refused = self.refused.saturating_add(1);
            return Err(error);
        }
        self.bytes = room.bytes;
        self.asked.insert(series.into());
        Ok(())
    }

    /// Drops the history of a series at every source and keeps no more of it.
    pub fn drop_history(&mut self, series: &str) {
        if !self.asked.remove(series) {
            return;
        }
        self.bytes -= series.len();
        for source in self.sources.values_mut() {
            if let Some(known) = source.series.get_mut(series) {
                self.bytes -= known.history_bytes(&self.limits);
                known.history = None;
            }
        }
    }

    const fn room(&self) -> Room {
        Room { limits: self.limits, series: self.series, bytes: self.bytes }
    }

    /// Stores one scrape of a source. `started` is its process start time (`process_start_time_seconds` or a `_created` value), if the page has one.
    /// A limit refuses single values and is counted; the rest is stored. A cumulative value that is not finite is left out.
    ///
    /// # Errors
    /// When the source is new and there are too many, or the scrape is not newer than the last.
    pub fn store(
        &mut self,
        source: &str,
        at: Timestamp,
        started: Option<f64>,
        readings: &[Reading<'_>],
    ) -> Result<Stored, StoreError> {
        if !self.sources.contains_key(source) {
            if self.sources.len() >= self.limits.max_sources {
                self.refused = self.refused.saturating_add(1);
                let limit = self.limits.max_sources;
                return Err(StoreError::TooManySources { source_name: source.to_owned(), limit });
            }
            self.sources.insert(source.into(), Source::default());
            self.bytes += source.len();
        }
        let known = self.sources.entry(source.into()).or_default();
        if let Some(last) = known.last_scrape.filter(|last| *last >= at) {
            return Err(StoreError::NotNewer { source_name: source.to_owned(), last, at });
        }
        let mut outcome = Stored { restarted: known.has_restarted(started, readings), ..Stored::default() };
        if outcome.restarted {
            known.restart();
        }
        known.last_scrape = Some(at);
        known.started = started.or(known.started);
        let mut room = Room { limits: self.limits, series: self.series, bytes: self.bytes };
        // a total that is no number says nothing, and would spoil every later one
        for reading in readings.iter().filter(|reading| !reading.cumulative || reading.value.is_finite()) {
            match known.put(&mut room, reading, at, self.asked.contains(reading.series)) {
                Ok(()) => outcome.stored += 1,
                Err(error) => {
                    outcome.refused += 1;
                    self.refused = self.refused.saturating_add(1);
                    outcome.first_error.get_or_insert(error);
                }
            }
        }
        (self.series, self.bytes) = (room.series, room.bytes);
        Ok(outcome)
    }

    /// Forgets a source and frees its room.
    pub fn forget(&mut self, source: &str) {
        if let Some(gone) = self.sources.remove(source) {
            let names = gone.series.keys().map(|name| name.len() + SERIES_BYTES).sum::<usize>();
            let rings = gone.series.values().map(|series| series.history_bytes(&self.limits)).sum::<usize>();
            self.bytes -= source.len() + names + rings;
            self.series -= gone.series.len();
        }
    }

    /// The latest value of a series at a source.
    #[must_use]
    pub fn latest(&self, source: &str, series: &str) -> Option<Latest> {
        Some(self.sources.get(source)?.series.get(series)?.latest)
    }

    /// The latest value of a series at every source that has it, in source order.
    pub fn across<'s>(&'s self, series: &'s str) -> impl Iterator<Item = (&'s str, Latest)> {
        self.sources.iter().filter_map(move |(name, source)| Some((name.as_ref(), source.series.get(series)?.latest)))
    }

    /// When a source was last scraped.
    #[must_use]
    pub fn last_scrape(&self, source: &str) -> Option<Timestamp> {
        self.sources.get(source)?.last_scrape
    }

    /// How often a source has restarted while it was known.
    #[must_use]
    pub fn restarts(&self, source: &str) -> u64 {
        self.sources.get(source).map_or(0, |source| source.restarts)
    }

    /// The kept points of a series within `window` before `now`, oldest first, with totals that ignore restarts.
    pub fn history(&self, source: &str, series: &str, now: Timestamp, window: Duration) -> impl Iterator<Item = Point> {
        let from = now.minus(window);
        let history = self.sources.get(source).and_then(|source| source.series.get(series)?.history.as_ref());
        let points = history.into_iter().flat_map(History::points);
        points.filter(move |point| point.at >= from && point.at <= now)
    }

    /// By how much a cumulative series grew between the first and the last kept point within `window`; `None` with fewer than two points.
    /// Nothing is extrapolated to the edges of the window.
    #[must_use]
    pub fn increase(&self, source: &str, series: &str, now: Timestamp, window: Duration) -> Option<f64> {
        self.ends(source, series, now, window).map(|(first, last)| last.total - first.total)
    }

    /// [`Self::increase`] per second between those two points.
    #[must_use]
    pub fn rate(&self, source: &str, series: &str, now: Timestamp, window: Duration) -> Option<f64> {
        let (first, last) = self.ends(source, series, now, window)?;
        Some((last.total - first.total) / last.at.since(first.at).as_secs_f64())
    }

    fn ends(&self, source: &str, series: &str, now: Timestamp, window: Duration) -> Option<(Point, Point)> {
        let mut points = self.history(source, series, now, window);
        let first = points.next()?;
        let last = points.last()?;
        Some((first, last))
    }

    /// Series stored now.
    #[must_use]
    pub const fn series_count(&self) -> usize {
        self.series
    }

    /// Bytes charged now.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Values and sources refused by a limit since the store was made.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }
}

/// What is taken of the limits.
struct Room {
    limits: StoreLimits,
    series: usize,
    bytes: usize,
}

impl Room {
    fn take(&mut self, series: &str, new_series: usize, bytes: usize) -> Result<(), StoreError> {
        if self.series + new_series > self.limits.max_series {
            return Err(StoreError::TooManySeries { series: series.to_owned(), limit: self.limits.max_series });
        }
        if self.bytes.saturating_add(bytes) > self.limits.max_bytes {
            return Err(StoreError::TooManyBytes { series: series.to_owned(), limit: self.limits.max_bytes });
        }
        self.series += new_series;
        self.bytes += bytes;
        Ok(())
    }
}

impl Source {
    fn has_restarted(&self, started: Option<f64>, readings: &[Reading<'_>]) -> bool {
        if let (Some(known), Some(now)) = (self.started, started)
            && now > known
        {
            return true;
        }
        readings.iter().filter(|reading| reading.cumulative).any(|reading| {
            let known = self.series.get(reading.series).filter(|known| known.cumulative);
            known.is_some_and(|known| reading.value < known.floor)
        })
    }

    fn restart(&mut self) {
        self.restarts = self.restarts.saturating_add(1);
        for series in self.series.values_mut().filter(|series| series.cumulative) {
            series.before = series.latest.total;
            // a series that returns late must not look like another restart
            series.floor = 0.0;
        }
    }

    fn put(&mut self, room: &mut Room, reading: &Reading<'_>, at: Timestamp, asked: bool) -> Result<(), StoreError> {
        if !self.series.contains_key(reading.series) {
            room.take(reading.series, 1, reading.series.len() + SERIES_BYTES)?;
            let latest = Latest { value: 0.0, total: 0.0, at };
            let fresh = Series { latest, cumulative: reading.cumulative, floor: 0.0, before: 0.0, history: None };
            self.series.insert(reading.series.into(), fresh);
        }
        let Some(series) = self.series.get_mut(reading.series) else {
            return Ok(());
        };
        let total = if reading.cumulative { series.before + reading.value } else { reading.value };
        series.latest = Latest { value: reading.value, total, at };
        series.cumulative = reading.cumulative;
        series.floor = reading.value;
        if asked && series.history.is_none() {
            room.take(reading.series, 0, room.limits.history_points.saturating_mul(POINT_BYTES))?;
            series.history = Some(History::new(room.limits.history_points));
        }
        if let Some(history) = &mut series.history {
            history.push(Point { at, total });
        }
        Ok(())
    }
}

impl Series {
    fn history_bytes(&self, limits: &StoreLimits) -> usize {
        if self.history.is_some() { limits.history_points.saturating_mul(POINT_BYTES) } else { 0 }
    }
}
