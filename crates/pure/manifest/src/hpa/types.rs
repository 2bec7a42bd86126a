//! The `autoscaling/v2` types with their exact field names. What the API server would refuse (a missing name, an unknown
//! type) can be held here, so that validation can say it in the API server's words.

use crate::autoscaler::QuantityText;
use loadline_base::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A HorizontalPodAutoscaler.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Hpa {
    /// `autoscaling/v2`.
    pub api_version: String,
    /// `HorizontalPodAutoscaler`.
    pub kind: String,
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: Spec,
    /// What the controller last wrote; kept as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<serde_json::Value>,
}

/// Object metadata. The fields that the API server writes are accepted and kept as they are.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[expect(
    missing_docs,
    reason = "each is the API's own field; only name, namespace, labels and annotations matter here"
)]
pub struct ObjectMeta {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub generate_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_grace_period_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finalizers: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_references: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub managed_fields: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_link: Option<String>,
}

/// `spec`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Spec {
    /// What is scaled.
    pub scale_target_ref: CrossVersionObjectReference,
    /// The least count; the API server fills in 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i32>,
    /// The greatest count.
    pub max_replicas: i32,
    /// What is measured; the API server fills in CPU at 80 %.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<MetricSpec>,
    /// How fast to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behavior: Option<Behavior>,
}

/// An object in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CrossVersionObjectReference {
    /// Group and version, such as `apps/v1`; the version does not matter.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// Kind, such as `Deployment`.
    pub kind: String,
    /// Name of the object.
    pub name: String,
}

/// One metric; exactly the source that `type` names is set.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MetricSpec {
    /// `Resource`, `ContainerResource`, `Pods`, `Object` or `External`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Usage of a resource by whole pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceSource>,
    /// Usage of a resource by one container of each pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_resource: Option<ContainerResourceSource>,
    /// A custom metric with one value per pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodsSource>,
    /// A custom metric of one other object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectSource>,
    /// A metric that belongs to no object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalSource>,
}

/// `resource`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ResourceSource {
    /// `cpu`, `memory`, or an extended resource.
    pub name: String,
    /// What its value should be.
    pub target: MetricTarget,
}

/// `containerResource`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ContainerResourceSource {
    /// `cpu`, `memory`, or an extended resource.
    pub name: String,
    /// Name of the container.
    pub container: String,
    /// What its value should be.
    pub target: MetricTarget,
}

/// `pods`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PodsSource {
    /// The metric by name, and by labels where it has several series.
    pub metric: MetricIdentifier,
    /// What its value should be.
    pub target: MetricTarget,
}

/// `object`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ObjectSource {
    /// The object that the metric belongs to.
    pub described_object: CrossVersionObjectReference,
    /// The metric by name, and by labels where it has several series.
    pub metric: MetricIdentifier,
    /// What its value should be.
    pub target: MetricTarget,
}

/// `external`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExternalSource {
    /// The metric by name, and by labels where it has several series.
    pub metric: MetricIdentifier,
    /// What its value should be.
    pub target: MetricTarget,
}

/// `metric`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MetricIdentifier {
    /// Its name; `:` and `_` are equal.
    pub name: String,
    /// Labels that its series must carry; all series without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// A label selector.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LabelSelector {
    /// Labels and the value that each must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements; all must hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelSelectorRequirement>,
}

/// One requirement of a label selector.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LabelSelectorRequirement {
    /// The label's name.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// Values for `In` and `NotIn`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

impl LabelSelector {
    /// The form in which the controller's messages show a selector, which is Go's `%+v` of the API type.
    #[must_use]
    pub fn go_text(&self) -> String {
        let labels: String = self.match_labels.iter().map(|(key, value)| format!("{key}: {value},")).collect();
        let expressions: String = self
            .match_expressions
            .iter()
            .map(|one| {
                let (key, operator, values) = (&one.key, &one.operator, one.values.join(" "));
                format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{values}],}},")
            })
            .collect();
        format!(
            "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
        )
    }
}

/// `target`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MetricTarget {
    /// `Utilization`, `Value` or `AverageValue`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the value itself should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<QuantityText>")]
    pub value: Option<Quantity>,
    /// What the value divided by replicas should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<QuantityText>")]
    pub average_value: Option<Quantity>,
    /// What the usage should be, in percent of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average_utilization: Option<i32>,
}

/// `behavior`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Behavior {
    /// Upwards; where unset: no window, and the larger of 4 pods and 100 percent per 15 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_up: Option<ScalingRules>,
    /// Downwards; where unset: a window of 300 seconds and no further limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_down: Option<ScalingRules>,
}

/// Which half of `behavior`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// `scaleUp`.
    Up,
    /// `scaleDown`.
    Down,
}

/// Limits of one direction as written.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ScalingRules {
    /// Seconds, 0 to 3600: how far back recommendations are looked at, of which the most cautious holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stabilization_window_seconds: Option<i32>,
    /// Which of the policies holds: that of the largest change (`Max`), of the smallest (`Min`), or no change at all (`Disabled`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub select_policy: Option<String>,
    /// Limits of change per time; a list that is written replaces the default list whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policies: Option<Vec<ScalingPolicy>>,
    /// How far from the target the value may be, as a fraction of it, without a change in this direction; 0.1 where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<QuantityText>")]
    pub tolerance: Option<Quantity>,
}

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ScalingPolicy {
    /// Unit of `value`: `Pods` or `Percent`.
    #[serde(rename = "type")]
    pub kind: String,
    /// How many pods, or how many percent of the replicas, may be added or removed per period.
    pub value: i32,
    /// Length of the period in seconds, 1 to 1800.
    pub period_seconds: i32,
}
