//! From what `schemars` says about a type to the structural schema that the API server takes: no references, no nulls, only
//! keywords it knows.

use super::bounds::overlay;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

/// Nesting of our own types; deeper ones would be a cycle.
const MAX_DEPTH: usize = 16;

/// The structural schema of a type, with the bounds and rules of [`overlay`].
pub(super) fn structural<T: JsonSchema>() -> Value {
    let mut root: Value = SchemaGenerator::new(SchemaSettings::draft2020_12()).into_root_schema_for::<T>().into();
    let definitions = match root.as_object_mut().and_then(|object| object.remove("$defs")) {
        Some(Value::Object(definitions)) => definitions,
        _ => Map::new(),
    };
    let definitions: Map<String, Value> = definitions
        .into_iter()
        .map(|(name, mut schema)| {
            plain(&mut schema);
            merge(&mut schema, overlay(&name));
            (name, schema)
        })
        .collect();
    plain(&mut root);
    merge(&mut root, overlay(&T::schema_name()));
    inline(&mut root, &definitions, 0);
    root
}

/// Lays `over` on `under`: mappings are merged, everything else is replaced.
fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                match under.get_mut(&key) {
                    Some(there) => merge(there, value),
                    None => {
                        under.insert(key, value);
                    }
                }
            }
        }
        (_, Value::Null) => {}
        (under, over) => *under = over,
    }
}

/// Keywords that carry nothing here, or that a structural schema may not have. Required fields and defaults are said in the
/// overlay: the types can hold objects without them, the API cannot.
const DROPPED: [&str; 6] = ["$schema", "title", "default", "additionalProperties", "required", "nullable"];

/// Takes out nulls, unknown keywords and constants, at every depth.
fn plain(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    let is_map = object.get("additionalProperties").is_some_and(Value::is_object);
    for keyword in DROPPED {
        if !(is_map && keyword == "additionalProperties") {
            object.shift_remove(keyword);
        }
    }
    if let Some(Value::Array(types)) = object.get("type") {
        let first = types.iter().find(|one| one.as_str() != Some("null")).cloned().unwrap_or_default();
        object.insert("type".to_owned(), first);
    }
    without_null(object);
    enumerate(object);
    if object.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
        object.insert("format".to_owned(), "int32".into());
    }
    if let Some(Value::String(text)) = object.get_mut("description") {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    if let Some(Value::Object(fields)) = object.get_mut("properties") {
        fields.values_mut().for_each(plain);
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(keyword) {
            plain(inner);
        }
    }
}

/// `anyOf: [X, null]` is X that may be left out.
fn without_null(object: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = object.shift_remove("anyOf") else { return };
    for choice in choices {
        let is_null = choice.get("type").and_then(Value::as_str) == Some("null");
        if let (false, Value::Object(choice)) = (is_null, choice) {
            for (key, value) in choice {
                object.entry(key).or_insert(value);
            }
        }
    }
}

/// `oneOf` constants with a description each is an enumeration; the descriptions go into that of the whole.
fn enumerate(object: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = object.shift_remove("oneOf") else { return };
    let mut values = Vec::new();
    for choice in choices {
        match (choice.get("const"), choice.get("enum")) {
            (Some(one), _) => values.push(one.clone()),
            (None, Some(Value::Array(some))) => values.extend(some.iter().cloned()),
            _ => {}
        }
    }
    object.insert("type".to_owned(), "string".into());
    object.insert("enum".to_owned(), Value::Array(values));
}

/// Puts definitions in the place of references; what stands beside a reference wins.
fn inline(schema: &mut Value, definitions: &Map<String, Value>, depth: usize) {
    let Value::Object(object) = schema else { return };
    if depth > MAX_DEPTH {
        return;
    }
    if let Some(Value::String(reference)) = object.shift_remove("$ref") {
        let name = reference.rsplit('/').next().unwrap_or_default();
        let mut whole = definitions.get(name).cloned().unwrap_or_default();
        merge(&mut whole, Value::Object(std::mem::take(object)));
        *schema = whole;
        inline(schema, definitions, depth + 1);
        return;
    }
    if let Some(Value::Object(fields)) = object.get_mut("properties") {
        fields.values_mut().for_each(|field| inline(field, definitions, depth + 1));
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(keyword) {
            inline(inner, definitions, depth + 1);
        }
    }
}
