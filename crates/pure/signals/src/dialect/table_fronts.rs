//! What stands in front of engines or around them: Dynamo, Ray Serve, the routers.

use super::kinds::SignalName as S;
use super::table::{Fold, Layer, Source, counter, fullest, gauge, gauge_plus, gauge_where, histogram, rule};

/// Sources: Dynamo `lib/llm/src/http/service/metrics.rs` and `lib/runtime/src/metrics/prometheus_names.rs` up to 1.6.1; pages of 1.6.1.
/// Eras: `nv_llm_http_service_*` before 0.4; `queued_requests` from 0.6; `output_tokens_total` from 0.7; `cached_tokens` from 0.8.
/// `queued` spans from entry to the first token, so running is in flight without it. It has no KV use; block counts are of the last model card,
/// that is of one worker, and stay after the last worker has gone.
pub(super) static DYNAMO_FRONTEND: Layer = Layer {
    ranked: false,
    markers: &[
        "dynamo_frontend_model_ready",
        "dynamo_frontend_model_context_length",
        "dynamo_frontend_disconnected_clients",
        "dynamo_frontend_router_queue_pending_requests",
        "dynamo_frontend_event_loop_stall_total",
    ],
    rules: &[
        rule(
            S::RequestsRunning,
            &[
                Source::Difference { of: "dynamo_frontend_inflight_requests", less: "dynamo_frontend_queued_requests" },
                gauge("dynamo_frontend_inflight_requests"),
                gauge("nv_llm_http_service_inflight_requests"),
            ],
        ),
        rule(S::RequestsWaiting, &[gauge("dynamo_frontend_queued_requests")]),
        rule(
            S::KvCapacityTokens,
            &[Source::Product {
                of: "dynamo_frontend_model_total_kv_blocks",
                by: "dynamo_frontend_model_kv_cache_block_size",
                label: "model",
            }],
        ),
        rule(S::MaxNumSeqs, &[gauge("dynamo_frontend_model_max_num_seqs")]),
        rule(
            S::PromptTokensTotal,
            &[
                counter("dynamo_frontend_input_sequence_tokens_sum"),
                counter("nv_llm_http_service_input_sequence_tokens_sum"),
            ],
        ),
        rule(
            S::GenerationTokensTotal,
            &[
                counter("dynamo_frontend_output_tokens_total"),
                counter("dynamo_frontend_output_sequence_tokens_sum"),
                counter("nv_llm_http_service_output_sequence_tokens_sum"),
            ],
        ),
        rule(
            S::TimeToFirstTokenSeconds,
            &[
                histogram("dynamo_frontend_time_to_first_token_seconds"),
                histogram("nv_llm_http_service_time_to_first_token_seconds"),
            ],
        ),
        rule(
            S::InterTokenLatencySeconds,
            &[
                histogram("dynamo_frontend_inter_token_latency_seconds"),
                histogram("nv_llm_http_service_inter_token_latency_seconds"),
            ],
        ),
        rule(
            S::E2eRequestLatencySeconds,
            &[
                histogram("dynamo_frontend_request_duration_seconds"),
                histogram("nv_llm_http_service_request_duration_seconds"),
            ],
        ),
        rule(S::PrefixCacheHitsTotal, &[counter("dynamo_frontend_cached_tokens_sum")]),
        rule(S::RequestsStartedTotal, &[counter("dynamo_frontend_requests_started_total")]),
        rule(
            S::RequestsFinishedTotal,
            &[counter("dynamo_frontend_requests_total"), counter("nv_llm_http_service_requests_total")],
        ),
    ],
};

/// The label that tells the endpoint of requests from internal ones, and its value.
const GENERATE: (&str, &str) = ("dynamo_endpoint", "generate");

/// What a Dynamo worker adds to its engine's names; same sources. Used only for signals that the engine's own names do not give:
/// `inflight_requests` includes what waits inside the engine. `requests_total` counts starts (40 with 40 in flight on the page under load).
pub(super) static DYNAMO_WORKER: Layer = Layer {
    ranked: false,
    markers: &["dynamo_component_uptime_seconds", "dynamo_component_total_blocks", "dynamo_work_handler_queue_depth"],
    rules: &[
        rule(
            S::RequestsRunning,
            &[gauge_where("dynamo_component_inflight_requests", GENERATE.0, GENERATE.1, Fold::Sum)],
        ),
        rule(
            S::KvCacheUtilization,
            &[
                fullest("dynamo_component_gpu_cache_usage_percent"),
                fullest("dynamo_component_kvstats_gpu_cache_usage_percent"),
                Source::Ratio {
                    of: "dynamo_component_kvstats_active_blocks",
                    by: "dynamo_component_kvstats_total_blocks",
                },
            ],
        ),
        rule(
            S::E2eRequestLatencySeconds,
            &[Source::Histogram { name: "dynamo_component_request_duration_seconds", only: Some(GENERATE) }],
        ),
        rule(
            S::RequestsStartedTotal,
            &[Source::Counter { name: "dynamo_component_requests_total", only: Some(GENERATE) }],
        ),
    ],
};

/// Sources: Ray `python/ray/serve/_private` of 2.60 and a page of it; vLLM `vllm/v1/metrics/ray_wrappers.py` for the engine's names.
/// The queue lives in every handle. A request that passes two deployments of the node (an ingress and the engine behind it) is in both sums.
/// `autoscaling_total_requests` lags by ten seconds and is not used; nor are latencies, in milliseconds.
pub(super) static RAY_SERVE: Layer = Layer {
    ranked: false,
    markers: &[
        "ray_serve_deployment_replica_healthy",
        "ray_serve_num_ongoing_http_requests",
        "ray_serve_application_status",
        "ray_serve_proxy_status",
    ],
    rules: &[
        rule(
            S::RequestsRunning,
            &[gauge("ray_serve_replica_processing_queries"), gauge("ray_vllm_num_requests_running")],
        ),
        rule(
            S::RequestsWaiting,
            &[gauge("ray_serve_deployment_queued_queries"), gauge("ray_vllm_num_requests_waiting")],
        ),
        rule(
            S::KvCacheUtilization,
            &[fullest("ray_vllm_kv_cache_usage_perc"), fullest("ray_vllm_gpu_cache_usage_perc")],
        ),
        rule(S::PromptTokensTotal, &[counter("ray_vllm_prompt_tokens_total"), counter("ray_vllm_prompt_tokens")]),
        rule(
            S::GenerationTokensTotal,
            &[counter("ray_vllm_generation_tokens_total"), counter("ray_vllm_generation_tokens")],
        ),
        rule(S::IterationTokensTotal, &[counter("ray_vllm_iteration_tokens_total_sum")]),
        rule(S::IterationsTotal, &[counter("ray_vllm_iteration_tokens_total_count")]),
        rule(S::TimeToFirstTokenSeconds, &[histogram("ray_vllm_time_to_first_token_seconds")]),
        rule(
            S::InterTokenLatencySeconds,
            &[histogram("ray_vllm_inter_token_latency_seconds"), histogram("ray_vllm_time_per_output_token_seconds")],
        ),
        rule(S::E2eRequestLatencySeconds, &[histogram("ray_vllm_e2e_request_latency_seconds")]),
        rule(S::PreemptionsTotal, &[counter("ray_vllm_num_preemptions_total"), counter("ray_vllm_num_preemptions")]),
        rule(
            S::PrefixCacheQueriesTotal,
            &[counter("ray_vllm_prefix_cache_queries_total"), counter("ray_vllm_prefix_cache_queries")],
        ),
        rule(
            S::PrefixCacheHitsTotal,
            &[counter("ray_vllm_prefix_cache_hits_total"), counter("ray_vllm_prefix_cache_hits")],
        ),
        // queries processed, one series per replica and route
        rule(S::RequestsFinishedTotal, &[counter("ray_serve_deployment_request_counter_total")]),
    ],
};

/// Sources: sglang `sgl-router/src/metrics.rs` (until 0.2), `sgl-model-gateway/src/observability/metrics.rs` (from 0.3); pages of 0.3.2.
/// Its request durations end with the response head of a stream, so they are no end-to-end times; TTFT and TPOT exist with gRPC backends only.
pub(super) static SGLANG_ROUTER: Layer = Layer {
    ranked: false,
    markers: &[
        "smg_worker_pool_size",
        "smg_worker_health",
        "smg_worker_cb_state",
        "smg_http_requests_total",
        "sgl_router_active_workers",
        "sgl_router_worker_health",
        "sgl_router_workers",
    ],
    rules: &[
        rule(
            S::RequestsRunning,
            &[
                gauge("smg_worker_requests_active"),
                gauge("sgl_router_worker_inflight_requests"),
                gauge("sgl_router_running_requests"),
            ],
        ),
        rule(S::TimeToFirstTokenSeconds, &[histogram("smg_router_ttft_seconds"), histogram("sgl_router_ttft_seconds")]),
        rule(S::InterTokenLatencySeconds, &[histogram("smg_router_tpot_seconds")]),
        rule(S::RequestsStartedTotal, &[counter("smg_router_requests_total"), counter("sgl_router_requests_total")]),
    ],
};

/// Sources: vllm-router `src/metrics.rs`; pages of 0.1.17. `requests_total` counts successes only (8 of 20 with a failing backend),
/// `processed_requests_total` every request sent to a worker. Durations end with the response head, as in sglang-router.
pub(super) static VLLM_ROUTER: Layer = Layer {
    ranked: false,
    markers: &["vllm_router_active_workers", "vllm_router_worker_health", "vllm_router_cb_state"],
    rules: &[
        rule(S::RequestsRunning, &[gauge("vllm_router_running_requests")]),
        rule(
            S::RequestsStartedTotal,
            &[counter("vllm_router_processed_requests_total"), counter("vllm_router_requests_total")],
        ),
    ],
};

/// Source: vLLM production-stack `src/vllm_router/services/metrics_service/__init__.py`. Values of all engines, one series per `server`.
pub(super) static PRODUCTION_STACK: Layer = Layer {
    ranked: false,
    markers: &["vllm:current_qps", "vllm:healthy_pods_total", "vllm:num_prefill_requests", "vllm:avg_itl"],
    rules: &[
        rule(S::RequestsRunning, &[gauge("vllm:num_requests_running")]),
        rule(S::RequestsWaiting, &[gauge_plus("vllm:num_requests_waiting", &["vllm:num_requests_swapped"])]),
        rule(S::PromptTokensTotal, &[counter("vllm:input_tokens_total")]),
        rule(S::GenerationTokensTotal, &[counter("vllm:output_tokens_total")]),
        rule(S::E2eRequestLatencySeconds, &[histogram("vllm:request_latency_seconds")]),
        rule(S::PrefixCacheQueriesTotal, &[counter("vllm:gpu_prefix_cache_queries_total")]),
        rule(S::PrefixCacheHitsTotal, &[counter("vllm:gpu_prefix_cache_hits_total")]),
        rule(S::RequestsStartedTotal, &[counter("vllm:num_incoming_requests_total")]),
    ],
};
