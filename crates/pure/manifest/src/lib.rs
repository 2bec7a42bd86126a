//! Manifests and configuration: from text with positions to the inputs of `loadline-policy`.
//!
//! Invariants
//! - Every complaint names file, line, column and field, what is wrong and what to do.
//! - Unknown fields and duplicate keys are errors; every input is bounded by a named limit.
//! - A default stands in exactly one table, which is also the reference page.
//!
//! Deliberately absent: files (the caller reads them), clusters, and decisions.

pub mod config;
pub mod defaults;
pub mod hpa;
pub mod observed;
pub mod yaml;

pub use yaml::{Fault, Faults, Limits};

/// The reference page of every default, as Markdown; `docs/reference/defaults.md` is this text.
#[must_use]
pub fn reference_page() -> String {
    format!(
        "# Defaults\n\nGenerated from the tables in `crates/pure/manifest`; do not edit.\n\n## loadline.yaml\n\n{}\n## HorizontalPodAutoscaler\n\n{}",
        defaults::markdown_table(config::defaults::TABLE),
        defaults::markdown_table(hpa::defaults::TABLE)
    )
}
