//! `loadline explain`: one decision from one manifest and one observed file, step by step.

use anyhow::{Context, Result, bail};
use loadline_base::format_duration;
use loadline_manifest::hpa::{HpaDocument, POOL, lower, read_hpas};
use loadline_manifest::observed::{self, Observed, read_observed};
use loadline_manifest::{Faults, Limits};
use loadline_policy::hpa::{Controller, HpaRule, Shown};
use loadline_policy::{Policy, PoolDecision, PoolPolicy, Rule, Step, decide};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The manifest with a HorizontalPodAutoscaler (autoscaling/v2 or v1).
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// What was seen; docs/reference/observed.md describes it and examples/explain has examples.
    #[arg(long, value_name = "FILE")]
    observed: PathBuf,
    /// Which HorizontalPodAutoscaler, where the manifest has several.
    #[arg(long)]
    name: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// Sentences.
    Text,
    /// One JSON object.
    Json,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let limits = Limits::default();
    let file = args.file.display().to_string();
    let document = pick(read_hpas(&file, &read_bounded(&args.file, &limits)?, &limits)?, args.name.as_deref(), &file)?;
    let controller = Controller::default();
    document.check(&controller.gates)?;
    let policy = lower(&document.hpa, &controller).map_err(|errors| {
        let faults: Vec<_> = errors.iter().map(|error| document.fault(error)).collect();
        Faults::check(faults).err().map_or_else(|| anyhow::anyhow!("{file} is not valid"), anyhow::Error::new)
    })?;
    let observed_file = args.observed.display().to_string();
    let seen = read_observed(&observed_file, &read_bounded(&args.observed, &limits)?, &limits)?;
    let report = Report::new(&document, &policy, &seen)?;
    match args.output {
        Output::Text => print!("{}", report.text()),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn read_bounded(path: &Path, limits: &Limits) -> Result<String> {
    let name = path.display();
    let file = std::fs::File::open(path).with_context(|| format!("`{name}` cannot be opened; check the path"))?;
    let most = u64::try_from(limits.bytes).unwrap_or(u64::MAX).saturating_add(1);
    let mut text = String::new();
    file.take(most).read_to_string(&mut text).with_context(|| format!("`{name}` cannot be read as UTF-8 text"))?;
    Ok(text)
}

fn pick(documents: Vec<HpaDocument>, name: Option<&str>, file: &str) -> Result<HpaDocument> {
    let names: Vec<String> = documents.iter().map(|document| document.hpa.metadata.name.clone()).collect();
    let mut fitting =
        documents.into_iter().filter(|document| name.is_none_or(|name| document.hpa.metadata.name == name));
    match (fitting.next(), fitting.next()) {
        (Some(document), None) => Ok(document),
        (Some(_), Some(_)) => {
            bail!("{file} has several HorizontalPodAutoscalers; choose with `--name` one of {}", names.join(", "))
        }
        (None, _) if names.is_empty() => bail!("{file} has no HorizontalPodAutoscaler; give the manifest that has it"),
        (None, _) => bail!("{file} has no HorizontalPodAutoscaler of that name; it has {}", names.join(", ")),
    }
}

/// A metric's value against its target.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ratio {
    metric: String,
    ratio: f64,
    within_tolerance: bool,
    proposes: i32,
}

/// What each replica would carry, per metric that is an average.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Carried {
    metric: String,
    target: f64,
    at_desired: f64,
    with_one_less: Option<f64>,
    with_one_more: f64,
}

#[derive(Debug, Serialize)]
struct StepLine {
    #[serde(flatten)]
    step: Step,
    text: String,
}

#[derive(Debug, Serialize)]
struct ConditionLine {
    #[serde(rename = "type")]
    kind: String,
    status: bool,
    reason: String,
    message: String,
}

#[derive(Debug, Serialize)]
struct Tolerance {
    down: f64,
    up: f64,
}

/// Everything that is printed; the JSON form is this object.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    name: String,
    current: u32,
    desired: u32,
    min: u32,
    max: u32,
    tolerance: Tolerance,
    seen: String,
    reason: String,
    metrics: Vec<Ratio>,
    steps: Vec<StepLine>,
    carried: Vec<Carried>,
    conditions: Vec<ConditionLine>,
}

impl Report {
    fn new(document: &HpaDocument, policy: &Policy, observed: &Observed) -> Result<Self> {
        let (seen, memory) = observed::lower(observed, policy);
        let (decision, _) = decide(policy, &seen, memory);
        let pool = policy.pools.get(POOL).context("the policy has no pool")?;
        let decided = decision.pools.get(POOL).context("the decision has no pool")?;
        let meta = &document.hpa.metadata;
        let namespace = if meta.namespace.is_empty() { String::new() } else { format!("{}/", meta.namespace) };
        let tolerance = tolerance(pool);
        Ok(Self {
            name: format!("{namespace}{}", meta.name),
            current: decided.from,
            desired: decided.desired,
            min: decided.min,
            max: decided.max,
            seen: seen_line(observed),
            reason: decided.binding().map(ToString::to_string).unwrap_or_default(),
            metrics: decided.steps.iter().filter_map(|step| ratio(step, &tolerance)).collect(),
            carried: carried(decided, observed),
            steps: decided.steps.iter().map(|step| StepLine { step: step.clone(), text: step.to_string() }).collect(),
            conditions: decided
                .conditions
                .iter()
                .map(|one| ConditionLine {
                    kind: one.kind.to_string(),
                    status: one.status,
                    reason: one.reason.to_string(),
                    message: one.message.clone(),
                })
                .collect(),
            tolerance,
        })
    }

    fn text(&self) -> String {
        let mut out = String::new();
        let change = if self.current == self.desired {
            format!("{} kept", counted(self.desired))
        } else {
            format!("from {} to {}", counted(self.current), self.desired)
        };
        let _ = writeln!(out, "{}: {change}\n", self.name);
        let _ = writeln!(out, "seen:        {}", self.seen);
        let (low, high) = (1.0 - self.tolerance.down, 1.0 + self.tolerance.up);
        let _ = writeln!(
            out,
            "policy:      {} to {} replicas, ratios from {low:.2} to {high:.2} change nothing",
            self.min, self.max
        );
        for metric in &self.metrics {
            let verdict = if metric.within_tolerance { "within" } else { "outside" };
            let _ = writeln!(
                out,
                "ratio:       {} is at {:.3} of its target, {verdict} tolerance, and asks for {}",
                metric.metric, metric.ratio, metric.proposes
            );
        }
        if self.metrics.len() > 1 {
            let most = self.metrics.iter().map(|metric| metric.proposes).max().unwrap_or_default();
            let _ = writeln!(out, "combination: the largest holds: {most}");
        }
        out.push('\n');
        for (index, step) in self.steps.iter().enumerate() {
            let _ = writeln!(out, "{:>2}. {}", index + 1, step.text);
        }
        if !self.carried.is_empty() {
            out.push_str("\none replica more or less:\n");
        }
        for one in &self.carried {
            let less = one.with_one_less.map_or_else(
                || "nobody would be left to carry it".to_owned(),
                |value| format!("{value:.3} with one less"),
            );
            let _ = writeln!(
                out,
                "  {}: each of {} carries {:.3} for a target of {:.3}; {less}, {:.3} with one more",
                one.metric, self.desired, one.at_desired, one.target, one.with_one_more
            );
        }
        out.push_str("\nconditions:\n");
        for one in &self.conditions {
            let status = if one.status { "True" } else { "False" };
            let _ = writeln!(out, "  {}={status} {}: {}", one.kind, one.reason, one.message);
        }
        out
    }
}

fn seen_line(observed: &Observed) -> String {
    let status = observed.status_replicas.unwrap_or(observed.replicas);
    let pods = match &observed.pods {
        None => "pods not listed, taken as ready".to_owned(),
        Some(pods) => {
            let ready = pods
                .iter()
                .filter(|pod| pod.ready.unwrap_or(pod.phase == loadline_policy::hpa::Phase::Running))
                .count();
            format!("{} pods, {ready} of them ready", pods.len())
        }
    };
    let past = match &observed.history.recommendations {
        None => "no history (the controller has just started)".to_owned(),
        Some(log) => {
            let oldest = log.iter().map(|past| past.age.0).max().unwrap_or_default();
            format!("{} earlier recommendations over {}", log.len(), format_duration(oldest))
        }
    };
    format!("{} asked for, {status} in existence; {pods}; {past}", counted(observed.replicas))
}

fn counted(replicas: u32) -> String {
    if replicas == 1 { "1 replica".to_owned() } else { format!("{replicas} replicas") }
}

fn tolerance(pool: &PoolPolicy) -> Tolerance {
    let Rule::Hpa(HpaRule { behavior, controller, .. }) = &pool.rule;
    let own = behavior.as_ref().filter(|_| controller.gates.configurable_tolerance);
    Tolerance {
        down: own.and_then(|behavior| behavior.scale_down.tolerance).unwrap_or(controller.tolerance),
        up: own.and_then(|behavior| behavior.scale_up.tolerance).unwrap_or(controller.tolerance),
    }
}

fn shown_units(shown: Shown) -> i64 {
    match shown {
        Shown::Utilization { percent, .. } => i64::from(percent),
        Shown::Average { milli } | Shown::Value { milli } => milli,
    }
}

fn ratio(step: &Step, tolerance: &Tolerance) -> Option<Ratio> {
    let Step::Proposal { metric, shown, target: Some(target), replicas, .. } = step else { return None };
    let float = loadline_base::num::i64_to_f64;
    let ratio = float(shown_units(*shown)) / float(*target);
    let within_tolerance = ratio >= 1.0 - tolerance.down && ratio <= 1.0 + tolerance.up;
    Some(Ratio { metric: metric.clone(), ratio, within_tolerance, proposes: *replicas })
}

fn carried(decided: &PoolDecision, observed: &Observed) -> Vec<Carried> {
    let float = loadline_base::num::i64_to_f64;
    let existing = f64::from(observed.status_replicas.unwrap_or(observed.replicas));
    let desired = f64::from(decided.desired);
    let each = |step: &Step| {
        let Step::Proposal { metric, shown, target: Some(target), .. } = step else { return None };
        let unit = match shown {
            Shown::Utilization { .. } => 1.0,
            Shown::Average { .. } => 1_000.0,
            Shown::Value { .. } => return None,
        };
        // pods without a value add nothing to what is known to be carried
        let answered = observed.metrics.iter().find(|answer| metric.ends_with(&format!(" {}", answer.name)));
        let sources = answered
            .and_then(|answer| answer.pods.as_ref())
            .map_or(existing, |pods| f64::from(u32::try_from(pods.len()).unwrap_or(u32::MAX)));
        let total = float(shown_units(*shown)) / unit * sources;
        (desired >= 1.0 && existing >= 1.0).then(|| Carried {
            metric: metric.clone(),
            target: float(*target) / unit,
            at_desired: total / desired,
            with_one_less: (desired > 1.0).then(|| total / (desired - 1.0)),
            with_one_more: total / (desired + 1.0),
        })
    };
    decided.steps.iter().filter_map(each).collect()
}
