//! Pods as the controller sees them: grouping (`reference/hpa.md` 4) and requests (5.3).

use super::spec::{Controller, Gates};
use loadline_base::{Labels, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use thiserror::Error;

/// `status.phase`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the peer's own words")]
pub enum Phase {
    Pending,
    #[default]
    Running,
    Succeeded,
    Failed,
}

/// The status of the Ready condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the peer's own words")]
pub enum Ready {
    True,
    False,
    Unknown,
}

/// A container's part in requests.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Requests by resource, milli-units.
    pub request_milli: BTreeMap<String, i64>,
    /// Whether it is an init container.
    pub init: bool,
    /// Whether it is a restartable init container (a sidecar).
    pub restartable: bool,
}

/// One selected pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// `status.phase`.
    pub phase: Phase,
    /// The Ready condition, if there is one.
    pub ready: Option<Ready>,
    /// When the Ready condition last changed.
    pub ready_at: Option<Timestamp>,
    /// `status.startTime`.
    pub started_at: Option<Timestamp>,
    /// Whether `deletionTimestamp` is set.
    pub deleted: bool,
    /// Containers and init containers.
    pub containers: Vec<Container>,
    /// Pod-level requests by resource, milli-units; empty where the pod sets none.
    pub request_milli: BTreeMap<String, i64>,
}

/// One value of one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodSample {
    /// Milli-units.
    pub value_milli: i64,
    /// When it was measured.
    pub at: Timestamp,
    /// Over which span.
    pub window: Duration,
}

/// Where a pod stands in a computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Counted.
    Ready,
    /// Not ready to be judged: 0 on the way up, left out otherwise.
    Unready,
    /// Has no value: filled conservatively.
    Missing,
    /// Says nothing at all although it should: no spare capacity, counted beside the rest (DESIGN section 4, law L1).
    Lost,
    /// Going or gone.
    Ignored,
}

/// The group of one pod. `cpu` says whether the metric is the resource `cpu`, which alone looks at readiness and age.
#[must_use]
pub fn group(pod: &Pod, sample: Option<&PodSample>, cpu: bool, controller: &Controller, now: Timestamp) -> Group {
    if pod.deleted || pod.phase == Phase::Failed {
        return Group::Ignored;
    }
    if pod.phase == Phase::Pending {
        return Group::Unready;
    }
    let Some(sample) = sample else { return Group::Missing };
    if !cpu {
        return Group::Ready;
    }
    let (Some(ready), Some(started)) = (pod.ready, pod.started_at) else { return Group::Unready };
    let changed = pod.ready_at.unwrap_or(Timestamp::ZERO);
    let not_ready = ready == Ready::False;
    let unready = if started.plus(controller.cpu_initialization_period) > now {
        // a value measured before the pod had been ready for one window still holds start-up work
        not_ready || sample.at < changed.plus(sample.window)
    } else {
        // a pod that never was ready; one that turned unready later still counts
        not_ready && started.plus(controller.initial_readiness_delay) > changed
    };
    if unready { Group::Unready } else { Group::Ready }
}

/// Why a request is unknown; the wording is the peer's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestError {
    /// A container requests none of the resource.
    #[error("missing request for {resource} in container {container} of Pod {pod}")]
    Container {
        /// The resource.
        resource: String,
        /// The container.
        container: String,
        /// The pod.
        pod: String,
    },
    /// A pod-level request exists, but not for this resource.
    #[error("missing pod-level request for {resource} in Pod {pod}")]
    PodLevel {
        /// The resource.
        resource: String,
        /// The pod.
        pod: String,
    },
    /// The named container does not exist.
    #[error("container {container} not found in Pod {pod}")]
    NoContainer {
        /// The container.
        container: String,
        /// The pod.
        pod: String,
    },
}

/// The request of one pod, or of one of its containers, in milli-units.
///
/// # Errors
/// When a part of the request is not set, with the peer's text.
pub fn request(pod: &Pod, container: Option<&str>, resource: &str, gates: Gates) -> Result<i64, RequestError> {
    if gates.pod_level_resources && container.is_none() && !pod.request_milli.is_empty() {
        return pod
            .request_milli
            .get(resource)
            .copied()
            .ok_or_else(|| RequestError::PodLevel { resource: resource.to_owned(), pod: pod.name.clone() });
    }
    let mut sum = 0_i64;
    let mut found = false;
    let counted = pod.containers.iter().filter(|part| !part.init || part.restartable);
    for part in counted.filter(|part| container.is_none_or(|name| name == part.name)) {
        found = true;
        let amount = part.request_milli.get(resource).ok_or_else(|| RequestError::Container {
            resource: resource.to_owned(),
            container: part.name.clone(),
            pod: pod.name.clone(),
        })?;
        sum = sum.saturating_add(*amount);
    }
    match container {
        Some(name) if !found => Err(RequestError::NoContainer { container: name.to_owned(), pod: pod.name.clone() }),
        _ => Ok(sum),
    }
}
