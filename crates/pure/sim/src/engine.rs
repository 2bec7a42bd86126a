//! One engine replica as a state machine over model time: continuous batching with chunked prefill, paged KV memory,
//! recompute preemption, a prefix cache and a start-up time.
//!
//! The scheduling rules are those of vLLM's V1 scheduler: first come first served, decoding before prefill within one
//! token budget, prefill in chunks, admission only if the whole prompt fits the free KV blocks, and under pressure the
//! last admitted request is preempted and recomputed later. A step that began before an arrival is never cut.
//!
//! [`Engine::advance`] commits every step that ends at or before its limit and tells a sink what happened, in order of
//! time. Callers see steps only through the sink, so that several decode steps may later be committed at once.

mod cache;
mod config;
mod histogram;
#[cfg(test)]
mod replay;
mod request;
mod step;
#[cfg(test)]
mod tests;

pub use cache::BLOCK_TOKENS;
pub use config::{ConfigError, DEFAULT_API_OVERHEAD, DEFAULT_MAX_WAITING, EngineConfig, Startup};
pub use histogram::{Histogram, ITERATION_TOKEN_EDGES};
pub use request::{Event, Refusal, Request, RequestId, Timing};

use crate::profile::StepTime;
use cache::Blocks;
use loadline_base::Timestamp;
use request::{Live, Table};
use std::collections::VecDeque;
use std::sync::Arc;

/// Where a replica is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Loading; refuses requests until the given instant.
    Starting {
        /// When it becomes ready.
        until: Timestamp,
    },
    /// Serving.
    Ready,
    /// Refuses new requests and finishes those it has.
    Draining,
    /// Has drained or was stopped; holds nothing.
    Gone,
}

/// Counters since the start of the replica; they only grow.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    /// Committed engine steps.
    pub steps: u64,
    /// Prompt tokens of requests whose first prefill was completed, including those found in the prefix cache.
    pub prompt_tokens: u64,
    /// Prompt tokens found in the prefix cache, of the same requests.
    pub prompt_tokens_cached: u64,
    /// Prompt tokens computed in committed steps, recomputation after preemption included.
    pub prefill_tokens_computed: u64,
    /// Sampled tokens.
    pub generation_tokens: u64,
    /// Requests evicted for lack of KV blocks.
    pub preemptions: u64,
    /// Tokens looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Tokens found in the prefix cache.
    pub prefix_hits: u64,
    /// Requests that generated all their tokens.
    pub finished: u64,
    /// Requests cancelled by their client.
    pub cancelled: u64,
    /// Requests refused at submission.
    pub refused: u64,
    /// Model time in nanoseconds during which a step was running.
    pub busy_nanos: u64,
}

/// What a scrape can see of a replica.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gauges {
    /// Requests in the running batch.
    pub running: usize,
    /// Requests that wait for scheduling capacity.
    pub waiting_capacity: usize,
    /// Requests that wait for a transient constraint; nothing defers in this model, kept for the page that shows it.
    pub waiting_deferred: usize,
    /// KV blocks held by live requests.
    pub used_blocks: usize,
    /// KV blocks that requests can hold.
    pub usable_blocks: usize,
    /// Unused blocks that still hold a cached prefix.
    pub cached_blocks: usize,
    /// Context tokens of the running requests.
    pub context_tokens: u64,
}

impl Gauges {
    /// Share of the KV blocks held by live requests, 0 to 1.
    #[must_use]
    pub fn kv_utilization(&self) -> f64 {
        if self.usable_blocks == 0 {
            return 0.0;
        }
        loadline_base::num::usize_to_f64(self.used_blocks) / loadline_base::num::usize_to_f64(self.usable_blocks)
    }

    /// All waiting requests.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting_capacity + self.waiting_deferred
    }
}

/// A running step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InFlight {
    began: Timestamp,
    end: Timestamp,
}

/// One engine replica.
#[derive(Debug, Clone)]
pub struct Engine {
    config: Arc<EngineConfig>,
    step_time: StepTime,
    phase: Phase,
    /// End of the last committed step, or the last instant up to which the engine is known to have been idle.
    now: Timestamp,
    in_flight: Option<InFlight>,
    table: Table,
    /// Submitted, still in the API server: (instant of entry into the waiting queue, request).
    incoming: VecDeque<(Timestamp, RequestId)>,
    waiting: VecDeque<RequestId>,
    /// In order of admission.
    running: Vec<RequestId>,
    blocks: Blocks,
    counters: Counters,
    iteration_tokens: Histogram,
    started: Timestamp,
}

impl Engine {
    /// A replica that begins to start at `now`; its start-up time is drawn from the configuration and `seed`.
    ///
    /// # Errors
    /// If the configuration cannot serve any request.
    pub fn new(config: EngineConfig, seed: u64, now: Timestamp) -> Result<Self, ConfigError> {
        config.check()?;
        let until = now.plus(config.startup.draw(seed));
        Ok(Self {
            step_time: StepTime::new(&config.step),
            phase: if until > now { Phase::Starting { until } } else { Phase::Ready },
            now,
            in_flight: None,
            table: Table::default(),
            incoming: VecDeque::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            blocks: Blocks::new(config.usable_blocks()),
            counters: Counters::default(),
            iteration_tokens: Histogram::new(&ITERATION_TOKEN_EDGES),
            started: now,
            config: Arc::new(config),
        })
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Where the replica is in its life, as of the last `advance`.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// When the replica began to start.
    #[must_use]
    pub const fn started(&self) -> Timestamp {
        self.started
    }

    /// Counters as of the last committed step.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Tokens per committed step: prompt tokens of prefills completed in it plus sampled tokens.
    #[must_use]
    pub const fn iteration_tokens(&self) -> &Histogram {
        &self.iteration_tokens
    }

    /// Cached KV blocks evicted so far.
    #[must_use]
    pub const fn evicted_blocks(&self) -> u64 {
        self.blocks.evicted()
    }

    /// Requests that are not finished, wherever they are.
    #[must_use]
    pub fn live(&self) -> usize {
        self.incoming.len() + self.waiting.len() + self.running.len()
    }

    /// What a scrape sees now.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        Gauges {
            running: self.running.len(),
            waiting_capacity: self.waiting.len(),
            waiting_deferred: 0,
            used_blocks: self.blocks.used(),
            usable_blocks: self.blocks.usable(),
            cached_blocks: self.blocks.cached(),
            context_tokens: self
                .running
                .iter()
                .filter_map(|id| self.table.get(*id))
                .map(|r| u64::from(r.computed))
                .sum(),
        }
    }

    /// When something will happen without further input: a step or the start-up ends, or a request leaves the API
    /// server. `None` if nothing will.
    #[must_use]
    pub fn next_event(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Starting { until } => Some(until),
            Phase::Gone => None,
            Phase::Ready | Phase::Draining => match self.in_flight {
                Some(step) => Some(step.end),
                None if !self.waiting.is_empty() || !self.running.is_empty() => Some(self.now),
                None => self.incoming.front().map(|(ready, _)| *ready),
            },
        }
    }

    /// Takes a request that arrives at `now`; it enters the waiting queue after the API overhead.
    ///
    /// # Errors
    /// If the replica does not take requests now, or can never serve this one.
    pub fn submit(&mut self, now: Timestamp, request: Request) -> Result<RequestId, Refusal> {
        if let Err(refusal) = self.admissible(&request) {
            self.counters.refused += 1;
            return Err(refusal);
        }
        let ready = now.plus(self.config.api_overhead);
        let id = self.table.insert(Live::new(request, now, ready));
        let at = self.incoming.partition_point(|(other, _)| *other <= ready);
        self.incoming.insert(at, (ready, id));
        Ok(id)
    }

    fn admissible(&self, request: &Request) -> Result<(), Refusal> {
        match self.phase {
            Phase::Starting { .. } => return Err(Refusal::Starting),
            Phase::Draining => return Err(Refusal::Draining),
            Phase::Gone => return Err(Refusal::Gone),
            Phase::Ready => {}
        }
        if request.input_tokens == 0 || request.output_tokens == 0 {
            return Err(Refusal::Empty);
        }
        let limit = self.config.context_limit();
        let tokens = u64::from(request.input_tokens) + u64::from(request.output_tokens);
        if tokens > u64::from(limit) {
            return Err(Refusal::TooLong { tokens, limit });
        }
        let waiting = self.incoming.len() + self.waiting.len();
        if waiting >= self.config.max_waiting {
            return Err(Refusal::QueueFull { limit: self.config.max_waiting });
        }
        Ok(())
    }

    /// Ends a request whose client has gone; its KV blocks are free at once. False if it is not live.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        let Some(live) = self.table.remove(id) else { return false };
        self.blocks.release(&live);
        self.counters.cancelled += 1;
        self.incoming.retain(|(_, other)| *other != id);
        self.waiting.retain(|other| *other != id);
        self.running.retain(|other| *other != id);
        self.end_if_drained();
        true
    }

    /// Stops taking requests; the replica is gone when the last one has finished.
    pub fn drain(&mut self) {
        self.phase = match self.phase {
            Phase::Starting { .. } | Phase::Gone => Phase::Gone,
            Phase::Ready | Phase::Draining => Phase::Draining,
        };
        self.end_if_drained();
    }

    fn end_if_drained(&mut self) {
        if self.phase == Phase::Draining && self.live() == 0 {
            self.phase = Phase::Gone;
        }
    }

    /// Commits every step that ends at or before `limit`, and begins the step that runs at `limit`.
    ///
    /// `sink` is called in order of time; within one instant in order of admission.
    pub fn advance(&mut self, limit: Timestamp, sink: &mut impl FnMut(Timestamp, Event)) {
        if let Phase::Starting { until } = self.phase {
            if until > limit {
                return;
            }
            self.phase = Phase::Ready;
            self.now = until;
            sink(until, Event::Ready);
        }
        loop {
            if let Some(step) = self.in_flight {
                if step.end > limit {
                    return;
                }
                self.commit(step, sink);
                self.end_if_drained();
            }
            self.take_incoming();
            if self.waiting.is_empty() && self.running.is_empty() {
                let next = self.incoming.front().map(|(ready, _)| *ready).filter(|ready| *ready <= limit);
                self.now = self.now.max(next.unwrap_or(limit));
                if next.is_none() {
                    return;
                }
                continue;
            }
            if self.now > limit {
                return;
            }
            self.begin(sink);
        }
    }

    fn take_incoming(&mut self) {
        while let Some((ready, id)) = self.incoming.front().copied() {
            if ready > self.now {
                return;
            }
            self.incoming.pop_front();
            self.waiting.push_back(id);
        }
    }
}
