//! Emulated engines as real pods, load on them, and waiting for what the API server shows.

use crate::world::Namespace;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};

/// How long a change may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Requests that one engine of these runs at once.
pub(crate) const SLOTS: usize = 2;

/// The pod template of engines: few slots and real time, so that a short load fills them.
const TEMPLATE: &str = r#"
  template:
    metadata: {labels: {app: NAME}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: engine
        image: loadline
        command: [loadline, engine, --host, "0.0.0.0", --port, "8000", --model, chat, --max-num-seqs, "2", --shutdown-timeout, 8s]
        ports: [{name: http, containerPort: 8000}]
        readinessProbe: {httpGet: {path: /health, port: http}, periodSeconds: 1}
        resources: {requests: {cpu: 50m, memory: 32Mi}}
"#;

const SERVICE: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec:
  selector: {app: NAME}
  ports: [{name: http, port: 80, targetPort: http}]
";

/// A Deployment of engines with a Service in front, both with this name.
pub(crate) fn deployment(name: &str, replicas: u32) -> String {
    let head = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: NAME}\nspec:\n  replicas: COUNT\n  selector: {matchLabels: {app: NAME}}";
    format!("{head}{TEMPLATE}{SERVICE}").replace("NAME", name).replace("COUNT", &replicas.to_string())
}

/// The same as a StatefulSet.
pub(crate) fn stateful_set(name: &str, replicas: u32) -> String {
    let head = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: NAME}\nspec:\n  serviceName: NAME\n  podManagementPolicy: Parallel\n  replicas: COUNT\n  selector: {matchLabels: {app: NAME}}";
    format!("{head}{TEMPLATE}{SERVICE}").replace("NAME", name).replace("COUNT", &replicas.to_string())
}

/// A pod that keeps so many requests in flight through a Service until it is deleted.
pub(crate) fn load(name: &str, service: &str, concurrency: usize) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: client
    image: loadline
    command: [loadline, bench, --url, "http://{service}", --model, chat, --input-len, "64", --output-len, "200", --num-prompts, "100000", --concurrency, "{concurrency}"]
"#
    )
}

/// An InferenceAutoscaler of a Deployment; `more` is the rest of its spec in YAML's flow style.
pub(crate) fn autoscaler(name: &str, target: &str, more: &str) -> String {
    autoscaler_of("Deployment", name, target, more)
}

/// An InferenceAutoscaler of a kind of group `apps`.
pub(crate) fn autoscaler_of(kind: &str, name: &str, target: &str, more: &str) -> String {
    format!(
        "apiVersion: loadline.dev/v1alpha1\nkind: InferenceAutoscaler\nmetadata: {{name: {name}}}\nspec: {{scaleTargetRef: {{apiVersion: apps/v1, kind: {kind}, name: {target}}}, {more}}}\n"
    )
}

/// What one look at the cluster gives: the objects of one request.
pub(crate) fn look(namespace: &Namespace<'_>, group: &str, rest: &str) -> Result<Value> {
    let path = format!("/{group}/namespaces/{}/{rest}", namespace.name());
    let (status, body) = namespace.plane().get(&path)?;
    ensure!(status == 200, "{path}: {status} {body}");
    Ok(serde_json::from_str(&body)?)
}

/// Waits until an object is as `is_so` wants it; the error shows it as it was last seen.
pub(crate) fn wait_until(
    namespace: &Namespace<'_>,
    (group, rest): (&str, &str),
    what: &str,
    mut is_so: impl FnMut(&Value) -> bool,
) -> Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look(namespace, group, rest);
        if let Ok(found) = &seen
            && is_so(found)
        {
            return seen;
        }
        if Instant::now() >= deadline {
            let seen = seen.map_or_else(|error| format!("{error:#}"), |seen| format!("{seen:#}"));
            bail!("waited {PATIENCE:?} in vain for {what} of {rest}; last seen: {seen}");
        }
        std::thread::sleep(LOOK);
    }
}

/// Where InferenceAutoscalers are.
pub(crate) const LOADLINE: &str = "apis/loadline.dev/v1alpha1";

/// Waits for the status of an InferenceAutoscaler; the status.
pub(crate) fn wait_status(
    namespace: &Namespace<'_>,
    name: &str,
    what: &str,
    mut is_so: impl FnMut(&Value) -> bool,
) -> Result<Value> {
    let rest = format!("inferenceautoscalers/{name}");
    let mut seen = wait_until(namespace, (LOADLINE, &rest), what, |object| is_so(&object["status"]))?;
    Ok(seen["status"].take())
}

/// Waits until an object of group `apps`, as `deployments/chat`, is told to have so many replicas; when that was seen.
pub(crate) fn wait_replicas(namespace: &Namespace<'_>, rest: &str, count: u64) -> Result<Instant> {
    let what = format!("{count} replicas");
    wait_until(namespace, ("apis/apps/v1", rest), &what, |object| object["spec"]["replicas"] == count)?;
    Ok(Instant::now())
}

/// Waits until so many replicas of an object of group `apps` are ready.
pub(crate) fn wait_ready(namespace: &Namespace<'_>, rest: &str, count: u64) -> Result<()> {
    let what = format!("{count} ready replicas");
    wait_until(namespace, ("apis/apps/v1", rest), &what, |object| {
        object["status"]["readyReplicas"].as_u64().unwrap_or_default() == count
    })?;
    Ok(())
}

/// The replicas that an object of group `apps` is told to have.
pub(crate) fn replicas(namespace: &Namespace<'_>, rest: &str) -> Result<u64> {
    look(namespace, "apis/apps/v1", rest)?["spec"]["replicas"].as_u64().context("no replicas")
}

/// A condition of a status: `True`, `False`, or nothing where it is missing.
pub(crate) fn condition<'status>(status: &'status Value, kind: &str) -> &'status Value {
    let all = status["conditions"].as_array();
    all.into_iter().flatten().find(|one| one["type"] == kind).unwrap_or(&Value::Null)
}

/// Whether a condition has this status and reason.
pub(crate) fn has_condition(status: &Value, kind: &str, is: &str, reason: &str) -> bool {
    let found = condition(status, kind);
    found["status"] == is && found["reason"] == reason
}
