//! Every bound of a gateway, by name, with its default.

use loadline_base::{GatewayId, ModelId};
use loadline_hold::HoldSettings;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// One model that clients may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSettings {
    /// As clients name it.
    pub model: ModelId,
    /// The bounds of its hold.
    pub hold: HoldSettings,
    /// Largest request body, if other than the gateway's.
    pub max_body_bytes: Option<u64>,
    /// Its pool on the endpoint picker's metrics, if other than the gateway's.
    pub inference_pool: Option<String>,
}

impl ModelSettings {
    /// A model with every default.
    #[must_use]
    pub fn new(model: impl Into<ModelId>) -> Self {
        Self { model: model.into(), hold: HoldSettings::default(), max_body_bytes: None, inference_pool: None }
    }
}

/// What a gateway is started with.
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// Its name in reports.
    pub gateway: GatewayId,
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The models it serves.
    pub models: Vec<ModelSettings>,
    /// Client connections at once; one more is answered 503 and closed. Default 16,384.
    pub max_connections: usize,
    /// Largest request head. Default 64 KiB.
    pub max_header_bytes: usize,
    /// Longest time for a request head, from the start of the connection or the end of the answer before: a connection
    /// that stays silent for so long is closed. HTTP/2 clients are asked for a sign of life after it. Default 30 s.
    pub header_read_timeout: Duration,
    /// Largest request body. Default 32 MiB.
    pub max_body_bytes: u64,
    /// Bytes of request bodies kept at once over all models. Default 512 MiB.
    pub held_bytes: u64,
    /// Longest silence while a request body is read, and longest wait for room to read it. Default 60 s.
    pub body_read_timeout: Duration,
    /// Least bytes per second of a request body on average, once `body_read_timeout` has passed. Default 16 KiB.
    pub min_body_rate: u64,
    /// Longest time for a connection to a replica. Default 2 s.
    pub connect_timeout: Duration,
    /// Longest time from a request sent to the head of its answer; answers that do not stream come whole. Default 600 s.
    pub response_timeout: Duration,
    /// Longest silence of a replica within its answer. Default 600 s.
    pub stream_idle_timeout: Duration,
    /// Longest time a client may take no byte of what is ready for it. Default 60 s.
    pub write_stall_timeout: Duration,
    /// HTTP/2 streams per client connection. Default 256.
    pub h2_max_streams: u32,
    /// Idle connections kept to each replica. Default 256.
    pub idle_connections_per_replica: usize,
    /// Whether the metrics page also carries the endpoint picker's older names. Default true.
    pub legacy_epp_names: bool,
    /// The `inference_pool` label and pool `name` of the endpoint picker's metrics. Default `loadline`.
    pub inference_pool: String,
    /// The `top_level_controller_name` label of the endpoint picker's metrics; left out when empty (the default).
    pub top_level_controller_name: String,
    /// Time between "not ready" and the end of accepting connections at shutdown. Default 0 s.
    pub drain_delay: Duration,
    /// Seed of the jitter of `Retry-After` and of request ids.
    pub seed: u64,
    /// Pages of the process around the gateway.
    pub pages: Option<ProcessPages>,
    /// Whether the process around the gateway has what it needs to serve; without it, that is so from the start.
    pub readiness: Option<Readiness>,
}

/// Whether the process around a gateway is ready: asked at each GET of `/readyz`, which then says why not. It must not block.
#[derive(Clone)]
pub struct Readiness(pub ReadinessSource);

/// Says why a process is not ready yet; none when it is.
pub type ReadinessSource = Arc<dyn Fn() -> Option<String> + Send + Sync>;

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Readiness")
    }
}

/// Pages of the process that a gateway runs in, served beside its own.
///
/// Called with the path of a GET. The text for `/metrics` goes behind the gateway's own page; other paths are served with
/// the content type given. It runs on the connection's task and must not block.
#[derive(Clone)]
pub struct ProcessPages(pub PageSource);

/// Gives the content type and text of a page, if there is one at this path.
pub type PageSource = Arc<dyn Fn(&str) -> Option<(&'static str, String)> + Send + Sync>;

impl fmt::Debug for ProcessPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProcessPages")
    }
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            gateway: GatewayId::from("gateway"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            models: Vec::new(),
            max_connections: 16_384,
            max_header_bytes: 64 * 1024,
            header_read_timeout: Duration::from_secs(30),
            max_body_bytes: 32 * 1024 * 1024,
            held_bytes: 512 * 1024 * 1024,
            body_read_timeout: Duration::from_secs(60),
            min_body_rate: 16 * 1024,
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(600),
            stream_idle_timeout: Duration::from_secs(600),
            write_stall_timeout: Duration::from_secs(60),
            h2_max_streams: 256,
            idle_connections_per_replica: 256,
            legacy_epp_names: true,
            inference_pool: "loadline".to_owned(),
            top_level_controller_name: String::new(),
            drain_delay: Duration::ZERO,
            seed: 0,
            pages: None,
            readiness: None,
        }
    }
}
