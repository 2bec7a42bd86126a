//! Bounds, errors of clients, and the gateway's own pages.

use crate::rig::{Client, Replica, Rig, plain};
use loadline_gateway::{GatewaySettings, ModelSettings};
use loadline_hold::HoldSettings;
use loadline_net::Clock;
use std::time::Duration;

#[tokio::test]
async fn what_a_client_does_wrong_is_told() {
    let rig = Rig::start(plain());
    for (path, headers, body, status, code, param) in [
        ("/v1/chat/completions", "", "{\"model\":", 400, "invalid_json", None),
        ("/v1/chat/completions", "", "[1]", 400, "invalid_json", None),
        ("/v1/chat/completions", "", "{\"model\":7}", 400, "invalid_json", None),
        ("/v1/chat/completions", "", "{}", 400, "model_missing", Some("model")),
        ("/v1/embeddings", "", "{\"model\":\"no\"}", 404, "model_not_found", Some("model")),
        ("/any/path", "x-model: no\r\n", "", 404, "model_not_found", Some("model")),
    ] {
        let mut client = rig.client().await;
        client.post_to(path, headers, body.as_bytes()).await;
        let answer = client.answer().await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status, error["code"].as_str(), error["param"].as_str()), (status, Some(code), param));
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(answer.header("x-should-retry"), Some("false"));
    }
    assert_eq!(rig.get("/nowhere").await.status, 404);
}

#[tokio::test]
async fn a_header_names_the_model_of_any_request() {
    let rig = Rig::start(plain());
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    for (path, headers, body) in
        [("/v1/audio", "x-model: m\r\n", "not json"), ("/x", "x-gateway-model-name: m\r\n", "{\"model\":\"other\"}")]
    {
        let mut client = rig.client().await;
        client.post_to(path, headers, body.as_bytes()).await;
        let call = replica.call().await;
        assert_eq!(call.body, body.as_bytes());
        call.reply("{}").await;
        assert_eq!(client.answer().await.status, 200);
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_unread() {
    let rig = Rig::start(plain());
    // One gigabyte, announced.
    let mut client = rig.client().await;
    client.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1073741824\r\n\r\n{\"model\":").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("x-should-retry")), (413, Some("false")));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(rig.metric("loadline_gateway_held_bytes").await, 0.0);
    // Without an end.
    let settings = GatewaySettings { max_body_bytes: 100_000, ..GatewaySettings::default() };
    let rig = Rig::with(plain(), settings, Clock::real());
    let mut client = rig.client().await;
    client.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    for _ in 0..7 {
        client.write(chunk.as_bytes()).await;
    }
    assert_eq!(client.answer().await.status, 413);
}

#[tokio::test]
async fn bodies_wait_for_room_and_are_refused_when_there_is_none() {
    let settings = GatewaySettings {
        held_bytes: 64 * 1024,
        body_read_timeout: Duration::from_millis(100),
        ..GatewaySettings::default()
    };
    let mut rig = Rig::with(plain(), settings, Clock::real());
    let body = format!("{{\"model\":\"m\",\"pad\":\"{}\"}}", "x".repeat(40_000));
    let mut first = rig.client().await;
    first.post(&body).await;
    rig.counts(1, 0).await;
    let mut second = rig.client().await;
    second.post(&body).await;
    let answer = second.answer().await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (429, Some("queue_full")));
    drop(first);
    rig.counts(0, 0).await;
    assert_eq!(rig.metric("loadline_gateway_held_bytes").await, 0.0);
}

#[tokio::test]
async fn a_head_beyond_the_limit_and_a_slow_head_are_refused() {
    let settings = GatewaySettings { header_read_timeout: Duration::from_millis(100), ..GatewaySettings::default() };
    let rig = Rig::with(plain(), settings, Clock::real());
    let mut client = rig.client().await;
    let head = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "y".repeat(70_000));
    client.write(head.as_bytes()).await;
    assert_eq!(client.answer().await.status, 431);
    let mut client = rig.client().await;
    client.write(b"GET /healthz HTTP/1.1\r\nhost:").await;
    client.closed().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so() {
    let settings = GatewaySettings { max_connections: 2, ..GatewaySettings::default() };
    let rig = Rig::with(plain(), settings, Clock::real());
    let (mut first, mut second) = (rig.client().await, rig.client().await);
    for client in [&mut first, &mut second] {
        client.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
    }
    let answer = rig.client().await.answer().await;
    assert_eq!(answer.status, 503);
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains("too many connections"));
}

#[tokio::test]
async fn thousands_of_idle_connections_do_not_hurt() {
    // Two descriptors each, as both ends are in this process; leave room for other tests.
    let limit = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files =
        limit.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok());
    let count = files.unwrap_or(1_024_usize).saturating_sub(400).min(20_000) / 2;
    let rig = Rig::start(plain());
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    let mut idle = Vec::new();
    for _ in 0..count {
        idle.push(rig.client().await);
    }
    let mut client = rig.client().await;
    client.post(r#"{"model":"m"}"#).await;
    replica.call().await.reply("{}").await;
    assert_eq!(client.answer().await.status, 200);
    // Any of them still works.
    let last: &mut Client = idle.last_mut().unwrap();
    last.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(last.answer().await.status, 200);
}

#[tokio::test]
async fn models_are_listed_also_at_zero() {
    let rig = Rig::start(plain());
    let list = rig.get("/v1/models").await.json();
    assert_eq!((list["object"].as_str(), list["data"][0]["id"].as_str()), (Some("list"), Some("m")));
    assert_eq!(list["data"][0]["state"], "zero");
    assert_eq!(rig.get("/v1/models/no").await.status, 404);
    assert_eq!((rig.get("/readyz").await.status, rig.get("/healthz").await.status), (200, 200));
    let replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    assert_eq!(rig.get("/v1/models/m").await.json()["state"], "ready");
    // A changed list takes effect at once; what is held for a model that goes is refused.
    rig.down("a");
    let mut client = rig.client().await;
    client.post(r#"{"model":"m"}"#).await;
    while rig.metric("loadline_gateway_queue_depth{model=\"m\",reason=\"cold\"}").await < 1.0 {}
    rig.gateway.set_models(vec![ModelSettings::new("n")]);
    assert_eq!(client.answer().await.status, 503);
    client.post(r#"{"model":"m"}"#).await;
    assert_eq!(client.answer().await.status, 404);
}

/// Reads a page of text format 0.0.4 strictly; its families with their types, and its samples.
fn families(page: &str) -> std::collections::BTreeMap<String, String> {
    let mut kinds = std::collections::BTreeMap::new();
    let mut current = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(name, current, "HELP comes first");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            current = rest.split_once(' ').expect("a help text").0.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a sample");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().unwrap();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let known = name == current || (base == Some(current.as_str()) && kinds[&current] == "histogram");
            assert!(known, "{line} under {current}");
            assert!(!series.contains('{') || (series.ends_with("\"}") && series.contains("=\"")), "{line}");
        }
    }
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
        ("llm_d_epp_flow_control_queue_size", "gauge"),
        ("inference_extension_flow_control_queue_size", "gauge"),
        ("llm_d_epp_request_running", "gauge"),
        ("inference_objective_running_requests", "gauge"),
        ("llm_d_epp_flow_control_pool_saturation", "gauge"),
        ("llm_d_epp_ready_endpoints", "gauge"),
        ("inference_pool_ready_pods", "gauge"),
        ("llm_d_epp_request_duration_seconds", "histogram"),
        ("loadline_gateway_law_violations_total", "counter"),
    ] {
        assert_eq!(kinds.get(name).map(String::as_str), Some(kind), "{name}");
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
