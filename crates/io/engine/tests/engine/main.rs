//! Emulated engines over real sockets.
#![expect(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "test helpers outside test functions")]

mod metrics;
mod serving;
mod support;
