//! Decisions: what an autoscaler wants, as one pure function of policy, observation and memory.
//!
//! Invariants
//! - [`decide()`] reads nothing but its arguments; the same arguments give the same result, bit for bit (law L4).
//! - Every number that is not observed carries its evidence; unknown is never zero.
//! - [`PoolDecision::steps`] is the only source for what any surface says about a decision.
//! - [`Memory`] stays below [`memory::MAX_MEMORY_BYTES`]; what is shortened only ever holds a scale-down back for longer.
//!
//! Deliberately absent: Kubernetes clients and manifests, clocks, logging, I/O, and the wording of sentences for one surface only.

pub mod arbitrate;
pub mod decide;
pub mod decision;
pub mod evidence;
pub mod hpa;
pub mod laws;
pub mod memory;
pub mod observation;
pub mod policy;
pub mod signal;
pub mod step;

#[cfg(test)]
mod tests;

pub use arbitrate::{Budgets, arbitrate};
pub use decide::decide;
pub use decision::{Action, Alarm, Decision, PoolDecision};
pub use memory::{Memory, PoolMemory};
pub use observation::{
    Evidence, GatewayObservation, MetricAnswer, Observation, PoolObservation, ReplicaObservation, ReplicaState,
    ReplicaValue, Signal,
};
pub use policy::{Fallback, Gate, Idle, Policy, PoolPolicy, Rule};
pub use step::Step;
