//! `InferenceAutoscaler`, group `loadline.dev`, version `v1alpha1`: its types, the CustomResourceDefinition made of them,
//! validation beyond what the API server can do, and lowering to policies.
//!
//! Field names and meanings are those of `autoscaling/v2` wherever it has them. Unknown fields are passed over, but for the
//! parts that are `autoscaling/v2`'s own types: the API server prunes them, and a newer definition must not stop an older Loadline.

mod bounds;
mod crd;
pub mod defaults;
mod lower;
mod read;
mod scalar;
mod schema;
mod status;
mod types;
mod validate;

pub use crate::config::{EngineKind, Span};
pub use crate::hpa::CrossVersionObjectReference;
pub use bounds::{MAX_GPUS, MAX_METRICS, MAX_POOLS, MAX_REPLICAS, MAX_SCHEDULES, MAX_SLOTS, MAX_STEPS, MAX_TEXT};
pub use crd::{crd, reference_page};
pub use lower::{LoweredMetric, LoweredPool, MetricOrigin, lower};
pub use read::read_autoscalers;
pub use scalar::{DURATION_CHARS, DURATION_PATTERN, IntOrString, QUANTITY_CHARS, QUANTITY_PATTERN, QuantityText};
pub use status::{Condition, InferenceAutoscalerStatus, PoolStatus, SignalStatus};
pub use types::{
    CaRef, Day, Fallback, GatewayRef, IdleSpec, InferenceAutoscaler, InferenceAutoscalerSpec, KeyRef, MetricSpec, Mode,
    Objective, PoolSpec, Schedule, Scheme, ScrapeSpec, ScrapeTls, SignalSource,
};
pub use validate::{Problem, validate};

/// The API group.
pub const GROUP: &str = "loadline.dev";
/// The API version.
pub const VERSION: &str = "v1alpha1";
/// The kind.
pub const KIND: &str = "InferenceAutoscaler";
/// The resource's name in paths.
pub const PLURAL: &str = "inferenceautoscalers";

#[cfg(test)]
mod tests;
