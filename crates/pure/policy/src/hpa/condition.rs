//! The condition vocabulary of an HPA's status (`reference/hpa.md` 10).

use serde::{Deserialize, Serialize};
use std::fmt;

/// A condition's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ConditionKind {
    /// The target's scale can be read and written.
    AbleToScale,
    /// A replica count could be computed.
    ScalingActive,
    /// A limit changed the computed count.
    ScalingLimited,
    /// The controller itself scaled the target to zero.
    ScaledToZero,
}

impl fmt::Display for ConditionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A condition's reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the peer's own word; the table in `reference/hpa.md` 10 says what it means")]
pub enum Reason {
    SucceededGetScale,
    FailedGetScale,
    ReadyForNewScale,
    ScaleDownStabilized,
    ScaleUpStabilized,
    SucceededRescale,
    FailedUpdateScale,
    ValidMetricFound,
    FailedGetResourceMetric,
    FailedGetContainerResourceMetric,
    FailedGetPodsMetric,
    FailedGetObjectMetric,
    FailedGetExternalMetric,
    FailedGetSignal,
    InvalidMetricSourceType,
    ScalingDisabled,
    InvalidSelector,
    AmbiguousSelector,
    DesiredWithinRange,
    TooFewReplicas,
    TooManyReplicas,
    ScaleUpLimit,
    ScaleDownLimit,
    ScaledToZero,
    NotScaledToZero,
    /// Loadline's own: the evidence gate kept replicas (DESIGN section 4).
    HeldByEvidence,
    /// Loadline's own: a budget over all models cut the count.
    HeldByBudget,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Its type.
    pub kind: ConditionKind,
    /// Whether it holds.
    pub status: bool,
    /// Why.
    pub reason: Reason,
    /// The same for people.
    pub message: String,
}

/// The conditions of one autoscaler, at most one per type, in the order of their first appearance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Conditions(Vec<Condition>);

impl Conditions {
    /// Sets a condition, replacing the one of the same type.
    pub fn set(&mut self, kind: ConditionKind, status: bool, reason: Reason, message: impl Into<String>) {
        let next = Condition { kind, status, reason, message: message.into() };
        match self.0.iter_mut().find(|condition| condition.kind == kind) {
            Some(condition) => *condition = next,
            None => self.0.push(next),
        }
    }

    /// Removes a condition.
    pub fn remove(&mut self, kind: ConditionKind) {
        self.0.retain(|condition| condition.kind != kind);
    }

    /// The condition of a type.
    #[must_use]
    pub fn get(&self, kind: ConditionKind) -> Option<&Condition> {
        self.0.iter().find(|condition| condition.kind == kind)
    }

    /// Every condition.
    pub fn iter(&self) -> impl Iterator<Item = &Condition> {
        self.0.iter()
    }
}

impl FromIterator<Condition> for Conditions {
    fn from_iter<I: IntoIterator<Item = Condition>>(conditions: I) -> Self {
        Self(conditions.into_iter().collect())
    }
}
