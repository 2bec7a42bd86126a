//! GPU utilization from a DCGM exporter, for an HPA of the guides as it is. It names the target of another guide's HPA, so it has a control plane
//! of its own; tests that take Loadline away use that one too, one after the other.

use crate::views::{Engines, PATIENCE, View, guide, is_full, until};
use crate::world::{self, World};
use crate::{Case, golden, install};
use anyhow::{Context, Result, anyhow, ensure};
use loadline_testkit::controlplane::{ControlPlane, Options};
use loadline_testkit::dcgm as exporter;
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

pub(crate) const CASES: [Case; 1] = [("dcgm::utilization_scales_in_both_shapes_of_labels", both_shapes)];

/// The word that makes this binary the exporter.
const EXPORTER: &str = "dcgm-exporter";
const HPA: &str = "llm-gpu-hpa";
const METRIC: &str = "DCGM_FI_DEV_GPU_UTIL";

/// Runs the exporter if that is what this process was started for: pods run this binary, so that there is nothing else to build.
pub(crate) fn as_exporter() -> Option<ExitCode> {
    let mut words = std::env::args().skip(1);
    (words.next()? == EXPORTER).then(|| {
        let settings = exporter::Settings::of(&words.collect::<Vec<_>>());
        match settings.and_then(|settings| exporter::serve(&settings)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::from(2)
            }
        }
    })
}

/// A Loadline on a control plane beside the shared one, for one test at a time.
pub(crate) fn beside() -> Result<MutexGuard<'static, install::Installed<'static>>> {
    type Beside = Result<Mutex<install::Installed<'static>>, String>;
    static WORLD: OnceLock<World> = OnceLock::new();
    static BESIDE: OnceLock<Beside> = OnceLock::new();
    let start = || -> Result<Mutex<install::Installed<'static>>> {
        // the written window is the HPA controller's own default
        let options = world::options()?;
        let stabilization = options.downscale_stabilization.filter(|_| !is_full());
        let options = Options { downscale_stabilization: stabilization, ..options };
        let world = World::with_nodes(ControlPlane::beside(options)?)?;
        let world = WORLD.get_or_init(|| world);
        Ok(Mutex::new(install::install(world, "replicas: 1\n")?))
    };
    let started = BESIDE.get_or_init(|| start().map_err(|error| format!("{error:#}")));
    let installed = started.as_ref().map_err(|error| anyhow!("no Loadline beside the shared one: {error}"))?;
    Ok(installed.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The exporter in a namespace of its own; `--work 180` is two GPUs at 90 %.
fn exporter_manifest(work: u32, shape: &str) -> Result<String> {
    let binary = std::env::current_exe()?;
    let folder = binary.parent().context("the test binary is in no folder")?.display().to_string();
    let name = binary.file_name().context("the test binary has no name")?.to_string_lossy().into_owned();
    let port = exporter::PORT;
    Ok(format!(
        r#"
apiVersion: v1
kind: ServiceAccount
metadata: {{name: dcgm-exporter}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: dcgm-exporter}}
rules: [{{apiGroups: [""], resources: [pods], verbs: [list]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: dcgm-exporter}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: dcgm-exporter}}
subjects: [{{kind: ServiceAccount, name: dcgm-exporter, namespace: gpu-operator}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: dcgm-exporter}}
spec:
  replicas: 1
  strategy: {{type: Recreate}}
  selector: {{matchLabels: {{app: dcgm-exporter}}}}
  template:
    metadata:
      labels: {{app: dcgm-exporter}}
      annotations: {{prometheus.io/scrape: "true", prometheus.io/port: "{port}"}}
    spec:
      serviceAccountName: dcgm-exporter
      terminationGracePeriodSeconds: 1
      containers:
      - name: exporter
        image: dcgm-exporter
        command: [/opt/testkit/{name}, {EXPORTER}, --namespace, ai-inference, --work, "{work}", --shape, {shape}]
        env:
        - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
        - {{name: POD_NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}
        ports: [{{name: metrics, containerPort: {port}}}]
        readinessProbe: {{httpGet: {{path: /metrics, port: metrics}}, periodSeconds: 1}}
        volumeMounts: [{{name: binary, mountPath: /opt/testkit, readOnly: true}}]
      volumes: [{{name: binary, hostPath: {{path: {folder}}}}}]
"#
    ))
}

fn both_shapes() -> Result<()> {
    let installed = beside()?;
    let world = installed.world();
    let (gpus, engines_in) = (world.namespace("gpu-operator")?, world.namespace("ai-inference")?);
    let view = View { world, namespace: "ai-inference" };
    let engines = Engines { gpus: 1, ..Engines::new("Deployment", "mistral-vllm", "") };
    installed.explain(|| {
        gpus.apply(&exporter_manifest(180, "direct")?)?;
        engines_in.apply(&engines.manifest())?;
        engines_in.apply(&guide("dcgm-utilization-hpa")?)?;
        // 100 of one GPU, then 90 of two, then 60 of three: within the tolerance of no step up or down
        view.until_replicas(&engines, 3, PATIENCE)?;
        let sizes = view.events(HPA, "SuccessfulRescale")?;
        let above = |size: u32| format!("New size: {size}; reason: pods metric {METRIC} above target");
        ensure!(sizes == [above(2), above(3)], "{sizes:?}");
        all_at(&view, "60")?;
        golden::check("dcgm-utilization-hpa.describe", &settled(&view)?)?;
        // the same under the other labels; the exporter's own pod is never taken for the user
        gpus.apply(&exporter_manifest(300, "exported")?)?;
        view.until_replicas(&engines, 4, PATIENCE)?;
        all_at(&view, "75")?;
        let own = format!("/apis/custom.metrics.k8s.io/v1beta2/namespaces/gpu-operator/pods/*/{METRIC}");
        let idle = view.get(&own)?;
        let values: Vec<&str> =
            idle["items"].as_array().into_iter().flatten().filter_map(|item| item["value"].as_str()).collect();
        ensure!(values == ["0"], "the GPU without a user: {idle}");
        gpus.apply(&exporter_manifest(20, "exported")?)?;
        let patience = if is_full() { Duration::from_secs(420) } else { PATIENCE };
        view.until_replicas(&engines, 1, patience)
    })
}

/// Waits until the HPA neither wants to scale nor holds back; its description then.
fn settled(view: &View<'_>) -> Result<String> {
    view.until_hpa(HPA, "an HPA that has settled", |hpa| {
        hpa.expect("AbleToScale", "True", "ReadyForNewScale")?;
        hpa.expect("ScalingLimited", "False", "DesiredWithinRange")
    })?;
    view.described(HPA)
}

/// Waits until each pod of the target has this utilization.
fn all_at(view: &View<'_>, percent: &str) -> Result<()> {
    let path = format!(
        "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ai-inference/pods/*/{METRIC}?labelSelector=app%3Dmistral-vllm"
    );
    until(&format!("{percent} % of every pod"), PATIENCE, || {
        let list = view.get(&path)?;
        let (asked, _) = view.replicas(&Engines::new("Deployment", "mistral-vllm", ""))?;
        let values: Vec<&str> =
            list["items"].as_array().into_iter().flatten().filter_map(|item| item["value"].as_str()).collect();
        let count = u64::try_from(values.len())?;
        ensure!(count == asked && values.iter().all(|value| *value == percent), "{values:?} of {asked}");
        Ok(())
    })
}
