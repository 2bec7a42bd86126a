//! The control plane away, restarted, and without its history.

use crate::Case;
use crate::faults::{Bench, PATIENCE, Page, Plan, TARGET, addresses, is_full, outage_lab, page_at, value, waiting};
use anyhow::{Context, Result, ensure};
use loadline_testkit::controlplane::Component;
use loadline_testkit::wait_for;
use nix::sys::signal::Signal;
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub(crate) const CASES: [Case; 3] = [
    ("faults::the_api_server_away_changes_nothing_and_is_said", api_server_away),
    ("faults::a_restart_of_etcd_changes_nothing", etcd_restarts),
    ("faults::a_compacted_watch_is_listed_anew", compacted),
];

/// How long a component is away: longer than the lease holds in any case.
fn outage() -> Duration {
    Duration::from_secs(if is_full() { 30 } else { 12 })
}

/// Waits until a series of every process of Loadline has this value.
fn all_say(pods: &[IpAddr], series: &str, wanted: f64) -> Result<()> {
    wait_for(&format!("{series} {wanted}"), PATIENCE, || {
        std::thread::sleep(Duration::from_millis(100));
        let says = |ip: &IpAddr| page_at(*ip, "/metrics").ok().and_then(|page| value(&page, series)) == Some(wanted);
        pods.iter().all(says).then_some(())
    })
}

fn api_server_away() -> Result<()> {
    let lab = outage_lab()?;
    lab.test("faults-api-server", |installed, namespace| {
        let bench = Bench::settled(installed, namespace, &Plan::default(), TARGET)?;
        let (pods, engines, generation) = (addresses(installed)?, bench.pods()?, bench.generation()?);
        lab.plane().stop(Component::ApiServer, Signal::SIGKILL)?;
        let back = Instant::now() + outage();
        engines.iter().try_for_each(|pod| bench.say(pod, Page::Text(&waiting(2 * TARGET))))?;
        all_say(&pods, "loadline_watch_stale", 1.0)?;
        // without the lease nobody decides
        all_say(&pods, "loadline_writer", 0.0)?;
        let status: serde_json::Value = serde_json::from_str(&page_at(*pods.first().context("a pod")?, "/status")?)?;
        ensure!(!status["stale_since"].is_null() && !status["lease_error"].is_null(), "{status:#}");
        while Instant::now() < back {
            std::thread::sleep(Duration::from_millis(100));
        }
        engines.iter().try_for_each(|pod| bench.say(pod, Page::Text(&waiting(TARGET))))?;
        lab.plane().resume(Component::ApiServer)?;
        ensure!((bench.replicas()?, bench.generation()?) == (2, generation), "{}", bench.deployment()?);
        all_say(&pods, "loadline_watch_stale", 0.0)?;
        let writer = installed.writer()?;
        bench.until("a writer", || {
            let page = crate::faults::admin_page(installed, &writer, "/metrics")?;
            Ok((value(&page, "loadline_writer") == Some(1.0)).then_some(()))
        })?;
        bench.stays(Duration::from_secs(3))?;
        engines.iter().try_for_each(|pod| bench.say(pod, Page::Text(&waiting(2 * TARGET))))?;
        bench.wait_for_replicas(4)?;
        bench.say_all(Page::Text(&waiting(0)))?;
        bench.wait_for_replicas(1)?;
        bench.is_lawful()
    })
}

fn etcd_restarts() -> Result<()> {
    let lab = outage_lab()?;
    lab.test("faults-etcd", |installed, namespace| {
        let bench = Bench::settled(installed, namespace, &Plan::default(), TARGET)?;
        let (pods, engines, generation) = (addresses(installed)?, bench.pods()?, bench.generation()?);
        lab.plane().stop(Component::Etcd, Signal::SIGKILL)?;
        engines.iter().try_for_each(|pod| bench.say(pod, Page::Text(&waiting(0))))?;
        // the API server answers what it has in memory; the lease cannot be renewed
        all_say(&pods, "loadline_writer", 0.0)?;
        engines.iter().try_for_each(|pod| bench.say(pod, Page::Text(&waiting(TARGET))))?;
        lab.plane().resume(Component::Etcd)?;
        bench.until("the count as it was", || {
            Ok(((bench.replicas()?, bench.generation()?) == (2, generation)).then_some(()))
        })?;
        bench.stays(Duration::from_secs(3))?;
        engines.iter().try_for_each(|pod| bench.say(pod, Page::Text(&waiting(2 * TARGET))))?;
        bench.wait_for_replicas(4)?;
        all_say(&pods, "loadline_watch_stale", 0.0)?;
        bench.is_lawful()
    })
}

/// Every watch is cut and what it had seen is compacted away: 410, and a new list.
fn compacted() -> Result<()> {
    let lab = outage_lab()?;
    lab.test("faults-compacted", |installed, namespace| {
        let bench = Bench::settled(installed, namespace, &Plan::default(), TARGET)?;
        let (pods, generation) = (addresses(installed)?, bench.generation()?);
        let path = format!("/api/v1/namespaces/{}/pods", namespace.name());
        let (_, before) = lab.plane().get(&path)?;
        let before: serde_json::Value = serde_json::from_str(&before)?;
        let revision = before["metadata"]["resourceVersion"].as_str().context("a version")?.to_owned();
        namespace.kubectl(&["create", "configmap", "later"])?;
        lab.plane().stop(Component::ApiServer, Signal::SIGKILL)?;
        lab.plane().compact()?;
        lab.plane().resume(Component::ApiServer)?;
        let watch = format!("{path}?watch=true&resourceVersion={revision}&timeoutSeconds=5");
        let (status, body) = lab.plane().get(&watch)?;
        ensure!(status == 410 || body.contains("\"code\":410"), "a watch from before: {status} {body}");
        ensure!((bench.replicas()?, bench.generation()?) == (2, generation), "{}", bench.deployment()?);
        all_say(&pods, "loadline_watch_stale", 0.0)?;
        bench.stays(Duration::from_secs(3))?;
        bench.say_all(Page::Text(&waiting(2 * TARGET)))?;
        bench.wait_for_replicas(4)?;
        // pods made since are seen, scraped and counted
        bench.wait_for_pods(4, true)?;
        bench.say_all(Page::Text(&waiting(TARGET + 1)))?;
        bench.wait_for_replicas(5)?;
        bench.is_lawful()
    })
}
