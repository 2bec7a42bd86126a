//! The profiles of the chart: what helm makes of them is what Loadline reads.

use crate::{Case, world};
use anyhow::{Context, Result, ensure};
use loadline_manifest::Limits;
use loadline_manifest::autoscaler::{lower, read_autoscalers};
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const CASES: [Case; 1] = [("profiles::each_has_the_sizes_it_promises", sizes)];

/// An autoscaler of which only the target is written.
const BARE: &str = r#"autoscalers=[{"name": "chat", "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}}}]"#;
/// The same where zero is allowed.
const ZERO: &str = r#"autoscalers=[{"name": "chat", "spec": {"minReplicas": 0, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}}}]"#;

struct Profile {
    name: &'static str,
    autoscaler: &'static str,
    replicas: (u32, u32),
    zero_after: Option<Duration>,
    down_window: u64,
}

const fn minutes(count: u64) -> Option<Duration> {
    Some(Duration::from_secs(60 * count))
}

const PROFILES: [Profile; 4] = [
    Profile { name: "production", autoscaler: BARE, replicas: (2, 8), zero_after: None, down_window: 600 },
    Profile { name: "staging", autoscaler: BARE, replicas: (1, 3), zero_after: None, down_window: 300 },
    Profile { name: "staging", autoscaler: ZERO, replicas: (0, 3), zero_after: minutes(5), down_window: 300 },
    Profile { name: "development", autoscaler: BARE, replicas: (0, 2), zero_after: minutes(2), down_window: 120 },
];

fn sizes() -> Result<()> {
    let chart: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "..", "charts", "loadline"].iter().collect();
    let chart = chart.display().to_string();
    for profile in PROFILES {
        let values = format!("{chart}/values-{}.yaml", profile.name);
        let words = ["template", "loadline", &chart, "--values", &values, "--set-json", profile.autoscaler];
        let rendered = world::shared()?.plane.helm(&words)?;
        let found = read_autoscalers(profile.name, &rendered, &Limits::default())?;
        let [one] = found.as_slice() else { anyhow::bail!("{}: {} autoscalers", profile.name, found.len()) };
        let lowered = lower("default", "chat", &one.spec, Duration::from_secs(1))
            .map_err(|problems| anyhow::anyhow!("{}: {problems:?}", profile.name))?;
        let pool = lowered.first().and_then(|pool| pool.policy.pools.values().next()).context("no pool")?;
        let replicas = (pool.min_replicas, pool.max_replicas);
        ensure!(replicas == profile.replicas, "{}: {replicas:?}", profile.name);
        let zero_after = pool.idle.as_ref().map(|idle| idle.after).filter(|_| pool.min_replicas == 0);
        ensure!(zero_after == profile.zero_after, "{}: zero after {zero_after:?}", profile.name);
        let spec = serde_json::to_value(&one.spec)?;
        let window = spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"].as_u64();
        ensure!(window == Some(profile.down_window), "{}: a window of {window:?}", profile.name);
    }
    Ok(())
}
