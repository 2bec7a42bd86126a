//! The gateway as a process of its own in a cluster: its models and replicas come from watches, and the writer is at the other end of
//! a link.
//!
//! It serves on with what it knows while the API server or the writer is away (law L5).

mod certificates;
mod driver;
mod feed;
mod names;
mod picture;
mod roster;
mod view;

#[cfg(test)]
mod tests;

pub(crate) use certificates::TlsSource;
pub(crate) use driver::{Daemon, Inputs, Settings};
