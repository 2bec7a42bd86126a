//! Pages that PodMonitors and ServiceMonitors name, as the Prometheus operator reads them.

use super::{
    Asked, DEFAULT_PATH, EndpointSource, EndpointTls, HolderKind, NotScraped, PortRef, Relabelings, Scheme, ValueRef,
    relabel,
};
use crate::key::Key;
use crate::labels::{LabelSet, RawExpression, RawSelector, Selector};
use crate::snapshot::{PodSeen, ServiceSeen, Snapshot};
use loadline_base::{Labels, parse_duration};
use loadline_manifest::monitor::{Endpoint, MonitorSpec, NamespaceSelector, SecretKey, TlsConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Endpoints of one monitor.
const MAX_ENDPOINTS: usize = 32;

/// Which pods.
#[derive(Debug, Clone, PartialEq)]
enum Selects {
    /// By their labels, in the namespaces of the monitor.
    Pods { selector: Selector, own: Arc<str>, namespaces: NamespaceSelector },
    /// Those behind one Service.
    Behind { namespace: Arc<str>, selector: Option<Arc<Selector>>, listed: BTreeSet<Key>, service: Arc<ServiceSeen> },
}

/// One monitor; of a ServiceMonitor, one Service that it selects.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct MonitorRule {
    source: EndpointSource,
    selects: Selects,
    pages: Vec<Page>,
    pod_labels: Vec<String>,
    service_labels: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
struct Page {
    /// The name of the port as the operator writes it into label `endpoint`.
    endpoint: String,
    port: Result<Option<PortRef>, String>,
    path: String,
    scheme: Result<Scheme, String>,
    params: BTreeMap<String, Vec<String>>,
    interval: Option<Duration>,
    bearer: Option<ValueRef>,
    tls: EndpointTls,
    honor_labels: bool,
    relabelings: Relabelings,
    metric_relabelings: Relabelings,
    problem: Option<String>,
}

impl MonitorRule {
    pub(super) fn of_pods(key: &Key, spec: &Result<MonitorSpec, Arc<str>>) -> Self {
        let empty = MonitorSpec::default();
        let source = EndpointSource::PodMonitor(key.clone());
        let read = spec.as_ref().unwrap_or(&empty);
        let pages = read.pod_metrics_endpoints.iter().take(MAX_ENDPOINTS).map(|endpoint| {
            let port = endpoint
                .port
                .as_deref()
                .map(|name| PortRef::Name(name.into()))
                .or_else(|| endpoint.port_number.map(PortRef::Number))
                .or_else(|| endpoint.target_port.as_ref().map(super::port_ref));
            Page::new(key, endpoint, Ok(port))
        });
        Self {
            selects: Selects::Pods {
                // one that cannot be read selects nothing
                selector: selector_of(read).unwrap_or_default(),
                own: Arc::clone(&key.namespace),
                namespaces: read.namespace_selector.clone(),
            },
            pages: if spec.is_ok() && selector_of(read).is_ok() { pages.collect() } else { Vec::new() },
            pod_labels: read.pod_target_labels.clone(),
            service_labels: Vec::new(),
            source,
        }
    }

    pub(super) fn of_services(key: &Key, spec: &Result<MonitorSpec, Arc<str>>, view: &Snapshot) -> Vec<Self> {
        let Ok(read) = spec else { return Vec::new() };
        let Ok(selector) = selector_of(read) else { return Vec::new() };
        let selected = view.services.values().filter(|service| {
            read.namespace_selector.selects(&key.namespace, &service.key.namespace) && selector.matches(&service.labels)
        });
        selected
            .map(|service| {
                let pages = read.endpoints.iter().take(MAX_ENDPOINTS);
                let pages = pages.map(|endpoint| Page::new(key, endpoint, service_port(endpoint, service))).collect();
                Self {
                    source: EndpointSource::ServiceMonitor(key.clone()),
                    selects: Selects::Behind {
                        namespace: Arc::clone(&service.key.namespace),
                        selector: service.selector.clone(),
                        // a Service without a selector has slices that somebody else makes
                        listed: if service.selector.is_none() { listed(view, &service.key) } else { BTreeSet::new() },
                        service: Arc::clone(service),
                    },
                    pages,
                    pod_labels: read.pod_target_labels.clone(),
                    service_labels: read.target_labels.clone(),
                }
            })
            .collect()
    }

    pub(super) fn forget_interval(&mut self) {
        for page in &mut self.pages {
            page.interval = None;
        }
    }

    pub(super) fn ask(&self, pod: &PodSeen, asked: &mut Vec<Asked>, reasons: &mut Vec<NotScraped>) {
        let (selected, service) = match &self.selects {
            Selects::Pods { selector, own, namespaces } => {
                (namespaces.selects(own, &pod.key.namespace) && selector.matches(&pod.labels), None)
            }
            Selects::Behind { namespace, selector, listed, service } => {
                let behind = match selector {
                    Some(selector) => *namespace == pod.key.namespace && selector.matches(&pod.labels),
                    None => listed.contains(&pod.key),
                };
                (behind, Some(service))
            }
        };
        if !selected {
            return;
        }
        for page in &self.pages {
            match self.page(page, pod, service) {
                Ok(one) => asked.push(one),
                Err(reason) => reasons.push(reason),
            }
        }
    }

    fn page(&self, page: &Page, pod: &PodSeen, service: Option<&Arc<ServiceSeen>>) -> Result<Asked, NotScraped> {
        let source = &self.source;
        let invalid = |why: String| NotScraped::Invalid { source: source.clone(), why };
        if let Some(problem) = &page.problem {
            return Err(invalid(problem.clone()));
        }
        let port = page.port.clone().map_err(invalid)?;
        let scheme = page.scheme.clone().map_err(invalid)?;
        let number = match &port {
            Some(wanted) => pod.port(wanted),
            None => super::first_metrics_port(pod),
        };
        let mut target = relabel::TargetLabels::of_pod(pod, number);
        if let Some(service) = service {
            target.add_service(service);
        }
        target.add_operator(pod, service.map(|service| &**service), source, &page.endpoint);
        target.copy(&pod.labels, &self.pod_labels);
        if let Some(service) = service {
            target.copy(&service.labels, &self.service_labels);
        }
        target.set_page(&page.path, scheme, &page.params);
        let settled =
            target.relabel(&page.relabelings).ok_or_else(|| NotScraped::Dropped { source: source.clone() })?;
        // a relabeling may have moved the page to another port of the same pod
        let port = settled.port(pod).map_err(invalid)?.map(PortRef::Number).or(port);
        Ok(Asked {
            port,
            path: settled.path.as_str().into(),
            scheme: settled.scheme.map_err(invalid)?,
            period: page.interval,
            bearer: page.bearer.clone(),
            tls: page.tls.clone(),
            labels: settled.labels,
            honor_labels: page.honor_labels,
            metric_relabelings: page.metric_relabelings.clone(),
            engine: super::annotations::engine(pod),
            ..Asked::plain(source.clone())
        })
    }
}

impl Page {
    fn new(monitor: &Key, endpoint: &Endpoint, port: Result<Option<PortRef>, String>) -> Self {
        let mut problem = None;
        let interval = endpoint
            .interval
            .as_deref()
            .filter(|text| !text.is_empty())
            .and_then(|text| parse_duration(text).map_err(|why| problem = Some(format!("interval: {why}"))).ok());
        if endpoint.bearer_token_file.is_some() && endpoint.bearer_token_secret.is_none() {
            problem = Some(
                "`bearerTokenFile` is a file in Prometheus's own container; put the token into a Secret and use `authorization`".to_owned(),
            );
        }
        let authorization = endpoint.authorization.as_ref();
        if let Some(kind) = authorization.and_then(|one| one.kind.as_deref())
            && !kind.eq_ignore_ascii_case("bearer")
        {
            problem = Some(format!("`authorization.type` is `{kind}`; only `Bearer` can be sent"));
        }
        let token = authorization.and_then(|one| one.credentials.as_ref()).or(endpoint.bearer_token_secret.as_ref());
        if endpoint.tls_config.as_ref().is_some_and(|tls| tls.ca_file.is_some() && tls.ca.is_none()) {
            problem = Some(
                "`tlsConfig.caFile` is a file in Prometheus's own container; put the authority into a Secret or ConfigMap and use `tlsConfig.ca`"
                    .to_owned(),
            );
        }
        let mut relabelings = |field: &str, written: &[_]| match Relabelings::compile(written) {
            Ok(compiled) => compiled,
            Err(why) => {
                problem = Some(format!("`{field}`: {why}"));
                Relabelings::default()
            }
        };
        let (target, series) = (
            relabelings("relabelings", &endpoint.relabelings),
            relabelings("metricRelabelings", &endpoint.metric_relabelings),
        );
        let endpoint_name = match (&endpoint.port, &endpoint.target_port) {
            (Some(name), _) => name.clone(),
            (None, Some(port)) => super::port_ref(port).to_string(),
            (None, None) => String::new(),
        };
        Self {
            endpoint: endpoint_name,
            port,
            path: endpoint.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| DEFAULT_PATH.to_owned()),
            scheme: scheme_of(endpoint.scheme.as_deref()),
            params: endpoint.params.clone(),
            interval,
            bearer: token
                .filter(|token| !token.name.is_empty())
                .map(|token| value_ref(monitor, HolderKind::Secret, token)),
            tls: endpoint.tls_config.as_ref().map(|tls| tls_of(monitor, tls)).unwrap_or_default(),
            honor_labels: endpoint.honor_labels,
            relabelings: target,
            metric_relabelings: series,
            problem,
        }
    }
}

pub(super) fn scheme_of(text: Option<&str>) -> Result<Scheme, String> {
    match text.map(str::to_ascii_lowercase).as_deref() {
        None | Some("" | "http") => Ok(Scheme::Http),
        Some("https") => Ok(Scheme::Https),
        Some(other) => Err(format!("scheme is `{other}`; write `http` or `https`")),
    }
}

/// A ServiceMonitor names a port of the Service, or (`targetPort`) one of the pods.
fn service_port(endpoint: &Endpoint, service: &ServiceSeen) -> Result<Option<PortRef>, String> {
    let Some(name) = &endpoint.port else { return Ok(endpoint.target_port.as_ref().map(super::port_ref)) };
    let port = service.ports.iter().find(|port| port.name.as_deref() == Some(name));
    port.map(|port| Some(port.target.clone())).ok_or_else(|| {
        let names: Vec<&str> = service.ports.iter().filter_map(|port| port.name.as_deref()).collect();
        format!("port `{name}` is not a named port of Service {}; it has `{}`", service.key, names.join("`, `"))
    })
}

fn listed(view: &Snapshot, service: &Key) -> BTreeSet<Key> {
    view.slices
        .values()
        .filter(|slice| slice.key.namespace == service.namespace && slice.service.as_ref() == Some(&service.name))
        .flat_map(|slice| slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.clone()))
        .collect()
}

fn selector_of(spec: &MonitorSpec) -> Result<Selector, String> {
    let expressions = spec.selector.match_expressions.iter().map(|one| RawExpression {
        key: one.key.clone(),
        operator: one.operator.clone(),
        values: one.values.clone(),
    });
    Selector::from_raw(&RawSelector {
        match_labels: spec.selector.match_labels.clone(),
        match_expressions: expressions.collect(),
    })
}

fn value_ref(monitor: &Key, kind: HolderKind, key: &SecretKey) -> ValueRef {
    let object = Key::new(Arc::clone(&monitor.namespace), key.name.as_str());
    ValueRef { kind, object, key: key.key.as_str().into() }
}

fn tls_of(monitor: &Key, tls: &TlsConfig) -> EndpointTls {
    let ca = tls.ca.as_ref();
    let secret = ca.and_then(|ca| ca.secret.as_ref()).map(|one| value_ref(monitor, HolderKind::Secret, one));
    let map = || ca.and_then(|ca| ca.config_map.as_ref()).map(|one| value_ref(monitor, HolderKind::ConfigMap, one));
    EndpointTls {
        ca: secret.or_else(map),
        insecure_skip_verify: tls.insecure_skip_verify,
        server_name: tls.server_name.as_deref().map(Arc::from),
    }
}

/// Labels that a monitor copies from an object; a name is made fit for a label as the operator does.
pub(super) fn copied(from: &LabelSet, names: &[String]) -> Labels {
    names.iter().filter_map(|name| Some((relabel::label_name(name), from.get(name)?))).collect()
}
