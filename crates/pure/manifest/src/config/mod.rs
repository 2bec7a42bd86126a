//! `loadline.yaml`, the configuration of `loadline up`.
//!
//! Text is read into raw types (as written), then into usable types with every default filled in from [`defaults`].

pub mod defaults;
mod lower;
mod metric;
mod print;
mod raw;
mod read;
mod restart;

pub use metric::{GATEWAY_METRICS, ModelMetric, Origin, SignalMetric};
pub use print::print_config;
pub use raw::{Size, Span};
pub use read::{Loaded, is_config, read_config};
pub(crate) use read::{count, size, span, text};
pub use restart::AT_START;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything that `loadline up` is told; all defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `host:port` of the OpenAI API, `/metrics`, `/healthz`, `/readyz` and `/status`.
    pub listen: String,
    /// GPUs that all replicas together may take; `None` for no limit.
    pub gpu_budget: Option<u32>,
    /// How often each replica's metrics page is read.
    pub scrape_period: Duration,
    /// Limits of the gateway.
    pub gateway: GatewayConfig,
    /// The models, with names all different.
    pub models: Vec<ModelConfig>,
}

/// Limits of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Largest request body.
    pub max_body_bytes: u64,
    /// Largest request head.
    pub max_header_bytes: u64,
    /// Time for a request head.
    pub header_timeout: Duration,
    /// Longest silence while a request body is sent, and longest wait for room to read it.
    pub body_timeout: Duration,
    /// Least bytes per second of a request body on average, once `body_timeout` has passed.
    pub min_body_rate: u64,
    /// Most open client connections, at least 1.
    pub max_connections: u32,
    /// Most HTTP/2 requests at once on one client connection, at least 1.
    pub h2_max_streams: u32,
    /// Time for a connection to a replica.
    pub connect_timeout: Duration,
    /// From a request sent to the head of its answer.
    pub response_timeout: Duration,
    /// Longest silence of a replica within its answer.
    pub stream_idle_timeout: Duration,
    /// Longest time that a client takes no byte.
    pub write_stall_timeout: Duration,
    /// Idle connections kept to each replica.
    pub idle_connections_per_replica: u32,
    /// Times a request may be given to a replica, at least 1.
    pub max_attempts: u32,
    /// Retries allowed per hundred requests.
    pub retry_percent: u32,
    /// Larger bodies are not sent a second time.
    pub retry_body_bytes: u64,
    /// Whether a request whose expected wait is too long is refused on arrival.
    pub early_reject: bool,
    /// Whether a new replica gets its requests step by step.
    pub ramp: bool,
    /// Most requests held per model.
    pub held_requests: u32,
    /// Most body bytes held per model.
    pub held_bytes: u64,
    /// Most body bytes held over all models.
    pub held_bytes_total: u64,
    /// Wait for a free slot.
    pub saturated_wait: Duration,
    /// Wait for a cold start.
    pub cold_wait: Duration,
    /// Value of the label `inference_pool`.
    pub inference_pool: String,
    /// Value of the label `top_level_controller_name`.
    pub top_level_controller_name: String,
    /// Whether first-generation names are exported too.
    pub legacy_metrics: bool,
}

/// What a replica is.
#[derive(Debug, Clone, PartialEq)]
pub enum Launch {
    /// A command; `{port}` is replaced by the replica's port, `{slot}` by its slot number, `{gpu}` by its slot's devices.
    Command(Vec<String>),
    /// The built-in engine.
    Engine(EngineConfig),
}

/// Settings of the built-in engine.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// A built-in profile; `None` for the engine's own default.
    pub profile: Option<String>,
    /// Whose API and page.
    pub dialect: Dialect,
    /// Most requests of one batch.
    pub max_num_seqs: u32,
    /// How many times faster than the profile it runs; finite, positive.
    pub speedup: f64,
    /// How long a start takes; `None` for the profile's.
    pub startup: Option<Duration>,
    /// Seed, the same for every replica.
    pub seed: u64,
}

/// Whose API and page the built-in engine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "names of engines")]
pub enum Dialect {
    Vllm,
    Sglang,
    Dynamo,
}

impl Dialect {
    /// The name as written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Dynamo => "dynamo",
        }
    }
}

/// Whose metrics page a replica has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "names of engines")]
pub enum EngineKind {
    /// The page says it.
    #[default]
    Auto,
    Vllm,
    Sglang,
    Dynamo,
    Llamacpp,
    Tgi,
    RayServe,
}

/// Pauses between restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// Before the first.
    pub initial: Duration,
    /// The longest.
    pub max: Duration,
    /// A replica that ran this long starts anew with `initial`.
    pub reset_after: Duration,
}

/// SSE comments to held streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Whether they are sent.
    pub enabled: bool,
    /// When the first is sent.
    pub grace: Duration,
    /// Between two.
    pub period: Duration,
}

/// One model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// As clients name it.
    pub name: String,
    /// What a replica is.
    pub launch: Launch,
    /// Whose metrics page it has.
    pub engine_kind: EngineKind,
    /// Answers 200 once the replica serves.
    pub readiness_path: String,
    /// The metrics page.
    pub metrics_path: String,
    /// Requests in flight per replica, at least 1.
    pub slots: u32,
    /// The least count.
    pub min_replicas: u32,
    /// The greatest count, at least 1 and `min_replicas`.
    pub max_replicas: u32,
    /// What is measured; not empty.
    pub metrics: Vec<ModelMetric>,
    /// How fast to go, API defaults filled in.
    pub behavior: crate::hpa::Behavior,
    /// Go to zero after this long without work.
    pub idle_after: Duration,
    /// A replica that is not ready by then is ended.
    pub startup_timeout: Duration,
    /// How long a replica may finish its requests.
    pub drain_timeout: Duration,
    /// From SIGTERM to SIGKILL.
    pub termination_grace: Duration,
    /// Pauses between restarts.
    pub restart: Restart,
    /// Added to the replica's environment.
    pub env: BTreeMap<String, String>,
    /// GPUs of one replica.
    pub gpus_per_replica: u32,
    /// `CUDA_VISIBLE_DEVICES` by replica slot; empty where it is left as it is, else one list for each of `max_replicas`.
    pub gpu_devices: Vec<Vec<String>>,
    /// SSE comments to held streams.
    pub keepalive: Keepalive,
    /// Wait for a cold start.
    pub cold_wait: Duration,
    /// Wait for a free slot.
    pub saturated_wait: Duration,
}

#[cfg(test)]
mod tests;
