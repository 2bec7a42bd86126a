//! What was decided.

use crate::hpa::Conditions;
use crate::step::Step;
use loadline_base::{PoolId, ReplicaId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A change of another system. All are levels: carrying one out twice is the same as once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// The scale target shall have `to` replicas.
    SetReplicas {
        /// The pool.
        pool: PoolId,
        /// The count it was seen with; the executor refuses where the world moved.
        from: u32,
        /// The count it shall have.
        to: u32,
        /// On the way down: which to remove, first to last; as many as are removed, where they are known.
        remove_first: Vec<ReplicaId>,
    },
    /// The replica shall take no new work and finish what it has.
    Drain {
        /// The pool.
        pool: PoolId,
        /// The replica.
        replica: ReplicaId,
    },
    /// The replica shall take new work again.
    Undrain {
        /// The pool.
        pool: PoolId,
        /// The replica.
        replica: ReplicaId,
    },
    /// Gateways shall hold what arrives from now on: the pool goes to zero.
    Close {
        /// The pool.
        pool: PoolId,
    },
}

/// Something a person should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "alarm", rename_all = "kebab-case")]
pub enum Alarm {
    /// The pool could not be decided freely for three scrape periods (law L8).
    CannotAct {
        /// Since when.
        since: Timestamp,
        /// The step that holds it.
        why: String,
    },
    /// Someone else wrote the replica count (law L10).
    ForeignWrite {
        /// The count last asked for.
        expected: u32,
        /// The count found.
        found: u32,
    },
    /// Replicas that are wanted and exist cannot run, or do not come to serve.
    Unplaced {
        /// The step that says so.
        why: String,
    },
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CannotAct { why, .. } => write!(f, "cannot act: {why}"),
            Self::Unplaced { why } => f.write_str(why),
            Self::ForeignWrite { expected, found } => {
                write!(f, "the replica count was {expected} and someone else made it {found}")
            }
        }
    }
}

/// What was decided for one pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolDecision {
    /// The count seen.
    pub from: u32,
    /// The count wanted.
    pub desired: u32,
    /// The least count the policy allows.
    pub min: u32,
    /// The greatest count the policy allows.
    pub max: u32,
    /// GPUs of one replica, for [`crate::arbitrate()`].
    pub gpus_per_replica: u32,
    /// Why, in order; the last one is [`Step::Changed`] or [`Step::Unchanged`].
    pub steps: Vec<Step>,
    /// The index in `steps` of the one that binds.
    pub reason: Option<usize>,
    /// In the HPA's vocabulary, as they are once the actions are carried out.
    pub conditions: Conditions,
    /// What a person should know.
    pub alarms: Vec<Alarm>,
    /// What to do.
    pub actions: Vec<Action>,
}

impl PoolDecision {
    /// The binding step, if one was named.
    #[must_use]
    pub fn binding(&self) -> Option<&Step> {
        self.steps.get(self.reason?)
    }

    /// Adds a step that explains what became of earlier decisions, before the last one.
    pub fn note(&mut self, step: Step) {
        let at = self.steps.len().saturating_sub(1);
        self.reason = self.reason.map(|reason| if reason >= at { reason.saturating_add(1) } else { reason });
        self.steps.insert(at, step);
    }

    /// One line: the change, and why.
    #[must_use]
    pub fn summary(&self) -> String {
        let why = self.binding().map(ToString::to_string).unwrap_or_default();
        let sep = if why.is_empty() { "" } else { ": " };
        if self.from == self.desired {
            format!("{} kept{sep}{why}", self.desired)
        } else {
            format!("{} -> {}{sep}{why}", self.from, self.desired)
        }
    }
}

/// What was decided for one autoscaler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The moment of the observation.
    pub now: Timestamp,
    /// One entry per pool of the policy.
    pub pools: BTreeMap<PoolId, PoolDecision>,
}
