//! What the parts of `serve` that own nothing of the outside say to each other, on objects as the watches give them.

mod feed;
mod pages;
mod pools;
mod report;
mod writes;

use loadline_base::Timestamp;
use loadline_cluster::{
    AutoscalerSeen, Key, LabelSet, PodPhase, PodPort, PodSeen, PoolTarget, Snapshot, TargetKey, TargetSeen,
};
use loadline_manifest::autoscaler::InferenceAutoscalerSpec;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanos(1_000_000_000_000_000_000).plus(Duration::from_secs(seconds))
}

/// A pod of the namespace `ml` that was just accepted.
fn pod(name: &str) -> PodSeen {
    PodSeen {
        key: Key::new("ml", name),
        uid: format!("uid-{name}").into(),
        labels: LabelSet::default(),
        annotations: LabelSet::default(),
        ip: None,
        phase: PodPhase::Pending,
        ready: false,
        ready_changed: None,
        created_at: at(0),
        started_at: None,
        node: None,
        deletion: None,
        unschedulable: None,
        waiting: None,
        ports: Arc::new([
            PodPort { name: Some("metrics".into()), port: 9_090 },
            PodPort { name: Some("http".into()), port: 8_000 },
        ]),
        containers: Arc::new([]),
        restarts: 0,
        owner: None,
    }
}

/// The same pod, serving.
fn serving(name: &str) -> PodSeen {
    PodSeen { ip: Some([10, 244, 0, 7].into()), phase: PodPhase::Running, ready: true, ..pod(name) }
}

fn chat() -> TargetKey {
    TargetKey::new("ml", "apps/v1", "Deployment", "chat")
}

/// The Deployment `chat` with a count and a version.
fn target(replicas: u32, version: &str) -> TargetSeen {
    TargetSeen {
        key: chat(),
        uid: Some("uid-chat".into()),
        spec_replicas: replicas,
        status_replicas: replicas,
        selector_text: "app=chat".into(),
        selector: None,
        resource_version: version.into(),
        at: at(0),
        error: None,
    }
}

/// A snapshot with these autoscalers of the namespace `ml`, all of them on `chat`, and these pods in it.
fn snapshot(autoscalers: &[(&str, Value)], pods: &[PodSeen]) -> Snapshot {
    let seen = |name: &str, spec: &Value| AutoscalerSeen {
        key: Key::new("ml", name),
        uid: format!("uid-{name}").into(),
        generation: 1,
        resource_version: "1".into(),
        created_at: at(0),
        deleting: false,
        spec: serde_json::from_value::<InferenceAutoscalerSpec>(spec.clone())
            .map(Arc::new)
            .map_err(|error| error.to_string().into()),
        status: None,
        targets: vec![PoolTarget { pool: "".into(), target: chat(), api_version: "apps/v1".into() }],
    };
    let by_key = |(name, spec): &(&str, Value)| (Key::new("ml", *name), Arc::new(seen(name, spec)));
    let members: Vec<Key> = pods.iter().map(|pod| pod.key.clone()).collect();
    Snapshot {
        autoscalers: Arc::new(autoscalers.iter().map(by_key).collect()),
        pods: Arc::new(pods.iter().map(|pod| (pod.key.clone(), Arc::new(pod.clone()))).collect()),
        targets: Arc::new(BTreeMap::from([(chat(), Arc::new(target(1, "1")))])),
        members: Arc::new(BTreeMap::from([(chat(), Arc::new(members))])),
        ..Snapshot::default()
    }
}
