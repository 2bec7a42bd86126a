//! API validation (`reference/hpa.md` 11). The words of each error are the API server's, so that what a user reads here is
//! what `kubectl apply` would have said.

use super::names;
use super::types::{
    Behavior, CrossVersionObjectReference, Hpa, MetricIdentifier, MetricSpec, MetricTarget, ScalingPolicy, ScalingRules,
};
use loadline_base::Quantity;
use loadline_policy::hpa::Gates;
use std::fmt;

/// The longest stabilization window, seconds.
const MAX_STABILIZATION_SECONDS: i32 = 3_600;
/// The longest period of a scaling policy, seconds.
const MAX_PERIOD_SECONDS: i32 = 1_800;

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The field.
    pub path: String,
    /// The refusal without the field.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl std::error::Error for FieldError {}

/// What the API server is asked to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation<'a> {
    /// Store a new object.
    Create,
    /// Replace this one.
    Update {
        /// What is stored.
        old: &'a Hpa,
    },
}

#[derive(Default)]
struct Errors(Vec<FieldError>);

impl Errors {
    fn push(&mut self, path: &str, message: String) {
        self.0.push(FieldError { path: path.to_owned(), message });
    }

    fn required(&mut self, path: &str, detail: &str) {
        let separator = if detail.is_empty() { "" } else { ": " };
        self.push(path, format!("Required value{separator}{detail}"));
    }

    fn invalid(&mut self, path: &str, value: impl fmt::Display, detail: &str) {
        self.push(path, format!("Invalid value: {value}: {detail}"));
    }

    fn invalid_text(&mut self, path: &str, value: &str, detail: &str) {
        self.push(path, format!("Invalid value: {value:?}: {detail}"));
    }

    fn unsupported(&mut self, path: &str, value: &str, supported: &[&str]) {
        let listed: Vec<String> = supported.iter().map(|one| format!("{one:?}")).collect();
        self.push(path, format!("Unsupported value: {value:?}: supported values: {}", listed.join(", ")));
    }

    fn forbidden(&mut self, path: &str, detail: &str) {
        self.push(path, format!("Forbidden: {detail}"));
    }
}

/// Everything the API server would refuse, in its order. The object is taken as it is: fill in defaults before.
#[must_use]
pub fn validate(hpa: &Hpa, gates: &Gates, operation: Operation<'_>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let old = match operation {
        Operation::Create => None,
        Operation::Update { old } => Some(old),
    };
    metadata(&mut errors, hpa, old);
    let spec = &hpa.spec;
    let zero_stored = old.is_some_and(|old| old.spec.min_replicas == Some(0));
    let lower_bound = i32::from(!(gates.scale_to_zero || zero_stored));
    if let Some(min) = spec.min_replicas
        && min < lower_bound
    {
        errors.invalid("spec.minReplicas", min, &format!("must be greater than or equal to {lower_bound}"));
    }
    if spec.max_replicas < 1 {
        errors.invalid("spec.maxReplicas", spec.max_replicas, "must be greater than 0");
    }
    if spec.min_replicas.is_some_and(|min| spec.max_replicas < min) {
        errors.invalid("spec.maxReplicas", spec.max_replicas, "must be greater than or equal to `minReplicas`");
    }
    let old_target = old.map(|old| &old.spec.scale_target_ref);
    reference(&mut errors, &spec.scale_target_ref, "spec.scaleTargetRef");
    if old_target.is_none_or(|old| {
        old.kind != spec.scale_target_ref.kind || old.api_version != spec.scale_target_ref.api_version
    }) {
        target_version(&mut errors, &spec.scale_target_ref);
    }
    for (index, metric) in spec.metrics.iter().enumerate() {
        metric_spec(&mut errors, metric, &format!("spec.metrics[{index}]"));
    }
    let wakes = spec.metrics.iter().any(|metric| metric.object.is_some() || metric.external.is_some());
    if spec.min_replicas == Some(0) && !wakes {
        errors.forbidden(
            "spec.metrics",
            "must specify at least one Object or External metric to support scaling to zero replicas",
        );
    }
    if let Some(behavior) = &spec.behavior {
        let stored = old.and_then(|old| old.spec.behavior.as_ref()).is_some_and(has_tolerance);
        errors.0.extend(validate_behavior(behavior, "spec.behavior", gates.configurable_tolerance || stored));
    }
    errors.0
}

fn has_tolerance(behavior: &Behavior) -> bool {
    [&behavior.scale_up, &behavior.scale_down].into_iter().flatten().any(|rules| rules.tolerance.is_some())
}

fn metadata(errors: &mut Errors, hpa: &Hpa, old: Option<&Hpa>) {
    let meta = &hpa.metadata;
    if meta.name.is_empty() {
        if meta.generate_name.is_empty() {
            errors.required("metadata.name", "name or generateName is required");
        }
    } else if let Some(fault) = names::subdomain_fault(&meta.name) {
        errors.invalid_text("metadata.name", &meta.name, &fault);
    }
    if let Some(fault) = (!meta.namespace.is_empty()).then(|| names::label_fault(&meta.namespace)).flatten() {
        errors.invalid_text("metadata.namespace", &meta.namespace, &fault);
    }
    if let Some(old) = old {
        for (path, new, stored) in [
            ("metadata.name", &meta.name, &old.metadata.name),
            ("metadata.namespace", &meta.namespace, &old.metadata.namespace),
        ] {
            if new != stored {
                errors.invalid_text(path, new, "field is immutable");
            }
        }
    }
}

fn reference(errors: &mut Errors, reference: &CrossVersionObjectReference, path: &str) {
    for (field, value) in [("kind", &reference.kind), ("name", &reference.name)] {
        let path = format!("{path}.{field}");
        if value.is_empty() {
            errors.required(&path, "");
        }
        for fault in names::path_segment_faults(value) {
            errors.invalid_text(&path, value, &fault);
        }
    }
    if let Err(fault) = names::api_group(&reference.api_version) {
        errors.invalid_text(&format!("{path}.apiVersion"), &reference.api_version, &fault);
    }
}

/// A scale target names an API group, unless it is the one scalable kind of the core group.
fn target_version(errors: &mut Errors, target: &CrossVersionObjectReference) {
    let no_group = names::api_group(&target.api_version) == Ok("");
    if no_group && !target.kind.is_empty() && target.kind != "ReplicationController" {
        errors.invalid_text(
            "spec.scaleTargetRef.apiVersion",
            &target.api_version,
            "must name an API group, such as 'apps/v1', unless kind is ReplicationController",
        );
    }
}

const METRIC_TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

fn metric_spec(errors: &mut Errors, spec: &MetricSpec, path: &str) {
    let type_path = format!("{path}.type");
    if spec.kind.is_empty() {
        errors.required(&type_path, "must specify a metric source type");
    }
    if !METRIC_TYPES.contains(&spec.kind.as_str()) {
        errors.unsupported(&type_path, &spec.kind, &METRIC_TYPES);
    }
    let present: Vec<&str> = [
        ("object", spec.object.is_some()),
        ("external", spec.external.is_some()),
        ("pods", spec.pods.is_some()),
        ("resource", spec.resource.is_some()),
        ("containerResource", spec.container_resource.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, set)| set.then_some(name))
    .collect();
    // only the first source present is looked into, as upstream does
    match present.first() {
        Some(&"object") => object_source(errors, spec, &format!("{path}.object")),
        Some(&"external") => external_source(errors, spec, &format!("{path}.external")),
        Some(&"pods") => pods_source(errors, spec, &format!("{path}.pods")),
        Some(&"resource") => resource_source(errors, spec, &format!("{path}.resource")),
        Some(_) => container_source(errors, spec, &format!("{path}.containerResource")),
        None => {}
    }
    let mut letters = spec.kind.chars();
    let expected: String = letters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(letters).collect();
    if !present.contains(&expected.as_str()) {
        errors.required(&format!("{path}.{expected}"), "must populate information for the given metric source");
    }
    if present.len() > 1 {
        for other in present.iter().filter(|name| **name != expected) {
            errors.forbidden(&format!("{path}.{other}"), "must populate the given metric source only");
        }
    }
}

fn object_source(errors: &mut Errors, spec: &MetricSpec, path: &str) {
    let Some(source) = &spec.object else { return };
    reference(errors, &source.described_object, &format!("{path}.describedObject"));
    identifier(errors, &source.metric, &format!("{path}.metric"));
    target(errors, &source.target, &format!("{path}.target"));
    if source.target.value.is_none() && source.target.average_value.is_none() {
        errors.required(&format!("{path}.target.averageValue"), "must set either a target value or averageValue");
    }
}

fn external_source(errors: &mut Errors, spec: &MetricSpec, path: &str) {
    let Some(source) = &spec.external else { return };
    identifier(errors, &source.metric, &format!("{path}.metric"));
    target(errors, &source.target, &format!("{path}.target"));
    match (source.target.value, source.target.average_value) {
        (None, None) => errors.required(
            &format!("{path}.target.averageValue"),
            "must set either a target value for metric or a per-pod target",
        ),
        (Some(_), Some(_)) => errors.forbidden(
            &format!("{path}.target.value"),
            "may not set both a target value for metric and a per-pod target",
        ),
        _ => {}
    }
}

fn pods_source(errors: &mut Errors, spec: &MetricSpec, path: &str) {
    let Some(source) = &spec.pods else { return };
    identifier(errors, &source.metric, &format!("{path}.metric"));
    target(errors, &source.target, &format!("{path}.target"));
    if source.target.average_value.is_none_or(|value| value.signum() != 1) {
        errors.required(&format!("{path}.target.averageValue"), "must specify a positive target averageValue");
    }
}

fn resource_source(errors: &mut Errors, spec: &MetricSpec, path: &str) {
    let Some(source) = &spec.resource else { return };
    if source.name.is_empty() {
        errors.required(&format!("{path}.name"), "must specify a resource name");
    }
    resource_target(errors, &source.target, &format!("{path}.target"));
}

fn container_source(errors: &mut Errors, spec: &MetricSpec, path: &str) {
    let Some(source) = &spec.container_resource else { return };
    let name_path = format!("{path}.name");
    if source.name.is_empty() {
        errors.required(&name_path, "must specify a resource name");
    } else {
        for fault in names::container_resource_faults(&source.name) {
            errors.invalid_text(&name_path, &source.name, &fault);
        }
    }
    let container_path = format!("{path}.container");
    if source.container.is_empty() {
        errors.required(&container_path, "must specify a container");
    } else if let Some(fault) = names::label_fault(&source.container) {
        errors.invalid_text(&container_path, &source.container, &fault);
    }
    resource_target(errors, &source.target, &format!("{path}.target"));
}

fn resource_target(errors: &mut Errors, metric_target: &MetricTarget, path: &str) {
    target(errors, metric_target, path);
    match (metric_target.average_utilization, metric_target.average_value) {
        (None, None) => errors.required(
            &format!("{path}.averageUtilization"),
            "must set either a target raw value or a target utilization",
        ),
        (Some(_), Some(_)) => errors
            .forbidden(&format!("{path}.averageValue"), "may not set both a target raw value and a target utilization"),
        _ => {}
    }
}

fn identifier(errors: &mut Errors, metric: &MetricIdentifier, path: &str) {
    let path = format!("{path}.name");
    if metric.name.is_empty() {
        errors.required(&path, "must specify a metric name");
    }
    for fault in names::path_segment_faults(&metric.name) {
        errors.invalid_text(&path, &metric.name, &fault);
    }
}

fn target(errors: &mut Errors, target: &MetricTarget, path: &str) {
    let type_path = format!("{path}.type");
    if target.kind.is_empty() {
        errors.required(&type_path, "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&target.kind.as_str()) {
        errors.invalid_text(&type_path, &target.kind, "must be either Utilization, Value, or AverageValue");
    }
    for (field, value) in [("value", target.value), ("averageValue", target.average_value)] {
        if let Some(value) = value.filter(|value| value.signum() != 1) {
            errors.invalid_text(&format!("{path}.{field}"), &value.to_string(), "must be positive");
        }
    }
    if let Some(percent) = target.average_utilization.filter(|percent| *percent < 1) {
        errors.invalid(&format!("{path}.averageUtilization"), percent, "must be greater than 0");
    }
}

/// Validates one metric at a field path.
#[must_use]
pub fn validate_metric(metric: &MetricSpec, path: &str) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metric_spec(&mut errors, metric, path);
    errors.0
}

/// Validates `behavior` at a field path. Without `tolerance_known` a tolerance is not looked at: the API server drops it.
#[must_use]
pub fn validate_behavior(behavior: &Behavior, path: &str, tolerance_known: bool) -> Vec<FieldError> {
    let mut errors = Errors::default();
    for (name, rules) in [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)] {
        if let Some(rules) = rules {
            scaling_rules(&mut errors, rules, &format!("{path}.{name}"), tolerance_known);
        }
    }
    errors.0
}

fn scaling_rules(errors: &mut Errors, rules: &ScalingRules, path: &str, tolerance_known: bool) {
    if let Some(window) = rules.stabilization_window_seconds {
        let path = format!("{path}.stabilizationWindowSeconds");
        if window < 0 {
            errors.invalid(&path, window, "must be greater than or equal to zero");
        }
        if window > MAX_STABILIZATION_SECONDS {
            errors.invalid(&path, window, &format!("must be less than or equal to {MAX_STABILIZATION_SECONDS}"));
        }
    }
    const SELECT: [&str; 3] = ["Disabled", "Max", "Min"];
    if let Some(select) = rules.select_policy.as_deref().filter(|select| !SELECT.contains(select)) {
        errors.unsupported(&format!("{path}.selectPolicy"), select, &SELECT);
    }
    let policies = rules.policies.as_deref().unwrap_or_default();
    if policies.is_empty() {
        errors.required(&format!("{path}.policies"), "must specify at least one Policy");
    }
    for (index, policy) in policies.iter().enumerate() {
        scaling_policy(errors, policy, &format!("{path}.policies[{index}]"));
    }
    if let Some(tolerance) = rules.tolerance.filter(|value: &Quantity| tolerance_known && value.signum() < 0) {
        let path = format!("{path}.tolerance");
        errors.invalid_text(&path, &tolerance.to_string(), "must be greater than or equal to 0");
    }
}

fn scaling_policy(errors: &mut Errors, policy: &ScalingPolicy, path: &str) {
    if !["Percent", "Pods"].contains(&policy.kind.as_str()) {
        errors.unsupported(&format!("{path}.type"), &policy.kind, &["Percent", "Pods"]);
    }
    if policy.value <= 0 {
        errors.invalid(&format!("{path}.value"), policy.value, "must be greater than zero");
    }
    let path = format!("{path}.periodSeconds");
    if policy.period_seconds <= 0 {
        errors.invalid(&path, policy.period_seconds, "must be greater than zero");
    }
    if policy.period_seconds > MAX_PERIOD_SECONDS {
        errors.invalid(&path, policy.period_seconds, &format!("must be less than or equal to {MAX_PERIOD_SECONDS}"));
    }
}
