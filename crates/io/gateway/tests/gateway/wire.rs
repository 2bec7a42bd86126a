//! What clients and replicas may do within the rules of HTTP, and outside of them.

use crate::rig::{Client, Replica, Rig, header, model, plain, soon};
use loadline_gateway::GatewaySettings;
use loadline_hold::HoldSettings;
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use loadline_net::Clock;
use std::time::Duration;

const BODY: &str = r#"{"model":"m"}"#;
const STREAM: &str = r#"{"model":"m","stream":true}"#;

async fn rig_and_replica(slots: u32) -> (Rig, Replica) {
    let rig = Rig::start(plain());
    let replica = Replica::start().await;
    rig.up("a", replica.address, slots);
    (rig, replica)
}

#[tokio::test]
async fn chunked_expected_and_pipelined_requests_are_passed_on() {
    let (rig, mut replica) = rig_and_replica(4).await;
    let mut client = rig.client().await;
    client.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await;
    client.write(b"5\r\n{\"mod\r\n8;x=y\r\nel\":\"m\"}\r\n0\r\nx-trailer: 1\r\n\r\n").await;
    let call = replica.call().await;
    assert_eq!((call.body.as_slice(), header(&call.head, "content-length")), (BODY.as_bytes(), Some("13")));
    assert_eq!(header(&call.head, "transfer-encoding"), None);
    call.reply("{}").await;
    assert_eq!(client.answer().await.status, 200);

    client
        .write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 13\r\n\r\n")
        .await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write(BODY.as_bytes()).await;
    let call = replica.call().await;
    assert_eq!(header(&call.head, "expect"), None);
    call.reply("{}").await;
    assert_eq!(client.answer().await.status, 200);

    let one = format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 13\r\n\r\n{BODY}");
    client.write(format!("{one}{one}GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await;
    for number in ["1", "2"] {
        replica.call().await.reply(number).await;
        assert_eq!(client.answer().await.text(), number);
    }
    assert_eq!(client.answer().await.text(), "ok\n");
    rig.no_law_is_broken().await;
}

#[tokio::test]
async fn two_lengths_smuggle_nothing() {
    let (rig, mut replica) = rig_and_replica(4).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\n\r\n";
    for lengths in
        ["content-length: 13\r\ncontent-length: 50\r\n", "content-length: 13, 50\r\n", "content-length: +13\r\n"]
    {
        let mut client = rig.client().await;
        client.write(format!("POST /v1/a HTTP/1.1\r\nhost: x\r\n{lengths}\r\n{BODY}{smuggled}").as_bytes()).await;
        assert_eq!(client.answer().await.status, 400, "{lengths}");
    }
    // A coding makes a length void, in either order.
    for lengths in
        ["content-length: 5\r\ntransfer-encoding: chunked\r\n", "transfer-encoding: chunked\r\ncontent-length: 500\r\n"]
    {
        let mut client = rig.client().await;
        client
            .write(format!("POST /v1/a HTTP/1.1\r\nhost: x\r\n{lengths}\r\nd\r\n{BODY}\r\n0\r\n\r\n").as_bytes())
            .await;
        let call = replica.call().await;
        assert_eq!((call.body.as_slice(), header(&call.head, "content-length")), (BODY.as_bytes(), Some("13")));
        // The same from the other side.
        let mut call = call;
        call.write("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
            .await;
        let answer = client.answer().await;
        assert_eq!((answer.text().as_str(), answer.header("content-length")), ("abc", None));
    }
    assert!(!replica.is_called());
}

#[tokio::test]
async fn targets_and_headers_of_the_edge_are_settled_here() {
    let (rig, mut replica) = rig_and_replica(4).await;
    let mut client = rig.client().await;
    let head = "POST http://user:pw@gate.test:81/v1/a?b=c HTTP/1.1\r\nhost: other\r\nx-llm-d-inference-ttl: 30s\r\n\
                x-gateway-destination-endpoint: 10.0.0.1:80\r\nx-llm-d-inference-objective: top\r\n\
                connection: upgrade, x-one\r\nupgrade: websocket\r\nx-one: 1\r\nte: trailers\r\n";
    client.write(format!("{head}content-length: 13\r\n\r\n{BODY}").as_bytes()).await;
    let call = replica.call().await;
    assert!(call.head.starts_with("POST /v1/a?b=c HTTP/1.1\r\n"), "{}", call.head);
    assert_eq!(header(&call.head, "host"), Some("gate.test:81"));
    for gone in ["x-llm-d", "x-gateway", "upgrade", "x-one", "te:"] {
        assert!(!call.head.to_lowercase().contains(gone), "{gone} in {}", call.head);
    }
    call.reply("{}").await;
    assert_eq!(client.answer().await.status, 200);
    client.write(b"CONNECT gate.test:443 HTTP/1.1\r\nhost: gate.test:443\r\nx-model: m\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (405, Some("method_not_allowed")));
}

/// Reads the head of an answer that must have no body, and sees that the connection goes on.
async fn no_body(client: &mut Client) -> String {
    let head = client.head().await;
    client.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "ok\n");
    head
}

#[tokio::test]
async fn answers_without_a_body_and_early_hints_pass() {
    let (mut rig, mut replica) = rig_and_replica(1).await;
    let mut client = rig.client().await;
    for (method, answer, expect) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", "HTTP/1.1 200"),
        ("HEAD", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "HTTP/1.1 200"),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 100\r\n\r\n", "HTTP/1.1 304"),
        ("DELETE", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204"),
        (
            "OPTIONS",
            "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200",
        ),
    ] {
        client.write(format!("{method} /v1/thing HTTP/1.1\r\nhost: x\r\nx-model: m\r\n\r\n").as_bytes()).await;
        let mut call = replica.call().await;
        assert!(call.head.starts_with(method), "{}", call.head);
        call.write(answer).await;
        call.keep();
        let head = no_body(&mut client).await;
        assert!(head.starts_with(expect), "{method}: {head}");
    }
    client.write(b"HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(no_body(&mut client).await.contains("content-length: 3"));
    rig.counts(0, 0).await;
    rig.no_law_is_broken().await;
}

#[tokio::test]
async fn a_switch_of_protocols_nobody_asked_for_is_a_failed_attempt() {
    let (rig, mut replica) = rig_and_replica(1).await;
    let mut client = rig.client().await;
    client.post(BODY).await;
    replica.call().await.write("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await;
    replica.call().await.reply("{}").await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn answers_end_as_their_replica_says() {
    let (rig, mut replica) = rig_and_replica(1).await;
    // Until the connection closes.
    let mut client = rig.client().await;
    client.post(BODY).await;
    let mut call = replica.call().await;
    call.write("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall of it").await;
    drop(call);
    assert_eq!(client.answer().await.text(), "all of it");
    // More than announced is not passed on, and does not become the next answer.
    client.post(BODY).await;
    let mut call = replica.call().await;
    call.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil").await;
    assert_eq!(client.answer().await.text(), "{}");
    client.post(BODY).await;
    replica.call().await.reply("good").await;
    assert_eq!(client.answer().await.text(), "good");
}

#[tokio::test]
async fn a_request_that_breaks_connections_breaks_few() {
    // Four kept connections, then a request at which the replica hangs up.
    let (rig, mut replica) = rig_and_replica(4).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = rig.client().await;
        client.post(BODY).await;
        clients.push((client, replica.call().await));
    }
    let mut client = rig.client().await;
    for (mut other, call) in clients {
        call.reply("{}").await;
        assert_eq!(other.answer().await.status, 200);
    }
    client.post(STREAM).await;
    let mut answer = std::pin::pin!(client.answer());
    let mut sent = 0;
    let answer = loop {
        tokio::select! {
            answer = &mut answer => break answer,
            call = replica.call() => {
                sent += 1;
                drop(call);
            }
        }
    };
    assert_eq!((answer.status, sent), (502, 4), "three attempts, the first of them on a kept connection");
    assert_eq!(rig.metric("loadline_gateway_cancelled_total{model=\"m\"}").await, 0.0);
}

#[tokio::test]
async fn a_large_body_is_never_sent_twice() {
    let rig = Rig::start(HoldSettings { retry_body_bytes: 100, ..plain() });
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    let mut client = rig.client().await;
    client.post(BODY).await;
    replica.call().await.reply("{}").await;
    assert_eq!(client.answer().await.status, 200);
    client.post(&format!(r#"{{"model":"m","pad":"{}"}}"#, "x".repeat(200))).await;
    drop(replica.call().await);
    assert_eq!(client.answer().await.status, 502);
    assert!(!replica.is_called());
}

#[tokio::test]
async fn a_body_still_being_read_when_the_model_closes_is_held_and_wakes() {
    let (mut rig, mut replica) = rig_and_replica(1).await;
    let mut client = rig.client().await;
    client.write(b"POST /v1/a HTTP/1.1\r\nhost: x\r\ncontent-length: 13\r\n\r\n{\"mod").await;
    rig.gateway.order(GatewayOrder::Close { model: model(), epoch: 1 });
    let accepted = rig
        .report("closed", |report| match report {
            GatewayReport::Closed { accepted, .. } => Some(accepted),
            _ => None,
        })
        .await;
    assert!(accepted, "nothing is held or in flight yet");
    rig.down("a");
    client.write(b"el\":\"m\"}").await;
    assert_eq!(rig.wake().await, 2);
    rig.up("b", replica.address, 1);
    replica.call().await.reply("{}").await;
    assert_eq!(client.answer().await.status, 200);
    rig.no_law_is_broken().await;
}

#[tokio::test]
async fn what_a_client_leaves_behind_at_any_point_is_cleared() {
    let (mut rig, mut replica) = rig_and_replica(1).await;
    // While its body is read.
    let mut client = rig.client().await;
    client.write(b"POST /v1/a HTTP/1.1\r\nhost: x\r\ncontent-length: 70000\r\n\r\n{").await;
    while rig.metric("loadline_gateway_held_bytes").await == 0.0 {}
    drop(client);
    while rig.metric("loadline_gateway_held_bytes").await > 0.0 {}
    // HTTP/2 streams that are reset: held, without an answer, and within one.
    let stream = tokio::net::TcpStream::connect(rig.gateway.local_addr()).await.unwrap();
    let (executor, io) = (hyper_util::rt::TokioExecutor::new(), hyper_util::rt::TokioIo::new(stream));
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let post = || {
        let body = http_body_util::Full::new(bytes::Bytes::from_static(STREAM.as_bytes()));
        let mut sender = sender.clone();
        let request = http::Request::post("http://x/v1/a").body(body).unwrap();
        tokio::spawn(async move { sender.send_request(request).await })
    };
    let first = post();
    let mut call = replica.call().await;
    let second = post();
    rig.counts(1, 1).await;
    second.abort();
    rig.counts(0, 1).await;
    call.stream().await;
    drop(soon("the head", first).await.unwrap().unwrap());
    call.hung_up().await;
    rig.counts(0, 0).await;
    let third = post();
    let call = replica.call().await;
    third.abort();
    call.hung_up().await;
    rig.counts(0, 0).await;
    rig.no_law_is_broken().await;
    assert_eq!(rig.metric("loadline_gateway_cancelled_total{model=\"m\"}").await, 3.0);
    let pool = "{priority=\"0\",inference_pool=\"loadline\",model_name=\"m\",outcome=";
    let outcome = |word: &str| format!("llm_d_epp_flow_control_requests_total{pool}\"{word}\"}}");
    assert_eq!(rig.metric(&outcome("Dispatched")).await, 2.0, "each is counted once");
    assert_eq!(rig.metric(&outcome("EvictedContextCancelled")).await, 1.0);
}

#[tokio::test]
async fn connections_that_stay_silent_are_closed() {
    let settings = GatewaySettings { header_read_timeout: Duration::from_millis(100), ..GatewaySettings::default() };
    let rig = Rig::with(plain(), settings, Clock::real());
    // Never a byte; the beginning of a preface; a preface and no request; one request and then nothing.
    for begin in ["", "PR", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut client = rig.client().await;
        client.write(begin.as_bytes()).await;
        client.closed().await;
    }
    while rig.metric("loadline_gateway_connections").await > 1.0 {}
}

#[tokio::test]
async fn an_h2_client_that_keeps_its_window_shut_is_cut_off_in_the_end() {
    let settings = GatewaySettings { write_stall_timeout: Duration::from_millis(200), ..GatewaySettings::default() };
    let mut rig = Rig::with(plain(), settings, Clock::real());
    let mut replica = Replica::start().await;
    rig.up("a", replica.address, 1);
    let stream = tokio::net::TcpStream::connect(rig.gateway.local_addr()).await.unwrap();
    let (executor, io) = (hyper_util::rt::TokioExecutor::new(), hyper_util::rt::TokioIo::new(stream));
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let body = http_body_util::Full::new(bytes::Bytes::from_static(STREAM.as_bytes()));
    let sent = sender.send_request(http::Request::post("http://x/v1/a").body(body).unwrap());
    let (answer, mut call) = tokio::join!(sent, async {
        let mut call = replica.call().await;
        call.stream().await;
        call
    });
    // A pause of the replica is none of the client's.
    call.chunk("data: 1\n\n").await;
    call.flood().await;
    rig.counts(0, 0).await;
    drop(answer.unwrap());
    rig.no_law_is_broken().await;
}
