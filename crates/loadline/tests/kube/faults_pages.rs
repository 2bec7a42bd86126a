//! Pages of pods that hang, lie or vanish: unknown is never zero, and nobody's silence is taken for the others' load.

use crate::Case;
use crate::faults::{Bench, PATIENCE, Page, Plan, TARGET, value, waiting};
use crate::install::{Installed, with_shared};
use crate::world::Namespace;
use anyhow::{Context, Result, bail, ensure};
use loadline_testkit::client::Connection;
use loadline_testkit::wait_for;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

pub(crate) const CASES: [Case; 8] = [
    ("faults::a_page_that_hangs_holds_the_count", hangs),
    ("faults::failure_9_a_page_that_vanishes_holds_the_count", vanishes),
    ("faults::a_page_that_says_nan_holds_the_count", says_nan),
    ("faults::a_frozen_engine_holds_the_count", frozen_engine),
    ("faults::failure_1_all_pages_lost_hold_the_count_and_alarm", all_lost),
    ("faults::failure_7_a_stuck_gauge_ends_with_its_pod", stuck_gauge),
    ("faults::failure_23_counters_that_start_again_change_nothing", counters_reset),
    ("faults::a_clock_that_is_an_hour_wrong_changes_nothing", wrong_clock),
];

/// Ten scrape periods after its last word a replica is missing; some more, so that decisions without it have been made.
const UNTIL_MISSING: Duration = Duration::from_secs(13);

fn hangs() -> Result<()> {
    with_shared("faults-hang", |installed, namespace| one_page_lost(installed, namespace, Page::Hang))
}

fn vanishes() -> Result<()> {
    with_shared("faults-vanish", |installed, namespace| one_page_lost(installed, namespace, Page::Gone))
}

fn says_nan() -> Result<()> {
    let page = "vllm:num_requests_running NaN\nvllm:num_requests_waiting NaN\n";
    with_shared("faults-nan", |installed, namespace| one_page_lost(installed, namespace, Page::Text(page)))
}

/// Three replicas, of which one is lost: going down it counts as full, going up as no capacity.
fn one_page_lost(installed: &Installed<'_>, namespace: &Namespace<'_>, lost: Page<'_>) -> Result<()> {
    let plan = Plan { replicas: 3, ..Plan::default() };
    let bench = Bench::settled(installed, namespace, &plan, TARGET)?;
    let pods = bench.pods()?;
    bench.say(pods.first().context("a pod")?, lost)?;
    // what is known needs two; with the third taken for idle, two would be kept
    for pod in pods.iter().skip(1) {
        bench.say(pod, Page::Text(&waiting(3)))?;
    }
    bench.stays(UNTIL_MISSING)?;
    bench.wait_for_condition("Degraded", "True", "1 replica serves and says nothing")?;
    for pod in pods.iter().skip(1) {
        bench.say(pod, Page::Text(&waiting(2 * TARGET)))?;
    }
    // four for what is known, one for the replica that says nothing
    bench.wait_for_replicas(5)?;
    bench.say_all(Page::Text(&waiting(0)))?;
    bench.wait_for_replicas(1)?;
    bench.wait_for_condition("Degraded", "False", "")?;
    bench.is_lawful()
}

const ENGINES: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: engines}
spec:
  replicas: 2
  selector: {matchLabels: {app: engines}}
  template:
    metadata: {labels: {app: engines}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: engine
        image: loadline
        command: [loadline, engine, --host, "0.0.0.0", --port, "8000"]
        ports: [{name: http, containerPort: 8000}]
"#;

/// A completion that runs for a minute and more.
const LONG: &str = r#"{"prompt": "count", "max_tokens": 5000, "ignore_eos": true}"#;

/// Real engines, one of them stopped and probed by nobody: it is ready and silent. The other one is just full.
fn frozen_engine() -> Result<()> {
    with_shared("faults-frozen", |installed, namespace| {
        namespace.apply(ENGINES)?;
        let bench = Bench { installed, namespace, name: "engines".to_owned(), resource: "deployments" };
        let pods = bench.wait_for_pods(2, true)?;
        let [frozen, busy] = pods.as_slice() else { bail!("{pods:?}") };
        installed.faults().freeze(namespace.name(), &frozen.name)?;
        let address = SocketAddr::new(busy.ip.context("an address")?, 8000);
        let mut running = Vec::new();
        for _ in 0..TARGET {
            let mut connection = wait_for("the engine", PATIENCE, || Connection::open(address, PATIENCE).ok())?;
            connection.send("POST", "/v1/completions", &[("content-type", "application/json")], LONG.as_bytes())?;
            running.push(connection);
        }
        namespace.apply(&Plan { name: "engines", signal: "requests_running", ..Plan::default() }.autoscaler())?;
        bench.wait_for_condition("ScalingActive", "True", "")?;
        // nothing was ever heard of it, and it may be full: with it taken for idle, one would be enough
        bench.stays(UNTIL_MISSING)?;
        bench.wait_for_condition("Degraded", "True", "1 replica serves and says nothing")?;
        installed.faults().thaw(namespace.name(), &frozen.name)?;
        bench.wait_for_replicas(1)?;
        // the emptiest goes
        let left = bench.wait_for_pods(1, true)?;
        ensure!(left.first().is_some_and(|pod| pod.name == busy.name), "{left:?} is left of {pods:?}");
        bench.is_lawful()
    })
}

fn all_lost() -> Result<()> {
    with_shared("faults-all-lost", |installed, namespace| {
        let plan = Plan { replicas: 3, ..Plan::default() };
        let bench = Bench::settled(installed, namespace, &plan, TARGET)?;
        bench.say_all(Page::Gone)?;
        bench.stays(UNTIL_MISSING)?;
        let why = bench.wait_for_condition("Degraded", "True", "cannot act")?;
        bench.wait_for_event("Alarm", "cannot act")?;
        let writer = installed.writer()?;
        let blocked = format!("loadline_cannot_act{}", bench.label());
        bench.until("the metric", || {
            let page = crate::faults::admin_page(installed, &writer, "/metrics")?;
            Ok((value(&page, &blocked) == Some(1.0)).then_some(()))
        })?;
        let signal = bench.autoscaler()?["status"]["signals"][0].clone();
        ensure!(signal["evidence"] == "Missing" || signal["evidence"] == "Absent", "{signal} {why}");
        bench.say_all(Page::Text(&waiting(0)))?;
        bench.wait_for_replicas(1)?;
        bench.wait_for_condition("Degraded", "False", "")?;
        bench.is_lawful()
    })
}

fn stuck_gauge() -> Result<()> {
    with_shared("faults-stuck", |installed, namespace| {
        // pages are read one after the other, and values in between ask for more
        let plan = Plan { replicas: 3, max: 3, ..Plan::default() };
        let bench = Bench::settled(installed, namespace, &plan, TARGET)?;
        let pods = bench.pods()?;
        let (stuck, others) = pods.split_first().context("a pod")?;
        for pod in others {
            bench.say(pod, Page::Text(&waiting(1)))?;
        }
        // it says for ever what it once had; that is a value like any other
        bench.say(stuck, Page::Text(&waiting(2 * TARGET + 1)))?;
        bench.stays(UNTIL_MISSING)?;
        namespace.kubectl(&["delete", "pod", &stuck.name, "--wait=false"])?;
        bench.wait_for_replicas(1)?;
        bench.is_lawful()
    })
}

fn counters_reset() -> Result<()> {
    with_shared("faults-counters", |installed, namespace| {
        let page = |tokens: u64| format!("{}vllm:prompt_tokens_total {tokens}\n", waiting(TARGET));
        let fresh = page(0);
        // a restarted engine has nothing to do at first, which is no reason to remove one either
        let plan = Plan { page: &fresh, window: 30, ..Plan::default() };
        let bench = Bench::settled(installed, namespace, &plan, TARGET)?;
        bench.say_all(Page::Text(&page(1_000_000_000)))?;
        let path = format!(
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/{}/pods/*/vllm:prompt_tokens_total",
            namespace.name()
        );
        let values = || -> Result<Vec<String>> {
            let (status, body) = namespace.plane().get(&path)?;
            ensure!(status == 200, "{status} {body}");
            let list: Value = serde_json::from_str(&body)?;
            let items = list["items"].as_array().into_iter().flatten();
            Ok(items.map(|item| item["value"].as_str().unwrap_or_default().to_owned()).collect())
        };
        bench.until("the counters", || {
            Ok((values()? == ["1G", "1G"] || values()? == ["1000000000"; 2]).then_some(()))
        })?;
        let pods = bench.pods()?;
        installed.faults().kill(namespace.name(), &pods.first().context("a pod")?.name, None)?;
        bench.stays(UNTIL_MISSING)?;
        bench.until("a counter from zero", || {
            let values = values()?;
            ensure!(values.iter().all(|value| !value.starts_with('-')), "{values:?}");
            Ok((values.len() == 2 && values.iter().any(|value| value == "0")).then_some(()))
        })?;
        bench.is_lawful()
    })
}

/// Explicit times on the page are an hour off, ahead and behind: evidence ages by this side's clock.
fn wrong_clock() -> Result<()> {
    with_shared("faults-clock", |installed, namespace| {
        let bench = Bench::settled(installed, namespace, &Plan::default(), TARGET)?;
        let page = |off: &str, count: u32| {
            format!("vllm:num_requests_running 1 @time{off}@\nvllm:num_requests_waiting {count} @time{off}@\n")
        };
        let pods = bench.pods()?;
        let say = |count: u32| {
            pods.iter().zip(["-3600", "+3600"]).try_for_each(|(pod, off)| bench.say(pod, Page::Text(&page(off, count))))
        };
        say(TARGET)?;
        bench.stays(UNTIL_MISSING)?;
        bench.wait_for_condition("Degraded", "False", "")?;
        say(2 * TARGET)?;
        bench.wait_for_replicas(4)?;
        let path = format!(
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/{}/pods/*/vllm:num_requests_waiting",
            namespace.name()
        );
        let (status, body) =
            wait_for("values", PATIENCE, || namespace.plane().get(&path).ok().filter(|got| got.0 == 200))?;
        ensure!(status == 200, "{status} {body}");
        let list: Value = serde_json::from_str(&body)?;
        let now = jiff::Timestamp::try_from(SystemTime::now())?;
        for item in list["items"].as_array().into_iter().flatten() {
            let at: jiff::Timestamp = item["timestamp"].as_str().unwrap_or_default().parse()?;
            let off = now.duration_since(at).abs();
            ensure!(off.as_secs() < 60, "{item}");
        }
        say(0)?;
        bench.wait_for_replicas(1)?;
        bench.is_lawful()
    })
}
