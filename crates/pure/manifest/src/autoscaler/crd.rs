//! The CustomResourceDefinition, and the page that people read.

use super::schema::structural;
use super::{GROUP, InferenceAutoscalerSpec, InferenceAutoscalerStatus, KIND, PLURAL, VERSION};
use serde_json::{Value, json};
use std::fmt::Write as _;

const ABOUT: &str = "Keeps exactly enough replicas of an LLM inference service, from zero to many, and says why.";

/// The whole CustomResourceDefinition.
///
/// It has no scale subresource: what is scaled is the target, and a second way to set a count would only compete with it.
#[must_use]
pub fn crd() -> Value {
    let column = |name: &str, kind: &str, path: &str, description: &str, priority: u8| {
        let mut column = json!({"name": name, "type": kind, "jsonPath": path, "description": description});
        if let (Some(object), true) = (column.as_object_mut(), priority > 0) {
            object.insert("priority".to_owned(), priority.into());
        }
        column
    };
    let active = r#".status.conditions[?(@.type=="ScalingActive")].status"#;
    let columns = json!([
        column("Target", "string", ".spec.scaleTargetRef.name", "what is scaled; empty with pools", 0),
        column("Replicas", "integer", ".status.replicas", "replicas that the target was told to have", 0),
        column("Desired", "integer", ".status.desiredReplicas", "replicas wanted", 0),
        column("Signal", "string", ".status.bindingSignal", "the metric or limit that determines the number", 0),
        column("Age", "date", ".metadata.creationTimestamp", "time since creation", 0),
        column("Mode", "string", ".spec.mode", "whether decisions are carried out", 1),
        column("Active", "string", active, "whether the metrics can be had", 1),
        column("Min", "integer", ".spec.minReplicas", "the least number of replicas", 1),
        column("Max", "integer", ".spec.maxReplicas", "the greatest number of replicas", 1),
    ]);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{PLURAL}.{GROUP}")},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": format!("{KIND}List"),
                "plural": PLURAL,
                "singular": KIND.to_ascii_lowercase(),
                "shortNames": ["ia"],
                // as HorizontalPodAutoscaler: `kubectl get all` shows what changes the number of replicas
                "categories": ["all"],
            },
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": columns,
                "schema": {"openAPIV3Schema": schema()},
            }],
        },
    })
}

fn schema() -> Value {
    json!({
        "type": "object",
        "description": ABOUT,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": format!("`{GROUP}/{VERSION}`.")},
            "kind": {"type": "string", "description": format!("`{KIND}`.")},
            "metadata": {"type": "object"},
            "spec": structural::<InferenceAutoscalerSpec>(),
            "status": structural::<InferenceAutoscalerStatus>(),
        },
    })
}

/// The reference page; `docs/reference/inferenceautoscaler.md` is this text.
#[must_use]
pub fn reference_page() -> String {
    let mut out = format!(
        "# {KIND}\n\nGenerated from the types in `crates/pure/manifest/src/autoscaler` (`cargo xtask codegen`); do not edit.\n\n\
         {ABOUT} API `{GROUP}/{VERSION}`, short name `ia`. Names and meanings are those of `autoscaling/v2` wherever it has them. \
         `kubectl explain ia.spec --recursive` shows the same.\n\nDurations have a unit (`30s`, `5m`, `1h30m`); quantities are numbers \
         with an optional suffix (`500m`, `2`, `16Gi`).\n"
    );
    let mut rules = Vec::new();
    for (part, schema) in
        [("spec", structural::<InferenceAutoscalerSpec>()), ("status", structural::<InferenceAutoscalerStatus>())]
    {
        let _ = writeln!(out, "\n## {part}\n\n| field | type | meaning |\n| --- | --- | --- |");
        walk(&mut out, &mut rules, part, &schema);
    }
    out.push_str(
        "\n## Rules\n\nThe API server refuses an object that breaks one.\n\n| where | rule |\n| --- | --- |\n",
    );
    for (path, message) in rules {
        let _ = writeln!(out, "| `{path}` | {message} |");
    }
    let _ = write!(out, "\n## Defaults\n\n{}", crate::defaults::markdown_table(super::defaults::TABLE));
    out
}

fn walk(out: &mut String, rules: &mut Vec<(String, String)>, path: &str, schema: &Value) {
    for one in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
        let message = one.get("message").and_then(Value::as_str).unwrap_or_default();
        rules.push((path.to_owned(), message.to_owned()));
    }
    for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let is_required = schema
            .get("required")
            .and_then(Value::as_array)
            .is_some_and(|required| required.iter().any(|one| one.as_str() == Some(name)));
        let items = field.get("items");
        let place = format!("{path}.{name}{}", if items.is_some() { "[]" } else { "" });
        let text = field.get("description").and_then(Value::as_str).unwrap_or_default().replace('|', "\\|");
        let needed = if is_required { ", required" } else { "" };
        let _ = writeln!(out, "| `{place}` | {}{needed} | {text} |", shape(field));
        walk(out, rules, &place, items.unwrap_or(field));
    }
}

/// Type, allowed values, bounds and default of a field, for people.
fn shape(field: &Value) -> String {
    let text = |key: &str| field.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut shape = match (text("type"), text("pattern")) {
        ("string", super::DURATION_PATTERN) => "duration".to_owned(),
        ("string", _) if text("format") == "date-time" => "time".to_owned(),
        ("", "") => "number or name".to_owned(),
        ("", _) => "quantity".to_owned(),
        ("array", _) => match field.get("items").map(shape) {
            Some(items) => format!("list of {items}"),
            None => "list".to_owned(),
        },
        ("object", _) if field.get("additionalProperties").is_some() => "map of text".to_owned(),
        ("string", _) => "text".to_owned(),
        (other, _) => other.to_owned(),
    };
    if let Some(values) = field.get("enum").and_then(Value::as_array) {
        let listed: Vec<String> = values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`")).collect();
        shape = listed.join(", ");
    }
    if text("type") == "integer" {
        match (field.get("minimum"), field.get("maximum")) {
            (Some(least), Some(most)) => {
                let _ = write!(shape, " {least} to {most}");
            }
            (Some(least), None) => {
                let _ = write!(shape, " from {least}");
            }
            _ => {}
        }
    }
    if let Some(most) = field.get("maxItems") {
        let _ = write!(shape, ", at most {most}");
    }
    match field.get("default") {
        Some(Value::String(value)) => format!("{shape}, default `{value}`"),
        Some(value) => format!("{shape}, default `{value}`"),
        None => shape,
    }
}
