//! API defaulting (`reference/hpa.md` 7.3 and 11), from the table in [`super::defaults`].

use super::defaults::{
    DOWN_PERCENT, METRIC_RESOURCE, METRIC_UTILIZATION, MIN_REPLICAS, PERIOD_SECONDS, SELECT_POLICY, UP_PERCENT,
    UP_PODS, UP_WINDOW,
};
use super::types::{Behavior, Direction, Hpa, MetricSpec, MetricTarget, ResourceSource, ScalingPolicy, ScalingRules};
use crate::defaults::Entry;

fn policy(kind: &str, value: &Entry) -> ScalingPolicy {
    ScalingPolicy { kind: kind.to_owned(), value: value.count_i32(), period_seconds: PERIOD_SECONDS.count_i32() }
}

/// Fills one direction of `behavior`, field by field; a list that is written replaces the default list whole.
#[must_use]
pub fn default_rules(direction: Direction, written: Option<ScalingRules>) -> ScalingRules {
    let mut rules = written.unwrap_or_default();
    rules.select_policy.get_or_insert_with(|| SELECT_POLICY.text().to_owned());
    let policies = match direction {
        Direction::Up => {
            rules.stabilization_window_seconds.get_or_insert(UP_WINDOW.count_i32());
            vec![policy("Pods", &UP_PODS), policy("Percent", &UP_PERCENT)]
        }
        Direction::Down => vec![policy("Percent", &DOWN_PERCENT)],
    };
    rules.policies.get_or_insert(policies);
    rules
}

/// Fills both directions.
#[must_use]
pub(super) fn default_behavior(written: Behavior) -> Behavior {
    Behavior {
        scale_up: Some(default_rules(Direction::Up, written.scale_up)),
        scale_down: Some(default_rules(Direction::Down, written.scale_down)),
    }
}

/// Fills in what the API server fills in.
pub fn apply_defaults(hpa: &mut Hpa) {
    let spec = &mut hpa.spec;
    spec.min_replicas.get_or_insert(MIN_REPLICAS.count_i32());
    if spec.metrics.is_empty() {
        spec.metrics.push(MetricSpec {
            kind: "Resource".to_owned(),
            resource: Some(ResourceSource {
                name: METRIC_RESOURCE.text().to_owned(),
                target: MetricTarget {
                    kind: "Utilization".to_owned(),
                    average_utilization: Some(METRIC_UTILIZATION.count_i32()),
                    ..MetricTarget::default()
                },
            }),
            ..MetricSpec::default()
        });
    }
    spec.behavior = spec.behavior.take().map(default_behavior);
}
