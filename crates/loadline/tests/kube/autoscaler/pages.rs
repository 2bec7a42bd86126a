//! Where metrics pages are found: PodMonitors, ServiceMonitors, annotations. And what idle pages lead to where no gateway is in front.

use crate::Case;
use crate::autoscaler::QUICK_DOWN;
use crate::engines::{
    PATIENCE, SLOTS, autoscaler, deployment, has_condition, load, look, wait_ready, wait_replicas, wait_status,
    wait_until,
};
use crate::install::with_shared;
use crate::world::Namespace;
use anyhow::{Context, Result, ensure};
use loadline_testkit::wait_for;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;

pub(crate) const CASES: [Case; 6] = [
    ("autoscaler::pages_are_read_as_a_pod_monitor_says", pod_monitor),
    ("autoscaler::pages_are_read_as_a_service_monitor_says", service_monitor),
    ("autoscaler::pages_are_read_as_annotations_say", annotations),
    ("autoscaler::the_monitors_of_the_guides_are_followed_every_second", guides),
    ("autoscaler::idle_engines_go_to_zero_without_a_gateway", to_zero),
    ("autoscaler::demand_elsewhere_brings_a_pool_back_from_zero", from_zero),
];

/// Engines whose port `http` leads nowhere and whose page is at port `web`: what is found by itself is wrong.
fn hidden(annotations: &str) -> String {
    deployment("chat", 1)
        .replace(
            "ports: [{name: http, containerPort: 8000}]",
            "ports: [{name: http, containerPort: 9}, {name: web, containerPort: 8000}]",
        )
        .replace("port: http}, periodSeconds", "port: web}, periodSeconds")
        .replace(
            "metadata: {labels: {app: chat}}",
            &format!("metadata: {{labels: {{app: chat}}, annotations: {{{annotations}}}}}"),
        )
        .replace(
            "metadata: {name: chat}\nspec:\n  selector",
            "metadata: {name: chat, labels: {monitored: chat}}\nspec:\n  selector",
        )
        .replace("targetPort: http", "targetPort: web")
}

fn follows(namespace: &Namespace<'_>, annotations: &str, monitor: Option<&str>) -> Result<()> {
    namespace.apply(&hidden(annotations))?;
    if let Some(monitor) = monitor {
        namespace.apply(monitor)?;
    }
    namespace.apply(&autoscaler("chat", "chat", "maxReplicas: 2"))?;
    wait_status(namespace, "chat", "a live signal", |status| {
        status["signals"][0]["evidence"] == "Live" && has_condition(status, "ScalingActive", "True", "ValidMetricFound")
    })?;
    Ok(())
}

fn pod_monitor() -> Result<()> {
    with_shared("ia-pod-monitor", |_, namespace| {
        let monitor = "
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata: {name: chat}
spec:
  selector: {matchLabels: {app: chat}}
  podMetricsEndpoints: [{port: web, path: /metrics}]
";
        follows(namespace, "", Some(monitor))
    })
}

fn service_monitor() -> Result<()> {
    with_shared("ia-service-monitor", |_, namespace| {
        let monitor = "
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata: {name: chat}
spec:
  selector: {matchLabels: {monitored: chat}}
  endpoints: [{port: http, path: /metrics}]
";
        follows(namespace, "", Some(monitor))
    })
}

fn annotations() -> Result<()> {
    with_shared("ia-annotations", |_, namespace| {
        follows(namespace, "prometheus.io/scrape: \"true\", prometheus.io/port: \"8000\"", None)
    })
}

fn fixture(name: &str) -> Result<String> {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "..", "..", "testdata", "kube", "manifests", name].iter().collect();
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The guides' monitors, as they are; only the namespaces are those of this test.
fn guides() -> Result<()> {
    with_shared("ia-guides", |_, namespace| {
        let own = |text: String| {
            text.replace("namespace: default", "namespace: ia-guides")
                .replace("namespace: ai-inference", "namespace: ia-guides")
        };
        let engines = |name: &str| {
            deployment(name, 1).replace(
                "metadata: {name: mistral-vllm}\nspec:\n  selector",
                "metadata: {name: mistral-vllm, labels: {app: mistral-vllm}}\nspec:\n  selector",
            )
        };
        namespace.apply(&engines("vllm-inference"))?;
        namespace.apply(&engines("mistral-vllm"))?;
        namespace.apply(&own(fixture("engine-podmonitor.yaml")?))?;
        namespace.apply(&own(fixture("vllm-servicemonitor.yaml")?))?;
        // nothing but a monitor selects these pods, and the answer comes from their pages
        for app in ["vllm-inference", "mistral-vllm"] {
            let metric = format!("pods/%2A/vllm:num_requests_running?labelSelector=app%3D{app}");
            let mut times = BTreeSet::new();
            let began = std::time::Instant::now();
            wait_until(
                namespace,
                ("apis/custom.metrics.k8s.io/v1beta2", &metric),
                "three times of a sample",
                |list| {
                    times.extend(list["items"][0]["timestamp"].as_str().map(str::to_owned));
                    times.len() >= 3
                },
            )?;
            // at the 15 s of the monitors three samples would take half a minute
            let seconds: Vec<i64> = times
                .iter()
                .filter_map(|time| time.parse::<jiff::Timestamp>().ok())
                .map(|time| time.as_second())
                .collect();
            let span = seconds.iter().max().zip(seconds.iter().min()).map_or(0, |(last, first)| last - first);
            ensure!(span < 15, "{times:?} within {:?}", began.elapsed());
        }
        Ok(())
    })
}

fn to_zero() -> Result<()> {
    with_shared("ia-to-zero", |installed, namespace| {
        namespace.apply(&deployment("chat", 2))?;
        wait_ready(namespace, "deployments/chat", 2)?;
        namespace.apply(&load("load", "chat", 1))?;
        wait_until(namespace, ("api/v1", "pods/load"), "running", |pod| pod["status"]["phase"] == "Running")?;
        namespace.apply(&autoscaler(
            "chat",
            "chat",
            &format!("minReplicas: 0, maxReplicas: 2, idle: {{after: 3s}}, {QUICK_DOWN}"),
        ))?;
        // one request in flight on one of them keeps the last replica, though nothing waits
        wait_replicas(namespace, "deployments/chat", 1)?;
        let writer = installed.writer()?;
        // more decisions than the idle time has seconds
        wait_for("decisions that keep it", PATIENCE, || {
            let kept = installed.log(&writer).matches("decided autoscaler=ia-to-zero/chat decision=\"1 kept").count();
            (kept >= 5).then_some(())
        })?;
        ensure!(crate::engines::replicas(namespace, "deployments/chat")? == 1, "zero with work in flight");
        namespace.kubectl(&["delete", "pod", "load", "--wait=false"])?;
        wait_replicas(namespace, "deployments/chat", 0)?;
        let says = |events: &Value| {
            let events = events["items"].as_array();
            events.into_iter().flatten().any(|event| {
                event["message"]
                    .as_str()
                    .is_some_and(|text| text.starts_with("New size: 0; reason: ") && text.contains("idle"))
            })
        };
        wait_until(namespace, ("api/v1", "events"), "the reason", says)?;
        // a person's replica is kept for the idle time and goes when it has nothing to do
        namespace.kubectl(&["scale", "deployment/chat", "--replicas=1"])?;
        wait_ready(namespace, "deployments/chat", 1)?;
        wait_replicas(namespace, "deployments/chat", 0)?;
        Ok(())
    })
}

fn from_zero() -> Result<()> {
    with_shared("ia-from-zero", |_, namespace| {
        // nothing else selects it
        let scraped = "metadata: {labels: {app: front}, annotations: {loadline.dev/scrape: \"true\"}}";
        namespace.apply(&deployment("front", 1).replace("metadata: {labels: {app: front}}", scraped))?;
        namespace.apply(&deployment("back", 0))?;
        wait_ready(namespace, "deployments/front", 1)?;
        // how much waits in front decides how many stand behind
        let spec = "minReplicas: 0, maxReplicas: 2, idle: {after: 2s}, metrics: [{type: External, external: {metric: {name: 'loadline:requests_waiting', selector: {matchLabels: {app: front}}}, target: {type: AverageValue, averageValue: 4}}}]";
        namespace.apply(&autoscaler("back", "back", spec))?;
        let seen = wait_status(namespace, "back", "its metric", |status| status["signals"][0]["evidence"] == "Live")?;
        ensure!(seen["replicas"] == 0 && seen["desiredReplicas"] == 0, "{seen:#}");
        namespace.apply(&load("load", "front", SLOTS + 6))?;
        wait_replicas(namespace, "deployments/back", 2)?;
        let front = look(namespace, "apis/apps/v1", "deployments/front")?;
        ensure!(front["spec"]["replicas"] == 1, "{front:#}");
        Ok(())
    })
}
