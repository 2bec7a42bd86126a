//! The clock, and what every adapter needs of HTTP: limits, deadlines, connecting, fetching, listening.
//!
//! Invariants
//! - There is one clock; it is monotonic, anchored to wall time, and may run faster than it.
//! - Every body read has a byte limit and every wait a deadline.
//! - Certificates are always verified against the system's roots.
//!
//! Deliberately absent: routing, holding, retries, redirects and anything that knows what a request means.

pub mod clock;
pub mod http;

pub use clock::Clock;
