//! What the API server fills in (`reference/hpa.md` 7.3 and 11).

use crate::defaults::{Entry, Setting, entry};

const SOURCE: &str = "autoscaling/v2 API defaults";

/// `spec.minReplicas`.
pub const MIN_REPLICAS: Entry =
    entry("spec.minReplicas", Setting::Count(1), "the least count where none is written", SOURCE);
/// The resource of the metric that stands in for an empty list.
pub const METRIC_RESOURCE: Entry = entry(
    "spec.metrics[0].resource.name",
    Setting::Text("cpu"),
    "the metric that stands in for an empty `spec.metrics`",
    SOURCE,
);
/// The target of that metric, percent.
pub const METRIC_UTILIZATION: Entry = entry(
    "spec.metrics[0].resource.target.averageUtilization",
    Setting::Count(80),
    "its target, percent of the request",
    SOURCE,
);
/// `scaleUp.stabilizationWindowSeconds`.
pub const UP_WINDOW: Entry = entry(
    "spec.behavior.scaleUp.stabilizationWindowSeconds",
    Setting::Count(0),
    "seconds; only where `behavior` is written",
    SOURCE,
);
/// `scaleDown.stabilizationWindowSeconds`.
pub const DOWN_WINDOW: Entry = entry(
    "spec.behavior.scaleDown.stabilizationWindowSeconds",
    Setting::Unset("the controller's `--horizontal-pod-autoscaler-downscale-stabilization`, 300 s"),
    "seconds",
    SOURCE,
);
/// `selectPolicy` of both directions.
pub const SELECT_POLICY: Entry = entry(
    "spec.behavior.*.selectPolicy",
    Setting::Text("Max"),
    "the policy that allows the largest change holds",
    SOURCE,
);
/// Pods added per period.
pub const UP_PODS: Entry =
    entry("spec.behavior.scaleUp.policies[0] (Pods)", Setting::Count(4), "pods added per period", SOURCE);
/// Percent added per period.
pub const UP_PERCENT: Entry =
    entry("spec.behavior.scaleUp.policies[1] (Percent)", Setting::Count(100), "percent added per period", SOURCE);
/// Percent removed per period.
pub const DOWN_PERCENT: Entry =
    entry("spec.behavior.scaleDown.policies[0] (Percent)", Setting::Count(100), "percent removed per period", SOURCE);
/// The period of those policies.
pub const PERIOD_SECONDS: Entry =
    entry("spec.behavior.*.policies[*].periodSeconds", Setting::Count(15), "seconds, of the policies above", SOURCE);

/// Every default of the API server, in the order of the reference page.
pub const TABLE: &[Entry] = &[
    MIN_REPLICAS,
    METRIC_RESOURCE,
    METRIC_UTILIZATION,
    UP_WINDOW,
    DOWN_WINDOW,
    SELECT_POLICY,
    UP_PODS,
    UP_PERCENT,
    DOWN_PERCENT,
    PERIOD_SECONDS,
];
