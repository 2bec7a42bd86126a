//! Prometheus and prometheus-adapter 0.12 with their documented periods, in Loadline's place behind custom.metrics.k8s.io.

use super::objects::NAMESPACE;
use super::pages::GAUGE;
use super::process::Running;
use super::stage::{Stage, reachable};
use anyhow::{Context, Result};
use loadline_testkit::controlplane::tools;
use serde_json::json;
use std::path::Path;
use std::process::Command;

const INSTALLED: &str = "peers";
const PROMETHEUS: &str = "127.0.0.1:9090";
const ADAPTER_PORT: u16 = 7444;

/// Both processes.
pub(crate) struct Peers {
    _prometheus: Running,
    _adapter: Running,
}

impl Peers {
    /// Starts them, gives them the APIService, and waits until the queue is a metric.
    pub(crate) async fn start(stage: &Stage) -> Result<Self> {
        let plane = &stage.plane;
        let folder = &stage.folder;
        let config = folder.join("prometheus.yml");
        std::fs::write(&config, prometheus_config(plane.kubeconfig()))?;
        let mut command = Command::new(tools::PROMETHEUS.program("prometheus")?);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()));
        command.arg(format!("--web.listen-address={PROMETHEUS}"));
        let mut prometheus = Running::start("prometheus", &mut command, folder)?;
        plane.kubectl(&["create", "namespace", INSTALLED])?;
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "adapter", "namespace": INSTALLED },
            "spec": { "ports": [{ "name": "https", "port": 443 }] },
        });
        plane.kubectl_with(&["apply", "--filename", "-"], &service.to_string())?;
        let address = reachable(plane, INSTALLED, "adapter", ("https", ADAPTER_PORT))?;
        let rules = folder.join("rules.yaml");
        std::fs::write(&rules, adapter_rules())?;
        let mut command = Command::new(tools::PROMETHEUS_ADAPTER.program("adapter")?);
        command.args([format!("--secure-port={}", address.port()), format!("--bind-address={}", address.ip())]);
        command.args([format!("--prometheus-url=http://{PROMETHEUS}"), "--metrics-relist-interval=1m".to_owned()]);
        command.arg(format!("--config={}", rules.display()));
        command.arg(format!("--cert-dir={}", folder.join("adapter-tls").display()));
        for use_ in ["lister", "authentication", "authorization"] {
            command.arg(format!("--{use_}-kubeconfig={}", plane.kubeconfig().display()));
        }
        let mut adapter = Running::start("adapter", &mut command, folder)?;
        // the adapter's chart registers v1beta1 alone, and trusts any certificate
        plane.kubectl(&["delete", "apiservice", "v1beta2.custom.metrics.k8s.io"])?;
        let spec = json!({ "spec": {
            "service": { "name": "adapter", "namespace": INSTALLED, "port": 443 }, "insecureSkipTLSVerify": true, "caBundle": null,
        }});
        plane.kubectl(&[
            "patch",
            "apiservice",
            "v1beta1.custom.metrics.k8s.io",
            "--type=merge",
            "--patch",
            &spec.to_string(),
        ])?;
        let served = stage.until_served("v1beta1", &format!("pods/{GAUGE}")).await;
        prometheus.check()?;
        adapter.check()?;
        served.with_context(|| format!("{}\n{}", adapter.tail(), prometheus.tail()))?;
        Ok(Self { _prometheus: prometheus, _adapter: adapter })
    }
}

fn prometheus_config(kubeconfig: &Path) -> String {
    let config = json!({
        "global": { "scrape_interval": "15s" },
        "scrape_configs": [{
            "job_name": "pods",
            "kubernetes_sd_configs": [{ "role": "pod", "kubeconfig_file": kubeconfig, "namespaces": { "names": [NAMESPACE] } }],
            "relabel_configs": [
                { "source_labels": ["__meta_kubernetes_pod_annotation_prometheus_io_scrape"], "action": "keep", "regex": "true" },
                { "source_labels": ["__meta_kubernetes_pod_label_app"], "action": "keep", "regex": "peer-[0-9]+" },
                { "source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace" },
                { "source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod" },
            ],
        }],
    });
    // JSON is YAML
    config.to_string()
}

fn adapter_rules() -> String {
    let rule = json!({
        "seriesQuery": format!("{GAUGE}{{namespace!=\"\",pod!=\"\"}}"),
        "resources": { "overrides": { "namespace": { "resource": "namespace" }, "pod": { "resource": "pod" } } },
        "metricsQuery": "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
    });
    json!({ "rules": [rule] }).to_string()
}
