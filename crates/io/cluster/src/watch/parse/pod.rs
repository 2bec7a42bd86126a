//! Pods.

use super::{key_of, time_of};
use crate::key::Key;
use crate::labels::Interner;
use crate::snapshot::{ContainerSeen, PodPhase, PodPort, PodSeen};
use crate::time::parse_rfc3339;
use kube::core::Object;
use loadline_base::{Quantity, Timestamp};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A pod, as far as it is read.
pub(crate) type PodObject = Object<RawSpec, RawStatus>;

/// Annotations that mean something here.
const ANNOTATIONS: [&str; 3] = ["loadline.dev/", "prometheus.io/", crate::settings::DELETION_COST];
/// Resources that are GPUs; the names of the device plugins of their makers.
pub(super) const GPUS: [&str; 5] =
    ["nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe", "google.com/tpu"];

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RawSpec {
    node_name: Option<String>,
    containers: Vec<RawContainer>,
    init_containers: Vec<RawContainer>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawContainer {
    name: String,
    ports: Vec<RawPort>,
    resources: RawResources,
    restart_policy: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPort {
    name: Option<String>,
    container_port: u16,
    protocol: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RawResources {
    requests: BTreeMap<String, Quantity>,
    limits: BTreeMap<String, Quantity>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RawStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    start_time: Option<String>,
    conditions: Vec<RawCondition>,
    container_statuses: Vec<RawContainerStatus>,
    init_container_statuses: Vec<RawContainerStatus>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: Option<String>,
    message: Option<String>,
    last_transition_time: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawContainerStatus {
    name: String,
    restart_count: u32,
    state: RawState,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RawState {
    waiting: Option<RawWaiting>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RawWaiting {
    reason: Option<String>,
    message: Option<String>,
}

/// Reasons to wait that are part of every start.
const NORMAL_WAITS: [&str; 2] = ["ContainerCreating", "PodInitializing"];
/// Longest text kept of a message.
const MAX_TEXT: usize = 256;

/// Reads pods; equal strings and equal lists of ports and containers are shared.
#[derive(Debug, Default)]
pub(crate) struct PodReader {
    strings: Interner,
    last_ports: Arc<[PodPort]>,
    last_containers: Arc<[ContainerSeen]>,
}

impl PodReader {
    pub(crate) fn read(&mut self, object: PodObject) -> Option<(Key, PodSeen)> {
        let Object { metadata, spec, status, .. } = object;
        let status = status.unwrap_or_default();
        let found = key_of(&metadata)?;
        let key = Key::new(self.strings.get(&found.namespace), Arc::clone(&found.name));
        let condition = |kind: &str| status.conditions.iter().find(|condition| condition.kind == kind);
        let ready = condition("Ready");
        let unschedulable = condition("PodScheduled")
            .filter(|scheduled| scheduled.status == "False")
            .map(|scheduled| sentence(scheduled.reason.as_deref(), scheduled.message.as_deref()));
        let owner = metadata.owner_references.as_ref().and_then(|owners| {
            let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
            Some(self.strings.get(&format!("{}/{}", owner.kind, owner.name)))
        });
        let annotations = metadata.annotations.map(|mut annotations| {
            annotations.retain(|name, _| ANNOTATIONS.iter().any(|prefix| name.starts_with(prefix)));
            annotations
        });
        let containers = self.containers(&spec);
        let ports = self.ports(&spec);
        let seen = PodSeen {
            uid: metadata.uid.as_deref().unwrap_or("").into(),
            labels: self.strings.set(metadata.labels),
            annotations: self.strings.set(annotations),
            ip: status.pod_ip.as_deref().and_then(|ip| ip.parse().ok()),
            phase: match status.phase.as_deref() {
                Some("Running") => PodPhase::Running,
                Some("Succeeded") => PodPhase::Succeeded,
                Some("Failed") => PodPhase::Failed,
                _ => PodPhase::Pending,
            },
            ready: ready.is_some_and(|ready| ready.status == "True"),
            ready_changed: ready.and_then(|ready| parse_rfc3339(ready.last_transition_time.as_deref()?)),
            created_at: time_of(metadata.creation_timestamp.as_ref()).unwrap_or(Timestamp::ZERO),
            started_at: status.start_time.as_deref().and_then(parse_rfc3339),
            node: spec.node_name.as_deref().map(|node| self.strings.get(node)),
            deletion: time_of(metadata.deletion_timestamp.as_ref()),
            unschedulable,
            waiting: waiting(&status),
            ports,
            containers,
            restarts: status.container_statuses.iter().map(|one| one.restart_count).fold(0, u32::saturating_add),
            owner,
            key: key.clone(),
        };
        Some((key, seen))
    }

    fn ports(&mut self, spec: &RawSpec) -> Arc<[PodPort]> {
        let sidecars = spec.init_containers.iter().filter(|one| one.restart_policy.as_deref() == Some("Always"));
        let ports: Vec<PodPort> = spec
            .containers
            .iter()
            .chain(sidecars)
            .flat_map(|container| &container.ports)
            .filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
            .map(|port| PodPort {
                name: port.name.as_deref().map(|name| self.strings.get(name)),
                port: port.container_port,
            })
            .collect();
        if *self.last_ports != *ports {
            self.last_ports = ports.into();
        }
        Arc::clone(&self.last_ports)
    }

    fn containers(&mut self, spec: &RawSpec) -> Arc<[ContainerSeen]> {
        let containers: Vec<ContainerSeen> = spec
            .containers
            .iter()
            .map(|container| {
                let RawResources { requests, limits } = &container.resources;
                let gpu = |name: &&str| requests.get(*name).or_else(|| limits.get(*name)).copied();
                ContainerSeen {
                    name: self.strings.get(&container.name),
                    cpu_request: requests.get("cpu").copied(),
                    memory_request: requests.get("memory").copied(),
                    gpus: GPUS.iter().filter_map(gpu).map(whole).sum(),
                }
            })
            .collect();
        if *self.last_containers != *containers {
            self.last_containers = containers.into();
        }
        Arc::clone(&self.last_containers)
    }
}

/// A quantity of things that cannot be divided.
pub(super) fn whole(quantity: Quantity) -> u64 {
    u64::try_from(quantity.milli_value() / 1_000).unwrap_or(0)
}

fn waiting(status: &RawStatus) -> Option<Arc<str>> {
    status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .find_map(|one| {
            let waiting = one.state.waiting.as_ref()?;
            let reason = waiting.reason.as_deref()?;
            (!NORMAL_WAITS.contains(&reason)).then(|| (one, sentence(Some(reason), waiting.message.as_deref())))
        })
        .map(|(one, text)| format!("container `{}`: {text}", one.name).into())
}

fn sentence(reason: Option<&str>, message: Option<&str>) -> Arc<str> {
    let text = match (reason, message) {
        (Some(reason), Some(message)) => format!("{reason}: {message}"),
        (one, other) => one.or(other).unwrap_or("").to_owned(),
    };
    text.chars().take(MAX_TEXT).collect::<String>().into()
}
