//! Writes: scales and deletion costs.

#[cfg(test)]
mod tests;

use crate::error::ClusterError;
use crate::key::{PodKey, TargetKey};
use crate::mapper::{Mapper, ScaleResource};
use crate::rest::Rest;
use crate::scale::{Scale, ScaleMeta, ScaleSpec};
use crate::settings::{COMPONENT, DELETION_COST};
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// Tries of one write, each after a conflict; as many as the HPA controller makes.
const TRIES: u32 = 5;
/// Between two of them.
const TRY_GAP: Duration = Duration::from_millis(10);
/// Pod patches under way at once.
const PATCHES: usize = 16;

/// One change of a scale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaleWrite {
    /// Which target.
    pub target: TargetKey,
    /// Its `apiVersion` as written in the reference.
    pub api_version: Arc<str>,
    /// The count that the decision was made on.
    pub from: u32,
    /// The count wanted.
    pub to: u32,
    /// The uid and resourceVersion at which `from` was seen; then one round trip is enough. Without it the scale is read first.
    pub seen: Option<(Arc<str>, Arc<str>)>,
    /// When the write must have ended, whatever became of it: before the lease can end.
    pub deadline: Instant,
}

/// A change that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaleWritten {
    /// The count now.
    pub replicas: u32,
    /// The version that this count has.
    pub resource_version: Arc<str>,
    /// Whether we changed it: `false` where it already was as wanted.
    pub changed: bool,
    /// Writes it took.
    pub attempts: u32,
}

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ScaleFailure {
    /// Somebody else set another count since the decision; nothing was written (law L10).
    #[error(
        "somebody else set `spec.replicas` of {target} to {found} while it was {from} here; their count is left as it is"
    )]
    ForeignWrite {
        /// The target.
        target: TargetKey,
        /// What the decision was made on.
        from: u32,
        /// What is there.
        found: u32,
    },
    /// The target or its kind does not exist, or has no scale.
    #[error("{0}")]
    NoScale(ClusterError),
    /// The server refuses; the same request will be refused again until somebody changes a rule or the object.
    #[error("{0}")]
    Refused(ClusterError),
    /// The server cannot do it now.
    #[error("{0}")]
    Busy(ClusterError),
    /// The deadline came first.
    #[error("scale of {target} was not written in time{}", if *.maybe_written { "; whether the last try arrived is unknown" } else { "" })]
    Deadline {
        /// The target.
        target: TargetKey,
        /// A write was under way, and may have arrived.
        maybe_written: bool,
    },
}

impl ScaleFailure {
    /// The reason of the event and condition, in the HPA's vocabulary where it has one.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::ForeignWrite { .. } => crate::events::reason::FOREIGN_WRITE,
            Self::NoScale(_) => crate::events::reason::FAILED_GET_SCALE,
            Self::Refused(_) | Self::Busy(_) | Self::Deadline { .. } => crate::events::reason::FAILED_UPDATE_SCALE,
        }
    }

    /// Whether the same write can succeed later by itself.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Deadline { .. })
    }

    fn of(error: ClusterError) -> Self {
        match error {
            ClusterError::NotFound { .. } => Self::NoScale(error),
            error if error.is_transient() => Self::Busy(error),
            error => Self::Refused(error),
        }
    }
}

/// Carries decisions out.
#[derive(Clone)]
pub struct Actuator {
    rest: Rest,
    mapper: Arc<Mapper>,
}

impl Actuator {
    pub(crate) const fn new(rest: Rest, mapper: Arc<Mapper>) -> Self {
        Self { rest, mapper }
    }

    /// Sets a scale from one count to another, or finds that it may not.
    ///
    /// The write carries the version at which `from` was seen. On a conflict the scale is read again: the same count is written against the
    /// new version, the wanted count is success, any other is [`ScaleFailure::ForeignWrite`].
    ///
    /// # Errors
    /// See [`ScaleFailure`]; nothing is retried after the deadline.
    pub async fn set_replicas(&self, write: &ScaleWrite) -> Result<ScaleWritten, ScaleFailure> {
        let under_way = AtomicBool::new(false);
        match tokio::time::timeout_at(write.deadline, self.write(write, &under_way)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ScaleFailure::Deadline {
                target: write.target.clone(),
                maybe_written: under_way.load(Ordering::Relaxed),
            }),
        }
    }

    async fn write(&self, write: &ScaleWrite, under_way: &AtomicBool) -> Result<ScaleWritten, ScaleFailure> {
        let resource = self.mapper.resolve(&write.target, &write.api_version).await.map_err(ScaleFailure::of)?;
        let mut against = write.seen.clone();
        for attempt in 1..=TRIES {
            let (uid, resource_version) = match against.take() {
                Some(seen) => seen,
                None => match self.look(write, &resource, attempt).await? {
                    Looked::Against(uid, resource_version) => (uid, resource_version),
                    Looked::Done(written) => return Ok(written),
                },
            };
            let body = scale_body(write, &uid, &resource_version);
            let what = format!("write scale of {}", write.target);
            let path = format!("{}?fieldManager={COMPONENT}", resource.scale_path(&write.target.key));
            under_way.store(true, Ordering::Relaxed);
            let answer: Result<Scale, ClusterError> = self.rest.put(&what, &path, &body).await;
            if !matches!(&answer, Err(error) if error.is_unknown_outcome()) {
                under_way.store(false, Ordering::Relaxed);
            }
            match answer {
                Ok(scale) => {
                    return Ok(ScaleWritten {
                        replicas: scale.spec.replicas,
                        resource_version: scale.metadata.resource_version.as_str().into(),
                        changed: true,
                        attempts: attempt,
                    });
                }
                Err(ClusterError::Conflict { .. }) if attempt < TRIES => tokio::time::sleep(TRY_GAP).await,
                Err(error) => {
                    if matches!(error, ClusterError::NotFound { .. }) {
                        self.mapper.forget(&write.target).await;
                    }
                    return Err(ScaleFailure::of(error));
                }
            }
        }
        Err(ScaleFailure::Deadline { target: write.target.clone(), maybe_written: false })
    }

    async fn look(&self, write: &ScaleWrite, resource: &ScaleResource, attempt: u32) -> Result<Looked, ScaleFailure> {
        let what = format!("read scale of {}", write.target);
        let scale: Scale =
            self.rest.get(&what, &resource.scale_path(&write.target.key)).await.map_err(ScaleFailure::of)?;
        let found = scale.spec.replicas;
        let (uid, version) = (scale.metadata.uid.as_str().into(), scale.metadata.resource_version.as_str().into());
        if found == write.to {
            return Ok(Looked::Done(ScaleWritten {
                replicas: found,
                resource_version: version,
                changed: false,
                attempts: attempt - 1,
            }));
        }
        if found != write.from {
            return Err(ScaleFailure::ForeignWrite { target: write.target.clone(), from: write.from, found });
        }
        Ok(Looked::Against(uid, version))
    }

    /// Sets (`Some`) or clears (`None`) the deletion cost of pods; the ReplicaSet controller removes the cheapest first. Pods that are gone
    /// are passed over. Returns what failed.
    pub async fn set_deletion_costs(
        &self,
        costs: &BTreeMap<PodKey, Option<i32>>,
        deadline: Instant,
    ) -> Vec<(PodKey, ClusterError)> {
        // owned arguments: a future that borrows from the map cannot be sent between threads
        let patches: Vec<_> = costs.iter().map(|(pod, cost)| self.set_cost(pod.clone(), *cost, deadline)).collect();
        futures_util::stream::iter(patches).buffer_unordered(PATCHES).filter_map(std::future::ready).collect().await
    }

    async fn set_cost(&self, pod: PodKey, cost: Option<i32>, deadline: Instant) -> Option<(PodKey, ClusterError)> {
        let what = format!("set deletion cost of pod {pod}");
        let path = format!("/api/v1/namespaces/{}/pods/{}?fieldManager={COMPONENT}", pod.namespace, pod.name);
        let value = cost.map(|cost| cost.to_string());
        let body = serde_json::json!({ "metadata": { "annotations": { DELETION_COST: value } } });
        let patch = self.rest.patch::<_, serde_json::Value>(&what, &path, &body);
        match crate::rest::by(&what, deadline, patch).await {
            Ok(_) | Err(ClusterError::NotFound { .. }) => None,
            Err(error) => Some((pod, error)),
        }
    }
}

enum Looked {
    Against(Arc<str>, Arc<str>),
    Done(ScaleWritten),
}

fn scale_body(write: &ScaleWrite, uid: &str, resource_version: &str) -> Scale {
    Scale {
        api_version: "autoscaling/v1".to_owned(),
        kind: "Scale".to_owned(),
        metadata: ScaleMeta {
            name: write.target.key.name.to_string(),
            namespace: write.target.key.namespace.to_string(),
            uid: uid.to_owned(),
            resource_version: resource_version.to_owned(),
        },
        spec: ScaleSpec { replicas: write.to },
        status: crate::scale::ScaleStatus::default(),
    }
}
