//! `loadline signals` as a user runs it.

#![expect(clippy::expect_used, reason = "a test that cannot start its program has failed")]

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

const CAPTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/metrics");

fn loadline(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadline"))
        .arg("signals")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("loadline starts");
    // a command that refuses its arguments does not read its input
    let _ = child.stdin.take().expect("stdin").write_all(input.as_bytes());
    child.wait_with_output().expect("loadline ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn capture(name: &str) -> String {
    format!("{CAPTURES}/{name}")
}

#[test]
fn json_has_value_and_series_of_every_signal_on_the_page() {
    let output = loadline(&[&capture("llamacpp-xllamacpp-2026.10.11549-load.prom"), "-o", "json"], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let expect = json!({"engine": "llamacpp", "signals": {
        "requests_running": {"value": 2, "series": ["llamacpp:requests_processing"]},
        "requests_waiting": {"value": 5, "series": ["llamacpp:requests_deferred"]},
        "prompt_tokens_total": {"value": 1283, "series": ["llamacpp:prompt_tokens_total"]},
        "generation_tokens_total": {"value": 600, "series": ["llamacpp:tokens_predicted_total"]},
        "iterations_total": {"value": 301, "series": ["llamacpp:n_decode_total"]},
        "prefix_cache_hits_total": {"value": 964, "series": ["llamacpp:prompt_tokens_cached_total"]},
    }});
    let printed = text(&output.stdout);
    assert_eq!(serde_json::from_str::<Value>(&printed).expect("json"), expect);
    assert!(printed.contains("\"value\": 2,") && !printed.contains("2.0"), "whole numbers have no fraction: {printed}");
}

#[test]
fn several_series_and_fractions() {
    let output = loadline(&[&capture("vllm-0.32.0-dp2-load.prom"), "--output=json"], "");
    let seen: Value = serde_json::from_slice(&output.stdout).expect("json");
    assert_eq!(seen["engine"], "vllm");
    assert_eq!(
        seen["signals"]["requests_running"],
        json!({"value": 4, "series": [
            "vllm:num_requests_running{engine=\"0\",model_name=\"tiny-llama\"}",
            "vllm:num_requests_running{engine=\"1\",model_name=\"tiny-llama\"}",
        ]})
    );
    assert_eq!(seen["signals"]["kv_cache_utilization"]["value"], json!(0.974_358_974_358_974_3));
    assert_eq!(seen["signals"]["time_to_first_token_seconds"]["value"], json!(13));
}

#[test]
fn the_table_names_engine_signal_value_and_source() {
    let page = "vllm:num_requests_running{engine=\"0\"} 1.0\nvllm:num_requests_running{engine=\"1\"} 2.0\n\
                vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\n\
                vllm:time_to_first_token_seconds_count 4\nvllm:time_to_first_token_seconds_sum 2\n";
    let output = loadline(&["-"], page);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let expect = "\
engine: vllm
signal                              value  from
requests_running                        3  vllm:num_requests_running{engine=\"0\"}
                                           vllm:num_requests_running{engine=\"1\"}
kv_cache_utilization                 0.25  vllm:kv_cache_usage_perc{engine=\"0\"}
time_to_first_token_seconds  4 (mean 0.5000)  vllm:time_to_first_token_seconds_count
                                           vllm:time_to_first_token_seconds_sum
";
    let squeezed =
        |text: &str| text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
    assert_eq!(squeezed(&text(&output.stdout)), squeezed(expect));
    let columns: Vec<_> =
        text(&output.stdout).lines().skip(1).map(|line| line.find("vllm:").or(line.find("from"))).collect();
    assert!(columns.iter().all(|column| *column == columns[0]), "{columns:?}");
}

#[test]
fn a_page_without_a_known_engine_is_exit_code_1() {
    let output = loadline(&["-", "-o", "json"], "process_start_time_seconds 1\n");
    assert_eq!(output.status.code(), Some(1));
    let seen: Value = serde_json::from_slice(&output.stdout).expect("json");
    assert_eq!(seen, json!({"engine": null, "signals": {}}));
    assert!(text(&output.stderr).contains("none of the names of a known engine"), "{}", text(&output.stderr));

    let output = loadline(&["-", "--engine", "sglang"], "vllm:num_requests_running 1\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("`sglang`"), "{}", text(&output.stderr));
}

#[test]
fn a_router_without_traffic_is_known_and_has_no_signals() {
    let output = loadline(&[&capture("vllm-router-0.1.17-idle.prom"), "-o", "json"], "");
    assert_eq!(output.status.code(), Some(0));
    let seen: Value = serde_json::from_slice(&output.stdout).expect("json");
    assert_eq!(seen, json!({"engine": "vllm-router", "signals": {}}));
}

#[test]
fn what_cannot_be_read_is_exit_code_2_with_the_place() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let refused = format!("http://{free}/metrics");
    for (args, input, parts) in [
        (&["-"][..], "<!DOCTYPE html>\n<html></html>\n", &["`standard input`", "line 1, byte 0", "HTML", "path"][..]),
        (&["-"][..], "{\"detail\": \"Not Found\"}", &["JSON"][..]),
        (&["/nonexistent/page.prom"][..], "", &["`/nonexistent/page.prom`", "No such file", "`-`"][..]),
        (&[refused.as_str()][..], "", &[refused.as_str(), "connection refused"][..]),
        (&["http://user:secret@host/"][..], "", &["user name or password"][..]),
        (&["-", "--engine", "vlm"][..], "", &["`vlm` is no engine kind", "`vllm`"][..]),
        (&[][..], "", &["FILE|URL"][..]),
    ] {
        let output = loadline(args, input);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
        assert!(output.stdout.is_empty(), "{args:?}");
        for part in parts {
            assert!(message.contains(part), "{args:?}: `{part}` in {message}");
        }
        assert!(!message.contains("secret"), "{message}");
    }
}

#[test]
fn bad_lines_cost_only_themselves_and_are_told() {
    let output = loadline(&["-", "-o", "json"], "vllm:num_requests_running 3\nvllm:num_requests_waiting ?\n");
    assert_eq!(output.status.code(), Some(0));
    let seen: Value = serde_json::from_slice(&output.stdout).expect("json");
    assert_eq!(seen["signals"], json!({"requests_running": {"value": 3, "series": ["vllm:num_requests_running"]}}));
    let message = text(&output.stderr);
    assert!(message.contains("1 lines could not be read") && message.contains("line 2, byte 54"), "{message}");
}

#[test]
fn a_url_is_fetched() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("a request") == 1 {
            head.push(byte[0]);
        }
        let page = "tgi_queue_size 4\n";
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{page}", page.len()).expect("an answer");
        String::from_utf8(head).expect("text")
    });
    let output = loadline(&[&format!("http://{address}/metrics"), "-o", "json"], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).expect("json");
    assert_eq!(seen["engine"], "tgi");
    assert!(server.join().expect("the server").starts_with("GET /metrics HTTP/1.1\r\n"));
}
