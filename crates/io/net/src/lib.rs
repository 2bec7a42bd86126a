//! The clock, what every adapter needs of HTTP (limits, deadlines, connecting, fetching, listening), and TLS of our own
//! authority (issuing, checking, replacing certificates while serving).
//!
//! Invariants
//! - There is one clock; it is monotonic, anchored to wall time, and may run faster than it.
//! - Every body read has a byte limit and every wait a deadline.
//! - Certificates are always verified: against the system's roots, or against those that the caller names; not only where a
//!   target's own configuration says `insecure` (scraping).
//! - No private key is in the `Debug` text of anything.
//!
//! Deliberately absent: routing, holding, retries, redirects and anything that knows what a request means.

pub mod clock;
pub mod http;
pub mod tls;

pub use clock::Clock;
