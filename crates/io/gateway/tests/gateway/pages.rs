//! The metrics page, read by our own reader of such pages.

use crate::rig::{Replica, Rig, plain};
use loadline_gateway::{GatewaySettings, ModelSettings, Readiness};
use loadline_hold::HoldSettings;
use loadline_net::Clock;
use loadline_signals::exposition::{BadLines, Format, Line, MetricKind, Options, WantedNames, scan};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Reads a page strictly: every family has its help text and type before its samples and stands once, and so does every
/// series. The families with their types.
pub(crate) fn families(page: &str) -> BTreeMap<String, MetricKind> {
    let options = Options { format: Format::Text, bad_lines: BadLines::Fail, ..Options::default() };
    let (mut kinds, mut series) = (BTreeMap::new(), BTreeSet::new());
    let (mut helped, mut current) = (String::new(), String::new());
    scan(page.as_bytes(), &WantedNames::all(), &options, |line| match line {
        Line::Help { name, text } => {
            assert!(!text.is_empty(), "{name}");
            helped = name.into_owned();
        }
        Line::Type { name, kind } => {
            assert_eq!(name, helped, "HELP comes first");
            assert_eq!(name.ends_with("_total"), kind == MetricKind::Counter, "{name}");
            current = name.into_owned();
            assert!(kinds.insert(current.clone(), kind).is_none(), "{current} twice");
        }
        Line::Sample(sample) => {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| sample.name.strip_suffix(end));
            let known = sample.name == current
                || (base == Some(current.as_str()) && kinds.get(&current) == Some(&MetricKind::Histogram));
            assert!(known, "{} under {current}", sample.series);
            assert!(sample.value.is_finite() && sample.value >= 0.0, "{}", sample.series);
            assert!(series.insert(sample.series.to_owned()), "{} twice", sample.series);
        }
        Line::Unit { .. } => panic!("no unit in text format"),
    })
    .expect("a page");
    kinds
}

#[tokio::test]
async fn the_metrics_page_has_both_generations_of_names_also_at_zero() {
    let settings = GatewaySettings {
        inference_pool: "pool-1".to_owned(),
        top_level_controller_name: "ctl".to_owned(),
        ..GatewaySettings::default()
    };
    let rig = Rig::with(HoldSettings::default(), settings.clone(), Clock::real());
    let page = rig.get("/metrics").await.text();
    let kinds = families(&page);
    for (name, kind) in [
        ("llm_d_epp_flow_control_queue_size", MetricKind::Gauge),
        ("inference_extension_flow_control_queue_size", MetricKind::Gauge),
        ("llm_d_epp_request_running", MetricKind::Gauge),
        ("inference_objective_running_requests", MetricKind::Gauge),
        ("llm_d_epp_flow_control_pool_saturation", MetricKind::Gauge),
        ("llm_d_epp_ready_endpoints", MetricKind::Gauge),
        ("inference_pool_ready_pods", MetricKind::Gauge),
        ("llm_d_epp_request_duration_seconds", MetricKind::Histogram),
        ("loadline_gateway_law_violations_total", MetricKind::Counter),
    ] {
        assert_eq!(kinds.get(name), Some(&kind), "{name}");
    }
    let flow = "{fairness_id=\"default-flow\",priority=\"0\",inference_pool=\"pool-1\",model_name=\"m\",\
                target_model_name=\"m\",top_level_controller_name=\"ctl\"}";
    assert_eq!(rig.metric(&format!("llm_d_epp_flow_control_queue_size{flow}")).await, 0.0);
    let pool = "{name=\"pool-1\",top_level_controller_name=\"ctl\"}";
    assert_eq!(rig.metric(&format!("inference_pool_ready_pods{pool}")).await, 0.0);

    let mut client = rig.client().await;
    client.post(r#"{"model":"m"}"#).await;
    while rig.metric(&format!("inference_extension_flow_control_queue_size{flow}")).await < 1.0 {}
    assert_eq!(rig.metric("loadline_gateway_wakes_total{model=\"m\"}").await, 1.0);
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 3);
    let call = replica.call().await;
    let slots = |state: &str| format!("loadline_gateway_slots{{model=\"m\",replica=\"a\",state=\"{state}\"}}");
    assert_eq!(rig.metric(&slots("leased")).await, 1.0);
    assert_eq!(rig.metric(&slots("free")).await, 2.0);
    call.reply("{}").await;
    client.answer().await;
    assert_eq!(rig.metric("loadline_gateway_cold_start_seconds_count{model=\"m\"}").await, 1.0);
    families(&rig.get("/metrics").await.text());

    let rig = Rig::with(plain(), GatewaySettings { legacy_epp_names: false, ..settings }, Clock::real());
    assert!(!families(&rig.get("/metrics").await.text()).keys().any(|name| name.starts_with("inference_")));
}

#[tokio::test]
async fn every_end_of_a_request_is_counted_once_and_by_its_name() {
    let hold = HoldSettings { max_held: 1, saturated_budget: Duration::from_secs(400), ..plain() };
    let mut rig = Rig::with(hold, GatewaySettings::default(), Clock::scaled(200.0));
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    let (mut flying, mut held, mut refused) = (rig.client().await, rig.client().await, rig.client().await);
    flying.post(r#"{"model":"m","stream":true}"#).await;
    let mut call = replica.call().await;
    held.post(r#"{"model":"m"}"#).await;
    rig.counts(1, 1).await;
    refused.post(r#"{"model":"m"}"#).await;
    assert_eq!((refused.answer().await.status, held.answer().await.status), (429, 429));
    call.stream().await;
    flying.head().await;
    drop(flying);
    call.hung_up().await;
    rig.counts(0, 0).await;
    let outcome = |word: &str| {
        let labels = "priority=\"0\",inference_pool=\"loadline\",model_name=\"m\"";
        format!("llm_d_epp_flow_control_requests_total{{{labels},outcome=\"{word}\"}}")
    };
    let request = "model_name=\"m\",target_model_name=\"m\",fairness_id=\"default-flow\",priority=\"0\"";
    let flow = "fairness_id=\"default-flow\",priority=\"0\",inference_pool=\"loadline\",model_name=\"m\",\
                target_model_name=\"m\"";
    for (series, expect) in [
        (outcome("Dispatched"), 1.0),
        (outcome("RejectedCapacity"), 1.0),
        (outcome("EvictedTTL"), 1.0),
        (outcome("RejectedNoEndpoints"), 0.0),
        (outcome("EvictedContextCancelled"), 0.0),
        (outcome("EvictedOther"), 0.0),
        (format!("llm_d_epp_request_total{{{request}}}"), 3.0),
        (format!("llm_d_epp_request_error_total{{{request},error_code=\"InferencePoolResourceExhausted\"}}"), 2.0),
        (format!("inference_objective_request_error_total{{{request},error_code=\"ModelServerError\"}}"), 0.0),
        (format!("llm_d_epp_request_running{{{request}}}"), 0.0),
        (format!("llm_d_epp_request_ttft_seconds_count{{{request},streaming=\"true\"}}"), 1.0),
        (format!("llm_d_epp_request_ttft_seconds_count{{{request},streaming=\"false\"}}"), 0.0),
        (format!("llm_d_epp_flow_control_request_queue_duration_seconds_count{{{flow},outcome=\"Dispatched\"}}"), 1.0),
        (
            format!(
                "inference_extension_flow_control_request_queue_duration_seconds_count{{{flow},outcome=\"EvictedTTL\"}}"
            ),
            1.0,
        ),
        ("loadline_gateway_cancelled_total{model=\"m\"}".to_owned(), 1.0),
        ("loadline_gateway_dropped_total{model=\"m\",reason=\"queue_full\",code=\"429\"}".to_owned(), 1.0),
    ] {
        assert_eq!(rig.metric(&series).await, expect, "{series}");
    }
    families(&rig.get("/metrics").await.text());
}

#[tokio::test]
async fn each_pool_has_samples_of_its_own() {
    let rig = Rig::with(HoldSettings::default(), GatewaySettings::default(), Clock::real());
    let model =
        |name: &str, pool: &str| ModelSettings { inference_pool: Some(pool.to_owned()), ..ModelSettings::new(name) };
    rig.gateway.set_models(vec![model("m", "one"), model("n", "two")]);
    families(&rig.get("/metrics").await.text());
    let replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    for (pool, name, ready) in [("one", "m", 1.0), ("two", "n", 0.0)] {
        assert_eq!(rig.metric(&format!("llm_d_epp_ready_endpoints{{name=\"{pool}\"}}")).await, ready, "{pool}");
        let saturation = format!("llm_d_epp_flow_control_pool_saturation{{inference_pool=\"{pool}\"}}");
        assert_eq!(rig.metric(&saturation).await, 1.0 - ready, "{pool}");
        let flow = format!(
            "{{fairness_id=\"default-flow\",priority=\"0\",inference_pool=\"{pool}\",model_name=\"{name}\",\
             target_model_name=\"{name}\"}}"
        );
        assert_eq!(rig.metric(&format!("llm_d_epp_flow_control_queue_size{flow}")).await, 0.0, "{pool}");
    }
    rig.gateway.set_models(vec![model("m", "three")]);
    assert_eq!(rig.metric("llm_d_epp_ready_endpoints{name=\"three\"}").await, 1.0, "a changed pool keeps the replicas");
}

#[tokio::test]
async fn readiness_waits_for_the_process_around_it() {
    let missing = Arc::new(AtomicBool::new(true));
    let is_missing = Arc::clone(&missing);
    let readiness =
        Readiness(Arc::new(move || is_missing.load(Ordering::Relaxed).then(|| "pods are not known yet".to_owned())));
    let settings = GatewaySettings { readiness: Some(readiness), ..GatewaySettings::default() };
    let rig = Rig::with(HoldSettings::default(), settings, Clock::real());
    let answer = rig.get("/readyz").await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "pods are not known yet\n"));
    assert_eq!(rig.get("/healthz").await.status, 200);
    missing.store(false, Ordering::Relaxed);
    assert_eq!(rig.get("/readyz").await.status, 200);
}
