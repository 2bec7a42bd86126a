//! kill -9 of a replica, of Loadline, of the client; SIGTERM of Loadline.

use crate::support::{
    Up, all_events, chat, children, descendants, error, event_json, first_content, has_content, json, loadline, runs,
    send,
};
use loadline_testkit::binary::Running;
use loadline_testkit::{PATIENCE, free_port, wait_for};
use nix::sys::signal::Signal;
use std::net::TcpListener;
use std::time::{Duration, Instant};

const ONE: &str = "listen: 127.0.0.1:0
models:
- name: m
  engine: {startup: 100ms, maxNumSeqs: 8}
  idle: {after: 1s}
  restart: {initial: 100ms}
  terminationGrace: 5s
";

/// Tokens of an answer that is not over when something is killed.
const LONG: u32 = 5_000;

#[test]
fn kill_9_of_a_replica_ends_a_running_stream_with_an_error_event() {
    let up = Up::start(ONE, &[]);
    let (mut stream, mut rest) = (up.ask(&chat("m", LONG, true)), vec![]);
    assert_eq!(stream.head().expect("a head").status, 200);
    first_content(&mut stream, &mut rest);
    send(up.replica("m-1"), Signal::SIGKILL);
    let events = all_events(&mut stream, &mut rest);
    let last = events.last().expect("a last event");
    let message = "the replica went away in the middle of its answer; repeat the request";
    assert_eq!(event_json(last), error(message, "server_error", "upstream_reset"));
    assert!(!events.iter().any(|event| event.contains("[DONE]")), "a broken answer looks whole");
    let ended = up.process.line_with("replica ended on its own", PATIENCE).expect("logged");
    assert!(ended.contains("replica=m-1 reason=ended by signal 9 (SIGKILL) restart_in=\"100ms\""), "{ended}");
    let (head, body) = up.answer(&chat("m", 3, false));
    assert_eq!((head.status, &json(&body)["usage"]["completion_tokens"]), (200, &3.into()));
    up.process.line_with("replica ready replica=m-2", PATIENCE).expect("restarted");
}

#[test]
fn kill_9_of_a_replica_repeats_a_request_that_has_no_answer_yet() {
    let up = Up::start(ONE, &[]);
    assert_eq!(up.answer(&chat("m", 1, false)).0.status, 200);
    let mut waiting = up.ask(&chat("m", 300, false));
    up.wait_metric("loadline_gateway_in_flight{model=\"m\"}", 1.0, PATIENCE);
    send(up.replica("m-1"), Signal::SIGKILL);
    let head = waiting.head().expect("a head");
    let body = waiting.piece().expect("a body").expect("a body");
    assert_eq!((head.status, &json(&body)["usage"]["completion_tokens"]), (200, &300.into()));
    up.process.line_with("replica ready replica=m-2", PATIENCE).expect("restarted");
}

#[test]
fn kill_9_of_loadline_leaves_no_process_and_a_free_port() {
    let port = free_port().expect("a port");
    // a replica with a process of its own beside it
    let config = format!(
        "listen: 127.0.0.1:{port}
models:
- name: m
  command: [/bin/sh, -c, 'sleep 1000 & exec {} engine --model m --port {{port}}']
  terminationGrace: 5s
",
        env!("CARGO_BIN_EXE_loadline")
    );
    let mut up = Up::start(&config, &[]);
    let (mut stream, mut rest) = (up.ask(&chat("m", LONG, true)), vec![]);
    assert_eq!(stream.head().expect("a head").status, 200);
    first_content(&mut stream, &mut rest);
    let below = descendants(up.process.id());
    assert!(below.len() >= 3, "keeper, engine and `sleep`: {below:?}");
    let killed = Instant::now();
    up.process.kill().expect("killed");
    let cut = std::iter::from_fn(|| stream.event(&mut rest).transpose()).find(Result::is_err);
    assert!(cut.is_some(), "a broken answer looks whole");
    wait_for("the end of all", PATIENCE, || (!below.iter().any(|pid| runs(*pid))).then_some(())).expect("all ended");
    assert!(killed.elapsed() < Duration::from_secs(10), "twice the grace: {:?}", killed.elapsed());
    drop(TcpListener::bind(("127.0.0.1", port)).expect("the port is free"));
    let again = Up::start(&config, &[]);
    assert_eq!(again.answer(&chat("m", 2, false)).0.status, 200);
}

#[test]
fn kill_9_of_the_client_frees_its_slot_and_the_model_goes_to_zero() {
    let up = Up::start(ONE, &[]);
    let url = format!("http://{}", up.address);
    let arguments =
        ["bench", "--model", "m", "--input-len", "8", "--output-len", "5000", "--num-prompts", "3", "--url"];
    let mut client = Running::start(loadline(&arguments).arg(url)).expect("a client");
    up.wait_metric("loadline_gateway_in_flight{model=\"m\"}", 3.0, PATIENCE);
    let engine = up.logged(&["replica started", "replica=m-1 "], "address").parse().expect("an address");
    let running = || {
        let page = loadline_testkit::client::request(engine, "GET", "/metrics", &[], b"", PATIENCE).expect("a page").1;
        let page = String::from_utf8(page).expect("text");
        let line = page.lines().find(|line| line.starts_with("vllm:num_requests_running{")).expect("the series");
        line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")
    };
    wait_for("three at the engine", PATIENCE, || (running() > 2.5).then_some(())).expect("three at the engine");
    client.kill().expect("killed");
    let killed = Instant::now();
    wait_for("none at the engine", PATIENCE, || (running() < 0.5).then_some(())).expect("the engine saw it");
    up.wait_metric("loadline_gateway_in_flight{model=\"m\"}", 0.0, PATIENCE);
    assert!(killed.elapsed() < Duration::from_secs(20), "5,000 tokens take longer: {:?}", killed.elapsed());
    up.wait_metric("loadline_replicas_desired{model=\"m\"}", 0.0, PATIENCE);
    up.process.line_with("replica ended replica=m-1", PATIENCE).expect("at zero");
}

#[test]
fn sigterm_of_loadline_finishes_a_running_stream_and_ends_the_replicas() {
    let mut up = Up::start(ONE, &[]);
    let (mut stream, mut rest) = (up.ask(&chat("m", 200, true)), vec![]);
    assert_eq!(stream.head().expect("a head").status, 200);
    first_content(&mut stream, &mut rest);
    let below = descendants(up.process.id());
    assert!(!below.is_empty() && !children(up.process.id()).is_empty());
    send(up.process.id(), Signal::SIGTERM);
    up.process.line_with("ending: held and running requests finish first", PATIENCE).expect("said");
    let events = all_events(&mut stream, &mut rest);
    assert_eq!(events.last().map(String::as_str), Some("data: [DONE]"));
    let content = 1 + events.iter().filter(|event| has_content(event)).count();
    assert!(content >= 200, "{content}");
    assert_eq!(up.process.wait(PATIENCE).expect("ended").code(), Some(0));
    let left: Vec<u32> = below.into_iter().filter(|pid| runs(*pid)).collect();
    assert!(left.is_empty(), "{left:?}");
}
