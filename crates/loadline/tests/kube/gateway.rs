//! The gateway in the cluster: it holds what no pod can take yet, and no request is lost while pods come and go.

pub(crate) mod site;

use crate::Case;
use crate::install::{self, Installed};
use crate::views::is_full;
use crate::world::{self, World};
use anyhow::{Context, Result, ensure};
use loadline_testkit::controlplane::{Component, ControlPlane, Minor, Options};
use loadline_testkit::wait_for;
use nix::sys::signal::Signal;
use site::{Crowd, GATEWAY_DEPLOYMENT, Model, PATIENCE, ScaleWatch, Site, ask, burst, with_shared};
use std::time::{Duration, Instant};

pub(crate) const CASES: [Case; 6] = [
    ("gateway::from_zero_to_some_and_back_no_request_is_lost", zero_and_back),
    ("gateway::a_rollout_under_load_loses_no_request", rollout),
    ("gateway::a_gateway_that_is_killed_takes_only_what_it_held", killed),
    ("gateway::a_held_request_is_a_written_scale_within_milliseconds", wakes),
    ("gateway::the_stock_hpa_goes_to_zero_and_wakes_by_the_queue", stock_hpa),
    ("gateway::a_wake_outlives_the_writer_and_the_api_server_may_be_away", outlives),
];

/// From zero to three; so soon back that a test has several cycles.
const ZERO: &str = "minReplicas: 0
  maxReplicas: 3
  idle: {after: 2s}
  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}";

fn zero_and_back() -> Result<()> {
    const LLAMA: Model = Model { name: "llama", replicas: 0, spec: ZERO, speedup: 10 };
    with_shared("gateway-zero", &[LLAMA], |_, site| {
        let watch = ScaleWatch::start(site)?;
        // pauses around the idle time, where a request meets the end of the last pod
        for pause in [1_900, 2_200, 2_500, 2_800, 3_100, 3_400, 3_700, 4_000] {
            burst(site.gateway, "llama", 100, 6)?;
            std::thread::sleep(Duration::from_millis(pause));
        }
        // and from a zero at which the last pod has ended
        for _ in 0..2 {
            site.until_gone("llama")?;
            burst(site.gateway, "llama", 100, 9)?;
        }
        site.until_gone("llama")?;
        let counts: Vec<u32> = watch.changes("llama").into_iter().map(|(_, count)| count).collect();
        let zeros = counts.iter().filter(|count| **count == 0).count();
        eprintln!("counts over 10 bursts: {counts:?}");
        ensure!(zeros >= 4, "it was to reach zero again and again: {counts:?}");
        ensure!(counts.iter().any(|count| *count >= 2), "9 requests need more than one replica of 4 slots: {counts:?}");
        Ok(())
    })
}

fn rollout() -> Result<()> {
    const LLAMA: Model = Model {
        name: "llama",
        replicas: 2,
        spec: "minReplicas: 2
  maxReplicas: 2",
        speedup: 5,
    };
    with_shared("gateway-rollout", &[LLAMA], |_, site| {
        site.namespace.kubectl(&["rollout", "status", "deployment/llama", "--timeout=60s"])?;
        let crowd = Crowd::start(site.gateway, "llama", 200, 6);
        crowd.go_on(6)?;
        for deployment in ["llama", GATEWAY_DEPLOYMENT] {
            let name = format!("deployment/{deployment}");
            site.namespace.kubectl(&["rollout", "restart", &name])?;
            site.namespace.kubectl(&["rollout", "status", &name, "--timeout=90s"])?;
            crowd.go_on(12)?;
        }
        let (answered, errors) = crowd.end();
        eprintln!("{answered} requests answered over the rollouts of engines and gateway");
        ensure!(errors.is_empty(), "{} of {answered}: {errors:?}", errors.len());
        Ok(())
    })
}

fn killed() -> Result<()> {
    const LLAMA: Model = Model { name: "llama", replicas: 1, spec: ZERO, speedup: 1 };
    with_shared("gateway-killed", &[LLAMA], |_, site| {
        site.namespace.kubectl(&["rollout", "status", "deployment/llama", "--timeout=60s"])?;
        let gateway = site.gateway;
        let long = std::thread::spawn(move || ask(gateway, "llama", 100_000, true));
        wait_for("the request at the engine", PATIENCE, || {
            site.page("/metrics").ok().filter(|page| page.contains("loadline_gateway_in_flight{model=\"llama\"} 1"))
        })?;
        let watch = ScaleWatch::start(site)?;
        let pods = site.gateway_pods()?;
        let pod = pods.first().context("no gateway")?;
        site.world.faults().kill("gateway-killed", pod, None)?;
        ensure!(long.join().is_ok_and(|outcome| outcome.is_err()), "what the killed process held was answered");
        // the next process of the same pod takes what comes
        wait_for("an answer of the gateway that took its place", PATIENCE, || ask(gateway, "llama", 5, false).ok())?;
        // the first answer may have come before its probe had taken it out of the Service
        wait_for("the restarted gateway to be ready", PATIENCE, || {
            std::thread::sleep(std::time::Duration::from_millis(200));
            let words = ["get", "pod", pod, "--output=jsonpath={.status.containerStatuses[0]['restartCount','ready']}"];
            site.namespace.kubectl(&words).ok().filter(|said| said.trim() == "1 true")
        })?;
        let counts = watch.changes("llama");
        ensure!(counts.iter().all(|(_, count)| *count > 0), "an absent gateway is not an idle one: {counts:?}");
        burst(gateway, "llama", 20, 6)?;
        site.until_gone("llama")?;
        burst(gateway, "llama", 20, 2)
    })
}

/// Wakes each model in turn until there are `count`, and gives the time from the first byte of a request to the watch's news of the
/// written scale, in order of size.
pub(crate) fn wake_latencies(site: &Site<'_>, models: &[&'static str], count: usize) -> Result<Vec<Duration>> {
    let watch = ScaleWatch::start(site)?;
    let mut all = Vec::new();
    for model in models.iter().copied().cycle().take(count) {
        site.until_gone(model)?;
        let gateway = site.gateway;
        let began = Instant::now();
        let asked = std::thread::spawn(move || ask(gateway, model, 5, true));
        all.push(watch.up_since(model, began)?.saturating_duration_since(began));
        asked.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
    }
    all.sort_unstable();
    Ok(all)
}

fn wakes() -> Result<()> {
    const MODELS: [&str; 4] = ["one", "two", "three", "four"];
    let models = MODELS.map(|name| Model { name, replicas: 0, spec: ZERO, speedup: 10 });
    with_shared("gateway-wakes", &models, |_, site| {
        let all = wake_latencies(site, &MODELS, 20)?;
        let at = |percent: usize| {
            all.get((all.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
        };
        let (half, most) = (at(50), at(99));
        eprintln!("held request to written scale over {} wakes: p50 {half:?}, p99 {most:?}", all.len());
        // the figure is the benchmark's; other tests run beside this one
        ensure!(half < Duration::from_secs(1), "{all:?}");
        Ok(())
    })
}

/// The shape of the field's guides with the mend for zero: a Pods policy beside the Percent policy, which alone cannot leave zero. Names
/// and labels are the endpoint picker's; `igw_*` are names of an adapter's rules.
const HPA: &str = r#"
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: llama}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: llama}
  minReplicas: 0
  maxReplicas: 3
  metrics:
  - type: External
    external:
      metric: {name: inference_extension_flow_control_queue_size, selector: {matchLabels: {inference_pool: llama}}}
      target: {type: Value, value: "250"}
  - type: External
    external:
      metric:
        name: inference_objective_running_requests
        selector: {matchLabels: {top_level_controller_name: loadline-gateway-g}}
      target: {type: AverageValue, averageValue: "250"}
  behavior:
    scaleUp:
      stabilizationWindowSeconds: 0
      policies: [{type: Percent, value: 100, periodSeconds: 15}, {type: Pods, value: 1, periodSeconds: 15}]
    scaleDown:
      stabilizationWindowSeconds: 3
      policies: [{type: Percent, value: 100, periodSeconds: 15}]
"#;
/// A start of an engine here takes a second; the rest is Kubernetes' and the machine's.
const START_UP: Duration = Duration::from_secs(5);
/// What the HPA may add to the start-up at its own period of 15 s.
const HPA_ADDS: Duration = Duration::from_secs(20);

/// The gateway finds the replicas by an autoscaler that only watches.
const WATCHED: Model = Model {
    name: "llama",
    replicas: 1,
    spec: "mode: Advisory
  minReplicas: 0
  maxReplicas: 3
  idle: {after: 1h}",
    speedup: 10,
};

fn stock_hpa() -> Result<()> {
    if !is_full() {
        return with_shared("gateway-hpa", &[WATCHED], |_, site| by_the_stock_hpa(site));
    }
    // the long variant: at the period that the HPA controller has by default
    let options = Options { hpa_sync_period: None, ..world::options()? };
    let world = World::with_nodes(ControlPlane::beside(options)?)?;
    let installed = install::install(&world, "replicas: 1\n")?;
    installed.explain(|| {
        let site = Site::new(&world, "gateway-hpa", &[WATCHED])?;
        site.explain(|| by_the_stock_hpa(&site))
    })
}

fn by_the_stock_hpa(site: &Site<'_>) -> Result<()> {
    site.namespace.kubectl(&["rollout", "status", "deployment/llama", "--timeout=60s"])?;
    ask(site.gateway, "llama", 5, false)?;
    let page = site.page("/metrics")?;
    for (family, label) in [
        ("inference_extension_flow_control_queue_size", "inference_pool=\"llama\""),
        ("inference_objective_running_requests", "top_level_controller_name=\"loadline-gateway-g\""),
    ] {
        let found = page.lines().any(|line| line.starts_with(family) && line.contains(label));
        ensure!(found, "no {family} with {label}: {page}");
    }
    site.namespace.apply(HPA)?;
    // its own scale-down to zero arms the wake
    site.until_gone("llama")?;
    let has_condition = world::minor()? != Minor::V1_33;
    wait_for("the armed wake", PATIENCE, || {
        let status = site.namespace.kubectl(&["get", "hpa", "llama", "--output=jsonpath={.status}"]).ok()?;
        let is_armed = !has_condition || status.contains("\"ScaledToZero\"");
        (is_armed && status.contains("\"desiredReplicas\":0")).then_some(())
    })?;
    for _ in 0..2 {
        let began = Instant::now();
        burst(site.gateway, "llama", 20, 3)?;
        let took = began.elapsed();
        eprintln!("held at zero under the stock HPA, answered after {took:?}");
        ensure!(took < START_UP + HPA_ADDS, "{took:?}");
        site.until_gone("llama")?;
    }
    Ok(())
}

/// On a control plane of its own: others do not like to be without theirs.
fn outlives() -> Result<()> {
    const LLAMA: Model = Model { name: "llama", replicas: 0, spec: ZERO, speedup: 10 };
    const STEADY: Model = Model {
        name: "steady",
        replicas: 1,
        spec: "minReplicas: 1
  maxReplicas: 1",
        speedup: 5,
    };
    let world = World::with_nodes(ControlPlane::beside(world::options()?)?)?;
    let installed =
        install::install(&world, "replicas: 2\nconfig: {lease: {duration: 8s, renewDeadline: 6s, retryPeriod: 1s}}\n")?;
    installed.explain(|| {
        let site = Site::new(&world, "gateway-outlives", &[LLAMA, STEADY])?;
        site.explain(|| {
            the_writer_is_lost(&installed, &site)?;
            the_api_server_is_away(&site)
        })
    })
}

fn the_writer_is_lost(installed: &Installed<'_>, site: &Site<'_>) -> Result<()> {
    burst(site.gateway, "llama", 20, 4)?;
    site.until_gone("llama")?;
    let writer = installed.writer()?;
    // it hangs, so that it hears the wake and does not act; then it is gone
    let faults = installed.faults();
    faults.freeze(install::NAMESPACE, &writer)?;
    let gateway = site.gateway;
    let began = Instant::now();
    let asked: Vec<_> =
        [true, false].map(|streams| std::thread::spawn(move || ask(gateway, "llama", 20, streams))).into();
    wait_for("the held requests", PATIENCE, || {
        site.page("/metrics")
            .ok()
            .filter(|page| page.contains("loadline_gateway_queue_depth{model=\"llama\",reason=\"cold\"} 2"))
    })?;
    installed.kubectl(&["delete", "pod", &writer, "--force", "--grace-period=0", "--wait=false"])?;
    for one in asked {
        one.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
    }
    let next = installed.writer()?;
    ensure!(next != writer, "{writer} still writes");
    eprintln!("held while the writer was lost, answered by way of the next one after {:?}", began.elapsed());
    Ok(())
}

fn the_api_server_is_away(site: &Site<'_>) -> Result<()> {
    let crowd = Crowd::start(site.gateway, "steady", 100, 4);
    crowd.go_on(4)?;
    site.world.plane.stop(Component::ApiServer, Signal::SIGKILL)?;
    let away = Instant::now();
    while away.elapsed() < Duration::from_secs(10) {
        crowd.go_on(1)?;
    }
    site.world.plane.resume(Component::ApiServer)?;
    crowd.go_on(8)?;
    let (answered, errors) = crowd.end();
    ensure!(errors.is_empty(), "{} of {answered}: {errors:?}", errors.len());
    // and what was to be done is done again
    site.until_gone("llama")?;
    burst(site.gateway, "llama", 20, 4)
}
