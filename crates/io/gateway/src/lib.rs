//! The streaming proxy around `hold`: it keeps requests while there is no replica or no free slot, asks for replicas, and
//! passes requests and answers on byte for byte.
//!
//! Invariants
//! - Bodies pass unchanged both ways; an answer is forwarded chunk by chunk and never gathered.
//! - Every request that was begun to be read gets an answer or an error that says what to do (law L5); its slot is given
//!   back exactly once, whatever ends it.
//! - Every buffer, queue and wait has a named bound in [`GatewaySettings`] or `HoldSettings` (law L7). Transport limits
//!   (connect, headers, stalls) run in wall time; budgets of the hold run in model time.
//!
//! Deliberately absent: policy (it is in `hold` and `policy`), TLS, tenants, priorities, prefix routing.

mod body;
mod epp_names;
mod error;
mod exchange;
mod io;
mod metrics;
mod model;
mod own;
mod page;
mod reply;
mod reports;
mod route;
mod server;
mod service;
mod settings;
mod shared;
mod stall;
mod upstream;

pub use server::{Gateway, GatewayError, GatewayHandle};
pub use settings::{GatewaySettings, ModelSettings, PageSource, ProcessPages, Readiness, ReadinessSource};
