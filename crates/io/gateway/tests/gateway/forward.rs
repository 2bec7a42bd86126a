//! What passes, and what becomes of a request when one side goes away.

use crate::rig::{Replica, Rig, plain};
use loadline_gateway::GatewaySettings;
use loadline_hold::HoldSettings;
use loadline_net::Clock;
use std::time::Duration;

const STREAM: &str = r#"{"model":"m","stream":true}"#;

#[tokio::test]
async fn bodies_pass_byte_for_byte_both_ways() {
    let rig = Rig::start(plain());
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 4);
    let mut client = rig.client().await;
    let long = format!(r#"{{"model":"m","pad":"{}"}}"#, "x".repeat(300_000));
    for body in [
        r#"{"z":1,"model":"m","temperature":3.10,"top":1e-7,"seed":12345678901234567890123,"a":[ 1 ,2],"vllm_xargs":{"k":"v"}}"#,
        "{\n\t\"model\" : \"m\",\r\n \"text\":\"\\u00e9 é 日本 \\ud83d\\ude00 😀 \\/\", \"model\":\"m\" } ",
        &long,
    ] {
        let headers = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nx-custom: 7\r\n\
                       connection: keep-alive, x-gone\r\nx-gone: 1\r\nkeep-alive: 5\r\n";
        client.post_to("/v1/completions?q=%20x", headers, body.as_bytes()).await;
        let call = replica.call().await;
        assert_eq!(String::from_utf8_lossy(&call.body), body);
        assert!(call.head.starts_with("POST /v1/completions?q=%20x HTTP/1.1\r\n"), "{}", call.head);
        for expect in ["traceparent: 00-4bf92f35", "x-custom: 7", "host: x", "x-request-id: "] {
            assert!(call.head.contains(expect), "{expect} in {}", call.head);
        }
        assert!(!call.head.contains("x-gone") && !call.head.contains("keep-alive"), "{}", call.head);
        call.reply(body).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, body));
        assert_eq!(answer.header("x-gw-queue-ms"), Some("0"));
        assert!(answer.header("x-request-id").is_some());
    }
    rig.no_law_is_broken().await;
}

#[tokio::test]
async fn chunks_are_passed_on_one_by_one() {
    let mut rig = Rig::start(plain());
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    let mut client = rig.client().await;
    client.post(STREAM).await;
    let mut call = replica.call().await;
    call.stream().await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    for count in 0..5 {
        let event = format!("data: {{\"n\":{count}}}\n\n");
        call.chunk(&event).await;
        // The replica sends the next chunk only after the client has this one.
        assert_eq!(client.chunk().await, event.as_bytes());
    }
    call.write("0\r\n\r\n").await;
    assert!(client.chunk().await.is_empty());
    rig.counts(0, 0).await;
    // The connection serves again.
    call.keep();
    client.post(STREAM).await;
    replica.call().await.reply("{}").await;
    assert_eq!(client.answer().await.text(), "{}");
}

#[tokio::test]
async fn h2_clients_are_served_too() {
    use http_body_util::{BodyExt, Full};
    let rig = Rig::start(plain());
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 4);
    let stream = tokio::net::TcpStream::connect(rig.gateway.local_addr()).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let body = Full::new(bytes::Bytes::from_static(STREAM.as_bytes()));
    let request = http::Request::post("http://gateway.test/v1/chat/completions").body(body).unwrap();
    let (answer, ()) = tokio::join!(sender.send_request(request), async {
        let call = replica.call().await;
        assert!(call.head.contains("host: gateway.test"), "{}", call.head);
        call.reply("{\"a\":1.0}").await;
    });
    let answer = answer.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(answer, "{\"a\":1.0}");
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_slot_and_stops_the_replica() {
    let mut rig = Rig::start(plain());
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    // Before the first byte, and in the middle of a stream.
    for begun in [false, true] {
        let mut client = rig.client().await;
        client.post(STREAM).await;
        let mut call = replica.call().await;
        if begun {
            call.stream().await;
            client.head().await;
            call.chunk("data: 1\n\n").await;
            client.chunk().await;
        }
        drop(client);
        call.hung_up().await;
        rig.counts(0, 0).await;
    }
    // While held.
    let mut first = rig.client().await;
    first.post(STREAM).await;
    let call = replica.call().await;
    let mut second = rig.client().await;
    second.post(STREAM).await;
    rig.counts(1, 1).await;
    drop(second);
    rig.counts(0, 1).await;
    call.reply("{}").await;
    assert_eq!(first.answer().await.status, 200);
    rig.no_law_is_broken().await;
}

#[tokio::test]
async fn a_refused_or_reset_attempt_goes_to_another_replica() {
    let rig = Rig::start(plain());
    let closed = Replica::start().await.refuse().await;
    let mut resets = Replica::start().await;
    let mut works = Replica::start().await;
    rig.up("a", closed, 1);
    rig.up("b", resets.address, 1);
    rig.up("c", works.address, 1);
    let mut client = rig.client().await;
    client.post(STREAM).await;
    drop(resets.call().await);
    let call = works.call().await;
    assert_eq!(call.body, STREAM.as_bytes());
    call.reply("{}").await;
    assert_eq!(client.answer().await.status, 200);
    assert!(rig.metric("loadline_gateway_retries_total{model=\"m\",reason=\"refused\"}").await >= 1.0);
    assert!(rig.metric("loadline_gateway_retries_total{model=\"m\",reason=\"reset\"}").await >= 1.0);
}

#[tokio::test]
async fn three_failed_attempts_are_a_502() {
    let settings =
        HoldSettings { eject_first: Duration::from_millis(1), eject_max: Duration::from_millis(1), ..plain() };
    let rig = Rig::start(settings);
    let closed = Replica::start().await.refuse().await;
    rig.up("a", closed, 1);
    let mut client = rig.client().await;
    client.post(STREAM).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.json()["error"]["code"], "upstream_reset");
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_replaced_without_notice() {
    let rig = Rig::start(HoldSettings { max_attempts: 1, ..plain() });
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    let mut client = rig.client().await;
    for _ in 0..3 {
        client.post(STREAM).await;
        let mut call = replica.call().await;
        call.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        assert_eq!(client.answer().await.status, 200);
        drop(call);
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_with_an_error() {
    let rig = Rig::start(plain());
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    let mut client = rig.client().await;
    client.post(STREAM).await;
    let mut call = replica.call().await;
    call.stream().await;
    client.head().await;
    call.chunk("data: 1\n\n").await;
    client.chunk().await;
    drop(call);
    let event = String::from_utf8(client.chunk().await).unwrap();
    let error: serde_json::Value = serde_json::from_str(event.trim().strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "upstream_reset");
    assert!(client.chunk().await.is_empty());

    // What is no event stream is cut off, so that it cannot pass for a whole answer.
    client.post(STREAM).await;
    let mut call = replica.call().await;
    call.write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
    client.head().await;
    drop(call);
    assert_eq!(client.closed().await, b"half");
}

#[tokio::test]
async fn a_replica_that_is_gone_ends_its_streams_and_gives_back_the_rest() {
    let rig = Rig::start(plain());
    let mut first = Replica::start().await;
    rig.up("a", first.address, 2);
    let (mut streaming, mut silent) = (rig.client().await, rig.client().await);
    streaming.post(STREAM).await;
    let mut call = first.call().await;
    call.stream().await;
    streaming.head().await;
    silent.post(STREAM).await;
    let unanswered = first.call().await;
    rig.down("a");
    assert!(String::from_utf8(streaming.chunk().await).unwrap().contains("upstream_reset"));
    unanswered.hung_up().await;
    let mut second = Replica::start().await;
    rig.up("b", second.address, 2);
    second.call().await.reply("{}").await;
    assert_eq!(silent.answer().await.status, 200);
    rig.no_law_is_broken().await;
}

#[tokio::test]
async fn a_silent_replica_is_a_504() {
    let settings = GatewaySettings { response_timeout: Duration::from_millis(50), ..GatewaySettings::default() };
    let rig = Rig::with(plain(), settings, Clock::real());
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    let mut client = rig.client().await;
    client.post(STREAM).await;
    let call = replica.call().await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (504, Some("upstream_timeout")));
    call.hung_up().await;
}

#[tokio::test]
async fn a_replica_that_says_503_is_asked_elsewhere_first() {
    let rig = Rig::start(plain());
    let (mut busy, mut free) = (Replica::start().await, Replica::start().await);
    rig.up("a", busy.address, 1);
    let mut client = rig.client().await;
    client.post(STREAM).await;
    let mut call = busy.call().await;
    rig.drain("a");
    rig.up("b", free.address, 1);
    call.write("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    free.call().await.reply("{}").await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn a_client_that_takes_nothing_stalls_its_replica_and_is_cut_off_in_the_end() {
    let settings = GatewaySettings { write_stall_timeout: Duration::from_millis(200), ..GatewaySettings::default() };
    let mut rig = Rig::with(plain(), settings, Clock::real());
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    let mut client = rig.client().await;
    client.post(STREAM).await;
    let mut call = replica.call().await;
    call.stream().await;
    client.head().await;
    call.flood().await;
    rig.counts(0, 0).await;
}
