use crate::client::Cluster;
use crate::fake::{Answer, Fake, Seen, ok, status};
use crate::key::{Key, TargetKey};
use crate::settings::ClusterSettings;
use crate::snapshot::{Part, Snapshot};
use loadline_net::clock::Clock;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// An API server that holds lists and hands out one end of each watch.
#[derive(Clone, Default)]
struct World {
    lists: Arc<Mutex<BTreeMap<String, VecDeque<Answer>>>>,
    watches: Arc<Mutex<BTreeMap<String, Vec<mpsc::UnboundedSender<Value>>>>>,
}

impl World {
    /// Answers `path` (a list, or any GET) in turn; the last answer is not repeated.
    fn give(&self, path: &str, answer: Answer) {
        self.lists.lock().expect("lock").entry(path.to_owned()).or_default().push_back(answer);
    }

    fn send(&self, path: &str, kind: &str, object: Value) {
        let watches = self.watches.lock().expect("lock");
        let open = watches.get(path).and_then(|all| all.last()).expect("a watch is open");
        open.send(json!({ "type": kind, "object": object })).expect("the watch listens");
    }

    fn answer(&self, seen: &Seen) -> Answer {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        if query.contains("watch=true") {
            let (tx, rx) = mpsc::unbounded_channel();
            self.watches.lock().expect("lock").entry(path.to_owned()).or_default().push(tx);
            return Answer::Watch(rx);
        }
        let given = self.lists.lock().expect("lock").get_mut(path).and_then(VecDeque::pop_front);
        given.unwrap_or_else(|| match path {
            "/version" => ok(json!({})),
            "/apis/apps/v1/deployments"
            | "/api/v1/pods"
            | "/api/v1/services"
            | "/api/v1/nodes"
            | "/apis/discovery.k8s.io/v1/endpointslices"
            | "/apis/autoscaling/v2/horizontalpodautoscalers" => ok(list("1", &[])),
            other => status(404, other),
        })
    }
}

fn list(version: &str, items: &[Value]) -> Value {
    json!({ "metadata": { "resourceVersion": version }, "items": items })
}

fn pod(name: &str, version: &str, ready: bool) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "ml", "uid": name, "resourceVersion": version, "labels": { "app": "vllm" },
            "creationTimestamp": "2026-11-25T03:00:00Z" },
        "spec": { "containers": [{ "name": "engine", "ports": [{ "name": "http", "containerPort": 8000 }],
            "resources": { "limits": { "nvidia.com/gpu": 2 } } }] },
        "status": { "phase": "Running", "podIP": "10.1.0.1",
            "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] },
    })
}

fn deployment(replicas: u32, version: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "vllm", "namespace": "ml", "uid": "d", "resourceVersion": version },
        "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": "vllm" } } }, "status": { "replicas": replicas },
    })
}

fn autoscaler(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "loadline.dev/v1alpha1", "kind": "InferenceAutoscaler",
        "metadata": { "name": name, "namespace": "ml", "uid": name, "generation": 1, "resourceVersion": "5" }, "spec": spec,
    })
}

fn target_spec() -> Value {
    json!({ "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "vllm" }, "maxReplicas": 4 })
}

struct Running {
    world: World,
    fake: Fake,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

const AUTOSCALERS: &str = "/apis/loadline.dev/v1alpha1/inferenceautoscalers";

fn start(world: World) -> Running {
    let answering = world.clone();
    let fake = Fake::new(move |seen| answering.answer(seen));
    let cluster = Cluster::with_client(fake.client(), ClusterSettings::new("ops", "loadline-0"), Clock::real());
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let snapshots = cluster.watch(&tasks, &cancel);
    tasks.close();
    Running { world, fake, snapshots, cancel, tasks }
}

impl Running {
    async fn until(&mut self, what: &str, holds: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let found = tokio::time::timeout(Duration::from_secs(120), self.snapshots.wait_for(|seen| holds(seen))).await;
        Arc::clone(&found.expect(what).expect("the watch lives"))
    }

    async fn end(self) {
        self.cancel.cancel();
        self.tasks.wait().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_joins_autoscalers_targets_pods_and_pages() {
    let world = World::default();
    world.give("/api/v1/pods", ok(list("10", &[pod("a", "3", true), pod("b", "4", false)])));
    world.give("/apis/apps/v1/deployments", ok(list("10", &[deployment(2, "7")])));
    let broken = autoscaler("broken", json!({ "maxReplicas": "many" }));
    world.give(AUTOSCALERS, ok(list("10", &[autoscaler("vllm", target_spec()), broken])));
    let hpa = json!({
        "metadata": { "name": "old", "namespace": "ml", "resourceVersion": "1" },
        "spec": { "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "vllm" }, "maxReplicas": 3 },
    });
    world.give("/apis/autoscaling/v2/horizontalpodautoscalers", ok(list("10", &[hpa])));
    let mut running = start(world);
    let seen =
        running.until("ready", |seen| seen.is_ready() && !seen.targets.is_empty() && !seen.hpas.is_empty()).await;
    let target = TargetKey::new("ml", "apps/v1", "Deployment", "vllm");
    let scale = &seen.targets[&target];
    assert_eq!((scale.spec_replicas, &*scale.resource_version, &*scale.selector_text), (2, "7", "app=vllm"));
    assert_eq!(seen.pods_of(&target).filter(|pod| pod.serves()).count(), 1);
    assert_eq!(seen.pods[&Key::new("ml", "a")].gpus(), 2);
    let broken = seen.autoscalers[&Key::new("ml", "broken")].spec.clone().expect_err("kept with its error");
    assert!(broken.contains("spec cannot be read"), "{broken}");
    let vllm = Key::new("ml", "vllm");
    assert_eq!(seen.conflicts_of(&vllm), ["HorizontalPodAutoscaler ml/old also scales Deployment ml/vllm"]);
    assert_eq!(seen.scrape[&Key::new("ml", "a")].endpoints[0].address.to_string(), "10.1.0.1:8000");
    assert!(seen.parts[&Part::PodMonitors].absent && seen.parts[&Part::ScaledObjects].synced);
    // a person writes the count: seen with the next event
    running.world.send("/apis/apps/v1/deployments", "MODIFIED", deployment(5, "8"));
    running.until("foreign write", |seen| seen.targets[&target].spec_replicas == 5).await;
    running.world.send("/api/v1/pods", "DELETED", pod("a", "9", true));
    let seen = running.until("deletion", |seen| !seen.pods.contains_key(&Key::new("ml", "a"))).await;
    assert_eq!(seen.members[&target].len(), 1);
    assert!(!seen.scrape.contains_key(&Key::new("ml", "a")));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_compacted_watch_lists_again_and_loses_nothing() {
    let world = World::default();
    world.give("/api/v1/pods", ok(list("10", &[pod("a", "3", true), pod("b", "4", true)])));
    world.give("/api/v1/pods", ok(list("90", &[pod("b", "80", true), pod("c", "81", true)])));
    let mut running = start(world);
    running.until("first list", |seen| seen.pods.len() == 2).await;
    let gone = json!({ "kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old" });
    running.world.send("/api/v1/pods", "ERROR", gone);
    let names = |seen: &Snapshot| seen.pods.keys().map(|key| key.name.to_string()).collect::<Vec<_>>();
    let seen = running.until("second list", |seen| names(seen) == ["b", "c"]).await;
    assert_eq!(seen.parts[&Part::Pods].failing_since, None);
    assert!(
        running
            .fake
            .seen()
            .iter()
            .any(|seen| seen.path.contains("watch=true") && seen.path.contains("resourceVersion=90"))
    );
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_refused_says_since_when_and_recovers() {
    let world = World::default();
    for _ in 0..5 {
        world.give("/api/v1/pods", status(403, "pods is forbidden"));
    }
    world.give("/version", ok(json!({})));
    for _ in 0..3 {
        world.give("/version", status(503, "etcd is away"));
    }
    let mut running = start(world);
    let seen = running.until("failing", |seen| seen.stale_since().is_some()).await;
    assert!(!seen.is_synced(Part::Pods) && !seen.is_ready());
    assert!(seen.parts[&Part::Pods].error.as_ref().is_some_and(|why| why.contains("forbidden")));
    let away = running.until("server away", |seen| seen.api.away_since.is_some()).await;
    assert!(away.api.away_since <= Some(away.at));
    running.until("recovered", |seen| seen.is_synced(Part::Pods) && seen.stale_since().is_none()).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn scales_of_other_kinds_are_read_when_their_object_changes() {
    let world = World::default();
    let group = "/apis/leaderworkerset.x-k8s.io/v1";
    let path = format!("{group}/leaderworkersets");
    world.give(
        group,
        ok(json!({ "resources": [
        { "name": "leaderworkersets", "kind": "LeaderWorkerSet", "namespaced": true },
        { "name": "leaderworkersets/scale", "kind": "Scale", "namespaced": true } ] })),
    );
    let object = |version: &str| {
        json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": { "name": "x", "namespace": "ml", "resourceVersion": version } })
    };
    world.give(&path, ok(list("10", &[object("3")])));
    let scale = |replicas: u32| {
        ok(json!({ "metadata": { "name": "x", "namespace": "ml", "resourceVersion": "3" },
            "spec": { "replicas": replicas }, "status": { "replicas": 1, "selector": "app=vllm" } }))
    };
    let scale_path = format!("{group}/namespaces/ml/leaderworkersets/x/scale");
    world.give(&scale_path, scale(1));
    let spec = json!({ "scaleTargetRef": { "apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": "x" } });
    world.give(AUTOSCALERS, ok(list("10", &[autoscaler("x", spec)])));
    world.give("/api/v1/pods", ok(list("10", &[pod("a", "3", true)])));
    let mut running = start(world);
    let target = TargetKey::new("ml", "leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "x");
    let count = |seen: &Snapshot, count: u32| {
        seen.targets.get(&target).is_some_and(|target| target.spec_replicas == count && target.error.is_none())
    };
    let seen = running.until("first read", |seen| count(seen, 1)).await;
    assert_eq!(seen.pods_of(&target).count(), 1);
    for _ in 0..4 {
        running.world.give(&scale_path, scale(4));
    }
    while !running.world.watches.lock().expect("lock").contains_key(&path) {
        tokio::task::yield_now().await;
    }
    running.world.send(&path, "MODIFIED", object("11"));
    running.until("second read", |seen| count(seen, 4)).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_autoscalers_is_seen_whole() {
    let world = World::default();
    world.give("/api/v1/pods", ok(list("10", &[pod("a", "3", true)])));
    world.give(AUTOSCALERS, ok(list("10", &[])));
    let mut running = start(world);
    let seen = running.until("ready", Snapshot::is_ready).await;
    assert!(seen.targets.is_empty() && seen.pods.len() == 1);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_may_not_be_listed_keeps_no_other_waiting() {
    let world = World::default();
    world.give("/apis/apps/v1/deployments", ok(list("10", &[deployment(2, "7")])));
    for _ in 0..3 {
        world.give("/apis/apps/v1/statefulsets", status(403, "statefulsets is forbidden"));
    }
    let other =
        json!({ "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "x" }, "maxReplicas": 4 });
    world.give(AUTOSCALERS, ok(list("10", &[autoscaler("vllm", target_spec()), autoscaler("other", other)])));
    let mut running = start(world);
    let target = TargetKey::new("ml", "apps/v1", "StatefulSet", "x");
    let says = |seen: &Snapshot| {
        let error = seen.targets.get(&target).and_then(|target| target.error.as_ref());
        error.is_some_and(|error| error.message.contains("forbidden") && !error.seen_before)
    };
    let seen = running.until("ready all the same", |seen| seen.is_ready() && says(seen)).await;
    assert_eq!(seen.targets[&TargetKey::new("ml", "apps/v1", "Deployment", "vllm")].spec_replicas, 2);
    running.end().await;
}
