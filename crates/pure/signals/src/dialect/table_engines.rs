//! What engines call the signals, over their versions, newest name first.

use super::kinds::SignalName as S;
use super::table::{Fold, Layer, Source, counter, fullest, gauge, gauge_plus, gauge_where, histogram, rule};

/// Sources: vLLM `vllm/v1/metrics/loggers.py` and `vllm/engine/metrics.py` (V0) of 0.8.5 to 0.32.0; pages of 0.8.5, 0.10.2 and 0.32.0.
/// Eras: V0 has no `engine` label and swaps; `kv_cache_usage_perc` and `prefix_cache_*` from 0.9.2, their `gpu_*` twins until 0.12;
/// `inter_token_latency_seconds` from 0.10.2, `time_per_output_token_seconds` until 0.15.
pub(super) static VLLM: Layer = Layer {
    ranked: false,
    markers: &["vllm:lora_requests_info"],
    rules: &[
        rule(S::RequestsRunning, &[gauge("vllm:num_requests_running")]),
        // a swapped-out request of V0 is in no batch and waits for memory
        rule(
            S::RequestsWaiting,
            &[
                gauge_plus("vllm:num_requests_waiting", &["vllm:num_requests_swapped"]),
                gauge("vllm:num_requests_waiting_by_reason"),
            ],
        ),
        rule(
            S::RequestsWaitingDeferred,
            &[gauge_where("vllm:num_requests_waiting_by_reason", "reason", "deferred", Fold::Sum)],
        ),
        rule(S::KvCacheUtilization, &[fullest("vllm:kv_cache_usage_perc"), fullest("vllm:gpu_cache_usage_perc")]),
        // `num_gpu_blocks` of every engine of a data-parallel group is the group's total (two engines of 40 blocks say 80 each),
        // `kv_cache_size_tokens` is the engine's own
        rule(
            S::KvCapacityTokens,
            &[
                Source::LabelValue { name: "vllm:cache_config_info", label: "kv_cache_size_tokens" },
                Source::LabelProduct {
                    name: "vllm:cache_config_info",
                    sizes: ["block_size", "page_size"],
                    counts: ["num_gpu_blocks", "num_pages"],
                    fold: Fold::Max,
                },
            ],
        ),
        rule(S::EngineAwake, &[gauge_where("vllm:engine_sleep_state", "sleep_state", "awake", Fold::Min)]),
        rule(S::PromptTokensTotal, &[counter("vllm:prompt_tokens_total")]),
        rule(S::GenerationTokensTotal, &[counter("vllm:generation_tokens_total")]),
        // a histogram despite its name
        rule(S::IterationTokensTotal, &[counter("vllm:iteration_tokens_total_sum")]),
        rule(S::IterationsTotal, &[counter("vllm:iteration_tokens_total_count")]),
        rule(S::TimeToFirstTokenSeconds, &[histogram("vllm:time_to_first_token_seconds")]),
        rule(
            S::InterTokenLatencySeconds,
            &[histogram("vllm:inter_token_latency_seconds"), histogram("vllm:time_per_output_token_seconds")],
        ),
        rule(S::E2eRequestLatencySeconds, &[histogram("vllm:e2e_request_latency_seconds")]),
        rule(S::PreemptionsTotal, &[counter("vllm:num_preemptions_total")]),
        rule(
            S::PrefixCacheQueriesTotal,
            &[counter("vllm:prefix_cache_queries_total"), counter("vllm:gpu_prefix_cache_queries_total")],
        ),
        rule(
            S::PrefixCacheHitsTotal,
            &[counter("vllm:prefix_cache_hits_total"), counter("vllm:gpu_prefix_cache_hits_total")],
        ),
        rule(S::RequestsFinishedTotal, &[counter("vllm:request_success_total")]),
    ],
};

/// Sources: SGLang `python/sglang/srt/metrics/collector.py` of 0.4.2 to 0.5.23; pages of 0.5.23.
/// Eras: `inter_token_latency_seconds` from 0.4.4, `time_per_output_token_seconds` until 0.4.6; the misspelt `infight` 0.4.8 to 0.5.1;
/// `max_total_num_tokens` from 0.5.6; `cache_config_info` 0.5.9 to 0.5.11; `total_retracted_reqs`, a gauge that only grows, 0.4.10 to 0.5.2.
/// Never used: `utilization` (0 since a refactoring), `gen_throughput` and `cache_hit_rate` (hold old values), `num_retracted_reqs` (a window).
pub(super) static SGLANG: Layer = Layer {
    ranked: true,
    markers: &["sglang:gen_throughput", "sglang:num_used_tokens", "sglang:cache_hit_rate", "sglang:context_len"],
    rules: &[
        rule(S::RequestsRunning, &[gauge("sglang:num_running_reqs")]),
        rule(
            S::RequestsWaiting,
            &[gauge_plus(
                "sglang:num_queue_reqs",
                &[
                    "sglang:num_grammar_queue_reqs",
                    "sglang:num_prefill_bootstrap_queue_reqs",
                    "sglang:num_prefill_inflight_queue_reqs",
                    "sglang:num_prefill_infight_queue_reqs",
                    "sglang:num_decode_prealloc_queue_reqs",
                    "sglang:num_decode_transfer_queue_reqs",
                ],
            )],
        ),
        rule(S::RequestsWaitingDeferred, &[gauge("sglang:num_grammar_queue_reqs")]),
        rule(S::KvCacheUtilization, &[fullest("sglang:token_usage")]),
        rule(
            S::KvCapacityTokens,
            &[
                gauge("sglang:max_total_num_tokens"),
                Source::LabelProduct {
                    name: "sglang:cache_config_info",
                    sizes: ["page_size", "block_size"],
                    counts: ["num_pages", "num_gpu_blocks"],
                    fold: Fold::Sum,
                },
            ],
        ),
        rule(S::PromptTokensTotal, &[counter("sglang:prompt_tokens_total")]),
        rule(S::GenerationTokensTotal, &[counter("sglang:generation_tokens_total")]),
        rule(S::TimeToFirstTokenSeconds, &[histogram("sglang:time_to_first_token_seconds")]),
        rule(
            S::InterTokenLatencySeconds,
            &[histogram("sglang:inter_token_latency_seconds"), histogram("sglang:time_per_output_token_seconds")],
        ),
        rule(S::E2eRequestLatencySeconds, &[histogram("sglang:e2e_request_latency_seconds")]),
        rule(
            S::PreemptionsTotal,
            &[counter("sglang:num_retracted_requests_total"), counter("sglang:total_retracted_reqs")],
        ),
        rule(S::PrefixCacheHitsTotal, &[counter("sglang:cached_tokens_total")]),
        rule(S::RequestsFinishedTotal, &[counter("sglang:num_requests_total")]),
    ],
};

/// Source: TensorRT-LLM `tensorrt_llm/metrics/collector.py` of 1.3, served at `/prometheus/metrics`. Dynamo passes these names on.
pub(super) static TRTLLM: Layer = Layer {
    ranked: false,
    markers: &["trtllm_num_context_requests", "trtllm_kv_cache_hit_rate"],
    rules: &[
        rule(S::RequestsRunning, &[gauge("trtllm_num_requests_running")]),
        rule(S::RequestsWaiting, &[gauge("trtllm_num_requests_waiting")]),
        rule(S::KvCacheUtilization, &[fullest("trtllm_kv_cache_utilization")]),
        rule(
            S::KvCapacityTokens,
            &[Source::Product {
                of: "trtllm_kv_cache_max_blocks",
                by: "trtllm_kv_cache_tokens_per_block",
                label: "model_name",
            }],
        ),
        rule(S::MaxNumSeqs, &[gauge("trtllm_max_num_active_requests")]),
        rule(S::PromptTokensTotal, &[counter("trtllm_prompt_tokens_total")]),
        rule(S::GenerationTokensTotal, &[counter("trtllm_generation_tokens_total")]),
        rule(S::IterationsTotal, &[counter("trtllm_iteration_latency_seconds_count")]),
        rule(S::TimeToFirstTokenSeconds, &[histogram("trtllm_time_to_first_token_seconds")]),
        rule(S::InterTokenLatencySeconds, &[histogram("trtllm_time_per_output_token_seconds")]),
        rule(S::E2eRequestLatencySeconds, &[histogram("trtllm_e2e_request_latency_seconds")]),
        rule(S::RequestsFinishedTotal, &[counter("trtllm_request_success_total")]),
    ],
};

/// Source: <https://huggingface.co/docs/text-generation-inference/reference/metrics> and `router/src` of 3.3.7; no page of it was captured.
/// It has no KV gauge: the token budget of the batch is the nearest thing. No TTFT.
pub(super) static TGI: Layer = Layer {
    ranked: false,
    markers: &["tgi_request_count", "tgi_batch_next_size", "tgi_request_queue_duration_count"],
    rules: &[
        rule(S::RequestsRunning, &[gauge("tgi_batch_current_size")]),
        rule(S::RequestsWaiting, &[gauge("tgi_queue_size")]),
        rule(
            S::KvCacheUtilization,
            &[Source::Ratio { of: "tgi_batch_current_max_tokens", by: "tgi_batch_max_total_tokens" }],
        ),
        rule(S::KvCapacityTokens, &[gauge("tgi_batch_max_total_tokens")]),
        rule(S::PromptTokensTotal, &[counter("tgi_request_input_length_sum")]),
        rule(S::GenerationTokensTotal, &[counter("tgi_request_generated_tokens_sum")]),
        rule(S::InterTokenLatencySeconds, &[histogram("tgi_request_mean_time_per_token_duration")]),
        rule(S::E2eRequestLatencySeconds, &[histogram("tgi_request_duration")]),
        rule(S::RequestsStartedTotal, &[counter("tgi_request_count")]),
        rule(S::RequestsFinishedTotal, &[counter("tgi_request_success")]),
    ],
};

/// Source: llama.cpp `tools/server/server.cpp` and a page of October 2026. No labels, no histograms. `kv_cache_usage_ratio` left in May 2025.
pub(super) static LLAMACPP: Layer = Layer {
    ranked: false,
    markers: &["llamacpp:n_busy_slots_per_decode"],
    rules: &[
        rule(S::RequestsRunning, &[gauge("llamacpp:requests_processing")]),
        rule(S::RequestsWaiting, &[gauge("llamacpp:requests_deferred")]),
        rule(S::KvCacheUtilization, &[fullest("llamacpp:kv_cache_usage_ratio")]),
        rule(S::PromptTokensTotal, &[counter("llamacpp:prompt_tokens_total")]),
        rule(S::GenerationTokensTotal, &[counter("llamacpp:tokens_predicted_total")]),
        rule(S::IterationsTotal, &[counter("llamacpp:n_decode_total")]),
        rule(S::PrefixCacheHitsTotal, &[counter("llamacpp:prompt_tokens_cached_total")]),
    ],
};

/// Source: <https://docs.nvidia.com/nim/large-language-models/latest/observability.html>, 1.x. Bare names: used only where the engine is declared.
pub(super) static NIM: Layer = Layer {
    ranked: false,
    markers: &[],
    rules: &[
        rule(S::RequestsRunning, &[gauge("num_requests_running")]),
        rule(S::RequestsWaiting, &[gauge("num_requests_waiting")]),
        rule(S::KvCacheUtilization, &[fullest("gpu_cache_usage_perc")]),
        rule(S::MaxNumSeqs, &[gauge("num_request_max")]),
        rule(S::PromptTokensTotal, &[counter("prompt_tokens_total")]),
        rule(S::GenerationTokensTotal, &[counter("generation_tokens_total")]),
        rule(S::TimeToFirstTokenSeconds, &[histogram("time_to_first_token_seconds")]),
        rule(S::InterTokenLatencySeconds, &[histogram("time_per_output_token_seconds")]),
        rule(S::E2eRequestLatencySeconds, &[histogram("e2e_request_latency_seconds")]),
        rule(S::RequestsFinishedTotal, &[counter("request_finish_total")]),
    ],
};
