//! From text to a usable configuration.

use super::raw::{RawKubernetes, RawLease, RawLimits, RawMetricsApi, RawScrape, RawServe, RawTls};
use super::{
    DiscoveryConfig, KubernetesConfig, LeaseConfig, MetricsApiConfig, ScrapeConfig, ServeConfig, ServeLimits,
    TlsConfig, defaults,
};
use crate::config::{count, size, span, text};
use crate::defaults::Entry;
use crate::hpa::names;
use crate::yaml::{self, Fault, Faults, Limits, Node};
use loadline_base::format_duration;
use std::time::Duration;

/// The shortest validity of a certificate: shorter ones would be replaced faster than they reach every client.
const MIN_VALIDITY: Duration = Duration::from_secs(3_600);

/// Reads `serve.yaml`. An empty text is a file with every default.
///
/// # Errors
/// Everything wrong in it, each with its place.
pub fn read_serve(file: &str, text: &str, limits: &Limits) -> Result<ServeConfig, Faults> {
    let written = if yaml::read_documents(file, text, limits)?.is_empty() { "{}" } else { text };
    let node = yaml::read_one(file, written, limits)?;
    let raw: RawServe = yaml::from_node(file, &node)?;
    let mut reader = Reader { file, node: &node, faults: Vec::new() };
    let config = reader.config(raw);
    Faults::check(reader.faults)?;
    Ok(config)
}

struct Reader<'a> {
    file: &'a str,
    node: &'a Node,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn wrong(&mut self, path: &str, message: impl Into<String>) {
        self.faults.push(Fault::new(self.file, self.node.locate(path), path, message.into()));
    }

    fn config(&mut self, raw: RawServe) -> ServeConfig {
        let discovery = raw.discovery.unwrap_or_default();
        let lease = self.lease(raw.lease.unwrap_or_default());
        if let Some((name, fault)) = raw.namespace.as_ref().and_then(|name| Some((name, names::label_fault(name)?))) {
            self.wrong(defaults::NAMESPACE.field, format!("`{name}` is no namespace: {fault}"));
        }
        ServeConfig {
            namespace: raw.namespace,
            gpu_budget: raw.gpu_budget,
            scrape: self.scrape(raw.scrape.unwrap_or_default()),
            discovery: DiscoveryConfig {
                autoscalers: discovery.autoscalers.unwrap_or(defaults::DISCOVER_AUTOSCALERS.switch()),
                hpas: discovery.hpas.unwrap_or(defaults::DISCOVER_HPAS.switch()),
                monitors: discovery.monitors.unwrap_or(defaults::DISCOVER_MONITORS.switch()),
                annotations: discovery.annotations.unwrap_or(defaults::DISCOVER_ANNOTATIONS.switch()),
            },
            kubernetes: self.kubernetes(raw.kubernetes.unwrap_or_default(), &lease),
            lease,
            metrics_api: self.metrics_api(raw.metrics_api.unwrap_or_default()),
            admin_listen: self.address(raw.admin.and_then(|admin| admin.listen), &defaults::ADMIN_LISTEN),
            link_listen: self.address(raw.link.and_then(|link| link.listen), &defaults::LINK_LISTEN),
            tls: self.tls(raw.tls.unwrap_or_default()),
            limits: self.limits(&raw.limits.unwrap_or_default()),
            status_period: span(raw.status.and_then(|status| status.period), &defaults::STATUS_PERIOD),
            checkpoint_period: self.positive(
                span(raw.checkpoint.and_then(|checkpoint| checkpoint.period), &defaults::CHECKPOINT_PERIOD),
                &defaults::CHECKPOINT_PERIOD,
            ),
        }
    }

    fn scrape(&mut self, raw: RawScrape) -> ScrapeConfig {
        ScrapeConfig {
            period: self.positive(span(raw.period, &defaults::SCRAPE_PERIOD), &defaults::SCRAPE_PERIOD),
            timeout: self.positive(span(raw.timeout, &defaults::SCRAPE_TIMEOUT), &defaults::SCRAPE_TIMEOUT),
            max_body_bytes: size(raw.max_body_bytes, &defaults::SCRAPE_MAX_BODY),
            max_concurrent: self.at_least_one(raw.max_concurrent, &defaults::SCRAPE_CONCURRENT),
            respect_monitor_interval: raw.respect_monitor_interval.unwrap_or(defaults::RESPECT_INTERVAL.switch()),
        }
    }

    fn lease(&mut self, raw: RawLease) -> LeaseConfig {
        let lease = LeaseConfig {
            name: self.object_name(raw.name, &defaults::LEASE_NAME),
            duration: span(raw.duration, &defaults::LEASE_DURATION),
            renew_deadline: span(raw.renew_deadline, &defaults::LEASE_RENEW),
            retry_period: self.positive(span(raw.retry_period, &defaults::LEASE_RETRY), &defaults::LEASE_RETRY),
        };
        // whole seconds: the Lease object holds no fraction
        if lease.duration.subsec_nanos() != 0 {
            self.wrong(
                defaults::LEASE_DURATION.field,
                "must be a whole number of seconds, as the Lease object holds it",
            );
        }
        if lease.duration <= lease.renew_deadline {
            let message = format!(
                "is {}, not longer than `lease.renewDeadline` {}; a writer must stop before another may begin",
                format_duration(lease.duration),
                format_duration(lease.renew_deadline)
            );
            self.wrong(defaults::LEASE_DURATION.field, message);
        }
        if lease.renew_deadline <= lease.retry_period {
            let message = format!(
                "is {}, not longer than `lease.retryPeriod` {}; one failed attempt would end the writer",
                format_duration(lease.renew_deadline),
                format_duration(lease.retry_period)
            );
            self.wrong(defaults::LEASE_RENEW.field, message);
        }
        lease
    }

    fn kubernetes(&mut self, raw: RawKubernetes, lease: &LeaseConfig) -> KubernetesConfig {
        let timeout = self.positive(span(raw.timeout, &defaults::API_TIMEOUT), &defaults::API_TIMEOUT);
        if timeout >= lease.renew_deadline {
            let message = format!(
                "is {}, not shorter than `lease.renewDeadline` {}; one slow answer would end the writer",
                format_duration(timeout),
                format_duration(lease.renew_deadline)
            );
            self.wrong(defaults::API_TIMEOUT.field, message);
        }
        KubernetesConfig {
            requests_per_second: self.at_least_one(raw.requests_per_second, &defaults::API_QPS),
            timeout,
        }
    }

    fn metrics_api(&mut self, raw: RawMetricsApi) -> MetricsApiConfig {
        let extra = raw.names.unwrap_or_default();
        for (index, name) in extra.iter().enumerate() {
            if let Some(fault) = names::subdomain_fault(name) {
                self.wrong(&format!("metricsApi.names[{index}]"), format!("`{name}` is no host name: {fault}"));
            }
        }
        MetricsApiConfig {
            listen: self.address(raw.listen, &defaults::API_LISTEN),
            custom: raw.custom.unwrap_or(defaults::API_CUSTOM.switch()),
            external: raw.external.unwrap_or(defaults::API_EXTERNAL.switch()),
            service: self.object_name(raw.service, &defaults::API_SERVICE),
            names: extra,
            token_cache: span(raw.token_cache, &defaults::API_TOKEN_CACHE),
            access_cache: span(raw.access_cache, &defaults::API_ACCESS_CACHE),
            max_concurrent: self.at_least_one(raw.max_concurrent, &defaults::API_CONCURRENT),
        }
    }

    fn tls(&mut self, raw: RawTls) -> TlsConfig {
        let validity = span(raw.validity, &defaults::TLS_VALIDITY);
        if validity < MIN_VALIDITY {
            let message = format!(
                "is {}; must be at least {}, so that every client learns of a new certificate in time",
                format_duration(validity),
                format_duration(MIN_VALIDITY)
            );
            self.wrong(defaults::TLS_VALIDITY.field, message);
        }
        TlsConfig {
            secret: self.object_name(raw.secret, &defaults::TLS_SECRET),
            client_secret: self.object_name(raw.client_secret, &defaults::TLS_CLIENT_SECRET),
            validity,
        }
    }

    fn limits(&mut self, raw: &RawLimits) -> ServeLimits {
        ServeLimits {
            autoscalers: self.at_least_one(raw.autoscalers, &defaults::MAX_AUTOSCALERS),
            pods: self.at_least_one(raw.pods, &defaults::MAX_PODS),
            series_per_page: self.at_least_one(raw.series_per_page, &defaults::MAX_SERIES),
            gateways: self.at_least_one(raw.gateways, &defaults::MAX_GATEWAYS),
        }
    }

    fn at_least_one(&mut self, written: Option<u32>, default: &Entry) -> u32 {
        let value = count(written, default);
        if value == 0 {
            self.wrong(default.field, "must be at least 1");
        }
        value
    }

    fn positive(&mut self, value: Duration, default: &Entry) -> Duration {
        if value.is_zero() {
            self.wrong(default.field, "must be longer than zero; write for example `1s`");
        }
        value
    }

    fn address(&mut self, written: Option<String>, default: &Entry) -> String {
        let value = text(written, default);
        let is_right = value
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok());
        if !is_right {
            self.wrong(default.field, format!("`{value}` is not `host:port`; write for example `{}`", default.text()));
        }
        value
    }

    fn object_name(&mut self, written: Option<String>, default: &Entry) -> String {
        let value = text(written, default);
        if let Some(fault) = names::subdomain_fault(&value) {
            self.wrong(default.field, format!("`{value}` is no object name: {fault}"));
        }
        value
    }
}
