//! `loadline engine` as a process.
#![expect(clippy::unwrap_used, reason = "test helpers outside test functions")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Command, Stdio};

struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(args: &[&str]) -> Running {
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadline"))
        .args(["engine", "--port", "0"])
        .args(args)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    Running { child, stderr }
}

impl Running {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        line
    }

    /// The address from the ready line.
    fn address(&mut self) -> String {
        let line = self.line();
        let rest = line.strip_prefix("ready: http://").unwrap_or_else(|| unreachable!("not the ready line: {line}"));
        rest.split(' ').next().unwrap().to_owned()
    }
}

fn ask(address: &str, method: &str, path: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    stream
}

fn read(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn it_says_when_it_is_ready_and_finishes_what_is_in_flight_on_sigterm() {
    let mut engine = start(&["--speedup", "50", "--startup", "20s", "--model", "demo", "--seed", "3"]);
    let address = engine.address();
    assert!(read(ask(&address, "GET", "/health", "")).starts_with("HTTP/1.1 200"));
    let body = r#"{"model":"demo","prompt":"a b c","max_tokens":300,"ignore_eos":true,"stream":true}"#;
    let mut stream = ask(&address, "POST", "/v1/completions", body);
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    let id = pid(&engine.child);
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap();
    let answer = read(stream);
    assert_eq!(answer.matches(r#""text":" tok""#).count(), 300);
    assert!(answer.contains("data: [DONE]"));
    assert!(engine.child.wait().unwrap().success());
}

fn pid(child: &Child) -> nix::unistd::Pid {
    nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap())
}

#[test]
fn it_fails_on_purpose_and_on_mistakes() {
    let mut engine = start(&["--speedup", "100", "--fail-after", "5s"]);
    assert_eq!(engine.child.wait().unwrap().code(), Some(1));
    for (args, part) in [
        (["--profile", "l40/meta-llama-3.1-8b/tp1"], "did you mean `l40s/meta-llama-3.1-8b/tp1/vllm`"),
        (["--max-num-seqs", "0"], "`max_num_seqs` is `0`"),
        (["--speedup", "0"], "not a positive number"),
        (["--startup", "soon"], "--startup"),
    ] {
        let mut engine = start(&args);
        assert_eq!(engine.child.wait().unwrap().code(), Some(2), "{args:?}");
        let mut text = String::new();
        engine.stderr.read_to_string(&mut text).unwrap();
        assert!(text.contains(part), "{args:?}: {text}");
    }
}
