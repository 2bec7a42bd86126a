//! The link between gateways and the writer of replica counts: `hold::protocol` over mutual TLS.
//!
//! Gateways connect ([`LinkClient`]); whoever may write replica counts accepts ([`LinkServer`]) and is told who comes and goes.
//! A frame is a length and JSON. Both sides speak at least once per heartbeat, and give each other up after three.
//!
//! Invariants
//! - A peer is who its certificate says: a gateway needs one of our authority whose common name allows its id, speaks only
//!   for itself, and hears and reports only models of its own namespace that it named.
//! - Every queue is bounded by what exists: a newer level takes the place of an older one about the same. What an order asks
//!   for, a wake, and the answer to a close are never dropped while the connection lives; what may be lost with a
//!   connection is sent again on the next one.
//! - Timestamps of reports arrive in the receiver's clock: they are shifted by the smallest delay seen lately, so that a clock
//!   that is wrong on another node changes nothing and a report that was long on its way is old.
//! - A gateway's reports never go back in time, over reconnects too.
//!
//! Deliberately absent: what a report means and which order follows (`control`), who the writer is (the lease), holding of
//! requests (`hold`).

mod backoff;
mod client;
mod frame;
mod identity;
mod limits;
mod offset;
mod outbox;
mod registry;
mod server;

pub use client::{ClientEvent, LinkClient, LinkClientSettings};
pub use frame::PROTOCOL;
pub use identity::{CERTIFICATE_PREFIX, SERVER_NAME, certificate_name};
pub use limits::LinkLimits;
pub use server::{LinkError, LinkEvent, LinkServer, Role};
