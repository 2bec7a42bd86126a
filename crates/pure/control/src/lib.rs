//! The control loop as a state machine: evidence in, decisions and actions out.
//!
//! `up`, `serve` and `simulate` run this same loop; they differ only in who feeds [`Event`]s and who carries out [`Effect`]s.
//!
//! Invariants
//! - [`Control::apply`] is the only way in; it takes the time and never waits. The same events at the same times give the same effects.
//! - Every count it sends is a level ("be 3 replicas", "drain r2"), so that saying it twice does no harm.
//! - A replica with requests is drained before the count goes down; zero is reached only through a close that every gateway accepts.
//! - A decision is made at most once a period and at once on an edge: a wake, the first demand, a replica that comes or goes.
//!
//! Deliberately absent: sockets, processes, timers, and any rule about how many replicas are right (that is `policy`).

mod checkpoint;
mod control;
mod decisions;
mod due;
mod edge;
pub mod election;
mod event;
mod gateways;
mod laws;
mod model;
mod observe;
mod ordinal;
mod replicas;
mod scale;
mod status;

pub use checkpoint::Checkpoint;
pub use control::{Control, ControlSettings};
pub use event::{Effect, Event, GatewayUse, MetricQuery, Mode, ModelSpec, Removal, ReplicaEvent, ScaleEvent, Supplied};
pub use laws::LawCounts;
pub use status::{ModelStatus, ReplicaStatus};
