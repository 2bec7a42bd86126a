//! What an HPA asks for: the policy half of `autoscaling/v2`, after API defaulting (`reference/hpa.md` 5.6, 7).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The object that an Object metric describes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ObjectRef {
    /// `apiVersion`; empty for the core group without a version.
    #[serde(default)]
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `name`.
    pub name: String,
}

/// Where the value of a metric comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "snake_case")]
pub enum MetricSource {
    /// Usage of a resource by whole pods.
    Resource {
        /// `cpu`, `memory`, or an extended resource.
        name: String,
    },
    /// Usage of a resource by one container of each pod.
    ContainerResource {
        /// `cpu`, `memory`, or an extended resource.
        name: String,
        /// The container.
        container: String,
    },
    /// A custom metric with one value per pod.
    Pods {
        /// The metric's name.
        metric: String,
        /// The metric selector as text, for messages; `None` where the manifest has none.
        #[serde(default)]
        selector: Option<String>,
    },
    /// A custom metric of one other object.
    Object {
        /// The metric's name.
        metric: String,
        /// The metric selector as text, for messages.
        #[serde(default)]
        selector: Option<String>,
        /// The object described.
        object: ObjectRef,
    },
    /// A metric that belongs to no object; all its series are added.
    External {
        /// The metric's name.
        metric: String,
        /// The metric selector as text, for messages.
        #[serde(default)]
        selector: Option<String>,
    },
    /// One of Loadline's normalised signals; [`crate::signal::SignalKind`] says how each is combined over replicas.
    Signal {
        /// A name of the table in [`crate::signal`].
        name: String,
    },
    /// A type that this version does not know; it fails with `InvalidMetricSourceType`, as in the peer.
    Unknown {
        /// The type as written.
        kind: String,
    },
}

impl MetricSource {
    /// The `type` of the manifest.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Resource { .. } => "Resource",
            Self::ContainerResource { .. } => "ContainerResource",
            Self::Pods { .. } => "Pods",
            Self::Object { .. } => "Object",
            Self::External { .. } => "External",
            Self::Signal { .. } => "Signal",
            Self::Unknown { kind } => kind,
        }
    }

    /// The reason of `ScalingActive=False` when this source fails.
    #[must_use]
    pub const fn failure_reason(&self) -> super::Reason {
        use super::Reason;
        match self {
            Self::Resource { .. } => Reason::FailedGetResourceMetric,
            Self::ContainerResource { .. } => Reason::FailedGetContainerResourceMetric,
            Self::Pods { .. } => Reason::FailedGetPodsMetric,
            Self::Object { .. } => Reason::FailedGetObjectMetric,
            Self::External { .. } => Reason::FailedGetExternalMetric,
            Self::Signal { .. } => Reason::FailedGetSignal,
            Self::Unknown { .. } => Reason::InvalidMetricSourceType,
        }
    }
}

/// `target.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetKind {
    /// A percentage of the request.
    Utilization,
    /// The value itself.
    Value,
    /// The value divided by replicas.
    AverageValue,
}

/// The target of a metric. The controller looks at which field is set, and only for Object at `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MetricTarget {
    /// `target.type`.
    pub kind: Option<TargetKind>,
    /// `averageUtilization`, percent.
    pub average_utilization: Option<i32>,
    /// `averageValue`, milli-units.
    pub average_value_milli: Option<i64>,
    /// `value`, milli-units.
    pub value_milli: Option<i64>,
}

impl MetricTarget {
    /// A percentage of the request.
    #[must_use]
    pub const fn utilization(percent: i32) -> Self {
        Self {
            kind: Some(TargetKind::Utilization),
            average_utilization: Some(percent),
            average_value_milli: None,
            value_milli: None,
        }
    }

    /// An average per replica, in milli-units.
    #[must_use]
    pub const fn average_value(milli: i64) -> Self {
        Self {
            kind: Some(TargetKind::AverageValue),
            average_utilization: None,
            average_value_milli: Some(milli),
            value_milli: None,
        }
    }

    /// The amount that one replica should carry, in milli-units: the average value, else the percentage of what a replica requests.
    #[must_use]
    pub fn per_replica(&self) -> Option<i64> {
        self.average_value_milli.or(self.average_utilization.map(|percent| i64::from(percent) * 1000))
    }

    /// A value, in milli-units.
    #[must_use]
    pub const fn value(milli: i64) -> Self {
        Self {
            kind: Some(TargetKind::Value),
            average_utilization: None,
            average_value_milli: None,
            value_milli: Some(milli),
        }
    }
}

/// One entry of `spec.metrics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricSpec {
    /// Where the value comes from.
    pub source: MetricSource,
    /// What it should be.
    #[serde(default)]
    pub target: MetricTarget,
}

impl fmt::Display for MetricSpec {
    /// The name that the controller uses in reasons (`reference/hpa.md` 6).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let selector = |selector: &Option<String>| selector.clone().unwrap_or_else(|| "nil".to_owned());
        let averaged = self.target.average_value_milli.is_some();
        match &self.source {
            MetricSource::Resource { name } | MetricSource::ContainerResource { name, .. } if averaged => {
                write!(f, "{name} resource")
            }
            MetricSource::Resource { name } => write!(f, "{name} resource utilization (percentage of request)"),
            MetricSource::ContainerResource { name, .. } => {
                write!(f, "{name} container resource utilization (percentage of request)")
            }
            MetricSource::Pods { metric, .. } => write!(f, "pods metric {metric}"),
            MetricSource::Object { metric, object, .. } if self.target.kind == Some(TargetKind::Value) => {
                write!(f, "{} metric {metric}", object.kind)
            }
            MetricSource::Object { metric, selector: s, .. } | MetricSource::External { metric, selector: s } => {
                write!(f, "external metric {metric}({})", selector(s))
            }
            MetricSource::Signal { name } => write!(f, "signal {name}"),
            MetricSource::Unknown { kind } => write!(f, "metric of unknown type {kind}"),
        }
    }
}

/// Which of several rate limits holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SelectPolicy {
    /// The one that allows the largest change.
    #[default]
    Max,
    /// The one that allows the smallest change.
    Min,
    /// No change in this direction at all.
    Disabled,
}

/// The unit of a rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyKind {
    /// A number of replicas.
    Pods,
    /// A percentage of the replicas at the start of the period.
    Percent,
}

/// One rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScalingPolicy {
    /// The unit.
    pub kind: PolicyKind,
    /// How many, positive.
    pub value: i32,
    /// Over how many seconds.
    pub period_seconds: i32,
}

/// Limits of one direction, after API defaulting.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ScalingRules {
    /// The stabilization window; `None` means the controller's setting (downwards) or none (upwards).
    pub stabilization_window_seconds: Option<i32>,
    /// Which limit holds.
    pub select_policy: SelectPolicy,
    /// The limits; empty means that this direction is not limited by rate beyond the current count (as in the peer,
    /// where the API refuses an empty list).
    pub policies: Vec<ScalingPolicy>,
    /// Replaces the controller's tolerance in this direction; finite, at least 0.
    pub tolerance: Option<f64>,
}

/// `spec.behavior`, after API defaulting (`reference/hpa.md` 7.3).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Behavior {
    /// Upwards.
    pub scale_up: ScalingRules,
    /// Downwards.
    pub scale_down: ScalingRules,
}

impl Behavior {
    /// What the API server fills in where `behavior` is present and both directions are left out (`reference/hpa.md` 7.3).
    #[must_use]
    pub fn api_default() -> Self {
        let percent = ScalingPolicy { kind: PolicyKind::Percent, value: 100, period_seconds: 15 };
        let pods = ScalingPolicy { kind: PolicyKind::Pods, value: 4, period_seconds: 15 };
        Self {
            scale_up: ScalingRules {
                stabilization_window_seconds: Some(0),
                policies: vec![pods, percent],
                ..ScalingRules::default()
            },
            scale_down: ScalingRules { policies: vec![percent], ..ScalingRules::default() },
        }
    }
}

/// The gates of the peer that change a decision (`reference/hpa.md` 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gates {
    /// `HPAScaleToZero`.
    pub scale_to_zero: bool,
    /// `HPAConfigurableTolerance`.
    pub configurable_tolerance: bool,
    /// `PodLevelResources`.
    pub pod_level_resources: bool,
}

impl Default for Gates {
    /// All on, as in Kubernetes 1.37.
    fn default() -> Self {
        Self { scale_to_zero: true, configurable_tolerance: true, pod_level_resources: true }
    }
}

/// Settings of the controller, not of one HPA (`reference/hpa.md` 2), with the peer's defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Controller {
    /// Both directions; finite, at least 0.
    pub tolerance: f64,
    /// Used when behavior is absent or its scaleDown window is unset.
    #[serde(with = "loadline_base::duration::text")]
    pub downscale_stabilization: Duration,
    /// CPU only: how long a new pod counts as starting.
    #[serde(with = "loadline_base::duration::text")]
    pub cpu_initialization_period: Duration,
    /// CPU only: how soon after its start a pod that turned unready was never ready.
    #[serde(with = "loadline_base::duration::text")]
    pub initial_readiness_delay: Duration,
    /// Without behavior: the largest factor of one pass.
    pub legacy_scale_up_factor: i32,
    /// Without behavior: a count that one pass may always reach.
    pub legacy_scale_up_minimum: i32,
    /// Feature gates.
    pub gates: Gates,
}

impl Default for Controller {
    fn default() -> Self {
        Self {
            tolerance: 0.1,
            downscale_stabilization: Duration::from_secs(300),
            cpu_initialization_period: Duration::from_secs(300),
            initial_readiness_delay: Duration::from_secs(30),
            legacy_scale_up_factor: 2,
            legacy_scale_up_minimum: 4,
            gates: Gates::default(),
        }
    }
}

/// An HPA as a rule of a pool.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct HpaRule {
    /// In the manifest's order; observations carry one answer each in the same order.
    pub metrics: Vec<MetricSpec>,
    /// `None` selects the limits of section 7.1.
    #[serde(default)]
    pub behavior: Option<Behavior>,
    /// The controller's settings.
    #[serde(default)]
    pub controller: Controller,
}
