//! What the tests of faults share: pods whose pages say what a test wants, and looks at what Loadline makes of them.

use crate::install::{self, Installed, NAMESPACE};
use crate::world::{self, Namespace, World};
use anyhow::{Context, Result, anyhow, bail, ensure};
use loadline_testkit::controlplane::{Component, ControlPlane};
use loadline_testkit::{client, wait_for};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long anything that has to come may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks at the cluster.
pub(crate) const LOOK: Duration = Duration::from_millis(100);
/// Waiting requests that one replica of [`Bench`] should carry.
pub(crate) const TARGET: u32 = 4;
/// The first argument of this binary where it is the process of a pod.
const PAGE_SERVER: &str = "page-server";
/// Where such a pod listens.
const PAGE_PORT: u16 = 8000;
/// Where `loadline serve` shows its own pages.
const ADMIN_PORT: u16 = 8080;
/// How long one request to a pod may take.
const CALL: Duration = Duration::from_secs(5);

/// Whether the written lengths of faults are asked for, and not the short ones.
pub(crate) fn is_full() -> bool {
    std::env::var_os("LOADLINE_FULL").is_some()
}

/// A page of an engine with so many requests waiting.
pub(crate) fn waiting(count: u32) -> String {
    format!("vllm:num_requests_running 1\nvllm:num_requests_waiting {count}\n")
}

/// What a pod of [`Bench`] is told to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Page<'a> {
    /// Answer with this; `@time-3600@` in it becomes the time in milliseconds, so many seconds off.
    Text(&'a str),
    /// Answer 404.
    Gone,
    /// Take the request and say nothing.
    Hang,
}

#[derive(Debug, Default)]
struct Shown {
    page: String,
    is_healthy: bool,
}

/// Serves as the process of a pod, if this is one: `page-server ok|unready PAGE`.
pub(crate) fn serve_page_if_asked() -> Option<Result<()>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.as_slice() {
        [first, health, page] if first == PAGE_SERVER => Some(serve_pages(health == "ok", page)),
        _ => None,
    }
}

fn serve_pages(is_healthy: bool, page: &str) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PAGE_PORT))?;
    let shown = Arc::new(Mutex::new(Shown { page: page.to_owned(), is_healthy }));
    for stream in listener.incoming().map_while(Result::ok) {
        let shown = Arc::clone(&shown);
        // a client that went away is no matter
        std::thread::spawn(move || answer(stream, &shown));
    }
    Ok(())
}

fn answer(mut stream: TcpStream, shown: &Mutex<Shown>) -> Result<()> {
    let mut request = Vec::new();
    let mut piece = [0_u8; 4096];
    let (head, body) = loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let named = |line: &str| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok();
            let length: usize = head.lines().find_map(named).unwrap_or(0);
            if body.len() >= length {
                break (head.to_owned(), body.to_owned());
            }
        }
        let read = stream.read(&mut piece)?;
        ensure!(read > 0, "the request was cut");
        request.extend_from_slice(piece.get(..read).unwrap_or_default());
    };
    let lock = || shown.lock().unwrap_or_else(PoisonError::into_inner);
    let (status, text) = match head.split(' ').take(2).collect::<Vec<_>>().as_slice() {
        ["PUT", "/metrics"] => {
            lock().page = body;
            ("200 OK", String::new())
        }
        ["PUT", "/health"] => {
            lock().is_healthy = body == "ok";
            ("200 OK", String::new())
        }
        ["GET", "/health"] if lock().is_healthy => ("200 OK", String::new()),
        ["GET", "/health"] => ("503 Service Unavailable", String::new()),
        _ => match lock().page.clone().as_str() {
            "gone" => ("404 Not Found", String::new()),
            "hang" => {
                // until the client gives up
                let _ = stream.read(&mut piece);
                return Ok(());
            }
            page => ("200 OK", with_times(page)),
        },
    };
    let length = text.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
    )?;
    Ok(())
}

fn with_times(page: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let now = i128::try_from(now).unwrap_or(0);
    let part = |(at, text): (usize, &str)| match text.strip_prefix("time").filter(|_| at % 2 == 1) {
        Some(off) => (now + off.parse::<i128>().unwrap_or(0) * 1_000).to_string(),
        None => text.to_owned(),
    };
    page.split('@').enumerate().map(part).collect()
}

/// A control plane of its own for faults that others would notice, with a Loadline of two replicas and a short lease.
pub(crate) struct Lab {
    pub(crate) installed: Installed<'static>,
}

const LAB_VALUES: &str = "
replicas: 2
config:
  lease: {duration: 5s, renewDeadline: 4s, retryPeriod: 1s}
  checkpoint: {period: 2s}
  kubernetes: {timeout: 2s}
";

/// The laboratory in which components of the control plane are stopped; one test at a time has it.
pub(crate) fn outage_lab() -> Result<MutexGuard<'static, Lab>> {
    static LAB: OnceLock<Result<Mutex<Lab>, String>> = OnceLock::new();
    lock(LAB.get_or_init(lab))
}

/// The laboratory in which Loadline itself is hurt; one test at a time has it.
pub(crate) fn own_lab() -> Result<MutexGuard<'static, Lab>> {
    static LAB: OnceLock<Result<Mutex<Lab>, String>> = OnceLock::new();
    lock(LAB.get_or_init(lab))
}

fn lock(lab: &'static Result<Mutex<Lab>, String>) -> Result<MutexGuard<'static, Lab>> {
    let lab = lab.as_ref().map_err(|error| anyhow!("the laboratory did not start: {error}"))?;
    let lab = lab.lock().unwrap_or_else(PoisonError::into_inner);
    // a test that failed may have left a component stopped
    for component in [Component::Etcd, Component::ApiServer] {
        let _ = lab.plane().resume(component);
    }
    Ok(lab)
}

fn lab() -> Result<Mutex<Lab>, String> {
    let start = || {
        let world: &'static World = Box::leak(Box::new(World::with_nodes(ControlPlane::beside(world::options()?)?)?));
        Ok(Mutex::new(Lab { installed: install::install(world, LAB_VALUES)? }))
    };
    start().map_err(|error: anyhow::Error| format!("{error:#}"))
}

impl Lab {
    /// Its control plane.
    pub(crate) fn plane(&self) -> &ControlPlane {
        &self.installed.world().plane
    }

    /// Runs a test in a namespace of its own; an error gets the tail of Loadline's log.
    pub(crate) fn test(
        &self,
        namespace: &'static str,
        test: impl FnOnce(&Installed<'static>, &Namespace<'_>) -> Result<()>,
    ) -> Result<()> {
        self.installed.explain(|| test(&self.installed, &self.installed.world().namespace(namespace)?))
    }
}

/// A pod of a Deployment.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) ip: Option<IpAddr>,
    pub(crate) is_ready: bool,
}

/// What a Deployment of page servers and its autoscaler are made with.
pub(crate) struct Plan<'a> {
    /// Of both.
    pub(crate) name: &'a str,
    /// `Deployment` or `StatefulSet`.
    pub(crate) kind: &'a str,
    pub(crate) replicas: u32,
    pub(crate) max: u32,
    /// The window of scale-down, in seconds.
    pub(crate) window: u32,
    /// What a pod's page says until it is told something else.
    pub(crate) page: &'a str,
    /// Whether pods are ready by themselves.
    pub(crate) is_ready: bool,
    /// GPUs per pod.
    pub(crate) gpus: u32,
    /// What is measured.
    pub(crate) signal: &'a str,
    /// Further lines of the autoscaler's spec.
    pub(crate) spec: &'a str,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self {
            name: "pages",
            kind: "Deployment",
            replicas: 2,
            max: 6,
            window: 3,
            page: "",
            is_ready: true,
            gpus: 0,
            signal: "requests_waiting",
            spec: "",
        }
    }
}

impl Plan<'_> {
    fn deployment(&self) -> Result<String> {
        let Self { name, kind, replicas, gpus, .. } = self;
        let page = if self.page.is_empty() { waiting(0) } else { self.page.to_owned() };
        let binary = std::env::current_exe()?;
        let health = if self.is_ready { "ok" } else { "unready" };
        let command = serde_json::json!([binary, PAGE_SERVER, health, page]);
        let limits = if *gpus > 0 { format!("{{nvidia.com/gpu: {gpus}}}") } else { "{}".to_owned() };
        Ok(format!(
            r#"
apiVersion: apps/v1
kind: {kind}
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: page
        image: page
        command: {command}
        ports: [{{name: http, containerPort: {PAGE_PORT}}}]
        readinessProbe: {{httpGet: {{path: /health, port: http}}, periodSeconds: 1}}
        resources: {{limits: {limits}}}
"#
        ))
    }

    /// The autoscaler of the Deployment.
    pub(crate) fn autoscaler(&self) -> String {
        let Self { name, kind, max, window, signal, spec, .. } = self;
        format!(
            r#"
apiVersion: loadline.dev/v1alpha1
kind: InferenceAutoscaler
metadata: {{name: {name}}}
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: {kind}, name: {name}}}
  minReplicas: 1
  maxReplicas: {max}
  scrape: {{port: http}}
  metrics:
  - type: Signal
    signal: {{name: {signal}, target: {{type: AverageValue, averageValue: "{TARGET}"}}}}
  behavior:
    scaleUp: {{policies: [{{type: Pods, value: 10, periodSeconds: 1}}]}}
    scaleDown: {{stabilizationWindowSeconds: {window}, policies: [{{type: Percent, value: 100, periodSeconds: 1}}]}}
{spec}
"#
        )
    }
}

/// A Deployment of page servers with its autoscaler, in a test's namespace.
pub(crate) struct Bench<'a> {
    pub(crate) installed: &'a Installed<'a>,
    pub(crate) namespace: &'a Namespace<'a>,
    pub(crate) name: String,
    /// The resource of its target.
    pub(crate) resource: &'static str,
}

impl<'a> Bench<'a> {
    /// Makes both, gives every page its load, and waits until Loadline has looked at all pages.
    pub(crate) fn settled(
        installed: &'a Installed<'a>,
        namespace: &'a Namespace<'a>,
        plan: &Plan<'_>,
        load: u32,
    ) -> Result<Self> {
        let bench = Self::deployed(installed, namespace, plan, load)?;
        namespace.apply(&plan.autoscaler())?;
        bench.wait_for_decision(plan.replicas)?;
        Ok(bench)
    }

    /// Waits until the status shows this count as decided on live values.
    pub(crate) fn wait_for_decision(&self, count: u32) -> Result<()> {
        self.until("a decision on live values", || {
            let status = self.autoscaler()?["status"].clone();
            // signals are those of the moment, steps those of the decision
            let is_live = status["signals"][0]["evidence"] == "Live";
            let is_decided =
                status["steps"][0].as_str().is_some_and(|step| step.contains("per replica against a target"));
            Ok((is_live && is_decided && status["desiredReplicas"] == count).then_some(()))
        })
    }

    /// Makes the Deployment alone and gives every page its load.
    pub(crate) fn deployed(
        installed: &'a Installed<'a>,
        namespace: &'a Namespace<'a>,
        plan: &Plan<'_>,
        load: u32,
    ) -> Result<Self> {
        let resource = if plan.kind == "Deployment" { "deployments" } else { "statefulsets" };
        let bench = Self { installed, namespace, name: plan.name.to_owned(), resource };
        namespace.apply(&plan.deployment()?)?;
        let pods = bench.wait_for_pods(plan.replicas, plan.is_ready)?;
        for pod in &pods {
            bench.say(pod, Page::Text(&waiting(load)))?;
            if !plan.is_ready {
                bench.put(pod, "/health", "ok")?;
            }
        }
        bench.wait_for_pods(plan.replicas, true)?;
        Ok(bench)
    }

    fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.namespace.plane().get(path)?;
        ensure!(status == 200, "`{path}`: {status} {body}");
        Ok(serde_json::from_str(&body)?)
    }

    /// Waits until `look` finds something; errors of it count as nothing, and the last one is told.
    pub(crate) fn until<T>(&self, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let mut last = String::new();
        let found = wait_for(what, PATIENCE, || {
            let found = look();
            if let Err(error) = &found {
                last = format!("{error:#}");
            }
            let found = found.ok().flatten();
            if found.is_none() {
                std::thread::sleep(LOOK);
            }
            found
        });
        found.map_err(|error| {
            let seen = self.autoscaler().map_or_else(|error| error.to_string(), |seen| format!("{:#}", seen["status"]));
            anyhow!("{error:#}; {last}\n{seen}")
        })
    }

    /// The target.
    pub(crate) fn deployment(&self) -> Result<Value> {
        self.get(&format!("/apis/apps/v1/namespaces/{}/{}/{}", self.namespace.name(), self.resource, self.name))
    }

    /// The InferenceAutoscaler.
    pub(crate) fn autoscaler(&self) -> Result<Value> {
        let (namespace, name) = (self.namespace.name(), &self.name);
        self.get(&format!("/apis/loadline.dev/v1alpha1/namespaces/{namespace}/inferenceautoscalers/{name}"))
    }

    /// `spec.replicas` of the Deployment.
    pub(crate) fn replicas(&self) -> Result<u64> {
        self.deployment()?["spec"]["replicas"].as_u64().context("no `spec.replicas`")
    }

    /// How often the Deployment's spec was changed.
    pub(crate) fn generation(&self) -> Result<u64> {
        self.deployment()?["metadata"]["generation"].as_u64().context("no `metadata.generation`")
    }

    /// Waits for a count.
    pub(crate) fn wait_for_replicas(&self, count: u64) -> Result<()> {
        self.until(&format!("{count} replicas of `{}`", self.name), || Ok((self.replicas()? == count).then_some(())))
    }

    /// Shows that the count stays while `span` passes: the Deployment is not written at all.
    pub(crate) fn stays(&self, span: Duration) -> Result<()> {
        let (generation, until) = (self.generation()?, Instant::now() + span);
        while Instant::now() < until {
            std::thread::sleep(LOOK);
            let now = self.deployment()?;
            if now["metadata"]["generation"] != generation {
                bail!("the Deployment was written: {}\n{:#}", now["spec"]["replicas"], self.autoscaler()?["status"]);
            }
        }
        Ok(())
    }

    /// Pods that are not on their way out, oldest first.
    pub(crate) fn pods(&self) -> Result<Vec<Pod>> {
        let path = format!("/api/v1/namespaces/{}/pods?labelSelector=app%3D{}", self.namespace.name(), self.name);
        let list = self.get(&path)?;
        let mut pods: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
        pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        pods.sort_by_key(|pod| pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned());
        let read = |pod: &&Value| {
            let conditions = pod["status"]["conditions"].as_array();
            let is_ready =
                conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True");
            Pod {
                name: pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
                ip: pod["status"]["podIP"].as_str().and_then(|ip| ip.parse().ok()),
                is_ready,
            }
        };
        Ok(pods.iter().map(read).collect())
    }

    /// Waits until there are so many pods with an address, and ready where that is asked for.
    pub(crate) fn wait_for_pods(&self, count: u32, are_ready: bool) -> Result<Vec<Pod>> {
        self.until(&format!("{count} pods of `{}`", self.name), || {
            let pods = self.pods()?;
            let good = pods.iter().filter(|pod| pod.ip.is_some() && (pod.is_ready || !are_ready)).count();
            Ok((good == usize::try_from(count)? && pods.len() == good).then_some(pods))
        })
    }

    /// Makes a pod's page what is wanted.
    pub(crate) fn say(&self, pod: &Pod, page: Page<'_>) -> Result<()> {
        let text = match page {
            Page::Text(text) => text,
            Page::Gone => "gone",
            Page::Hang => "hang",
        };
        self.put(pod, "/metrics", text)
    }

    /// The same for every pod there is, those included that only just begin.
    pub(crate) fn say_all(&self, page: Page<'_>) -> Result<()> {
        let pods = self.until("an address of every pod", || {
            Ok(Some(self.pods()?).filter(|pods| pods.iter().all(|pod| pod.ip.is_some())))
        })?;
        pods.iter().try_for_each(|pod| self.say(pod, page))
    }

    /// The same for those that are ready.
    pub(crate) fn say_all_ready(&self, page: Page<'_>) -> Result<()> {
        self.pods()?.iter().filter(|pod| pod.is_ready).try_for_each(|pod| self.say(pod, page))
    }

    /// Tells a page server something.
    pub(crate) fn put(&self, pod: &Pod, path: &str, text: &str) -> Result<()> {
        let address = SocketAddr::new(pod.ip.with_context(|| format!("`{}` has no address", pod.name))?, PAGE_PORT);
        // it listens a moment after it has its address
        wait_for("the page server", PATIENCE, || {
            client::request(address, "PUT", path, &[], text.as_bytes(), CALL).ok()
        })?;
        Ok(())
    }

    /// A condition of the autoscaler: status, reason and message.
    pub(crate) fn condition(&self, kind: &str) -> Result<(String, String, String)> {
        let seen = self.autoscaler()?;
        let all = seen["status"]["conditions"].as_array();
        let found = all.into_iter().flatten().find(|one| one["type"] == kind);
        let found = found.with_context(|| format!("no condition `{kind}`"))?;
        let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
        Ok((text("status"), text("reason"), text("message")))
    }

    /// Waits until a condition has this status and its reason or message has these words.
    pub(crate) fn wait_for_condition(&self, kind: &str, status: &str, words: &str) -> Result<String> {
        self.until(&format!("`{kind}` `{status}` with `{words}`"), || {
            let (now, reason, message) = self.condition(kind)?;
            Ok((now == status && (reason.contains(words) || message.contains(words))).then_some(message))
        })
    }

    /// Waits for an event of the autoscaler with these words; its message.
    pub(crate) fn wait_for_event(&self, reason: &str, words: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{}/events", self.namespace.name());
        self.until(&format!("an event `{reason}` with `{words}`"), || {
            let list = self.get(&path)?;
            let is_it = |event: &&Value| {
                event["involvedObject"]["name"] == self.name
                    && event["reason"] == reason
                    && event["message"].as_str().is_some_and(|text| text.contains(words))
            };
            let found = list["items"].as_array().into_iter().flatten().find(is_it);
            Ok(found.and_then(|event| event["message"].as_str()).map(str::to_owned))
        })
    }

    /// Name of the autoscaler as Loadline's own metrics have it.
    pub(crate) fn label(&self) -> String {
        format!("{{autoscaler=\"{}/{}\"}}", self.namespace.name(), self.name)
    }

    /// Shows that no law was broken, here or elsewhere.
    pub(crate) fn is_lawful(&self) -> Result<()> {
        is_lawful(self.installed)
    }
}

/// A page of a pod of Loadline.
pub(crate) fn admin_page(installed: &Installed<'_>, pod: &str, path: &str) -> Result<String> {
    let (status, body) = installed.world().plane.get(&format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}"))?;
    ensure!(status == 200, "pod `{pod}`: {status}");
    let seen: Value = serde_json::from_str(&body)?;
    let ip = seen["status"]["podIP"].as_str().with_context(|| format!("`{pod}` has no address"))?.parse()?;
    page_at(ip, path)
}

/// Addresses of the pods of Loadline, for times when the API server cannot be asked.
pub(crate) fn addresses(installed: &Installed<'_>) -> Result<Vec<IpAddr>> {
    let words =
        ["get", "pods", "--selector=app.kubernetes.io/component=serve", "--output=jsonpath={.items[*].status.podIP}"];
    installed.kubectl(&words)?.split_whitespace().map(|ip| Ok(ip.parse()?)).collect()
}

/// The same of a pod whose address is known.
pub(crate) fn page_at(ip: IpAddr, path: &str) -> Result<String> {
    let (head, body) = client::request(SocketAddr::new(ip, ADMIN_PORT), "GET", path, &[], b"", CALL)?;
    ensure!(head.status == 200, "`{path}`: {}", head.status);
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// The value of one series of such a page.
pub(crate) fn value(page: &str, series: &str) -> Option<f64> {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// The value of one series, added over all pods of Loadline.
pub(crate) fn sum(installed: &Installed<'_>, series: &str) -> Result<f64> {
    let pods = installed.pods()?;
    let of = |pod: &String| Ok(value(&admin_page(installed, pod, "/metrics")?, series).unwrap_or(0.0));
    pods.iter().map(of).sum()
}

/// Shows that no process of Loadline has found a law broken.
pub(crate) fn is_lawful(installed: &Installed<'_>) -> Result<()> {
    for pod in installed.pods()? {
        let page = admin_page(installed, &pod, "/metrics")?;
        let laws: Vec<&str> = page.lines().filter(|line| line.starts_with("loadline_law_violations_total{")).collect();
        ensure!(laws.len() >= 5, "`{pod}` counts no laws:\n{page}");
        let broken: Vec<&&str> = laws.iter().filter(|line| !line.ends_with(" 0")).collect();
        ensure!(broken.is_empty(), "laws were broken: {broken:?}");
    }
    Ok(())
}
