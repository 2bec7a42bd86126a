//! Size and form rules that the compiler does not check.

use crate::root;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest source file, in lines.
const MAX_FILE_LINES: usize = 600;

/// Words that must not stand in the repository: marks of unfinished work and of places that are not ours.
const FORBIDDEN: [(&str, &str); 5] = [
    ("todo!(", "unfinished work"),
    ("unimplemented!(", "unfinished work"),
    ("#[ignore", "a switched-off test"),
    ("#[allow(", "`#[expect(.., reason)]` is the rule"),
    ("#![allow(", "`#![expect(.., reason)]` is the rule"),
];

/// Every finding, one line each.
pub(crate) fn findings() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for file in tracked(&["*.rs"])? {
        let path = root().join(&file);
        let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", file.display()))?;
        let lines = text.lines().count();
        if lines > MAX_FILE_LINES {
            found.push(format!("{}: {lines} lines; the limit is {MAX_FILE_LINES}", file.display()));
        }
        if !file.ends_with("xtask/src/tidy.rs") {
            for (number, line) in text.lines().enumerate() {
                for (word, why) in FORBIDDEN {
                    if line.contains(word) {
                        found.push(format!("{}:{}: `{word}`: {why}", file.display(), number + 1));
                    }
                }
            }
        }
        if file.ends_with("src/lib.rs") {
            found.extend(missing_preamble(&file, &text));
        }
    }
    Ok(found)
}

/// Each `lib.rs` says what the crate is for, what always holds, and what is deliberately absent.
fn missing_preamble(file: &Path, text: &str) -> Vec<String> {
    let preamble: String = text.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n");
    ["Invariants", "Deliberately absent"]
        .iter()
        .filter(|word| !preamble.contains(**word))
        .map(|word| format!("{}: its first comment lacks `{word}`", file.display()))
        .collect()
}

/// Files that git tracks or would track.
pub(crate) fn tracked(patterns: &[&str]) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "--"])
        .args(patterns)
        .current_dir(root())
        .output()
        .context("`git ls-files` could not be run")?;
    anyhow::ensure!(output.status.success(), "`git ls-files` failed: {}", String::from_utf8_lossy(&output.stderr));
    let mut files: Vec<PathBuf> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(PathBuf::from)
        .filter(|file| root().join(file).exists())
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}
