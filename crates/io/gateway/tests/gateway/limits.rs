//! Bounds, errors of clients, and the gateway's own pages.

use crate::pages::families;
use crate::rig::{Client, Replica, Rig, plain};
use loadline_gateway::{GatewaySettings, ModelSettings};
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
        ("/v1/a", "", "", 400, "invalid_json", None),
        ("/v1/a", "", "\u{feff}{\"model\":\"m\"}", 400, "invalid_json", None),
        ("/v1/a", "", "{\"other\":{\"model\":\"m\"}}", 400, "model_missing", Some("model")),
        ("/v1/a", "", "{\"model\":\"m\",\"model\":\"last\"}", 404, "model_not_found", Some("model")),
        ("/v1/a", "content-encoding: gzip\r\n", "\u{1f}\u{8b}", 415, "content_encoding_unsupported", None),
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
async fn a_clients_words_are_bounded_and_escaped_where_they_are_repeated() {
    let rig = Rig::start(plain());
    let long = "\\\"\\n\\u0000".repeat(10_000);
    let mut client = rig.client().await;
    client.post(&format!("{{\"model\":\"{long}\"}}")).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (404, Some("model_not_found")));
    assert!(answer.body.len() < 2_000, "{}", answer.body.len());
    for path in [format!("/{}", "p".repeat(5_000)), format!("/v1/models/{}", "%0A".repeat(5_000))] {
        let answer = rig.get(&path).await;
        assert!(answer.status == 404 && answer.body.len() < 2_000, "{}", answer.body.len());
    }
    assert!(!rig.get("/metrics").await.text().contains("\\u0000"));
}

#[tokio::test]
async fn odd_names_of_models_are_found_and_shown() {
    let rig = Rig::start(plain());
    let name = "Qwen/Qwen3 \"é\\\n😀";
    rig.gateway.set_models(vec![ModelSettings::new(name)]);
    let mut client = rig.client().await;
    client.post(r#"{"model":"Qwen\/Qwen3 \"\u00e9\\\n\ud83d\ude00"}"#).await;
    let series = r#"loadline_gateway_queue_depth{model="Qwen/Qwen3 \"é\\\n😀",reason="cold"}"#;
    while rig.metric(series).await < 1.0 {}
    let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
    assert_eq!(rig.get(&format!("/v1/models/{encoded}")).await.json()["id"], name);
    families(&rig.get("/metrics").await.text());
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
async fn bodies_that_wait_for_each_other_are_refused_in_the_end() {
    let settings = GatewaySettings {
        held_bytes: 128 * 1024,
        body_read_timeout: Duration::from_millis(100),
        ..GatewaySettings::default()
    };
    let rig = Rig::with(plain(), settings, Clock::real());
    // Each takes half of the room and needs more than that.
    let mut clients = [rig.client().await, rig.client().await];
    for client in &mut clients {
        client.write(b"POST /v1/a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await;
        client.write(format!("f000\r\n{}\r\n", "x".repeat(0xf000)).as_bytes()).await;
    }
    while rig.metric("loadline_gateway_held_bytes").await < 128.0 * 1024.0 {}
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    clients[0].write(chunk.as_bytes()).await;
    clients[1].write(chunk.as_bytes()).await;
    let (first, second) = {
        let [first, second] = &mut clients;
        tokio::join!(first.answer(), second.answer())
    };
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    // The room that the first refusal frees may come in time for the other, whose next bytes do not.
    assert!(matches!(statuses, [429, 429] | [408, 429]), "{statuses:?}");
    while rig.metric("loadline_gateway_held_bytes").await > 0.0 {}
    // What would never fit is told so at once.
    let mut client = rig.client().await;
    client.write(b"POST /v1/a HTTP/1.1\r\nhost: x\r\ncontent-length: 131073\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 413);
}

#[tokio::test]
async fn a_body_that_trickles_is_refused() {
    let settings = GatewaySettings {
        body_read_timeout: Duration::from_millis(300),
        min_body_rate: 1024 * 1024,
        ..GatewaySettings::default()
    };
    let rig = Rig::with(plain(), settings, Clock::real());
    let mut client = rig.client().await;
    client.write(b"POST /v1/a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let (mut reads, mut writes) = client.split();
    let answer = tokio::select! {
        answer = reads.answer() => answer,
        () = async { loop {
            writes.write(b"1\r\nx\r\n").await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        } } => unreachable!("the loop has no end"),
    };
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (408, Some("body_timeout")));
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
