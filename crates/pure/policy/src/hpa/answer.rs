//! Answers of the metrics APIs and what the controller reads from them (`reference/hpa.md` 12).

use super::pod::PodSample;
use loadline_base::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The window of a custom metric that names none.
pub const DEFAULT_CUSTOM_WINDOW: Duration = Duration::from_secs(60);

/// Usage of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUsage {
    /// The container.
    pub name: String,
    /// Milli-units; `None` where the resource is not reported.
    pub usage_milli: Option<i64>,
}

/// Usage of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodUsage {
    /// The pod.
    pub pod: String,
    /// When it was measured.
    pub at: Timestamp,
    /// Over which span.
    #[serde(with = "loadline_base::duration::text")]
    pub window: Duration,
    /// Per container.
    pub containers: Vec<ContainerUsage>,
}

/// A custom metric of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodValue {
    /// The pod.
    pub pod: String,
    /// When it was measured.
    pub at: Timestamp,
    /// Over which span, in seconds; [`DEFAULT_CUSTOM_WINDOW`] where absent.
    #[serde(default)]
    pub window_seconds: Option<u64>,
    /// Milli-units.
    pub value_milli: i64,
}

/// The answer to one metric of an HPA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// Of the resource metrics API.
    Usage {
        /// In the order of the API's list; the order has no meaning.
        pods: Vec<PodUsage>,
    },
    /// Of the custom metrics API, for pods.
    Pods {
        /// In the order of the API's list; the order has no meaning.
        pods: Vec<PodValue>,
    },
    /// Of the custom metrics API, for one object.
    Object {
        /// Milli-units.
        value_milli: i64,
    },
    /// Of the external metrics API.
    External {
        /// Milli-units, one per series.
        values_milli: Vec<i64>,
    },
    /// The call failed.
    Failed {
        /// Its error.
        error: String,
    },
}

/// A pod's usage of a resource: over all containers, or of one. `None` means the pod has no value.
#[must_use]
pub fn usage(pod: &PodUsage, container: Option<&str>) -> Option<PodSample> {
    let value_milli = match container {
        Some(name) => pod.containers.iter().find(|part| part.name == name)?.usage_milli?,
        None if pod.containers.is_empty() => return None,
        None => pod.containers.iter().try_fold(0_i64, |sum, part| Some(sum.saturating_add(part.usage_milli?)))?,
    };
    Some(PodSample { value_milli, at: pod.at, window: pod.window })
}

impl PodValue {
    /// The value with its time and window.
    #[must_use]
    pub fn sample(&self) -> PodSample {
        let window = self.window_seconds.map_or(DEFAULT_CUSTOM_WINDOW, Duration::from_secs);
        PodSample { value_milli: self.value_milli, at: self.at, window }
    }
}

/// The text of an empty answer; the peer takes it for an error, never for zero.
#[must_use]
pub fn empty_text(api: &str) -> String {
    format!("no metrics returned from {api} metrics API")
}

/// The sum of an external answer.
///
/// # Errors
/// An empty answer is an error.
pub fn external_total(values: &[i64]) -> Result<i64, String> {
    if values.is_empty() {
        return Err(empty_text("external"));
    }
    Ok(values.iter().fold(0_i64, |sum, value| sum.saturating_add(*value)))
}

/// Named samples laid beside the pods they belong to.
pub(super) struct Joined<T = PodSample> {
    /// One per pod, in the order of the pods.
    pub(super) samples: Vec<Option<T>>,
    /// Values whose pod is not among those selected: the peer still averages over them.
    strangers: Vec<T>,
}

impl Joined {
    /// Values whose pod is not among those selected, milli-units.
    pub(super) fn strangers(&self) -> Vec<i64> {
        self.strangers.iter().map(|sample| sample.value_milli).collect()
    }
}

/// Lays samples beside pods. Lists in the same order, the usual case, are joined in one pass; others through a sorted index.
/// Of two samples of one name the later one holds, as in a map.
pub(super) fn join<'a, T, N, S>(
    pods: impl ExactSizeIterator<Item = &'a str>,
    len: usize,
    name: N,
    sample: S,
) -> Joined<T>
where
    N: Fn(usize) -> &'a str,
    S: Fn(usize) -> Option<T>,
{
    let mut samples = Vec::with_capacity(pods.len());
    let mut used = vec![false; len];
    let mut index: Option<Vec<usize>> = None;
    for (cursor, pod) in pods.enumerate() {
        let at = if index.is_none() && cursor < len && name(cursor) == pod {
            Some(cursor)
        } else {
            let sorted = index.get_or_insert_with(|| sorted_index(len, &name));
            let after = sorted.partition_point(|&at| name(at) <= pod);
            after.checked_sub(1).and_then(|at| sorted.get(at)).copied().filter(|&at| name(at) == pod)
        };
        if let Some(flag) = at.and_then(|at| used.get_mut(at)) {
            *flag = true;
        }
        samples.push(at.and_then(&sample));
    }
    let mut strangers = Vec::new();
    if used.iter().any(|used| !used) {
        let sorted = index.get_or_insert_with(|| sorted_index(len, &name));
        for (place, &at) in sorted.iter().enumerate() {
            let shadowed = sorted.get(place + 1).is_some_and(|&next| name(next) == name(at));
            if !shadowed && !used.get(at).copied().unwrap_or(true) {
                strangers.extend(sample(at));
            }
        }
    }
    Joined { samples, strangers }
}

fn sorted_index<'a>(len: usize, name: &impl Fn(usize) -> &'a str) -> Vec<usize> {
    let mut index: Vec<usize> = (0..len).collect();
    index.sort_by(|&a, &b| name(a).cmp(name(b)).then(a.cmp(&b)));
    index
}
