//! `loadline engine`: an inference engine without a GPU.

use anyhow::Context;
use loadline_base::{format_duration, parse_duration};
use loadline_engine::{
    DEFAULT_MAX_BODY_BYTES, DEFAULT_MAX_CONNECTIONS, DEFAULT_MEAN_OUTPUT_TOKENS, Dialect, Engine, EngineSettings,
};
use loadline_net::Clock;
use loadline_sim::engine::{BLOCK_TOKENS, EngineConfig, Startup};
use loadline_sim::profile::{DEFAULT_PROFILE, Profile};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Spread of the start-up time around its mean, as a share of it.
const STARTUP_JITTER: f64 = 0.1;
/// Exit code after `--fail-after`.
const FAILED: u8 = 1;

/// Whose API details and metrics page are emulated.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum DialectName {
    /// vLLM 0.32.0; the port is closed until the engine is ready.
    Vllm,
    /// SGLang 0.5.23; 503 until the engine is ready.
    Sglang,
    /// The frontend of Dynamo 1.6.1; 503 until the engine is ready.
    Dynamo,
}

/// Emulate an inference engine without a GPU: OpenAI API and /metrics.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Port to listen on; 0 chooses a free one and prints it.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Served model name [default: the profile's model].
    #[arg(long)]
    model: Option<String>,
    /// Step times and memory: `GPU/MODEL/tpN[/ENGINE]`; see `--list-profiles`.
    #[arg(long, default_value = DEFAULT_PROFILE)]
    profile: String,
    /// Print the built-in profiles and their sources, and exit.
    #[arg(long)]
    list_profiles: bool,
    /// Whose API details and metrics page to emulate.
    #[arg(long, value_enum, default_value = "vllm")]
    dialect: DialectName,
    /// Most requests in the running batch [default: the profile's].
    #[arg(long)]
    max_num_seqs: Option<usize>,
    /// Most tokens computed in one step [default: the profile's].
    #[arg(long)]
    max_num_batched_tokens: Option<u32>,
    /// Most tokens of prompt plus output [default: the profile's].
    #[arg(long)]
    max_model_len: Option<u32>,
    /// KV blocks of 16 tokens [default: the profile's].
    #[arg(long)]
    num_gpu_blocks: Option<usize>,
    /// Do not cache prompt prefixes (they are cached per block of 16 words or token ids).
    #[arg(long)]
    no_enable_prefix_caching: bool,
    /// Model seconds per wall second.
    #[arg(long, default_value_t = 1.0, value_parser = speedup)]
    speedup: f64,
    /// Mean time from start to ready, in model time; each start varies by a tenth, by seed.
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    startup: Duration,
    /// End with an error after this model time, as a crash would.
    #[arg(long, value_parser = parse_duration)]
    fail_after: Option<Duration>,
    /// Seed of start-up times and output lengths.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Mean of the drawn output length of requests without `ignore_eos`, in tokens.
    #[arg(long, default_value_t = DEFAULT_MEAN_OUTPUT_TOKENS)]
    mean_output_tokens: u32,
    /// Wall time that in-flight requests have to finish after SIGTERM or SIGINT.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    shutdown_timeout: Duration,
    /// Largest request body in bytes.
    #[arg(long, default_value_t = DEFAULT_MAX_BODY_BYTES)]
    max_body_bytes: usize,
    /// Most open connections.
    #[arg(long, default_value_t = DEFAULT_MAX_CONNECTIONS, value_parser = connections)]
    max_connections: usize,
}

/// More connections than any machine has descriptors for.
const MOST_CONNECTIONS: usize = 1_000_000;

fn connections(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(count) if (1..=MOST_CONNECTIONS).contains(&count) => Ok(count),
        _ => Err(format!("write a number from 1 to {MOST_CONNECTIONS}")),
    }
}

fn speedup(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err(format!("`{text}` is not a positive number")),
    }
}

impl Args {
    fn settings(&self, profile: &Profile) -> EngineSettings {
        let mut config = EngineConfig::from_profile(profile);
        config.max_num_seqs = self.max_num_seqs.unwrap_or(config.max_num_seqs);
        config.kv_blocks = self.num_gpu_blocks.unwrap_or(config.kv_blocks);
        config.max_model_len = self.max_model_len.unwrap_or(config.max_model_len);
        config.max_num_batched_tokens = self.max_num_batched_tokens.unwrap_or_else(|| {
            // A larger batch than the default budget needs one that fits it.
            config.max_num_batched_tokens.max(u32::try_from(config.max_num_seqs).unwrap_or(u32::MAX))
        });
        config.prefix_block_tokens = if self.no_enable_prefix_caching { 0 } else { BLOCK_TOKENS };
        config.startup = Startup { mean: self.startup, jitter: STARTUP_JITTER };
        EngineSettings {
            host: self.host,
            port: self.port,
            model: self.model.clone().unwrap_or_else(|| profile.model.clone()),
            dialect: match self.dialect {
                DialectName::Vllm => Dialect::Vllm,
                DialectName::Sglang => Dialect::Sglang,
                DialectName::Dynamo => Dialect::Dynamo,
            },
            config,
            kv_blocks_overridden: self.num_gpu_blocks.is_some(),
            seed: self.seed,
            mean_output_tokens: self.mean_output_tokens,
            max_body_bytes: self.max_body_bytes,
            max_connections: self.max_connections,
            shutdown_timeout: self.shutdown_timeout,
            ..EngineSettings::new(profile)
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.list_profiles {
        for profile in Profile::all()? {
            super::print(&format!(
                "{}\t{} KV blocks ({})\t{}\n",
                profile.id, profile.kv_blocks, profile.kv_blocks_source, profile.provenance
            ))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let profile = Profile::find(&args.profile).context("`--profile`; `--list-profiles` shows them all")?;
    let settings = args.settings(profile);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no async runtime")?;
    runtime.block_on(serve(&args, profile, settings))
}

async fn serve(args: &Args, profile: &Profile, settings: EngineSettings) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("no handler for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("no handler for SIGINT")?;
    let clock = Clock::scaled(args.speedup);
    let began = clock.now();
    let model = settings.model.clone();
    let engine = Engine::start(settings, clock.clone())?;
    let failure = async {
        match args.fail_after {
            Some(after) => clock.sleep_until(began.plus(after)).await,
            None => std::future::pending().await,
        }
    };
    let announced = async {
        engine.ready().await?;
        let took = format_duration(clock.now().since(began));
        eprintln!("ready: http://{} serves `{model}` as {} after {took}", engine.local_addr(), profile.id);
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        outcome = announced => outcome?,
        () = failure => {
            eprintln!("error: failed on purpose after `--fail-after`");
            return Ok(ExitCode::from(FAILED));
        }
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    if !engine.shutdown().await {
        eprintln!(
            "warning: requests were cut after `--shutdown-timeout` of {}",
            format_duration(args.shutdown_timeout)
        );
    }
    Ok(ExitCode::SUCCESS)
}
