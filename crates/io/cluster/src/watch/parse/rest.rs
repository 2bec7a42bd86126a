//! Everything but pods.

use super::pod::{GPUS, whole};
use super::{key_of, time_of};
use crate::discovery::PortRef;
use crate::key::{Key, TargetKey};
use crate::labels::{Interner, RawSelector, Selector};
use crate::snapshot::{
    AutoscalerSeen, HpaSeen, NodeSeen, PoolTarget, ScaledObjectSeen, ServicePort, ServiceSeen, SliceEndpoint, SliceSeen,
};
use kube::core::{DynamicObject, Object};
use loadline_base::{Quantity, Timestamp};
use loadline_manifest::autoscaler::{InferenceAutoscalerSpec, IntOrString};
use loadline_manifest::monitor::MonitorSpec;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A Deployment, StatefulSet or ReplicaSet, as far as it is read; of other kinds only the metadata is.
pub(crate) type ScalableObject = Object<RawScalable, RawScalableStatus>;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawScalable {
    replicas: Option<u32>,
    selector: Option<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawScalableStatus {
    replicas: Option<u32>,
}

/// What a watch of target objects shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectSeen {
    pub(crate) uid: Arc<str>,
    pub(crate) resource_version: Arc<str>,
    pub(crate) replicas: u32,
    pub(crate) status_replicas: u32,
    pub(crate) selector: Result<Arc<Selector>, Arc<str>>,
}

pub(crate) fn scalable(object: ScalableObject) -> Option<(Key, ObjectSeen)> {
    let key = key_of(&object.metadata)?;
    let selector = object
        .spec
        .selector
        .ok_or_else(|| "it has no selector".to_owned())
        .and_then(|value| serde_json::from_value::<RawSelector>(value).map_err(|why| why.to_string()))
        .and_then(|raw| Selector::from_raw(&raw));
    let seen = ObjectSeen {
        uid: object.metadata.uid.as_deref().unwrap_or("").into(),
        resource_version: object.metadata.resource_version.as_deref().unwrap_or("").into(),
        // the server's own default for all three kinds
        replicas: object.spec.replicas.unwrap_or(1),
        status_replicas: object.status.and_then(|status| status.replicas).unwrap_or(0),
        selector: selector.map(Arc::new).map_err(Arc::from),
    };
    Some((key, seen))
}

fn section<T: DeserializeOwned>(object: &mut DynamicObject, name: &str) -> Result<T, serde_json::Error> {
    let value = object.data.get_mut(name).map_or_else(|| Value::Object(serde_json::Map::default()), Value::take);
    serde_json::from_value(value)
}

/// An InferenceAutoscaler; one that cannot be read is kept with the reason.
pub(crate) fn autoscaler(mut object: DynamicObject) -> Option<(Key, AutoscalerSeen)> {
    let key = key_of(&object.metadata)?;
    let spec: Result<InferenceAutoscalerSpec, _> = section(&mut object, "spec");
    let status = object.data.get("status").is_some_and(|status| !status.is_null());
    let status = status.then(|| section(&mut object, "status").ok()).flatten();
    let targets = spec.as_ref().map_or_else(|_| Vec::new(), |spec| targets_of(&key, spec));
    let seen = AutoscalerSeen {
        uid: object.metadata.uid.as_deref().unwrap_or("").into(),
        generation: object.metadata.generation.unwrap_or(0),
        resource_version: object.metadata.resource_version.as_deref().unwrap_or("").into(),
        created_at: time_of(object.metadata.creation_timestamp.as_ref()).unwrap_or(Timestamp::ZERO),
        deleting: object.metadata.deletion_timestamp.is_some(),
        spec: spec.map(Arc::new).map_err(|why| format!("spec cannot be read: {why}").into()),
        status: status.map(Arc::new),
        targets,
        key: key.clone(),
    };
    Some((key, seen))
}

fn targets_of(key: &Key, spec: &InferenceAutoscalerSpec) -> Vec<PoolTarget> {
    let single = spec.scale_target_ref.iter().map(|target| ("", target));
    let pools = spec.pools.iter().map(|pool| (pool.name.as_str(), &pool.scale_target_ref));
    single
        .chain(pools)
        .map(|(pool, target)| PoolTarget {
            pool: pool.into(),
            target: TargetKey::new(&key.namespace, &target.api_version, &target.kind, &target.name),
            api_version: target.api_version.as_str().into(),
        })
        .collect()
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawHpa {
    scale_target_ref: RawTarget,
    min_replicas: Option<u32>,
    max_replicas: u32,
    metrics: Vec<RawMetric>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawTarget {
    api_version: String,
    kind: String,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawMetric {
    pods: Option<RawNamed>,
    object: Option<RawNamed>,
    external: Option<RawNamed>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawNamed {
    metric: RawMetricName,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawMetricName {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawConditions {
    conditions: Vec<RawCondition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
}

pub(crate) fn hpa(mut object: DynamicObject) -> Option<(Key, HpaSeen)> {
    let key = key_of(&object.metadata)?;
    let spec: RawHpa = section(&mut object, "spec").ok()?;
    let status: RawConditions = section(&mut object, "status").unwrap_or_default();
    let names = |pick: fn(&RawMetric) -> Option<&RawNamed>| -> Vec<Arc<str>> {
        spec.metrics.iter().filter_map(pick).map(|named| named.metric.name.as_str().into()).collect()
    };
    let owners = object.metadata.owner_references.unwrap_or_default();
    let seen = HpaSeen {
        target: target_of(&key, &spec.scale_target_ref),
        api_version: spec.scale_target_ref.api_version.as_str().into(),
        pods_metrics: names(|metric| metric.pods.as_ref()),
        object_metrics: names(|metric| metric.object.as_ref()),
        external_metrics: names(|metric| metric.external.as_ref()),
        min_replicas: spec.min_replicas.unwrap_or(1),
        max_replicas: spec.max_replicas,
        scaling_active: status
            .conditions
            .iter()
            .find(|condition| condition.kind == "ScalingActive")
            .map(|condition| (condition.status == "True", condition.reason.as_str().into())),
        owned_by_scaled_object: owners.iter().any(|owner| owner.kind == "ScaledObject"),
        key: key.clone(),
    };
    Some((key, seen))
}

fn target_of(key: &Key, target: &RawTarget) -> TargetKey {
    TargetKey::new(&key.namespace, &target.api_version, &target.kind, &target.name)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawScaledObject {
    scale_target_ref: RawTarget,
}

/// Annotations with which KEDA pauses a ScaledObject.
const PAUSES: [&str; 2] = ["autoscaling.keda.sh/paused", "autoscaling.keda.sh/paused-replicas"];

pub(crate) fn scaled_object(mut object: DynamicObject) -> Option<(Key, ScaledObjectSeen)> {
    let key = key_of(&object.metadata)?;
    let mut spec: RawScaledObject = section(&mut object, "spec").ok()?;
    // KEDA's own defaults
    if spec.scale_target_ref.kind.is_empty() {
        "Deployment".clone_into(&mut spec.scale_target_ref.kind);
    }
    if spec.scale_target_ref.api_version.is_empty() {
        "apps/v1".clone_into(&mut spec.scale_target_ref.api_version);
    }
    let annotations = object.metadata.annotations.unwrap_or_default();
    let paused = PAUSES.iter().any(|name| annotations.get(*name).is_some_and(|value| value != "false"));
    let seen = ScaledObjectSeen { target: target_of(&key, &spec.scale_target_ref), paused, key: key.clone() };
    Some((key, seen))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawNodeSpec {
    unschedulable: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawNodeStatus {
    allocatable: BTreeMap<String, Quantity>,
    conditions: Vec<RawCondition>,
}

pub(crate) fn node(strings: &mut Interner, mut object: DynamicObject) -> Option<(Arc<str>, NodeSeen)> {
    let name: Arc<str> = object.metadata.name.as_deref()?.into();
    let spec: RawNodeSpec = section(&mut object, "spec").unwrap_or_default();
    let status: RawNodeStatus = section(&mut object, "status").unwrap_or_default();
    let seen = NodeSeen {
        name: Arc::clone(&name),
        ready: status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True"),
        schedulable: !spec.unschedulable,
        gpus: GPUS.iter().filter_map(|gpu| status.allocatable.get(*gpu).copied()).map(whole).sum(),
        labels: strings.set(object.metadata.labels),
    };
    Some((name, seen))
}

/// A monitor; one that cannot be read is kept with the reason.
pub(crate) fn monitor(mut object: DynamicObject) -> Option<(Key, Result<MonitorSpec, Arc<str>>)> {
    let key = key_of(&object.metadata)?;
    let spec = section(&mut object, "spec").map_err(|why| format!("spec cannot be read: {why}").into());
    Some((key, spec))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawService {
    selector: BTreeMap<String, String>,
    ports: Vec<RawServicePort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawServicePort {
    name: Option<String>,
    port: u16,
    target_port: Option<IntOrString>,
}

pub(crate) fn service(strings: &mut Interner, mut object: DynamicObject) -> Option<(Key, ServiceSeen)> {
    let key = key_of(&object.metadata)?;
    let spec: RawService = section(&mut object, "spec").ok()?;
    let ports = spec
        .ports
        .into_iter()
        .map(|port| ServicePort {
            target: match port.target_port {
                Some(IntOrString::Int(number)) if number > 0 => PortRef::Number(number),
                Some(IntOrString::Text(name)) => PortRef::Name(name.as_str().into()),
                _ => PortRef::Number(port.port),
            },
            name: port.name.as_deref().map(Arc::from),
            port: port.port,
        })
        .collect();
    let selector = (!spec.selector.is_empty())
        .then(|| RawSelector { match_labels: spec.selector, ..RawSelector::default() })
        .and_then(|raw| Selector::from_raw(&raw).ok());
    let seen = ServiceSeen {
        labels: strings.set(object.metadata.labels),
        selector: selector.map(Arc::new),
        ports,
        key: key.clone(),
    };
    Some((key, seen))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawEndpoint {
    addresses: Vec<String>,
    conditions: RawReady,
    target_ref: Option<RawRef>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawReady {
    ready: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawRef {
    kind: String,
    namespace: String,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawSlicePort {
    name: Option<String>,
    port: Option<u16>,
}

pub(crate) fn slice(mut object: DynamicObject) -> Option<(Key, SliceSeen)> {
    let key = key_of(&object.metadata)?;
    let list = |object: &mut DynamicObject, name: &str| object.data.get_mut(name).map(Value::take).unwrap_or_default();
    let endpoints: Vec<RawEndpoint> = serde_json::from_value(list(&mut object, "endpoints")).unwrap_or_default();
    let ports: Vec<RawSlicePort> = serde_json::from_value(list(&mut object, "ports")).unwrap_or_default();
    let labels = object.metadata.labels.unwrap_or_default();
    let seen = SliceSeen {
        service: labels.get("kubernetes.io/service-name").map(|name| name.as_str().into()),
        ports: ports
            .into_iter()
            .filter_map(|port| {
                let name = port.name.filter(|name| !name.is_empty());
                Some((name.as_deref().map(Arc::from), port.port?))
            })
            .collect(),
        endpoints: endpoints
            .into_iter()
            .filter_map(|endpoint| {
                let pod = endpoint.target_ref.filter(|target| target.kind == "Pod");
                Some(SliceEndpoint {
                    address: endpoint.addresses.first()?.as_str().into(),
                    pod: pod.map(|target| Key::new(target.namespace, target.name)),
                    // the API's rule: an unknown state counts as ready
                    ready: endpoint.conditions.ready.unwrap_or(true),
                    terminating: endpoint.conditions.terminating.unwrap_or(false),
                })
            })
            .collect(),
        key: key.clone(),
    };
    Some((key, seen))
}
