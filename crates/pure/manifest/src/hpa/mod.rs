//! HorizontalPodAutoscaler: reading `autoscaling/v2` (and `v1`), API validation and defaulting, lowering to a policy.
//!
//! Behaviour: `reference/hpa.md` 7.3, 10 and 11, which name the upstream files they were read from.

mod defaulting;
pub mod defaults;
mod lower;
pub(crate) mod names;
mod quantity;
mod read;
mod types;
mod validate;

pub use defaulting::{apply_defaults, default_rules};
pub use lower::{POOL, behavior_of, lower};
pub(crate) use lower::{metric_of, target_of};
pub use quantity::status_quantity;
pub use read::{HpaDocument, read_hpas};
pub use types::{
    Behavior, ContainerResourceSource, CrossVersionObjectReference, Direction, ExternalSource, Hpa, LabelSelector,
    LabelSelectorRequirement, MetricIdentifier, MetricSpec, MetricTarget, ObjectMeta, ObjectSource, PodsSource,
    ResourceSource, ScalingPolicy, ScalingRules, Spec,
};
pub use validate::{FieldError, Operation, validate, validate_behavior, validate_metric};

#[cfg(test)]
mod tests;
