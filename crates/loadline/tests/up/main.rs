//! `loadline up` as a process with real sockets: what its users get when something breaks (docs/faults.md), and the proof
//! that nothing is lost between one replica and none.
#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "what a test sets up may stop it")]

mod config;
mod crowds;
mod cycles;
mod kills;
mod starts;
#[path = "../support/mod.rs"]
mod support;
