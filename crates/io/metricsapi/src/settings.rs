//! The bounds and choices of the server: one table, one name each.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Where the certificate authorities and header names of delegated authentication come from.
#[derive(Debug, Clone)]
pub enum AuthoritySource {
    /// A ConfigMap in the layout of `kube-system/extension-apiserver-authentication`, watched.
    ConfigMap {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The keys of such a ConfigMap, given once (flags instead of the cluster's own).
    Fixed(std::collections::BTreeMap<String, String>),
}

impl Default for AuthoritySource {
    /// The ConfigMap that every kube-apiserver publishes.
    fn default() -> Self {
        Self::ConfigMap { namespace: "kube-system".to_owned(), name: "extension-apiserver-authentication".to_owned() }
    }
}

/// How the server listens, whom it believes, and every bound it keeps.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The option or field that sets `listen`, as the user writes it, for error texts.
    pub listen_remedy: String,
    /// Where the authorities come from.
    pub authorities: AuthoritySource,
    /// Whether a request without credentials is `system:anonymous` (then authorization decides) instead of refused.
    pub anonymous: bool,
    /// How long one TokenReview answer holds.
    pub token_ttl: Duration,
    /// How long one SubjectAccessReview answer holds, allowed or denied.
    pub access_ttl: Duration,
    /// Until a review must be answered; then it counts as failed.
    pub review_timeout: Duration,
    /// Answers kept per kind of review; beyond it the oldest are dropped.
    pub review_entries: usize,
    /// How long a verdict about a connection's client certificate holds (a change of authorities ends it at once).
    pub certificate_recheck: Duration,
    /// Connections open at once; those beyond wait in the kernel's backlog.
    pub max_connections: usize,
    /// Requests answered at once over all connections; those beyond get 429.
    pub max_in_flight: usize,
    /// HTTP/2 streams of one connection.
    pub max_streams: u32,
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the first byte of a request head to its end, and the longest idle time of an HTTP/1 connection.
    pub header_timeout: Duration,
    /// The largest request head, in bytes; at least 8192.
    pub max_head_bytes: u32,
    /// Until a request must be answered; then it gets 504.
    pub request_deadline: Duration,
    /// How often an idle HTTP/2 connection is pinged, and how long its answer may take.
    pub ping_interval: Duration,
    /// How long a connection may be open without a request; it is ended between this and twice this time.
    pub idle_timeout: Duration,
    /// How long open requests may take after shutdown was asked for.
    pub stop_grace: Duration,
    /// The window that values are said to be taken over: the scrape period. Rounded up to whole seconds.
    pub window: Duration,
}

impl Default for Settings {
    /// Port 6443 on every address; cache lives and the review time-out are those of prometheus-adapter 0.12, requests at once
    /// and the idle time those of kube-apiserver.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 6443)),
            listen_remedy: "`metricsApi.listen`".to_owned(),
            authorities: AuthoritySource::default(),
            anonymous: true,
            token_ttl: Duration::from_secs(10),
            access_ttl: Duration::from_secs(10),
            review_timeout: Duration::from_secs(10),
            review_entries: 4096,
            certificate_recheck: Duration::from_secs(10),
            max_connections: 1024,
            max_in_flight: 400,
            max_streams: 250,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(90),
            max_head_bytes: 64 * 1024,
            request_deadline: Duration::from_secs(20),
            ping_interval: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(90),
            stop_grace: Duration::from_secs(5),
            window: Duration::from_secs(1),
        }
    }
}
