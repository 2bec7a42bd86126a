//! Every bound of a link, by name, with its default.

use std::time::Duration;

/// The bounds of a link; all spans are wall time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkLimits {
    /// Largest frame. Default 256 KiB.
    pub max_frame_bytes: usize,
    /// Longest silence of a healthy peer: each side says something at least as often. Default 1 s.
    pub heartbeat: Duration,
    /// Silence, or a write that makes no progress, after which a peer is given up. Default 3 s.
    pub dead_after: Duration,
    /// Longest time for a connection, TLS and the first words. Default 3 s.
    pub handshake_timeout: Duration,
    /// The first pause before a new attempt to connect; it doubles with each failure. Default 50 ms.
    pub backoff_first: Duration,
    /// The longest such pause. Default 2 s.
    pub backoff_max: Duration,
    /// Connections at once, also of peers that have not said who they are. Default 1,024.
    pub max_connections: usize,
    /// Models of one gateway. Default 1,024.
    pub max_models: usize,
    /// Levels waiting to be sent to one peer. Default 16,384.
    pub max_pending: usize,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            max_frame_bytes: 256 * 1024,
            heartbeat: Duration::from_secs(1),
            dead_after: Duration::from_secs(3),
            handshake_timeout: Duration::from_secs(3),
            backoff_first: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            max_connections: 1_024,
            max_models: 1_024,
            max_pending: 16_384,
        }
    }
}
