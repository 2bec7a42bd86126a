//! Discovery documents: what is served, for clients, the aggregator and `kubectl api-resources`.

use crate::accept::DiscoveryVersion;
use crate::auth::cache::sha256;
use crate::route::{CUSTOM, CustomVersion, EXTERNAL, EXTERNAL_VERSION};
use crate::source::Names;
use crate::status::{JSON, Reply, json};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use serde_json::{Value, json};

/// Stands in a list that would be empty: client-go takes an empty resource list for a broken server, which breaks
/// `kubectl api-resources` and namespace deletion (KEDA prints such an entry too).
const CUSTOM_PLACEHOLDER: (&str, &str) = ("pods", "custommetrics");
/// The same for the external group.
const EXTERNAL_PLACEHOLDER: &str = "externalmetrics";

/// `/apis`, as a plain list.
pub(crate) fn groups() -> Reply {
    json(
        &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group_value(CUSTOM), group_value(EXTERNAL)]}),
        JSON,
    )
}

/// `/apis/GROUP`.
pub(crate) fn group(name: &str) -> Reply {
    let mut value = group_value(name);
    if let Some(object) = value.as_object_mut() {
        object.insert("kind".to_owned(), "APIGroup".into());
        object.insert("apiVersion".to_owned(), "v1".into());
    }
    json(&value, JSON)
}

fn versions(group: &str) -> Vec<&'static str> {
    if group == CUSTOM { CustomVersion::ALL.map(CustomVersion::name).to_vec() } else { vec![EXTERNAL_VERSION] }
}

fn group_value(name: &str) -> Value {
    let version = |version: &&str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let versions: Vec<Value> = versions(name).iter().map(version).collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

fn custom_names(names: &Names) -> Vec<(&str, bool, &str)> {
    if names.custom.is_empty() {
        let (resource, metric) = CUSTOM_PLACEHOLDER;
        return vec![(resource, true, metric)];
    }
    names
        .custom
        .iter()
        .map(|(resource, namespaced, metric)| (resource.as_str(), *namespaced, metric.as_str()))
        .collect()
}

fn external_names(names: &Names) -> Vec<&str> {
    if names.external.is_empty() {
        return vec![EXTERNAL_PLACEHOLDER];
    }
    names.external.iter().map(String::as_str).collect()
}

/// `/apis/custom.metrics.k8s.io/VERSION`.
pub(crate) fn custom_resources(version: CustomVersion, names: &Names) -> Reply {
    let item = |(resource, namespaced, metric): (&str, bool, &str)| {
        json!({
            "name": format!("{resource}/{metric}"), "singularName": "", "namespaced": namespaced,
            "kind": "MetricValueList", "verbs": ["get"],
        })
    };
    resources(CUSTOM, version.name(), custom_names(names).into_iter().map(item).collect())
}

/// `/apis/external.metrics.k8s.io/v1beta1`.
pub(crate) fn external_resources(names: &Names) -> Reply {
    let item = |metric: &str| {
        json!({
            "name": metric, "singularName": "", "namespaced": true,
            "kind": "ExternalMetricValueList", "verbs": ["get"],
        })
    };
    resources(EXTERNAL, EXTERNAL_VERSION, external_names(names).into_iter().map(item).collect())
}

fn resources(group: &str, version: &str, items: Vec<Value>) -> Reply {
    let group_version = format!("{group}/{version}");
    json(
        &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": items}),
        JSON,
    )
}

/// `/apis` in the aggregated form: every group, version and resource in one document (KEP-3352).
pub(crate) fn aggregated(version: DiscoveryVersion, names: &Names, headers: &HeaderMap) -> Reply {
    let custom: Vec<Value> = CustomVersion::ALL
        .into_iter()
        .map(|version| {
            json!({"version": version.name(), "resources": custom_tree(version, names), "freshness": "Current"})
        })
        .collect();
    let external = |metric: &str| {
        json!({
            "resource": metric, "responseKind": response_kind(EXTERNAL, EXTERNAL_VERSION, "ExternalMetricValueList"),
            "scope": "Namespaced", "singularResource": "", "verbs": ["get"],
        })
    };
    let external: Vec<Value> = external_names(names).into_iter().map(external).collect();
    let document = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{}", version.name()),
        "metadata": {},
        "items": [
            {"metadata": {"name": CUSTOM, "creationTimestamp": null}, "versions": custom},
            {"metadata": {"name": EXTERNAL, "creationTimestamp": null},
             "versions": [{"version": EXTERNAL_VERSION, "resources": external, "freshness": "Current"}]},
        ],
    });
    let content_type = format!("{JSON};g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList", version.name());
    tagged(&document, &content_type, headers)
}

/// Metrics are subresources of the resource they describe. Their parents are not served themselves: they have no verbs,
/// and an empty kind, as apiserver's own conversion of such lists makes them.
fn custom_tree(version: CustomVersion, names: &Names) -> Vec<Value> {
    let kind = response_kind(CUSTOM, version.name(), "MetricValueList");
    let mut parents: Vec<(&str, bool, Vec<Value>)> = Vec::new();
    for (resource, namespaced, metric) in custom_names(names) {
        let entry = json!({"subresource": metric, "responseKind": &kind, "verbs": ["get"]});
        match parents.iter_mut().find(|(name, _, _)| *name == resource) {
            Some((_, _, entries)) => entries.push(entry),
            None => parents.push((resource, namespaced, vec![entry])),
        }
    }
    let parent = |(resource, namespaced, entries): (&str, bool, Vec<Value>)| {
        json!({
            "resource": resource, "responseKind": response_kind("", "", ""),
            "scope": if namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": "", "verbs": [], "subresources": entries,
        })
    };
    parents.into_iter().map(parent).collect()
}

fn response_kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// A document with an entity tag of its content; 304 if the client has it.
pub(crate) fn tagged(document: &Value, content_type: &str, headers: &HeaderMap) -> Reply {
    let mut reply = json(document, content_type);
    let tag = format!("\"{}\"", hash_of(document));
    let has_it = headers
        .get_all(header::IF_NONE_MATCH)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|have| have.trim().trim_start_matches("W/") == tag || have.trim() == "*");
    if has_it {
        reply = Response::new(Full::new(Bytes::new()));
        *reply.status_mut() = StatusCode::NOT_MODIFIED;
    }
    reply.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        reply.headers_mut().insert(header::ETAG, tag);
    }
    reply
}

/// The hash of a document, in hexadecimal capitals.
pub(crate) fn hash_of(document: &Value) -> String {
    sha256(document.to_string().as_bytes()).iter().map(|byte| format!("{byte:02X}")).collect()
}
