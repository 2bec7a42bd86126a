//! The bounds of HTTP clients and servers: one table, one name each.

use std::time::Duration;

/// How many connections the kernel may hold before they are accepted.
pub const LISTEN_BACKLOG: u32 = 4096;
/// The largest status line and header block that is read from a server, in bytes.
pub const MAX_RESPONSE_HEAD_BYTES: usize = 64 * 1024;
/// The largest file of root certificates that is read, in bytes.
pub const MAX_ROOTS_BYTES: u64 = 8 * 1024 * 1024;
/// How long accepting pauses after the system refused a connection for lack of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// The bounds of one [`fetch`](super::fetch()), in wall time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchLimits {
    /// Until the connection is made, name resolution and TLS included.
    pub connect_timeout: Duration,
    /// Until the last byte of the body, the connection included.
    pub total_timeout: Duration,
    /// The largest body, in bytes as sent (before any decompression).
    pub max_body_bytes: usize,
}

impl FetchLimits {
    /// For metrics pages and APIs: 2 s, 10 s, 64 MiB.
    pub const DEFAULT: Self = Self {
        connect_timeout: Duration::from_secs(2),
        total_timeout: Duration::from_secs(10),
        max_body_bytes: 64 * 1024 * 1024,
    };
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The bounds of one [`serve`](super::serve()) loop, in wall time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeLimits {
    /// Connections open at once; those beyond wait in the kernel's backlog ([`LISTEN_BACKLOG`]).
    pub max_connections: usize,
    /// From the first byte of a request head to its end.
    pub header_timeout: Duration,
    /// The largest request head, in bytes; at least 8192.
    pub max_head_bytes: usize,
    /// How long open requests may take after the stop was asked for, before their connections are cut.
    pub stop_grace: Duration,
}

impl ServeLimits {
    /// 16,384 connections, 30 s, 64 KiB, 5 s.
    pub const DEFAULT: Self = Self {
        max_connections: 16_384,
        header_timeout: Duration::from_secs(30),
        max_head_bytes: 64 * 1024,
        stop_grace: Duration::from_secs(5),
    };
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
