//! The wanted samples of one page, by name, and the engine they prove.

use super::kinds::EngineKind;
use super::names::Catalog;
use crate::exposition::{LabelText, Line, Sample};
use std::borrow::Cow;

/// One sample with a finite value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept<'a> {
    pub(crate) value: f64,
    pub(crate) series: &'a str,
    pub(crate) labels: LabelText<'a>,
}

/// What a scan has collected.
#[derive(Debug)]
pub(super) struct Page<'a> {
    catalog: &'static Catalog,
    /// By name id, each in the page's order.
    samples: Vec<Vec<Kept<'a>>>,
    seen: Vec<bool>,
    /// The name looked up last: the series of a family follow each other.
    last: Option<(&'a str, usize)>,
    /// A `vllm:*` series with the label `server` and no `model_name`: the production stack's router.
    re_exported: bool,
}

impl<'a> Page<'a> {
    pub(super) fn new(catalog: &'static Catalog) -> Self {
        Self {
            catalog,
            samples: vec![Vec::new(); catalog.len()],
            seen: vec![false; catalog.len()],
            last: None,
            re_exported: false,
        }
    }

    pub(super) fn visit(&mut self, line: Line<'a>) {
        match line {
            Line::Sample(sample) => self.sample(&sample),
            // a family that is declared and has no series yet proves its program too
            Line::Type { name, .. } => {
                if let Some(id) = self.catalog.id(&name) {
                    self.declare(id);
                }
            }
            Line::Help { .. } | Line::Unit { .. } => {}
        }
    }

    fn sample(&mut self, sample: &Sample<'a>) {
        let Some(id) = self.id(sample) else { return };
        self.put(id, Kept { value: sample.value, series: sample.series, labels: sample.labels });
    }

    /// That the name of an id is on the page.
    pub(super) fn declare(&mut self, id: usize) {
        if let Some(seen) = self.seen.get_mut(id) {
            *seen = true;
        }
    }

    /// A sample of the name of an id.
    pub(super) fn put(&mut self, id: usize, sample: Kept<'a>) {
        self.declare(id);
        // the first series of a name tells enough
        let is_first = self.samples.get(id).is_some_and(Vec::is_empty);
        if is_first && self.catalog.proves(id).contains(&EngineKind::Vllm) {
            self.re_exported |= sample.labels.get("server").is_some() && sample.labels.get("model_name").is_none();
        }
        // NaN and infinities are how clients say "no value"; absent is not zero
        if sample.value.is_finite()
            && let Some(kept) = self.samples.get_mut(id)
        {
            kept.push(sample);
        }
    }

    fn id(&mut self, sample: &Sample<'a>) -> Option<usize> {
        if let Some((last, id)) = self.last
            && last == sample.name
        {
            return Some(id);
        }
        let id = self.catalog.id(&sample.name)?;
        if let Cow::Borrowed(name) = sample.name {
            self.last = Some((name, id));
        }
        Some(id)
    }

    /// The samples of a name, in the page's order. A series that a broken page repeats is kept once, with its last value.
    pub(super) fn of(&self, name: &str) -> Vec<Kept<'a>> {
        let kept = self.catalog.id(name).and_then(|id| self.samples.get(id)).map(Vec::as_slice).unwrap_or_default();
        if kept.len() < 2 {
            return kept.to_vec();
        }
        let mut order: Vec<usize> = (0..kept.len()).collect();
        let series = |at: &usize| kept.get(*at).map(|sample| sample.series);
        order.sort_by(|a, b| series(a).cmp(&series(b)).then(b.cmp(a)));
        order.dedup_by(|a, b| series(a) == series(b));
        order.sort_unstable();
        order.iter().filter_map(|at| kept.get(*at)).copied().collect()
    }

    /// The engine whose names are here; see [`EngineKind::DETECTION_ORDER`].
    pub(super) fn detect(&self) -> Option<EngineKind> {
        let proved = |kind: EngineKind| {
            (kind == EngineKind::ProductionStack && self.re_exported)
                || self.seen.iter().enumerate().any(|(id, seen)| *seen && self.catalog.proves(id).contains(&kind))
        };
        EngineKind::DETECTION_ORDER.into_iter().find(|kind| proved(*kind))
    }
}
