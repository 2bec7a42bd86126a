//! Loadline as people install it: the chart, by helm, into a control plane of the tests.

use crate::world::{self, World};
use crate::{Case, world::Namespace};
use anyhow::{Context, Result, anyhow, bail, ensure};
use loadline_testkit::node::Faults;
use loadline_testkit::wait_for;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub(crate) const CASES: [Case; 1] = [("install::the_chart_makes_a_loadline_that_serves", makes_one_that_serves)];

/// Where Loadline is installed.
pub(crate) const NAMESPACE: &str = "loadline";
/// The registrations of its metrics APIs.
pub(crate) const API_SERVICES: [&str; 3] =
    ["v1beta1.custom.metrics.k8s.io", "v1beta2.custom.metrics.k8s.io", "v1beta1.external.metrics.k8s.io"];
/// How long an installation may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// Lines of Loadline's log that a failed test shows, for each of its pods.
const LOG_LINES: usize = 60;

/// The environment variable with a folder for the whole logs of failed tests.
const LOG_FOLDER: &str = "LOADLINE_KUBE_LOGS";

/// Values of every installation of the tests, under those of the test.
const VALUES: &str = "
image: {repository: loadline, tag: test}
replicas: 1
log: info,loadline=debug,loadline_cluster=debug
resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {memory: 512Mi}}
";

/// Values of the shared one. Only one test has autoscalers with `gpusPerReplica`, and so a part in the budget.
const SHARED_VALUES: &str = "
replicas: 2
config: {gpuBudget: 12}
rbac:
  targetKinds:
  - {group: apps, resource: deployments}
  - {group: apps, resource: statefulsets}
  - {group: apps, resource: replicasets}
  - {group: example.loadline.dev, resource: widgets}
";

/// Kinds that are there before Loadline, which looks for missing ones only from time to time.
const KINDS: &str = concat!(
    include_str!("../../../../testdata/kube/monitoring-crds.yaml"),
    "---\n",
    include_str!("../../../../testdata/kube/scalable-crds.yaml")
);

/// An installed Loadline.
pub(crate) struct Installed<'world> {
    world: &'world World,
    /// From the call of helm until every pod was ready and every APIService available.
    pub(crate) took: Duration,
}

/// The one that tests share, on the shared control plane; installed by the first that asks.
pub(crate) fn shared() -> Result<&'static Installed<'static>> {
    static SHARED: OnceLock<Result<Installed<'static>, String>> = OnceLock::new();
    let installed = SHARED.get_or_init(|| {
        let start = || {
            let world = world::shared()?;
            world.plane.kubectl_with(&["apply", "--filename", "-"], KINDS)?;
            install(world, SHARED_VALUES)
        };
        start().map_err(|error: anyhow::Error| format!("{error:#}"))
    });
    installed.as_ref().map_err(|error| anyhow!("Loadline could not be installed: {error}"))
}

/// Runs a test with the shared Loadline and a namespace of its own; when it fails, the error shows the tail of Loadline's log.
pub(crate) fn with_shared(
    namespace: &'static str,
    test: impl FnOnce(&'static Installed<'static>, &Namespace<'static>) -> Result<()>,
) -> Result<()> {
    let installed = shared()?;
    installed.explain(|| test(installed, &installed.world.namespace(namespace)?))
}

/// Installs the chart with `values` (YAML) laid over those of [`VALUES`], and waits until it serves.
pub(crate) fn install<'world>(world: &'world World, values: &str) -> Result<Installed<'world>> {
    let mut installed = Installed { world, took: Duration::ZERO };
    let began = Instant::now();
    installed.helm("install", values)?;
    let available = installed.explain(|| installed.wait_until_it_serves());
    installed.took = began.elapsed();
    available?;
    eprintln!(
        "loadline: {:.1} s from `helm install` until its APIServices were available",
        installed.took.as_secs_f64()
    );
    Ok(installed)
}

pub(crate) fn chart() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "charts", "loadline"].iter().collect()
}

impl Installed<'_> {
    /// The control plane and nodes it is on.
    pub(crate) fn world(&self) -> &World {
        self.world
    }

    /// Runs helm's `install` or `upgrade` with these values.
    pub(crate) fn helm(&self, verb: &str, values: &str) -> Result<String> {
        let folder = self.world.plane.directory();
        let (common, own) = (folder.join("values.yaml"), folder.join("values-of-test.yaml"));
        std::fs::write(&common, VALUES)?;
        std::fs::write(&own, values)?;
        let chart = chart();
        let words = [verb, "loadline", &chart.display().to_string(), "--namespace", NAMESPACE];
        let files =
            ["--values", &common.display().to_string(), "--values", &own.display().to_string()].map(str::to_owned);
        let mut words: Vec<&str> = words.to_vec();
        words.extend(files.iter().map(String::as_str));
        if verb == "install" {
            words.push("--create-namespace");
        }
        self.world.plane.helm(&words)
    }

    /// Waits until every pod is ready and every APIService available.
    pub(crate) fn wait_until_it_serves(&self) -> Result<()> {
        let patience = format!("--timeout={}s", PATIENCE.as_secs());
        self.kubectl(&["rollout", "status", "deployment/loadline", &patience])?;
        for name in API_SERVICES {
            let name = format!("apiservice/{name}");
            let waited = self.kubectl(&["wait", "--for=condition=Available", &name, &patience]);
            if waited.is_err() {
                let seen = self.kubectl(&["get", &name, "--output=jsonpath={.status.conditions}"])?;
                bail!("{name} is not available: {seen}");
            }
        }
        Ok(())
    }

    /// Runs kubectl in Loadline's namespace.
    pub(crate) fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.world.plane.kubectl(&[&["--namespace", NAMESPACE], words].concat())
    }

    /// Faults of the nodes.
    pub(crate) fn faults(&self) -> Faults {
        self.world.faults()
    }

    /// Names of the pods of `loadline serve`.
    pub(crate) fn pods(&self) -> Result<Vec<String>> {
        let words = [
            "get",
            "pods",
            "--selector=app.kubernetes.io/component=serve",
            "--output=jsonpath={.items[*].metadata.name}",
        ];
        Ok(self.kubectl(&words)?.split_whitespace().map(str::to_owned).collect())
    }

    /// The pod that holds the lease, once there is one that runs.
    pub(crate) fn writer(&self) -> Result<String> {
        wait_for("a writer", PATIENCE, || {
            let holder =
                self.kubectl(&["get", "lease", "loadline", "--output=jsonpath={.spec.holderIdentity}"]).ok()?;
            let pod = holder.split('_').next().unwrap_or_default().to_owned();
            self.pods().ok()?.contains(&pod).then_some(pod)
        })
    }

    /// Everything that a pod of Loadline logged.
    pub(crate) fn log(&self, pod: &str) -> String {
        let path = self.faults().log_path(NAMESPACE, pod, "serve");
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// The last lines of the log of each pod.
    pub(crate) fn log_tail(&self) -> String {
        let mut out = String::new();
        for pod in self.pods().unwrap_or_default() {
            let log = self.log(&pod);
            if let Some(folder) = std::env::var_os(LOG_FOLDER) {
                // best effort, for the person who asked for it
                let _ = std::fs::write(PathBuf::from(folder).join(format!("{pod}.log")), &log);
            }
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default();
            out.push_str(&format!("--- {pod}\n{}\n", tail.join("\n")));
        }
        out
    }

    /// Runs something; an error gets the tail of Loadline's log.
    pub(crate) fn explain<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        act().map_err(|error| anyhow!("{error:#}\n{}", self.log_tail()))
    }
}

fn makes_one_that_serves() -> Result<()> {
    let installed = shared()?;
    installed
        .explain(|| {
            let pods = installed.pods()?;
            ensure!(pods.len() == 2, "{pods:?}");
            let writer = installed.writer()?;
            let secrets =
                installed.kubectl(&["get", "secrets", "loadline-tls", "loadline-tls-client", "--output=name"])?;
            ensure!(secrets.lines().count() == 2, "{secrets}");
            for group in
                ["custom.metrics.k8s.io/v1beta1", "custom.metrics.k8s.io/v1beta2", "external.metrics.k8s.io/v1beta1"]
            {
                let (status, body) = installed.world.plane.get(&format!("/apis/{group}"))?;
                ensure!(status == 200 && body.contains("APIResourceList"), "{group}: {status} {body}");
            }
            let log = installed.log(&writer);
            ensure!(log.contains("this process writes now"), "the writer {writer} did not say so");
            for pod in &pods {
                let log = installed.log(pod);
                let refused = log.lines().find(|line| line.to_lowercase().contains("forbidden")).map(str::to_owned);
                ensure!(refused.is_none(), "{pod} lacks a right: {}", refused.unwrap_or_default());
            }
            ensure!(installed.took < PATIENCE, "{:?}", installed.took);
            Ok(())
        })
        .context("the shared installation")
}
