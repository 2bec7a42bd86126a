//! The labels of a target before its page is read: what Prometheus's Kubernetes discovery and the operator give to relabelings.

use super::monitors::{copied, scheme_of};
use super::{EndpointSource, Relabelings, Scheme};
use crate::labels::LabelSet;
use crate::snapshot::{PodPhase, PodSeen, ServiceSeen};
use loadline_base::Labels;
use loadline_manifest::monitor::relabel::Relabeled;
use std::collections::BTreeMap;

const META: &str = "__meta_kubernetes_";
const PATH: &str = "__metrics_path__";
const SCHEME: &str = "__scheme__";
const ADDRESS: &str = "__address__";
const PARAM: &str = "__param_";

/// Labels under way.
pub(super) struct TargetLabels(Labels);

/// What relabelings left.
pub(super) struct Settled {
    pub(super) path: String,
    pub(super) scheme: Result<Scheme, String>,
    pub(super) labels: Labels,
    address: Option<String>,
}

impl TargetLabels {
    /// Role `pod` of the discovery.
    pub(super) fn of_pod(pod: &PodSeen, port: Option<u16>) -> Self {
        let mut labels = Labels::new();
        let mut set = |name: &str, value: &str| labels.insert(format!("{META}{name}"), value);
        set("namespace", &pod.key.namespace);
        set("pod_name", &pod.key.name);
        set("pod_uid", &pod.uid);
        set("pod_ip", &pod.ip.map(|ip| ip.to_string()).unwrap_or_default());
        set("pod_ready", if pod.ready { "true" } else { "false" });
        set("pod_phase", phase_name(pod.phase));
        set("pod_node_name", pod.node.as_deref().unwrap_or(""));
        if let Some((kind, name)) = pod.owner.as_deref().and_then(|owner| owner.split_once('/')) {
            set("pod_controller_kind", kind);
            set("pod_controller_name", name);
        }
        if let Some(container) = pod.containers.first() {
            set("pod_container_name", &container.name);
        }
        if let Some(number) = port {
            set("pod_container_port_number", &number.to_string());
            let declared = pod.ports.iter().find(|one| one.port == number);
            set("pod_container_port_name", declared.and_then(|one| one.name.as_deref()).unwrap_or(""));
            set("pod_container_port_protocol", "TCP");
        }
        for (name, value) in pod.labels.iter() {
            set(&format!("pod_label_{}", label_name(name)), value);
            set(&format!("pod_labelpresent_{}", label_name(name)), "true");
        }
        for (name, value) in pod.annotations.iter() {
            set(&format!("pod_annotation_{}", label_name(name)), value);
            set(&format!("pod_annotationpresent_{}", label_name(name)), "true");
        }
        if let Some(address) = port.and_then(|port| pod.address(port)) {
            labels.insert(ADDRESS, address);
        }
        Self(labels)
    }

    /// What role `endpoints` adds.
    pub(super) fn add_service(&mut self, service: &ServiceSeen) {
        let mut set = |name: &str, value: &str| self.0.insert(format!("{META}{name}"), value);
        set("service_name", &service.key.name);
        set("endpoints_name", &service.key.name);
        set("endpoint_ready", "true");
        for (name, value) in service.labels.iter() {
            set(&format!("service_label_{}", label_name(name)), value);
            set(&format!("service_labelpresent_{}", label_name(name)), "true");
        }
    }

    /// Labels that the operator's generated configuration sets before the monitor's own relabelings.
    pub(super) fn add_operator(
        &mut self,
        pod: &PodSeen,
        service: Option<&ServiceSeen>,
        source: &EndpointSource,
        endpoint: &str,
    ) {
        let mut set = |name: &str, value: &str| self.0.insert(name, value);
        set("namespace", &pod.key.namespace);
        set("pod", &pod.key.name);
        if let Some(container) = pod.containers.first() {
            set("container", &container.name);
        }
        if !endpoint.is_empty() {
            set("endpoint", endpoint);
        }
        match (service, source) {
            (Some(service), _) => {
                set("service", &service.key.name);
                set("job", &service.key.name);
            }
            (None, EndpointSource::PodMonitor(key)) => set("job", &key.to_string()),
            (None, _) => {}
        }
        if let Some(port) = self.0.get(ADDRESS).map(str::to_owned) {
            self.0.insert("instance", port);
        }
    }

    /// Copies labels of an object.
    pub(super) fn copy(&mut self, from: &LabelSet, names: &[String]) {
        for (name, value) in copied(from, names).iter() {
            self.0.insert(name, value);
        }
    }

    pub(super) fn set_page(&mut self, path: &str, scheme: Scheme, params: &BTreeMap<String, Vec<String>>) {
        self.0.insert(PATH, path);
        self.0.insert(SCHEME, if scheme == Scheme::Https { "https" } else { "http" });
        for (name, values) in params {
            if let Some(first) = values.first() {
                self.0.insert(format!("{PARAM}{name}"), first.as_str());
            }
        }
    }

    /// Runs the steps; `None` where one drops the target.
    pub(super) fn relabel(self, steps: &Relabelings) -> Option<Settled> {
        let mut labels = self.0;
        if steps.rules().target(&mut labels) == Relabeled::Dropped {
            return None;
        }
        let query: Vec<String> = labels
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix(PARAM)?, value)))
            .map(|(name, value)| format!("{}={}", crate::usage::percent(name), crate::usage::percent(value)))
            .collect();
        let path = labels.get(PATH).unwrap_or(super::DEFAULT_PATH);
        Some(Settled {
            path: if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) },
            scheme: scheme_of(labels.get(SCHEME)),
            address: labels.get(ADDRESS).map(str::to_owned),
            labels: labels.iter().filter(|(name, value)| !name.starts_with("__") && !value.is_empty()).collect(),
        })
    }
}

impl Settled {
    /// The port that relabelings left in the address, where it is not the one the target began with. Another host is not followed: what is
    /// read there would not be this pod's.
    pub(super) fn port(&self, pod: &PodSeen) -> Result<Option<u16>, String> {
        let Some(address) = &self.address else { return Ok(None) };
        let Some((host, port)) = address.rsplit_once(':') else {
            return Err(format!("relabelings leave address `{address}` without a port; write `host:port`"));
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if pod.ip.is_some_and(|ip| ip.to_string() != host) {
            return Err(format!(
                "relabelings move the page to `{address}`, which is not this pod; only its port may change"
            ));
        }
        port.parse().map(Some).map_err(|_| format!("relabelings leave port `{port}`; write a number"))
    }
}

const fn phase_name(phase: PodPhase) -> &'static str {
    match phase {
        PodPhase::Pending => "Pending",
        PodPhase::Running => "Running",
        PodPhase::Succeeded => "Succeeded",
        PodPhase::Failed => "Failed",
    }
}

/// A Kubernetes name as part of a label's name: what is not a letter, digit or underscore becomes an underscore.
pub(super) fn label_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}
