//! The InferenceAutoscaler as the API server knows it: every field described, bad specs refused with a sentence that helps, columns, and
//! the examples of the repository.

use crate::Case;
use crate::install;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub(crate) const CASES: [Case; 4] = [
    ("crd::every_field_that_explain_lists_is_described", every_field_is_described),
    ("crd::bad_specs_are_refused_with_a_sentence_that_helps", bad_specs_are_refused),
    ("crd::the_columns_are_those_of_the_issue", columns),
    ("crd::the_examples_are_accepted", examples_are_accepted),
];

/// The published schema.
const SCHEMA: &str = "/openapi/v3/apis/loadline.dev/v1alpha1";
/// Fields below it are Kubernetes' own.
const METADATA: &str = "metadata";

fn every_field_is_described() -> Result<()> {
    let installed = install::shared()?;
    let plane = &installed.world().plane;
    let explained = plane.kubectl(&["explain", "inferenceautoscaler", "--recursive"])?;
    let explained = explained_fields(&explained)?;
    let (status, body) = plane.get(SCHEMA)?;
    ensure!(status == 200, "{SCHEMA}: {status} {body}");
    let document: Value = serde_json::from_str(&body)?;
    let kind = &document["components"]["schemas"]["dev.loadline.v1alpha1.InferenceAutoscaler"];
    ensure!(kind.is_object(), "the schema is not published");
    let mut described = BTreeSet::new();
    let mut bare = Vec::new();
    walk(kind, "", &mut described, &mut bare);
    ensure!(bare.is_empty(), "fields without a description: {bare:?}");
    let unknown: Vec<&String> = explained.difference(&described).collect();
    ensure!(unknown.is_empty(), "`kubectl explain` lists what the schema does not describe: {unknown:?}");
    let missing: Vec<&String> = described.difference(&explained).collect();
    ensure!(missing.is_empty(), "`kubectl explain` does not list {missing:?}");
    ensure!(explained.len() > 100, "only {} fields", explained.len());
    let one = plane.kubectl(&["explain", "ia.spec.idle.after"])?;
    ensure!(one.contains("After this long without work"), "{one}");
    Ok(())
}

/// Paths of the tree that `kubectl explain --recursive` prints, without those below `metadata`.
fn explained_fields(text: &str) -> Result<BTreeSet<String>> {
    let (_, tree) = text.split_once("FIELDS:\n").context("no FIELDS")?;
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut out = BTreeSet::new();
    for line in tree.lines() {
        let Some((name, _)) = line.trim_start().split_once('\t') else { continue };
        let indent = line.len() - line.trim_start().len();
        // values of an enum and `required` stand in lines without a type
        while path.last().is_some_and(|(outer, _)| *outer >= indent) {
            path.pop();
        }
        path.push((indent, name.to_owned()));
        let names: Vec<&str> = path.iter().map(|(_, name)| name.as_str()).collect();
        if names.first() != Some(&METADATA) || names.len() == 1 {
            out.insert(names.join("."));
        }
    }
    Ok(out)
}

fn walk(schema: &Value, path: &str, described: &mut BTreeSet<String>, bare: &mut Vec<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let has_text = field["description"].as_str().is_some_and(|text| !text.trim().is_empty());
        if has_text {
            described.insert(path.clone());
        } else {
            bare.push(path.clone());
        }
        if path != METADATA {
            walk(field, &path, described, bare);
            walk(&field["items"], &path, described, bare);
            walk(&field["additionalProperties"], &path, described, bare);
        }
    }
}

/// A spec and the sentence that refuses it; an empty sentence for one that is accepted.
struct Spec {
    name: &'static str,
    spec: &'static str,
    refused: &'static str,
}

/// `$T` is a target, `$W` the signal of waiting requests.
const SPECS: &[Spec] = &[
    Spec { name: "smallest", spec: "$T, maxReplicas: 2", refused: "" },
    Spec { name: "zero-with-idle", spec: "$T, maxReplicas: 2, minReplicas: 0, idle: {}", refused: "" },
    Spec { name: "objective", spec: "$T, maxReplicas: 2, objective: {ttft: 2s}", refused: "" },
    Spec {
        name: "value-read-as-average",
        spec: "$T, maxReplicas: 2, metrics: [{type: External, external: {metric: {name: a}, target: {type: Value, averageValue: 3}}}]",
        refused: "",
    },
    Spec {
        name: "fraction",
        spec: "$T, maxReplicas: 2, metrics: [{type: External, external: {metric: {name: a}, target: {type: Value, averageValue: '0.05'}}}]",
        refused: "",
    },
    Spec { name: "times", spec: "$T, maxReplicas: 2, startTime: 1h30m, drainTimeout: 300ms", refused: "" },
    Spec { name: "one-pool", spec: "pools: [{name: a, $T, maxReplicas: 3}]", refused: "" },
    Spec { name: "neither", spec: "maxReplicas: 2", refused: "exactly one of scaleTargetRef and pools is needed" },
    Spec {
        name: "both",
        spec: "$T, maxReplicas: 2, pools: [{name: a, $T, maxReplicas: 1}]",
        refused: "exactly one of scaleTargetRef and pools is needed",
    },
    Spec {
        name: "min-beside-pools",
        spec: "minReplicas: 2, pools: [{name: a, $T, maxReplicas: 3}]",
        refused: "with pools, minReplicas and maxReplicas stand in each pool",
    },
    Spec {
        name: "max-below-min",
        spec: "$T, maxReplicas: 2, minReplicas: 3",
        refused: "maxReplicas must not be less than minReplicas",
    },
    Spec {
        name: "pool-max-below-min",
        spec: "pools: [{name: a, $T, minReplicas: 2, maxReplicas: 1}]",
        refused: "maxReplicas must not be less than minReplicas",
    },
    Spec { name: "no-max", spec: "$T", refused: "maxReplicas is needed with scaleTargetRef" },
    Spec {
        name: "zero-without-idle",
        spec: "$T, maxReplicas: 2, minReplicas: 0",
        refused: "minReplicas 0 needs idle, which says when to go to zero, such as idle: {after: 5m}",
    },
    Spec {
        name: "pool-zero-without-idle",
        spec: "pools: [{name: a, $T, minReplicas: 0, maxReplicas: 1}]",
        refused: "a pool with minReplicas 0 needs idle, which says when to go to zero, such as idle: {after: 5m}",
    },
    Spec {
        name: "objective-and-metrics",
        spec: "$T, maxReplicas: 2, objective: {ttft: 2s}, metrics: [$W]",
        refused: "at most one of objective and metrics may be written",
    },
    Spec {
        name: "empty-objective",
        spec: "$T, maxReplicas: 2, objective: {percentile: 95}",
        refused: "ttft or tpot is needed",
    },
    Spec {
        name: "type-and-source-differ",
        spec: "$T, maxReplicas: 2, metrics: [{type: Pods, signal: {name: requests_waiting, target: {type: AverageValue, averageValue: 3}}}]",
        refused: "pods is needed with type Pods, and allowed with no other",
    },
    Spec {
        name: "signal-without-average",
        spec: "$T, maxReplicas: 2, metrics: [{type: Signal, signal: {name: requests_waiting, target: {type: Value, value: 3}}}]",
        refused: "averageValue",
    },
    Spec {
        name: "pods-without-average",
        spec: "$T, maxReplicas: 2, metrics: [{type: Pods, pods: {metric: {name: a}, target: {type: Value, value: 3}}}]",
        refused: "a Pods metric needs target.averageValue",
    },
    Spec {
        name: "external-with-both",
        spec: "$T, maxReplicas: 2, metrics: [{type: External, external: {metric: {name: a}, target: {type: Value, value: 3, averageValue: 3}}}]",
        refused: "an External metric needs exactly one of target.value and target.averageValue",
    },
    Spec {
        name: "target-zero",
        spec: "$T, maxReplicas: 2, metrics: [{type: External, external: {metric: {name: a}, target: {type: Value, averageValue: 0}}}]",
        refused: "should be greater than or equal to 1",
    },
    Spec {
        name: "target-zero-text",
        spec: "$T, maxReplicas: 2, metrics: [{type: External, external: {metric: {name: a}, target: {type: Value, averageValue: 0m}}}]",
        refused: "in body should match",
    },
    Spec {
        name: "gateway-signal-without-gateway",
        spec: "$T, maxReplicas: 2, metrics: [{type: Signal, signal: {name: requests_demand, target: {type: AverageValue, averageValue: 3}}}]",
        refused: "the signals requests_demand and requests_held are the gateway's and need gateway",
    },
    Spec {
        name: "pools-of-one-name",
        spec: "pools: [{name: a, $T, maxReplicas: 1}, {name: a, $T, maxReplicas: 1}]",
        refused: "Duplicate value",
    },
    Spec {
        name: "gateway-of-several-pools",
        spec: "gateway: {name: g}, pools: [{name: a, $T, maxReplicas: 1}, {name: b, $T, maxReplicas: 1}]",
        refused: "a gateway serves one pool; with several pools leave gateway out",
    },
    Spec { name: "time-as-number", spec: "$T, maxReplicas: 2, startTime: 5", refused: "must be of type string" },
    Spec {
        name: "time-of-unknown-unit",
        spec: "$T, maxReplicas: 2, startTime: 5x",
        refused: "spec.startTime in body should match",
    },
    Spec {
        name: "target-without-group",
        spec: "scaleTargetRef: {kind: Deployment, name: a}, maxReplicas: 2",
        refused: "apiVersion must name an API group, such as apps/v1",
    },
    Spec {
        name: "hour-25",
        spec: "$T, maxReplicas: 2, schedules: [{name: a, from: '25:00', to: '08:00', minReplicas: 2}]",
        refused: "spec.schedules[0].from in body should match",
    },
    Spec {
        name: "window-too-long",
        spec: "$T, maxReplicas: 2, behavior: {scaleUp: {stabilizationWindowSeconds: 4000}}",
        refused: "should be less than or equal to 3600",
    },
    Spec {
        name: "authority-without-use",
        spec: "$T, maxReplicas: 2, scrape: {tls: {insecureSkipVerify: true, ca: {secret: {name: a, key: b}}}}",
        refused: "ca has no use with insecureSkipVerify; keep one",
    },
    Spec {
        name: "two-authorities",
        spec: "$T, maxReplicas: 2, scrape: {tls: {ca: {secret: {name: a, key: b}, configMap: {name: a, key: b}}}}",
        refused: "exactly one of secret and configMap is needed",
    },
    Spec { name: "unknown-field", spec: "$T, maxReplicas: 2, scrap: {}", refused: "unknown field \"spec.scrap\"" },
];

impl Spec {
    fn manifest(&self) -> String {
        let spec = self.spec.replace("$T", "scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: a}").replace(
            "$W",
            "{type: Signal, signal: {name: requests_waiting, target: {type: AverageValue, averageValue: 3}}}",
        );
        let name = self.name;
        format!(
            "---\napiVersion: loadline.dev/v1alpha1\nkind: InferenceAutoscaler\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        )
    }
}

fn bad_specs_are_refused() -> Result<()> {
    let plane = &install::shared()?.world().plane;
    let create = |specs: &[&Spec]| {
        let manifests: String = specs.iter().map(|spec| spec.manifest()).collect();
        plane.kubectl_with(&["create", "--dry-run=server", "--filename", "-"], &manifests)
    };
    let (good, bad): (Vec<&Spec>, Vec<&Spec>) = SPECS.iter().partition(|spec| spec.refused.is_empty());
    let created = create(&good)?;
    for spec in &good {
        ensure!(created.contains(&format!("/{} created", spec.name)), "{} is not accepted: {created}", spec.name);
    }
    // a field that is not known is refused before anything is looked at, in words that do not name the object
    let (strange, bad): (Vec<&Spec>, Vec<&Spec>) = bad.into_iter().partition(|spec| spec.name == "unknown-field");
    for specs in [strange, bad] {
        let Err(refused) = create(&specs) else { bail!("bad specs are accepted") };
        let refused = format!("{refused:#}");
        for spec in specs {
            // one line per object; the one of an unknown field does not name it
            let is_own =
                |line: &&str| spec.name == "unknown-field" || line.contains(&format!("\"{}\" is invalid", spec.name));
            let own = refused.lines().find(is_own);
            let own = own.with_context(|| format!("{} is not refused: {refused}", spec.name))?;
            ensure!(own.contains(spec.refused), "{}: expected `{}`, the server says {own}", spec.name, spec.refused);
        }
    }
    Ok(())
}

fn columns() -> Result<()> {
    install::with_shared("crd-columns", |_, namespace| {
        namespace.apply(&SPECS.first().map(Spec::manifest).unwrap_or_default())?;
        let head = |words: &[&str]| -> Result<Vec<String>> {
            let table = namespace.kubectl(&[&["get"], words].concat())?;
            Ok(table.lines().next().unwrap_or_default().split_whitespace().map(str::to_owned).collect())
        };
        ensure!(head(&["ia"])? == ["NAME", "TARGET", "REPLICAS", "DESIRED", "SIGNAL", "AGE"], "{:?}", head(&["ia"])?);
        let wide = head(&["inferenceautoscalers", "--output=wide"])?;
        let more = ["MODE", "ACTIVE", "MIN", "MAX"].map(str::to_owned);
        ensure!(wide.ends_with(&more), "{wide:?}");
        Ok(())
    })
}

fn examples_are_accepted() -> Result<()> {
    let plane = &install::shared()?.world().plane;
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "..", "examples", "kubernetes"].iter().collect();
    let mut count = 0;
    for file in yaml_files(&folder)? {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(&file)?;
        // values of the chart lie beside manifests
        if !text.lines().any(|line| line.starts_with("kind: ")) {
            continue;
        }
        let created =
            plane.kubectl(&["create", "--dry-run=server", "--filename", &name]).with_context(|| format!("`{name}`"))?;
        let wanted = text.lines().filter(|line| *line == "kind: InferenceAutoscaler").count();
        ensure!(created.matches("inferenceautoscaler.loadline.dev/").count() == wanted, "{name}: {created}");
        count += wanted;
    }
    ensure!(count >= 8, "only {count} autoscalers in {}", folder.display());
    Ok(())
}

fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for file in std::fs::read_dir(folder)? {
        let file = file?.path();
        if file.is_dir() {
            out.extend(yaml_files(&file)?);
        } else if file.extension().is_some_and(|end| end == "yaml") {
            out.push(file);
        }
    }
    out.sort();
    Ok(out)
}
