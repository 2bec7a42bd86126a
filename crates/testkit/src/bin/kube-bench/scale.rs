//! A fleet: CPU time and memory of `loadline serve` with 2,000 pods of 200 autoscalers, and lists of its metrics API meanwhile.

use super::objects::{self, NAMESPACE};
use super::pages::{CAPTURES, GAUGE};
use super::stage::{Serve, Stage, config};
use super::{Size, figure, progress, quantiles};
use anyhow::{Context, Result, ensure};
use kube::Client;
use loadline_base::num::{u64_to_f64, usize_to_f64};
use loadline_testkit::controlplane::{Component, Options};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Pods in the list that is measured.
const LISTED: usize = 500;
/// Lists measured in each way.
const LISTS: usize = 500;
/// Before anything is counted: every watch, page and status has been seen by then.
const SETTLE: Duration = Duration::from_secs(20);
/// How long the fleet may take to stand.
const PATIENCE: Duration = Duration::from_secs(540);
/// Between two looks at memory.
const LOOK: Duration = Duration::from_millis(500);

pub(crate) fn run(size: &Size) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(size))
}

async fn measure(size: &Size) -> Result<()> {
    progress("starting a control plane");
    // Two thousand pods at the controller's 20 requests a second would take minutes; nothing measured depends on it.
    let quick = ["--kube-api-qps=1000", "--kube-api-burst=2000"];
    let extra = quick.map(|flag| (Component::ControllerManager, flag.to_owned())).into();
    let stage = Stage::start(Options { extra, ..Options::default() }).await?;
    let names: Vec<String> = (0..size.autoscalers).map(|number| format!("fleet-{number}")).collect();
    let pods = size.autoscalers * size.pods_each;
    progress(&format!("making {} Deployments of {} pods", names.len(), size.pods_each));
    // the listed pods are those of the first Deployments whose pages have the metric
    let listed = LISTED.min(pods / CAPTURES.len() / size.pods_each.max(1) * size.pods_each);
    let deployments = names.iter().enumerate().map(|(number, name)| {
        let capture = (number % CAPTURES.len()).to_string();
        let is_listed = number % CAPTURES.len() == 0 && number / CAPTURES.len() * size.pods_each < listed;
        objects::deployment(
            name,
            size.pods_each,
            &[("capture", &capture), ("listed", if is_listed { "yes" } else { "no" })],
        )
    });
    objects::create(&stage.client, deployments.collect()).await?;
    stage.addresses.until(pods, PATIENCE).await?;
    progress(&format!("{pods} pods run; starting Loadline"));
    let serve = stage.serve().await?;
    let spec = fleet_spec(size.pods_each);
    let manifests: Vec<Value> = names.iter().map(|name| objects::autoscaler(name, &spec)).collect();
    objects::create(&stage.client, manifests.clone()).await?;
    if let Some(like) = manifests.first() {
        objects::until_condition(&stage.client, like, &names, "ScalingActive", PATIENCE).await?;
    }
    progress("every autoscaler is active");
    tokio::time::sleep(SETTLE).await;
    progress(&format!("watching it for {} s", size.span));
    let watched = watch(&serve, size, pods).await;
    if let Ok(folder) = std::env::var("KUBE_BENCH_LOGS") {
        std::fs::copy(serve.process.log(), format!("{folder}/scale-serve.log"))?;
    }
    watched?;
    progress(&format!("{LISTS} lists of {listed} pods, each way"));
    let path = format!(
        "/apis/custom.metrics.k8s.io/v1beta2/namespaces/{NAMESPACE}/pods/%2A/{}?labelSelector=listed%3Dyes",
        GAUGE.replace(':', "%3A")
    );
    quantiles("list_aggregated", &lists(&stage.client, &path, listed).await?);
    let mut direct = config(stage.plane.kubeconfig()).await?;
    direct.cluster_url = format!("https://{}", stage.api).parse()?;
    direct.accept_invalid_certs = true;
    quantiles("list_direct", &lists(&Client::try_from(direct)?, &path, listed).await?);
    figure("list_pods", usize_to_f64(listed));
    Ok(())
}

/// Two metrics each, at rest: the queue asks for far fewer replicas than the floor.
fn fleet_spec(pods: usize) -> Value {
    let signal = |name: &str, per_pod: &str| {
        json!({ "type": "Signal", "signal": {
            "name": name, "target": { "type": "AverageValue", "averageValue": per_pod },
        }})
    };
    json!({
        "minReplicas": pods, "maxReplicas": pods * 2,
        "metrics": [signal("requests_waiting", "1k"), signal("requests_running", "1k")],
    })
}

async fn watch(serve: &Serve, size: &Size, pods: usize) -> Result<()> {
    let count = |name: &str| serve.metric(name);
    let names = ["loadline_scrapes_total", "loadline_scrape_errors_total", "loadline_decisions_total"];
    let before = names.map(count);
    let (begun, cpu) = (Instant::now(), serve.process.cpu_seconds()?);
    if let Ok(file) = std::env::var("KUBE_BENCH_PERF") {
        profile(serve.process.id(), &file, size.span)?;
    }
    let mut most: f64 = 0.0;
    while begun.elapsed() < Duration::from_secs(size.span) {
        most = most.max(serve.process.memory("VmRSS")?);
        tokio::time::sleep(LOOK).await;
    }
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), serve.process.cpu_seconds()? - cpu);
    let [scrapes, errors, decisions] = names.map(count);
    let [scrapes_before, errors_before, decisions_before] = before;
    let scrapes = scrapes? - scrapes_before?;
    figure("scale_pods", usize_to_f64(pods));
    figure("scale_autoscalers", usize_to_f64(size.autoscalers));
    figure("scale_cores", cpu / seconds);
    figure("scale_rss_mb", most);
    figure("scale_rss_at_most_mb", serve.process.memory("VmHWM")?);
    figure("scale_scrapes_per_pod_and_second", scrapes / seconds / usize_to_f64(pods));
    figure("scale_scrape_errors", errors? - errors_before?);
    let decisions = decisions? - decisions_before?;
    figure("scale_decisions_per_autoscaler_and_second", decisions / seconds / usize_to_f64(size.autoscalers));
    figure("scale_seconds", u64_to_f64(size.span));
    ensure!(scrapes > 0.0, "no page was read:\n{}", serve.process.tail());
    Ok(())
}

/// Samples stacks of the process meanwhile, for whoever looks for what costs.
fn profile(id: u32, file: &str, seconds: u64) -> Result<()> {
    let words =
        ["record", "-q", "-F", "499", "-g", "-o", file, "-p", &id.to_string(), "--", "sleep", &seconds.to_string()]
            .map(str::to_owned);
    std::process::Command::new("perf").args(words).spawn().context("`perf` of linux-perf could not be run")?;
    Ok(())
}

/// Milliseconds of each list, one after the other.
async fn lists(client: &Client, path: &str, pods: usize) -> Result<Vec<f64>> {
    let mut millis = Vec::with_capacity(LISTS);
    // the first makes the connection and asks whether it may
    for number in 0..=LISTS {
        let request = hyper::Request::get(path).body(Vec::new())?;
        let asked = Instant::now();
        let text = client.request_text(request).await?;
        if number > 0 {
            millis.push(asked.elapsed().as_secs_f64() * 1e3);
        }
        let list: Value = serde_json::from_str(&text).with_context(|| format!("not a list: {text}"))?;
        let items = list.pointer("/items").and_then(Value::as_array).map_or(0, Vec::len);
        ensure!(items == pods, "{items} of {pods} pods are in the list: {:.300}", text);
    }
    Ok(millis)
}
