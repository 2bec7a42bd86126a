//! The stock HPA of the real control plane scales engines on what Loadline serves: manifests of the guides as they are, under the guides'
//! client. Windows of scale-down are cut short by a patch, unless `LOADLINE_FULL=1`.

use crate::views::{Engines, PATIENCE, View, guide, in_namespace, is_full, until};
use crate::world::Namespace;
use crate::{Case, dcgm, golden};
use anyhow::{Context as _, Result, ensure};
use loadline_testkit::wait_for;
use std::time::{Duration, Instant};

pub(crate) const CASES: [Case; 7] = [
    ("hpa::vllm_waiting_on_a_statefulset_goes_to_three_and_back", vllm_statefulset),
    ("hpa::sglang_queue_on_a_statefulset_goes_to_three_and_back", sglang_statefulset),
    ("hpa::the_name_with_underscores_moves_a_deployment_one_pod_at_a_time", vllm_deployment),
    ("hpa::a_kv_cache_fraction_scales_at_800m", kv_cache),
    ("hpa::dynamos_queue_scales", dynamo),
    ("hpa::a_pod_without_a_value_counts_as_the_hpa_has_it", lost_pod),
    ("hpa::with_loadline_away_replicas_stay_as_they_are", loadline_away),
];

/// What a step down may take with the written window of 300 s.
const WRITTEN_WINDOW: Duration = Duration::from_secs(420);
/// How long Loadline stays away in the long variant.
const LONG_AWAY: Duration = Duration::from_secs(600);
/// Passes of the HPA without a metric that are watched otherwise.
const PASSES_AWAY: u64 = 6;

/// A guide of its own namespace: HPA `llm-inference-hpa` on a StatefulSet.
struct Guide {
    namespace: &'static str,
    manifest: &'static str,
    engines: Engines,
    metric: &'static str,
}

const HPA: &str = "llm-inference-hpa";

fn vllm_statefulset() -> Result<()> {
    goes_to_three_and_back(&Guide {
        namespace: "hpa-vllm",
        manifest: "vllm-waiting-statefulset-hpa",
        engines: Engines::new("StatefulSet", "vllm-inference", "--dialect vllm --max-num-seqs 4 --speedup 2"),
        metric: "vllm:num_requests_waiting",
    })
}

fn sglang_statefulset() -> Result<()> {
    goes_to_three_and_back(&Guide {
        namespace: "hpa-sglang",
        manifest: "sglang-queue-statefulset-hpa",
        engines: Engines::new("StatefulSet", "sgl-inference", "--dialect sglang --max-num-seqs 4 --speedup 2"),
        metric: "sglang:num_queue_reqs",
    })
}

/// Starts the guides' client once the Service answers: its pod is started once, and gives up where nothing listens.
fn start_load(namespace: &Namespace<'_>) -> Result<()> {
    let address = namespace.kubectl(&[
        "get",
        "service",
        "inference-service",
        "--output=jsonpath={.spec.clusterIP}:{.spec.ports[0].port}",
    ])?;
    let address: std::net::SocketAddr = address.trim().parse().with_context(|| format!("an address: `{address}`"))?;
    wait_for("the Service to answer", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(100));
        std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()
    })?;
    namespace.apply(&guide("benchmark-client")?).map(drop)
}

fn goes_to_three_and_back(guide_of: &Guide) -> Result<()> {
    let Guide { namespace: name, manifest, engines, metric } = *guide_of;
    in_namespace(name, |_, namespace, view| {
        namespace.apply(&engines.manifest())?;
        namespace.apply(&guide(manifest)?)?;
        view.until_active(HPA)?;
        start_load(&namespace)?;
        view.until_replicas(&engines, 3, PATIENCE)?;
        // two steps or one, by how many had come when it looked
        let sizes = view.events(HPA, "SuccessfulRescale")?;
        let above = |size: u32| format!("New size: {size}; reason: pods metric {metric} above target");
        ensure!(sizes == [above(3)] || sizes == [above(2), above(3)], "{sizes:?}");
        let shown = format!("\"{metric}\" on pods: N / 5");
        until("the load in `kubectl describe hpa`", PATIENCE, || {
            let described = view.described(HPA)?;
            let value = view.hpa(HPA)?.value().to_owned();
            ensure!(described.contains(&shown) && value != "0" && !value.is_empty(), "{value}: {described}");
            Ok(())
        })?;
        view.until_client_done(PATIENCE)?;
        view.until_hpa(HPA, "the window of scale-down", |hpa| {
            ensure!(hpa.value() == "0", "`{}` waiting", hpa.value());
            hpa.expect("AbleToScale", "True", "ScaleDownStabilized")
        })?;
        ensure!(view.replicas(&engines)?.0 == 3, "the window of 300 s was not kept");
        golden::check(&format!("{manifest}.describe"), &view.described(HPA)?)?;
        golden::check(&format!("{manifest}.get"), &golden::normal(&namespace.kubectl(&["get", "hpa"])?))?;
        cut_window(namespace, HPA)?;
        view.until_replicas(&engines, 1, WRITTEN_WINDOW)?;
        let sizes = view.events(HPA, "SuccessfulRescale")?;
        ensure!(sizes.last().is_some_and(|last| last == "New size: 1; reason: All metrics below target"), "{sizes:?}");
        Ok(())
    })
}

/// Makes the window of scale-down short, and its policies quick; not in the long variant.
fn cut_window(namespace: &Namespace<'_>, hpa: &str) -> Result<()> {
    if is_full() {
        return Ok(());
    }
    let patch = r#"{"spec":{"behavior":{"scaleDown":{"stabilizationWindowSeconds":2,"policies":[{"type":"Pods","value":4,"periodSeconds":5}]}}}}"#;
    namespace.kubectl(&["patch", "hpa", hpa, "--type=merge", "--patch", patch]).map(drop)
}

fn vllm_deployment() -> Result<()> {
    const HPA: &str = "mistral-vllm-hpa";
    // the load lasts for the window and policies as they are tried: about 190 s, or 570 s
    let slow = if is_full() { "--max-num-seqs 4 --speedup 0.2" } else { "--max-num-seqs 4 --speedup 0.6" };
    let engines = Engines::new("Deployment", "mistral-vllm", slow);
    in_namespace("ai-inference", |_, namespace, view| {
        namespace.apply(&engines.manifest())?;
        namespace.apply(&guide("vllm-waiting-deployment-hpa")?)?;
        view.until_active(HPA)?;
        let loaded = Instant::now();
        start_load(&namespace)?;
        // the lowest recommendation of 60 s counts; the last low one came after the load began, or less than a period before
        view.until_hpa(HPA, "the window of scale-up", |hpa| hpa.expect("AbleToScale", "True", "ScaleUpStabilized"))?;
        view.until_replicas(&engines, 2, PATIENCE + Duration::from_secs(60))?;
        let took = loaded.elapsed();
        ensure!(took >= Duration::from_secs(55), "up after {took:?}, within the window of 60 s");
        view.until_hpa(HPA, "the limit of one pod per 120 s", |hpa| {
            ensure!(hpa.current_replicas() == 2, "{} replicas seen", hpa.current_replicas());
            hpa.expect("ScalingLimited", "True", "ScaleUpLimit")
        })?;
        let sizes = view.events(HPA, "SuccessfulRescale")?;
        let above = |size: u32| format!("New size: {size}; reason: pods metric vllm_num_requests_waiting above target");
        ensure!(sizes == [above(2)], "{sizes:?}");
        // which of its recommendations are held back differs
        let described = view.described(HPA)?;
        let kept: Vec<&str> = described.lines().filter(|line| !line.contains("AbleToScale")).collect();
        golden::check("vllm-waiting-deployment-hpa.describe", &kept.join("\n"))?;
        if is_full() {
            let second = Instant::now();
            view.until_replicas(&engines, 3, Duration::from_secs(180))?;
            ensure!(second.elapsed() >= Duration::from_secs(105), "a second pod after {:?}", second.elapsed());
        }
        namespace.kubectl(&["delete", "pod", "benchmark", "--grace-period=1"])?;
        cut_window(namespace, HPA)?;
        view.until_replicas(&engines, 1, WRITTEN_WINDOW * 3)?;
        let sizes = view.events(HPA, "SuccessfulRescale")?;
        ensure!(sizes.last().is_some_and(|last| last == "New size: 1; reason: All metrics below target"), "{sizes:?}");
        Ok(())
    })
}

/// An HPA on one Pods metric, with a short window of scale-down.
fn hpa_on(engines: &Engines, metric: &str, target: &str) -> String {
    let Engines { kind, name, .. } = engines;
    format!(
        r#"
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: llm-inference-hpa}}
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: {kind}, name: {name}}}
  minReplicas: 1
  maxReplicas: 3
  metrics:
  - type: Pods
    pods: {{metric: {{name: "{metric}"}}, target: {{type: AverageValue, averageValue: "{target}"}}}}
  behavior:
    scaleDown: {{stabilizationWindowSeconds: 2}}
"#
    )
}

fn kv_cache() -> Result<()> {
    // 4 requests of 1,600 tokens hold 400 of 420 blocks
    let options = "--max-num-seqs 4 --num-gpu-blocks 420 --max-model-len 4096";
    let engines = Engines::new("StatefulSet", "vllm-kv", options);
    up_and_down("hpa-kv-cache", &engines, ("vllm:kv_cache_usage_perc", "800m"), 2, false)
}

fn dynamo() -> Result<()> {
    let engines = Engines::new("Deployment", "frontend", "--dialect dynamo --max-num-seqs 4");
    // a frontend of Dynamo has no series about a model before its first request
    up_and_down("hpa-dynamo", &engines, ("dynamo_frontend_queued_requests", "5"), 3, true)
}

fn up_and_down(
    name: &'static str,
    engines: &Engines,
    (metric, target): (&str, &str),
    most: u64,
    is_silent_before_the_first_request: bool,
) -> Result<()> {
    in_namespace(name, |_, namespace, view| {
        namespace.apply(&engines.manifest())?;
        namespace.apply(&hpa_on(engines, metric, target))?;
        if !is_silent_before_the_first_request {
            view.until_active(HPA)?;
        }
        start_load(&namespace)?;
        view.until_replicas(engines, most, PATIENCE)?;
        let described = view.described(HPA)?;
        ensure!(described.contains(&format!("\"{metric}\" on pods: N / {target}")), "{described}");
        let sizes = view.events(HPA, "SuccessfulRescale")?;
        let last = format!("New size: {most}; reason: pods metric {metric} above target");
        ensure!(sizes.last() == Some(&last), "{sizes:?}");
        namespace.kubectl(&["delete", "pod", "benchmark", "--grace-period=1"])?;
        view.until_replicas(engines, 1, PATIENCE)
    })
}

/// Four idle pods of which two cannot be scraped: on the way down the HPA counts these at the target, so it keeps two where four with values
/// would be one. When only those two are left there is no value at all, and nothing moves.
fn lost_pod() -> Result<()> {
    let engines = Engines { replicas: 4, ..Engines::new("StatefulSet", "llm", "--dialect vllm") };
    let name = "hpa-lost-pod";
    in_namespace(name, |installed, namespace, view| {
        let faults = installed.faults();
        namespace.apply(&engines.manifest())?;
        view.until_replicas(&engines, 4, PATIENCE)?;
        let held = hpa_on(&engines, "vllm:num_requests_waiting", "5")
            .replace("maxReplicas: 3", "maxReplicas: 4")
            .replace("stabilizationWindowSeconds: 2", "stabilizationWindowSeconds: 0, selectPolicy: Disabled");
        namespace.apply(&held)?;
        view.until_active(HPA)?;
        for pod in ["llm-0", "llm-1"] {
            faults.freeze(name, pod)?;
        }
        let path = format!("/apis/custom.metrics.k8s.io/v1beta2/namespaces/{name}/pods/*/vllm:num_requests_waiting");
        until("a list without the silent pods", PATIENCE, || {
            let list = view.get(&path)?;
            let items = list["items"].as_array().into_iter().flatten();
            let pods: Vec<&str> = items.filter_map(|item| item.pointer("/describedObject/name")?.as_str()).collect();
            ensure!(pods == ["llm-2", "llm-3"], "{pods:?}");
            Ok(())
        })?;
        namespace.apply(&held.replace("Disabled", "Max"))?;
        until("two replicas", PATIENCE, || {
            let (asked, _) = view.replicas(&engines)?;
            ensure!(asked == 2, "{asked} replicas");
            Ok(())
        })?;
        let hpa = view.until_hpa(HPA, "an HPA without any value", |hpa| {
            hpa.expect("ScalingActive", "False", "FailedGetPodsMetric")?;
            let [_, _, message] = hpa.condition("ScalingActive")?;
            ensure!(message.contains("last scraped") && !message.contains("llm-2"), "{message}");
            Ok(())
        })?;
        let [_, _, message] = hpa.condition("ScalingActive")?;
        for part in
            ["the HPA was unable to compute the replica count", "`llm-0`: last scraped", "`llm-1`: last scraped"]
        {
            ensure!(message.contains(part), "`{part}` is not in `{message}`");
        }
        let failed = view.event_count(HPA, "FailedComputeMetricsReplicas")?;
        until("further passes without a value", PATIENCE, || {
            let count = view.event_count(HPA, "FailedComputeMetricsReplicas")?;
            ensure!(count >= failed + 2, "{count} of them");
            Ok(())
        })?;
        ensure!(view.replicas(&engines)?.0 == 2, "replicas changed without a value");
        for pod in ["llm-0", "llm-1"] {
            faults.thaw(name, pod)?;
        }
        view.until_replicas(&engines, 1, PATIENCE)?;
        view.until_active(HPA).map(drop)
    })
}

/// What the HPA's client says of an API that is away depends on what it remembers of the discovery.
fn without_client_error(described: &str) -> String {
    const API: &str = "unable to fetch metrics from custom metrics API:";
    let cut = |line: &str| line.split_once(API).map_or(line.to_owned(), |(before, _)| format!("{before}{API} ERROR"));
    described.lines().map(cut).collect::<Vec<_>>().join("\n")
}

/// One guide says that an HPA goes to its minimum when the metric is lost. It does not.
fn loadline_away() -> Result<()> {
    let name = "loadline-away";
    let installed = dcgm::beside()?;
    let namespace = installed.world().namespace(name)?;
    let view = View { world: installed.world(), namespace: name };
    let engines = Engines::new("StatefulSet", "vllm-inference", "--dialect vllm --max-num-seqs 4 --speedup 2");
    let act = || {
        namespace.apply(&engines.manifest())?;
        namespace.apply(&guide("vllm-waiting-statefulset-hpa")?)?;
        view.until_active(HPA)?;
        start_load(&namespace)?;
        view.until_replicas(&engines, 3, PATIENCE)?;
        view.until_hpa(HPA, "an HPA that has settled", |hpa| {
            hpa.expect("AbleToScale", "True", "ReadyForNewScale")?;
            hpa.expect("ScalingLimited", "False", "DesiredWithinRange")
        })?;
        installed.kubectl(&["scale", "deployment/loadline", "--replicas=0"])?;
        let hpa = view.until_hpa(HPA, "an HPA that says what it lacks", |hpa| {
            hpa.expect("ScalingActive", "False", "FailedGetPodsMetric")
        })?;
        let [_, _, message] = hpa.condition("ScalingActive")?;
        ensure!(message.contains("unable to fetch metrics from custom metrics API"), "{message}");
        // nothing holds it but the missing metric: the load has ended, the window is short
        namespace.kubectl(&["delete", "pod", "benchmark", "--grace-period=1"])?;
        let patch = r#"{"spec":{"behavior":{"scaleDown":{"stabilizationWindowSeconds":0}}}}"#;
        namespace.kubectl(&["patch", "hpa", HPA, "--type=merge", "--patch", patch])?;
        let (began, failed) = (Instant::now(), view.event_count(HPA, "FailedComputeMetricsReplicas")?);
        until("passes of the HPA without a metric", LONG_AWAY * 2, || {
            let passes = view.event_count(HPA, "FailedComputeMetricsReplicas")? - failed;
            let away = began.elapsed();
            ensure!(passes >= PASSES_AWAY && (!is_full() || away >= LONG_AWAY), "{passes} in {away:?}");
            Ok(())
        })?;
        ensure!(view.replicas(&engines)?.0 == 3, "replicas changed while Loadline was away");
        view.hpa(HPA)?.expect("ScalingActive", "False", "FailedGetPodsMetric")?;
        golden::check("loadline-away.describe", &without_client_error(&view.described(HPA)?))?;
        installed.kubectl(&["scale", "deployment/loadline", "--replicas=1"])?;
        installed.wait_until_it_serves()?;
        view.until_active(HPA)?;
        view.until_replicas(&engines, 1, PATIENCE)
    };
    installed.explain(|| view.explain(act))
}
