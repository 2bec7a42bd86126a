use super::super::pages::{Picture, exposition};
use std::collections::BTreeSet;
use std::path::PathBuf;

fn read(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "..", name].iter().collect();
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Words that begin with `loadline_`.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.split(|letter| !is_part(letter)).filter(|word| word.starts_with("loadline_")).map(str::to_owned).collect()
}

#[test]
fn every_alert_is_explained_and_stands_on_a_metric_that_exists() {
    let (rules, page) = (read("charts/loadline/templates/monitoring.yaml"), read("docs/alerts.md"));
    let exported = names(&exposition(&Picture::default()));
    let expressions: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    let used = names(&expressions.join("\n"));
    assert!(used.len() > 4, "{used:?}");
    assert_eq!(used.difference(&exported).collect::<Vec<_>>(), Vec::<&String>::new(), "not on /metrics");
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert_eq!(alerts.len(), expressions.len());
    for alert in alerts {
        assert!(page.contains(&format!("`{alert}`")), "docs/alerts.md does not explain {alert}");
    }
    for metric in &exported {
        assert!(page.contains(&format!("`{metric}`")), "docs/alerts.md does not list {metric}");
    }
}
