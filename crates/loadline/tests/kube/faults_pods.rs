//! Pods that cannot run or do not come to serve: said, not counted on, and no reason to stop deciding.

use crate::Case;
use crate::faults::{Bench, Page, Plan, TARGET, own_lab, waiting};
use crate::install::with_shared;
use anyhow::{Result, ensure};

pub(crate) const CASES: [Case; 2] = [
    ("faults::failure_5_half_the_pods_unschedulable", half_unschedulable),
    ("faults::failure_8_pods_that_never_become_ready", never_ready),
];

/// Two nodes of eight GPUs: four pods of eight each are two too many.
fn half_unschedulable() -> Result<()> {
    own_lab()?.test("faults-gpus", |installed, namespace| {
        let bench = Bench::settled(installed, namespace, &Plan { gpus: 8, ..Plan::default() }, TARGET)?;
        let other = Bench::settled(installed, namespace, &Plan { name: "other", ..Plan::default() }, TARGET)?;
        bench.say_all(Page::Text(&waiting(2 * TARGET)))?;
        bench.wait_for_replicas(4)?;
        let said =
            bench.wait_for_condition("Degraded", "True", "2 of 4 replicas have started; 2 cannot be scheduled")?;
        ensure!(said.contains("Insufficient nvidia.com/gpu"), "{said}");
        // said when it begins, which may be before the second pod was looked at
        bench.wait_for_event("Alarm", "cannot be scheduled")?;
        let steps = bench.autoscaler()?["status"]["steps"].to_string();
        ensure!(steps.contains("2 cannot be scheduled"), "{steps}");
        // everybody else is decided as ever
        other.say_all(Page::Text(&waiting(2 * TARGET)))?;
        other.wait_for_replicas(4)?;
        // more load asks for more, less load for less; those that do not run go first
        let running: Vec<String> = bench.pods()?.into_iter().filter(|pod| pod.is_ready).map(|pod| pod.name).collect();
        bench.say_all_ready(Page::Text(&waiting(TARGET)))?;
        bench.wait_for_replicas(2)?;
        let left: Vec<String> = bench.wait_for_pods(2, true)?.into_iter().map(|pod| pod.name).collect();
        ensure!(left == running, "{left:?} are left of the running {running:?}");
        bench.wait_for_condition("Degraded", "False", "")?;
        bench.is_lawful()
    })
}

fn never_ready() -> Result<()> {
    with_shared("faults-unready", |installed, namespace| {
        // a start is expected to take 1 s, so that one of 3 s is stuck
        let plan = Plan { replicas: 1, is_ready: false, spec: "  startTime: 1s", ..Plan::default() };
        let bench = Bench::settled(installed, namespace, &plan, TARGET)?;
        let served = bench.pods()?;
        bench.say_all_ready(Page::Text(&waiting(2 * TARGET)))?;
        bench.wait_for_replicas(2)?;
        let said = bench.wait_for_condition("Degraded", "True", "should have started long ago")?;
        bench.wait_for_event("Alarm", "should have started long ago")?;
        // decisions go on: up with more load, and down to the one that serves
        bench.say_all_ready(Page::Text(&waiting(3 * TARGET)))?;
        bench.until("more replicas", || Ok((bench.replicas()? >= 3).then_some(())))?;
        ensure!(bench.replicas()? <= u64::from(plan.max), "{said}");
        bench.say_all_ready(Page::Text(&waiting(TARGET)))?;
        bench.wait_for_replicas(1)?;
        let left = bench.wait_for_pods(1, true)?;
        ensure!(left.first().map(|pod| &pod.name) == served.first().map(|pod| &pod.name), "{left:?}, not {served:?}");
        bench.wait_for_condition("Degraded", "False", "")?;
        bench.is_lawful()
    })
}
