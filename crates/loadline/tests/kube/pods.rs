//! Pods are real processes with addresses of their own, behind real Services.

use crate::{Case, world};
use anyhow::{Context, Result, ensure};
use loadline_testkit::{client, wait_for};
use std::net::SocketAddr;
use std::time::Duration;

pub(crate) const CASES: [Case; 1] = [("pods::a_deployment_of_engines_serves_and_scales", serves_and_scales)];

const PATIENCE: Duration = Duration::from_secs(30);

const ENGINES: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: engines}
spec:
  replicas: 2
  selector: {matchLabels: {app: engines}}
  template:
    metadata: {labels: {app: engines}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: engine
        image: loadline
        command: [loadline, engine, --host, "0.0.0.0", --port, "8000", --speedup, "20"]
        ports: [{name: http, containerPort: 8000}]
        readinessProbe: {httpGet: {path: /health, port: http}, periodSeconds: 1}
        resources: {limits: {nvidia.com/gpu: 1}}
---
apiVersion: v1
kind: Service
metadata: {name: engines}
spec:
  selector: {app: engines}
  ports: [{name: http, port: 80, targetPort: http}]
"#;

fn serves_and_scales() -> Result<()> {
    let namespace = world::shared()?.namespace("pods-serve-and-scale")?;
    namespace.apply(ENGINES)?;
    namespace.kubectl(&["rollout", "status", "deployment/engines", "--timeout=60s"])?;
    let ip = namespace.kubectl(&["get", "service", "engines", "--output=jsonpath={.spec.clusterIP}"])?;
    let service = SocketAddr::new(ip.parse().with_context(|| format!("`{ip}` is no address"))?, 80);
    let (head, page) = client::request(service, "GET", "/metrics", &[], b"", PATIENCE)?;
    let page = String::from_utf8_lossy(&page);
    ensure!(head.status == 200 && page.contains("vllm:num_requests_running"), "{head:?} {page}");
    for replicas in ["4", "0"] {
        namespace.kubectl(&["scale", "deployment/engines", &format!("--replicas={replicas}")])?;
        namespace.kubectl(&["rollout", "status", "deployment/engines", "--timeout=60s"])?;
        let ready =
            namespace.kubectl(&["get", "deployment", "engines", "--output=jsonpath={.status.readyReplicas}"])?;
        ensure!(ready == replicas || (replicas == "0" && ready.is_empty()), "{ready} ready, {replicas} asked for");
    }
    wait_for("the end of the pods", PATIENCE, || {
        namespace.kubectl(&["get", "pods", "--output=name"]).ok().filter(String::is_empty)
    })?;
    Ok(())
}
