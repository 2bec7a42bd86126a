//! The real binary's `bench` against a server in the test.

#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "what a test sets up may stop it")]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

/// What the server saw: request heads and bodies.
type Seen = Arc<Mutex<Vec<(String, Value)>>>;

/// Answers each request with as many tokens as it asks for; every `fail_each`-th one with 503 (0: none).
fn server(fail_each: usize) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let seen: Seen = Arc::default();
    let shared = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = Arc::clone(&shared);
            std::thread::spawn(move || connection(&stream, &seen, fail_each));
        }
    });
    (url, seen)
}

fn connection(stream: &TcpStream, seen: &Seen, fail_each: usize) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
        let mut body = vec![0; length.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        let body: Value = serde_json::from_slice(&body).expect("a JSON body");
        let tokens = body["max_tokens"].as_u64().expect("max_tokens");
        let number = {
            let mut seen = seen.lock().expect("not poisoned");
            seen.push((head, body));
            seen.len()
        };
        if fail_each > 0 && number % fail_each == 0 {
            let error = r#"{"error":{"message":"no capacity","type":"server_error"}}"#;
            write!(writer, "HTTP/1.1 503 Service Unavailable\r\ncontent-length: {}\r\n\r\n{error}", error.len())
                .ok()?;
            continue;
        }
        let mut events = ": held\n\n".to_owned();
        for _ in 0..tokens {
            events.push_str("data: {\"choices\":[{\"index\":0,\"text\":\" a\",\"delta\":{}}]}\n\n");
        }
        events.push_str(&format!(
            "data: {{\"choices\":[],\"usage\":{{\"completion_tokens\":{tokens}}}}}\n\ndata: [DONE]\n\n"
        ));
        write!(
            writer,
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{events}",
            events.len()
        )
        .ok()?;
    }
}

fn bench(url: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadline"))
        .args(["bench", "--url", url, "--model", "m"])
        .args(arguments)
        .env_remove("OPENAI_API_KEY")
        .env("LOADLINE_TEST_KEY", "sk-test-secret")
        .output()
        .expect("the binary runs")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn the_builtin_workload_is_replayed_and_reported_as_json() {
    let (url, seen) = server(0);
    let output = bench(
        &url,
        &[
            "--duration",
            "20s",
            "--speedup",
            "50",
            "-o",
            "json",
            "--records",
            "3",
            "--api-key",
            "LOADLINE_TEST_KEY",
            "--header",
            "x-tenant: a",
        ],
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report = json(&output);
    // the first two windows of the figures have 77 and 70 requests
    assert_eq!(
        (report["sent"].as_u64(), report["answered"].as_u64(), report["failed"].as_u64()),
        (Some(147), Some(147), Some(0))
    );
    for name in [
        "attainment",
        "ttft_p50",
        "ttft_p95",
        "ttft_p99",
        "tpot_p95",
        "e2e_p99",
        "requests_per_second",
        "client_lateness_p99",
    ] {
        assert!(report[name].is_number(), "{name}: {report}");
    }
    assert!(report["duration"].as_f64().expect("a number") >= 19.0, "in workload time: {report}");
    assert_eq!(report["records"].as_array().expect("records").len(), 3);
    assert_eq!(report["keep_alive_comments"], 147);
    assert!(report["provenance"].as_str().expect("text").contains("CC-BY 4.0"));
    let seen = seen.lock().expect("not poisoned");
    let tokens: u64 = seen.iter().map(|(_, body)| body["max_tokens"].as_u64().expect("max_tokens")).sum();
    assert_eq!(report["output_tokens"], tokens);
    let words: usize = seen.iter().map(|(_, body)| body["prompt"].as_str().expect("text").split(' ').count()).sum();
    assert_eq!(report["input_tokens"], words);
    for (head, body) in seen.iter() {
        assert!(head.starts_with("POST /v1/completions HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains("x-tenant: a\r\n") && head.contains("authorization: Bearer sk-test-secret\r\n"),
            "{head}"
        );
        assert_eq!(
            (&body["model"], &body["stream"], &body["ignore_eos"]),
            (&Value::from("m"), &Value::from(true), &Value::from(true))
        );
    }
    assert!(!String::from_utf8_lossy(&output.stdout).contains("sk-test-secret"));
}

#[test]
fn fixed_lengths_in_a_closed_loop_over_chat_and_a_failure_sets_the_exit_status() {
    let (url, seen) = server(5);
    let output = bench(
        &url,
        &[
            "--input-len",
            "32",
            "--output-len",
            "4",
            "--num-prompts",
            "20",
            "--concurrency",
            "2",
            "--endpoint",
            "chat",
            "-o",
            "json",
        ],
    );
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = json(&output);
    assert_eq!((report["answered"].as_u64(), report["failed"].as_u64()), (Some(16), Some(4)));
    assert_eq!(report["failures"]["status_503"]["example"], "no capacity");
    assert_eq!(report["attainment"], 0.8);
    let seen = seen.lock().expect("not poisoned");
    let content = seen[0].1["messages"][0]["content"].as_str().expect("text");
    assert_eq!(content.split(' ').count(), 32);
    assert!(seen[0].0.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"));
}

#[test]
fn the_table_names_the_workload_the_objective_and_the_failures() {
    let (url, _) = server(2);
    let output = bench(&url, &["--input-len", "8", "--output-len", "2", "--num-prompts", "4", "--concurrency", "1"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    for part in [
        "4 requests of 8 and 2 tokens",
        "TTFT",
        "TPOT",
        "E2E",
        "sent 4, answered 2, failed 2",
        "attainment 50.00 %",
        "failed with status_503: 2, first: no capacity",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_trace_file_is_replayed() {
    let (url, seen) = server(0);
    let path = std::env::temp_dir().join(format!("loadline-bench-{}.csv", std::process::id()));
    std::fs::write(&path, "arrival_s,input_tokens,output_tokens\n0.1,5,2\n0.0,3,1\n50,9,9\n").expect("written");
    let file = path.to_str().expect("text");
    let output = bench(&url, &["--trace", file, "--duration", "10s", "--speedup", "10", "-o", "json", "--prompt-ids"]);
    std::fs::remove_file(&path).expect("removed");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(json(&output)["sent"], 2);
    let seen = seen.lock().expect("not poisoned");
    let mut lengths: Vec<usize> = seen.iter().map(|(_, body)| body["prompt"].as_array().expect("ids").len()).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [3, 5]);
}

#[test]
fn what_cannot_run_says_what_to_do_and_exits_with_2() {
    let (url, _) = server(0);
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        format!("http://{}", listener.local_addr().expect("bound"))
    };
    for (url, arguments, expect) in [
        (gone.as_str(), &["--duration", "1s"][..], "start the server, or correct `--url`"),
        ("localhost:1", &[], "must begin with `http://`"),
        (&url, &["--trace", "/nonexistent.csv"], "cannot open the trace `/nonexistent.csv`"),
        (&url, &["--speedup", "0"], "`--speedup 0` must be a number above 0"),
        (&url, &["--duration", "0s"], "no request is left to send"),
        (&url, &["--api-key", "sk-secret"], "takes the name of an environment variable"),
        (&url, &["--api-key", "LOADLINE_UNSET_KEY"], "`LOADLINE_UNSET_KEY` named by `--api-key` is not set"),
        (&url, &["--prompt-ids", "--endpoint", "chat"], "needs `--endpoint completions`"),
        (&url, &["--input-len", "1", "--request-rate", "NaN"], "must be above 0"),
        (&url, &["--header", "x-key"], "`name: value`"),
        (&url, &["--output-len", "3"], "--input-len"),
    ] {
        let output = bench(url, arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(expect), "{arguments:?}: {text}");
        assert!(!text.contains("sk-secret"), "{text}");
        assert!(output.stdout.is_empty());
    }
}
