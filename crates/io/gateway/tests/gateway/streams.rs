//! Event streams: held, broken, encoded, silent.

use crate::rig::{Client, Replica, Rig, header, plain};
use loadline_gateway::GatewaySettings;
use loadline_hold::HoldSettings;
use loadline_net::Clock;
use std::time::Duration;

const STREAM: &str = r#"{"model":"m","stream":true}"#;

/// A stream that is held and has its status; the replica that then gets the request.
async fn committed(path: &str) -> (Rig, Client, crate::rig::Call) {
    let rig = Rig::with(HoldSettings::default(), GatewaySettings::default(), Clock::scaled(100.0));
    let mut client = rig.client().await;
    client.post_to(path, "accept-encoding: gzip\r\n", STREAM.as_bytes()).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    let call = replica.call().await;
    (rig, client, call)
}

/// What follows the comments, up to the end.
async fn rest(client: &mut Client) -> String {
    let mut text = String::new();
    loop {
        let chunk = client.event().await;
        if chunk.is_empty() {
            return text;
        }
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
}

#[tokio::test]
async fn a_committed_stream_asks_for_plain_text_and_refuses_anything_else() {
    let (_rig, mut client, mut call) = committed("/v1/chat/completions").await;
    assert_eq!(header(&call.head, "accept-encoding"), None);
    call.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n\x1f\x08x")
        .await;
    let text = rest(&mut client).await;
    assert!(text.contains("upstream_error") && text.contains("`gzip`") && !text.contains('\x1f'), "{text}");
}

#[tokio::test]
async fn a_committed_stream_passes_a_whole_answer_on_as_one_event() {
    for (path, status, body, expect) in [
        ("/v1/a", "200 OK", "{\n  \"b\": 3.10,\r\n  \"a\": 1e400\n}\n", "data: {   \"b\": 3.10,    \"a\": 1e400 }\n\n"),
        ("/v1/a", "429 Too Many", r#"{"error":{"code":1.50}}"#, "data: {\"error\":{\"code\":1.50}}\n\n"),
        (
            "/v1/messages",
            "529 Busy",
            r#"{"type":"error","error":{"type":"overloaded_error"}}"#,
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n",
        ),
    ] {
        let (_rig, mut client, mut call) = committed(path).await;
        let length = body.len();
        call.write(&format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await;
        assert_eq!(rest(&mut client).await, expect);
    }
    // A stream of announced length is a stream all the same.
    let (_rig, mut client, mut call) = committed("/v1/a").await;
    call.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 100\r\n\r\ndata: 1\n\n").await;
    assert_eq!(client.event().await, b"data: 1\n\n");
    drop(call);
    assert!(rest(&mut client).await.contains("upstream_reset"), "no length was announced to this client");
}

#[tokio::test]
async fn a_client_that_leaves_a_committed_stream_frees_its_slot() {
    let (mut rig, client, call) = committed("/v1/a").await;
    drop(client);
    call.hung_up().await;
    rig.counts(0, 0).await;
    rig.no_law_is_broken().await;
}

#[tokio::test]
async fn a_stream_broken_within_an_event_closes_that_event_first() {
    let rig = Rig::start(plain());
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    let mut client = rig.client().await;
    client.post(STREAM).await;
    let mut call = replica.call().await;
    call.stream().await;
    client.head().await;
    call.chunk("data: 1\n\ndata: {\"par").await;
    assert_eq!(client.chunk().await, b"data: 1\n\ndata: {\"par");
    drop(call);
    let text = rest(&mut client).await;
    assert!(text.starts_with("\n\ndata: {\"error\":") && text.ends_with("}\n\n"), "{text}");
}

#[tokio::test]
async fn a_broken_stream_of_known_length_or_coding_is_cut_off() {
    let rig = Rig::start(plain());
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    for (headers, data, expect) in [
        ("content-length: 500\r\n", "data: 1\n\n", "data: 1\n\n"),
        ("content-encoding: br\r\ntransfer-encoding: chunked\r\n", "3\r\nbrr\r\n", "3\r\nbrr\r\n"),
    ] {
        let mut client = rig.client().await;
        client.post(STREAM).await;
        let mut call = replica.call().await;
        call.write(&format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{headers}\r\n{data}")).await;
        client.head().await;
        assert_eq!(client.until(expect.as_bytes()).await, expect.as_bytes());
        drop(call);
        assert_eq!(String::from_utf8(client.closed().await).unwrap(), "", "it must not pass for whole");
    }
}

#[tokio::test]
async fn a_replica_that_falls_silent_within_its_answer_is_given_up() {
    let settings = GatewaySettings { stream_idle_timeout: Duration::from_millis(50), ..GatewaySettings::default() };
    let mut rig = Rig::with(plain(), settings, Clock::real());
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    let mut client = rig.client().await;
    client.post(STREAM).await;
    let mut call = replica.call().await;
    call.stream().await;
    client.head().await;
    call.chunk("data: 1\n\n").await;
    assert_eq!(client.chunk().await, b"data: 1\n\n");
    assert!(rest(&mut client).await.contains("upstream_timeout"));
    call.hung_up().await;
    rig.counts(0, 0).await;
}
