//! What the Rust types cannot say about a field: bounds, defaults, required fields, and rules across fields (CEL).
//!
//! Everything is bounded, since the API server estimates the cost of a rule from the largest object it could meet.

use serde_json::{Value, json};

/// The most pools of one autoscaler.
pub const MAX_POOLS: usize = 16;
/// The most metrics of one autoscaler.
pub const MAX_METRICS: usize = 32;
/// The most schedules of one autoscaler.
pub const MAX_SCHEDULES: usize = 64;
/// The most replicas of one pool.
pub const MAX_REPLICAS: u32 = 100_000;
/// The most GPUs of one replica.
pub const MAX_GPUS: u32 = 4_096;
/// The most requests in flight per replica.
pub const MAX_SLOTS: u32 = 65_536;
/// The most steps in status.
pub const MAX_STEPS: usize = 64;
/// The most characters of one step or message in status.
pub const MAX_TEXT: usize = 4_096;
/// The most characters of a name.
const NAME: usize = 253;
/// The most characters of a label's value and of a DNS label.
const LABEL: usize = 63;
/// The most characters of a qualified label name.
const LABEL_NAME: usize = 317;
/// The longest stabilization window, seconds (`reference/hpa.md` 11).
const MAX_WINDOW: u32 = 3_600;
/// The longest period of a policy, seconds (`reference/hpa.md` 11).
const MAX_PERIOD: u32 = 1_800;

const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
const DNS_SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const PATH_SEGMENT: &str = "^[^/%]+$";
const CLOCK: &str = "^([01][0-9]|2[0-3]):[0-5][0-9]$";
/// A quantity that is not zero.
const POSITIVE: &str = r"^([0-9]*[1-9][0-9]*(\.[0-9]*)?|[0-9]*\.[0-9]*[1-9][0-9]*)(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]{1,3})?$";

fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}

/// What is laid on the schema of a type, by the type's name; null where nothing is.
pub(super) fn overlay(name: &str) -> Value {
    match name {
        "InferenceAutoscalerSpec" => spec(),
        "PoolSpec" => pool(),
        "MetricSpec" => metric(),
        "SignalSource"
        | "PodsSource"
        | "ExternalSource"
        | "ResourceSource"
        | "ContainerResourceSource"
        | "ObjectSource" => source(name),
        "MetricTarget" | "MetricIdentifier" | "LabelSelector" | "LabelSelectorRequirement" => identifier(name),
        "CrossVersionObjectReference" | "KeyRef" | "ScrapeSpec" | "ScrapeTls" | "CaRef" | "GatewayRef" => access(name),
        "ScalingRules" | "ScalingPolicy" => behavior(name),
        "Objective" | "Schedule" | "Fallback" => extras(name),
        "InferenceAutoscalerStatus" | "Condition" | "SignalStatus" | "PoolStatus" => status(name),
        _ => Value::Null,
    }
}

/// A target names an API group, unless it is the one scalable kind of the core group; as the HPA's own validation.
fn scale_target() -> Value {
    json!({"x-kubernetes-validations": [rule(
        "self.kind == 'ReplicationController' || (has(self.apiVersion) && self.apiVersion.contains('/'))",
        "apiVersion must name an API group, such as apps/v1",
    )]})
}

fn replicas(least: u32) -> Value {
    json!({"minimum": least, "maximum": MAX_REPLICAS})
}

fn spec() -> Value {
    let min = json!({"minimum": 0, "maximum": MAX_REPLICAS, "default": 1});
    json!({
        "properties": {
            "model": {"minLength": 1, "maxLength": NAME},
            "scaleTargetRef": scale_target(),
            "minReplicas": min,
            "maxReplicas": replicas(1),
            "pools": {"maxItems": MAX_POOLS, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
            "mode": {"default": "Active"},
            "metrics": {"maxItems": MAX_METRICS, "x-kubernetes-list-type": "atomic"},
            "schedules": {
                "maxItems": MAX_SCHEDULES, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            },
            "gpusPerReplica": {"maximum": MAX_GPUS},
        },
        "x-kubernetes-validations": spec_rules(),
    })
}

fn spec_rules() -> Value {
    json!([
        rule(
            "has(self.scaleTargetRef) != (has(self.pools) && size(self.pools) > 0)",
            "exactly one of scaleTargetRef and pools is needed",
        ),
        rule("!has(self.scaleTargetRef) || has(self.maxReplicas)", "maxReplicas is needed with scaleTargetRef"),
        rule(
            "!has(self.maxReplicas) || !has(self.minReplicas) || self.maxReplicas >= self.minReplicas",
            "maxReplicas must not be less than minReplicas",
        ),
        rule(
            "!has(self.pools) || size(self.pools) == 0 || (!has(self.maxReplicas) && (!has(self.minReplicas) || self.minReplicas == 1))",
            "with pools, minReplicas and maxReplicas stand in each pool",
        ),
        rule(
            "!has(self.minReplicas) || self.minReplicas > 0 || has(self.idle)",
            "minReplicas 0 needs idle, which says when to go to zero, such as idle: {after: 5m}",
        ),
        rule(
            "!has(self.pools) || has(self.idle) || self.pools.all(pool, !has(pool.minReplicas) || pool.minReplicas > 0)",
            "a pool with minReplicas 0 needs idle, which says when to go to zero, such as idle: {after: 5m}",
        ),
        rule(
            "!has(self.objective) || !has(self.metrics) || size(self.metrics) == 0",
            "at most one of objective and metrics may be written",
        ),
        rule(
            "!has(self.gateway) || !has(self.pools) || size(self.pools) < 2",
            "a gateway serves one pool; with several pools leave gateway out",
        ),
        rule(
            "has(self.gateway) || !has(self.metrics) || self.metrics.all(metric, !has(metric.signal) || !(metric.signal.name in ['requests_demand', 'requests_held']))",
            "the signals requests_demand and requests_held are the gateway's and need gateway",
        ),
    ])
}

fn pool() -> Value {
    json!({
        "required": ["name", "scaleTargetRef", "maxReplicas"],
        "properties": {
            "name": {"minLength": 1, "maxLength": LABEL, "pattern": DNS_LABEL},
            "role": {"minLength": 1, "maxLength": LABEL},
            "scaleTargetRef": scale_target(),
            "minReplicas": {"minimum": 0, "maximum": MAX_REPLICAS, "default": 1},
            "maxReplicas": replicas(1),
        },
        "x-kubernetes-validations": [rule(
            "!has(self.minReplicas) || self.maxReplicas >= self.minReplicas",
            "maxReplicas must not be less than minReplicas",
        )],
    })
}

/// The type of a metric and the field of its source.
pub(super) const SOURCES: [(&str, &str); 6] = [
    ("Signal", "signal"),
    ("Pods", "pods"),
    ("External", "external"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
    ("Object", "object"),
];

fn metric() -> Value {
    let kinds: Vec<&str> = SOURCES.iter().map(|(kind, _)| *kind).collect();
    let rules: Vec<Value> = SOURCES
        .iter()
        .map(|(kind, field)| {
            rule(
                &format!("has(self.{field}) == (self.type == '{kind}')"),
                &format!("{field} is needed with type {kind}, and allowed with no other"),
            )
        })
        .collect();
    json!({
        "required": ["type"],
        "properties": {"type": {"enum": kinds}},
        "x-kubernetes-validations": rules,
    })
}

/// Which target each source takes: as autoscaling/v2, which does not compare `type` with the field that is set.
fn source(name: &str) -> Value {
    let (required, target) = match name {
        "SignalSource" => (
            json!(["name", "target"]),
            rule(
                "self.target.type == 'AverageValue' && has(self.target.averageValue) && !has(self.target.value) && !has(self.target.averageUtilization)",
                "a signal has a target per replica: target: {type: AverageValue, averageValue: N}",
            ),
        ),
        "PodsSource" => (
            json!(["metric", "target"]),
            rule("has(self.target.averageValue)", "a Pods metric needs target.averageValue"),
        ),
        "ExternalSource" => (
            json!(["metric", "target"]),
            rule(
                "has(self.target.value) != has(self.target.averageValue)",
                "an External metric needs exactly one of target.value and target.averageValue",
            ),
        ),
        "ObjectSource" => (
            json!(["describedObject", "metric", "target"]),
            rule(
                "has(self.target.value) || has(self.target.averageValue)",
                "an Object metric needs target.value or target.averageValue",
            ),
        ),
        _ => (
            if name == "ResourceSource" { json!(["name", "target"]) } else { json!(["name", "container", "target"]) },
            rule(
                "has(self.target.averageUtilization) != has(self.target.averageValue)",
                "a resource needs exactly one of target.averageUtilization and target.averageValue",
            ),
        ),
    };
    let mut overlay = json!({"required": required, "x-kubernetes-validations": [target]});
    let names = match name {
        "SignalSource" => {
            let known: Vec<&str> = loadline_policy::signal::SIGNALS.iter().map(|entry| entry.name).collect();
            json!({"name": {"enum": known}})
        }
        "ResourceSource" => json!({"name": {"minLength": 1, "maxLength": LABEL_NAME}}),
        "ContainerResourceSource" => json!({
            "name": {"minLength": 1, "maxLength": LABEL_NAME},
            "container": {"minLength": 1, "maxLength": LABEL, "pattern": DNS_LABEL},
        }),
        _ => return overlay,
    };
    if let Some(object) = overlay.as_object_mut() {
        object.insert("properties".to_owned(), names);
    }
    overlay
}

fn identifier(name: &str) -> Value {
    match name {
        "MetricTarget" => json!({
            "required": ["type"],
            "properties": {
                "type": {"enum": ["Utilization", "Value", "AverageValue"]},
                "value": {"pattern": POSITIVE, "minimum": 1},
                "averageValue": {"pattern": POSITIVE, "minimum": 1},
                "averageUtilization": {"minimum": 1},
            },
        }),
        "MetricIdentifier" => json!({
            "required": ["name"],
            "properties": {"name": {"minLength": 1, "maxLength": NAME, "pattern": PATH_SEGMENT}},
        }),
        "LabelSelector" => json!({"properties": {
            "matchLabels": {"maxProperties": LABEL, "additionalProperties": {"maxLength": LABEL}},
            "matchExpressions": {"maxItems": 16, "x-kubernetes-list-type": "atomic"},
        }}),
        _ => json!({
            "required": ["key", "operator"],
            "properties": {
                "key": {"minLength": 1, "maxLength": LABEL_NAME},
                "operator": {"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                "values": {"maxItems": LABEL, "items": {"maxLength": LABEL}, "x-kubernetes-list-type": "atomic"},
            },
        }),
    }
}

fn access(name: &str) -> Value {
    match name {
        "CrossVersionObjectReference" => json!({
            "required": ["kind", "name"],
            "properties": {
                "apiVersion": {"maxLength": LABEL_NAME},
                "kind": {"minLength": 1, "maxLength": LABEL, "pattern": PATH_SEGMENT},
                "name": {"minLength": 1, "maxLength": NAME, "pattern": PATH_SEGMENT},
            },
        }),
        "KeyRef" => json!({
            "required": ["name", "key"],
            "properties": {
                "name": {"minLength": 1, "maxLength": NAME, "pattern": DNS_SUBDOMAIN},
                "key": {"minLength": 1, "maxLength": NAME, "pattern": "^[-._a-zA-Z0-9]+$"},
            },
        }),
        "ScrapeSpec" => json!({"properties": {"path": {"minLength": 1, "maxLength": 1024, "pattern": "^/"}}}),
        "ScrapeTls" => json!({
            "properties": {"serverName": {"minLength": 1, "maxLength": NAME}},
            "x-kubernetes-validations": [rule(
                "!has(self.ca) || !has(self.insecureSkipVerify) || !self.insecureSkipVerify",
                "ca has no use with insecureSkipVerify; keep one",
            )],
        }),
        "CaRef" => json!({"x-kubernetes-validations": [rule(
            "has(self.secret) != has(self.configMap)",
            "exactly one of secret and configMap is needed",
        )]}),
        _ => json!({
            "required": ["name"],
            "properties": {
                "name": {"minLength": 1, "maxLength": LABEL, "pattern": DNS_LABEL},
                "slots": {"minimum": 1, "maximum": MAX_SLOTS},
            },
        }),
    }
}

fn behavior(name: &str) -> Value {
    if name == "ScalingRules" {
        return json!({"properties": {
            "stabilizationWindowSeconds": {"minimum": 0, "maximum": MAX_WINDOW},
            "selectPolicy": {"enum": ["Max", "Min", "Disabled"]},
            "policies": {"minItems": 1, "maxItems": 16, "x-kubernetes-list-type": "atomic"},
            "tolerance": {"minimum": 0},
        }});
    }
    json!({
        "required": ["type", "value", "periodSeconds"],
        "properties": {
            "type": {"enum": ["Pods", "Percent"]},
            "value": {"minimum": 1},
            "periodSeconds": {"minimum": 1, "maximum": MAX_PERIOD},
        },
    })
}

fn extras(name: &str) -> Value {
    match name {
        "Objective" => json!({
            "properties": {"percentile": {"minimum": 1, "maximum": 99}, "attainment": {"pattern": POSITIVE, "maximum": 1}},
            "x-kubernetes-validations": [rule("has(self.ttft) || has(self.tpot)", "ttft or tpot is needed")],
        }),
        "Schedule" => json!({
            "required": ["name", "from", "to", "minReplicas"],
            "properties": {
                "name": {"minLength": 1, "maxLength": LABEL, "pattern": DNS_LABEL},
                "days": {"maxItems": 7, "x-kubernetes-list-type": "set"},
                "from": {"maxLength": 5, "pattern": CLOCK},
                "to": {"maxLength": 5, "pattern": CLOCK},
                "timeZone": {"minLength": 1, "maxLength": 64, "pattern": r"^[A-Za-z0-9_+\-]+(/[A-Za-z0-9_+\-]+){0,2}$"},
                "minReplicas": replicas(1),
            },
        }),
        _ => json!({
            "required": ["replicas"],
            "properties": {"replicas": replicas(1)},
        }),
    }
}

fn status(name: &str) -> Value {
    let text = json!({"maxLength": MAX_TEXT});
    match name {
        "InferenceAutoscalerStatus" => json!({"properties": {
            "bindingSignal": text.clone(),
            "selector": text.clone(),
            "conditions": {"maxItems": 16, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
            "signals": {"maxItems": MAX_METRICS * MAX_POOLS, "x-kubernetes-list-type": "atomic"},
            "steps": {"maxItems": MAX_STEPS, "items": text, "x-kubernetes-list-type": "atomic"},
            "pools": {"maxItems": MAX_POOLS, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        }}),
        "Condition" => json!({
            "required": ["type", "status"],
            "properties": {
                "type": {"minLength": 1, "maxLength": 316},
                "status": {"enum": ["True", "False", "Unknown"]},
                "reason": {"maxLength": 1024},
                "message": {"maxLength": 32_768},
            },
        }),
        "SignalStatus" => json!({
            "required": ["name"],
            "properties": {
                "name": {"maxLength": MAX_TEXT}, "pool": {"maxLength": LABEL}, "message": text,
                "evidence": {"maxLength": LABEL},
            },
        }),
        _ => json!({
            "required": ["name"],
            "properties": {"name": {"maxLength": LABEL}, "bindingSignal": text.clone(), "selector": text},
        }),
    }
}
