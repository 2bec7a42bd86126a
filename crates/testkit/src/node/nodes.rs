//! Nodes in the API: registered, ready, and kept alive by their Leases.

use super::NodeShape;
use super::context::{Context, call, code_of};
use anyhow::Result;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

use super::status::second;

/// How long a Lease is good for, as kubelet writes it.
const LEASE_SECONDS: i32 = 40;
/// Between two attempts at what failed.
const RETRY: Duration = Duration::from_secs(1);

/// Creates the nodes, posts that they are ready, and starts their heartbeats.
///
/// # Errors
/// If the API server refuses.
pub(super) async fn register(
    tasks: &mut JoinSet<()>,
    context: &Arc<Context>,
    shapes: &[NodeShape],
    port: u16,
) -> Result<()> {
    let nodes = Api::<Node>::all(context.client.clone());
    for shape in shapes {
        let mut labels = json!({
            "kubernetes.io/hostname": shape.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "node.kubernetes.io/instance-type": "testkit",
        });
        if let Some(table) = labels.as_object_mut() {
            table.extend(shape.labels.iter().map(|(key, value)| (key.clone(), json!(value))));
        }
        let manifest = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": shape.name, "labels": labels}});
        let node: Node = serde_json::from_value(manifest)?;
        match call(nodes.create(&PostParams::default(), &node)).await {
            Err(error) if code_of(&error) != Some(409) => return Err(error),
            _ => {}
        }
        renew(context, &shape.name).await?;
        post(context, shape, port).await?;
        tasks.spawn(keep(Arc::clone(context), shape.clone(), port));
    }
    Ok(())
}

async fn keep(context: Arc<Context>, shape: NodeShape, port: u16) {
    let mut was_lost = false;
    let mut changes = context.faults.changes();
    loop {
        if context.faults.is_lost(&shape.name) {
            was_lost = true;
            context.faults.present(&shape.name).await;
            continue;
        }
        let mut pause = context.timings.lease_renewal;
        let beat = async {
            renew(&context, &shape.name).await?;
            if was_lost || is_unready(&context, &shape.name).await? {
                post(&context, &shape, port).await?;
            }
            anyhow::Ok(())
        };
        match beat.await {
            Ok(()) => was_lost = false,
            Err(error) => {
                tracing::debug!(node = shape.name, "heartbeat is tried again: {error:#}");
                pause = RETRY;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _closed = changes.changed() => {}
        }
    }
}

/// Whether the controller has declared the node unready, as it does after an outage.
async fn is_unready(context: &Context, name: &str) -> Result<bool> {
    let node = call(Api::<Node>::all(context.client.clone()).get(name)).await?;
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    Ok(conditions.iter().any(|one| one.type_ == "Ready" && one.status != "True"))
}

async fn renew(context: &Context, name: &str) -> Result<()> {
    let leases = Api::<Lease>::namespaced(context.client.clone(), "kube-node-lease");
    // Micro-second precision, as the Lease's type wants it.
    let now = Timestamp::from_microsecond(Timestamp::now().as_microsecond())?;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": format!("{now:.6}")},
    });
    let how = PatchParams::apply("loadline-testkit").force();
    call(leases.patch(name, &how, &Patch::Apply(lease))).await?;
    Ok(())
}

async fn post(context: &Context, shape: &NodeShape, port: u16) -> Result<()> {
    let now = second(Timestamp::now());
    let condition = |kind: &str, status: &str, reason: &str| -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": "", "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    let mut capacity = json!({"cpu": shape.cpu, "memory": shape.memory, "pods": shape.pods.to_string()});
    if let Some(table) = capacity.as_object_mut().filter(|_| shape.gpus > 0) {
        table.insert("nvidia.com/gpu".to_owned(), json!(shape.gpus.to_string()));
    }
    let status = json!({"status": {
        "capacity": capacity, "allocatable": capacity,
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
            condition("Ready", "True", "KubeletReady"),
        ],
        "addresses": [
            {"type": "InternalIP", "address": context.plan.bridge_address().to_string()},
            {"type": "Hostname", "address": shape.name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": {"kubeletVersion": "v1.33.0", "containerRuntimeVersion": "process://1", "operatingSystem": "linux",
            "architecture": "amd64", "osImage": "private namespace", "kernelVersion": "", "machineID": "", "systemUUID": "",
            "bootID": "", "kubeProxyVersion": ""},
    }});
    let nodes = Api::<Node>::all(context.client.clone());
    call(nodes.patch_status(&shape.name, &PatchParams::default(), &Patch::Strategic(status))).await?;
    Ok(())
}
