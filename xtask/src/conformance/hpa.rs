//! HPA vectors of schema `hpa-vectors/1`, run through the code that decides.

mod calculation;
mod input;
mod pieces;
mod reconcile;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const SCHEMA: &str = "hpa-vectors/1";

#[derive(Deserialize)]
struct VectorFile {
    schema: String,
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    kind: String,
    input: Value,
    expected: Value,
}

/// A vector that did not come out as expected.
struct Failure {
    file: String,
    name: String,
    kind: String,
    difference: String,
}

/// What a folder gave.
struct Outcome {
    passed: usize,
    failures: Vec<Failure>,
}

/// Runs every vector of every `*.json` in `folder`; exit code 1 if one fails.
pub(crate) fn run(folder: &Path) -> Result<ExitCode> {
    let outcome = run_folder(folder)?;
    for failure in &outcome.failures {
        println!("FAIL {}: {} [{}]: {}", failure.file, failure.name, failure.kind, failure.difference);
    }
    println!("{} passed, {} failed", outcome.passed, outcome.failures.len());
    Ok(if outcome.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn run_folder(folder: &Path) -> Result<Outcome> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read folder `{}`", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let mut outcome = Outcome { passed: 0, failures: Vec::new() };
    let mut files = 0;
    for path in &paths {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let value: Value = serde_json::from_str(&text).with_context(|| format!("`{}` is not JSON", path.display()))?;
        if value.get("schema").and_then(Value::as_str) != Some(SCHEMA) {
            continue;
        }
        files += 1;
        let file: VectorFile =
            serde_json::from_value(value).with_context(|| format!("`{}` is not {SCHEMA}", path.display()))?;
        debug_assert_eq!(file.schema, SCHEMA);
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        for vector in file.vectors {
            match run_vector(&vector) {
                Ok(()) => outcome.passed += 1,
                Err(error) => outcome.failures.push(Failure {
                    file: name.clone(),
                    name: vector.name,
                    kind: vector.kind,
                    difference: format!("{error:#}"),
                }),
            }
        }
    }
    if files == 0 {
        bail!("`{}` holds no file of schema `{SCHEMA}`", folder.display());
    }
    Ok(outcome)
}

fn run_vector(vector: &Vector) -> Result<()> {
    let (input, expected) = (&vector.input, &vector.expected);
    match vector.kind.as_str() {
        "replica_calculation" => calculation::run(input, expected),
        "reconcile" => reconcile::run(input, expected),
        "validation" | "defaulting" | "status_quantity" => {
            super::hpa_manifest::run_vector(&vector.kind, input, expected).map_err(|difference| anyhow!(difference))
        }
        kind => pieces::run(kind, input, expected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vector_of_testdata_passes() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/hpa"));
        let outcome = run_folder(folder).expect("testdata/hpa is part of the repository");
        let failures: Vec<String> =
            outcome.failures.iter().map(|f| format!("{}: {} [{}]: {}", f.file, f.name, f.kind, f.difference)).collect();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        assert!(outcome.passed > 300, "only {} vectors were found", outcome.passed);
    }

    #[test]
    fn a_changed_expectation_is_noticed() {
        let vector = |replicas: i32| Vector {
            name: "n".to_owned(),
            kind: "legacy_limit".to_owned(),
            input: serde_json::json!({"current_replicas": 1, "desired_replicas": 9, "min_replicas": 1, "max_replicas": 20,
                "legacy_scale_up_factor": 2, "legacy_scale_up_minimum": 4}),
            expected: serde_json::json!({"replicas": replicas, "reason": "ScaleUpLimit"}),
        };
        assert!(run_vector(&vector(4)).is_ok());
        assert!(run_vector(&vector(5)).is_err());
    }

    #[test]
    fn unreadable_folders_and_unknown_kinds_are_errors() {
        assert!(run_folder(Path::new("/does/not/exist")).is_err());
        let vector =
            Vector { name: String::new(), kind: "riddle".to_owned(), input: Value::Null, expected: Value::Null };
        assert!(run_vector(&vector).is_err());
    }
}
