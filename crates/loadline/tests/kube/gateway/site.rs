//! A namespace with engines behind a gateway of the chart, and the clients who ask it.

use crate::install::{self, Installed};
use crate::world::{Namespace, World};
use anyhow::{Context, Result, bail, ensure};
use loadline_testkit::client::Connection;
use loadline_testkit::{client, wait_for};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The gateway's name, as autoscalers choose it.
pub(crate) const GATEWAY: &str = "g";
/// The Deployment of the gateway.
pub(crate) const GATEWAY_DEPLOYMENT: &str = "loadline-gateway-g";
/// Nothing takes so long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Requests that an engine gets at once.
pub(crate) const SLOTS: u32 = 4;

/// Engines of one model and the autoscaler over them.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    /// Of the Deployment, the autoscaler and the model.
    pub(crate) name: &'static str,
    /// Replicas at first.
    pub(crate) replicas: u32,
    /// The autoscaler's fields beside model, target and gateway, as YAML in flow form.
    pub(crate) spec: &'static str,
    /// Model seconds per second.
    pub(crate) speedup: u32,
}

impl Model {
    fn manifest(&self) -> String {
        let Self { name, replicas, spec, speedup } = self;
        format!(
            r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 40
      securityContext: {{runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
      - name: engine
        image: loadline
        command: [loadline, engine, --host, "0.0.0.0", --port, "8000", --model, {name}, --speedup, "{speedup}", --startup, "{speedup}s", --max-num-seqs, "8"]
        ports: [{{name: http, containerPort: 8000}}]
        readinessProbe: {{httpGet: {{path: /health, port: http}}, periodSeconds: 1}}
        lifecycle: {{preStop: {{sleep: {{seconds: 1}}}}}}
        securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
---
apiVersion: loadline.dev/v1alpha1
kind: InferenceAutoscaler
metadata: {{name: {name}}}
spec:
  model: {name}
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: {name}}}
  gateway: {{name: {GATEWAY}, slots: {SLOTS}}}
  {spec}
---
"#
        )
    }
}

/// A namespace of its own, under restricted pod security, with models and a gateway.
pub(crate) struct Site<'world> {
    pub(crate) world: &'world World,
    pub(crate) namespace: Namespace<'world>,
    name: &'static str,
    /// The gateway's Service.
    pub(crate) gateway: SocketAddr,
}

impl<'world> Site<'world> {
    /// Makes it for a Loadline that is installed in `world`, and waits until the gateway serves.
    pub(crate) fn new(world: &'world World, name: &'static str, models: &[Model]) -> Result<Self> {
        let namespace = world.namespace(name)?;
        let restricted = "pod-security.kubernetes.io/enforce=restricted";
        world.plane.kubectl(&["label", "namespace", name, restricted])?;
        let manifests: String = models.iter().map(Model::manifest).collect();
        namespace.apply(&manifests)?;
        world.plane.kubectl_with(&["apply", "--filename", "-"], &gateway_manifest(world, name)?)?;
        namespace.kubectl(&["rollout", "status", "deployment", GATEWAY_DEPLOYMENT, "--timeout=60s"])?;
        let words = ["get", "service", GATEWAY_DEPLOYMENT, "--output=jsonpath={.spec.clusterIP}"];
        let ip = namespace.kubectl(&words)?;
        let gateway = SocketAddr::new(ip.parse().with_context(|| format!("`{ip}` is no address"))?, 80);
        let site = Self { world, namespace, name, gateway };
        wait_for("the gateway's link to the writer", PATIENCE, || {
            site.page("/metrics").ok().filter(|page| page.contains("\nloadline_gateway_link_up 1\n"))
        })?;
        Ok(site)
    }

    /// A page of the gateway.
    pub(crate) fn page(&self, path: &str) -> Result<String> {
        let (head, body) = client::request(self.gateway, "GET", path, &[], b"", Duration::from_secs(5))?;
        ensure!(head.status == 200, "{path}: {}", head.status);
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Replicas that a Deployment shall have.
    pub(crate) fn replicas(&self, deployment: &str) -> Result<u32> {
        let words = ["get", "deployment", deployment, "--output=jsonpath={.spec.replicas}"];
        let text = self.namespace.kubectl(&words)?;
        text.parse().with_context(|| format!("`{text}` replicas"))
    }

    /// Waits until a Deployment shall have no replica and the last pod has ended.
    pub(crate) fn until_gone(&self, model: &str) -> Result<()> {
        let selector = format!("--selector=app={model}");
        wait_for("the end of the last pod", PATIENCE, || {
            let is_zero = self.replicas(model).ok()? == 0;
            let pods = self.namespace.kubectl(&["get", "pods", &selector, "--output=name"]).ok()?;
            (is_zero && pods.is_empty()).then_some(())
        })
    }

    /// The pods of the gateway that are not on their way out.
    pub(crate) fn gateway_pods(&self) -> Result<Vec<String>> {
        let text = self.namespace.kubectl(&[
            "get",
            "pods",
            "--selector=app.kubernetes.io/component=gateway",
            "--output=jsonpath={range .items[*]}{.metadata.name},{.metadata.deletionTimestamp}{\"\\n\"}{end}",
        ])?;
        Ok(text.lines().filter_map(|line| line.strip_suffix(',')).map(str::to_owned).collect())
    }

    /// Runs a test; an error gets what the gateway, the pods and the autoscalers say.
    pub(crate) fn explain<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        act().map_err(|error| {
            let mut text = format!("{error:#}\n");
            for words in [
                ["get", "pods,deployments,hpa,ia", "--output=wide"].as_slice(),
                &["get", "ia", "--output=yaml"],
                &["get", "events", "--sort-by=.lastTimestamp"],
            ] {
                let _ =
                    writeln!(text, "{}", self.namespace.kubectl(words).unwrap_or_else(|error| format!("{error:#}")));
            }
            for pod in self.gateway_pods().unwrap_or_default() {
                let log = std::fs::read_to_string(self.world.faults().log_path(self.name, &pod, "gateway"));
                let log = log.unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n");
                let _ = writeln!(text, "--- {pod}\n{tail}");
            }
            anyhow::anyhow!(text)
        })
    }
}

/// The gateway's objects as the chart of the installed release has them for a gateway in this namespace.
fn gateway_manifest(world: &World, namespace: &str) -> Result<String> {
    let values = world.plane.directory().join(format!("values-of-gateway-{namespace}.yaml"));
    let text = format!(
        "image: {{repository: loadline, tag: test}}\nlog: info,loadline=debug\nresources: {{requests: {{cpu: 20m, memory: 32Mi}}}}\n\
         gateways: [{{name: {GATEWAY}, namespace: {namespace}, terminationGracePeriodSeconds: 90}}]\n"
    );
    std::fs::write(&values, text)?;
    let (chart, values) = (install::chart().display().to_string(), values.display().to_string());
    let of = ["--namespace", install::NAMESPACE, "--show-only", "templates/gateways.yaml", "--values", &values];
    world.plane.helm(&[&["template", "loadline", &chart], of.as_slice()].concat())
}

/// A site beside the Loadline that tests share; an error shows the logs of both.
pub(crate) fn with_shared(
    name: &'static str,
    models: &[Model],
    test: impl FnOnce(&'static Installed<'static>, &Site<'static>) -> Result<()>,
) -> Result<()> {
    let installed = install::shared()?;
    installed.explain(|| {
        let site = Site::new(installed.world(), name, models)?;
        site.explain(|| test(installed, &site))
    })
}

/// Asks once and reads the whole answer: of a stream every event up to its proper end.
pub(crate) fn ask(gateway: SocketAddr, model: &str, tokens: u32, streams: bool) -> Result<()> {
    let body = format!(
        r#"{{"model":"{model}","max_tokens":{tokens},"ignore_eos":true,"stream":{streams},"messages":[{{"role":"user","content":"hello there"}}]}}"#
    );
    let mut connection = Connection::open(gateway, PATIENCE)?;
    let json = [("content-type", "application/json")];
    connection.send("POST", "/v1/chat/completions", &json, body.as_bytes())?;
    let head = connection.head()?;
    let mut whole = Vec::new();
    while let Some(piece) = connection.piece()? {
        whole.extend_from_slice(&piece);
    }
    let text = String::from_utf8_lossy(&whole);
    ensure!(head.status == 200, "{} {text}", head.status);
    if streams {
        ensure!(text.trim_end().ends_with("data: [DONE]"), "a stream without its end: {text}");
        ensure!(!text.contains("\"error\""), "an error within a stream: {text}");
    } else {
        let answer: serde_json::Value = serde_json::from_str(&text).with_context(|| text.to_string())?;
        ensure!(answer["usage"]["completion_tokens"] == tokens, "not whole: {text}");
    }
    Ok(())
}

/// Asks `count` times at once, streams and others by turns; the first error of any.
pub(crate) fn burst(gateway: SocketAddr, model: &'static str, tokens: u32, count: u32) -> Result<()> {
    let asked: Vec<JoinHandle<Result<()>>> = (0..count)
        .map(|number| std::thread::spawn(move || ask(gateway, model, tokens, number.is_multiple_of(2))))
        .collect();
    let mut first = Ok(());
    for one in asked {
        let outcome = one.join().unwrap_or_else(|_| bail!("a client panicked"));
        if first.is_ok() {
            first = outcome;
        }
    }
    first
}

/// Clients who ask one request after the other until they are stopped.
pub(crate) struct Crowd {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    errors: Arc<Mutex<Vec<String>>>,
    clients: Vec<JoinHandle<()>>,
}

impl Crowd {
    pub(crate) fn start(gateway: SocketAddr, model: &'static str, tokens: u32, clients: u32) -> Self {
        let (stop, answered, errors) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::default());
        let clients = (0..clients).map(|number| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            let errors: Arc<Mutex<Vec<String>>> = Arc::clone(&errors);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match ask(gateway, model, tokens, number.is_multiple_of(2)) {
                        Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => {
                            errors.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{error:#}"));
                        }
                    }
                }
            })
        });
        let clients = clients.collect();
        Self { stop, answered, errors, clients }
    }

    /// Requests answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more have been answered.
    pub(crate) fn go_on(&self, more: u64) -> Result<()> {
        let goal = self.answered() + more;
        wait_for("further answers", PATIENCE, || (self.answered() >= goal).then_some(()))
    }

    /// Ends it; how many were answered, and what those heard that were not.
    pub(crate) fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            let _ = client.join();
        }
        let errors = std::mem::take(&mut *self.errors.lock().unwrap_or_else(PoisonError::into_inner));
        (self.answered.load(Ordering::Relaxed), errors)
    }
}

/// Every change of the count that a Deployment shall have, with the time at which a watch told it.
pub(crate) struct ScaleWatch {
    child: Child,
    seen: Arc<Mutex<BTreeMap<String, Vec<(Instant, u32)>>>>,
}

impl ScaleWatch {
    /// Watches every Deployment of the site; returns once the watch tells changes.
    pub(crate) fn start(site: &Site<'_>) -> Result<Self> {
        let mut command = site.world.plane.kubectl_command()?;
        let form = "--output=jsonpath={.metadata.name} {.spec.replicas}{\"\\n\"}";
        command.args(["--namespace", site.name, "get", "deployments", "--watch", form]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no pipe")?).lines();
        let seen = Arc::<Mutex<BTreeMap<String, Vec<(Instant, u32)>>>>::default();
        let told = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let now = Instant::now();
                if let Some((name, count)) = line.split_once(' ')
                    && let Ok(count) = count.parse()
                {
                    let mut seen = told.lock().unwrap_or_else(PoisonError::into_inner);
                    let changes = seen.entry(name.to_owned()).or_default();
                    if changes.last().is_none_or(|(_, last)| *last != count) {
                        changes.push((now, count));
                    }
                }
            }
        });
        let watch = Self { child, seen };
        wait_for("the watch of Deployments", PATIENCE, || {
            (!watch.changes(GATEWAY_DEPLOYMENT).is_empty()).then_some(())
        })?;
        Ok(watch)
    }

    /// The counts of one Deployment, the first one as it was found.
    pub(crate) fn changes(&self, deployment: &str) -> Vec<(Instant, u32)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(deployment).cloned().unwrap_or_default()
    }

    /// When the count became at least one, at or after `from`.
    pub(crate) fn up_since(&self, deployment: &str, from: Instant) -> Result<Instant> {
        wait_for("a replica to be asked for", PATIENCE, || {
            self.changes(deployment).into_iter().find(|(at, count)| *at >= from && *count > 0).map(|(at, _)| at)
        })
    }
}

impl Drop for ScaleWatch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
