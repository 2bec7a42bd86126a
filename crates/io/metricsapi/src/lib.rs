//! The metrics APIs of Kubernetes over the latest scraped values: `custom.metrics.k8s.io` (v1beta1 and v1beta2) and
//! `external.metrics.k8s.io` (v1beta1), as an aggregated API server behind kube-apiserver.
//!
//! Paths, bodies, discovery and delegated authentication are those of servers built on `custom-metrics-apiserver` 1.30, so
//! that an untouched HorizontalPodAutoscaler, `kubectl` and the aggregator find what they expect.
//!
//! Invariants
//! - A missing or stale value is an error with its reason, or is left out of a list of pods; it is never 0.
//! - Timestamps are those of the samples.
//! - Nobody is believed without proof: `X-Remote-*` headers count only with a certificate of the front proxy's authority,
//!   judged against the authorities of the moment; a review that fails refuses.
//! - No credential is kept or logged: tokens are cached by their SHA-256.
//! - Connections, streams, heads, requests at once, caches and waits are bounded by [`Settings`].
//!
//! Deliberately absent: `metrics.k8s.io`, writing, watching, protobuf, compression, and any way to make values: they come
//! from a [`MetricSource`].

mod accept;
mod auth;
mod bodies;
mod discovery;
mod health;
mod meter;
mod openapi;
mod route;
pub mod selector;
mod server;
mod service;
pub mod settings;
pub mod source;
mod status;

pub use auth::authorities::AuthorityError;
pub use route::{CUSTOM, EXTERNAL};
pub use server::{Handle, MetricsApi, StartError};
pub use settings::{AuthoritySource, Settings};
pub use source::{Described, MetricSource, Missing, Names, Query, ServedSource, Value};

#[cfg(test)]
mod tests;
