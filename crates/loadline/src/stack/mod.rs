//! What `up` and `demo` run: gateway, replicas, scraper, and the control loop between them.

mod driver;
mod lower;
mod meter;
mod pages;

pub(crate) use driver::{Snapshot, Stack, StackOptions};
pub(crate) use lower::{Lowered, lower};
