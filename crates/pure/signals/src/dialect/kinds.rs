//! Engines and signals by name.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Whose metrics a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// vLLM, both engine generations.
    Vllm,
    /// SGLang.
    Sglang,
    /// Dynamo's frontend: the page clients' requests go through.
    #[serde(rename = "dynamo")]
    DynamoFrontend,
    /// A Dynamo worker: the wrapped engine's own names beside `dynamo_component_*`.
    DynamoWorker,
    /// `trtllm-serve` from 1.3.
    Trtllm,
    /// Text Generation Inference.
    Tgi,
    /// llama.cpp's server.
    #[serde(rename = "llamacpp")]
    LlamaCpp,
    /// A Ray node's metrics agent with Ray Serve on it.
    #[serde(rename = "rayserve")]
    RayServe,
    /// NIM 1.x: bare names, therefore never detected, only declared.
    Nim,
    /// sglang-router, also as Shepherd Model Gateway (`smg_*`), and its predecessors (`sgl_router_*`).
    SglangRouter,
    /// vllm-router.
    VllmRouter,
    /// The router of vLLM's production stack, which re-exports `vllm:*` with a `server` label and is no engine.
    ProductionStack,
}

impl EngineKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Vllm,
        Self::Sglang,
        Self::DynamoFrontend,
        Self::DynamoWorker,
        Self::Trtllm,
        Self::Tgi,
        Self::LlamaCpp,
        Self::RayServe,
        Self::Nim,
        Self::SglangRouter,
        Self::VllmRouter,
        Self::ProductionStack,
    ];

    /// In which order kinds are tried on a page that carries names of several: what wraps an engine goes before the engine it wraps, and a
    /// Dynamo frontend before the worker, because it has some `dynamo_component_*` names too.
    pub const DETECTION_ORDER: [Self; 11] = [
        Self::DynamoFrontend,
        Self::DynamoWorker,
        Self::RayServe,
        Self::SglangRouter,
        Self::VllmRouter,
        Self::ProductionStack,
        Self::Vllm,
        Self::Sglang,
        Self::Trtllm,
        Self::Tgi,
        Self::LlamaCpp,
    ];

    /// The name in configuration and output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::DynamoFrontend => "dynamo",
            Self::DynamoWorker => "dynamo-worker",
            Self::Trtllm => "trtllm",
            Self::Tgi => "tgi",
            Self::LlamaCpp => "llamacpp",
            Self::RayServe => "rayserve",
            Self::Nim => "nim",
            Self::SglangRouter => "sglang-router",
            Self::VllmRouter => "vllm-router",
            Self::ProductionStack => "production-stack",
        }
    }

    /// Whether this is an engine, or wraps exactly one, rather than a router or node agent in front of several.
    #[must_use]
    pub const fn is_engine(self) -> bool {
        !matches!(
            self,
            Self::DynamoFrontend | Self::RayServe | Self::SglangRouter | Self::VllmRouter | Self::ProductionStack
        )
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that no engine has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{name}` is no engine kind; known are {}", EngineKind::ALL.map(|kind| format!("`{kind}`")).join(", "))]
pub struct UnknownEngine {
    /// As given.
    pub name: String,
}

impl FromStr for EngineKind {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == name);
        found.ok_or_else(|| UnknownEngine { name: name.to_owned() })
    }
}

/// A normalised signal. Gauges describe the moment of the scrape; `_total` counts since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalName {
    /// Requests in the running batch. On a Dynamo worker without engine names, and on old Dynamo frontends: all requests in flight.
    RequestsRunning,
    /// Requests accepted and not in the batch, for whatever reason: queued, swapped out (vLLM V0), waiting for a grammar or for a
    /// disaggregated peer (SGLang), before their first token (Dynamo frontend), in a handle's queue (Ray Serve).
    RequestsWaiting,
    /// The part of [`Self::RequestsWaiting`] that another replica would not help at once: LoRA slot, KV transfer, grammar compilation.
    RequestsWaitingDeferred,
    /// Used part of the KV memory, 0 to 1; the fullest engine of the page.
    KvCacheUtilization,
    /// KV memory in tokens, all engines of the page.
    KvCapacityTokens,
    /// Largest batch, in requests.
    MaxNumSeqs,
    /// 1 while every engine of the page is awake, 0 if one sleeps: then it serves nothing although it is healthy.
    EngineAwake,
    /// Prompt tokens; with those found in the prefix cache, except llama.cpp's counter, which leaves them out.
    PromptTokensTotal,
    /// Output tokens. SGLang counts a request's tokens when it finishes.
    GenerationTokensTotal,
    /// Tokens processed, added over engine steps.
    IterationTokensTotal,
    /// Engine steps.
    IterationsTotal,
    /// Histogram: seconds from arrival to the first token.
    TimeToFirstTokenSeconds,
    /// Histogram: seconds between tokens. TGI, old vLLM and trtllm: per token or the mean of a request, as they have it.
    InterTokenLatencySeconds,
    /// Histogram: seconds from arrival to the last token.
    E2eRequestLatencySeconds,
    /// Requests thrown out of the batch for lack of KV memory.
    PreemptionsTotal,
    /// Prompt tokens looked up in the prefix cache. Where absent, [`Self::PromptTokensTotal`] stands for it.
    PrefixCacheQueriesTotal,
    /// Prompt tokens found in the prefix cache.
    PrefixCacheHitsTotal,
    /// Requests accepted.
    RequestsStartedTotal,
    /// Requests ended, in whatever way: vLLM's `request_success_total` counts aborts and errors too.
    RequestsFinishedTotal,
}

impl SignalName {
    /// Every signal.
    pub const ALL: [Self; 19] = [
        Self::RequestsRunning,
        Self::RequestsWaiting,
        Self::RequestsWaitingDeferred,
        Self::KvCacheUtilization,
        Self::KvCapacityTokens,
        Self::MaxNumSeqs,
        Self::EngineAwake,
        Self::PromptTokensTotal,
        Self::GenerationTokensTotal,
        Self::IterationTokensTotal,
        Self::IterationsTotal,
        Self::TimeToFirstTokenSeconds,
        Self::InterTokenLatencySeconds,
        Self::E2eRequestLatencySeconds,
        Self::PreemptionsTotal,
        Self::PrefixCacheQueriesTotal,
        Self::PrefixCacheHitsTotal,
        Self::RequestsStartedTotal,
        Self::RequestsFinishedTotal,
    ];

    /// The name in policies and output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestsRunning => "requests_running",
            Self::RequestsWaiting => "requests_waiting",
            Self::RequestsWaitingDeferred => "requests_waiting_deferred",
            Self::KvCacheUtilization => "kv_cache_utilization",
            Self::KvCapacityTokens => "kv_capacity_tokens",
            Self::MaxNumSeqs => "max_num_seqs",
            Self::EngineAwake => "engine_awake",
            Self::PromptTokensTotal => "prompt_tokens_total",
            Self::GenerationTokensTotal => "generation_tokens_total",
            Self::IterationTokensTotal => "iteration_tokens_total",
            Self::IterationsTotal => "iterations_total",
            Self::TimeToFirstTokenSeconds => "time_to_first_token_seconds",
            Self::InterTokenLatencySeconds => "inter_token_latency_seconds",
            Self::E2eRequestLatencySeconds => "e2e_request_latency_seconds",
            Self::PreemptionsTotal => "preemptions_total",
            Self::PrefixCacheQueriesTotal => "prefix_cache_queries_total",
            Self::PrefixCacheHitsTotal => "prefix_cache_hits_total",
            Self::RequestsStartedTotal => "requests_started_total",
            Self::RequestsFinishedTotal => "requests_finished_total",
        }
    }

    /// The signal of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.as_str() == name)
    }

    /// Whether it only grows while its process lives.
    #[must_use]
    pub const fn is_counter(self) -> bool {
        !matches!(
            self,
            Self::RequestsRunning
                | Self::RequestsWaiting
                | Self::RequestsWaitingDeferred
                | Self::KvCacheUtilization
                | Self::KvCapacityTokens
                | Self::MaxNumSeqs
                | Self::EngineAwake
        )
    }
}

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
