//! Reference pages generated from tables in the code, compared in CI.

use crate::{cluster, root};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Whether to write the pages or to compare them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Writes pages that differ.
    Write,
    /// Names pages that differ; exit code 1 if there is one.
    Check,
}

/// The definition of our own kind, where helm installs it from.
const CRD: &str = "charts/loadline/crds/inferenceautoscalers.loadline.dev.yaml";

fn definition() -> Result<String> {
    let text = loadline_manifest::yaml::to_text(&loadline_manifest::autoscaler::crd())?;
    Ok(format!("# Generated from the types in crates/pure/manifest (`cargo xtask codegen`); do not edit.\n{text}"))
}

/// The chart.
const CHART: &str = "charts/loadline";
/// The chart rendered with its defaults, for those without helm.
const INSTALL: &str = "deploy/install.yaml";
/// Values files that the chart is linted and rendered with, beside its defaults.
const PROFILES: [&str; 3] = ["production", "staging", "development"];

/// helm: `$LOADLINE_HELM`, else the newest in the cache of tools that `testkit` builds.
fn helm() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set("LOADLINE_HELM") {
        return Some(path);
    }
    let cache = set("LOADLINE_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("loadline")))
        .or_else(|| Some(set("HOME")?.join(".cache/loadline")))?;
    let folders = std::fs::read_dir(cache.join("tools")).ok()?;
    let mut found: Vec<PathBuf> = folders
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("helm-")))
        .map(|path| path.join("helm"))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.pop()
}

/// Runs helm over the chart; its output.
fn with_helm(helm: &Path, words: &[&str]) -> Result<String> {
    let output = Command::new(helm).args(words).current_dir(root()).output().context("helm could not be run")?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "`helm {}` failed: {told}", words.join(" "));
    String::from_utf8(output.stdout).context("helm printed what is not UTF-8")
}

/// Lints and renders the chart with every profile, and gives the plain manifests of its defaults.
fn install(helm: &Path) -> Result<String> {
    for profile in PROFILES {
        let values = format!("{CHART}/values-{profile}.yaml");
        with_helm(helm, &["lint", "--strict", "--quiet", CHART, "--values", &values])?;
        with_helm(helm, &["template", "loadline", CHART, "--namespace", "loadline", "--values", &values])?;
    }
    let rendered = with_helm(helm, &["template", "loadline", CHART, "--namespace", "loadline"])?;
    Ok(format!(
        "# Rendered from {CHART} with its defaults (`cargo xtask codegen`); do not edit. \
         Apply with `kubectl apply --server-side -f {INSTALL}`.\n\
         apiVersion: v1\nkind: Namespace\nmetadata:\n  name: loadline\n  labels:\n    \
         pod-security.kubernetes.io/enforce: restricted\n---\n{}{rendered}",
        definition()?
    ))
}

/// Path below the root and content of every generated page.
fn pages() -> Result<Vec<(&'static str, String)>> {
    let mut pages = vec![
        ("docs/reference/configuration.md", loadline_manifest::configuration_page()),
        ("docs/reference/hpa-defaults.md", loadline_manifest::hpa_defaults_page()),
        ("docs/reference/inferenceautoscaler.md", loadline_manifest::autoscaler::reference_page()),
        ("docs/reference/serve.md", loadline_manifest::serve_page()),
        (CRD, definition()?),
        ("docs/reference/cli.md", commands()?),
    ];
    match helm() {
        Some(helm) => pages.push((INSTALL, install(&helm)?)),
        None => println!(
            "{INSTALL} is not looked at: there is no helm; `cargo xtask test kube` builds it, or set LOADLINE_HELM"
        ),
    }
    Ok(pages)
}

/// The binary knows its own commands: `$LOADLINE_BIN`, else the one of the tests.
fn commands() -> Result<String> {
    let program = match std::env::var_os("LOADLINE_BIN").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => cluster::built(&["loadline"])?.with_file_name("loadline"),
    };
    let output = Command::new(&program)
        .arg("help-markdown")
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("{} could not be run", program.display()))?;
    ensure!(output.status.success(), "`loadline help-markdown` failed");
    String::from_utf8(output.stdout).context("`loadline help-markdown` printed what is not UTF-8")
}

/// Writes or compares every generated page.
pub(crate) fn run(mode: Mode) -> Result<ExitCode> {
    let mut differing = 0_usize;
    for (name, content) in pages()? {
        let path = root().join(name);
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        if before == content {
            continue;
        }
        differing += 1;
        match mode {
            Mode::Write => {
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
                }
                std::fs::write(&path, content).with_context(|| format!("{name} cannot be written"))?;
                println!("wrote {name}");
            }
            Mode::Check => println!("{name} differs from the code; run `cargo xtask codegen`"),
        }
    }
    Ok(if mode == Mode::Check && differing > 0 { ExitCode::from(1) } else { ExitCode::SUCCESS })
}
