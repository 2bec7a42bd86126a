//! What pages have in common: series, and the sequence in which a page serves them.

use super::PodKey;
use super::rules;
use crate::dialect;
use crate::exposition::{LabelText, Sample};
use loadline_base::Labels;
use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::sync::Arc;

/// A metric's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) served: Box<str>,
    /// With `_` for `:`.
    pub(super) folded: Box<str>,
}

impl Name {
    pub(super) fn new(served: &str) -> Self {
        Self { served: served.into(), folded: served.replace(':', "_").into_boxed_str() }
    }
}

/// One line of a page without its number: a series, or the declaration of a family.
#[derive(Debug)]
pub(super) struct Series {
    /// Never used twice.
    pub(super) serial: u64,
    /// The id of the relabelling rules it went through.
    pub(super) rules: u64,
    /// As on the page.
    pub(super) text: Box<str>,
    /// Where the labels are in the text.
    labels: (u32, u32),
    /// The name it is asked for by; none of a declaration, or of what relabelling dropped.
    pub(super) name: Option<Arc<Name>>,
    /// The labels after relabelling, where that changed them.
    relabelled: Option<Box<Labels>>,
    /// The pod that the labels name.
    pub(super) owner: Option<Box<PodKey>>,
    /// The place of the page's own name in the dialects' catalog.
    pub(super) catalog: Option<u16>,
    pub(super) is_declaration: bool,
}

impl Series {
    pub(super) fn declaration((serial, rules): (u64, u64), text: &str, family: &str) -> Self {
        Self {
            serial,
            rules,
            text: text.into(),
            labels: (0, 0),
            name: None,
            relabelled: None,
            owner: None,
            catalog: dialect::catalog_id(family),
            is_declaration: true,
        }
    }

    pub(super) fn sample(
        (serial, rules): (u64, u64),
        sample: &Sample<'_>,
        name: Option<Arc<Name>>,
        labels: Option<Labels>,
    ) -> Self {
        let raw = sample.labels.raw();
        // the labels end before the brace that ends the text
        let end = sample.series.len().saturating_sub(1);
        let place = if raw.is_empty() { (0, 0) } else { (end.saturating_sub(raw.len()), end) };
        let narrow = |at: usize| u32::try_from(at).unwrap_or_default();
        let fresh = Self {
            serial,
            rules,
            text: sample.series.into(),
            labels: (narrow(place.0), narrow(place.1)),
            name,
            relabelled: labels.map(Box::new),
            owner: None,
            catalog: dialect::catalog_id(&sample.name),
            is_declaration: false,
        };
        let owner = fresh.name.as_ref().and_then(|_| rules::owner_of(|name| fresh.label(name))).map(Box::new);
        Self { owner, ..fresh }
    }

    /// The labels as on the page.
    pub(super) fn raw_labels(&self) -> LabelText<'_> {
        let (start, end) = self.labels;
        let place = usize::try_from(start).unwrap_or_default()..usize::try_from(end).unwrap_or_default();
        LabelText::checked(self.text.get(place).unwrap_or_default())
    }

    /// A label's value, after relabelling.
    pub(super) fn label(&self, name: &str) -> Option<Cow<'_, str>> {
        match &self.relabelled {
            Some(labels) => labels.get(name).map(Cow::Borrowed),
            None => self.raw_labels().get(name),
        }
    }

    /// The series for people: as served, after relabelling.
    pub(super) fn shown(&self) -> String {
        match (&self.relabelled, &self.name) {
            (Some(labels), Some(name)) if labels.is_empty() => name.served.to_string(),
            (Some(labels), Some(name)) => format!("{}{labels}", name.served),
            _ => self.text.to_string(),
        }
    }
}

/// A series in order of its text.
#[derive(Debug, Clone)]
pub(super) struct ByText(pub(super) Arc<Series>);

impl Borrow<str> for ByText {
    fn borrow(&self) -> &str {
        &self.0.text
    }
}

impl PartialEq for ByText {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for ByText {}

impl PartialOrd for ByText {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByText {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.text.cmp(&other.0.text)
    }
}

/// Items of one name behind each other.
#[derive(Debug)]
struct Run {
    name: Arc<Name>,
    start: u32,
    length: u32,
}

/// The series and declarations of a page, in its order.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) items: Box<[Arc<Series>]>,
    /// In order of the folded names, then of their places.
    runs: Box<[Run]>,
    /// Places of series that a broken page repeats further down: the last counts. Ascending.
    repeated: Box<[u32]>,
    /// Places of what the dialects read.
    pub(super) wanted: Box<[u32]>,
    /// The pods that the labels name, each once.
    pub(super) owners: Box<[PodKey]>,
}

/// What a layout is charged for one item, beside its text.
const ITEM_BYTES: usize = 12;
/// What a layout is charged for one run of equal names.
const RUN_BYTES: usize = 24;

impl Layout {
    pub(super) fn new(items: Vec<Arc<Series>>) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        let mut open: Option<&Arc<Name>> = None;
        let mut wanted = Vec::new();
        let mut owners: Vec<PodKey> = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let at = u32::try_from(at).unwrap_or(u32::MAX);
            if item.catalog.is_some() {
                wanted.push(at);
            }
            if let Some(owner) = item.owner.as_deref()
                && owners.last() != Some(owner)
            {
                owners.push(owner.clone());
            }
            match (&item.name, open, runs.last_mut()) {
                (Some(name), Some(last), Some(run)) if Arc::ptr_eq(name, last) => run.length += 1,
                (Some(name), ..) => runs.push(Run { name: Arc::clone(name), start: at, length: 1 }),
                (None, ..) => {}
            }
            open = item.name.as_ref();
        }
        runs.sort_by(|a, b| a.name.folded.cmp(&b.name.folded).then(a.start.cmp(&b.start)));
        owners.sort_unstable();
        owners.dedup();
        let repeated = repeated(&items);
        Self {
            items: items.into_boxed_slice(),
            runs: runs.into_boxed_slice(),
            repeated,
            wanted: wanted.into_boxed_slice(),
            owners: owners.into_boxed_slice(),
        }
    }

    /// Places and series of a folded name.
    pub(super) fn of<'l>(&'l self, folded: &'l str) -> impl Iterator<Item = (usize, &'l Arc<Series>)> {
        let first = self.runs.partition_point(|run| *run.name.folded < *folded);
        let runs = self.runs.iter().skip(first).take_while(move |run| *run.name.folded == *folded);
        let places = runs.flat_map(|run| run.start..run.start.saturating_add(run.length));
        places.filter(|at| self.repeated.binary_search(at).is_err()).filter_map(|at| {
            let at = usize::try_from(at).ok()?;
            Some((at, self.items.get(at)?))
        })
    }

    /// The names on the page, folded; one may come twice.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<Name>> {
        self.runs.iter().map(|run| &run.name)
    }

    /// The id of the relabelling rules that all its items went through.
    pub(super) fn rules(&self) -> u64 {
        self.items.first().map_or(0, |item| item.rules)
    }

    pub(super) fn into_items(self) -> Vec<Arc<Series>> {
        self.items.into_vec()
    }

    pub(super) fn bytes(&self) -> usize {
        self.items.len() * ITEM_BYTES + self.runs.len() * RUN_BYTES
    }

    /// Tells layouts apart quickly; equal ones are compared whole.
    pub(super) fn mark(items: &[Arc<Series>]) -> u64 {
        items.iter().fold(0xcbf2_9ce4_8422_2325, |mark: u64, item| {
            (mark ^ item.serial).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23)
        })
    }

    pub(super) fn is(&self, items: &[Arc<Series>]) -> bool {
        self.items.len() == items.len() && self.items.iter().zip(items).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

fn repeated(items: &[Arc<Series>]) -> Box<[u32]> {
    let mut places: Vec<(u64, u32)> = Vec::with_capacity(items.len());
    places.extend(items.iter().enumerate().map(|(at, item)| (item.serial, u32::try_from(at).unwrap_or(u32::MAX))));
    places.sort_unstable();
    let pairs = places.windows(2).filter_map(|pair| match pair {
        [(one, at), (two, _)] if one == two => Some(*at),
        _ => None,
    });
    let mut repeated: Vec<u32> = pairs.collect();
    repeated.sort_unstable();
    repeated.into_boxed_slice()
}
