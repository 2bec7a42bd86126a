//! Somebody else writes the count: a person, another autoscaler, an HPA on the same target (law L10).

use crate::Case;
use crate::faults::{Bench, Page, Plan, TARGET, is_full, sum, waiting};
use crate::install::with_shared;
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

pub(crate) const CASES: [Case; 3] = [
    ("faults::a_person_is_said_and_not_fought", a_person),
    ("faults::failure_12_another_autoscaler_is_not_fought", another_autoscaler),
    ("faults::failure_12_beside_an_hpa_only_the_hpa_writes_under_load", beside_an_hpa),
];

/// The window of scale-down here, and so the least time for which a foreign count is left, in seconds.
const WINDOW: u32 = 6;

fn a_person() -> Result<()> {
    with_shared("faults-person", |installed, namespace| {
        let plan = Plan { window: WINDOW, ..Plan::default() };
        let bench = Bench::settled(installed, namespace, &plan, TARGET)?;
        bench.stays(Duration::from_secs(u64::from(WINDOW)))?;
        namespace.kubectl(&["scale", "deployment/pages", "--replicas=4"])?;
        bench.stays(Duration::from_secs(u64::from(WINDOW) - 2))?;
        bench.wait_for_event("Alarm", "the replica count was 2 and someone else made it 4")?;
        // then the metrics decide again
        bench.wait_for_replicas(2)?;
        bench.is_lawful()
    })
}

/// It wants two whatever happens and looks every second; the load needs four.
fn another_autoscaler() -> Result<()> {
    with_shared("faults-rival", |installed, namespace| {
        let plan = Plan { window: WINDOW, ..Plan::default() };
        let bench = Bench::settled(installed, namespace, &plan, TARGET)?;
        bench.say_all(Page::Text(&waiting(2 * TARGET)))?;
        let until = Instant::now() + Duration::from_secs(if is_full() { 180 } else { 60 });
        let mut undone = 0;
        while Instant::now() < until {
            if bench.replicas()? != 2 {
                namespace.kubectl(&["scale", "deployment/pages", "--replicas=2"])?;
                undone += 1;
            }
            std::thread::sleep(Duration::from_secs(1));
        }
        let writes = sum(installed, &format!("loadline_scale_events_total{}", bench.label()))?;
        // at once, once more, and then after pauses of 12, 24, 48, .. seconds
        ensure!((1..=5).contains(&undone) && writes <= 6.0, "undone {undone} times, written {writes} times");
        bench.wait_for_event("Alarm", "someone else made it 2")?;
        let steps = bench.autoscaler()?["status"]["steps"].to_string();
        ensure!(steps.contains("a change was undone"), "{steps}");
        bench.is_lawful()
    })
}

const HPA: &str = r#"
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: stock}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: pages}
  minReplicas: 1
  maxReplicas: 6
  metrics:
  - type: Pods
    pods: {metric: {name: "vllm:num_requests_waiting"}, target: {type: AverageValue, averageValue: "4"}}
  behavior:
    scaleUp: {policies: [{type: Pods, value: 10, periodSeconds: 1}]}
    scaleDown: {stabilizationWindowSeconds: 3, policies: [{type: Percent, value: 100, periodSeconds: 1}]}
"#;

fn beside_an_hpa() -> Result<()> {
    with_shared("faults-beside-hpa", |installed, namespace| {
        let plan = Plan::default();
        let bench = Bench::deployed(installed, namespace, &plan, TARGET)?;
        namespace.apply(HPA)?;
        namespace.apply(&plan.autoscaler())?;
        let said = bench.wait_for_condition("Conflict", "True", "OtherAutoscaler")?;
        ensure!(said.contains("HorizontalPodAutoscaler faults-beside-hpa/stock"), "{said}");
        bench.wait_for_condition("AbleToScale", "False", "Conflict")?;
        bench.say_all(Page::Text(&waiting(2 * TARGET)))?;
        bench.wait_for_replicas(4)?;
        bench.say_all(Page::Text(&waiting(0)))?;
        bench.wait_for_replicas(1)?;
        bench.say_all(Page::Text(&waiting(3 * TARGET)))?;
        bench.wait_for_replicas(3)?;
        let writes = sum(installed, &format!("loadline_scale_events_total{}", bench.label()))?;
        let managers = bench.deployment()?["metadata"]["managedFields"].to_string();
        ensure!(writes == 0.0 && !managers.contains("\"loadline\""), "{writes} writes; {managers}");
        // with the HPA gone, the other one goes on from what it finds
        namespace.kubectl(&["delete", "hpa", "stock"])?;
        bench.wait_for_condition("Conflict", "False", "")?;
        bench.say_all(Page::Text(&waiting(0)))?;
        bench.wait_for_replicas(1)?;
        bench.wait_for_event("SuccessfulRescale", "New size: 1")?;
        bench.is_lawful()
    })
}
