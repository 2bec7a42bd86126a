//! Texts as people see them, compared with files of `golden/`; `LOADLINE_GOLDEN=write` writes the files instead.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;

const WRITE: &str = "LOADLINE_GOLDEN";

/// Compares a text with `golden/NAME.txt`.
pub(crate) fn check(name: &str, found: &str) -> Result<()> {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "tests", "kube", "golden", &format!("{name}.txt")].iter().collect();
    let found = format!("{}\n", found.trim_end());
    if std::env::var(WRITE).is_ok_and(|value| value == "write") {
        return std::fs::write(&path, found).with_context(|| path.display().to_string());
    }
    let expected = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    if expected != found {
        bail!("{} differs; it has\n{expected}\nfound was\n{found}", path.display());
    }
    Ok(())
}

/// What kubectl prints, without what differs from run to run: widths of columns, ages, measured values (`N / 5`, `N/5`), sizes in
/// `New size: N`; lines that then repeat stand once. The condition `ScaledToZero` is left out: it came with 1.36.
pub(crate) fn normal(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with("ScaledToZero ")) {
        let line =
            if line.starts_with("CreationTimestamp:") { "CreationTimestamp: TIME".to_owned() } else { words(line) };
        if lines.last() != Some(&line) && !line.trim().is_empty() {
            lines.push(line);
        }
    }
    lines.join("\n")
}

fn words(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut out: Vec<String> = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let follows = |text: &[&str]| words.get(at.saturating_sub(text.len())..at) == Some(text);
        let is_measured = is_quantity(word) && words.get(at + 1) == Some(&"/");
        // `(x3 over 12s)`
        if word.starts_with("(x") && words.get(at + 1) == Some(&"over") || *word == "over" || follows(&["over"]) {
            continue;
        }
        out.push(match word.split_once('/') {
            _ if is_measured => "N".to_owned(),
            _ if follows(&["New", "size:"]) => "N;".to_owned(),
            Some((value, target)) if is_quantity(value) && is_quantity(target) => format!("N/{target}"),
            _ if is_age(word) && !follows(&["/"]) => "AGE".to_owned(),
            _ => (*word).to_owned(),
        });
    }
    let indent = line.len() - line.trim_start().len();
    format!("{}{}", " ".repeat(indent), out.join(" "))
}

fn is_quantity(word: &str) -> bool {
    let number = word.trim_end_matches(['m', 'k']);
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// `12s`, `3m4s`, `<invalid>` (a clock that went on between two calls).
fn is_age(word: &str) -> bool {
    let is_span = word.starts_with(|first: char| first.is_ascii_digit())
        && word.ends_with(['s', 'm', 'h', 'd'])
        && word.bytes().all(|byte| byte.is_ascii_digit() || b"smhd".contains(&byte));
    is_span || word == "<invalid>"
}
