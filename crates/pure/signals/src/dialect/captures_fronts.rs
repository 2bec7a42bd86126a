//! What the Dynamo, Ray Serve and router captures say, worked out from their text.

use super::EngineKind::{DynamoFrontend, DynamoWorker, RayServe, SglangRouter, VllmRouter};
use super::SignalName as S;
use super::tests::{Capture, check};

#[test]
fn dynamo_frontend() {
    check(&[
        // per-model families appear with the first request
        Capture {
            file: "dynamo-1.6.1-frontend-idle.prom",
            engine: Some(DynamoFrontend),
            signals: &[(S::KvCapacityTokens, 1024.0), (S::MaxNumSeqs, 4.0)], // 64 blocks of 16
        },
        Capture {
            file: "dynamo-1.6.1-frontend-load.prom",
            engine: Some(DynamoFrontend),
            signals: &[
                (S::RequestsRunning, 2.0), // 40 in flight, 38 before their first token
                (S::RequestsWaiting, 38.0),
                (S::KvCapacityTokens, 1024.0),
                (S::MaxNumSeqs, 4.0),
                (S::PromptTokensTotal, 1288.0),
                (S::GenerationTokensTotal, 5.0),
                (S::TimeToFirstTokenSeconds, 2.0),
                (S::InterTokenLatencySeconds, 0.0),
                (S::PrefixCacheHitsTotal, 0.0),
                (S::RequestsStartedTotal, 40.0),
            ],
        },
        Capture {
            file: "dynamo-1.6.1-frontend-after.prom",
            engine: Some(DynamoFrontend),
            signals: &[
                (S::RequestsRunning, 0.0),
                (S::RequestsWaiting, 0.0),
                (S::KvCapacityTokens, 1024.0),
                (S::MaxNumSeqs, 4.0),
                (S::PromptTokensTotal, 91963.0),
                (S::GenerationTokensTotal, 703.0),
                (S::TimeToFirstTokenSeconds, 139.0),
                (S::InterTokenLatencySeconds, 564.0),
                (S::E2eRequestLatencySeconds, 150.0),
                (S::PrefixCacheHitsTotal, 66720.0),
                (S::RequestsStartedTotal, 150.0),
                (S::RequestsFinishedTotal, 150.0), // 140 + 10 cancelled
            ],
        },
    ]);
}

#[test]
fn dynamo_worker() {
    check(&[
        // no engine names yet: what is in flight at the endpoint, without the internal endpoint beside it
        Capture {
            file: "dynamo-1.6.1-mocker-idle.prom",
            engine: Some(DynamoWorker),
            signals: &[(S::RequestsRunning, 0.0), (S::E2eRequestLatencySeconds, 0.0), (S::RequestsStartedTotal, 0.0)],
        },
        Capture {
            file: "dynamo-1.6.1-mocker-load.prom",
            engine: Some(DynamoWorker),
            signals: &[
                (S::RequestsRunning, 1.0),
                (S::RequestsWaiting, 39.0),
                (S::KvCacheUtilization, 0.671_875),
                (S::TimeToFirstTokenSeconds, 2.0),
                (S::InterTokenLatencySeconds, 244.0),
                (S::E2eRequestLatencySeconds, 0.0),
                (S::PreemptionsTotal, 1.0),
                (S::RequestsStartedTotal, 40.0),
            ],
        },
        Capture {
            file: "dynamo-1.6.1-mocker-after.prom",
            engine: Some(DynamoWorker),
            signals: &[
                (S::RequestsRunning, 0.0),
                (S::RequestsWaiting, 0.0),
                (S::KvCacheUtilization, 0.0),
                (S::TimeToFirstTokenSeconds, 143.0),
                (S::InterTokenLatencySeconds, 28032.0),
                (S::E2eRequestLatencySeconds, 140.0), // the engine's; the endpoint counted 150
                (S::PreemptionsTotal, 141.0),
                (S::RequestsStartedTotal, 150.0),
            ],
        },
        Capture {
            file: "dynamo-1.6.1-mocker-sglang-dp2-load.prom",
            engine: Some(DynamoWorker),
            signals: &[
                (S::RequestsRunning, 8.0),
                (S::RequestsWaiting, 12.0),
                (S::TimeToFirstTokenSeconds, 24.0),
                (S::InterTokenLatencySeconds, 2320.0),
                (S::E2eRequestLatencySeconds, 16.0),
                (S::RequestsStartedTotal, 36.0),
                (S::RequestsFinishedTotal, 16.0),
            ],
        },
    ]);
}

#[test]
fn ray_serve() {
    check(&[Capture {
        file: "rayserve-2.60.0-load.prom",
        engine: Some(RayServe),
        signals: &[(S::RequestsRunning, 2.0), (S::RequestsWaiting, 62.0), (S::RequestsFinishedTotal, 27.0)],
    }]);
}

#[test]
fn routers() {
    check(&[
        Capture { file: "sglang-router-0.3.2-idle.prom", engine: Some(SglangRouter), signals: &[] },
        Capture {
            file: "sglang-router-0.3.2-load.prom",
            engine: Some(SglangRouter),
            signals: &[(S::RequestsRunning, 8.0), (S::RequestsStartedTotal, 16.0)],
        },
        Capture {
            file: "sglang-router-0.3.2-after.prom",
            engine: Some(SglangRouter),
            signals: &[(S::RequestsRunning, 0.0), (S::RequestsStartedTotal, 20.0)],
        },
        Capture {
            file: "sglang-router-0.3.2-backend-failing.prom",
            engine: Some(SglangRouter),
            signals: &[(S::RequestsRunning, 0.0), (S::RequestsStartedTotal, 20.0)],
        },
        Capture { file: "vllm-router-0.1.17-idle.prom", engine: Some(VllmRouter), signals: &[] },
        Capture {
            file: "vllm-router-0.1.17-load.prom",
            engine: Some(VllmRouter),
            signals: &[(S::RequestsStartedTotal, 18.0)],
        },
        Capture {
            file: "vllm-router-0.1.17-after.prom",
            engine: Some(VllmRouter),
            signals: &[(S::RequestsStartedTotal, 20.0)],
        },
        Capture {
            file: "vllm-router-0.1.17-backend-failing.prom",
            engine: Some(VllmRouter),
            signals: &[(S::RequestsStartedTotal, 20.0)],
        },
    ]);
}
