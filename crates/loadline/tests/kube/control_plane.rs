//! The faults of a control plane that later tests rely on, tried on one of its own beside the shared one.

use crate::{Case, world};
use anyhow::{Result, ensure};
use loadline_testkit::controlplane::{Component, ControlPlane};
use nix::sys::signal::Signal;

pub(crate) const CASES: [Case; 1] =
    [("control_plane::what_is_stored_survives_crashes_and_compaction", survives_crashes)];

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn survives_crashes() -> Result<()> {
    let plane = ControlPlane::beside(world::options()?)?;
    let (_, before) = plane.get(CONFIG_MAPS)?;
    let before: serde_json::Value = serde_json::from_str(&before)?;
    let revision = before["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    plane.kubectl(&["create", "configmap", "kept", "--from-literal=key=value"])?;
    plane.stop(Component::ApiServer, Signal::SIGKILL)?;
    ensure!(plane.get("/readyz").is_err(), "a stopped API server answers");
    plane.stop(Component::Etcd, Signal::SIGKILL)?;
    plane.resume(Component::Etcd)?;
    let compacted = plane.compact()?;
    ensure!(compacted > revision.parse::<i64>()?, "compacted at {compacted}, seen at {revision}");
    plane.resume(Component::ApiServer)?;
    let value = plane.kubectl(&["get", "configmap", "kept", "--output=jsonpath={.data.key}"])?;
    ensure!(value == "value", "`{value}` is left of it");
    let watch = format!("{CONFIG_MAPS}?watch=true&resourceVersion={revision}&timeoutSeconds=5");
    let (status, body) = plane.get(&watch)?;
    ensure!(status == 410 || body.contains("\"code\":410"), "a watch from before the compaction: {status} {body}");
    for (component, kilobytes) in plane.resident_kilobytes() {
        eprintln!("{}: {} MB resident", component.name(), kilobytes / 1024);
    }
    Ok(())
}
