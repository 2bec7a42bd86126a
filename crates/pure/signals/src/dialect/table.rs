//! The shape of the dialect table, and which layers each engine's page has.

use super::kinds::{EngineKind, SignalName};
use super::{table_engines as engines, table_fronts as fronts};

/// The names of one program: what it calls each signal.
#[derive(Debug)]
pub(super) struct Layer {
    /// Whether series repeat over `tp_rank`, `pp_rank`, `moe_ep_rank` and `pid`, and gauges over `priority`.
    pub(super) ranked: bool,
    /// Names that prove the program without being a source of a signal, or that are the first to appear.
    pub(super) markers: &'static [&'static str],
    /// One row per signal.
    pub(super) rules: &'static [Rule],
}

/// One signal and where it is read from; the first source that is on the page wins.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) signal: SignalName,
    pub(super) sources: &'static [Source],
}

/// How several series become one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fold {
    Sum,
    Max,
    Min,
}

/// Only series whose label has this value.
pub(super) type Only = Option<(&'static str, &'static str)>;

/// One way to get a value.
#[derive(Debug)]
pub(super) enum Source {
    /// A gauge. The names in `plus` are added where the page has them; they make no value alone.
    Gauge { name: &'static str, plus: &'static [&'static str], fold: Fold, only: Only },
    /// A counter, or the `_sum` or `_count` of a histogram read as one: added over all series.
    Counter { name: &'static str, only: Only },
    /// A histogram or summary: the family's name without suffix.
    Histogram { name: &'static str, only: Only },
    /// `of - less`, not below 0 (a scrape is not atomic).
    Difference { of: &'static str, less: &'static str },
    /// `of / by`, both summed.
    Ratio { of: &'static str, by: &'static str },
    /// `of * by` of the series with the same value of `label`, added.
    Product { of: &'static str, by: &'static str, label: &'static str },
    /// A number that stands in a label.
    LabelValue { name: &'static str, label: &'static str },
    /// The product of two numbers that stand in labels; of each pair of label names the first that is there.
    LabelProduct { name: &'static str, sizes: [&'static str; 2], counts: [&'static str; 2], fold: Fold },
}

pub(super) const fn rule(signal: SignalName, sources: &'static [Source]) -> Rule {
    Rule { signal, sources }
}

/// A gauge that adds over engines.
pub(super) const fn gauge(name: &'static str) -> Source {
    Source::Gauge { name, plus: &[], fold: Fold::Sum, only: None }
}

/// A gauge to which others are added where present.
pub(super) const fn gauge_plus(name: &'static str, plus: &'static [&'static str]) -> Source {
    Source::Gauge { name, plus, fold: Fold::Sum, only: None }
}

/// A gauge of which the fullest engine counts.
pub(super) const fn fullest(name: &'static str) -> Source {
    Source::Gauge { name, plus: &[], fold: Fold::Max, only: None }
}

/// A gauge of which only the series with one label value count.
pub(super) const fn gauge_where(name: &'static str, label: &'static str, value: &'static str, fold: Fold) -> Source {
    Source::Gauge { name, plus: &[], fold, only: Some((label, value)) }
}

pub(super) const fn counter(name: &'static str) -> Source {
    Source::Counter { name, only: None }
}

pub(super) const fn histogram(name: &'static str) -> Source {
    Source::Histogram { name, only: None }
}

impl Source {
    /// Every sample name it reads.
    pub(super) fn sample_names(&self) -> Vec<String> {
        match self {
            Self::Gauge { name, plus, .. } => {
                std::iter::once(name).chain(*plus).map(|name| (*name).to_owned()).collect()
            }
            Self::Counter { name, .. } | Self::LabelValue { name, .. } | Self::LabelProduct { name, .. } => {
                vec![(*name).to_owned()]
            }
            // the bare name too: it stands in the TYPE line
            Self::Histogram { name, .. } => {
                ["", "_bucket", "_sum", "_count"].iter().map(|suffix| format!("{name}{suffix}")).collect()
            }
            Self::Difference { of, less } => vec![(*of).to_owned(), (*less).to_owned()],
            Self::Ratio { of, by } | Self::Product { of, by, .. } => vec![(*of).to_owned(), (*by).to_owned()],
        }
    }
}

/// The layers of each engine's page, the one whose names count first in front and its own last.
static PAGES: [(EngineKind, &[&Layer]); EngineKind::ALL.len()] = [
    (EngineKind::Vllm, &[&engines::VLLM]),
    (EngineKind::Sglang, &[&engines::SGLANG]),
    (EngineKind::Trtllm, &[&engines::TRTLLM]),
    (EngineKind::Tgi, &[&engines::TGI]),
    (EngineKind::LlamaCpp, &[&engines::LLAMACPP]),
    (EngineKind::Nim, &[&engines::NIM]),
    (EngineKind::DynamoFrontend, &[&fronts::DYNAMO_FRONTEND]),
    // the wrapped engine's own names pass through unchanged
    (EngineKind::DynamoWorker, &[&engines::VLLM, &engines::SGLANG, &engines::TRTLLM, &fronts::DYNAMO_WORKER]),
    (EngineKind::RayServe, &[&fronts::RAY_SERVE]),
    (EngineKind::SglangRouter, &[&fronts::SGLANG_ROUTER]),
    (EngineKind::VllmRouter, &[&fronts::VLLM_ROUTER]),
    (EngineKind::ProductionStack, &[&fronts::PRODUCTION_STACK]),
];

/// The layers of an engine's page.
pub(super) fn layers(kind: EngineKind) -> &'static [&'static Layer] {
    PAGES.iter().find(|(page, _)| *page == kind).map_or(&[], |(_, layers)| layers)
}

/// The layer whose names prove the kind.
pub(super) fn own_layer(kind: EngineKind) -> Option<&'static Layer> {
    layers(kind).last().copied()
}
