//! YAML (and JSON, which is YAML) into a tree that knows its positions, and from there into types.
//!
//! Two steps instead of one, so that every later complaint, also one of validation, can name file, line, column and field.

mod de;
mod fault;
mod node;
mod suggest;

pub use fault::{Fault, Faults};
pub use node::{Key, Node, Position, Value};
pub use suggest::did_you_mean;

use serde::de::DeserializeOwned;

/// The most bytes of one file: manifests of a whole cluster fit, a mistaken log file does not.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
/// The deepest nesting.
pub const MAX_DEPTH: usize = 48;
/// The most documents of one file.
pub const MAX_DOCUMENTS: usize = 1_000;
/// The most nodes of one file, aliases expanded.
pub const MAX_NODES: usize = 250_000;
/// The most aliases of one file.
pub const MAX_ALIASES: usize = 1_000;

/// What one file may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the file.
    pub bytes: usize,
    /// Nesting.
    pub depth: usize,
    /// Documents.
    pub documents: usize,
    /// Nodes, aliases expanded.
    pub nodes: usize,
    /// Aliases.
    pub aliases: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: MAX_BYTES, depth: MAX_DEPTH, documents: MAX_DOCUMENTS, nodes: MAX_NODES, aliases: MAX_ALIASES }
    }
}

/// Reads every document of a file; empty documents are left out. Duplicate keys are refused.
///
/// # Errors
/// Names the place where the text stops being YAML or passes a limit.
pub fn read_documents(file: &str, text: &str, limits: &Limits) -> Result<Vec<Node>, Fault> {
    if text.len() > limits.bytes {
        return Err(Fault::new(
            file,
            Position::START,
            "",
            format!("the file has {} bytes and at most {} are read; split it", text.len(), limits.bytes),
        ));
    }
    let budget = serde_saphyr::budget! {
        max_depth: limits.depth,
        max_documents: limits.documents,
        max_nodes: limits.nodes,
        max_events: limits.nodes.saturating_mul(2),
        max_aliases: limits.aliases,
    };
    let mut options = serde_saphyr::options! {
        budget: budget,
        strict_booleans: true,
        with_snippet: false,
    };
    options.alias_limits.max_total_replayed_events = limits.nodes;
    serde_saphyr::from_multiple_with_options::<Node>(text, options).map_err(|error| fault::of_yaml(file, &error))
}

/// Reads a file of exactly one document.
///
/// # Errors
/// As [`read_documents`], and when there is no document or more than one.
pub fn read_one(file: &str, text: &str, limits: &Limits) -> Result<Node, Fault> {
    let mut documents = read_documents(file, text, limits)?.into_iter();
    let Some(first) = documents.next() else {
        return Err(Fault::new(file, Position::START, "", "the file is empty; write at least one field"));
    };
    match documents.next() {
        None => Ok(first),
        Some(second) => Err(Fault::new(
            file,
            second.at,
            "",
            "a second document starts here and only one is read; remove it or put it into a file of its own",
        )),
    }
}

/// Turns a tree into a type. A null counts as a field left out, as in Kubernetes.
///
/// # Errors
/// Names the place and field of what does not fit, with the nearest right name for an unknown one.
pub fn from_node<T: DeserializeOwned>(file: &str, node: &Node) -> Result<T, Fault> {
    T::deserialize(de::NodeDeserializer::new(node)).map_err(|error| error.into_fault(file))
}

/// Writes a value as YAML.
///
/// # Errors
/// Where the value cannot be YAML, such as a mapping with keys that are not text.
pub fn to_text<T: serde::Serialize>(value: &T) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(value)
}

#[cfg(test)]
mod tests;
