//! Says what the watches of a real cluster show, and writes one scale: `smoke NAMESPACE DEPLOYMENT REPLICAS`.

use loadline_cluster::{
    Cluster, ClusterError, ClusterSettings, EventKind, EventNote, Key, ObjectRef, ScaleWrite, TargetKey, WatchScope,
};
use loadline_net::clock::Clock;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[tokio::main]
async fn main() -> Result<(), ClusterError> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [namespace, name, replicas] = words.as_slice() else {
        println!("usage: smoke NAMESPACE DEPLOYMENT REPLICAS");
        return Ok(());
    };
    let mut settings = ClusterSettings::new(namespace.as_str(), "smoke");
    settings.scope = WatchScope::Cluster;
    let cluster = Cluster::connect(settings, Clock::real()).await?;
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let mut snapshots = cluster.watch(&tasks, &cancel);
    let ready = tokio::time::timeout(Duration::from_secs(20), snapshots.wait_for(|seen| seen.is_ready())).await.is_ok();
    println!("ready: {ready}");
    let seen = snapshots.borrow().clone();
    for (part, state) in &seen.parts {
        println!("{part:?}: synced {} absent {} error {:?}", state.synced, state.absent, state.error);
    }
    println!("pods {} nodes {} gpus {}", seen.pods.len(), seen.nodes.len(), seen.gpu_capacity());
    let target = TargetKey::new(namespace, "apps/v1", "Deployment", name);
    let events = cluster.events(&tasks, &cancel);
    let to = replicas.parse().unwrap_or(1);
    for from in [1, to] {
        let write = ScaleWrite {
            target: target.clone(),
            api_version: "apps/v1".into(),
            from,
            to,
            seen: None,
            deadline: Instant::now() + Duration::from_secs(3),
        };
        let started = Instant::now();
        let outcome = cluster.actuator().set_replicas(&write).await;
        println!("scale {from} -> {to}: {outcome:?} in {:?}", started.elapsed());
    }
    events.record(EventNote {
        about: ObjectRef::new("apps/v1", "Deployment", Key::new(namespace.as_str(), name.as_str()), "smoke"),
        kind: EventKind::Normal,
        reason: "SuccessfulRescale",
        message: format!("New size: {to}; reason: smoke"),
    });
    let checkpoints = cluster.checkpoints();
    let autoscaler = Key::new(namespace.as_str(), name.as_str());
    println!("store: {:?}", checkpoints.store(&autoscaler, "u", "{}").await);
    println!("store again: {:?}", checkpoints.store(&autoscaler, "u", "{\"a\":1}").await);
    println!("load: {:?}", checkpoints.load_all().await);
    println!("remove: {:?}", checkpoints.remove(&autoscaler).await);
    println!("lease: {:?}", cluster.lease().read().await);
    tokio::time::sleep(Duration::from_secs(3)).await;
    cancel.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}
