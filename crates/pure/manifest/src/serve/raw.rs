//! `serve.yaml` as written: every field optional, unknown ones refused.

use crate::config::{Size, Span};
use serde::{Deserialize, Serialize};

macro_rules! raw {
    ($name:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        pub(super) struct $name {
            $(#[serde(skip_serializing_if = "Option::is_none")] pub(super) $field: Option<$kind>,)*
        }
    };
}

raw!(RawServe {
    namespace: String,
    gpu_budget: u32,
    scrape: RawScrape,
    discovery: RawDiscovery,
    lease: RawLease,
    metrics_api: RawMetricsApi,
    admin: RawListen,
    link: RawListen,
    tls: RawTls,
    limits: RawLimits,
    status: RawPeriod,
    checkpoint: RawPeriod,
    kubernetes: RawKubernetes,
});
raw!(RawScrape {
    period: Span,
    timeout: Span,
    max_body_bytes: Size,
    max_concurrent: u32,
    respect_monitor_interval: bool,
});
raw!(RawDiscovery { autoscalers: bool, hpas: bool, monitors: bool, annotations: bool });
raw!(RawLease { name: String, duration: Span, renew_deadline: Span, retry_period: Span });
raw!(RawMetricsApi {
    listen: String, custom: bool, external: bool, service: String, names: Vec<String>, token_cache: Span,
    access_cache: Span, max_concurrent: u32,
});
raw!(RawListen { listen: String });
raw!(RawTls { secret: String, client_secret: String, validity: Span });
raw!(RawLimits { autoscalers: u32, pods: u32, series_per_page: u32, gateways: u32 });
raw!(RawPeriod { period: Span });
raw!(RawKubernetes { requests_per_second: u32, timeout: Span });
