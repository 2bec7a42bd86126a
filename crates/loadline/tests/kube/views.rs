//! What tests look at: autoscalers, targets, pods and events as the API shows them; manifests of the guides and engines under them.

use crate::install::{self, Installed};
use crate::world::{Namespace, World};
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a step may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Whether the windows of the manifests are waited out as they are written.
pub(crate) fn is_full() -> bool {
    std::env::var("LOADLINE_FULL").is_ok_and(|value| value == "1")
}

/// A manifest of the guides, as it is.
pub(crate) fn guide(name: &str) -> Result<String> {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "..", "..", "testdata", "manifests", &format!("{name}.yaml")].iter().collect();
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Looks again and again until `look` succeeds; its last error tells what was seen instead.
pub(crate) fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() >= deadline => bail!("waited {patience:?} in vain for {what}: {error:#}"),
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// Engines of the guides' model behind the Service `inference-service:8000`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Engines {
    /// `StatefulSet` or `Deployment`.
    pub(crate) kind: &'static str,
    pub(crate) name: &'static str,
    /// Further words of `loadline engine`.
    pub(crate) options: &'static str,
    pub(crate) replicas: u32,
    /// GPUs of each pod.
    pub(crate) gpus: u32,
}

impl Engines {
    /// One replica without a GPU.
    pub(crate) const fn new(kind: &'static str, name: &'static str, options: &'static str) -> Self {
        Self { kind, name, options, replicas: 1, gpus: 0 }
    }

    /// The workload and its Service.
    pub(crate) fn manifest(&self) -> String {
        let Self { kind, name, replicas, .. } = self;
        // Parallel: one pod that is not ready does not keep the others
        let set = if *kind == "StatefulSet" {
            "\n  serviceName: inference-service\n  podManagementPolicy: Parallel"
        } else {
            ""
        };
        let options: Vec<String> = self.options.split_whitespace().map(|word| format!("\"{word}\"")).collect();
        let options = options.join(", ");
        let resources = match self.gpus {
            0 => String::new(),
            gpus => format!("\n        resources: {{limits: {{nvidia.com/gpu: {gpus}}}}}"),
        };
        format!(
            r#"
apiVersion: apps/v1
kind: {kind}
metadata: {{name: {name}}}
spec:
  replicas: {replicas}{set}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: engine
        image: loadline
        command: [loadline, engine, --host, "0.0.0.0", --port, "8000", --model, /models/Qwen3-32B, --profile, h100_sxm/qwen3-32b/tp4/vllm, {options}]
        ports: [{{name: http, containerPort: 8000}}]
        readinessProbe: {{httpGet: {{path: /health, port: http}}, periodSeconds: 1}}{resources}
---
apiVersion: v1
kind: Service
metadata: {{name: inference-service}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: http, port: 8000, targetPort: http}}]
"#
        )
    }

    /// Its resource in API paths.
    fn resource(&self) -> &'static str {
        if self.kind == "StatefulSet" { "statefulsets" } else { "deployments" }
    }
}

/// One namespace of a control plane.
#[derive(Clone, Copy)]
pub(crate) struct View<'w> {
    pub(crate) world: &'w World,
    pub(crate) namespace: &'static str,
}

/// Runs a test with the shared Loadline and a namespace of its own; when it fails, the error shows what is in both.
pub(crate) fn in_namespace(
    name: &'static str,
    test: impl FnOnce(&'static Installed<'static>, &Namespace<'static>, View<'static>) -> Result<()>,
) -> Result<()> {
    install::with_shared(name, |installed, namespace| {
        let view = View { world: installed.world(), namespace: name };
        view.explain(|| test(installed, namespace, view))
    })
}

/// An HPA as the API shows it.
pub(crate) struct Hpa(Value);

impl Hpa {
    /// Status, reason and message of a condition.
    pub(crate) fn condition(&self, kind: &str) -> Result<[&str; 3]> {
        let conditions = self.0.pointer("/status/conditions").and_then(Value::as_array);
        let found = conditions.into_iter().flatten().find(|one| one["type"] == kind);
        let found = found.with_context(|| format!("no condition `{kind}`: {}", self.0["status"]))?;
        Ok(["status", "reason", "message"].map(|field| found[field].as_str().unwrap_or_default()))
    }

    /// Fails unless a condition has this status and reason.
    pub(crate) fn expect(&self, kind: &str, status: &str, reason: &str) -> Result<()> {
        let found = self.condition(kind)?;
        ensure!(found[..2] == [status, reason], "{kind} is {found:?}");
        Ok(())
    }

    /// Replicas as its last pass saw them.
    pub(crate) fn current_replicas(&self) -> u64 {
        self.0.pointer("/status/currentReplicas").and_then(Value::as_u64).unwrap_or(0)
    }

    /// The current value of its first metric, as shown.
    pub(crate) fn value(&self) -> &str {
        let value = self.0.pointer("/status/currentMetrics/0/pods/current/averageValue");
        value.and_then(Value::as_str).unwrap_or_default()
    }
}

impl View<'_> {
    /// An object.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.world.plane.get(path)?;
        ensure!(status == 200, "{path}: {status} {body}");
        serde_json::from_str(&body).with_context(|| path.to_owned())
    }

    /// An HPA.
    pub(crate) fn hpa(&self, name: &str) -> Result<Hpa> {
        self.get(&format!("/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers/{name}", self.namespace))
            .map(Hpa)
    }

    /// Waits until an HPA is as `look` wants it.
    pub(crate) fn until_hpa(&self, name: &str, what: &str, look: impl Fn(&Hpa) -> Result<()>) -> Result<Hpa> {
        until(what, PATIENCE, || {
            let hpa = self.hpa(name)?;
            look(&hpa).map(|()| hpa)
        })
    }

    /// Waits until an HPA reads its metric.
    pub(crate) fn until_active(&self, name: &str) -> Result<Hpa> {
        let look = |hpa: &Hpa| hpa.expect("ScalingActive", "True", "ValidMetricFound");
        self.until_hpa(name, "a metric that is found", look)
    }

    /// Replicas asked for, and ready.
    pub(crate) fn replicas(&self, engines: &Engines) -> Result<(u64, u64)> {
        let path = format!("/apis/apps/v1/namespaces/{}/{}/{}", self.namespace, engines.resource(), engines.name);
        let object = self.get(&path)?;
        let count = |path: &str| object.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        Ok((count("/spec/replicas"), count("/status/readyReplicas")))
    }

    /// Waits until so many are asked for and ready.
    pub(crate) fn until_replicas(&self, engines: &Engines, count: u64, patience: Duration) -> Result<()> {
        until(&format!("{count} replicas of {}", engines.name), patience, || {
            let found = self.replicas(engines)?;
            ensure!(found == (count, count), "(asked for, ready) is {found:?}");
            Ok(())
        })
    }

    /// Messages of an HPA's events of one reason, oldest first.
    pub(crate) fn events(&self, hpa: &str, reason: &str) -> Result<Vec<String>> {
        let list = self.get(&format!("/api/v1/namespaces/{}/events", self.namespace))?;
        let mut events: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
        events.retain(|event| {
            event["reason"] == reason
                && event.pointer("/involvedObject/name").is_some_and(|name| name == hpa)
                && event.pointer("/involvedObject/kind").is_some_and(|kind| kind == "HorizontalPodAutoscaler")
        });
        events.sort_by_key(|event| event["firstTimestamp"].as_str().unwrap_or_default().to_owned());
        Ok(events.iter().map(|event| event["message"].as_str().unwrap_or_default().to_owned()).collect())
    }

    /// How often the events of one reason were seen.
    pub(crate) fn event_count(&self, hpa: &str, reason: &str) -> Result<u64> {
        let list = self.get(&format!("/api/v1/namespaces/{}/events", self.namespace))?;
        let events = list["items"].as_array().into_iter().flatten();
        let of_it = events.filter(|event| {
            event["reason"] == reason && event.pointer("/involvedObject/name").is_some_and(|name| name == hpa)
        });
        Ok(of_it.map(|event| event["count"].as_u64().unwrap_or(1)).sum())
    }

    /// Waits until the guides' client has had every answer, and gives its report.
    pub(crate) fn until_client_done(&self, patience: Duration) -> Result<String> {
        let path = format!("/api/v1/namespaces/{}/pods/benchmark", self.namespace);
        until("the end of the client", patience, || {
            let pod = self.get(&path)?;
            let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default().to_owned();
            ensure!(phase == "Succeeded" || phase == "Failed", "it is {phase}");
            Ok(())
        })?;
        let report = self.world.plane.kubectl(&["--namespace", self.namespace, "logs", "benchmark"])?;
        ensure!(report.contains("sent 400, answered 400, failed 0"), "{report}");
        Ok(report)
    }

    /// `kubectl describe hpa` without what differs from run to run, and without warnings: before the first scrape there are some or
    /// none.
    pub(crate) fn described(&self, hpa: &str) -> Result<String> {
        let text = self.world.plane.kubectl(&["--namespace", self.namespace, "describe", "hpa", hpa])?;
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("Warning ")).collect();
        Ok(crate::golden::normal(&lines.join("\n")))
    }

    /// Runs something; an error gets what is in the namespace.
    pub(crate) fn explain<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let shown = |words: &[&str]| match self.kubectl(None, &[&["--namespace", self.namespace], words].concat()) {
            Ok((_, out, error)) => format!("--- {}\n{out}{error}\n", words.join(" ")),
            Err(error) => format!("{error:#}\n"),
        };
        act().map_err(|error| {
            let pods = shown(&["get", "pods", "--output=wide"]);
            let hpas = shown(&["describe", "hpa"]);
            let client = shown(&["logs", "benchmark", "--tail=20"]);
            anyhow!("{error:#}\n{pods}{hpas}{client}")
        })
    }

    /// Runs kubectl by itself: whether it succeeded, standard output, standard error. `kubeconfig` makes it somebody else.
    pub(crate) fn kubectl(&self, kubeconfig: Option<&Path>, words: &[&str]) -> Result<(bool, String, String)> {
        let mut command = self.world.plane.kubectl_command()?;
        if let Some(path) = kubeconfig {
            command.env("KUBECONFIG", path);
        }
        let output = command.args(["--request-timeout=30s"]).args(words).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
    }
}

/// Seconds since 1970 of a time as the API writes it.
pub(crate) fn seconds_of(time: &str) -> Result<i64> {
    let time: jiff::Timestamp = time.parse().map_err(|error| anyhow!("`{time}`: {error}"))?;
    Ok(time.as_second())
}
