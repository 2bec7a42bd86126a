//! Holding: wakes, budgets, comments, bounds, drain, shutdown.

use crate::rig::{Replica, Rig, model, plain, soon};
use loadline_gateway::GatewaySettings;
use loadline_hold::HoldSettings;
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use loadline_net::Clock;
use std::time::Duration;

const BODY: &str = r#"{"model":"m"}"#;
const STREAM: &str = r#"{"model":"m","stream":true}"#;

#[tokio::test]
async fn a_request_at_zero_wakes_waits_and_is_answered() {
    let mut rig = Rig::start(HoldSettings::default());
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = rig.client().await;
        client.post(BODY).await;
        clients.push(client);
    }
    let epoch = rig.wake().await;
    rig.gateway.order(GatewayOrder::Ack { model: model(), epoch, expected: Some(Duration::from_secs(30)) });
    rig.counts(3, 0).await;
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 8);
    for _ in 0..3 {
        replica.call().await.reply("{}").await;
    }
    for mut client in clients {
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("x-gw-cold-start")), (200, Some("1")));
        assert!(answer.header("x-gw-queue-ms").is_some());
    }
    rig.no_law_is_broken().await;
}

#[tokio::test]
async fn the_cold_budget_ends_with_a_503_and_when_to_return() {
    let settings = HoldSettings { cold_budget: Some(Duration::from_secs(100)), ..plain() };
    let mut rig = Rig::with(settings, GatewaySettings::default(), Clock::scaled(1_000.0));
    let mut client = rig.client().await;
    client.post(BODY).await;
    let epoch = rig.wake().await;
    rig.gateway.order(GatewayOrder::Ack { model: model(), epoch, expected: Some(Duration::from_secs(400)) });
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("cold_start_timeout")));
    assert_eq!(answer.json()["error"]["type"], "server_error");
    assert_eq!(answer.header("retry-after"), Some("120"));
    assert_eq!(answer.header("x-gw-dropped-reason"), Some("cold_start_timeout"));
    assert_eq!(answer.header("x-gw-cold-start"), Some("1"));
    let held: u64 = answer.header("x-gw-queue-ms").unwrap().parse().unwrap();
    assert!(held >= 100_000, "{held}");
}

#[tokio::test]
async fn a_full_queue_and_a_spent_budget_are_429() {
    let settings = HoldSettings { max_held: 1, saturated_budget: Duration::from_secs(60), ..plain() };
    let mut rig = Rig::with(settings, GatewaySettings::default(), Clock::scaled(100.0));
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    let mut first = rig.client().await;
    first.post(BODY).await;
    let call = replica.call().await;
    let mut second = rig.client().await;
    second.post(BODY).await;
    rig.counts(1, 1).await;
    let mut third = rig.client().await;
    third.post_to("/v1/messages", "", BODY.as_bytes()).await;
    let answer = third.answer().await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.json()["type"], "error");
    assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
    assert_eq!(answer.header("x-gw-dropped-reason"), Some("queue_full"));
    assert!((1..=120).contains(&answer.header("retry-after").unwrap().parse::<u32>().unwrap()));
    let answer = second.answer().await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (429, Some("queue_timeout_saturated")));
    call.reply("{}").await;
    assert_eq!(first.answer().await.status, 200);
}

#[tokio::test]
async fn held_streams_are_kept_alive_and_then_served() {
    let rig = Rig::with(HoldSettings::default(), GatewaySettings::default(), Clock::scaled(100.0));
    let mut plain = rig.client().await;
    plain.post(BODY).await;
    let mut client = rig.client().await;
    client.post(STREAM).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    for expect in ["content-type: text/event-stream", "cache-control: no-cache", "x-accel-buffering: no"] {
        assert!(head.contains(expect), "{expect} in {head}");
    }
    for _ in 0..3 {
        assert!(client.chunk().await.starts_with(b": loadline holding"));
    }
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 4);
    for _ in 0..2 {
        let mut call = replica.call().await;
        if call.body == STREAM.as_bytes() {
            call.stream().await;
            call.chunk("data: 1\n\n").await;
            call.write("0\r\n\r\n").await;
        } else {
            call.reply("{}").await;
        }
    }
    // some clients lose an event that follows a comment in a read of its own, so the first event brings a comment along
    let mut first = client.chunk().await;
    while first.starts_with(b": ") {
        first = client.chunk().await;
    }
    assert_eq!(first, b":\n\ndata: 1\n\n");
    assert!(client.chunk().await.is_empty());
    assert_eq!(plain.answer().await.status, 200, "without a stream nothing was committed");
}

#[tokio::test]
async fn once_committed_every_failure_is_an_event() {
    let settings = HoldSettings { cold_budget: Some(Duration::from_secs(40)), ..HoldSettings::default() };
    let rig = Rig::with(settings, GatewaySettings::default(), Clock::scaled(100.0));
    let event = async |client: &mut crate::rig::Client| {
        let chunk = client.event().await;
        assert!(client.chunk().await.is_empty());
        let text = String::from_utf8(chunk).unwrap();
        serde_json::from_str::<serde_json::Value>(text.trim().strip_prefix("data: ").expect("an event")).unwrap()
    };
    let mut client = rig.client().await;
    client.post(STREAM).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    assert_eq!(event(&mut client).await["error"]["code"], "cold_start_timeout");

    // A replica's own error comes in the stream as well.
    client.post(STREAM).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 4);
    let mut call = replica.call().await;
    let error = r#"{"error":{"message":"too long","code":400}}"#;
    call.write(&format!("HTTP/1.1 400 Bad Request\r\ncontent-length: {}\r\n\r\n{error}", error.len())).await;
    assert_eq!(event(&mut client).await["error"]["message"], "too long");
}

#[tokio::test]
async fn a_model_may_refuse_comments() {
    let settings = HoldSettings { keepalive: false, cold_budget: Some(Duration::from_secs(60)), ..plain() };
    let rig = Rig::with(settings, GatewaySettings::default(), Clock::scaled(500.0));
    let mut client = rig.client().await;
    client.post(STREAM).await;
    assert_eq!(client.answer().await.status, 503);
}

#[tokio::test]
async fn drain_stops_leasing_and_reports_when_it_is_empty() {
    let mut rig = Rig::start(plain());
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 4);
    let mut client = rig.client().await;
    client.post(STREAM).await;
    let mut call = replica.call().await;
    call.stream().await;
    client.head().await;
    rig.drain("a");
    let load = async |rig: &mut Rig| {
        rig.report("the load of the replica", |report| match report {
            GatewayReport::ReplicaLoad { in_flight, .. } => Some(in_flight),
            _ => None,
        })
        .await
    };
    assert_eq!(load(&mut rig).await, 1);
    let mut other = rig.client().await;
    other.post(BODY).await;
    rig.wake().await;
    assert!(!replica.is_called(), "a draining replica gets nothing new");
    call.chunk("data: 1\n\n").await;
    assert_eq!(client.chunk().await, b"data: 1\n\n");
    call.write("0\r\n\r\n").await;
    assert!(client.chunk().await.is_empty());
    assert_eq!(load(&mut rig).await, 0);
    call.keep();
    // Said again, the drain is undone.
    rig.up("a", replica.address, 4);
    replica.call().await.reply("{}").await;
    assert_eq!(other.answer().await.status, 200);
}

#[tokio::test]
async fn shutdown_serves_what_is_held_until_the_deadline() {
    let mut rig = Rig::start(plain());
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    let mut flying = rig.client().await;
    flying.post(BODY).await;
    let call = replica.call().await;
    let mut held = rig.client().await;
    held.post(BODY).await;
    rig.counts(1, 1).await;
    let Rig { gateway, .. } = rig;
    let ((), ()) = tokio::join!(gateway.shutdown(Duration::from_secs(20)), async {
        call.reply("{}").await;
        replica.call().await.reply("{}").await;
        for client in [&mut flying, &mut held] {
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        }
    });
}

#[tokio::test]
async fn shutdown_refuses_what_is_left_at_the_deadline() {
    let mut rig = Rig::start(plain());
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    let mut flying = rig.client().await;
    flying.post(STREAM).await;
    let mut call = replica.call().await;
    call.stream().await;
    flying.head().await;
    let mut held = rig.client().await;
    held.post(BODY).await;
    rig.counts(1, 1).await;
    soon("the end", rig.gateway.shutdown(Duration::from_millis(100))).await;
    let answer = held.answer().await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (503, Some("draining")));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(String::from_utf8(flying.chunk().await).unwrap().contains("upstream_reset"));
    call.hung_up().await;
}
