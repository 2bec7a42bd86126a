//! Real processes under a real supervisor.

#![expect(clippy::expect_used, clippy::panic, reason = "a fixture that fails fails its test")]

mod keeper;
mod pools;
mod probes;
mod replicas;
mod support;
