//! What keeps an autoscaler from writing, or bounds what it writes.

use crate::Case;
use crate::autoscaler::QUICK_DOWN;
use crate::engines::{
    SLOTS, autoscaler, condition, deployment, has_condition, load, replicas, wait_ready, wait_replicas, wait_status,
    wait_until,
};
use crate::install::with_shared;
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

pub(crate) const CASES: [Case; 10] = [
    ("autoscaler::an_hpa_on_the_same_target_is_named_and_nothing_is_written", conflict_with_an_hpa),
    ("autoscaler::a_persons_write_is_reported_and_not_fought", foreign_write),
    ("autoscaler::deleting_it_leaves_the_replicas", deletion),
    ("autoscaler::two_autoscalers_share_the_gpu_budget", budget),
    ("autoscaler::prefill_and_decode_are_scaled_apart", pools),
    ("autoscaler::a_schedule_raises_the_floor", schedule),
    ("autoscaler::an_objective_is_refused_with_a_condition", objective),
    ("autoscaler::an_unreadable_spec_is_said_in_status", unreadable),
    ("autoscaler::any_kind_with_a_scale_is_a_target", any_kind),
    ("autoscaler::a_kind_without_rights_is_said_and_stops_no_other", kind_without_rights),
];

const HPA: &str = "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: rival}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: chat}
  minReplicas: 1
  maxReplicas: 4
  metrics: [{type: Pods, pods: {metric: {name: 'vllm:num_requests_waiting'}, target: {type: AverageValue, averageValue: 3}}}]
";

fn conflict_with_an_hpa() -> Result<()> {
    with_shared("ia-conflict", |_, namespace| {
        namespace.apply(&deployment("chat", 1))?;
        namespace.apply(HPA)?;
        // alone it would write 2 at once
        namespace.apply(&autoscaler("chat", "chat", "minReplicas: 2, maxReplicas: 3"))?;
        let status = wait_status(namespace, "chat", "the conflict", |status| {
            has_condition(status, "Conflict", "True", "OtherAutoscaler") && status["desiredReplicas"].is_u64()
        })?;
        ensure!(has_condition(&status, "AbleToScale", "False", "Conflict"), "{status:#}");
        let said = condition(&status, "AbleToScale")["message"].as_str().unwrap_or_default().to_owned();
        ensure!(said.contains("HorizontalPodAutoscaler") && said.contains("rival"), "{said}");
        ensure!(replicas(namespace, "deployments/chat")? == 1, "written beside an HPA");
        namespace.kubectl(&["delete", "hpa", "rival"])?;
        wait_replicas(namespace, "deployments/chat", 2)?;
        wait_status(namespace, "chat", "the end of the conflict", |status| {
            has_condition(status, "Conflict", "False", "NoConflict")
        })?;
        Ok(())
    })
}

fn foreign_write() -> Result<()> {
    with_shared("ia-foreign-write", |_, namespace| {
        /// The scale-down window, for which a raise by somebody else is left.
        const WINDOW: Duration = Duration::from_secs(6);
        namespace.apply(&deployment("chat", 1))?;
        wait_ready(namespace, "deployments/chat", 1)?;
        let spec =
            format!("maxReplicas: 4, behavior: {{scaleDown: {{stabilizationWindowSeconds: {}}}}}", WINDOW.as_secs());
        namespace.apply(&autoscaler("chat", "chat", &spec))?;
        wait_status(namespace, "chat", "a decision", |status| status["desiredReplicas"] == 1)?;
        let began = Instant::now();
        namespace.kubectl(&["scale", "deployment/chat", "--replicas=3"])?;
        let says = |status: &serde_json::Value| {
            let steps = status["steps"].as_array();
            let mut steps = steps.into_iter().flatten().filter_map(|step| step.as_str());
            steps.any(|step| step.contains("someone else"))
        };
        let status = wait_status(namespace, "chat", "the foreign write in the steps", says)?;
        ensure!(replicas(namespace, "deployments/chat")? == 3, "fought: {status:#}");
        wait_until(namespace, ("api/v1", "events"), "an event on the foreign write", |events| {
            let events = events["items"].as_array();
            events.into_iter().flatten().any(|event| {
                event["involvedObject"]["kind"] == "InferenceAutoscaler"
                    && event["message"].as_str().is_some_and(|text| text.contains("someone else made it 3"))
            })
        })?;
        // idle engines ask for one, and get it when the hold time is over
        let ended = wait_replicas(namespace, "deployments/chat", 1)?;
        ensure!(ended.duration_since(began) >= WINDOW, "undone after {:?}", ended.duration_since(began));
        Ok(())
    })
}

fn deletion() -> Result<()> {
    with_shared("ia-deletion", |_, namespace| {
        for name in ["gone", "stays"] {
            namespace.apply(&deployment(name, 1))?;
            namespace.apply(&autoscaler(name, name, &format!("minReplicas: 2, maxReplicas: 3, {QUICK_DOWN}")))?;
        }
        wait_replicas(namespace, "deployments/gone", 2)?;
        wait_replicas(namespace, "deployments/stays", 2)?;
        namespace.kubectl(&["delete", "ia", "gone"])?;
        // both are below what the autoscalers want; the one that is left shows when a write would have come
        namespace.kubectl(&["scale", "deployment/gone", "--replicas=1"])?;
        namespace.kubectl(&["scale", "deployment/stays", "--replicas=1"])?;
        wait_replicas(namespace, "deployments/stays", 2)?;
        ensure!(replicas(namespace, "deployments/gone")? == 1, "scaled by a deleted autoscaler");
        Ok(())
    })
}

fn budget() -> Result<()> {
    with_shared("ia-budget", |_, namespace| {
        // `gpuBudget` of the shared installation is 12
        for name in ["left", "right"] {
            namespace.apply(&deployment(name, 1))?;
            let spec = format!("minReplicas: 1, maxReplicas: 4, gpusPerReplica: 3, {QUICK_DOWN}");
            namespace.apply(&autoscaler(name, name, &spec))?;
        }
        wait_ready(namespace, "deployments/left", 1)?;
        wait_ready(namespace, "deployments/right", 1)?;
        for name in ["left", "right"] {
            namespace.apply(&load(&format!("load-{name}"), name, SLOTS + 20))?;
        }
        let mut total = 0;
        let mut bound = None;
        for name in ["left", "right"] {
            let status = wait_status(namespace, name, "the budget in the steps", |status| {
                let steps = status["steps"].as_array();
                steps
                    .into_iter()
                    .flatten()
                    .any(|step| step.as_str().is_some_and(|step| step.contains("`gpuBudget` is 12")))
            });
            bound = bound.or(status.ok());
        }
        ensure!(bound.is_some(), "nothing says that the budget binds");
        wait_until(namespace, ("apis/apps/v1", "deployments"), "four replicas in all", |all| {
            let counts =
                all["items"].as_array().into_iter().flatten().filter_map(|one| one["spec"]["replicas"].as_u64());
            total = counts.sum::<u64>();
            total == 4
        })?;
        ensure!(total == 4, "{total} replicas of 3 GPUs each");
        Ok(())
    })
}

const POOLS: &str = "
apiVersion: loadline.dev/v1alpha1
kind: InferenceAutoscaler
metadata: {name: split}
spec:
  pools:
  - {name: prefill, role: prefill, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: prefill}, minReplicas: 1, maxReplicas: 3}
  - {name: decode, role: decode, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: decode}, minReplicas: 2, maxReplicas: 3}
  metrics:
  - {type: Signal, signal: {name: requests_waiting, target: {type: AverageValue, averageValue: 3}}}
";

fn pools() -> Result<()> {
    with_shared("ia-pools", |_, namespace| {
        namespace.apply(&deployment("prefill", 1))?;
        namespace.apply(&deployment("decode", 1))?;
        namespace.apply(POOLS)?;
        wait_replicas(namespace, "deployments/decode", 2)?;
        wait_ready(namespace, "deployments/prefill", 1)?;
        namespace.apply(&load("load", "prefill", SLOTS + 14))?;
        wait_replicas(namespace, "deployments/prefill", 3)?;
        let pool = |status: &serde_json::Value, name: &str| {
            let pools = status["pools"].as_array();
            pools.into_iter().flatten().find(|pool| pool["name"] == name).cloned().unwrap_or_default()
        };
        let status = wait_status(namespace, "split", "both pools", |status| {
            pool(status, "prefill")["replicas"] == 3 && pool(status, "decode")["replicas"] == 2
        })?;
        ensure!(status["replicas"] == 5 && pool(&status, "decode")["selector"] == "app=decode", "{status:#}");
        let mut pools: Vec<&str> =
            status["signals"].as_array().into_iter().flatten().filter_map(|signal| signal["pool"].as_str()).collect();
        pools.sort_unstable();
        ensure!(pools == ["decode", "prefill"], "{status:#}");
        ensure!(replicas(namespace, "deployments/decode")? == 2, "the idle pool moved");
        Ok(())
    })
}

fn schedule() -> Result<()> {
    with_shared("ia-schedule", |_, namespace| {
        namespace.apply(&deployment("chat", 1))?;
        // from midnight to midnight
        let floor = "schedules: [{name: always, from: '00:00', to: '00:00', timeZone: Europe/Berlin, minReplicas: 2}]";
        namespace.apply(&autoscaler("chat", "chat", &format!("maxReplicas: 4, {floor}")))?;
        wait_replicas(namespace, "deployments/chat", 2)?;
        Ok(())
    })
}

fn objective() -> Result<()> {
    with_shared("ia-objective", |_, namespace| {
        namespace.apply(&deployment("chat", 1))?;
        namespace.apply(&autoscaler("chat", "chat", "minReplicas: 2, maxReplicas: 4, objective: {ttft: 2s}"))?;
        let status = wait_status(namespace, "chat", "the refusal", |status| {
            has_condition(status, "ScalingActive", "False", "NotCarriedOut")
        })?;
        let said = condition(&status, "ScalingActive")["message"].as_str().unwrap_or_default().to_owned();
        ensure!(said.contains("spec.objective") && said.contains("write `metrics` instead"), "{said}");
        ensure!(replicas(namespace, "deployments/chat")? == 1, "written without a policy");
        Ok(())
    })
}

fn unreadable() -> Result<()> {
    with_shared("ia-unreadable", |_, namespace| {
        namespace.apply(&deployment("chat", 1))?;
        let floor = "schedules: [{name: night, from: '20:00', to: '06:00', timeZone: Mars/Olympus, minReplicas: 2}]";
        namespace.apply(&autoscaler("chat", "chat", &format!("minReplicas: 2, maxReplicas: 4, {floor}")))?;
        let status = wait_status(namespace, "chat", "the refusal", |status| {
            has_condition(status, "ScalingActive", "False", "InvalidSpec")
        })?;
        let said = condition(&status, "ScalingActive")["message"].as_str().unwrap_or_default().to_owned();
        ensure!(said.contains("spec.schedules[0]") && said.contains("`timeZone` `Mars/Olympus`"), "{said}");
        namespace.kubectl(&["patch", "ia", "chat", "--type=merge", "--patch={\"spec\":{\"schedules\":[]}}"])?;
        wait_replicas(namespace, "deployments/chat", 2)?;
        Ok(())
    })
}

/// An object of a kind that only its scale subresource describes, and an autoscaler that wants two.
fn of_kind(kind: &str) -> String {
    format!(
        "
apiVersion: example.loadline.dev/v1
kind: {kind}
metadata: {{name: thing}}
spec: {{replicas: 1, selector: app=thing}}
---
apiVersion: loadline.dev/v1alpha1
kind: InferenceAutoscaler
metadata: {{name: thing}}
spec: {{scaleTargetRef: {{apiVersion: example.loadline.dev/v1, kind: {kind}, name: thing}}, minReplicas: 2, maxReplicas: 3}}
"
    )
}

fn any_kind() -> Result<()> {
    with_shared("ia-any-kind", |_, namespace| {
        namespace.apply(&of_kind("Widget"))?;
        wait_until(namespace, ("apis/example.loadline.dev/v1", "widgets/thing"), "two replicas", |widget| {
            widget["spec"]["replicas"] == 2
        })?;
        Ok(())
    })
}

fn kind_without_rights() -> Result<()> {
    with_shared("ia-no-rights", |_, namespace| {
        namespace.apply(&of_kind("Gadget"))?;
        let status = wait_status(namespace, "thing", "the missing right", |status| {
            has_condition(status, "AbleToScale", "False", "FailedGetScale")
        })?;
        let said = condition(&status, "AbleToScale")["message"].as_str().unwrap_or_default().to_owned();
        ensure!(said.contains("gadgets") && said.contains("forbidden"), "{said}");
        namespace.apply(&deployment("chat", 1))?;
        namespace.apply(&autoscaler("chat", "chat", "minReplicas: 2, maxReplicas: 3"))?;
        wait_replicas(namespace, "deployments/chat", 2)?;
        Ok(())
    })
}
