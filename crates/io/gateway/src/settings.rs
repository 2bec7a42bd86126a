//! Every bound of a gateway, by name, with its default.

use loadline_base::{GatewayId, ModelId};
use loadline_hold::HoldSettings;
use std::net::{Ipv4Addr, SocketAddr};
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
}

impl ModelSettings {
    /// A model with every default.
    #[must_use]
    pub fn new(model: impl Into<ModelId>) -> Self {
        Self { model: model.into(), hold: HoldSettings::default(), max_body_bytes: None }
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
    /// Longest time for a request head once its first byte came. Default 30 s.
    pub header_read_timeout: Duration,
    /// Largest request body. Default 32 MiB.
    pub max_body_bytes: u64,
    /// Bytes of request bodies kept at once over all models. Default 512 MiB.
    pub held_bytes: u64,
    /// Longest silence while a request body is read, and longest wait for room to read it. Default 60 s.
    pub body_read_timeout: Duration,
    /// Longest time for a connection to a replica. Default 2 s.
    pub connect_timeout: Duration,
    /// Longest time from a request sent to the head of its answer; answers that do not stream come whole. Default 600 s.
    pub response_timeout: Duration,
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
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(600),
            write_stall_timeout: Duration::from_secs(60),
            h2_max_streams: 256,
            idle_connections_per_replica: 256,
            legacy_epp_names: true,
            inference_pool: "loadline".to_owned(),
            top_level_controller_name: String::new(),
            drain_delay: Duration::ZERO,
            seed: 0,
        }
    }
}
