//! The HorizontalPodAutoscaler (`autoscaling/v2`), exact to the last rounding. Source: `reference/hpa.md`, which names the
//! upstream files and revisions it was read from.

mod answer;
mod calculator;
mod condition;
mod evaluate;
pub mod history;
pub mod limits;
mod pod;
mod reconcile;
mod selector;
mod spec;

pub use answer::{
    Answer, ContainerUsage, DEFAULT_CUSTOM_WINDOW, PodUsage, PodValue, empty_text, external_total, usage,
};
pub use calculator::{
    Assumed, Lost, PerPod, PerPodTarget, Proposal, Ratio, Shown, Tolerance, usage_ratio, utilization_ratio,
};
pub use condition::{Condition, ConditionKind, Conditions, Reason};
pub use evaluate::{MetricFailure, propose_metric};
pub use history::{Recommendation, ScaleEvent};
pub use pod::{Container, Group, Phase, Pod, PodSample, Ready, RequestError, group, request};
pub use reconcile::{Branch, HpaMemory, HpaObservation, OtherHpa, Outcome, ScaleFailure, reconcile, settle};
pub(crate) use reconcile::{Pass, ZeroRule};
pub use selector::{Selector, SelectorError};
pub use spec::{
    Behavior, Controller, Gates, HpaRule, MetricSource, MetricSpec, MetricTarget, ObjectRef, PolicyKind, ScalingPolicy,
    ScalingRules, SelectPolicy, TargetKind,
};
