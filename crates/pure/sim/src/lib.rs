//! The engine model, traces and workloads: what arrives and how one replica serves it.
//!
//! Invariants
//! - Seeded and single-threaded: the same inputs give the same outputs, bit for bit.
//! - Times at the interfaces are integer nanoseconds; ties are broken by id.
//!
//! Deliberately absent: sockets, clocks, and (until the simulator comes) the event kernel and the closed-form fast-forward.

pub mod engine;
pub mod profile;
pub mod trace;
pub mod workload;
