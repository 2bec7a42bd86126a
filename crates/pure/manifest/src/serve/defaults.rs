//! Every default of `serve.yaml`.

use crate::defaults::{Entry, Setting, entry};
use std::time::Duration;

const fn secs(seconds: u64) -> Setting {
    Setting::Span(Duration::from_secs(seconds))
}

macro_rules! table {
    ($($(#[$doc:meta])* $name:ident = $field:literal, $value:expr, $meaning:literal, $source:literal;)*) => {
        $($(#[$doc])* pub const $name: Entry = entry($field, $value, $meaning, $source);)*
        /// Every default, in the order of the reference page.
        pub const TABLE: &[Entry] = &[$($name),*];
    };
}

table! {
    /// Namespaces.
    NAMESPACE = "namespace", Setting::Unset("all namespaces"), "the one namespace whose autoscalers, HPAs and pods are watched and served", "an operator's choice";
    /// GPUs over all autoscalers.
    GPU_BUDGET = "gpuBudget", Setting::Unset("no limit over all autoscalers"), "GPUs that the replicas of all autoscalers together may take (`spec.gpusPerReplica`)", "an operator's choice";
    /// Scrape period.
    SCRAPE_PERIOD = "scrape.period", secs(1), "how often each pod's metrics page is read", "queues of short requests move within seconds";
    /// Scrape timeout.
    SCRAPE_TIMEOUT = "scrape.timeout", secs(2), "time for one page, connecting included", "two periods: after them a value is stale anyway";
    /// Largest page.
    SCRAPE_MAX_BODY = "scrape.maxBodyBytes", Setting::Bytes(8 << 20), "largest page, as sent and decompressed", "Ray's pages, the largest known, have 0.6 MB";
    /// Scrapes at once.
    SCRAPE_CONCURRENT = "scrape.maxConcurrent", Setting::Count(256), "most pages read at once", "2,000 pods a second at 100 ms each";
    /// Interval of monitors.
    RESPECT_INTERVAL = "scrape.respectMonitorInterval", Setting::Switch(false), "read pods of a PodMonitor or ServiceMonitor as seldom as its `interval` says", "15 s and more is what makes autoscaling slow";
    /// Our own autoscalers.
    DISCOVER_AUTOSCALERS = "discovery.autoscalers", Setting::Switch(true), "read the pods of `InferenceAutoscaler` targets", "what they are scaled on";
    /// Targets of HPAs.
    DISCOVER_HPAS = "discovery.hpas", Setting::Switch(true), "read the pods of targets of a HorizontalPodAutoscaler that names a `Pods`, `Object` or `External` metric", "the stock HPA works without further set-up";
    /// Monitors.
    DISCOVER_MONITORS = "discovery.monitors", Setting::Switch(true), "read pods that a PodMonitor or ServiceMonitor selects, where those kinds exist", "they say how pages are read already";
    /// Annotations.
    DISCOVER_ANNOTATIONS = "discovery.annotations", Setting::Switch(true), "read pods with `loadline.dev/scrape` or `prometheus.io/scrape`", "exporters beside the engines";
    /// Lease.
    LEASE_NAME = "lease.name", Setting::Text("loadline"), "name of the Lease in the namespace of `loadline serve`", "one per installation";
    /// Lease duration.
    LEASE_DURATION = "lease.duration", secs(15), "a writer that was not heard of for so long is taken over", "the Kubernetes controllers' default";
    /// Renewal deadline.
    LEASE_RENEW = "lease.renewDeadline", secs(10), "a writer that could not renew for so long stops writing", "the Kubernetes controllers' default";
    /// Retry.
    LEASE_RETRY = "lease.retryPeriod", secs(2), "between two attempts to get or renew the lease", "the Kubernetes controllers' default";
    /// Metrics APIs.
    API_LISTEN = "metricsApi.listen", Setting::Text("0.0.0.0:6443"), "where the metrics APIs are served, over TLS", "an unprivileged port";
    /// Custom.
    API_CUSTOM = "metricsApi.custom", Setting::Switch(true), "serve custom.metrics.k8s.io (v1beta1 and v1beta2)", "`Pods` and `Object` metrics of HPAs";
    /// External.
    API_EXTERNAL = "metricsApi.external", Setting::Switch(true), "serve external.metrics.k8s.io (v1beta1); off where another adapter has that group", "`External` metrics of HPAs";
    /// Service.
    API_SERVICE = "metricsApi.service", Setting::Text("loadline"), "Service that the APIServices name, in the namespace of `loadline serve`; the serving certificate is made for it", "the chart's";
    /// Names.
    API_NAMES = "metricsApi.names", Setting::Unset("`SERVICE.NAMESPACE.svc` alone"), "further names of the serving certificate", "an operator's choice";
    /// Token cache.
    API_TOKEN_CACHE = "metricsApi.tokenCache", secs(10), "how long the answer to a TokenReview holds", "the Kubernetes API servers' default";
    /// Access cache.
    API_ACCESS_CACHE = "metricsApi.accessCache", secs(10), "how long the answer to a SubjectAccessReview holds", "the Kubernetes API servers' default";
    /// Requests at once.
    API_CONCURRENT = "metricsApi.maxConcurrent", Setting::Count(400), "most requests at once; further ones get 429", "the API server's limit of reads in flight";
    /// Admin.
    ADMIN_LISTEN = "admin.listen", Setting::Text("0.0.0.0:8080"), "where `/metrics`, `/healthz`, `/livez`, `/readyz` and `/status` are served, in the clear", "an unprivileged port";
    /// Link.
    LINK_LISTEN = "link.listen", Setting::Text("0.0.0.0:8443"), "where gateways connect, over mutual TLS", "an unprivileged port";
    /// Secret of the authority.
    TLS_SECRET = "tls.secret", Setting::Text("loadline-tls"), "Secret with our own authority and serving certificate, in the namespace of `loadline serve`", "the chart's";
    /// Secret of the clients.
    TLS_CLIENT_SECRET = "tls.clientSecret", Setting::Text("loadline-tls-client"), "Secret with the certificate that gateways present, in the same namespace", "the chart's";
    /// Validity.
    TLS_VALIDITY = "tls.validity", secs(90 * 86_400), "how long a certificate is valid; it is replaced after two thirds of it", "cert-manager's default";
    /// Autoscalers.
    MAX_AUTOSCALERS = "limits.autoscalers", Setting::Count(2_000), "most `InferenceAutoscaler` objects that are served", "ten times the measured scale";
    /// Pods.
    MAX_PODS = "limits.pods", Setting::Count(20_000), "most pods that are read", "ten times the measured scale";
    /// Series of one page.
    MAX_SERIES = "limits.seriesPerPage", Setting::Count(20_000), "most series kept of one page; a page with more is an error", "Ray's pages have 2,500";
    /// Gateways.
    MAX_GATEWAYS = "limits.gateways", Setting::Count(256), "most gateways connected at once", "one per namespace and name";
    /// Status.
    STATUS_PERIOD = "status.period", secs(10), "status of an unchanged autoscaler is written at most this often", "values and times stay readable without load on etcd";
    /// Checkpoints.
    CHECKPOINT_PERIOD = "checkpoint.period", secs(30), "memory of an autoscaler is written at most this often, and on every scale change", "what was lost since forbids scale-down until observed again";
    /// Requests to the API server.
    API_QPS = "kubernetes.requestsPerSecond", Setting::Count(50), "most writes a second to the API server, over all kinds", "the Kubernetes controllers' order of magnitude";
    /// Timeout of one request.
    API_TIMEOUT = "kubernetes.timeout", secs(5), "time for one request to the API server; watches excepted", "shorter than `lease.renewDeadline`, so that a second attempt fits";
}
