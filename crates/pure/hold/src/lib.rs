//! Holding requests and choosing a replica slot for each, as a state machine: events in, effects out.
//!
//! One [`Hold`] serves one model. The caller owns sockets, bodies and the clock: it says what happened and when, and
//! carries out the [`Effect`]s. Behaviour follows `reference/gateway.md` 6.2 (first come, first served), 6.3 (configured
//! slots) and 6.4.
//!
//! Invariants
//! - Slots granted on a replica never exceed its slots (law L6); every queue and wait has a named bound (law L7).
//! - A request that was admitted leaves exactly once: finished, cancelled, rejected or aborted (law L5).
//! - First come, first served; a slot is chosen when a request can start, not before (late binding). A request that is
//!   held again after a failure keeps its place by arrival.
//! - With a free slot and nobody waiting, an arrival, its first byte and its end allocate nothing once the tables have
//!   grown to their working size; every other event costs O(log held) or O(replicas).
//!
//! Deliberately absent: sockets, bodies, clocks, threads, priorities, tenants, learnt slots and prefix routing.

mod budget;
pub mod classify;
mod demand;
mod effect;
mod failure;
mod machine;
pub mod protocol;
mod queue;
mod replicas;
mod request;
mod settings;
mod slab;
mod wake;

pub use effect::{Effect, Failure, Reason, Rejection, Retry};
pub use machine::Hold;
pub use replicas::{ReplicaPhase, ReplicaView};
pub use request::{Arrival, Counts};
pub use settings::HoldSettings;
pub use slab::{ReplicaKey, RequestKey};

#[cfg(test)]
mod tests;
