//! Which pages are read: pure functions over what was seen.
//!
//! Precedence. A pod whose annotation `loadline.dev/scrape` is `false` is not read at all. Pages come from `spec.scrape` of an
//! InferenceAutoscaler and from PodMonitors and ServiceMonitors together; only where these give none, from the pod's annotations; only where
//! there are none either, and the pod belongs to the target of an InferenceAutoscaler or of an HPA with Pods or Object metrics, its first
//! metrics port is tried. Of two sources that name the same port and path, the one first in [`EndpointSource`] is kept.

mod annotations;
mod endpoint;
mod monitors;
mod relabel;
mod rules;
#[cfg(test)]
mod tests;

pub use endpoint::{
    EndpointSource, EndpointTls, EngineKind, HolderKind, NotScraped, PodScrape, PortRef, Relabelings, Scheme,
    ScrapeEndpoint, ValueRef,
};
pub(crate) use rules::{Rules, RulesInput};

use crate::snapshot::{PodPhase, PodSeen};
use loadline_base::Labels;
use loadline_manifest::autoscaler::ScrapeSpec;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The path of a page where nobody says another.
pub const DEFAULT_PATH: &str = "/metrics";
/// Names of ports that are tried where nobody names one, best first; after them the first port of all.
pub const METRICS_PORTS: [&str; 4] = ["metrics", "http-metrics", "http", "api"];
/// Pages of one pod.
const MAX_PAGES: usize = 16;
/// Longest path with query.
const MAX_PATH: usize = 2_048;

/// A page as a source asks for it, before the port is looked up.
#[derive(Debug, Clone)]
struct Asked {
    source: EndpointSource,
    port: Option<PortRef>,
    path: Arc<str>,
    scheme: Scheme,
    engine: EngineKind,
    period: Option<Duration>,
    bearer: Option<ValueRef>,
    tls: EndpointTls,
    labels: Labels,
    honor_labels: bool,
    metric_relabelings: Relabelings,
}

impl Asked {
    fn plain(source: EndpointSource) -> Self {
        Self {
            source,
            port: None,
            path: DEFAULT_PATH.into(),
            scheme: Scheme::Http,
            engine: EngineKind::Auto,
            period: None,
            bearer: None,
            tls: EndpointTls::default(),
            labels: Labels::new(),
            honor_labels: false,
            metric_relabelings: Relabelings::default(),
        }
    }
}

/// What one pod is scraped at, and why not where it is not.
pub(crate) fn scrape_of(rules: &Rules, pod: &PodSeen) -> PodScrape {
    let mut out = PodScrape::default();
    if annotations::opted_out(pod) {
        out.reasons.push(NotScraped::OptedOut);
        return out;
    }
    let mut asked = Vec::new();
    for rule in rules.autoscalers_of(pod) {
        if let Some(scrape) = &rule.scrape {
            asked.push(of_spec(rule, scrape));
        }
    }
    rules.monitors_of(pod, &mut asked, &mut out.reasons);
    if asked.is_empty() {
        annotations::asked(pod, &mut asked, &mut out.reasons);
    }
    if asked.is_empty() && out.reasons.is_empty() {
        let autoscaler =
            rules.autoscalers_of(pod).next().map(|rule| EndpointSource::AutoscalerDefault(rule.key.clone()));
        let hpa = || rules.hpas_of(pod).next().map(|rule| EndpointSource::HpaDefault(rule.key.clone()));
        asked.extend(
            autoscaler.or_else(hpa).map(|source| Asked { engine: annotations::engine(pod), ..Asked::plain(source) }),
        );
    }
    if asked.is_empty() {
        if out.reasons.is_empty() {
            out.reasons.push(NotScraped::NotSelected);
        }
        return out;
    }
    let runs = pod.phase == PodPhase::Running;
    let Some(ip) = pod.ip.filter(|_| runs) else {
        out.reasons.push(NotScraped::NotRunning);
        return out;
    };
    asked.sort_by(|a, b| a.source.cmp(&b.source));
    for one in asked {
        settle(pod, ip, one, &mut out);
    }
    out
}

/// Looks the port up and keeps the page, or says why not.
fn settle(pod: &PodSeen, ip: std::net::IpAddr, asked: Asked, out: &mut PodScrape) {
    let port = match &asked.port {
        Some(wanted) => pod.port(wanted).ok_or_else(|| NotScraped::NoSuchPort {
            source: asked.source.clone(),
            port: wanted.to_string(),
            declared: declared(pod),
        }),
        None => first_metrics_port(pod).ok_or_else(|| NotScraped::NoPorts { source: asked.source.clone() }),
    };
    let port = match port {
        Ok(port) => port,
        Err(reason) => return out.reasons.push(reason),
    };
    if !asked.path.starts_with('/') || asked.path.len() > MAX_PATH || asked.path.contains(char::is_whitespace) {
        let why = format!("path `{}` is not usable; write `/metrics`, at most {MAX_PATH} characters", asked.path);
        return out.reasons.push(NotScraped::Invalid { source: asked.source, why });
    }
    let same = |other: &&ScrapeEndpoint| other.address.port() == port && other.path == asked.path;
    if let Some(by) = out.endpoints.iter().find(same).map(|other| other.source.clone()) {
        return out.reasons.push(NotScraped::Covered { source: asked.source, by });
    }
    if out.endpoints.len() >= MAX_PAGES {
        let why = format!("the pod has more than {MAX_PAGES} pages; this one is left out");
        return out.reasons.push(NotScraped::Invalid { source: asked.source, why });
    }
    out.endpoints.push(ScrapeEndpoint {
        pod: pod.key.clone(),
        uid: Arc::clone(&pod.uid),
        address: SocketAddr::new(ip, port),
        path: asked.path,
        scheme: asked.scheme,
        engine: asked.engine,
        period: asked.period,
        bearer: asked.bearer,
        tls: asked.tls,
        labels: asked.labels,
        honor_labels: asked.honor_labels,
        metric_relabelings: asked.metric_relabelings,
        source: asked.source,
    });
}

fn of_spec(rule: &rules::TargetRule, scrape: &ScrapeSpec) -> Asked {
    let namespace = &rule.key.namespace;
    let value = |kind, name: &str, key: &str| ValueRef {
        kind,
        object: crate::key::Key::new(Arc::clone(namespace), name),
        key: key.into(),
    };
    let tls = scrape.tls.as_ref().map(|tls| EndpointTls {
        ca: tls.ca.as_ref().and_then(|ca| {
            let secret = ca.secret.as_ref().map(|one| value(HolderKind::Secret, &one.name, &one.key));
            secret.or_else(|| ca.config_map.as_ref().map(|one| value(HolderKind::ConfigMap, &one.name, &one.key)))
        }),
        insecure_skip_verify: tls.insecure_skip_verify,
        server_name: tls.server_name.as_deref().map(Arc::from),
    });
    Asked {
        port: scrape.port.as_ref().map(port_ref),
        path: scrape.path.as_deref().map_or_else(|| DEFAULT_PATH.into(), Arc::from),
        scheme: scrape.scheme.unwrap_or_default(),
        engine: scrape.engine.unwrap_or_default(),
        period: scrape.interval.map(|interval| interval.0),
        bearer: scrape.bearer_token_secret.as_ref().map(|one| value(HolderKind::Secret, &one.name, &one.key)),
        tls: tls.unwrap_or_default(),
        ..Asked::plain(EndpointSource::Autoscaler(rule.key.clone()))
    }
}

fn port_ref(port: &loadline_manifest::autoscaler::IntOrString) -> PortRef {
    port.number().map_or_else(|| PortRef::Name(port.name().unwrap_or_default().into()), PortRef::Number)
}

fn first_metrics_port(pod: &PodSeen) -> Option<u16> {
    METRICS_PORTS
        .iter()
        .find_map(|name| pod.ports.iter().find(|port| port.name.as_deref() == Some(name)))
        .or_else(|| pod.ports.first())
        .map(|port| port.port)
}

fn declared(pod: &PodSeen) -> String {
    if pod.ports.is_empty() {
        return "no port".to_owned();
    }
    let ports: Vec<String> = pod
        .ports
        .iter()
        .map(|port| format!("`{}={}`", port.name.as_deref().unwrap_or("(no name)"), port.port))
        .collect();
    ports.join(", ")
}
