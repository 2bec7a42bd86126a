//! Minimal OpenAPI documents: valid, with the discovery paths only, since the metrics under them come and go.

use crate::discovery::{hash_of, tagged};
use crate::route::{CUSTOM, CustomVersion, EXTERNAL, EXTERNAL_VERSION};
use crate::status::{JSON, Reply};
use http::HeaderMap;
use serde_json::{Map, Value, json};

/// Every group and version that is described.
fn served() -> impl Iterator<Item = (&'static str, &'static str)> {
    let custom = CustomVersion::ALL.into_iter().map(|version| (CUSTOM, version.name()));
    custom.chain([(EXTERNAL, EXTERNAL_VERSION)])
}

fn about() -> Value {
    json!({"title": "Loadline metrics", "version": env!("CARGO_PKG_VERSION")})
}

/// An operation id that no other server of the cluster has.
fn operation_id(group: &str, version: &str) -> String {
    let words: String = group.split('.').take(1).chain([version]).map(capital).collect();
    format!("getLoadline{words}MetricsResources")
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

/// `/openapi/v2`.
pub(crate) fn v2(headers: &HeaderMap) -> Reply {
    let paths: Map<String, Value> = served()
        .map(|(group, version)| {
            let operation = json!({"get": {
                "description": "the metrics that can be read now",
                "operationId": operation_id(group, version),
                "produces": [JSON], "schemes": ["https"],
                "responses": {"200": {"description": "OK"}, "401": {"description": "Unauthorized"}},
            }});
            (format!("/apis/{group}/{version}/"), operation)
        })
        .collect();
    tagged(&json!({"swagger": "2.0", "info": about(), "paths": paths, "definitions": {}}), JSON, headers)
}

fn v3_document(group: &str, version: &str) -> Value {
    let responses = json!({
        "200": {"description": "OK", "content": {JSON: {"schema": {"type": "object"}}}},
        "401": {"description": "Unauthorized"},
    });
    let operation = json!({
        "description": "the metrics that can be read now",
        "operationId": operation_id(group, version),
        "responses": responses,
    });
    let path = format!("/apis/{group}/{version}/");
    let mut paths = Map::new();
    paths.insert(path, json!({"get": operation}));
    json!({"openapi": "3.0.0", "info": about(), "paths": paths, "components": {"schemas": {}}})
}

/// `/openapi/v3`: where each document is, with the hash of its content.
pub(crate) fn v3_index(headers: &HeaderMap) -> Reply {
    let paths: Map<String, Value> = served()
        .map(|(group, version)| {
            let hash = hash_of(&v3_document(group, version));
            let url = format!("/openapi/v3/apis/{group}/{version}?hash={hash}");
            (format!("apis/{group}/{version}"), json!({"serverRelativeURL": url}))
        })
        .collect();
    tagged(&json!({"paths": paths}), JSON, headers)
}

/// `/openapi/v3/apis/GROUP/VERSION`.
pub(crate) fn v3(group: &str, version: &str, headers: &HeaderMap) -> Reply {
    tagged(&v3_document(group, version), JSON, headers)
}
