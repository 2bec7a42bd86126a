//! One right is missing: it is said which, and everything else goes on.

use crate::Case;
use crate::faults::{Bench, Lab, PATIENCE, Page, Plan, TARGET, addresses, own_lab, page_at, value, waiting};
use crate::install::{Installed, NAMESPACE};
use anyhow::{Context, Result, ensure};
use loadline_testkit::wait_for;
use serde_json::Value;
use std::time::Duration;

pub(crate) const CASES: [Case; 4] = [
    ("faults::without_the_right_to_write_a_scale_the_others_are_scaled", no_scale),
    ("faults::without_the_right_to_the_lease_nothing_is_written_and_reads_are_answered", no_lease),
    ("faults::without_the_right_to_secrets_decisions_go_on", no_secrets),
    ("faults::without_the_right_to_mark_pods_the_count_still_goes_down", no_marks),
];

/// What the message of a refusal ends with.
const GRANT: &str = "grant this verb to loadline's service account";

/// A role with verbs missing; they come back when it is dropped.
struct Taken<'lab> {
    lab: &'lab Lab,
    whole: String,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // the tests that follow fail where this does
        let _ = self.lab.plane().kubectl_with(&["replace", "--filename", "-"], &self.whole);
    }
}

/// Takes verbs on a resource out of a role (`clusterrole` or `role`) of the chart.
fn take<'lab>(lab: &'lab Lab, kind: &str, resource: &str, verbs: &[&str]) -> Result<Taken<'lab>> {
    let name = if kind == "role" { "loadline" } else { "loadline:loadline" };
    let text = lab.plane().kubectl(&["--namespace", NAMESPACE, "get", kind, name, "--output=json"])?;
    let mut role: Value = serde_json::from_str(&text)?;
    if let Some(metadata) = role["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    let whole = role.to_string();
    let mut found = 0;
    let rules = role["rules"].as_array_mut().context("rules")?;
    for rule in
        rules.iter_mut().filter(|rule| rule["resources"].as_array().is_some_and(|all| all.contains(&resource.into())))
    {
        let left = rule["verbs"].as_array_mut().context("verbs")?;
        let before = left.len();
        left.retain(|verb| !verbs.iter().any(|taken| verb == taken));
        found += before - left.len();
    }
    rules.retain(|rule| rule["verbs"].as_array().is_some_and(|left| !left.is_empty()));
    ensure!(found > 0, "`{name}` has no {verbs:?} on `{resource}`: {role:#}");
    let taken = Taken { lab, whole };
    lab.plane().kubectl_with(&["replace", "--filename", "-"], &role.to_string())?;
    Ok(taken)
}

/// Waits until a process of Loadline has logged a line with all these words.
fn wait_for_log(installed: &Installed<'_>, words: &[&str]) -> Result<String> {
    wait_for(&format!("a log line with {words:?}"), PATIENCE, || {
        std::thread::sleep(Duration::from_millis(200));
        let pods = installed.pods().ok()?;
        let logs = pods.iter().map(|pod| installed.log(pod)).collect::<Vec<_>>().join("\n");
        logs.lines().rev().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
    })
}

/// Whether the metrics APIs answer.
fn is_served(lab: &Lab) -> Result<()> {
    let (status, body) = lab.plane().get("/apis/external.metrics.k8s.io/v1beta1")?;
    ensure!(status == 200, "{status} {body}");
    Ok(())
}

fn no_scale() -> Result<()> {
    let lab = own_lab()?;
    lab.test("faults-no-scale", |installed, namespace| {
        let bench = Bench::settled(installed, namespace, &Plan::default(), TARGET)?;
        let plan = Plan { name: "others", kind: "StatefulSet", ..Plan::default() };
        let others = Bench::settled(installed, namespace, &plan, TARGET)?;
        let taken = take(&lab, "clusterrole", "deployments/scale", &["update", "patch"])?;
        bench.say_all(Page::Text(&waiting(2 * TARGET)))?;
        others.say_all(Page::Text(&waiting(2 * TARGET)))?;
        let said = bench.wait_for_condition("AbleToScale", "False", GRANT)?;
        ensure!(said.contains("deployments/scale") && said.contains("update"), "{said}");
        ensure!(bench.condition("AbleToScale")?.1 == "FailedUpdateScale", "{:?}", bench.condition("AbleToScale")?);
        bench.wait_for_event("FailedUpdateScale", GRANT)?;
        others.wait_for_replicas(4)?;
        ensure!(bench.replicas()? == 2);
        is_served(&lab)?;
        drop(taken);
        bench.wait_for_replicas(4)?;
        bench.wait_for_condition("AbleToScale", "True", "")?;
        bench.is_lawful()
    })
}

fn no_lease() -> Result<()> {
    let lab = own_lab()?;
    lab.test("faults-no-lease", |installed, namespace| {
        let bench = Bench::settled(installed, namespace, &Plan::default(), TARGET)?;
        let pods = addresses(installed)?;
        let taken = take(&lab, "role", "leases", &["update"])?;
        wait_for("the end of the lease", PATIENCE, || {
            std::thread::sleep(Duration::from_millis(100));
            let writes = |ip| page_at(ip, "/metrics").ok().and_then(|page| value(&page, "loadline_writer"));
            pods.iter().all(|ip| writes(*ip) == Some(0.0)).then_some(())
        })?;
        wait_for_log(installed, &["the lease cannot be read or written", "leases", GRANT])?;
        bench.say_all(Page::Text(&waiting(2 * TARGET)))?;
        bench.stays(Duration::from_secs(5))?;
        is_served(&lab)?;
        drop(taken);
        bench.wait_for_replicas(4)?;
        bench.is_lawful()
    })
}

fn no_secrets() -> Result<()> {
    let lab = own_lab()?;
    lab.test("faults-no-secrets", |installed, namespace| {
        let bench = Bench::settled(installed, namespace, &Plan::default(), TARGET)?;
        let taken = take(&lab, "role", "secrets", &["get", "update"])?;
        wait_for_log(installed, &["the certificates could not be looked at", "secrets", GRANT])?;
        bench.say_all(Page::Text(&waiting(2 * TARGET)))?;
        bench.wait_for_replicas(4)?;
        is_served(&lab)?;
        // and a process that starts without them decides, too
        let selector = "--selector=app.kubernetes.io/component=serve";
        installed.kubectl(&["delete", "pods", selector, "--wait=false"])?;
        wait_for_log(installed, &["have no certificates until this is mended", "secrets", GRANT])?;
        bench.say_all(Page::Text(&waiting(TARGET + 1)))?;
        bench.wait_for_replicas(5)?;
        drop(taken);
        installed.wait_until_it_serves()?;
        bench.is_lawful()
    })
}

fn no_marks() -> Result<()> {
    let lab = own_lab()?;
    lab.test("faults-no-marks", |installed, namespace| {
        let bench = Bench::settled(installed, namespace, &Plan::default(), TARGET)?;
        let _taken = take(&lab, "clusterrole", "pods", &["patch"])?;
        bench.say_all(Page::Text(&waiting(0)))?;
        bench.wait_for_replicas(1)?;
        let said = bench.wait_for_event("FailedDeletionCost", GRANT)?;
        ensure!(said.contains("pods") && said.contains("another pod may be removed in its place"), "{said}");
        wait_for_log(installed, &["its deletion cost could not be set", GRANT])?;
        // whichever was removed: the other one is known, and decided on
        let left = bench.wait_for_pods(1, true)?;
        bench.say(left.first().context("a pod")?, Page::Text(&waiting(2 * TARGET)))?;
        bench.wait_for_replicas(2)?;
        bench.is_lawful()
    })
}
