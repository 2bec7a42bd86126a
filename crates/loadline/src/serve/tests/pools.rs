use super::super::pools::{Pools, PoolsSettings};
use super::{at, chat, serving, snapshot};
use loadline_cluster::{Claim, ClaimBy, Key, Snapshot};
use loadline_control::{GatewayUse, MetricQuery, Mode, Removal};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const SETTINGS: PoolsSettings = PoolsSettings { scrape_period: Duration::from_secs(1), max_autoscalers: 2 };

fn spec(more: &Value) -> Value {
    let mut spec =
        json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}, "maxReplicas": 4});
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    spec
}

fn pools(snapshot: &Snapshot) -> Pools {
    Pools::of(snapshot, at(0), &SETTINGS, &Pools::default())
}

#[test]
fn an_autoscaler_becomes_one_model_with_its_own_name() {
    let pools = pools(&snapshot(&[("chat", spec(&json!({})))], &[]));
    let (id, pool) = pools.served.first_key_value().expect("a pool");
    assert_eq!((id.as_str(), &pool.target), ("ml/chat", &chat()));
    assert_eq!(pool.spec.gateway, GatewayUse::Absent);
    assert_eq!((pool.spec.mode, pool.spec.removal), (Mode::Active, Removal::Named));
    assert!(pool.has_deletion_costs() && !pool.is_advisory && pools.refused.is_empty());
    assert_eq!(pool.serving_port(&serving("chat-0")), Some(8_000), "the port named `http`, not the first");
}

#[test]
fn what_is_written_is_carried_over() {
    let written = spec(&json!({
        "mode": "Advisory",
        "gateway": {"name": "main", "port": "metrics"},
        "metrics": [
            {"type": "Pods", "pods": {"metric": {"name": "vllm:num_requests_waiting"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}},
        ],
    }));
    let snapshot = snapshot(&[("chat", written)], &[serving("chat-0")]);
    let pools = pools(&snapshot);
    let pool = pools.served.values().next().unwrap_or_else(|| panic!("{:?}", pools.refused));
    assert_eq!((pool.is_advisory, pool.spec.mode), (true, Mode::Advisory));
    assert_eq!(pool.spec.gateway, GatewayUse::Configured);
    assert_eq!(pool.serving_port(&serving("chat-0")), Some(9_090));
    assert!(matches!(pool.spec.queries.as_slice(), [MetricQuery::Series { .. }, MetricQuery::Supplied { .. }]));
    assert_eq!(pool.needs.len(), 1, "cpu comes from metrics.k8s.io");
    assert!(pools.named_of(&Key::new("ml", "chat-0")).is_some(), "its pods' pages are asked for the series");
    assert!(pools.named_of(&Key::new("ml", "other-0")).is_none());
}

#[test]
fn a_floor_of_the_hour_raises_the_least_count_within_the_greatest() {
    for (floor, expect) in [(0, 2), (1, 2), (3, 3), (4, 4)] {
        let schedule = json!([{"name": "always", "from": "00:00", "to": "00:00", "minReplicas": floor}]);
        let snapshot = snapshot(&[("chat", spec(&json!({"minReplicas": 2, "schedules": schedule})))], &[]);
        let pools = pools(&snapshot);
        let pool = pools.served.values().next().unwrap_or_else(|| panic!("{:?}", pools.refused));
        let least: Vec<u32> = pool.spec.policy.pools.values().map(|policy| policy.min_replicas).collect();
        assert_eq!(least, [expect], "a floor of {floor}, 2 to 4");
    }
}

#[test]
fn what_cannot_be_carried_out_is_refused_with_a_word_and_a_sentence() {
    struct Case {
        name: &'static str,
        spec: Value,
        expect: (&'static str, &'static str),
    }
    for case in [
        Case {
            name: "objective",
            spec: spec(&json!({"objective": {"ttft": "2s"}})),
            expect: ("NotCarriedOut", "`spec.objective`"),
        },
        Case {
            name: "no greatest count",
            spec: json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}}),
            expect: ("InvalidSpec", "maxReplicas"),
        },
        Case { name: "unreadable", spec: json!({"maxReplicas": "many"}), expect: ("InvalidSpec", "many") },
    ] {
        let pools = pools(&snapshot(&[("chat", case.spec)], &[]));
        let (word, sentence) = pools.refused.get(&Key::new("ml", "chat")).unwrap_or_else(|| panic!("{}", case.name));
        assert!(word == case.expect.0 && sentence.contains(case.expect.1), "{}: {word} {sentence}", case.name);
        assert!(pools.served.is_empty(), "{}", case.name);
    }
}

#[test]
fn more_autoscalers_than_the_limit_are_refused() {
    let all = [("a", spec(&json!({}))), ("b", spec(&json!({}))), ("c", spec(&json!({})))];
    let pools = pools(&snapshot(&all, &[]));
    assert_eq!(pools.served.len(), 2);
    assert!(pools.refused.get(&Key::new("ml", "c")).is_some_and(|(_, text)| text.contains("`limits.autoscalers`")));
}

#[test]
fn a_target_that_somebody_else_scales_is_not_written_to() {
    let mut snapshot = snapshot(&[("chat", spec(&json!({})))], &[]);
    let claim = |by, active| Claim { by, key: Key::new("ml", "chat"), active };
    for (other, expect) in [
        (claim(ClaimBy::HorizontalPodAutoscaler, true), Mode::Advisory),
        // an HPA that is switched off stands in nobody's way
        (claim(ClaimBy::HorizontalPodAutoscaler, false), Mode::Active),
        (claim(ClaimBy::ScaledObject, true), Mode::Advisory),
    ] {
        let claims = vec![claim(ClaimBy::InferenceAutoscaler, true), other];
        snapshot.claims = Arc::new(BTreeMap::from([(chat(), claims)]));
        let pools = pools(&snapshot);
        let modes: Vec<Mode> = pools.served.values().map(|pool| pool.spec.mode).collect();
        assert_eq!(modes, [expect]);
        assert!(pools.served.values().all(|pool| !pool.is_advisory), "what is written stays what was written");
    }
}

#[test]
fn what_did_not_change_is_taken_over_and_what_did_is_made_anew() {
    let mut seen = snapshot(&[("chat", spec(&json!({})))], &[]);
    let before = pools(&seen);
    let again = |seen: &Snapshot| Pools::of(seen, at(1), &SETTINGS, &before);
    let first = |pools: &Pools| pools.served.values().next().cloned().expect("a pool");
    assert!(Arc::ptr_eq(&first(&again(&seen)), &first(&before)) && again(&seen).is_as(&before));
    let claims = [ClaimBy::InferenceAutoscaler, ClaimBy::HorizontalPodAutoscaler].map(|by| Claim {
        by,
        key: Key::new("ml", "chat"),
        active: true,
    });
    seen.claims = Arc::new(BTreeMap::from([(chat(), claims.to_vec())]));
    let after = again(&seen);
    assert_eq!((first(&after).spec.mode, after.is_as(&before)), (Mode::Advisory, false));
}
