//! The words every other crate is written in: time, durations, exact quantities, labels, ids and float rules.
//!
//! Invariants
//! - [`Timestamp`] is an integer count of nanoseconds; arithmetic on it saturates and never panics.
//! - [`Quantity`] is exact: what was read is what is written, and rounding happens only in a function whose name says so.
//! - Every map that may reach an output is ordered.
//!
//! Deliberately absent: a clock (it lives in `loadline-net`), randomness, and anything that knows what a metric means.

pub mod duration;
pub mod ids;
pub mod labels;
pub mod num;
pub mod quantity;
pub mod time;

pub use duration::{DurationError, format_duration, parse_duration};
pub use ids::{GatewayId, ModelId, PoolId, ReplicaId};
pub use labels::Labels;
pub use quantity::{Quantity, QuantityError, QuantityFormat};
pub use time::Timestamp;
