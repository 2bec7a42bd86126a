//! The metrics pages against the captures of the real engines: same families, HELP, TYPE, series, labels, edges, order.
//!
//! Only values may differ, and what is listed here: labels whose value belongs to one run or machine
//! ([`RUN_LABELS`]), and the sample lines of families that list the HTTP paths that somebody asked for
//! ([`PATH_FAMILIES`]), whose form is compared instead.

use crate::support::{completion, get, post, send, settings, start_at, until};
use loadline_engine::{Dialect, EngineHandle, EngineSettings};
use loadline_sim::engine::EngineConfig;
use std::collections::BTreeSet;

/// Label values that belong to one run: sizes of the KV cache and instance ids.
const RUN_LABELS: [&str; 11] = [
    "block_size",
    "effective_attention_block_size",
    "num_gpu_blocks",
    "num_gpu_blocks_override",
    "kv_cache_size_tokens",
    "kv_cache_max_concurrency",
    "kv_cache_memory_bytes",
    "worker_id",
    "router_worker_id",
    "router_id",
    "instance_id",
];

/// Families of SGLang with a series per path that was requested.
const PATH_FAMILIES: [&str; 3] =
    ["sglang:http_requests_active", "sglang:http_requests_total", "sglang:http_responses_total"];

fn capture(name: &str) -> String {
    let path = format!("{}/../../../testdata/metrics/{name}.prom", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The page without values, run labels blanked, path series removed.
fn skeleton(page: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for line in page.lines() {
        if line.starts_with('#') {
            lines.push(line.to_owned());
            continue;
        }
        let (series, _) = line.rsplit_once(' ').unwrap();
        if PATH_FAMILIES.iter().any(|family| series.starts_with(&format!("{family}{{"))) {
            continue;
        }
        let mut series = series.to_owned();
        for label in RUN_LABELS {
            for before in ['{', ','] {
                let mark = format!("{before}{label}=\"");
                if let Some((head, rest)) = series.split_once(&mark) {
                    let (_, tail) = rest.split_once('"').unwrap();
                    series = format!("{head}{mark}*\"{tail}");
                }
            }
        }
        lines.push(series);
    }
    lines
}

fn compare(name: &str, ours: &str) {
    let (ours, real) = (skeleton(ours), skeleton(&capture(name)));
    let (have, want): (BTreeSet<&String>, BTreeSet<&String>) = (ours.iter().collect(), real.iter().collect());
    let missing: Vec<_> = want.difference(&have).take(12).collect();
    let extra: Vec<_> = have.difference(&want).take(12).collect();
    assert!(missing.is_empty() && extra.is_empty(), "{name}\nmissing: {missing:#?}\nextra: {extra:#?}");
    assert_eq!(ours, real, "{name}: order");
}

/// Label names and order of every path series, without values.
fn path_forms(page: &str) -> BTreeSet<String> {
    let of_path = |line: &&str| PATH_FAMILIES.iter().any(|family| line.starts_with(&format!("{family}{{")));
    page.lines()
        .filter(of_path)
        .map(|line| line.split('"').step_by(2).collect::<Vec<_>>().join("*"))
        .map(|form| form.split_once('}').unwrap().0.to_owned())
        .collect()
}

async fn page(engine: &EngineHandle) -> String {
    get(engine.local_addr(), "/metrics").await.body
}

fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find(|line| line.rsplit_once(' ').is_some_and(|(name, _)| name == series));
    line.unwrap_or_else(|| panic!("no `{series}`")).rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn vllm_pages() {
    let config = EngineConfig { max_num_seqs: 2, max_model_len: 1024, prefix_block_tokens: 16, ..settings().config };
    let engine = start_at(1.0, EngineSettings { config, ..settings() }).await;
    let address = engine.local_addr();
    // What the capture's client did before it looked.
    assert_eq!(get(address, "/v1/models").await.status, 200);
    assert_eq!(get(address, "/no-such-path").await.status, 404);
    let answer = get(address, "/metrics").await;
    assert!(answer.head.contains("content-type: text/plain; version=1.0.0; charset=utf-8"), "{}", answer.head);
    compare("vllm-0.32.0-idle", &answer.body);
    assert_eq!(post(address, "/v1/completions", completion(100, 5)).await.status, 200);
    let mut open = Vec::new();
    for _ in 0..12 {
        open.push(send(address, "POST", "/v1/completions", &completion(100, 900).to_string()).await);
    }
    until(&engine, |engine| engine.gauges().running == 2 && engine.gauges().waiting() == 10).await;
    let load = page(&engine).await;
    compare("vllm-0.32.0-load", &load);
    assert_eq!(value(&load, r#"vllm:num_requests_running{engine="0",model_name="tiny-llama"}"#), 2.0);
    assert_eq!(
        value(&load, r#"vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny-llama",reason="capacity"}"#),
        10.0
    );
    assert!(value(&load, r#"vllm:kv_cache_usage_perc{engine="0",model_name="tiny-llama"}"#) > 0.0);
    drop(open);
    until(&engine, |engine| engine.counters().cancelled == 12).await;
    let after = page(&engine).await;
    compare("vllm-0.32.0-after", &after);
    for (series, expect) in [
        (r#"vllm:num_requests_running{engine="0",model_name="tiny-llama"}"#, 0.0),
        (r#"vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny-llama"}"#, 1.0),
        (r#"vllm:request_success_total{engine="0",finished_reason="abort",model_name="tiny-llama"}"#, 12.0),
        (r#"vllm:e2e_request_latency_seconds_count{engine="0",model_name="tiny-llama"}"#, 1.0),
        (r#"vllm:request_prompt_tokens_sum{engine="0",model_name="tiny-llama"}"#, 100.0),
        (r#"http_requests_total{handler="/v1/models",method="GET",status="2xx"}"#, 1.0),
    ] {
        assert_eq!(value(&after, series), expect, "{series}");
    }
}

#[tokio::test]
async fn sglang_pages() {
    let config = EngineConfig {
        max_num_seqs: 2,
        kv_blocks: 257,
        max_model_len: 4096,
        prefix_block_tokens: 16,
        ..settings().config
    };
    let engine = start_at(1.0, EngineSettings { config, dialect: Dialect::Sglang, ..settings() }).await;
    let address = engine.local_addr();
    assert_eq!(get(address, "/health").await.status, 200);
    let answer = get(address, "/metrics").await;
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", answer.head);
    compare("sglang-0.5.23-idle", &answer.body);
    for _ in 0..2 {
        assert_eq!(post(address, "/v1/completions", completion(100, 5)).await.status, 200);
    }
    assert_eq!(get(address, "/v1/loads").await.status, 200);
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(send(address, "POST", "/v1/completions", &completion(100, 900).to_string()).await);
    }
    until(&engine, |engine| engine.gauges().running == 2 && engine.gauges().waiting() == 8).await;
    let load = page(&engine).await;
    compare("sglang-0.5.23-load", &load);
    assert_eq!(path_forms(&load), path_forms(&capture("sglang-0.5.23-load")));
    assert_eq!(value(&load, r#"sglang:http_requests_active{endpoint="/v1/completions",method="POST"}"#), 10.0);
    let labels = r#"{engine_type="unified",model_name="tiny-llama",moe_ep_rank="0",pp_rank="0",tp_rank="0"}"#;
    assert_eq!(value(&load, &format!("sglang:num_queue_reqs{labels}")), 8.0);
    drop(open);
    until(&engine, |engine| engine.counters().cancelled == 10).await;
    // Prompts that have nothing in common fill the prefix cache until it evicts.
    for family in 0..6u32 {
        let ids: Vec<u32> = (0..900).map(|token| family * 1000 + token).collect();
        let body = serde_json::json!({ "prompt": ids, "max_tokens": 2, "ignore_eos": true, "stream": true });
        assert_eq!(post(address, "/v1/completions", body).await.events().len(), 2);
    }
    compare("sglang-0.5.23-after", &page(&engine).await);
}

#[tokio::test]
async fn dynamo_pages() {
    let config = EngineConfig { max_num_seqs: 4, max_model_len: 1024, ..settings().config };
    let engine = start_at(1.0, EngineSettings { config, dialect: Dialect::Dynamo, ..settings() }).await;
    let address = engine.local_addr();
    let answer = get(address, "/metrics").await;
    assert!(answer.head.contains("content-type: text/plain; charset=utf-8"), "{}", answer.head);
    compare("dynamo-1.6.1-frontend-idle", &answer.body);
    let mut wrong = completion(10, 10);
    wrong["model"] = serde_json::json!("another");
    assert_eq!(post(address, "/v1/completions", wrong).await.status, 404);
    let mut open = Vec::new();
    for _ in 0..40 {
        open.push(send(address, "POST", "/v1/completions", &completion(100, 900).to_string()).await);
    }
    until(&engine, |engine| engine.gauges().running == 4 && engine.gauges().waiting() == 36).await;
    until(&engine, |engine| engine.counters().generation_tokens >= 4).await;
    let load = page(&engine).await;
    compare("dynamo-1.6.1-frontend-load", &load);
    assert_eq!(value(&load, r#"dynamo_frontend_inflight_requests{model="tiny-llama"}"#), 40.0);
    assert_eq!(value(&load, r#"dynamo_frontend_queued_requests{model="tiny-llama"}"#), 36.0);
    drop(open);
    until(&engine, |engine| engine.counters().cancelled == 40).await;
    for _ in 0..4 {
        assert_eq!(post(address, "/v1/completions", completion(100, 3)).await.events().len(), 3);
    }
    let after = page(&engine).await;
    compare("dynamo-1.6.1-frontend-after", &after);
    assert_eq!(
        value(
            &after,
            r#"dynamo_frontend_requests_total{endpoint="completions",error_type="",model="tiny-llama",request_type="stream",status="success"}"#
        ),
        4.0
    );
}
