//! From a load step to the replica count that the API server tells: Loadline, and the stock HPA fed by Loadline and by its peers.

use super::objects::{self, Counts};
use super::pages::GAUGE;
use super::peers::Peers;
use super::stage::{PATIENCE, Stage};
use super::{Size, figure, progress, quantiles, wake};
use anyhow::Result;
use loadline_testkit::controlplane::Options;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Waiting requests that one replica may have.
const PER_POD: u32 = 10;
/// What the queue jumps to: two replicas' worth.
const JUMP: u32 = 15;
/// Between two load steps for Loadline: an odd part of the scrape period, so that every phase of it is met.
const PAUSE: Duration = Duration::from_millis(137);
/// The HPA controller's period; load steps meet every phase of it.
const HPA_SYNC: Duration = Duration::from_secs(15);
/// The golden ratio's part, which spreads points evenly however many there are.
const SPREAD: f64 = 0.618_033_988_75;
/// How long a step may take at most.
const STEP: Duration = Duration::from_secs(150);

pub(crate) fn run(size: &Size) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(size))
}

async fn measure(size: &Size) -> Result<()> {
    progress("starting a control plane");
    let stage = Stage::start(Options::default()).await?;
    let stepped = names("step", size.steps);
    let fed = names("hpa", size.hpas);
    let woken = names("wake", size.wakes);
    let compared = names("peer", size.hpas);
    progress(&format!("making {} Deployments", stepped.len() + fed.len() + compared.len() + woken.len()));
    let all = [&stepped, &fed, &compared].into_iter().flatten();
    let mut manifests: Vec<Value> = all.map(|name| objects::deployment(name, 1, &[])).collect();
    let with_pods = manifests.len();
    manifests.extend(woken.iter().map(|name| objects::deployment(name, 0, &[])));
    objects::create(&stage.client, manifests).await?;
    let everybody: Vec<String> = [&stepped, &fed, &compared, &woken].into_iter().flatten().cloned().collect();
    stage.counts.known(&everybody, PATIENCE).await?;
    stage.addresses.until(with_pods, PATIENCE).await?;
    let serve = stage.serve().await?;

    progress(&format!("{} load steps for Loadline", stepped.len()));
    let spec = json!({
        "minReplicas": 1, "maxReplicas": 4,
        "metrics": [{ "type": "Pods", "pods": {
            "metric": { "name": GAUGE }, "target": { "type": "AverageValue", "averageValue": PER_POD.to_string() },
        }}],
    });
    let manifests: Vec<Value> = stepped.iter().map(|name| objects::autoscaler(name, &spec)).collect();
    objects::create(&stage.client, manifests.clone()).await?;
    if let Some(like) = manifests.first() {
        objects::until_condition(&stage.client, like, &stepped, "ScalingActive", PATIENCE).await?;
    }
    quantiles("step_loadline", &steps(&stage, &stepped, |number| PAUSE * number).await?);

    if !woken.is_empty() {
        progress(&format!("{} wakes from zero", woken.len()));
        quantiles("wake", &wake::run(&stage, &woken).await?);
    }

    progress(&format!("{} load steps for the stock HPA fed by Loadline", fed.len()));
    quantiles("step_hpa_loadline", &hpa_steps(&stage, &fed).await?);
    figure("serve_rss_mb", serve.process.memory("VmHWM")?);
    if let Ok(folder) = std::env::var("KUBE_BENCH_LOGS") {
        std::fs::copy(serve.process.log(), format!("{folder}/steps-serve.log"))?;
    }
    drop(serve);

    progress(&format!("{} load steps for the stock HPA fed by Prometheus and its adapter", compared.len()));
    let peers = Peers::start(&stage).await?;
    quantiles("step_hpa_prometheus", &hpa_steps(&stage, &compared).await?);
    drop(peers);
    Ok(())
}

fn names(what: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{what}-{number}")).collect()
}

async fn hpa_steps(stage: &Stage, names: &[String]) -> Result<Vec<f64>> {
    let manifests: Vec<Value> = names.iter().map(|name| objects::hpa(name, PER_POD)).collect();
    objects::create(&stage.client, manifests.clone()).await?;
    if let Some(like) = manifests.first() {
        objects::until_condition(&stage.client, like, names, "ScalingActive", PATIENCE).await?;
    }
    steps(stage, names, |number| HPA_SYNC.mul_f64((f64::from(number) * SPREAD).fract())).await
}

/// Makes the queue of each jump at its time; milliseconds until the count is another.
async fn steps(stage: &Stage, names: &[String], after: impl Fn(u32) -> Duration) -> Result<Vec<f64>> {
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for (number, name) in (0_u32..).zip(names) {
        let (wait, name) = (after(number), name.clone());
        let (addresses, counts) = (Arc::clone(&stage.addresses), stage.counts.clone());
        running.spawn(async move { step(&addresses, &counts, &name, begun + wait).await });
    }
    let mut millis = Vec::with_capacity(names.len());
    while let Some(done) = running.join_next().await {
        millis.push(done??);
    }
    Ok(millis)
}

async fn step(addresses: &objects::Addresses, counts: &Counts, name: &str, at: Instant) -> Result<f64> {
    tokio::time::sleep_until(at.into()).await;
    let jumped = Instant::now();
    addresses.queue(name, JUMP)?;
    let heard = counts.other_than(name, 1, STEP).await?;
    Ok(heard.saturating_duration_since(jumped).as_secs_f64() * 1e3)
}
