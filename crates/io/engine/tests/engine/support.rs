//! A small HTTP client and engine builder for these tests.

use loadline_engine::{Engine, EngineHandle, EngineSettings};
use loadline_net::Clock;
use loadline_sim::profile::{DEFAULT_PROFILE, Profile};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Fast, so that seconds of model time take milliseconds.
pub(crate) const SPEEDUP: f64 = 100.0;

pub(crate) fn settings() -> EngineSettings {
    let profile = Profile::find(DEFAULT_PROFILE).unwrap();
    EngineSettings { model: "tiny-llama".to_owned(), ..EngineSettings::new(profile) }
}

pub(crate) async fn start(settings: EngineSettings) -> EngineHandle {
    start_at(SPEEDUP, settings).await
}

pub(crate) async fn start_at(speedup: f64, settings: EngineSettings) -> EngineHandle {
    let engine = Engine::start(settings, Clock::scaled(speedup)).unwrap();
    engine.ready().await.unwrap();
    engine
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The events of a stream, without the end mark, which must be there.
    pub(crate) fn events(&self) -> Vec<serde_json::Value> {
        let body = self.body.strip_suffix("data: [DONE]\n\n").unwrap_or_else(|| panic!("no end mark: {}", self.body));
        let event = |text: &str| serde_json::from_str(text.strip_prefix("data: ").unwrap()).unwrap();
        body.split_terminator("\n\n").map(event).collect()
    }
}

/// Sends a request and leaves the connection open.
pub(crate) async fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let text =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await.unwrap();
    BufReader::new(stream)
}

pub(crate) async fn receive(mut stream: BufReader<TcpStream>) -> Answer {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    let text = String::from_utf8(all).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let head = head.to_ascii_lowercase();
    let body = if head.contains("transfer-encoding: chunked") { unchunk(body) } else { body.to_owned() };
    Answer { status, head, body }
}

fn unchunk(mut text: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        let (chunk, rest) = rest.split_at(size);
        out.push_str(chunk);
        text = rest.strip_prefix("\r\n").unwrap_or(rest);
        if size == 0 {
            break;
        }
    }
    out
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    receive(send(address, "GET", path, "").await).await
}

pub(crate) async fn post(address: SocketAddr, path: &str, body: serde_json::Value) -> Answer {
    receive(send(address, "POST", path, &body.to_string()).await).await
}

/// A streamed completion of exact lengths.
pub(crate) fn completion(input: usize, output: usize) -> serde_json::Value {
    serde_json::json!({ "model": "tiny-llama", "prompt": "tok ".repeat(input), "max_tokens": output, "ignore_eos": true,
        "stream": true })
}

/// Waits until `holds`, letting the engine run in between. What is waited for must stay true, or stay true for long.
pub(crate) async fn until(engine: &EngineHandle, holds: impl Fn(&EngineHandle) -> bool) {
    let waiting = async {
        while !holds(engine) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), waiting).await.expect("never came true");
}
