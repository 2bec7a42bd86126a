//! HPAs of a file, with the place of each field.

use super::types::{CrossVersionObjectReference, Hpa, MetricSpec, MetricTarget, ObjectMeta, ResourceSource, Spec};
use super::{FieldError, Operation, apply_defaults, validate};
use crate::yaml::{self, Fault, Faults, Limits, Node, Position, Value};
use loadline_policy::hpa::Gates;
use serde::Deserialize;

/// One HPA of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct HpaDocument {
    /// The object as written; `v1` is already turned into `v2`.
    pub hpa: Hpa,
    file: String,
    node: Node,
}

impl HpaDocument {
    /// The complaint about a field, with its place.
    #[must_use]
    pub fn fault(&self, error: &FieldError) -> Fault {
        Fault::new(&self.file, self.node.locate(&error.path), &error.path, &error.message)
    }

    /// Checks what the API server checks on creation, after its defaults.
    ///
    /// # Errors
    /// Everything refused, with places.
    pub fn check(&self, gates: &Gates) -> Result<(), Faults> {
        let mut filled = self.hpa.clone();
        apply_defaults(&mut filled);
        let errors = validate(&filled, gates, Operation::Create);
        Faults::check(errors.iter().map(|error| self.fault(error)).collect())
    }
}

/// The `autoscaling/v1` form: CPU only.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct HpaV1 {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
    spec: SpecV1,
    status: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct SpecV1 {
    scale_target_ref: CrossVersionObjectReference,
    min_replicas: Option<i32>,
    max_replicas: i32,
    #[serde(rename = "targetCPUUtilizationPercentage")]
    target_cpu_utilization_percentage: Option<i32>,
}

impl From<HpaV1> for Hpa {
    fn from(old: HpaV1) -> Self {
        let metric = |percent| MetricSpec {
            kind: "Resource".to_owned(),
            resource: Some(ResourceSource {
                name: "cpu".to_owned(),
                target: MetricTarget {
                    kind: "Utilization".to_owned(),
                    average_utilization: Some(percent),
                    ..MetricTarget::default()
                },
            }),
            ..MetricSpec::default()
        };
        Self {
            api_version: old.api_version,
            kind: old.kind,
            metadata: old.metadata,
            spec: Spec {
                scale_target_ref: old.spec.scale_target_ref,
                min_replicas: old.spec.min_replicas,
                max_replicas: old.spec.max_replicas,
                metrics: old.spec.target_cpu_utilization_percentage.map(metric).into_iter().collect(),
                behavior: None,
            },
            status: old.status,
        }
    }
}

/// Reads every HorizontalPodAutoscaler of a file, also those in a `List`. Documents of other kinds are passed over.
///
/// # Errors
/// Names the place of what is not YAML, not an HPA this version reads, or an unknown field. Validation is
/// [`HpaDocument::check`].
pub fn read_hpas(file: &str, text: &str, limits: &Limits) -> Result<Vec<HpaDocument>, Fault> {
    let mut found = Vec::new();
    for document in yaml::read_documents(file, text, limits)? {
        collect(file, document, &mut found)?;
    }
    Ok(found)
}

fn collect(file: &str, node: Node, found: &mut Vec<HpaDocument>) -> Result<(), Fault> {
    let kind = node.text("kind").unwrap_or_default();
    if kind.ends_with("List")
        && let Some(Node { value: Value::List(items), .. }) = node.get("items")
    {
        return items.iter().try_for_each(|item| collect(file, item.clone(), found));
    }
    if !matches!(node.value, Value::Map(_)) {
        return Err(Fault::new(file, node.at, "", "a document must be a mapping with `apiVersion` and `kind`"));
    }
    if kind.is_empty() {
        return Err(Fault::new(file, node.at, "kind", "`kind` is missing; write `kind: HorizontalPodAutoscaler`"));
    }
    if kind != "HorizontalPodAutoscaler" {
        return match yaml::did_you_mean(kind, &["HorizontalPodAutoscaler"]) {
            Some(near) => {
                let message = format!("unknown kind `{kind}`; did you mean `{near}`?");
                Err(Fault::new(file, node.locate("kind"), "kind", message))
            }
            None => Ok(()),
        };
    }
    let hpa = match node.text("apiVersion").unwrap_or_default() {
        "autoscaling/v2" => yaml::from_node::<Hpa>(file, &node)?,
        "autoscaling/v1" => yaml::from_node::<HpaV1>(file, &node)?.into(),
        other => {
            let at: Position = node.locate("apiVersion");
            let message = format!("`{other}` is not read; write `autoscaling/v2` (or `autoscaling/v1`)");
            return Err(Fault::new(file, at, "apiVersion", message));
        }
    };
    found.push(HpaDocument { hpa, file: file.to_owned(), node });
    Ok(())
}
