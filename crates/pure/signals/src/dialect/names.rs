//! The compiled table: which sample names are wanted, and which layer each proves.

use super::kinds::EngineKind;
use super::table::{Layer, layers, own_layer};
use crate::exposition::WantedNames;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// Every name of the table, compiled.
#[derive(Debug)]
pub(super) struct Catalog {
    /// Folded spellings, in order; the index is the name's id.
    names: Vec<String>,
    /// For each name the kinds that it proves.
    proves: Vec<Vec<EngineKind>>,
    any: WantedNames,
    declared: BTreeMap<EngineKind, WantedNames>,
}

static CATALOG: LazyLock<Catalog> = LazyLock::new(Catalog::compile);

/// The catalog; compiled once, from constants only.
pub(super) fn catalog() -> &'static Catalog {
    &CATALOG
}

impl Catalog {
    fn compile() -> Self {
        let of = |kind: EngineKind| layers(kind).iter().copied().flat_map(names_of).collect();
        let by_kind: BTreeMap<EngineKind, BTreeSet<String>> =
            EngineKind::ALL.into_iter().map(|kind| (kind, of(kind))).collect();
        let names: BTreeSet<&String> = by_kind.values().flatten().collect();
        let names: Vec<String> = names.into_iter().cloned().collect();
        let proves = proved_by(&names);
        let detected = EngineKind::DETECTION_ORDER.iter().filter_map(|kind| by_kind.get(kind)).flatten();
        let any = WantedNames::exact(detected);
        let declared = by_kind.iter().map(|(kind, names)| (*kind, WantedNames::exact(names))).collect();
        Self { names, proves, any, declared }
    }

    /// The filter for a declared engine, or for all that can be detected.
    pub(super) fn wanted(&self, engine: Option<EngineKind>) -> &WantedNames {
        engine.and_then(|kind| self.declared.get(&kind)).unwrap_or(&self.any)
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// The id of a sample name, whatever its separators.
    pub(super) fn id(&self, name: &str) -> Option<usize> {
        self.names.binary_search_by(|known| compare_folded(known, name)).ok()
    }

    pub(super) fn proves(&self, id: usize) -> &[EngineKind] {
        self.proves.get(id).map(Vec::as_slice).unwrap_or_default()
    }
}

/// The folded names of the kind's own layer; empty if it has none.
fn own_names(kind: EngineKind) -> BTreeSet<String> {
    own_layer(kind).map(names_of).unwrap_or_default()
}

fn names_of(layer: &Layer) -> BTreeSet<String> {
    let samples = layer.rules.iter().flat_map(|rule| rule.sources).flat_map(|source| source.sample_names());
    let markers = layer.markers.iter().map(|name| (*name).to_owned());
    samples.chain(markers).map(|name| name.replace(':', "_")).collect()
}

/// For each name the kinds whose own layer has it. `vllm:*` names that vLLM has itself do not prove the production stack: there the labels decide.
fn proved_by(names: &[String]) -> Vec<Vec<EngineKind>> {
    let own: Vec<_> = EngineKind::DETECTION_ORDER.into_iter().map(|kind| (kind, own_names(kind))).collect();
    let vllm = own_names(EngineKind::Vllm);
    let proves = |name: &String| {
        let having = own.iter().filter(|(_, own)| own.contains(name)).map(|(kind, _)| *kind);
        having.filter(|kind| *kind != EngineKind::ProductionStack || !vllm.contains(name)).collect()
    };
    names.iter().map(proves).collect()
}

/// Compares a folded spelling with a name, whatever its separators.
pub(super) fn compare_folded(known: &str, name: &str) -> Ordering {
    let folded = name.bytes().map(|byte| if byte == b':' { b'_' } else { byte });
    known.bytes().cmp(folded)
}
