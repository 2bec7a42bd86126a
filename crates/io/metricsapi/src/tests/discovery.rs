//! Discovery, OpenAPI, health and the other paths that no metric is behind.

use super::{Table, World};
use crate::accept::DiscoveryVersion;
use crate::route::CustomVersion;
use crate::{MetricSource, Missing, Names, Query, Value, discovery};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use loadline_base::Timestamp;
use serde_json::json;
use std::sync::Arc;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

#[tokio::test]
async fn documents_list_what_is_served() {
    let world = World::start(Arc::new(Table), |_| {});
    let mut session = world.master().await;
    let groups = session.get("/apis").await.json();
    assert_eq!(groups["kind"], "APIGroupList");
    let names: Vec<_> =
        groups["groups"].as_array().expect("groups").iter().map(|group| group["name"].clone()).collect();
    assert_eq!(names, ["custom.metrics.k8s.io", "external.metrics.k8s.io"]);
    let group = session.get("/apis/custom.metrics.k8s.io").await.json();
    assert_eq!(
        group,
        json!({"name": "custom.metrics.k8s.io", "versions": [
            {"groupVersion": "custom.metrics.k8s.io/v1beta2", "version": "v1beta2"},
            {"groupVersion": "custom.metrics.k8s.io/v1beta1", "version": "v1beta1"}],
            "preferredVersion": {"groupVersion": "custom.metrics.k8s.io/v1beta2", "version": "v1beta2"},
            "kind": "APIGroup", "apiVersion": "v1"})
    );
    for version in ["v1beta1", "v1beta2"] {
        let list = session.get(&format!("/apis/custom.metrics.k8s.io/{version}")).await.json();
        assert_eq!(list["kind"], "APIResourceList");
        assert_eq!(list["groupVersion"], format!("custom.metrics.k8s.io/{version}"));
        assert_eq!(
            list["resources"][2],
            json!({"name": "pods/vllm:x", "singularName": "", "namespaced": true, "kind": "MetricValueList", "verbs": ["get"]})
        );
        assert_eq!(list["resources"][0]["namespaced"], false);
    }
    let list = session.get("/apis/external.metrics.k8s.io/v1beta1/").await.json();
    assert_eq!(
        list["resources"],
        json!([{"name": "my-external-metric", "singularName": "", "namespaced": true, "kind": "ExternalMetricValueList", "verbs": ["get"]}])
    );
    for (path, status) in [
        ("/apis/custom.metrics.k8s.io/v1", 404),
        ("/apis/external.metrics.k8s.io/v1beta2", 404),
        ("/apis/metrics.k8s.io/v1beta1", 404),
        ("/", 404),
        ("/api", 404),
        ("/apis/custom.metrics.k8s.io/v1beta1/namespaces/%2e%2e/pods/a/m", 400),
        ("/apis/custom.metrics.k8s.io/v1beta1/namespaces/a%2Fb/pods/a/m", 400),
        ("/apis/custom.metrics.k8s.io/v1beta1/namespaces/%ff/pods/a/m", 400),
        ("/apis/custom.metrics.k8s.io/v1beta1/namespaces/%zz/pods/a/m", 400),
        ("/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17", 404),
    ] {
        let answer = session.get(path).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert!(!answer.message().is_empty(), "{path}");
    }
    world.handle.shutdown().await;
}

#[tokio::test]
async fn aggregated_discovery_holds_everything_and_has_a_tag() {
    let world = World::start(Arc::new(Table), |_| {});
    let mut session = world.master().await;
    let answer = session.get_with("/apis", &[("accept", AGGREGATED)]).await;
    assert_eq!(answer.headers["content-type"], "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let document = answer.json();
    assert_eq!(
        (&document["kind"], &document["apiVersion"]),
        (&"APIGroupDiscoveryList".into(), &"apidiscovery.k8s.io/v2".into())
    );
    let custom = &document["items"][0]["versions"][1];
    assert_eq!((&custom["version"], &custom["freshness"]), (&"v1beta1".into(), &"Current".into()));
    assert_eq!(custom["resources"][0]["scope"], "Cluster");
    let pods = &custom["resources"][1];
    assert_eq!((&pods["resource"], &pods["scope"], &pods["verbs"]), (&"pods".into(), &"Namespaced".into(), &json!([])));
    assert_eq!(
        pods["subresources"][1],
        json!({"subresource": "vllm:x", "verbs": ["get"],
            "responseKind": {"group": "custom.metrics.k8s.io", "version": "v1beta1", "kind": "MetricValueList"}})
    );
    assert_eq!(document["items"][1]["versions"][0]["resources"][0]["resource"], "my-external-metric");
    let tag = answer.headers["etag"].to_str().expect("tag").to_owned();
    let again = session.get_with("/apis", &[("accept", AGGREGATED), ("if-none-match", &tag)]).await;
    assert_eq!((again.status, again.text.as_str()), (StatusCode::NOT_MODIFIED, ""));
    let other = session.get_with("/apis", &[("accept", AGGREGATED), ("if-none-match", "\"x\"")]).await;
    assert_eq!(other.status, StatusCode::OK);
    let protobuf = [("accept", "application/vnd.kubernetes.protobuf")];
    for path in ["/apis", "/apis/custom.metrics.k8s.io/v1beta1/namespaces/ns/pods/*/m"] {
        assert_eq!(session.get_with(path, &protobuf).await.status, StatusCode::NOT_ACCEPTABLE, "{path}");
    }
    world.handle.shutdown().await;
}

#[tokio::test]
async fn no_list_is_ever_empty() {
    let none = Names::default();
    for reply in [
        discovery::custom_resources(CustomVersion::V1Beta1, &none),
        discovery::external_resources(&none),
        discovery::aggregated(DiscoveryVersion::V2Beta1, &none, &HeaderMap::new()),
    ] {
        let bytes = reply.into_body().collect().await.expect("body").to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&bytes).expect("json");
        match body["kind"].as_str() {
            Some("APIResourceList") => assert_eq!(body["resources"].as_array().map(Vec::len), Some(1)),
            _ => {
                for group in body["items"].as_array().expect("items") {
                    for version in group["versions"].as_array().expect("versions") {
                        assert_eq!(version["resources"].as_array().map(Vec::len), Some(1));
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn openapi_documents_are_tagged_and_linked() {
    let world = World::start(Arc::new(Table), |_| {});
    let mut session = world.master().await;
    let v2 = session.get("/openapi/v2").await;
    assert_eq!(v2.json()["swagger"], "2.0");
    let tag = v2.headers["etag"].to_str().expect("tag").to_owned();
    assert_eq!(session.get_with("/openapi/v2", &[("if-none-match", &tag)]).await.status, StatusCode::NOT_MODIFIED);
    let index = session.get("/openapi/v3").await.json();
    let paths = index["paths"].as_object().expect("paths");
    assert_eq!(paths.len(), 3);
    for (path, link) in paths {
        let document = session.get(link["serverRelativeURL"].as_str().expect("url")).await;
        assert_eq!(document.json()["openapi"], "3.0.0", "{path}");
    }
    assert_eq!(session.get("/openapi/v3/apis/metrics.k8s.io/v1beta1").await.status, StatusCode::NOT_FOUND);
    let version = session.get("/version").await.json();
    assert!(version["gitVersion"].as_str().is_some_and(|text| text.starts_with('v')), "{version}");
    world.handle.shutdown().await;
}

/// A source that does not know the pods yet.
struct Unsynced;

impl MetricSource for Unsynced {
    fn read(&self, _now: Timestamp, _query: &Query<'_>) -> Result<Vec<Value>, Missing> {
        Err(Missing::Internal("asked before the pods were known".to_owned()))
    }

    fn names(&self) -> Names {
        Names::default()
    }

    fn is_synced(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let world = World::start(Arc::new(Unsynced), |_| {});
    let mut session = world.connect(None).await;
    assert!(!world.handle.is_ready());
    for (path, status, text) in [
        ("/healthz", 200, "ok"),
        ("/livez?verbose", 200, "[+]ping ok\nlivez check passed\n"),
        (
            "/readyz",
            500,
            "[+]ping ok\n[+]authentication ok\n[-]served failed: the pods are not known yet\n[+]shutdown ok\nreadyz check failed\n",
        ),
        ("/readyz?exclude=served", 200, "ok"),
        ("/readyz/served", 500, "served failed: the pods are not known yet\n"),
        ("/readyz/authentication", 200, "ok"),
    ] {
        let answer = session.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (status, text), "{path}");
    }
    assert_eq!(session.get("/readyz/nonsense").await.status, StatusCode::NOT_FOUND);
    let answer = world.master().await.get("/apis/external.metrics.k8s.io/v1beta1/namespaces/a/m").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.message().contains("not known yet"));
    world.handle.shutdown().await;
}

#[tokio::test]
async fn own_metrics_count_replies() {
    let world = World::start(Arc::new(Table), |_| {});
    let mut session = world.master().await;
    session.get("/apis/external.metrics.k8s.io/v1beta1/namespaces/default/my-external-metric").await;
    let text = session.get("/metrics").await.text;
    for line in [
        "loadline_metricsapi_requests_total{kind=\"external\",code=\"200\"} 1",
        "loadline_metricsapi_request_duration_seconds_bucket{kind=\"external\",le=\"+Inf\"} 1",
        "loadline_metricsapi_connections_total 1",
    ] {
        assert!(text.lines().any(|have| have == line), "{line} in {text}");
    }
    world.handle.shutdown().await;
}
