//! What an engine replica is made of, and its limits.

use super::cache::BLOCK_TOKENS;
use crate::profile::{Profile, StepModel};
use loadline_base::num;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::time::Duration;

/// Time in the API server before a request waits for the scheduler: HTTP, tokenizer, queue hop.
/// Published fits lie between 8 and 16 ms (BLIS; NVIDIA table against measured H100 runs).
pub const DEFAULT_API_OVERHEAD: Duration = Duration::from_millis(10);
/// Bound on requests that wait in one engine.
pub const DEFAULT_MAX_WAITING: usize = 65_536;

/// How long a start takes: a mean, spread uniformly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Startup {
    /// Mean duration.
    pub mean: Duration,
    /// Half width of the uniform spread as a share of the mean, 0 to 1.
    pub jitter: f64,
}

impl Startup {
    /// Ready at once.
    pub const NONE: Self = Self { mean: Duration::ZERO, jitter: 0.0 };

    /// The duration of the start with this seed.
    #[must_use]
    pub fn draw(&self, seed: u64) -> Duration {
        let bits = Pcg64Mcg::seed_from_u64(seed).next_u64() >> 11;
        // 53 random bits over 2^53: uniform in [0, 1).
        let unit = num::u64_to_f64(bits) / 9_007_199_254_740_992.0;
        let jitter = if self.jitter.is_finite() { self.jitter.clamp(0.0, 1.0) } else { 0.0 };
        num::duration_from_secs(self.mean.as_secs_f64() * (1.0 + jitter * (2.0 * unit - 1.0)))
    }
}

/// A replica's make.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// How long a step takes.
    pub step: StepModel,
    /// KV blocks of [`BLOCK_TOKENS`] tokens, one of which the engine keeps for itself (as vLLM does).
    pub kv_blocks: usize,
    /// Most requests in the running batch.
    pub max_num_seqs: usize,
    /// Most tokens computed in one step.
    pub max_num_batched_tokens: u32,
    /// Most tokens of prompt plus output.
    pub max_model_len: u32,
    /// Most requests that wait.
    pub max_waiting: usize,
    /// Tokens per prefix hash, a multiple of [`BLOCK_TOKENS`]; 0 switches the prefix cache off.
    pub prefix_block_tokens: u32,
    /// Time between arrival and the waiting queue.
    pub api_overhead: Duration,
    /// Time from start to ready.
    pub startup: Startup,
}

/// A make that can serve nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A limit is zero.
    #[error("`{field}` is `{value}`; it must be at least `{least}`")]
    TooSmall {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The least value that works.
        least: u64,
    },
    /// Prefix blocks do not fall on KV blocks.
    #[error("`prefix_block_tokens` is `{0}`; it must be a multiple of `{BLOCK_TOKENS}`")]
    PrefixBlock(u32),
    /// The step-time table is unusable.
    #[error("step-time table: {0}")]
    Table(&'static str),
}

impl EngineConfig {
    /// A replica as the profile describes it, with vLLM's defaults, no prefix cache, ready at once.
    #[must_use]
    pub fn from_profile(profile: &Profile) -> Self {
        Self {
            step: profile.step.clone(),
            kv_blocks: profile.kv_blocks,
            max_num_seqs: profile.max_num_seqs,
            max_num_batched_tokens: profile.max_num_batched_tokens,
            max_model_len: profile.max_model_len,
            max_waiting: DEFAULT_MAX_WAITING,
            prefix_block_tokens: 0,
            api_overhead: DEFAULT_API_OVERHEAD,
            startup: Startup::NONE,
        }
    }

    /// Blocks that requests can hold.
    #[must_use]
    pub const fn usable_blocks(&self) -> usize {
        self.kv_blocks.saturating_sub(1)
    }

    /// Most tokens of prompt plus output that one request can have: context length or KV memory, whichever is less.
    #[must_use]
    pub fn context_limit(&self) -> u32 {
        let kv = self.usable_blocks().saturating_mul(usize::try_from(BLOCK_TOKENS).unwrap_or(usize::MAX));
        self.max_model_len.min(u32::try_from(kv).unwrap_or(u32::MAX))
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let wide = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        let limits = [
            ("kv_blocks", wide(self.kv_blocks), 2),
            ("max_num_seqs", wide(self.max_num_seqs), 1),
            ("max_num_batched_tokens", u64::from(self.max_num_batched_tokens), 1),
            ("max_model_len", u64::from(self.max_model_len), 2),
            ("max_waiting", wide(self.max_waiting), 1),
        ];
        for (field, value, least) in limits {
            if value < least {
                return Err(ConfigError::TooSmall { field, value, least });
            }
        }
        // Decoding has one token per running request; a smaller budget could never run the whole batch.
        if u64::from(self.max_num_batched_tokens) < wide(self.max_num_seqs) {
            let (value, least) = (u64::from(self.max_num_batched_tokens), wide(self.max_num_seqs));
            return Err(ConfigError::TooSmall { field: "max_num_batched_tokens", value, least });
        }
        if !self.prefix_block_tokens.is_multiple_of(BLOCK_TOKENS) {
            return Err(ConfigError::PrefixBlock(self.prefix_block_tokens));
        }
        self.step.check().map_err(ConfigError::Table)
    }
}
