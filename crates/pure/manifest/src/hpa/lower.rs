//! From an HPA to a policy with the evidence gate off: a user's own HPA keeps the peer's exact semantics.

use super::types::{Behavior, Hpa, MetricIdentifier, MetricSpec, MetricTarget, ScalingRules};
use super::{FieldError, Operation, apply_defaults, defaulting, validate};
use loadline_base::PoolId;
use loadline_policy::hpa as peer;
use loadline_policy::{Gate, Policy, PoolPolicy, Rule};
use std::collections::BTreeMap;

/// The name of the one pool of an HPA's policy.
pub const POOL: &str = "main";

/// Fills in the API's defaults, validates, and lowers.
///
/// # Errors
/// Everything the API server would refuse under the controller's gates.
pub fn lower(hpa: &Hpa, controller: &peer::Controller) -> Result<Policy, Vec<FieldError>> {
    let mut hpa = hpa.clone();
    apply_defaults(&mut hpa);
    let errors = validate(&hpa, &controller.gates, Operation::Create);
    if !errors.is_empty() {
        return Err(errors);
    }
    let pool = PoolPolicy {
        min_replicas: u32::try_from(hpa.spec.min_replicas.unwrap_or_default()).unwrap_or_default(),
        max_replicas: u32::try_from(hpa.spec.max_replicas).unwrap_or_default(),
        rule: Rule::Hpa(peer::HpaRule {
            metrics: hpa.spec.metrics.iter().map(metric_of).collect(),
            behavior: hpa.spec.behavior.map(behavior_of),
            controller: controller.clone(),
        }),
        idle: None,
        fallback: None,
        gpus_per_replica: 0,
        scrape_period: loadline_policy::policy::DEFAULT_SCRAPE_PERIOD,
    };
    Ok(Policy { pools: BTreeMap::from([(PoolId::new(POOL), pool)]), gate: Gate::Off })
}

/// Lowers a target. Fields are taken to be valid.
pub(crate) fn target_of(target: &MetricTarget) -> peer::MetricTarget {
    peer::MetricTarget {
        kind: match target.kind.as_str() {
            "Utilization" => Some(peer::TargetKind::Utilization),
            "Value" => Some(peer::TargetKind::Value),
            "AverageValue" => Some(peer::TargetKind::AverageValue),
            _ => None,
        },
        average_utilization: target.average_utilization,
        average_value_milli: target.average_value.map(loadline_base::Quantity::milli_value),
        value_milli: target.value.map(loadline_base::Quantity::milli_value),
    }
}

/// Lowers a metric. Fields are taken to be valid.
pub(crate) fn metric_of(spec: &MetricSpec) -> peer::MetricSpec {
    let named =
        |metric: &MetricIdentifier| (metric.name.clone(), metric.selector.as_ref().map(super::LabelSelector::go_text));
    let found = match spec.kind.as_str() {
        "Resource" => spec
            .resource
            .as_ref()
            .map(|source| (peer::MetricSource::Resource { name: source.name.clone() }, &source.target)),
        "ContainerResource" => spec.container_resource.as_ref().map(|source| {
            let (name, container) = (source.name.clone(), source.container.clone());
            (peer::MetricSource::ContainerResource { name, container }, &source.target)
        }),
        "Pods" => spec.pods.as_ref().map(|source| {
            let (metric, selector) = named(&source.metric);
            (peer::MetricSource::Pods { metric, selector }, &source.target)
        }),
        "Object" => spec.object.as_ref().map(|source| {
            let (metric, selector) = named(&source.metric);
            let object = peer::ObjectRef {
                api_version: source.described_object.api_version.clone(),
                kind: source.described_object.kind.clone(),
                name: source.described_object.name.clone(),
            };
            (peer::MetricSource::Object { metric, selector, object }, &source.target)
        }),
        "External" => spec.external.as_ref().map(|source| {
            let (metric, selector) = named(&source.metric);
            (peer::MetricSource::External { metric, selector }, &source.target)
        }),
        _ => None,
    };
    match found {
        Some((source, target)) => peer::MetricSpec { source, target: target_of(target) },
        None => peer::MetricSpec {
            source: peer::MetricSource::Unknown { kind: spec.kind.clone() },
            target: peer::MetricTarget::default(),
        },
    }
}

/// Lowers `behavior`, with the API's defaults filled in. Fields are taken to be valid.
#[must_use]
pub fn behavior_of(written: Behavior) -> peer::Behavior {
    let filled = defaulting::default_behavior(written);
    peer::Behavior {
        scale_up: rules_of(filled.scale_up.unwrap_or_default()),
        scale_down: rules_of(filled.scale_down.unwrap_or_default()),
    }
}

fn rules_of(rules: ScalingRules) -> peer::ScalingRules {
    peer::ScalingRules {
        stabilization_window_seconds: rules.stabilization_window_seconds,
        select_policy: match rules.select_policy.as_deref() {
            Some("Min") => peer::SelectPolicy::Min,
            Some("Disabled") => peer::SelectPolicy::Disabled,
            _ => peer::SelectPolicy::Max,
        },
        policies: rules
            .policies
            .unwrap_or_default()
            .iter()
            .map(|policy| peer::ScalingPolicy {
                kind: if policy.kind == "Pods" { peer::PolicyKind::Pods } else { peer::PolicyKind::Percent },
                value: policy.value,
                period_seconds: policy.period_seconds,
            })
            .collect(),
        tolerance: rules.tolerance.map(loadline_base::Quantity::approximate_f64),
    }
}
