//! Autoscalers of a file.

use super::{GROUP, InferenceAutoscaler, KIND, VERSION};
use crate::yaml::{self, Fault, Limits, Node, Value};

/// Reads every InferenceAutoscaler of a file, also those in a `List`. Documents of other kinds are passed over.
///
/// # Errors
/// Names the place of what is not YAML or does not fit the type.
pub fn read_autoscalers(file: &str, text: &str, limits: &Limits) -> Result<Vec<InferenceAutoscaler>, Fault> {
    let mut found = Vec::new();
    for document in yaml::read_documents(file, text, limits)? {
        collect(file, &document, &mut found)?;
    }
    Ok(found)
}

fn collect(file: &str, node: &Node, found: &mut Vec<InferenceAutoscaler>) -> Result<(), Fault> {
    let kind = node.text("kind").unwrap_or_default();
    if kind.ends_with("List")
        && let Some(Node { value: Value::List(items), .. }) = node.get("items")
    {
        return items.iter().try_for_each(|item| collect(file, item, found));
    }
    if kind != KIND {
        return Ok(());
    }
    let version = node.text("apiVersion").unwrap_or_default();
    if version != format!("{GROUP}/{VERSION}") {
        let message = format!("`{version}` is not read; write `{GROUP}/{VERSION}`");
        return Err(Fault::new(file, node.locate("apiVersion"), "apiVersion", message));
    }
    found.push(yaml::from_node(file, node)?);
    Ok(())
}
