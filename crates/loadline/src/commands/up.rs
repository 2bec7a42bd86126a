//! `loadline up`: gateway, autoscaler and replicas on this machine.

use crate::stack::{Stack, StackOptions, lower};
use anyhow::{Context, Result, bail};
use loadline_manifest::config::{self, Config};
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
}

/// Runs until SIGTERM or Ctrl-C.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let config = read(&args.file)?;
    if args.print_config {
        print!("{}", config::print_config(&config));
        return Ok(ExitCode::SUCCESS);
    }
    super::log_to_stderr();
    loadline_load::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(serve(args, config))
}

/// Reads the file, and says on standard error what is odd about it.
fn read(file: &Path) -> Result<Config> {
    let text = std::fs::read_to_string(file).with_context(|| {
        format!(
            "`{}` cannot be read; name a configuration with `-f`, for example examples/loadline.yaml",
            file.display()
        )
    })?;
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

async fn serve(args: Args, config: Config) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let lowered = lower(&config, &own_program())?;
    let options = StackOptions { clock: Clock::real(), keeper: KeeperCommand::this_binary() };
    let stack = Stack::start(lowered, options)?;
    println!("loadline serves {} on http://{}", names(&config), stack.address());
    println!("replicas start with the first request to their model and end with this process; Ctrl-C ends it");
    let mut watched =
        Watched { file: args.file.clone(), listen: config.listen.clone(), current: config, refused: String::new() };
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = tokio::time::sleep(RELOAD_PERIOD) => {
                if let Some(changed) = watched.changed() {
                    stack.reconfigure(lower(changed, &own_program())?).await?;
                    tracing::info!(models = names(changed), "the changed configuration is in force");
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
    listen: String,
    current: Config,
    /// A text that was refused, so that it is reported once.
    refused: String,
}

impl Watched {
    /// The configuration, if the file changed and is right; a wrong one is reported and not taken.
    fn changed(&mut self) -> Option<&Config> {
        let text = std::fs::read_to_string(&self.file).ok()?;
        match config::read_config(&self.file.display().to_string(), &text, &Limits::default()) {
            Ok(loaded) if loaded.config == self.current => None,
            Ok(loaded) => {
                if loaded.config.listen != self.listen {
                    tracing::warn!("`listen` changed; that takes effect with the next start");
                }
                self.current = loaded.config;
                Some(&self.current)
            }
            Err(faults) => {
                if self.refused != text {
                    tracing::error!("the changed configuration is wrong and not taken:\n{faults}");
                    self.refused = text;
                }
                None
            }
        }
    }
}

fn names(config: &Config) -> String {
    config.models.iter().map(|model| format!("`{}`", model.name)).collect::<Vec<_>>().join(", ")
}
