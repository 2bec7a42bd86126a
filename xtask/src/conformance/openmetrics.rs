//! Cases of the OpenMetrics repository: a folder each, with `metrics` (the page) and `test.json` (`shouldParse`).

use anyhow::{Context, Result, ensure};
use loadline_signals::openmetrics;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    should_parse: bool,
}

/// Runs every case below `folder`; exit code 1 if one fails.
pub(crate) fn run(folder: &Path) -> Result<ExitCode> {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(folder)
        .with_context(|| format!("cannot list `{}`", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path().join("test.json")))
        .collect::<std::io::Result<_>>()?;
    cases.retain(|path| path.is_file());
    cases.sort();
    ensure!(!cases.is_empty(), "`{}` has no case: expected folders with `metrics` and `test.json`", folder.display());
    let mut failed = 0;
    for path in &cases {
        if let Some(complaint) = judge(path)? {
            failed += 1;
            println!("{}: {complaint}", path.parent().and_then(Path::file_name).unwrap_or_default().display());
        }
    }
    println!("{} passed, {failed} failed", cases.len() - failed);
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// What is wrong with our verdict on a case.
fn judge(path: &Path) -> Result<Option<String>> {
    let text = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let case: Case = serde_json::from_slice(&text).with_context(|| format!("`{}` is no test", path.display()))?;
    let page = path.with_file_name("metrics");
    let page = std::fs::read(&page).with_context(|| format!("cannot read `{}`", page.display()))?;
    Ok(match (openmetrics::validate(&page), case.should_parse) {
        (Err(error), true) => Some(format!("must parse, but: {error}")),
        (Ok(()), false) => Some("must be refused, but was accepted".to_owned()),
        _ => None,
    })
}
