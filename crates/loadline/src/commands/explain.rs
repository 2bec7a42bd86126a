//! `loadline explain`: one decision from one manifest or configuration and one observed file, step by step.

use anyhow::{Context, Result, bail};
use loadline_base::format_duration;
use loadline_manifest::config::{Config, is_config, read_config};
use loadline_manifest::hpa::{HpaDocument, POOL, lower, read_hpas};
use loadline_manifest::observed::{self, Observed, read_observed};
use loadline_manifest::{Faults, Limits};
use loadline_policy::hpa::{Controller, HpaRule, Shown};
use loadline_policy::{
    Gate, GatewayObservation, Memory, Observation, Policy, PoolDecision, PoolPolicy, ReplicaState, Rule, Step, decide,
};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The manifest with a HorizontalPodAutoscaler (autoscaling/v2 or v1), or a `loadline.yaml`.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// What was seen; docs/reference/observed.md describes it and examples/explain has examples.
    #[arg(long, value_name = "FILE")]
    observed: PathBuf,
    /// Which HorizontalPodAutoscaler, where the manifest has several.
    #[arg(long)]
    name: Option<String>,
    /// Which model, where a `loadline.yaml` has several.
    #[arg(long)]
    model: Option<String>,
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
    let text = super::read_bounded(&args.file, limits.bytes)?;
    let observed_file = args.observed.display().to_string();
    let seen = || -> Result<Observed> {
        Ok(read_observed(&observed_file, &super::read_bounded(&args.observed, limits.bytes)?, &limits)?)
    };
    let report = if is_config(&file, &text, &limits) {
        if args.name.is_some() {
            bail!("`--name` chooses a HorizontalPodAutoscaler and `{file}` is a configuration; choose with `--model`");
        }
        of_model(&read_config(&file, &text, &limits)?.config, args.model.as_deref(), &file, &seen()?)?
    } else {
        if args.model.is_some() {
            bail!("`--model` chooses a model of a `loadline.yaml` and `{file}` is a manifest; choose with `--name`");
        }
        of_hpa(&pick(read_hpas(&file, &text, &limits)?, args.name.as_deref(), &file)?, &file, &seen()?)?
    };
    match args.output {
        Output::Text => super::print(&report.text())?,
        Output::Json => super::print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Decides for a HorizontalPodAutoscaler.
fn of_hpa(document: &HpaDocument, file: &str, observed: &Observed) -> Result<Report> {
    if observed.replica_states.is_some() || observed.gateway.is_some() {
        bail!(
            "`replicaStates` and `gateway` are for a `loadline.yaml`; a HorizontalPodAutoscaler sees `pods` and `metrics`"
        );
    }
    let controller = Controller::default();
    document.check(&controller.gates)?;
    let policy = lower(&document.hpa, &controller).map_err(|errors| {
        let faults: Vec<_> = errors.iter().map(|error| document.fault(error)).collect();
        Faults::check(faults).err().map_or_else(|| anyhow::anyhow!("{file} is not valid"), anyhow::Error::new)
    })?;
    let meta = &document.hpa.metadata;
    let namespace = if meta.namespace.is_empty() { String::new() } else { format!("{}/", meta.namespace) };
    let inputs = observed::lower(observed, &policy);
    Report::new(format!("{namespace}{}", meta.name), &policy, observed, inputs)
}

/// Decides for a model of a configuration.
fn of_model(config: &Config, name: Option<&str>, file: &str, observed: &Observed) -> Result<Report> {
    if observed.pods.is_some() {
        bail!("`pods` is for a HorizontalPodAutoscaler; a `loadline.yaml` sees `replicaStates` and `gateway`");
    }
    let names: Vec<&str> = config.models.iter().map(|model| model.name.as_str()).collect();
    let model = match (name, config.models.as_slice()) {
        (None, [only]) => only,
        (None, _) => bail!("{file} has several models; choose with `--model` one of {}", names.join(", ")),
        (Some(name), models) => models
            .iter()
            .find(|model| model.name == name)
            .with_context(|| format!("{file} has no model `{name}`; it has {}", names.join(", ")))?,
    };
    let policy = model.policy(config);
    let inputs = observed::lower_model(observed, model, &policy);
    Report::new(model.name.clone(), &policy, observed, inputs)
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
    fn new(name: String, policy: &Policy, observed: &Observed, (seen, memory): (Observation, Memory)) -> Result<Self> {
        let (decision, _) = decide(policy, &seen, memory);
        let pool = policy.pools.get(POOL).context("the policy has no pool")?;
        let decided = decision.pools.get(POOL).context("the decision has no pool")?;
        let tolerance = tolerance(pool);
        Ok(Self {
            name,
            current: decided.from,
            desired: decided.desired,
            min: decided.min,
            max: decided.max,
            seen: if policy.gate == Gate::On { seen_here(&seen) } else { seen_line(observed) },
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
                |value| format!("{value:.2} with one less"),
            );
            let _ = writeln!(
                out,
                "  {}: each of {} carries {:.2} for a target of {:.2}; {less}, {:.2} with one more",
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

/// What was seen of a model on this machine.
fn seen_here(seen: &Observation) -> String {
    let Some(pool) = seen.pools.get(POOL) else { return String::new() };
    let in_state = |state| pool.replicas.iter().filter(|replica| replica.state == state).count();
    let states: Vec<String> = [
        ("ready", ReplicaState::Ready),
        ("starting", ReplicaState::Starting),
        ("draining", ReplicaState::Draining),
        ("failed", ReplicaState::Failed),
    ]
    .into_iter()
    .map(|(name, state)| (name, in_state(state)))
    .filter(|(_, count)| *count > 0)
    .map(|(name, count)| format!("{count} {name}"))
    .collect();
    let silent = pool
        .replicas
        .iter()
        .filter(|replica| matches!(replica.state, ReplicaState::Ready | ReplicaState::Draining))
        .filter(|replica| replica.running.is_none())
        .count();
    let silent = if silent > 0 { format!(" ({silent} of them silent)") } else { String::new() };
    let gateway = match pool.gateway {
        GatewayObservation::Live { held, in_flight, peak, idle_since, .. } => {
            let idle = idle_since
                .map(|since| format!(", idle for {}", format_duration(seen.now.since(since))))
                .unwrap_or_default();
            format!("{held} held, {in_flight} in flight, {peak} at the peak{idle}")
        }
        GatewayObservation::Missing => "silent".to_owned(),
        GatewayObservation::Absent => "none".to_owned(),
    };
    let replicas = if states.is_empty() { "none exists".to_owned() } else { states.join(", ") };
    format!("{} asked for; {replicas}{silent}; gateway: {gateway}", counted(pool.spec_replicas))
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
        // a signal's average is over the replicas asked for
        let is_signal = loadline_policy::signal::lookup(metric).is_some();
        let answered = observed.metrics.iter().find(|answer| metric.ends_with(&format!(" {}", answer.name)));
        let sources = answered
            .filter(|_| !is_signal)
            .and_then(|answer| answer.pods.as_ref())
            .map_or(if is_signal { f64::from(decided.from) } else { existing }, |pods| {
                f64::from(u32::try_from(pods.len()).unwrap_or(u32::MAX))
            });
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
