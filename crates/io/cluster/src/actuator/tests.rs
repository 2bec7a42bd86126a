use super::{Actuator, ScaleFailure, ScaleWrite};
use crate::error::ClusterError;
use crate::fake::{Answer, Fake, ok, status};
use crate::key::{Key, TargetKey};
use crate::mapper::Mapper;
use crate::rest::Rest;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

fn scale(replicas: u32, version: &str) -> Value {
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": { "name": "vllm", "namespace": "ml", "uid": "u1", "resourceVersion": version },
        "spec": { "replicas": replicas }, "status": { "replicas": replicas, "selector": "app=vllm" },
    });
    if replicas == 0 {
        // as the server writes it
        scale["spec"] = json!({});
    }
    scale
}

fn actuator(fake: &Fake) -> Actuator {
    let rest = Rest::new(fake.client(), Duration::from_secs(5));
    Actuator::new(rest.clone(), Arc::new(Mapper::new(rest, Duration::from_secs(30))))
}

fn write(from: u32, to: u32, seen: Option<&str>) -> ScaleWrite {
    ScaleWrite {
        target: TargetKey::new("ml", "apps/v1", "Deployment", "vllm"),
        api_version: "apps/v1".into(),
        from,
        to,
        seen: seen.map(|version| ("u1".into(), version.into())),
        deadline: Instant::now() + Duration::from_secs(2),
    }
}

fn methods(fake: &Fake) -> Vec<String> {
    fake.seen().into_iter().map(|seen| seen.method).collect()
}

#[tokio::test(start_paused = true)]
async fn a_count_seen_by_the_watch_is_written_in_one_round_trip() {
    let fake = Fake::script(vec![ok(scale(3, "8"))]);
    let written = actuator(&fake).set_replicas(&write(1, 3, Some("7"))).await.expect("written");
    assert_eq!((written.replicas, written.attempts, written.changed, &*written.resource_version), (3, 1, true, "8"));
    let seen = fake.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].path, "/apis/apps/v1/namespaces/ml/deployments/vllm/scale?fieldManager=loadline");
    assert_eq!(seen[0].body["metadata"]["resourceVersion"], "7");
    assert_eq!(seen[0].body["spec"]["replicas"], 3);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_with_the_same_count_is_written_again() {
    let conflict = || status(409, "the object has been modified");
    let fake = Fake::script(vec![conflict(), ok(scale(1, "9")), conflict(), ok(scale(1, "10")), ok(scale(3, "11"))]);
    let written = actuator(&fake).set_replicas(&write(1, 3, Some("7"))).await.expect("written");
    assert_eq!(written.attempts, 3);
    assert_eq!(methods(&fake), ["PUT", "GET", "PUT", "GET", "PUT"]);
    assert_eq!(fake.seen()[4].body["metadata"]["resourceVersion"], "10", "the version is the one read last");
}

#[tokio::test(start_paused = true)]
async fn a_count_that_somebody_else_set_stays() {
    let fake = Fake::script(vec![status(409, "modified"), ok(scale(5, "9"))]);
    let failure = actuator(&fake).set_replicas(&write(1, 3, Some("7"))).await.expect_err("foreign");
    assert!(matches!(failure, ScaleFailure::ForeignWrite { from: 1, found: 5, .. }), "{failure}");
    assert_eq!((failure.reason(), failure.is_transient()), ("ForeignWrite", false));
    assert_eq!(methods(&fake), ["PUT", "GET"], "nothing is written over it");
}

#[tokio::test(start_paused = true)]
async fn a_count_that_is_there_already_is_success_without_a_write() {
    let fake = Fake::script(vec![ok(scale(0, "9"))]);
    let written = actuator(&fake).set_replicas(&write(1, 0, None)).await.expect("there");
    assert_eq!((written.changed, written.replicas, written.attempts), (false, 0, 0));
    assert_eq!(methods(&fake), ["GET"]);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_told_apart_and_not_repeated() {
    for (code, reason, transient) in [
        (403, "FailedUpdateScale", false),
        (404, "FailedGetScale", false),
        (422, "FailedUpdateScale", false),
        (503, "FailedUpdateScale", true),
    ] {
        let fake = Fake::script(vec![status(code, "because")]);
        let failure = actuator(&fake).set_replicas(&write(1, 3, Some("7"))).await.expect_err("refused");
        assert_eq!((failure.reason(), failure.is_transient()), (reason, transient), "{code}: {failure}");
        assert_eq!(fake.seen().len(), 1, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn endless_conflicts_end_after_five_tries() {
    let fake = Fake::new(|seen| if seen.method == "PUT" { status(409, "modified") } else { ok(scale(1, "9")) });
    let failure = actuator(&fake).set_replicas(&write(1, 3, None)).await.expect_err("conflicts");
    assert!(matches!(&failure, ScaleFailure::Busy(ClusterError::Conflict { .. })), "{failure}");
    assert_eq!(methods(&fake).iter().filter(|method| *method == "PUT").count(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_ends_the_write_at_its_deadline() {
    let fake = Fake::script(vec![Answer::Silence]);
    let started = Instant::now();
    let failure = actuator(&fake).set_replicas(&write(1, 3, Some("7"))).await.expect_err("late");
    assert!(matches!(failure, ScaleFailure::Deadline { maybe_written: true, .. }), "{failure}");
    assert_eq!(started.elapsed().as_secs(), 2);
    let fake = Fake::script(vec![Answer::Silence]);
    let failure = actuator(&fake).set_replicas(&write(1, 3, None)).await.expect_err("late");
    assert!(matches!(failure, ScaleFailure::Deadline { maybe_written: false, .. }), "only read: {failure}");
}

#[tokio::test(start_paused = true)]
async fn any_kind_with_a_scale_is_a_target_and_others_say_why_not() {
    let resources = json!({ "resources": [
        { "name": "leaderworkersets", "kind": "LeaderWorkerSet", "namespaced": true },
        { "name": "leaderworkersets/scale", "kind": "Scale", "namespaced": true },
        { "name": "plain", "kind": "Plain", "namespaced": true },
    ] });
    let fake = Fake::new(move |seen| match seen.path.as_str() {
        "/apis/leaderworkerset.x-k8s.io/v1alpha9" => status(404, "no such version"),
        "/apis/leaderworkerset.x-k8s.io" => ok(json!({ "preferredVersion": { "version": "v1" } })),
        "/apis/leaderworkerset.x-k8s.io/v1" => ok(resources.clone()),
        path if path.starts_with("/apis/leaderworkerset.x-k8s.io/v1/namespaces/ml/leaderworkersets/x/scale") => {
            ok(scale(2, "5"))
        }
        path => status(404, path),
    });
    let actuator = actuator(&fake);
    let mut lws = write(1, 2, Some("4"));
    lws.target = TargetKey::new("ml", "leaderworkerset.x-k8s.io/v1alpha9", "LeaderWorkerSet", "x");
    lws.api_version = "leaderworkerset.x-k8s.io/v1alpha9".into();
    assert_eq!(actuator.set_replicas(&lws).await.expect("written").replicas, 2);
    let asked = fake.seen().len();
    assert!(actuator.set_replicas(&lws).await.is_ok() && fake.seen().len() == asked + 1, "the kind is remembered");
    lws.target = TargetKey::new("ml", "leaderworkerset.x-k8s.io/v1", "Plain", "x");
    let failure = actuator.set_replicas(&lws).await.expect_err("no scale");
    assert!(failure.to_string().contains("no scale subresource"), "{failure}");
    assert_eq!(failure.reason(), "FailedGetScale");
}

#[tokio::test(start_paused = true)]
async fn deletion_costs_are_set_and_cleared_and_gone_pods_passed_over() {
    let fake = Fake::new(|seen| match seen.path.as_str() {
        path if path.contains("/pods/gone") => status(404, "gone"),
        path if path.contains("/pods/denied") => status(403, "no"),
        _ => ok(json!({})),
    });
    let costs = BTreeMap::from([
        (Key::new("ml", "a"), Some(-100)),
        (Key::new("ml", "b"), None),
        (Key::new("ml", "denied"), Some(1)),
        (Key::new("ml", "gone"), Some(1)),
    ]);
    let failed = actuator(&fake).set_deletion_costs(&costs, Instant::now() + Duration::from_secs(1)).await;
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].0, Key::new("ml", "denied"));
    let body = |pod: &str| fake.seen().into_iter().find(|seen| seen.path.contains(pod)).expect(pod).body;
    let annotation = "controller.kubernetes.io/pod-deletion-cost";
    assert_eq!(body("/pods/a")["metadata"]["annotations"][annotation], "-100");
    assert!(body("/pods/b")["metadata"]["annotations"].as_object().expect("object")[annotation].is_null());
}
