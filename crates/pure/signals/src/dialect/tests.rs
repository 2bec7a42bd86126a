use super::{EngineKind, Reading, SignalName as S, read};
use crate::exposition::{Limits, Problem};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A page and everything it must give: no signal more, none less.
pub(super) struct Capture {
    pub(super) file: &'static str,
    pub(super) engine: Option<EngineKind>,
    pub(super) signals: &'static [(S, f64)],
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../testdata/metrics"))
}

#[expect(clippy::disallowed_methods, reason = "the captures are files; only this test reads them")]
fn page(file: &str) -> Vec<u8> {
    let path = folder().join(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn reading(text: &[u8], engine: Option<EngineKind>) -> Reading {
    read(text, engine, &Limits::default()).expect("a readable page")
}

fn values(reading: &Reading) -> BTreeMap<S, f64> {
    reading.signals.iter().map(|(signal, reading)| (*signal, reading.value)).collect()
}

pub(super) fn check(captures: &[Capture]) {
    for capture in captures {
        let text = page(capture.file);
        let seen = reading(&text, None);
        assert_eq!(seen.engine, capture.engine, "{}", capture.file);
        assert_eq!(seen.rejected_lines, 0, "{}: {:?}", capture.file, seen.errors);
        let expect: BTreeMap<S, f64> = capture.signals.iter().copied().collect();
        assert_eq!(values(&seen), expect, "{}", capture.file);
        assert_eq!(reading(&text, capture.engine).signals, seen.signals, "{}: declared", capture.file);
        let served = String::from_utf8(text).expect("text");
        for (signal, reading) in &seen.signals {
            assert!(!reading.series.is_empty(), "{}: {signal}", capture.file);
            for series in &reading.series {
                let is_served =
                    |line: &str| line.strip_prefix(series.as_str()).is_some_and(|rest| rest.starts_with(' '));
                assert!(served.lines().any(is_served), "{}: {signal}: {series}", capture.file);
            }
        }
    }
}

#[test]
fn every_capture_has_its_expectation() {
    let sources =
        [include_str!("captures_vllm.rs"), include_str!("captures_engines.rs"), include_str!("captures_fronts.rs")];
    let mut files = 0;
    for entry in folder().read_dir().expect("testdata/metrics") {
        let name = entry.expect("entry").file_name().into_string().expect("a plain name");
        assert!(sources.iter().any(|source| source.contains(&format!("\"{name}\""))), "{name} is in no table");
        files += 1;
    }
    assert!(files >= 39, "{files} captures");
}

struct Case {
    name: &'static str,
    page: &'static str,
    engine: Option<EngineKind>,
    signals: &'static [(S, f64)],
}

use EngineKind::{
    DynamoFrontend, DynamoWorker, LlamaCpp, ProductionStack, RayServe, Sglang, SglangRouter, Tgi, Trtllm, Vllm,
};

/// vLLM's eras, and the router that looks like it.
const VLLM: &[Case] = &[
    Case {
        name: "V0 swaps requests out: they wait",
        page: "vllm:num_requests_running{model_name=\"m\"} 3\nvllm:num_requests_swapped{model_name=\"m\"} 2\n\
                   vllm:num_requests_waiting{model_name=\"m\"} 5\nvllm:gpu_cache_usage_perc{model_name=\"m\"} 0.5\n\
                   vllm:cpu_cache_usage_perc{model_name=\"m\"} 0.9\n",
        engine: Some(Vllm),
        signals: &[(S::RequestsRunning, 3.0), (S::RequestsWaiting, 7.0), (S::KvCacheUtilization, 0.5)],
    },
    Case {
        name: "V1 0.8: old prefix-cache names; NaN is absent; the new name wins where both are",
        page: "vllm:gpu_prefix_cache_queries_total{engine=\"0\"} 10\nvllm:gpu_prefix_cache_hits_total{engine=\"0\"} 4\n\
                   vllm:num_requests_running{engine=\"0\"} NaN\nvllm:kv_cache_usage_perc{engine=\"0\"} NaN\n\
                   vllm:gpu_cache_usage_perc{engine=\"0\"} 0.25\n",
        engine: Some(Vllm),
        signals: &[(S::KvCacheUtilization, 0.25), (S::PrefixCacheQueriesTotal, 10.0), (S::PrefixCacheHitsTotal, 4.0)],
    },
    Case {
        name: "one of two engines sleeps; deferred requests are told apart; a percentage is recognised",
        page: "vllm:engine_sleep_state{engine=\"0\",sleep_state=\"awake\"} 1\n\
                   vllm:engine_sleep_state{engine=\"1\",sleep_state=\"awake\"} 0\n\
                   vllm:engine_sleep_state{engine=\"1\",sleep_state=\"discard_all\"} 1\n\
                   vllm:num_requests_waiting{engine=\"0\"} 25\n\
                   vllm:num_requests_waiting_by_reason{engine=\"0\",reason=\"capacity\"} 22\n\
                   vllm:num_requests_waiting_by_reason{engine=\"0\",reason=\"deferred\"} 3\n\
                   vllm:kv_cache_usage_perc{engine=\"0\"} 40\nvllm:kv_cache_usage_perc{engine=\"1\"} 87.5\n",
        engine: Some(Vllm),
        signals: &[
            (S::RequestsWaiting, 25.0),
            (S::RequestsWaitingDeferred, 3.0),
            (S::KvCacheUtilization, 0.875),
            (S::EngineAwake, 0.0),
        ],
    },
    Case {
        name: "a capacity that Python wrote as None is absent",
        page: "vllm_cache_config_info{block_size=\"16\",num_gpu_blocks=\"None\",kv_cache_size_tokens=\"None\"} 1\n",
        engine: Some(Vllm),
        signals: &[],
    },
    Case {
        name: "the production stack's router is no engine",
        page: "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{server=\"http://a\"} 3\n\
                   vllm:num_requests_running{server=\"http://b\"} 4\nvllm:num_requests_waiting{server=\"http://a\"} 1\n",
        engine: Some(ProductionStack),
        signals: &[(S::RequestsRunning, 7.0), (S::RequestsWaiting, 1.0)],
    },
    Case {
        name: "a server label put there by a relabelling scraper leaves an engine an engine",
        page: "vllm:num_requests_running{engine=\"0\",model_name=\"m\",server=\"a\"} 3\n",
        engine: Some(Vllm),
        signals: &[(S::RequestsRunning, 3.0)],
    },
    Case {
        name: "a series that is there twice counts once, with its last value; a bad line costs only itself",
        page: "vllm:num_requests_running{engine=\"0\"} 1\nvllm:num_requests_waiting{engine=\"0\"} many\n\
                   vllm:num_requests_running{engine=\"1\"} 5\nvllm:num_requests_running{engine=\"0\"} 2\n",
        engine: Some(Vllm),
        signals: &[(S::RequestsRunning, 7.0)],
    },
];

/// SGLang's eras, ranks and priorities.
const SGLANG: &[Case] = &[
    Case {
        name: "OpenMetrics renames samples and not types; priority parts are not added to their total",
        page: "# TYPE sglang:num_running_reqs gauge\n\
                   sglang_num_running_reqs{dp_rank=\"0\",priority=\"\",tp_rank=\"0\"} 4\n\
                   sglang_num_running_reqs{dp_rank=\"0\",priority=\"0\",tp_rank=\"0\"} 3\n\
                   sglang_num_running_reqs{dp_rank=\"0\",priority=\"-9223372036854775808\",tp_rank=\"0\"} 1\n\
                   sglang_num_running_reqs{dp_rank=\"1\",priority=\"\",tp_rank=\"0\"} 4\n\
                   # TYPE sglang:generation_tokens counter\nsglang_generation_tokens_total{priority=\"\"} 1\n\
                   sglang_generation_tokens_total{priority=\"5\"} 2\nsglang_generation_tokens_created{priority=\"5\"} 1.7e9\n# EOF\n",
        engine: Some(Sglang),
        signals: &[(S::RequestsRunning, 8.0), (S::GenerationTokensTotal, 3.0)],
    },
    Case {
        name: "tensor and pipeline ranks repeat; the lowest of each data-parallel rank counts",
        page: "sglang:num_queue_reqs{dp_rank=\"0\",pp_rank=\"0\",tp_rank=\"1\"} 5\n\
                   sglang:num_queue_reqs{dp_rank=\"0\",pp_rank=\"0\",tp_rank=\"0\"} 6\n\
                   sglang:num_queue_reqs{dp_rank=\"0\",pp_rank=\"1\",tp_rank=\"0\"} 7\n\
                   sglang:num_queue_reqs{dp_rank=\"1\",pp_rank=\"0\",tp_rank=\"2\"} 10\n\
                   sglang:num_queue_reqs{dp_rank=\"1\",pp_rank=\"0\",tp_rank=\"3\"} 11\n\
                   sglang:num_grammar_queue_reqs{dp_rank=\"0\",pp_rank=\"0\",tp_rank=\"0\"} 2\n\
                   sglang:num_prefill_infight_queue_reqs{dp_rank=\"0\",pp_rank=\"0\",tp_rank=\"0\"} 1\n\
                   sglang:token_usage{dp_rank=\"0\",tp_rank=\"0\"} 0.3\nsglang:token_usage{dp_rank=\"1\",tp_rank=\"0\"} 0.6\n\
                   sglang:fwd_occupancy NaN\nsglang:utilization -1\n",
        engine: Some(Sglang),
        signals: &[(S::RequestsWaiting, 19.0), (S::RequestsWaitingDeferred, 2.0), (S::KvCacheUtilization, 0.6)],
    },
    Case {
        name: "SGLang 0.4: per-token time under its old name, retractions in a growing gauge",
        page: "sglang:time_per_output_token_seconds_count 7\nsglang:time_per_output_token_seconds_sum 0.5\n\
                   sglang:total_retracted_reqs 3\nsglang:num_retracted_reqs{pid=\"7\"} 1\n",
        engine: Some(Sglang),
        signals: &[(S::InterTokenLatencySeconds, 7.0), (S::PreemptionsTotal, 3.0)],
    },
];

/// The rest.
const OTHERS: &[Case] = &[
    Case {
        name: "a Dynamo frontend before it counted queued requests; two models",
        page: "dynamo_frontend_inflight_requests{model=\"a\"} 3\ndynamo_frontend_inflight_requests{model=\"b\"} 4\n\
                   dynamo_frontend_output_sequence_tokens_sum{model=\"a\"} 50\n\
                   dynamo_frontend_model_total_kv_blocks{model=\"a\"} 10\ndynamo_frontend_model_total_kv_blocks{model=\"b\"} 20\n\
                   dynamo_frontend_model_kv_cache_block_size{model=\"b\"} 16\ndynamo_frontend_model_kv_cache_block_size{model=\"a\"} 32\n",
        engine: Some(DynamoFrontend),
        signals: &[(S::RequestsRunning, 7.0), (S::KvCapacityTokens, 640.0), (S::GenerationTokensTotal, 50.0)],
    },
    Case {
        name: "a torn scrape never makes a negative number",
        page: "dynamo_frontend_inflight_requests{model=\"a\"} 3\ndynamo_frontend_queued_requests{model=\"a\"} 4\n",
        engine: Some(DynamoFrontend),
        signals: &[(S::RequestsRunning, 0.0), (S::RequestsWaiting, 4.0)],
    },
    Case {
        name: "the frontend of 2025",
        page: "nv_llm_http_service_inflight_requests{model=\"a\"} 3\nnv_llm_http_service_requests_total{model=\"a\"} 9\n",
        engine: Some(DynamoFrontend),
        signals: &[(S::RequestsRunning, 3.0), (S::RequestsFinishedTotal, 9.0)],
    },
    Case {
        name: "a worker of 0.7 without engine names",
        page: "dynamo_component_inflight_requests{dynamo_endpoint=\"generate\",worker_id=\"1\"} 6\n\
                   dynamo_component_inflight_requests{dynamo_endpoint=\"clear_kv_blocks\",worker_id=\"1\"} 1\n\
                   dynamo_component_kvstats_active_blocks 30\ndynamo_component_kvstats_total_blocks 40\n",
        engine: Some(DynamoWorker),
        signals: &[(S::RequestsRunning, 6.0), (S::KvCacheUtilization, 0.75)],
    },
    Case {
        name: "a worker around TensorRT-LLM",
        page: "dynamo_component_inflight_requests{dynamo_endpoint=\"generate\"} 6\ntrtllm:num_requests_running{model_name=\"m\"} 4\n",
        engine: Some(DynamoWorker),
        signals: &[(S::RequestsRunning, 4.0)],
    },
    Case {
        name: "trtllm-serve 1.3",
        page: "trtllm_num_requests_waiting{model_name=\"m\"} 4\ntrtllm_kv_cache_utilization{model_name=\"m\"} 0.4\n\
                   trtllm_kv_cache_max_blocks{model_name=\"m\"} 100\ntrtllm_kv_cache_tokens_per_block{model_name=\"m\"} 32\n",
        engine: Some(Trtllm),
        signals: &[(S::RequestsWaiting, 4.0), (S::KvCacheUtilization, 0.4), (S::KvCapacityTokens, 3200.0)],
    },
    Case {
        name: "Ray Serve with vLLM inside: the queue of every handle, the engine's own names for the rest",
        page: "ray_serve_deployment_queued_queries{handle=\"a\"} 4\nray_serve_deployment_queued_queries{handle=\"b\"} 5\n\
                   ray_serve_replica_processing_queries{replica=\"r\"} 6\nray_vllm_num_requests_running{WorkerId=\"1\"} 2\n\
                   ray_vllm_kv_cache_usage_perc{WorkerId=\"1\"} 0.5\nray_vllm_generation_tokens_total{WorkerId=\"1\"} 77\n",
        engine: Some(RayServe),
        signals: &[
            (S::RequestsRunning, 6.0),
            (S::RequestsWaiting, 9.0),
            (S::KvCacheUtilization, 0.5),
            (S::GenerationTokensTotal, 77.0),
        ],
    },
    Case {
        name: "sglang-router before 0.3",
        page: "sgl_router_running_requests{worker=\"a\"} 4\nsgl_router_running_requests{worker=\"b\"} 5\nsgl_router_requests_total 7\n",
        engine: Some(SglangRouter),
        signals: &[(S::RequestsRunning, 9.0), (S::RequestsStartedTotal, 7.0)],
    },
    Case {
        name: "TGI: the batch's token budget stands for KV use; token counts are histogram sums",
        page: "tgi_queue_size 3\ntgi_batch_current_size 8\ntgi_batch_current_max_tokens 5000\ntgi_batch_max_total_tokens 20000\n\
                   tgi_request_generated_tokens_sum 900\ntgi_request_generated_tokens_count 9\ntgi_request_input_length_sum 300\n\
                   tgi_request_count 12\ntgi_request_success 9\ntgi_request_duration_sum 18\ntgi_request_duration_count 9\n",
        engine: Some(Tgi),
        signals: &[
            (S::RequestsRunning, 8.0),
            (S::RequestsWaiting, 3.0),
            (S::KvCacheUtilization, 0.25),
            (S::KvCapacityTokens, 20000.0),
            (S::PromptTokensTotal, 300.0),
            (S::GenerationTokensTotal, 900.0),
            (S::E2eRequestLatencySeconds, 9.0),
            (S::RequestsStartedTotal, 12.0),
            (S::RequestsFinishedTotal, 9.0),
        ],
    },
    Case {
        name: "llama.cpp when it still had a KV gauge",
        page: "llamacpp:kv_cache_usage_ratio 0.5\nllamacpp:requests_deferred 1\n",
        engine: Some(LlamaCpp),
        signals: &[(S::KvCacheUtilization, 0.5), (S::RequestsWaiting, 1.0)],
    },
    Case {
        name: "bare names prove nothing",
        page: "num_requests_running 4\ngpu_cache_usage_perc 0.5\nprocess_start_time_seconds 1\n",
        engine: None,
        signals: &[],
    },
    Case { name: "an empty page", page: "", engine: None, signals: &[] },
];

#[test]
fn eras_and_ways_to_combine() {
    for case in [VLLM, SGLANG, OTHERS].into_iter().flatten() {
        let seen = reading(case.page.as_bytes(), None);
        assert_eq!(seen.engine, case.engine, "{}", case.name);
        assert_eq!(values(&seen), case.signals.iter().copied().collect(), "{}", case.name);
    }
}

/// What OpenMetrics negotiation, routers and OTLP do to names changes nothing that is read.
#[test]
fn escaped_sample_names_read_the_same() {
    let names =
        ["vllm-0.32.0-dp2-load.prom", "sglang-0.5.23-dp2-after.prom", "llamacpp-xllamacpp-2026.10.11549-load.prom"];
    for name in names {
        let served = String::from_utf8(page(name)).expect("text");
        let escaped = served.lines().map(|line| match line.split_once(':') {
            Some((prefix, rest)) if !line.starts_with('#') && !prefix.contains('{') => format!("{prefix}_{rest}\n"),
            _ => format!("{line}\n"),
        });
        let escaped: String = escaped.collect();
        assert_ne!(escaped, served);
        let (plain, renamed) = (reading(served.as_bytes(), None), reading(escaped.as_bytes(), None));
        assert_eq!((values(&renamed), renamed.engine), (values(&plain), plain.engine), "{name}");
    }
}

#[test]
fn a_declared_engine_is_the_only_one_looked_for() {
    let page = b"num_requests_running 4\ngpu_cache_usage_perc 0.5\nvllm:num_requests_running 9\n";
    let nim = reading(page, Some(EngineKind::Nim));
    assert_eq!(nim.engine, Some(EngineKind::Nim));
    assert_eq!(values(&nim), [(S::RequestsRunning, 4.0), (S::KvCacheUtilization, 0.5)].into());
    let sglang = reading(page, Some(EngineKind::Sglang));
    assert_eq!((sglang.engine, sglang.signals.len()), (Some(EngineKind::Sglang), 0));
}

#[test]
fn histograms_add_edge_by_edge() {
    let seen = reading(&page("vllm-0.32.0-dp2-load.prom"), None);
    let ttft = seen.signals.get(&S::TimeToFirstTokenSeconds).expect("ttft");
    let histogram = ttft.histogram.as_ref().expect("a histogram");
    // 5 + 8 observations, 1.548203468322754 + 20.99083137512207 seconds; one each at or below 0.25 s
    assert_eq!(histogram.count, 13.0);
    assert_eq!(histogram.sum, 1.548_203_468_322_754 + 20.990_831_375_122_07);
    assert!(histogram.buckets.contains(&(0.1, 0.0)) && histogram.buckets.contains(&(0.25, 2.0)), "{histogram:?}");
    assert_eq!(histogram.buckets.last(), Some(&(f64::INFINITY, 13.0)));
    assert_eq!(histogram.buckets.len(), 23, "22 edges and infinity");
    assert!(histogram.buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
    assert_eq!(ttft.series.len(), 4, "count and sum of two engines: {:?}", ttft.series);

    let seen = reading(&page("sglang-0.5.23-dp2-after.prom"), None);
    let itl = seen.signals.get(&S::InterTokenLatencySeconds).and_then(|itl| itl.histogram.as_ref()).expect("itl");
    assert!(
        itl.buckets.contains(&(0.02, 473.0)) && itl.buckets.contains(&(0.025, 740.0)),
        "318 + 155, 490 + 250: {itl:?}"
    );

    let seen = reading(&page("dynamo-1.6.1-frontend-load.prom"), None);
    let ttft = seen.signals.get(&S::TimeToFirstTokenSeconds).and_then(|ttft| ttft.histogram.as_ref()).expect("ttft");
    assert_eq!(ttft.buckets.first(), Some(&(0.0, 0.0)), "Dynamo's first edge is 0");
    assert!(ttft.buckets.contains(&(0.47, 1.0)) && ttft.buckets.contains(&(1.0, 2.0)), "{ttft:?}");
}

#[test]
fn edges_that_not_every_series_has_are_left_out_and_spellings_of_one_edge_are_one() {
    let text = "vllm:time_to_first_token_seconds_bucket{engine=\"0\",le=\"1\"} 1\n\
                vllm:time_to_first_token_seconds_bucket{engine=\"0\",le=\"2.0\"} 2\n\
                vllm:time_to_first_token_seconds_bucket{engine=\"0\",le=\"+Inf\"} 4\n\
                vllm:time_to_first_token_seconds_bucket{engine=\"1\",le=\"1e+00\"} 10\n\
                vllm:time_to_first_token_seconds_bucket{engine=\"1\",le=\"+Inf\"} 40\n\
                vllm:time_to_first_token_seconds_sum{engine=\"0\"} 5\nvllm:time_to_first_token_seconds_sum{engine=\"1\"} 6\n\
                vllm:time_to_first_token_seconds_count{engine=\"0\"} 4\nvllm:time_to_first_token_seconds_count{engine=\"1\"} 40\n";
    let seen = reading(text.as_bytes(), None);
    let histogram = seen.signals[&S::TimeToFirstTokenSeconds].histogram.clone().expect("a histogram");
    assert_eq!(histogram.buckets, [(1.0, 11.0), (f64::INFINITY, 44.0)]);
    assert_eq!((histogram.sum, histogram.count), (11.0, 44.0));
}

#[test]
fn what_is_no_metrics_page_is_refused() {
    for (text, part) in [
        ("<!DOCTYPE html>\n<html><body>Not found</body></html>\n", "HTML"),
        ("[{\"iter\": 1}]\n", "JSON"),
        ("{\"detail\":\"Not Found\"}", "JSON"),
    ] {
        let error = read(text.as_bytes(), None, &Limits::default()).expect_err(text);
        assert!(matches!(error.problem, Problem::NotMetrics { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    let small = Limits { max_page_bytes: 10, ..Limits::default() };
    let error = read(b"vllm:num_requests_running 1\n", None, &small).expect_err("over the limit");
    assert!(matches!(error.problem, Problem::PageTooLarge { .. }), "{error}");
}

#[test]
fn names_are_unique_and_read_back() {
    let signals: BTreeSet<&str> = S::ALL.iter().map(|signal| signal.as_str()).collect();
    assert_eq!(signals.len(), S::ALL.len());
    assert!(S::ALL.iter().all(|signal| S::from_name(signal.as_str()) == Some(*signal)));
    let kinds: BTreeSet<&str> = EngineKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(kinds.len(), EngineKind::ALL.len());
    for kind in EngineKind::ALL {
        assert_eq!(kind.as_str().parse(), Ok(kind));
        assert_eq!(serde_json::to_value(kind).expect("json"), kind.as_str());
    }
    for signal in S::ALL {
        assert_eq!(serde_json::to_value(signal).expect("json"), signal.as_str());
    }
    let error = "vlm".parse::<EngineKind>().expect_err("unknown").to_string();
    assert!(error.starts_with("`vlm` is no engine kind") && error.contains("`dynamo-worker`"), "{error}");
    let undetected: Vec<_> = EngineKind::ALL.into_iter().filter(|k| !EngineKind::DETECTION_ORDER.contains(k)).collect();
    assert_eq!(undetected, [EngineKind::Nim]);
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&bytes, None, &Limits::default());
    }

    /// Damaged pages of a real engine never panic, and what they give stays finite and inside its range.
    #[test]
    fn damaged_pages_stay_inside_the_ranges(cut in 0_usize..70_000, at in 0_usize..70_000, byte in any::<u8>()) {
        let mut text = page("vllm-0.32.0-dp2-load.prom");
        if let Some(place) = text.get_mut(at) {
            *place = byte;
        }
        text.truncate(cut);
        if let Ok(seen) = read(&text, None, &Limits::default()) {
            for (signal, reading) in seen.signals {
                prop_assert!(reading.value.is_finite(), "{signal}");
                prop_assert!(signal != S::KvCacheUtilization || (0.0..=1.0).contains(&reading.value));
            }
        }
    }
}
