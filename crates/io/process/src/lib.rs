//! Replicas as local processes: started, watched, restarted with back-off, terminated, never orphaned.
//!
//! Invariants
//! - Wishes are levels ("pool p has 3 replicas"): repeating one changes nothing, and the last one counts.
//! - A replica id names one process and is never used again; a restart is a new id.
//! - Every replica runs under a [`keeper`]; when Loadline ends, in whatever way, so does everything its replicas started.
//! - A device slot is never given to a new replica while the old one still holds it.
//! - The supervisor never waits for a process, a probe or a reader of events; queues, log tails and counts are bounded.
//!
//! Deliberately absent: how many replicas there should be, which one to remove, and draining: a replica named for
//! removal is terminated at once.

mod backoff;
pub mod event;
pub mod keeper;
mod launch;
mod listener;
mod logs;
pub mod pools;
mod replica;
pub mod spec;
mod supervisor;
mod sweep;
mod tree;

pub use backoff::BackOff;
pub use event::{ExitReason, ProcessEvent};
pub use launch::StartError;
pub use pools::{ProcessHandle, ProcessPools, ReplicaSnapshot, ReplicaStage, Snapshot};
pub use spec::{KEEPER_ARGUMENT, KeeperCommand, Limits, PoolSpec, Readiness, Settings, SpecError};
