//! Everything that pages share, each kept once for as long as a page has it.

use super::layout::{ByText, Layout, Name, Series};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a series is charged beside its text.
const SERIES_BYTES: usize = 112;

/// The shared parts.
#[derive(Debug, Default)]
pub(super) struct Index {
    names: BTreeMap<Box<str>, Arc<Name>>,
    /// By the id of the relabelling rules, because these decide what a series is called.
    series: BTreeMap<u64, BTreeSet<ByText>>,
    /// By [`Layout::mark`].
    layouts: BTreeMap<u64, Vec<Arc<Layout>>>,
    serial: u64,
    series_count: usize,
    bytes: usize,
}

impl Index {
    pub(super) fn name(&mut self, served: &str) -> Arc<Name> {
        if let Some(known) = self.names.get(served) {
            return Arc::clone(known);
        }
        let name = Arc::new(Name::new(served));
        self.names.insert(served.into(), Arc::clone(&name));
        name
    }

    pub(super) fn find(&self, rules: u64, text: &str) -> Option<&Arc<Series>> {
        Some(&self.series.get(&rules)?.get(text)?.0)
    }

    /// Adds what [`Self::find`] does not find.
    pub(super) fn add(&mut self, rules: u64, make: impl FnOnce((u64, u64)) -> Series) -> Arc<Series> {
        self.serial += 1;
        let series = Arc::new(make((self.serial, rules)));
        self.bytes += SERIES_BYTES + series.text.len();
        self.series_count += 1;
        self.series.entry(rules).or_default().insert(ByText(Arc::clone(&series)));
        series
    }

    /// The one layout of these items; an equal one is shared.
    pub(super) fn layout(&mut self, items: Vec<Arc<Series>>) -> Arc<Layout> {
        let same = self.layouts.entry(Layout::mark(&items)).or_default();
        if let Some(known) = same.iter().find(|known| known.is(&items)) {
            return Arc::clone(known);
        }
        let layout = Arc::new(Layout::new(items));
        self.bytes += layout.bytes();
        same.push(Arc::clone(&layout));
        layout
    }

    /// Gives a layout back; with its last user it ends, and so do series and names that only it had.
    pub(super) fn release(&mut self, layout: Arc<Layout>) {
        // the index has one, and this is the other
        if Arc::strong_count(&layout) > 2 {
            return;
        }
        let mark = Layout::mark(&layout.items);
        if let Some(same) = self.layouts.get_mut(&mark) {
            same.retain(|known| !Arc::ptr_eq(known, &layout));
            if same.is_empty() {
                self.layouts.remove(&mark);
            }
        }
        self.bytes -= layout.bytes();
        if let Some(layout) = Arc::into_inner(layout) {
            self.drop_unused(layout.into_items());
        }
    }

    /// Ends those of these series that nothing but the index has.
    pub(super) fn drop_unused(&mut self, items: Vec<Arc<Series>>) {
        for item in items {
            if Arc::strong_count(&item) > 2 {
                continue;
            }
            if let Some(series) = self.series.get_mut(&item.rules) {
                series.remove(&*item.text);
                if series.is_empty() {
                    self.series.remove(&item.rules);
                }
            }
            self.series_count -= 1;
            self.bytes -= SERIES_BYTES + item.text.len();
            let Some(name) = Arc::into_inner(item).and_then(|series| series.name) else { continue };
            if Arc::strong_count(&name) <= 2 {
                self.names.remove(&name.served);
            }
        }
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Series and layouts.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.series_count, self.layouts.values().map(Vec::len).sum())
    }

    /// Every name, as served and folded.
    pub(super) fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.names.values().map(|name| (&*name.served, &*name.folded))
    }
}
