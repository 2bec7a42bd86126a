//! The gateway over real sockets on loopback, with replicas whose every byte the test decides.
#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests fail by panicking")]
#![expect(clippy::indexing_slicing, clippy::string_slice, reason = "tests fail by panicking")]

mod forward;
mod held;
mod limits;
mod pages;
mod race;
mod rig;
mod streams;
mod wire;
