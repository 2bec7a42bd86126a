//! The file that `loadline explain --observed` reads: what was seen, in the words of `kubectl get` and with ages instead of times.
//!
//! `docs/reference/observed.md` documents it; `examples/explain/` has one file per situation.

mod local;
mod lower;

pub use local::lower_model;
pub use lower::{NOW, lower};

use crate::yaml::{self, Fault, Limits};
use loadline_base::Quantity;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::time::Duration;

/// What was seen.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Observed {
    /// `spec.replicas` of the scale.
    pub replicas: u32,
    /// `status.replicas` of the scale; where absent the same as `replicas`.
    pub status_replicas: Option<u32>,
    /// The selected pods; where absent as many ready ones as `replicas`, named `pod-0`, `pod-1`, ...
    pub pods: Option<Vec<ObservedPod>>,
    /// Answers of the metrics APIs by metric name. A metric without an entry counts as failed.
    pub metrics: Vec<ObservedMetric>,
    /// What the controller remembers.
    pub history: History,
    /// Each replica, for a `loadline.yaml`; where absent as many ready ones as `replicas` with nothing running or waiting.
    pub replica_states: Option<Vec<ObservedReplica>>,
    /// What the gateway says, for a `loadline.yaml`; where absent it says that nothing has arrived for no time yet.
    pub gateway: Option<ObservedGateway>,
}

/// One replica of a model of `loadline.yaml`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ObservedReplica {
    /// Its name; where absent `replica-0`, `replica-1`, ... by its place.
    pub name: Option<String>,
    /// `starting`, `ready` (where absent), `draining` or `failed`.
    pub state: Option<loadline_policy::ReplicaState>,
    /// Since when it is in that state; where absent an hour.
    pub age: Option<Age>,
    /// Requests in its running batch; where absent 0.
    pub running: Option<Quantity>,
    /// Requests waiting in its engine; where absent 0.
    pub waiting: Option<Quantity>,
    /// Since when it has reported nothing running and nothing waiting.
    pub idle_for: Option<Age>,
    /// Its metrics page cannot be read: what it has is unknown.
    pub missing: bool,
}

/// What the gateway says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ObservedGateway {
    /// Requests held.
    pub held: u32,
    /// Requests given to replicas and not finished.
    pub in_flight: u32,
    /// The largest sum of both since the previous decision; where absent their sum.
    pub peak: Option<u32>,
    /// Since when nothing has arrived, been held or been in flight.
    pub idle_for: Option<Age>,
    /// How old the report is; where absent 0.
    pub age: Option<Age>,
    /// It cannot be reached.
    pub missing: bool,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ObservedPod {
    /// Its name.
    pub name: String,
    /// `Pending`, `Running` (where absent), `Succeeded` or `Failed`.
    pub phase: loadline_policy::hpa::Phase,
    /// The Ready condition; where absent true for a running pod.
    pub ready: Option<bool>,
    /// Since when it runs; where absent an hour.
    pub age: Option<Age>,
    /// Since when the Ready condition is what it is; where absent the same as `age`.
    pub ready_age: Option<Age>,
    /// Whether it is being deleted.
    pub deleted: bool,
    /// Requests by resource.
    pub requests: BTreeMap<String, Quantity>,
}

/// The answer to one metric: exactly one of `pods`, `value`, `values`, `missing` and `error`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ObservedMetric {
    /// The name of the metric, or of the resource.
    pub name: String,
    /// One value per pod (Pods, Resource, ContainerResource); a pod left out has no value.
    pub pods: Option<BTreeMap<String, Quantity>>,
    /// One value (Object, External).
    pub value: Option<Quantity>,
    /// One value per series (External); they are added.
    pub values: Option<Vec<Quantity>>,
    /// The answer was empty.
    pub missing: bool,
    /// The call failed with this text.
    pub error: Option<String>,
    /// How old the values are; where absent 0.
    pub age: Option<Age>,
    /// Over which span they were measured; where absent a minute.
    pub window: Option<Age>,
}

/// What the controller remembers.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct History {
    /// Earlier recommendations; where absent the controller has just started and takes the current count for one.
    pub recommendations: Option<Vec<PastCount>>,
    /// Earlier changes upwards.
    pub scale_ups: Vec<PastChange>,
    /// Earlier changes downwards.
    pub scale_downs: Vec<PastChange>,
    /// Whether the controller itself scaled the target to zero (condition `ScaledToZero`).
    pub scaled_to_zero: bool,
}

/// An earlier recommendation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastCount {
    /// How many.
    pub replicas: u32,
    /// How long ago.
    pub age: Age,
}

/// An earlier change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastChange {
    /// By how many, positive.
    pub change: u32,
    /// How long ago.
    pub age: Age,
}

/// A span as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age(pub Duration);

impl<'de> Deserialize<'de> for Age {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        loadline_base::duration::text::deserialize(deserializer).map(Self)
    }
}

/// Reads an observed file.
///
/// # Errors
/// Names the place of what does not fit.
pub fn read_observed(file: &str, text: &str, limits: &Limits) -> Result<Observed, Fault> {
    let node = yaml::read_one(file, text, limits)?;
    let observed: Observed = yaml::from_node(file, &node)?;
    for (index, metric) in observed.metrics.iter().enumerate() {
        let path = format!("metrics[{index}]");
        let given = [
            metric.pods.is_some(),
            metric.value.is_some(),
            metric.values.is_some(),
            metric.missing,
            metric.error.is_some(),
        ];
        let problem = match given.iter().filter(|set| **set).count() {
            _ if metric.name.is_empty() => "needs `name`, the name of a metric of the manifest",
            0 => "has no answer; write one of `pods`, `value`, `values`, `missing: true` or `error`",
            1 => continue,
            _ => "has several answers; keep one of `pods`, `value`, `values`, `missing` and `error`",
        };
        return Err(Fault::new(file, node.locate(&path), path, problem));
    }
    let gateway = observed.gateway.unwrap_or_default();
    if gateway.idle_for.is_some() && (gateway.held, gateway.in_flight, gateway.peak.unwrap_or(0)) != (0, 0, 0) {
        let problem = "cannot be together with `held`, `inFlight` or `peak` above 0; remove one";
        return Err(Fault::new(file, node.locate("gateway.idleFor"), "gateway.idleFor", problem));
    }
    Ok(observed)
}

#[cfg(test)]
mod tests;
