//! InferenceAutoscaler end to end: real engine pods, real load through the Service, and what a person sees of it.

pub(crate) mod limits;
pub(crate) mod pages;

use crate::Case;
use crate::engines::{
    PATIENCE, SLOTS, autoscaler, autoscaler_of, condition, deployment, has_condition, load, look, replicas,
    stateful_set, wait_ready, wait_replicas, wait_status, wait_until,
};
use crate::install::with_shared;
use crate::world::Namespace;
use anyhow::{Context, Result, ensure};
use loadline_testkit::client::Connection;
use loadline_testkit::wait_for;
use std::net::SocketAddr;
use std::time::Instant;

pub(crate) const CASES: [Case; 4] = [
    ("autoscaler::a_deployment_goes_up_on_waiting_requests_and_down_after", up_and_down),
    ("autoscaler::a_stateful_set_goes_up_and_down", stateful),
    ("autoscaler::the_pod_with_work_in_flight_survives_a_scale_down", busy_pod_survives),
    ("autoscaler::advisory_mode_writes_nothing", advisory),
];

/// Down two seconds after the last higher recommendation, instead of five minutes.
pub(crate) const QUICK_DOWN: &str = "behavior: {scaleDown: {stabilizationWindowSeconds: 2}}";

fn up_and_down() -> Result<()> {
    with_shared("ia-up-and-down", |_, namespace| {
        namespace.apply(&deployment("chat", 1))?;
        wait_ready(namespace, "deployments/chat", 1)?;
        namespace.apply(&autoscaler("chat", "chat", &format!("maxReplicas: 3, {QUICK_DOWN}")))?;
        let status = wait_status(namespace, "chat", "a live signal", |status| {
            status["signals"][0]["evidence"] == "Live"
                && has_condition(status, "AbleToScale", "True", "ReadyForNewScale")
        })?;
        ensure!(has_condition(&status, "ScalingActive", "True", "ValidMetricFound"), "{status:#}");
        ensure!(status["replicas"] == 1 && status["desiredReplicas"] == 1, "{status:#}");

        namespace.apply(&load("load", "chat", SLOTS + 14))?;
        let running =
            wait_until(namespace, ("api/v1", "pods/load"), "running", |pod| pod["status"]["phase"] == "Running");
        let began = Instant::now();
        running?;
        let up = wait_replicas(namespace, "deployments/chat", 3)?;
        eprintln!("from the load's start to /scale written: {:.2} s", up.duration_since(began).as_secs_f64());
        wait_ready(namespace, "deployments/chat", 3)?;
        let status = wait_status(namespace, "chat", "the new size", |status| status["replicas"] == 3)?;
        let limited = condition(&status, "ScalingLimited");
        ensure!(limited["status"] == "True" && limited["reason"] == "TooManyReplicas", "{status:#}");
        shows_the_signal(&status)?;
        shows_columns(namespace)?;
        says_so_in_events(namespace, "New size: 3; reason: ")?;

        namespace.kubectl(&["delete", "pod", "load", "--wait=false"])?;
        let ended = Instant::now();
        let down = wait_replicas(namespace, "deployments/chat", 1)?;
        eprintln!("from the load's end to one replica (window 2 s): {:.2} s", down.duration_since(ended).as_secs_f64());
        says_so_in_events(namespace, "New size: 1; reason: ")?;
        Ok(())
    })
}

/// Value, evidence, time, target and steps.
fn shows_the_signal(status: &serde_json::Value) -> Result<()> {
    let signal = &status["signals"][0];
    ensure!(signal["name"] == "requests_waiting" && signal["target"] == "3", "{signal:#}");
    ensure!(signal["value"].is_string() && signal["evidence"] == "Live", "{signal:#}");
    ensure!(signal["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{signal:#}");
    let steps: Vec<&str> = status["steps"].as_array().into_iter().flatten().filter_map(|step| step.as_str()).collect();
    ensure!(steps.iter().any(|step| step.contains("requests_waiting")), "{steps:?}");
    ensure!(status["lastScaleTime"].is_string() && status["lastDecisionTime"].is_string(), "{status:#}");
    ensure!(status["selector"] == "app=chat", "{status:#}");
    Ok(())
}

fn shows_columns(namespace: &Namespace<'_>) -> Result<()> {
    let table = namespace.kubectl(&["get", "ia"])?;
    let row: Vec<&str> = table.lines().nth(1).context("no row")?.split_whitespace().collect();
    ensure!(row.starts_with(&["chat", "chat", "3", "3"]), "{table}");
    let described = namespace.kubectl(&["describe", "ia", "chat"])?;
    for text in [
        "ValidMetricFound",
        "Evidence:",
        "Live",
        "Steps:",
        "requests_waiting",
        "Events:",
        "SuccessfulRescale",
        "loadline",
    ] {
        ensure!(described.contains(text), "`{text}` is not in {described}");
    }
    Ok(())
}

/// The list that people ask for, which needs `lastTimestamp`.
fn says_so_in_events(namespace: &Namespace<'_>, message: &str) -> Result<()> {
    wait_until(namespace, ("api/v1", "events"), message, |events| {
        let all = events["items"].as_array();
        all.into_iter().flatten().any(|event| event["message"].as_str().is_some_and(|text| text.starts_with(message)))
    })?;
    let list = namespace.kubectl(&["get", "events", "--sort-by=.lastTimestamp"])?;
    let line =
        list.lines().find(|line| line.contains(message)).with_context(|| format!("`{message}` is not in {list}"))?;
    ensure!(line.contains("SuccessfulRescale") && line.contains("inferenceautoscaler/chat"), "{line}");
    ensure!(!line.starts_with("<unknown>"), "no time: {line}");
    Ok(())
}

fn stateful() -> Result<()> {
    with_shared("ia-stateful-set", |_, namespace| {
        namespace.apply(&stateful_set("chat", 1))?;
        wait_ready(namespace, "statefulsets/chat", 1)?;
        namespace.apply(&autoscaler_of("StatefulSet", "chat", "chat", &format!("maxReplicas: 2, {QUICK_DOWN}")))?;
        namespace.apply(&load("load", "chat", SLOTS + 10))?;
        wait_replicas(namespace, "statefulsets/chat", 2)?;
        wait_ready(namespace, "statefulsets/chat", 2)?;
        namespace.kubectl(&["delete", "pod", "load", "--wait=false"])?;
        wait_replicas(namespace, "statefulsets/chat", 1)?;
        let pods = wait_until(namespace, ("api/v1", "pods?labelSelector=app%3Dchat"), "one pod", |pods| {
            pods["items"].as_array().is_some_and(|pods| pods.len() == 1)
        })?;
        let pod = &pods["items"][0]["metadata"];
        ensure!(pod["name"] == "chat-0", "{pod:#}");
        // its controller removes the highest ordinal whatever an annotation says
        ensure!(pod["annotations"]["controller.kubernetes.io/pod-deletion-cost"].is_null(), "{pod:#}");
        Ok(())
    })
}

const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

fn busy_pod_survives() -> Result<()> {
    with_shared("ia-victims", |_, namespace| {
        // pods stay to be looked at for a while after they were told to end
        let hook = "lifecycle: {preStop: {exec: {command: [sleep, \"5\"]}}}\n        readinessProbe";
        namespace.apply(&deployment("chat", 1).replacen("readinessProbe", hook, 1))?;
        wait_ready(namespace, "deployments/chat", 1)?;
        namespace.kubectl(&["scale", "deployment/chat", "--replicas=3"])?;
        wait_ready(namespace, "deployments/chat", 3)?;
        // by its own rules a ReplicaSet would remove the youngest first
        let pods = look(namespace, "api/v1", "pods?labelSelector=app%3Dchat")?;
        let pods = pods["items"].as_array().context("no pods")?;
        let youngest = pods.iter().max_by_key(|pod| started(pod)).context("no pod")?;
        let name = youngest["metadata"]["name"].as_str().context("no name")?;
        let address: SocketAddr =
            format!("{}:8000", youngest["status"]["podIP"].as_str().context("no address")?).parse()?;
        let mut connection = Connection::open(address, PATIENCE)?;
        let body = br#"{"model":"chat","prompt":"hello","max_tokens":2000,"ignore_eos":true,"stream":true}"#;
        connection.send("POST", "/v1/completions", &[("content-type", "application/json")], body)?;
        ensure!(connection.head()?.status == 200, "the engine refuses");
        namespace.apply(&autoscaler("chat", "chat", &format!("maxReplicas: 3, {QUICK_DOWN}")))?;
        wait_replicas(namespace, "deployments/chat", 1)?;
        let left = wait_until(namespace, ("api/v1", "pods?labelSelector=app%3Dchat"), "victims", |pods| {
            let pods = pods["items"].as_array();
            pods.into_iter().flatten().filter(|pod| pod["metadata"]["deletionTimestamp"].is_string()).count() == 2
        })?;
        for pod in left["items"].as_array().into_iter().flatten() {
            let is_busy = pod["metadata"]["name"] == name;
            let cost = pod["metadata"]["annotations"][COST].as_str().and_then(|cost| cost.parse::<i32>().ok());
            ensure!(
                pod["metadata"]["deletionTimestamp"].is_string() != is_busy,
                "{name} has work: {:#}",
                pod["metadata"]
            );
            ensure!(is_busy == cost.is_none_or(|cost| cost >= 0), "{name} has work: {:#}", pod["metadata"]);
        }
        Ok(())
    })
}

fn started(pod: &serde_json::Value) -> String {
    let all = pod["status"]["conditions"].as_array();
    let ready = all.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    ready.and_then(|ready| ready["lastTransitionTime"].as_str()).unwrap_or_default().to_owned()
}

fn advisory() -> Result<()> {
    with_shared("ia-advisory", |installed, namespace| {
        namespace.apply(&deployment("chat", 1))?;
        wait_ready(namespace, "deployments/chat", 1)?;
        namespace.apply(&autoscaler("chat", "chat", "maxReplicas: 3, mode: Advisory"))?;
        namespace.apply(&load("load", "chat", SLOTS + 14))?;
        let first = wait_status(namespace, "chat", "advice", |status| status["desiredReplicas"] == 3)?;
        ensure!(has_condition(&first, "AbleToScale", "False", "Advisory"), "{first:#}");
        ensure!(first["replicas"] == 1, "{first:#}");
        // decisions go on, and still nothing is written
        let writer = installed.writer()?;
        wait_for("five decisions", PATIENCE, || {
            let log = installed.log(&writer);
            let decided = "decided autoscaler=ia-advisory/chat decision=\"1 -> 3";
            (log.matches(decided).count() >= 5).then_some(())
        })?;
        ensure!(replicas(namespace, "deployments/chat")? == 1, "an advisor wrote");
        let deployment = look(namespace, "apis/apps/v1", "deployments/chat")?;
        ensure!(deployment["metadata"]["generation"] == 1, "{:#}", deployment["metadata"]);
        Ok(())
    })
}
