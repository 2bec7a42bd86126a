//! `loadline demo`: recorded traffic against the real stack with emulated engines, from zero replicas and back.

mod outcome;
mod screen;

use crate::commands::up::own_program;
use crate::stack::{Stack, StackOptions, lower};
use anyhow::{Context, Result};
use loadline_base::{Timestamp, format_duration, num};
use loadline_load::{Endpoint, Live, Load, Options, Plan, Slo, Target, read_trace};
use loadline_manifest::config::{self, Config, Launch, ModelConfig};
use loadline_manifest::yaml::Limits;
use loadline_net::Clock;
use loadline_process::KeeperCommand;
use loadline_sim::trace;
use loadline_sim::workload::Workload;
use outcome::Outcome;
use screen::{Moment, Screen};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The configuration, in the same form as a user's own.
const CONFIG: &str = include_str!("demo.yaml");

/// What the attainment of the result is measured against.
const SLO: Slo = Slo { ttft: Duration::from_secs(2), tpot: Duration::from_millis(100) };

/// How often the view is renewed, in wall time.
const FRAME: Duration = Duration::from_millis(200);

/// Over how much workload time the arrival rate is averaged.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// Beyond the idle time: how much workload time the way back to zero may take.
const ZERO_MARGIN: Duration = Duration::from_secs(240);

/// How the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Tables.
    Table,
    /// One JSON object on standard output.
    Json,
}

/// See it work: ten minutes of traffic in about two, no GPU, from zero replicas and back.
///
/// Starts the gateway, the autoscaler and no replica, replays a workload over real HTTP with streaming against emulated engines, and ends with what
/// users would have seen, what it cost, and why every change was made. Exit code 1 if a request failed or a law was broken.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How much faster than real time everything runs.
    #[arg(long, default_value_t = 6.0, value_parser = speedup)]
    speedup: f64,
    /// How much of the workload is replayed; the built-in one repeats after ten minutes.
    #[arg(long, value_parser = loadline_base::parse_duration, value_name = "DURATION")]
    duration: Option<Duration>,
    /// Replay the requests of a trace instead (Azure CSV, Mooncake JSONL, `arrival_s,input_tokens,output_tokens`; gzip too).
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Seed of the built-in workload.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

fn speedup(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.1..=100.0).contains(&value) => Ok(value),
        _ => Err("write a number from 0.1 to 100, for example `5`".to_owned()),
    }
}

/// Runs the demo.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    loadline_load::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(play(args))
}

/// The workload and a line that says what it is.
fn workload(args: &Args) -> Result<(Plan, String)> {
    let Some(path) = &args.trace else {
        let workload = Workload::builtin()?;
        let span = args.duration.unwrap_or_else(|| workload.span());
        let text = format!(
            "built-in, {} with the figures of the Azure 2023 conversation trace (`loadline bench --help` has its source)",
            format_duration(span)
        );
        return Ok((Plan::open(workload.generate(span, args.seed)).with_seed(args.seed), text));
    };
    let limits = trace::Limits { until: args.duration.unwrap_or(Duration::MAX), ..trace::Limits::default() };
    let read = read_trace(path, limits)?;
    anyhow::ensure!(!read.requests.is_empty(), "`{}` has no request within `--duration`", path.display());
    let text = format!("{} ({}), {} requests", path.display(), read.format.name(), read.requests.len());
    Ok((Plan::open(read.requests).with_seed(args.seed), text))
}

/// The configuration, with engines that run as fast as the clock.
fn configuration(speedup: f64) -> Result<Config> {
    let loaded =
        config::read_config("demo.yaml", CONFIG, &Limits::default()).map_err(|faults| anyhow::anyhow!("{faults}"))?;
    let mut config = loaded.config;
    for model in &mut config.models {
        if let Launch::Engine(engine) = &mut model.launch {
            engine.speedup = speedup;
        }
    }
    Ok(config)
}

/// What is in force, for the top of the view.
fn header(args: &Args, model: &ModelConfig, slo: Slo, workload: &str) -> Vec<String> {
    let metrics: Vec<String> = model.metrics.iter().map(ToString::to_string).collect();
    let window = model.behavior.scale_down.as_ref().and_then(|rules| rules.stabilization_window_seconds).unwrap_or(300);
    let engine = match &model.launch {
        Launch::Engine(engine) => format!(
            "emulated {}, {} slots, start {}",
            engine.profile.as_deref().unwrap_or("engine"),
            model.slots,
            engine.startup.map_or_else(|| "as the profile says".to_owned(), format_duration)
        ),
        Launch::Command(command) => command.join(" "),
    };
    vec![
        format!("loadline demo, speed-up {}; all times are workload time", args.speedup),
        format!("workload   {workload}"),
        format!("replicas   {engine}; {} to {}", model.min_replicas, model.max_replicas),
        format!(
            "target     {}; up at once, down after a window of {window} s, zero after {} idle",
            metrics.join(", "),
            format_duration(model.idle_after)
        ),
        format!("SLO        TTFT {}, TPOT {}", format_duration(slo.ttft), format_duration(slo.tpot)),
        String::new(),
    ]
}

async fn play(args: Args) -> Result<ExitCode> {
    let (plan, description) = workload(&args)?;
    let span = plan.span().max(args.duration.unwrap_or_default());
    let config = configuration(args.speedup)?;
    let model = config.models.first().context("demo.yaml has no model")?;
    let slo = SLO;
    let clock = Clock::scaled(args.speedup);
    let stack = Stack::start(
        lower(&config, &own_program())?,
        StackOptions { clock: clock.clone(), keeper: KeeperCommand::this_binary() },
    )?;
    let target = Target::new(&format!("http://{}", stack.address()), &model.name, Endpoint::Chat)?;
    let load = Load::new(target, Options { slo, ..Options::default() }, clock.clone());
    let mut screen = Screen::new(header(&args, model, slo, &description), span);
    let started = clock.now();
    let cancel = CancellationToken::new();
    let live = load.live();
    let mut sending = tokio::task::spawn({
        let cancel = cancel.clone();
        async move { load.run(plan, cancel).await }
    });
    let mut view = View { clock: clock.clone(), started, span, live, shown: 0, rate: Rate::default() };
    let report = loop {
        tokio::select! {
            report = &mut sending => break report.context("the load client ended abnormally")?,
            _ = tokio::signal::ctrl_c() => {
                anyhow::ensure!(!cancel.is_cancelled(), "ended at once by a second Ctrl-C");
                cancel.cancel();
            }
            () = stack.ended() => anyhow::bail!("the control loop ended on its own; this is a defect of Loadline: please report it"),
            () = tokio::time::sleep(FRAME) => view.frame(&stack, &mut screen),
        }
    };
    // back to zero: the replicas end because nothing arrives, not because the demo ends
    let patience = clock.to_wall(model.idle_after.saturating_add(model.drain_timeout).saturating_add(ZERO_MARGIN));
    let deadline = tokio::time::Instant::now() + patience;
    while !cancel.is_cancelled() && stack.snapshot().live_replicas > 0 && tokio::time::Instant::now() < deadline {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => cancel.cancel(),
            () = tokio::time::sleep(FRAME) => {}
        }
        view.frame(&stack, &mut screen);
    }
    stack.wait_for(FRAME * 2, |_| false).await;
    view.frame(&stack, &mut screen);
    screen.finish();
    let outcome = Outcome::new(report, &stack.snapshot(), stack.gateway_violations(), started, clock.now());
    stack.shutdown(Duration::from_secs(1)).await;
    match args.output {
        Format::Json => crate::commands::print(&format!("{}\n", outcome.json()?))?,
        Format::Table => crate::commands::print(&format!("{}\n", outcome.table()))?,
    }
    if let Some(complaint) = outcome.complaint() {
        eprintln!("{complaint}");
    }
    Ok(outcome.exit_code())
}

/// What the view needs from frame to frame.
struct View {
    clock: Clock,
    started: Timestamp,
    span: Duration,
    live: Arc<Live>,
    /// Scale changes already shown.
    shown: u64,
    rate: Rate,
}

impl View {
    fn frame(&mut self, stack: &Stack, screen: &mut Screen) {
        let snapshot = stack.snapshot();
        let elapsed = self.clock.now().since(self.started);
        let counts = self.live.snapshot();
        // the oldest are gone where there were more than are kept
        let new = usize::try_from(snapshot.scaled_total.saturating_sub(self.shown)).unwrap_or(usize::MAX);
        for event in snapshot.scaled.iter().skip(snapshot.scaled.len().saturating_sub(new)) {
            screen.decided(self.started, event.at, event.from, event.to, &event.reason);
        }
        self.shown = snapshot.scaled_total;
        let mut moment = Moment {
            elapsed,
            duration: self.span,
            arrivals_per_second: self.rate.see(elapsed, counts.due),
            sent: counts.sent,
            answered: counts.answered,
            failed: counts.failed,
            ..Moment::default()
        };
        for model in &snapshot.models {
            if let loadline_policy::GatewayObservation::Live { held, in_flight, .. } = model.gateway {
                moment.held = moment.held.saturating_add(held);
                moment.in_flight = moment.in_flight.saturating_add(in_flight);
            }
            moment.ready = moment.ready.saturating_add(model.ready);
            moment.starting = moment.starting.saturating_add(model.starting);
            moment.draining = moment.draining.saturating_add(model.draining);
        }
        screen.show(&moment);
    }
}

/// Arrivals per second over the last [`RATE_WINDOW`].
#[derive(Default)]
struct Rate {
    seen: std::collections::VecDeque<(Duration, u64)>,
}

impl Rate {
    fn see(&mut self, at: Duration, count: u64) -> f64 {
        self.seen.push_back((at, count));
        while self.seen.len() > 2 && self.seen.front().is_some_and(|(then, _)| at.saturating_sub(*then) > RATE_WINDOW) {
            self.seen.pop_front();
        }
        match self.seen.front() {
            Some((then, before)) if at > *then => {
                num::u64_to_f64(count.saturating_sub(*before)) / at.saturating_sub(*then).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_right_and_as_fast_as_the_clock() {
        let config = configuration(7.0).expect("demo.yaml");
        let model = config.models.first().expect("one model");
        assert!(matches!(&model.launch, Launch::Engine(engine) if (engine.speedup - 7.0).abs() < 1e-9));
    }

    #[test]
    fn rates_are_over_the_window() {
        let mut rate = Rate::default();
        assert!(rate.see(Duration::ZERO, 0).abs() < 1e-9);
        assert!((rate.see(Duration::from_secs(5), 10) - 2.0).abs() < 1e-9);
        assert!((rate.see(Duration::from_secs(20), 10)).abs() < 1e-9);
    }
}
