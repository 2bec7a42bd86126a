//! `serve.yaml`, the configuration of `loadline serve`.
//!
//! Text is read into raw types (as written), then into usable types with every default filled in from [`defaults`].

pub mod defaults;
mod raw;
mod read;

pub use read::read_serve;

use std::time::Duration;

/// Everything that `loadline serve` is told; all defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeConfig {
    /// The one namespace that is watched; `None` for all.
    pub namespace: Option<String>,
    /// GPUs over all autoscalers; `None` for no limit.
    pub gpu_budget: Option<u32>,
    /// How pages are read.
    pub scrape: ScrapeConfig,
    /// Which pods' pages are read.
    pub discovery: DiscoveryConfig,
    /// Who writes.
    pub lease: LeaseConfig,
    /// What the stock HPA reads.
    pub metrics_api: MetricsApiConfig,
    /// `host:port` of `/metrics`, `/healthz`, `/livez`, `/readyz` and `/status`.
    pub admin_listen: String,
    /// `host:port` where gateways connect.
    pub link_listen: String,
    /// Certificates of our own.
    pub tls: TlsConfig,
    /// Bounds.
    pub limits: ServeLimits,
    /// Status of an unchanged autoscaler is written at most this often.
    pub status_period: Duration,
    /// Memory of an autoscaler is written at most this often between scale changes.
    pub checkpoint_period: Duration,
    /// How the API server is used.
    pub kubernetes: KubernetesConfig,
}

/// How pages are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrapeConfig {
    /// From one reading of a page to the next, positive.
    pub period: Duration,
    /// Time for one page, positive.
    pub timeout: Duration,
    /// Largest page.
    pub max_body_bytes: u64,
    /// Most pages read at once, at least 1.
    pub max_concurrent: u32,
    /// Whether a monitor's longer `interval` holds.
    pub respect_monitor_interval: bool,
}

/// Which pods' pages are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches as they stand in the file")]
pub struct DiscoveryConfig {
    /// Those of `InferenceAutoscaler` targets.
    pub autoscalers: bool,
    /// Those of HPA targets.
    pub hpas: bool,
    /// Those that monitors select.
    pub monitors: bool,
    /// Those with annotations.
    pub annotations: bool,
}

/// The lease; `duration` > `renew_deadline` > `retry_period` > 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseConfig {
    /// Name of the Lease.
    pub name: String,
    /// A writer not heard of for so long is taken over.
    pub duration: Duration,
    /// A writer that could not renew for so long stops.
    pub renew_deadline: Duration,
    /// Between two attempts.
    pub retry_period: Duration,
}

/// The metrics APIs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsApiConfig {
    /// `host:port`.
    pub listen: String,
    /// Whether custom.metrics.k8s.io is served.
    pub custom: bool,
    /// Whether external.metrics.k8s.io is served.
    pub external: bool,
    /// The Service in front.
    pub service: String,
    /// Further names of the certificate.
    pub names: Vec<String>,
    /// How long the answer to a TokenReview holds.
    pub token_cache: Duration,
    /// How long the answer to a SubjectAccessReview holds.
    pub access_cache: Duration,
    /// Most requests at once, at least 1.
    pub max_concurrent: u32,
}

impl MetricsApiConfig {
    /// Every name of the serving certificate, for an installation in `namespace`.
    #[must_use]
    pub fn certificate_names(&self, namespace: &str) -> Vec<String> {
        let service = &self.service;
        let mut names = vec![format!("{service}.{namespace}.svc"), format!("{service}.{namespace}.svc.cluster.local")];
        names.extend(self.names.iter().cloned());
        names
    }
}

/// Certificates of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// Secret with the authority and the serving certificate.
    pub secret: String,
    /// Secret with the gateways' certificate.
    pub client_secret: String,
    /// How long a certificate is valid, at least an hour.
    pub validity: Duration,
}

/// Bounds (law L7); each at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeLimits {
    /// Autoscalers served.
    pub autoscalers: u32,
    /// Pods read.
    pub pods: u32,
    /// Series kept of one page.
    pub series_per_page: u32,
    /// Gateways connected at once.
    pub gateways: u32,
}

/// How the API server is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KubernetesConfig {
    /// Most writes a second, at least 1.
    pub requests_per_second: u32,
    /// Time for one request, shorter than the lease's `renew_deadline`.
    pub timeout: Duration,
}

#[cfg(test)]
mod tests;
