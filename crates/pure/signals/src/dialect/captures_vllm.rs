//! What the vLLM captures say, worked out from their text.

use super::EngineKind::Vllm;
use super::SignalName as S;
use super::tests::{Capture, check};

#[test]
fn vllm_0_32() {
    check(&[
        Capture {
            file: "vllm-0.32.0-idle.prom",
            engine: Some(Vllm),
            // one engine, 64 blocks of 128 tokens, nothing has run yet
            signals: &[
                (S::RequestsRunning, 0.0),
                (S::RequestsWaiting, 0.0),
                (S::RequestsWaitingDeferred, 0.0),
                (S::KvCacheUtilization, 0.0),
                (S::KvCapacityTokens, 8192.0),
                (S::EngineAwake, 1.0),
                (S::PromptTokensTotal, 0.0),
                (S::GenerationTokensTotal, 0.0),
                (S::IterationTokensTotal, 0.0),
                (S::IterationsTotal, 0.0),
                (S::TimeToFirstTokenSeconds, 0.0),
                (S::InterTokenLatencySeconds, 0.0),
                (S::E2eRequestLatencySeconds, 0.0),
                (S::PreemptionsTotal, 0.0),
                (S::PrefixCacheQueriesTotal, 0.0),
                (S::PrefixCacheHitsTotal, 0.0),
                (S::RequestsFinishedTotal, 0.0),
            ],
        },
        Capture {
            file: "vllm-0.32.0-load.prom",
            engine: Some(Vllm),
            signals: &[
                (S::RequestsRunning, 1.0),
                (S::RequestsWaiting, 8.0),
                (S::RequestsWaitingDeferred, 0.0),
                // 6 of 63 usable blocks
                (S::KvCacheUtilization, 0.095_238_095_238_095_23),
                (S::KvCapacityTokens, 8192.0),
                (S::EngineAwake, 1.0),
                (S::PromptTokensTotal, 13152.0),
                (S::GenerationTokensTotal, 3999.0),
                (S::IterationTokensTotal, 9855.0),
                (S::IterationsTotal, 2000.0),
                (S::TimeToFirstTokenSeconds, 20.0),
                (S::InterTokenLatencySeconds, 3979.0),
                (S::E2eRequestLatencySeconds, 19.0),
                (S::PreemptionsTotal, 0.0),
                (S::PrefixCacheQueriesTotal, 13152.0),
                (S::PrefixCacheHitsTotal, 7296.0),
                (S::RequestsFinishedTotal, 19.0),
            ],
        },
        Capture {
            file: "vllm-0.32.0-after.prom",
            engine: Some(Vllm),
            signals: &[
                (S::RequestsRunning, 0.0),
                (S::RequestsWaiting, 0.0),
                (S::RequestsWaitingDeferred, 0.0),
                (S::KvCacheUtilization, 0.0),
                (S::KvCapacityTokens, 8192.0),
                (S::EngineAwake, 1.0),
                (S::PromptTokensTotal, 26273.0),
                (S::GenerationTokensTotal, 8000.0),
                (S::IterationTokensTotal, 19297.0),
                (S::IterationsTotal, 4001.0),
                (S::TimeToFirstTokenSeconds, 40.0),
                (S::InterTokenLatencySeconds, 7960.0),
                (S::E2eRequestLatencySeconds, 40.0),
                (S::PreemptionsTotal, 0.0),
                (S::PrefixCacheQueriesTotal, 26273.0),
                (S::PrefixCacheHitsTotal, 14976.0),
                (S::RequestsFinishedTotal, 40.0),
            ],
        },
    ]);
}

#[test]
fn vllm_0_32_two_engines_behind_one_port() {
    check(&[
        Capture {
            file: "vllm-0.32.0-dp2-idle.prom",
            engine: Some(Vllm),
            // the gauges of multiprocess mode have not been written before the first step
            signals: &[
                // 1280 each; `num_gpu_blocks` says 80 of 32 tokens, the total, in both series
                (S::KvCapacityTokens, 2560.0),
                (S::EngineAwake, 1.0),
                (S::PromptTokensTotal, 0.0),
                (S::GenerationTokensTotal, 0.0),
                (S::IterationTokensTotal, 0.0),
                (S::IterationsTotal, 0.0),
                (S::TimeToFirstTokenSeconds, 0.0),
                (S::InterTokenLatencySeconds, 0.0),
                (S::E2eRequestLatencySeconds, 0.0),
                (S::PreemptionsTotal, 0.0),
                (S::PrefixCacheQueriesTotal, 0.0),
                (S::PrefixCacheHitsTotal, 0.0),
                (S::RequestsFinishedTotal, 0.0),
            ],
        },
        Capture {
            file: "vllm-0.32.0-dp2-load.prom",
            engine: Some(Vllm),
            signals: &[
                (S::RequestsRunning, 4.0),                        // 1 + 3
                (S::RequestsWaiting, 20.0),                       // 13 + 7
                (S::RequestsWaitingDeferred, 0.0),                // 0 + 0
                (S::KvCacheUtilization, 0.974_358_974_358_974_3), // the fuller of 0.769 and 0.974
                (S::KvCapacityTokens, 2560.0),
                (S::EngineAwake, 1.0),
                (S::PromptTokensTotal, 7729.0),        // 3007 + 4722
                (S::GenerationTokensTotal, 2871.0),    // 1396 + 1475
                (S::IterationTokensTotal, 5316.0),     // 2482 + 2834
                (S::IterationsTotal, 1651.0),          // 924 + 727
                (S::TimeToFirstTokenSeconds, 13.0),    // 5 + 8
                (S::InterTokenLatencySeconds, 2854.0), // 1390 + 1464
                (S::E2eRequestLatencySeconds, 5.0),    // 2 + 3
                (S::PreemptionsTotal, 14.0),           // 5 + 9
                (S::PrefixCacheQueriesTotal, 7729.0),  // 3007 + 4722
                (S::PrefixCacheHitsTotal, 5280.0),     // 1920 + 3360
                (S::RequestsFinishedTotal, 5.0),       // 2 + 3
            ],
        },
        Capture {
            file: "vllm-0.32.0-dp2-after.prom",
            engine: Some(Vllm),
            signals: &[
                (S::RequestsRunning, 0.0),
                (S::RequestsWaiting, 0.0),
                (S::RequestsWaitingDeferred, 0.0),
                (S::KvCacheUtilization, 0.0),
                (S::KvCapacityTokens, 2560.0),
                (S::EngineAwake, 1.0),
                (S::PromptTokensTotal, 30229.0),        // 15125 + 15104
                (S::GenerationTokensTotal, 17443.0),    // 8741 + 8702
                (S::IterationTokensTotal, 25592.0),     // 12826 + 12766
                (S::IterationsTotal, 11466.0),          // 5966 + 5500
                (S::TimeToFirstTokenSeconds, 48.0),     // 24 + 24
                (S::InterTokenLatencySeconds, 17395.0), // 8717 + 8678
                (S::E2eRequestLatencySeconds, 48.0),    // 24 + 24
                (S::PreemptionsTotal, 86.0),            // 42 + 44
                (S::PrefixCacheQueriesTotal, 30229.0),  // 15125 + 15104
                (S::PrefixCacheHitsTotal, 22080.0),     // 11040 + 11040
                (S::RequestsFinishedTotal, 48.0),       // 24 + 24
            ],
        },
    ]);
}

#[test]
fn vllm_0_32_with_adapters() {
    check(&[
        Capture {
            file: "vllm-0.32.0-lora-idle.prom",
            engine: Some(Vllm),
            signals: &[
                (S::RequestsRunning, 0.0),
                (S::RequestsWaiting, 0.0),
                (S::RequestsWaitingDeferred, 0.0),
                (S::KvCacheUtilization, 0.0),
                (S::KvCapacityTokens, 8192.0),
                (S::EngineAwake, 1.0),
                (S::PromptTokensTotal, 0.0),
                (S::GenerationTokensTotal, 0.0),
                (S::IterationTokensTotal, 0.0),
                (S::IterationsTotal, 0.0),
                (S::TimeToFirstTokenSeconds, 0.0),
                (S::InterTokenLatencySeconds, 0.0),
                (S::E2eRequestLatencySeconds, 0.0),
                (S::PreemptionsTotal, 0.0),
                (S::PrefixCacheQueriesTotal, 0.0),
                (S::PrefixCacheHitsTotal, 0.0),
                (S::RequestsFinishedTotal, 0.0),
            ],
        },
        Capture {
            file: "vllm-0.32.0-lora-after.prom",
            engine: Some(Vllm),
            signals: &[
                (S::RequestsRunning, 0.0),
                (S::RequestsWaiting, 0.0),
                (S::RequestsWaitingDeferred, 0.0),
                (S::KvCacheUtilization, 0.0),
                (S::KvCapacityTokens, 8192.0),
                (S::EngineAwake, 1.0),
                (S::PromptTokensTotal, 3932.0),
                (S::GenerationTokensTotal, 8700.0),
                (S::IterationTokensTotal, 10968.0),
                (S::IterationsTotal, 4500.0),
                (S::TimeToFirstTokenSeconds, 29.0),
                (S::InterTokenLatencySeconds, 8671.0),
                (S::E2eRequestLatencySeconds, 29.0),
                (S::PreemptionsTotal, 0.0),
                (S::PrefixCacheQueriesTotal, 3932.0),
                (S::PrefixCacheHitsTotal, 1664.0),
                (S::RequestsFinishedTotal, 29.0),
            ],
        },
    ]);
}

#[test]
fn vllm_0_10_with_both_generations_of_names() {
    check(&[
        Capture {
            file: "vllm-0.10.2.post2-idle.prom",
            engine: Some(Vllm),
            signals: &[
                (S::RequestsRunning, 0.0),
                (S::RequestsWaiting, 0.0),
                (S::KvCacheUtilization, 0.0),
                (S::KvCapacityTokens, 8192.0), // 64 blocks of 128; no `kv_cache_size_tokens` yet
                (S::PromptTokensTotal, 0.0),
                (S::GenerationTokensTotal, 0.0),
                (S::IterationTokensTotal, 0.0),
                (S::IterationsTotal, 0.0),
                (S::TimeToFirstTokenSeconds, 0.0),
                (S::InterTokenLatencySeconds, 0.0),
                (S::E2eRequestLatencySeconds, 0.0),
                (S::PreemptionsTotal, 0.0),
                (S::PrefixCacheQueriesTotal, 0.0),
                (S::PrefixCacheHitsTotal, 0.0),
                (S::RequestsFinishedTotal, 0.0),
            ],
        },
        Capture {
            file: "vllm-0.10.2.post2-after.prom",
            engine: Some(Vllm),
            signals: &[
                (S::RequestsRunning, 0.0),
                (S::RequestsWaiting, 0.0),
                (S::KvCacheUtilization, 0.0),
                (S::KvCapacityTokens, 8192.0),
                (S::PromptTokensTotal, 25972.0),
                (S::GenerationTokensTotal, 8000.0),
                (S::IterationTokensTotal, 33972.0),
                (S::IterationsTotal, 4001.0),
                (S::TimeToFirstTokenSeconds, 40.0),
                // both names carry 7960; they are one thing
                (S::InterTokenLatencySeconds, 7960.0),
                (S::E2eRequestLatencySeconds, 40.0),
                (S::PreemptionsTotal, 0.0),
                (S::PrefixCacheQueriesTotal, 25972.0),
                (S::PrefixCacheHitsTotal, 14976.0),
                (S::RequestsFinishedTotal, 40.0),
            ],
        },
    ]);
}

#[test]
fn vllm_v0() {
    check(&[
        // read within its first second: no gauge has been written yet, and nothing is made up for it
        Capture {
            file: "vllm-0.8.5.post2-v0engine-idle.prom",
            engine: Some(Vllm),
            signals: &[(S::KvCapacityTokens, 8960.0)], // 70 blocks of 128
        },
        Capture {
            file: "vllm-0.8.5.post2-v0engine-load.prom",
            engine: Some(Vllm),
            signals: &[
                (S::RequestsRunning, 2.0),
                (S::RequestsWaiting, 14.0),
                (S::KvCacheUtilization, 0.128_571_428_571_428_56),
                (S::KvCapacityTokens, 8960.0),
                (S::PromptTokensTotal, 12922.0),
                (S::GenerationTokensTotal, 2832.0),
                (S::IterationTokensTotal, 15754.0),
                (S::IterationsTotal, 1417.0),
                (S::TimeToFirstTokenSeconds, 20.0),
                (S::InterTokenLatencySeconds, 2812.0),
                (S::E2eRequestLatencySeconds, 18.0),
                (S::PreemptionsTotal, 0.0),
                (S::RequestsFinishedTotal, 18.0),
            ],
        },
        Capture {
            file: "vllm-0.8.5.post2-v0engine-after.prom",
            engine: Some(Vllm),
            signals: &[
                (S::RequestsRunning, 0.0),
                (S::RequestsWaiting, 0.0),
                (S::KvCacheUtilization, 0.0),
                (S::KvCapacityTokens, 8960.0),
                (S::PromptTokensTotal, 25910.0),
                (S::GenerationTokensTotal, 6000.0),
                (S::IterationTokensTotal, 31910.0),
                (S::IterationsTotal, 3001.0),
                (S::TimeToFirstTokenSeconds, 40.0),
                (S::InterTokenLatencySeconds, 5960.0),
                (S::E2eRequestLatencySeconds, 40.0),
                (S::PreemptionsTotal, 0.0),
                (S::RequestsFinishedTotal, 40.0),
            ],
        },
    ]);
}
