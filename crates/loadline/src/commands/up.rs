//! `loadline up`: gateway, autoscaler and replicas on this machine.

use crate::stack::{Lowered, Stack, StackOptions, lower};
use anyhow::{Context, Result, bail};
use loadline_manifest::config::{self, Config, Launch};
use loadline_manifest::yaml::Limits;
use loadline_net::Clock;
use loadline_process::KeeperCommand;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How often the file is looked at for changes.
const RELOAD_PERIOD: Duration = Duration::from_secs(1);

/// Run models on this machine: a gateway, an autoscaler, and replicas from zero to N.
///
/// Replicas end with Loadline, however it ends. Changes of the file take effect while running.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The configuration.
    #[arg(short, long, default_value = "loadline.yaml", value_name = "FILE")]
    file: PathBuf,
    /// Print the configuration with every default in force, and end.
    #[arg(long)]
    print_config: bool,
    /// How long held and running requests may still take after SIGTERM or Ctrl-C.
    #[arg(long, default_value = "30s", value_parser = loadline_base::parse_duration, value_name = "DURATION")]
    shutdown_timeout: Duration,
    /// How much faster than real time everything runs, built-in engines too; for tests of long starts.
    #[arg(long, hide = true, default_value_t = 1.0, value_parser = speedup, value_name = "FACTOR")]
    speedup: f64,
}

/// The fastest scaled clock: one scheduler tick is then some seconds.
const MAX_SPEEDUP: f64 = 1_000.0;

fn speedup(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (1.0..=MAX_SPEEDUP).contains(&value) => Ok(value),
        _ => Err(format!("write a number from 1 to {MAX_SPEEDUP}")),
    }
}

/// Runs until SIGTERM or Ctrl-C.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let config = read(&args.file)?;
    if args.print_config {
        super::print(&config::print_config(&config))?;
        return Ok(ExitCode::SUCCESS);
    }
    super::log_to_stderr();
    loadline_load::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(serve(args, config))
}

/// Reads the file, and says on standard error what is odd about it.
fn read(file: &Path) -> Result<Config> {
    let limits = Limits::default();
    let text = super::read_bounded(file, limits.bytes)
        .context("there is no configuration; name one with `-f`, for example examples/loadline.yaml")?;
    let loaded = config::read_config(&file.display().to_string(), &text, &Limits::default())
        .map_err(|faults| anyhow::anyhow!("{faults}"))?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(loaded.config)
}

/// How this binary is started again.
pub(crate) fn own_program() -> Vec<String> {
    vec!["/proc/self/exe".to_owned()]
}

/// The configuration in the words of the parts, with built-in engines as fast as the clock.
fn lowered(config: &Config, speedup: f64) -> Result<Lowered> {
    let mut config = config.clone();
    for model in &mut config.models {
        if let Launch::Engine(engine) = &mut model.launch {
            engine.speedup *= speedup;
        }
    }
    lower(&config, &own_program())
}

async fn serve(args: Args, config: Config) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let clock = if args.speedup > 1.0 { Clock::scaled(args.speedup) } else { Clock::real() };
    let options = StackOptions { clock, keeper: KeeperCommand::this_binary() };
    let mut stack = Stack::start(lowered(&config, args.speedup)?, options)?;
    super::print(&format!(
        "loadline serves {} on http://{}\nreplicas start with the first request to their model and end with this process; Ctrl-C ends it\n",
        names(&config),
        stack.address()
    ))?;
    let mut watched = Watched {
        file: args.file.clone(),
        speedup: args.speedup,
        started: config.clone(),
        current: config,
        refused: String::new(),
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = stack.ended() => bail!("the control loop ended on its own, so nothing would be scaled any more; this is a defect of Loadline: please report it"),
            () = tokio::time::sleep(RELOAD_PERIOD) => {
                if let Some(changed) = watched.changed() {
                    stack.reconfigure(changed).await?;
                    tracing::info!(models = names(&watched.current), "the changed configuration is in force");
                }
            }
        }
    }
    tracing::info!("ending: held and running requests finish first; a second signal ends at once");
    tokio::select! {
        () = stack.shutdown(args.shutdown_timeout) => Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => bail!("ended at once by a second SIGTERM"),
        _ = interrupt.recv() => bail!("ended at once by a second Ctrl-C"),
    }
}

/// The file, and what of it is in force.
struct Watched {
    file: PathBuf,
    speedup: f64,
    /// What holds until the next start for the settings that are taken at the start only.
    started: Config,
    /// What the file said last.
    current: Config,
    /// A text that was refused, so that it is reported once.
    refused: String,
}

/// What a changed file asks for.
struct Change {
    config: Config,
    lowered: Lowered,
    /// Fields that differ from those taken at the start, and can only be taken there.
    at_next_start: Vec<&'static str>,
}

impl Watched {
    /// The configuration, if the file changed and is right; a wrong one is reported and not taken.
    fn changed(&mut self) -> Option<Lowered> {
        let text = super::read_bounded(&self.file, Limits::default().bytes).ok()?;
        match self.understood(&text) {
            Ok(None) => None,
            Ok(Some(Change { config, lowered, at_next_start })) => {
                if !at_next_start.is_empty() {
                    let names: Vec<String> = at_next_start.iter().map(|name| format!("`{name}`")).collect();
                    tracing::warn!("changed, and in force only with the next start: {}", names.join(", "));
                }
                self.current = config;
                Some(lowered)
            }
            Err(faults) => {
                if self.refused != text {
                    tracing::error!("the changed configuration is wrong and not taken:\n{faults:#}");
                    self.refused = text;
                }
                None
            }
        }
    }

    /// The configuration in a text, if it is another one than the current.
    fn understood(&self, text: &str) -> Result<Option<Change>> {
        let loaded = config::read_config(&self.file.display().to_string(), text, &Limits::default())
            .map_err(|faults| anyhow::anyhow!("{faults}"))?;
        if loaded.config == self.current {
            return Ok(None);
        }
        let mut in_force = loaded.config.clone();
        let at_next_start = in_force.keep_from_start(&self.started);
        let lowered = lowered(&in_force, self.speedup)?;
        Ok(Some(Change { config: loaded.config, lowered, at_next_start }))
    }
}

fn names(config: &Config) -> String {
    config.models.iter().map(|model| format!("`{}`", model.name)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(head: &str, slots: u32) -> String {
        format!("{head}models: [{{name: m, engine: {{}}, slots: {slots}}}]\n")
    }

    #[test]
    fn a_change_names_what_needs_a_restart_and_leaves_it_as_it_is() {
        let config = config::read_config("loadline.yaml", &text("", 4), &Limits::default()).expect("reads").config;
        let watched = Watched {
            file: PathBuf::from("loadline.yaml"),
            speedup: 1.0,
            started: config.clone(),
            current: config,
            refused: String::new(),
        };
        struct Case {
            head: &'static str,
            slots: u32,
            expect: Option<&'static [&'static str]>,
        }
        for case in [
            Case { head: "", slots: 4, expect: None },
            Case { head: "", slots: 5, expect: Some(&[]) },
            Case { head: "gateway: {heldRequests: 9, ramp: false}\n", slots: 4, expect: Some(&[]) },
            Case {
                head: "listen: 127.0.0.1:1\nscrapePeriod: 9s\ngateway: {maxConnections: 9, heldRequests: 9}\n",
                slots: 6,
                expect: Some(&["listen", "scrapePeriod", "gateway.maxConnections"]),
            },
        ] {
            let change = watched.understood(&text(case.head, case.slots)).expect(case.head);
            let names = change.as_ref().map(|change| change.at_next_start.as_slice());
            assert_eq!(names, case.expect, "{}", case.head);
            if let Some(Change { lowered, .. }) = change {
                assert_eq!(lowered.models[0].slots, case.slots, "{}", case.head);
                assert_eq!(lowered.scrape_period, watched.started.scrape_period, "{}", case.head);
                assert_eq!(lowered.models[0].scrape_period, watched.started.scrape_period, "{}", case.head);
            }
        }
    }
}
