//! The status. A comment on a field is its description in the API.

use super::QuantityText;
use loadline_base::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was seen and decided last.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceAutoscalerStatus {
    /// The `metadata.generation` that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Replicas that the target was told to have, over all pools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Replicas wanted, over all pools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<u32>,
    /// When the number of replicas was last changed by Loadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub last_scale_time: Option<String>,
    /// The metric or limit that determines the number of replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding_signal: Option<String>,
    /// Label selector of the target's pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// `AbleToScale`, `ScalingActive` and `ScalingLimited` with the reasons of autoscaling/v2.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// What each metric said last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<SignalStatus>,
    /// The last decision, step by step.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<String>,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub last_decision_time: Option<String>,
    /// The same by pool, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolStatus>,
}

/// One condition, as in `metav1.Condition`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Its name.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, in one word.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// When `status` last changed.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// The `metadata.generation` that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// What one metric said last.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SignalStatus {
    /// The metric's name.
    pub name: String,
    /// The pool, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Its value, per replica where the target is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<QuantityText>")]
    pub value: Option<Quantity>,
    /// `Live`, `Stale`, `Missing`, `Absent` or `IdleProven`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// When it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub time: Option<String>,
    /// What it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<QuantityText>")]
    pub target: Option<Quantity>,
    /// Why there is no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// One of several pools.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolStatus {
    /// The pool's name.
    pub name: String,
    /// Replicas that its target was told to have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Replicas wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<u32>,
    /// Replicas that serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<u32>,
    /// The metric or limit that determines the number of replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding_signal: Option<String>,
    /// Label selector of its pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}
