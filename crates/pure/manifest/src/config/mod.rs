//! `loadline.yaml`, the configuration of `loadline up`.
//!
//! Text is read into raw types (as written), then into usable types with every default filled in from [`defaults`].

pub mod defaults;
mod lower;
mod print;
mod raw;
mod read;

pub use print::print_config;
pub use read::{Loaded, read_config};

use loadline_base::Quantity;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Everything that `loadline up` is told; all defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `host:port` of the OpenAI API.
    pub listen: String,
    /// `host:port` of metrics, health and status.
    pub admin: String,
    /// GPUs that all replicas together may take; `None` for no limit.
    pub gpu_budget: Option<u32>,
    /// How often each replica's metrics page is read.
    pub scrape_period: Duration,
    /// The longest time between two decisions of a model.
    pub sync_period: Duration,
    /// TLS of `listen`.
    pub tls: Option<Tls>,
    /// Limits of the gateway.
    pub gateway: GatewayConfig,
    /// The models, with names and aliases all different.
    pub models: Vec<ModelConfig>,
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate chain.
    pub cert_file: String,
    /// The private key.
    pub key_file: String,
}

/// Limits of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Largest request body.
    pub max_body_bytes: u64,
    /// Largest request head.
    pub max_header_bytes: u64,
    /// Most header fields.
    pub max_headers: u32,
    /// Time for a request head.
    pub header_timeout: Duration,
    /// Time for a request body.
    pub body_timeout: Duration,
    /// How long a connection without a request is kept.
    pub idle_timeout: Duration,
    /// Most open client connections.
    pub max_connections: u32,
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
    /// A command; `{port}` is replaced by the replica's port, `{slot}` by its slot number, `{gpu}` by its device list.
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
    /// Seed; each replica adds its slot number.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "names of engines")]
pub enum EngineKind {
    /// The page says it.
    Auto,
    Vllm,
    Sglang,
    Dynamo,
    Llamacpp,
    Tgi,
    RayServe,
}

/// One metric of a model: a normalised signal and its target per replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalMetric {
    /// A name of [`loadline_policy::signal::SIGNALS`].
    pub name: String,
    /// `averageValue`, positive.
    pub average_value: Quantity,
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
    /// Further names.
    pub aliases: Vec<String>,
    /// What a replica is.
    pub launch: Launch,
    /// Whose metrics page it has.
    pub engine_kind: EngineKind,
    /// Answers 200 once the replica serves.
    pub readiness_path: String,
    /// How often it is asked during a start.
    pub readiness_period: Duration,
    /// The metrics page.
    pub metrics_path: String,
    /// Requests in flight per replica, at least 1.
    pub slots: u32,
    /// The least count.
    pub min_replicas: u32,
    /// The greatest count, at least 1 and `min_replicas`.
    pub max_replicas: u32,
    /// What is measured; not empty.
    pub metrics: Vec<SignalMetric>,
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
    /// Objective for the time to first token.
    pub slo_ttft: Option<Duration>,
    /// Objective for the time per output token.
    pub slo_tpot: Option<Duration>,
    /// Wait for a cold start.
    pub cold_wait: Duration,
    /// Wait for a free slot.
    pub saturated_wait: Duration,
}

#[cfg(test)]
mod tests;
