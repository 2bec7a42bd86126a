//! Reference pages generated from tables in the code, compared in CI.

use crate::root;
use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::process::ExitCode;

/// Whether to write the pages or to compare them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Writes pages that differ.
    Write,
    /// Names pages that differ; exit code 1 if there is one.
    Check,
}

/// Path below the root and content of every generated page.
fn pages() -> Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("docs/reference/configuration.md", loadline_manifest::configuration_page()),
        ("docs/reference/hpa-defaults.md", loadline_manifest::hpa_defaults_page()),
        ("docs/reference/cli.md", commands()?),
    ])
}

/// The binary knows its own commands.
fn commands() -> Result<String> {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--locked", "--package", "loadline", "--", "help-markdown"])
        .current_dir(root())
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cargo could not be run")?;
    ensure!(output.status.success(), "`loadline help-markdown` failed; mend the build first");
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
