//! Vectors of whole passes.

use super::input::{
    NOW, answer, behavior, events, field, int, int32, list, list_or_empty, metric, optional, pods, recommendations,
    same, seconds, text,
};
use anyhow::{Context, Result};
use loadline_base::PoolId;
use loadline_policy::hpa::{
    Branch, ConditionKind, Conditions, Controller, Gates, HpaMemory, HpaObservation, HpaRule, MetricSource, OtherHpa,
    Outcome, Reason, ScaleFailure, Shown, reconcile, settle,
};
use loadline_policy::{Gate, Memory, Observation, Policy, PoolMemory, PoolObservation, PoolPolicy, Rule, decide};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// How often a write is tried against conflicts (`reference/hpa.md` 9).
const WRITE_TRIES: i64 = 5;

struct Case {
    rule: HpaRule,
    min: i32,
    max: i32,
    seen: PoolObservation,
    memory: HpaMemory,
    write: Result<(), String>,
    status_desired: i32,
}

/// Runs one `reconcile`.
pub(super) fn run(input: &Value, expected: &Value) -> Result<()> {
    let case = case(input)?;
    let mut memory = case.memory.clone();
    let outcome = reconcile(&case.rule, (case.min, case.max), &case.seen, NOW, &mut memory);
    let writes = outcome.rescales();
    let mut updated = false;
    let mut desired = outcome.desired.unwrap_or(case.status_desired);
    if writes {
        let written = case.write.as_ref().map(|&()| ()).map_err(String::as_str);
        updated = written.is_ok();
        settle(&case.rule, case.min, (outcome.current, desired), written, NOW, &mut memory);
        if !updated {
            desired = case.status_desired;
        }
    }
    same("desired_replicas", &desired, &int32(expected, "desired_replicas")?)?;
    same("scale_updated", &updated, &field(expected, "scale_updated")?.as_bool().context("not a flag")?)?;
    conditions(&case, updated, &memory.conditions, expected)?;
    labels(&outcome, &case, updated, expected)?;
    if let Some(want) = optional(expected, "cpu_utilization_percent") {
        same("cpu_utilization_percent", &shown_cpu(&outcome, &case.rule).map(i64::from), &want.as_i64())?;
    }
    through_decide(&case, &outcome)
}

/// The same case through [`decide`] with the gate off gives the same count.
fn through_decide(case: &Case, outcome: &Outcome) -> Result<()> {
    let id = PoolId::new("pool");
    let policy = Policy {
        pools: BTreeMap::from([(
            id.clone(),
            PoolPolicy {
                min_replicas: u32::try_from(case.min)?,
                max_replicas: u32::try_from(case.max)?,
                rule: Rule::Hpa(case.rule.clone()),
                idle: None,
                fallback: None,
                gpus_per_replica: 0,
                scrape_period: loadline_policy::policy::DEFAULT_SCRAPE_PERIOD,
            },
        )]),
        gate: Gate::Off,
    };
    let seen = Observation { now: NOW, pools: BTreeMap::from([(id.clone(), case.seen.clone())]) };
    let remembered = PoolMemory { hpa: case.memory.clone(), ..PoolMemory::default() };
    let (decision, _) = decide(&policy, &seen, Memory { pools: BTreeMap::from([(id.clone(), remembered)]) });
    let decided = decision.pools.get(&id).map(|pool| i64::from(pool.desired));
    same("desired of `decide`", &decided, &Some(i64::from(outcome.desired.unwrap_or(outcome.current))))
}

fn case(input: &Value) -> Result<Case> {
    let (hpa, scale, history) = (field(input, "hpa")?, field(input, "scale")?, field(input, "history")?);
    let metrics = list(hpa, "metrics")?.iter().map(metric).collect::<Result<Vec<_>>>()?;
    let given = field(input, "metrics")?;
    let answers = metrics
        .iter()
        .map(|metric| {
            let name = match metric.source {
                MetricSource::Resource { .. } | MetricSource::ContainerResource { .. } => "resource",
                MetricSource::Pods { .. } => "pods",
                MetricSource::Object { .. } => "object",
                MetricSource::External { .. } => "external",
                MetricSource::Signal { .. } | MetricSource::Unknown { .. } => "none",
            };
            answer(&metric.source, optional(given, name))
        })
        .collect::<Result<_>>()?;
    let rule = HpaRule { metrics, behavior: behavior(optional(hpa, "behavior"))?, controller: controller(input)? };
    let count = |name: &str| anyhow::Ok(u32::try_from(int(scale, name)?)?);
    let readable = optional(scale, "get_error").is_none();
    let seen = PoolObservation {
        spec_replicas: if readable { count("spec_replicas")? } else { count("spec_replicas").unwrap_or(0) },
        status_replicas: if readable { count("status_replicas")? } else { count("status_replicas").unwrap_or(0) },
        hpa: Some(HpaObservation {
            scale_failure: scale_failure(hpa, scale),
            selector: optional(scale, "selector").and_then(Value::as_str).unwrap_or_default().to_owned(),
            pods: pods(input)?,
            answers,
            others: others(input)?,
        }),
        ..PoolObservation::default()
    };
    let conflicts = optional(scale, "update_conflicts").and_then(Value::as_i64).unwrap_or(0);
    let write = match optional(scale, "update_error") {
        Some(error) => Err(error.as_str().unwrap_or_default().to_owned()),
        None if conflicts >= WRITE_TRIES => Err("the object has been modified".to_owned()),
        None => Ok(()),
    };
    Ok(Case {
        rule,
        min: optional(hpa, "min_replicas").map_or(Ok(1), |_| int32(hpa, "min_replicas"))?,
        max: int32(hpa, "max_replicas")?,
        seen,
        memory: HpaMemory {
            recommendations: match optional(history, "recommendations") {
                Some(_) => Some(recommendations(list(history, "recommendations")?)?),
                None => None,
            },
            up_events: events(history, "scale_up_events")?,
            down_events: events(history, "scale_down_events")?,
            conditions: conditions_before(hpa)?,
        },
        write,
        status_desired: int32(hpa, "status_desired_replicas")?,
    })
}

/// A reference that cannot be parsed is a fault of the specification; a scale that cannot be read is not.
fn scale_failure(hpa: &Value, scale: &Value) -> Option<ScaleFailure> {
    let version =
        optional(hpa, "scale_target").and_then(|target| optional(target, "apiVersion")).and_then(Value::as_str);
    if version.is_some_and(|version| version.matches('/').count() > 1) {
        return Some(ScaleFailure { error: "invalid API version in scale target reference".to_owned(), spec: true });
    }
    let error = optional(scale, "get_error")?.as_str().unwrap_or_default().to_owned();
    Some(ScaleFailure { error, spec: false })
}

fn others(input: &Value) -> Result<Vec<OtherHpa>> {
    list_or_empty(input, "other_hpas")?
        .iter()
        .map(|other| {
            let selector = field(other, "selector")?.as_object().context("`selector` is not a map")?;
            let labels =
                selector.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()));
            Ok(OtherHpa { name: text(other, "name")?, selector: labels.collect() })
        })
        .collect()
}

fn controller(input: &Value) -> Result<Controller> {
    let (given, gates) = (field(input, "controller")?, field(input, "gates")?);
    let gate = |name: &str, default: bool| gates.get(name).and_then(Value::as_bool).unwrap_or(default);
    Ok(Controller {
        tolerance: field(given, "tolerance")?.as_f64().context("`tolerance` is not a number")?,
        downscale_stabilization: seconds(given, "downscale_stabilization_s")?,
        cpu_initialization_period: seconds(given, "cpu_initialization_period_s")?,
        initial_readiness_delay: seconds(given, "initial_readiness_delay_s")?,
        legacy_scale_up_factor: int32(given, "legacy_scale_up_factor")?,
        legacy_scale_up_minimum: int32(given, "legacy_scale_up_minimum")?,
        gates: Gates {
            scale_to_zero: gate("HPAScaleToZero", false),
            configurable_tolerance: gate("HPAConfigurableTolerance", true),
            pod_level_resources: gate("PodLevelResources", true),
        },
    })
}

fn conditions_before(hpa: &Value) -> Result<Conditions> {
    let mut conditions = Conditions::default();
    for condition in list_or_empty(hpa, "conditions")? {
        let kind: ConditionKind = serde_json::from_value(field(condition, "type")?.clone())?;
        let reason: Reason = serde_json::from_value(field(condition, "reason")?.clone())?;
        conditions.set(kind, text(condition, "status")? == "True", reason, "");
    }
    Ok(conditions)
}

fn conditions(case: &Case, updated: bool, got: &Conditions, expected: &Value) -> Result<()> {
    let got: BTreeSet<(String, String, String)> = got
        .iter()
        .map(|c| {
            let status = if c.status { "True" } else { "False" };
            (c.kind.to_string(), status.to_owned(), c.reason.to_string())
        })
        .collect();
    let mut want = list(expected, "conditions")?
        .iter()
        .map(|c| Ok((text(c, "type")?, text(c, "status")?, text(c, "reason")?)))
        .collect::<Result<BTreeSet<_>>>()?;
    // the README of the vectors: with the gate on, every other rescale says so
    if case.rule.controller.gates.scale_to_zero && updated && !want.iter().any(|(kind, ..)| kind == "ScaledToZero") {
        want.insert(("ScaledToZero".to_owned(), "False".to_owned(), "NotScaledToZero".to_owned()));
    }
    same("conditions", &got, &want)
}

fn label(from: i32, to: i32) -> &'static str {
    match to.cmp(&from) {
        std::cmp::Ordering::Greater => "scale_up",
        std::cmp::Ordering::Less => "scale_down",
        std::cmp::Ordering::Equal => "none",
    }
}

fn labels(outcome: &Outcome, case: &Case, updated: bool, expected: &Value) -> Result<()> {
    let action = if updated { label(outcome.current, outcome.desired.unwrap_or(outcome.current)) } else { "none" };
    let error = match &outcome.error {
        Some(failure) if failure.spec => "spec",
        Some(_) => "internal",
        None if outcome.rescales() && !updated => "internal",
        None => "none",
    };
    for (name, got) in [("action", action), ("error", error)] {
        if let Some(want) = optional(expected, name) {
            same(name, &Some(got), &want.as_str())?;
        }
    }
    let read = |branch: Branch| matches!(branch, Branch::Computed | Branch::Failed);
    let mut actions = BTreeMap::new();
    let mut errors = BTreeMap::new();
    for (metric, result) in case.rule.metrics.iter().zip(&outcome.metrics).filter(|_| read(outcome.branch)) {
        let kind = metric.source.kind().to_owned();
        let (action, error) = match result {
            Ok(proposal) => (label(outcome.current, proposal.replicas), "none"),
            Err(failure) => ("none", if failure.spec { "spec" } else { "internal" }),
        };
        actions.insert(kind.clone(), action.to_owned());
        errors.insert(kind, error.to_owned());
    }
    for (name, got) in [("metric_actions", actions), ("metric_errors", errors)] {
        if let Some(want) = optional(expected, name) {
            same(name, &got, &serde_json::from_value::<BTreeMap<String, String>>(want.clone())?)?;
        }
    }
    Ok(())
}

fn shown_cpu(outcome: &Outcome, rule: &HpaRule) -> Option<i32> {
    rule.metrics.iter().zip(&outcome.metrics).find_map(|(metric, result)| match (&metric.source, result) {
        (MetricSource::Resource { .. }, Ok(proposal)) => match proposal.shown {
            Shown::Utilization { percent, .. } => Some(percent),
            _ => None,
        },
        _ => None,
    })
}
