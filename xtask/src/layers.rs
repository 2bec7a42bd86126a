//! The tiers of the workspace, checked: who may depend on whom and on what, under which licences.

use crate::{root, tidy};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, ExitCode};

/// External crates the pure tier may use: each is free of I/O, clocks, threads and global state.
const PURE_EXTERNAL: [&str; 11] = [
    "csv",
    "granit-parser",
    "hdrhistogram",
    "indexmap",
    "libm",
    "memchr",
    "rand",
    "rand_pcg",
    "serde",
    "serde_json",
    "thiserror",
];

/// YAML, the schema of our own kind and the regular expressions of relabelings belong to manifests alone.
const MANIFEST_EXTERNAL: [&str; 3] = ["regex-automata", "schemars", "serde-saphyr"];

/// Licences a dependency may carry (an SPDX expression passes if one of its `OR` branches is made of these).
const LICENCES: [&str; 14] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "BSL-1.0",
    "0BSD",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    license: Option<String>,
    license_file: Option<String>,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tier {
    Pure,
    Io,
    Binary,
    Testkit,
    Xtask,
}

/// Checks tiers, licences and the size rules of [`tidy`]; prints each finding; exit code 1 if there is one.
pub(crate) fn run() -> Result<ExitCode> {
    let findings = findings()?;
    for finding in &findings {
        println!("{finding}");
    }
    println!("layers: {} findings", findings.len());
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Every finding, one line each.
pub(crate) fn findings() -> Result<Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .context("`cargo metadata` could not be run")?;
    anyhow::ensure!(output.status.success(), "`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("`cargo metadata` printed no JSON")?;
    let members: BTreeMap<&str, (&Package, Tier)> = metadata
        .packages
        .iter()
        .filter(|package| metadata.workspace_members.contains(&package.id))
        .map(|package| (package.name.as_str(), (package, tier_of(&package.manifest_path))))
        .collect();
    let mut found = Vec::new();
    for (package, tier) in members.values() {
        for dependency in &package.dependencies {
            let is_dev = dependency.kind.as_deref() == Some("dev");
            if let Some(why) = edge_fault(package, *tier, dependency, is_dev, &members) {
                found.push(format!("{}: depends on `{}`: {why}", package.name, dependency.name));
            }
        }
    }
    for package in metadata.packages.iter().filter(|package| !metadata.workspace_members.contains(&package.id)) {
        if !licence_passes(package) {
            found.push(format!(
                "{}: licence {:?} is not on the list in xtask/src/layers.rs",
                package.name, package.license
            ));
        }
    }
    found.extend(tidy::findings()?);
    Ok(found)
}

fn tier_of(manifest_path: &str) -> Tier {
    if manifest_path.contains("/crates/pure/") {
        Tier::Pure
    } else if manifest_path.contains("/crates/io/") {
        Tier::Io
    } else if manifest_path.contains("/crates/testkit/") {
        Tier::Testkit
    } else if manifest_path.contains("/xtask/") {
        Tier::Xtask
    } else {
        Tier::Binary
    }
}

fn edge_fault(
    package: &Package,
    tier: Tier,
    dependency: &Dependency,
    is_dev: bool,
    members: &BTreeMap<&str, (&Package, Tier)>,
) -> Option<String> {
    if let Some((_, target)) = members.get(dependency.name.as_str()) {
        let allowed = match (tier, target) {
            (_, Tier::Testkit) => is_dev,
            (Tier::Pure, Tier::Pure) | (Tier::Binary | Tier::Xtask, _) => true,
            (Tier::Io, Tier::Pure) => true,
            (Tier::Io, Tier::Io) => is_dev || dependency.name == "loadline-net",
            (Tier::Testkit, Tier::Pure) => true,
            (Tier::Testkit, Tier::Io) => dependency.name == "loadline-net",
            _ => false,
        };
        return (!allowed).then(|| "this edge is not in DESIGN section 3".to_owned());
    }
    if is_dev {
        return None;
    }
    let name = dependency.name.as_str();
    if tier == Tier::Pure && !PURE_EXTERNAL.contains(&name) {
        let is_yaml = package.name == "loadline-manifest" && MANIFEST_EXTERNAL.contains(&name);
        return (!is_yaml).then(|| "not on the list of crates the pure tier may use".to_owned());
    }
    if name == "anyhow" && matches!(tier, Tier::Pure | Tier::Io) {
        return Some("libraries return typed errors (thiserror)".to_owned());
    }
    None
}

fn licence_passes(package: &Package) -> bool {
    let Some(expression) = &package.license else { return package.license_file.is_some() && package.name == "ring" };
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    expression.split(" OR ").any(|branch| branch.split(" AND ").all(|licence| LICENCES.contains(&licence.trim())))
}
