//! What the SGLang and llama.cpp captures say, worked out from their text.

use super::EngineKind::{LlamaCpp, Sglang};
use super::SignalName as S;
use super::tests::{Capture, check};

#[test]
fn sglang_one_rank() {
    check(&[
        Capture {
            file: "sglang-0.5.23-idle.prom",
            engine: Some(Sglang),
            // the warm-up request is in the counters; no token latency was ever observed
            signals: &[
                (S::RequestsRunning, 0.0),
                (S::RequestsWaiting, 0.0),
                (S::RequestsWaitingDeferred, 0.0),
                (S::KvCacheUtilization, 0.0),
                (S::KvCapacityTokens, 4096.0),
                (S::PromptTokensTotal, 14.0),
                (S::GenerationTokensTotal, 8.0),
                (S::TimeToFirstTokenSeconds, 1.0),
                (S::E2eRequestLatencySeconds, 1.0),
                (S::RequestsFinishedTotal, 1.0),
            ],
        },
        Capture {
            file: "sglang-0.5.23-load.prom",
            engine: Some(Sglang),
            signals: &[
                (S::RequestsRunning, 2.0),
                (S::RequestsWaiting, 8.0),
                (S::RequestsWaitingDeferred, 0.0),
                (S::KvCacheUtilization, 0.21),
                (S::KvCapacityTokens, 4096.0),
                (S::PromptTokensTotal, 1147.0),    // 14 + 1133 over is_streaming
                (S::GenerationTokensTotal, 248.0), // 8 + 240
                (S::TimeToFirstTokenSeconds, 5.0), // 1 + 4
                (S::InterTokenLatencySeconds, 440.0),
                (S::E2eRequestLatencySeconds, 3.0), // 1 + 2
                (S::PrefixCacheHitsTotal, 4.0),
                (S::RequestsFinishedTotal, 3.0), // 1 + 2
            ],
        },
        Capture {
            file: "sglang-0.5.23-after.prom",
            engine: Some(Sglang),
            signals: &[
                (S::RequestsRunning, 0.0),
                (S::RequestsWaiting, 0.0),
                (S::RequestsWaitingDeferred, 0.0),
                (S::KvCacheUtilization, 0.17), // a moment older than the rest
                (S::KvCapacityTokens, 4096.0),
                (S::PromptTokensTotal, 11424.0),    // 14 + 11410
                (S::GenerationTokensTotal, 1900.0), // 8 + 1892
                (S::TimeToFirstTokenSeconds, 21.0), // 1 + 20
                (S::InterTokenLatencySeconds, 1874.0),
                (S::E2eRequestLatencySeconds, 19.0), // 1 + 18
                (S::PrefixCacheHitsTotal, 7717.0),
                (S::RequestsFinishedTotal, 19.0), // 1 + 18
            ],
        },
        Capture {
            file: "sglang-0.5.23-after-settled.prom",
            engine: Some(Sglang),
            signals: &[
                (S::RequestsRunning, 0.0),
                (S::RequestsWaiting, 0.0),
                (S::RequestsWaitingDeferred, 0.0),
                (S::KvCacheUtilization, 0.0),
                (S::KvCapacityTokens, 4096.0),
                (S::PromptTokensTotal, 12596.0),    // 14 + 12582
                (S::GenerationTokensTotal, 1906.0), // 8 + 1898
                (S::TimeToFirstTokenSeconds, 21.0), // 1 + 20
                (S::InterTokenLatencySeconds, 1878.0),
                (S::E2eRequestLatencySeconds, 21.0), // 1 + 20
                (S::PrefixCacheHitsTotal, 8681.0),
                (S::RequestsFinishedTotal, 21.0), // 1 + 20
            ],
        },
    ]);
}

/// Two data-parallel ranks and priorities: gauges from `priority=""` of both ranks, counters from every priority.
const DP2_AFTER: &[(S, f64)] = &[
    (S::RequestsRunning, 0.0),
    (S::RequestsWaiting, 0.0),
    (S::RequestsWaitingDeferred, 0.0),
    (S::KvCacheUtilization, 0.0),
    (S::KvCapacityTokens, 8192.0),         // 4096 + 4096
    (S::PromptTokensTotal, 15559.0),       // 28 + 10296 + 5235
    (S::GenerationTokensTotal, 1936.0),    // 16 + 1280 + 640
    (S::TimeToFirstTokenSeconds, 26.0),    // 2 + 16 + 8
    (S::InterTokenLatencySeconds, 1896.0), // 1264 + 632
    (S::E2eRequestLatencySeconds, 26.0),   // 2 + 16 + 8
    (S::PrefixCacheHitsTotal, 8208.0),     // 4831 + 3377
    (S::RequestsFinishedTotal, 26.0),      // 2 + 16 + 8
];

#[test]
fn sglang_two_ranks_with_priorities() {
    check(&[
        Capture {
            file: "sglang-0.5.23-dp2-idle.prom",
            engine: Some(Sglang),
            signals: &[
                (S::RequestsRunning, 0.0),
                (S::RequestsWaiting, 0.0),
                (S::RequestsWaitingDeferred, 0.0),
                (S::KvCacheUtilization, 0.0),
                (S::KvCapacityTokens, 8192.0), // 4096 + 4096
                (S::PromptTokensTotal, 28.0),
                (S::GenerationTokensTotal, 16.0),
                (S::TimeToFirstTokenSeconds, 2.0),
                (S::E2eRequestLatencySeconds, 2.0),
                (S::RequestsFinishedTotal, 2.0),
            ],
        },
        Capture { file: "sglang-0.5.23-dp2-after.prom", engine: Some(Sglang), signals: DP2_AFTER },
        Capture {
            file: "sglang-0.5.23-dp2-after.prometheus3-accept.openmetrics",
            engine: Some(Sglang),
            signals: DP2_AFTER,
        },
    ]);
}

#[test]
fn llama_cpp() {
    check(&[
        Capture {
            file: "llamacpp-xllamacpp-2026.10.11549-idle.prom",
            engine: Some(LlamaCpp),
            signals: &[
                (S::RequestsRunning, 0.0),
                (S::RequestsWaiting, 0.0),
                (S::PromptTokensTotal, 0.0),
                (S::GenerationTokensTotal, 0.0),
                (S::IterationsTotal, 0.0),
                (S::PrefixCacheHitsTotal, 0.0),
            ],
        },
        Capture {
            file: "llamacpp-xllamacpp-2026.10.11549-load.prom",
            engine: Some(LlamaCpp),
            signals: &[
                (S::RequestsRunning, 2.0),
                (S::RequestsWaiting, 5.0),
                (S::PromptTokensTotal, 1283.0),
                (S::GenerationTokensTotal, 600.0),
                (S::IterationsTotal, 301.0),
                (S::PrefixCacheHitsTotal, 964.0),
            ],
        },
        Capture {
            file: "llamacpp-xllamacpp-2026.10.11549-after.prom",
            engine: Some(LlamaCpp),
            signals: &[
                (S::RequestsRunning, 0.0),
                (S::RequestsWaiting, 0.0),
                (S::PromptTokensTotal, 5741.0),
                (S::GenerationTokensTotal, 8400.0),
                (S::IterationsTotal, 4201.0),
                (S::PrefixCacheHitsTotal, 12528.0),
            ],
        },
    ]);
}
