//! What an emulated engine is told.

use loadline_base::num;
use loadline_sim::engine::{BLOCK_TOKENS, EngineConfig};
use loadline_sim::profile::Profile;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Largest request body.
pub const DEFAULT_MAX_BODY_BYTES: usize = 32 << 20;
/// How long in-flight requests may take to finish after a stop (wall time).
pub const DEFAULT_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// Mean of the drawn output length of requests without `ignore_eos`: about that of the Azure 2023 conversation trace.
pub const DEFAULT_MEAN_OUTPUT_TOKENS: u32 = 200;
/// Most open connections.
pub const DEFAULT_MAX_CONNECTIONS: usize = 16_384;

/// Whose API details and metrics page are emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// vLLM 0.32.0. The port is closed until the engine is ready.
    #[default]
    Vllm,
    /// SGLang 0.5.23. Answers 503 until the engine is ready.
    Sglang,
    /// The frontend of Dynamo 1.6.1. Answers 503 until the engine is ready.
    Dynamo,
}

/// All settings of one emulated engine.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port; 0 takes a free one.
    pub port: u16,
    /// Served model name.
    pub model: String,
    /// Whose API and page.
    pub dialect: Dialect,
    /// The engine model's make.
    pub config: EngineConfig,
    /// KV bytes per token, for the page that shows them.
    pub kv_bytes_per_token: u64,
    /// The block count was given rather than taken from the profile (the page shows the difference).
    pub kv_blocks_overridden: bool,
    /// Seed of the start-up time and the output lengths.
    pub seed: u64,
    /// Mean output length of requests without `ignore_eos`.
    pub mean_output_tokens: u32,
    /// Largest request body.
    pub max_body_bytes: usize,
    /// Most open connections; more wait to be accepted.
    pub max_connections: usize,
    /// Wall time that in-flight requests have to finish after a stop.
    pub shutdown_timeout: Duration,
}

impl EngineSettings {
    /// vLLM on this profile with its defaults (prefix cache on), on a free loopback port, ready at once.
    #[must_use]
    pub fn new(profile: &Profile) -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 0,
            model: profile.model.clone(),
            dialect: Dialect::default(),
            config: EngineConfig { prefix_block_tokens: BLOCK_TOKENS, ..EngineConfig::from_profile(profile) },
            kv_bytes_per_token: profile.kv_bytes_per_token,
            kv_blocks_overridden: false,
            seed: 0,
            mean_output_tokens: DEFAULT_MEAN_OUTPUT_TOKENS,
            max_body_bytes: DEFAULT_MAX_BODY_BYTES,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            shutdown_timeout: DEFAULT_SHUTDOWN_TIMEOUT,
        }
    }

    /// The names that stand between `@` in page files.
    pub(crate) fn page_names(&self) -> Vec<(&'static str, String)> {
        let blocks = self.config.kv_blocks;
        let block = u64::from(BLOCK_TOKENS);
        let tokens = u64::try_from(blocks).unwrap_or(u64::MAX).saturating_mul(block);
        let concurrency = num::u64_to_f64(tokens) / f64::from(self.config.max_model_len.max(1));
        let python = |yes: bool| if yes { "True" } else { "False" }.to_owned();
        // Distinct numbers in the place of Dynamo's random instance ids.
        let worker = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let router = worker.rotate_left(32);
        vec![
            ("model", escape_label(&self.model)),
            ("block", block.to_string()),
            ("blocks", blocks.to_string()),
            ("blocks_override", if self.kv_blocks_overridden { blocks.to_string() } else { "None".to_owned() }),
            ("kv_tokens", tokens.to_string()),
            ("kv_concurrency", format!("{concurrency:?}")),
            ("kv_bytes", tokens.saturating_mul(self.kv_bytes_per_token).to_string()),
            ("prefix_caching", python(self.config.prefix_block_tokens > 0)),
            ("worker", format!("{worker:x}")),
            ("worker_number", worker.to_string()),
            ("router", router.to_string()),
        ]
    }
}

fn escape_label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
