//! The cluster as Loadline sees and changes it: watches become one snapshot, decisions become writes.
//!
//! Invariants
//! - A [`Snapshot`] is whole and never changes; each part says whether it has been seen and since when it no longer follows the cluster.
//! - Every request has a deadline, every list is paged, every queue and cache has a limit (`settings`).
//! - A scale is written only over the count that the decision was made on; any other count is a foreign write, and stays.
//! - Tasks run in the caller's tracker and end with the caller's token.
//! - Tokens and keys never reach a log.
//!
//! Deliberately absent: policy, elections (`loadline-control`), reading of metrics pages (`loadline-scrape`), and types of manifests
//! (`loadline-manifest`).

mod actuator;
mod apiservices;
mod checkpoints;
mod client;
pub mod discovery;
mod error;
pub mod events;
#[cfg(test)]
mod fake;
mod key;
mod labels;
mod lease;
mod mapper;
mod rest;
mod scale;
mod secrets;
mod settings;
mod snapshot;
pub mod status;
mod time;
mod usage;
mod watch;

pub use actuator::{Actuator, ScaleFailure, ScaleWrite, ScaleWritten};
pub use apiservices::{ApiServices, CaOutcome};
pub use checkpoints::{CheckpointSeen, Checkpoints};
pub use client::Cluster;
pub use discovery::{
    EndpointSource, EndpointTls, EngineKind, HolderKind, NotScraped, PodScrape, PortRef, Relabelings, Scheme,
    ScrapeEndpoint, ValueRef,
};
pub use error::ClusterError;
pub use events::{EventKind, EventNote, Events, ObjectRef};
pub use key::{Key, PodKey, TargetKey};
pub use labels::{LabelSet, Selector};
pub use lease::{LeaseClient, LeaseSeen};
pub use secrets::{SecretStore, SecretText, TlsSecret};
pub use settings::{
    COMPONENT, ClusterSettings, DELETION_COST, LEASE_NAME, MAX_CHECKPOINT_BYTES, WRITER_ADDRESS, WatchScope,
};
pub use snapshot::{
    ApiState, AutoscalerSeen, Claim, ClaimBy, ContainerSeen, HpaSeen, NodeSeen, Part, PartState, PodPhase, PodPort,
    PodSeen, PoolTarget, ScaledObjectSeen, ServicePort, ServiceSeen, SliceEndpoint, SliceSeen, Snapshot, TargetError,
    TargetSeen,
};
pub use status::{StatusOutcome, StatusWriter};
pub use time::{parse_rfc3339, rfc3339};
pub use usage::{ContainerUsage, ExternalUsage, PodUsage, UsageReader};
