//! Vectors of one metric to one proposal.

use super::input::{NOW, answer, contains, field, int, int32, metric, optional, pods, same, seconds};
use anyhow::{Context, Result, anyhow, bail};
use loadline_policy::PoolObservation;
use loadline_policy::hpa::{Controller, HpaObservation, HpaRule, Shown, propose_metric};
use serde_json::Value;

/// Runs one `replica_calculation`.
pub(super) fn run(input: &Value, expected: &Value) -> Result<()> {
    let tolerance = field(input, "tolerance")?;
    let edge = |name: &str| field(tolerance, name)?.as_f64().with_context(|| format!("`{name}` is not a number"));
    let (down, up) = (edge("down")?, edge("up")?);
    let metric = metric(field(input, "metric")?)?;
    let current = u32::try_from(int(input, "current_replicas")?)?;
    let mut rule = HpaRule {
        controller: Controller {
            tolerance: down,
            cpu_initialization_period: seconds(input, "cpu_initialization_period_s")?,
            initial_readiness_delay: seconds(input, "initial_readiness_delay_s")?,
            ..Controller::default()
        },
        ..HpaRule::default()
    };
    let mut behavior = loadline_policy::hpa::Behavior::api_default();
    behavior.scale_up.tolerance = Some(up);
    behavior.scale_down.tolerance = Some(down);
    rule.behavior = Some(behavior);
    let answers = vec![answer(&metric.source, optional(input, "metrics"))?];
    let target = metric.target.kind;
    rule.metrics.push(metric);
    let seen = PoolObservation {
        spec_replicas: current,
        status_replicas: current,
        hpa: Some(HpaObservation {
            selector: "a=b".to_owned(),
            pods: pods(input)?,
            answers,
            ..HpaObservation::default()
        }),
        ..PoolObservation::default()
    };
    let proposal = match (propose_metric(&rule, 0, &seen, NOW), optional(expected, "error_contains")) {
        (Err(failure), Some(want)) => return contains(&failure.text, want),
        (Err(failure), None) => bail!("failed: {}", failure.text),
        (Ok(proposal), Some(want)) => bail!("got {} replicas, expected the error {want}", proposal.replicas),
        (Ok(proposal), None) => proposal,
    };
    same("replicas", &proposal.replicas, &int32(expected, "replicas")?)?;
    let shown = proposal.shown;
    let (percent, average, value) = match shown {
        Shown::Utilization { percent, average_milli } => (Some(i64::from(percent)), Some(average_milli), None),
        Shown::Average { milli } => (None, Some(milli), None),
        Shown::Value { milli } => (None, None, Some(milli)),
    };
    for (name, got) in [("utilization_percent", percent), ("average_m", average), ("value_m", value)] {
        if let Some(want) = optional(expected, name) {
            same(name, &got, &want.as_i64())?;
        }
    }
    if target.is_none() { Err(anyhow!("the vector has no target type")) } else { Ok(()) }
}
