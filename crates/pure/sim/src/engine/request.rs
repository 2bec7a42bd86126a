//! Requests: what a caller submits, what the engine keeps, and what it tells.

use loadline_base::Timestamp;
use std::collections::VecDeque;
use std::sync::Arc;

/// A request by number; numbers grow in order of submission and are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What is asked of an engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Prompt tokens, at least 1.
    pub input_tokens: u32,
    /// Tokens to generate, at least 1: known to the model from the start, to nobody else.
    pub output_tokens: u32,
    /// Hashes of the prompt's leading blocks of [`super::EngineConfig::prefix_block_tokens`] tokens; each covers all before it.
    pub prefix: Arc<[u64]>,
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not ready yet.
    #[error("the engine is starting")]
    Starting,
    /// Takes no new requests.
    #[error("the engine is draining")]
    Draining,
    /// Not there any more.
    #[error("the engine is gone")]
    Gone,
    /// Nothing to do.
    #[error("a request needs at least one prompt token and one token to generate")]
    Empty,
    /// Can never fit.
    #[error("prompt and output are `{tokens}` tokens, the engine's limit is `{limit}`")]
    TooLong {
        /// Prompt plus output.
        tokens: u64,
        /// The smaller of the context length and the KV capacity.
        limit: u32,
    },
    /// The waiting queue is at its bound.
    #[error("`{limit}` requests are waiting already")]
    QueueFull {
        /// The bound.
        limit: usize,
    },
}

/// What happened, told at the end of the step in which it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The start-up has ended.
    Ready,
    /// Evicted for lack of KV blocks; waits again, at the front.
    Preempted {
        /// Which.
        request: RequestId,
    },
    /// Its prefill is complete and the first token is there.
    FirstToken {
        /// Which.
        request: RequestId,
        /// Its times so far.
        timing: Timing,
    },
    /// One more token.
    Token {
        /// Which.
        request: RequestId,
        /// Tokens generated so far, this one included.
        generated: u32,
        /// Nanoseconds since its previous token.
        gap_nanos: i64,
    },
    /// All tokens are there; told after its last token.
    Finished {
        /// Which.
        request: RequestId,
        /// Its times.
        timing: Timing,
    },
    /// A step was committed; told after all of its tokens.
    Step {
        /// Prompt tokens computed in it.
        prefill_tokens: u32,
        /// Sequences that decoded in it.
        decoding: u32,
        /// Tokens sampled in it, plus the prompt tokens of requests whose first prefill ended with it.
        iteration_tokens: u32,
        /// Nanoseconds it took.
        took_nanos: i64,
    },
}

/// The times and sizes of one request; spans are nanoseconds of model time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timing {
    /// At the API server.
    pub arrival: Timestamp,
    /// Into the waiting queue.
    pub queued: Timestamp,
    /// First admitted to the batch.
    pub scheduled: Timestamp,
    /// First token; equal to `last_token` as long as there is only one.
    pub first_token: Timestamp,
    /// Latest token.
    pub last_token: Timestamp,
    /// Prompt tokens.
    pub input_tokens: u32,
    /// Tokens generated so far.
    pub generated: u32,
    /// Prompt tokens found in the prefix cache at first admission.
    pub cached_tokens: u32,
    /// How often it was preempted.
    pub preemptions: u32,
}

impl Timing {
    /// Seconds in the waiting queue before the first admission.
    #[must_use]
    pub fn queue_seconds(&self) -> f64 {
        self.scheduled.since(self.queued).as_secs_f64()
    }

    /// Seconds from arrival to the first token.
    #[must_use]
    pub fn ttft_seconds(&self) -> f64 {
        self.first_token.since(self.arrival).as_secs_f64()
    }

    /// Seconds from arrival to the latest token.
    #[must_use]
    pub fn e2e_seconds(&self) -> f64 {
        self.last_token.since(self.arrival).as_secs_f64()
    }

    /// Seconds from first admission to the first token.
    #[must_use]
    pub fn prefill_seconds(&self) -> f64 {
        self.first_token.since(self.scheduled).as_secs_f64()
    }

    /// Seconds from the first token to the latest.
    #[must_use]
    pub fn decode_seconds(&self) -> f64 {
        self.last_token.since(self.first_token).as_secs_f64()
    }

    /// Seconds from first admission to the latest token.
    #[must_use]
    pub fn inference_seconds(&self) -> f64 {
        self.last_token.since(self.scheduled).as_secs_f64()
    }

    /// Mean seconds per token after the first; `None` with fewer than two tokens.
    #[must_use]
    pub fn tpot_seconds(&self) -> Option<f64> {
        (self.generated > 1).then(|| self.decode_seconds() / f64::from(self.generated - 1))
    }
}

/// A request inside the engine.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) request: Request,
    pub(crate) timing: Timing,
    /// Admitted at least once.
    pub(crate) admitted: bool,
    /// Tokens whose KV is computed, cached ones included.
    pub(crate) computed: u32,
    /// Tokens to compute before the next one can be sampled: prompt, plus what was generated before a preemption.
    pub(crate) target: u32,
    /// Tokens of this request in the running step.
    pub(crate) scheduled: u32,
    /// Blocks of its own.
    pub(crate) private_blocks: usize,
    /// Leading prefix hashes whose blocks it shares through the cache.
    pub(crate) shared_hashes: usize,
    /// Blocks those hashes stand for.
    pub(crate) shared_blocks: usize,
}

impl Live {
    pub(crate) fn new(request: Request, arrival: Timestamp, queued: Timestamp) -> Self {
        let timing = Timing { arrival, queued, input_tokens: request.input_tokens, ..Timing::default() };
        Self {
            target: request.input_tokens,
            request,
            timing,
            admitted: false,
            computed: 0,
            scheduled: 0,
            private_blocks: 0,
            shared_hashes: 0,
            shared_blocks: 0,
        }
    }

    /// All blocks it holds.
    pub(crate) const fn held_blocks(&self) -> usize {
        self.private_blocks + self.shared_blocks
    }

    /// Tokens still to compute before the next one can be sampled.
    pub(crate) const fn todo(&self) -> u32 {
        self.target.saturating_sub(self.computed)
    }
}

/// Live requests by number: a window that moves with the oldest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    first: u64,
    slots: VecDeque<Option<Live>>,
}

impl Table {
    pub(crate) fn insert(&mut self, live: Live) -> RequestId {
        let id = self.first + u64::try_from(self.slots.len()).unwrap_or(u64::MAX);
        self.slots.push_back(Some(live));
        RequestId(id)
    }

    fn index(&self, id: RequestId) -> Option<usize> {
        id.0.checked_sub(self.first).and_then(|offset| usize::try_from(offset).ok())
    }

    pub(crate) fn get(&self, id: RequestId) -> Option<&Live> {
        self.slots.get(self.index(id)?)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: RequestId) -> Option<&mut Live> {
        let index = self.index(id)?;
        self.slots.get_mut(index)?.as_mut()
    }

    pub(crate) fn remove(&mut self, id: RequestId) -> Option<Live> {
        let index = self.index(id)?;
        let live = self.slots.get_mut(index)?.take();
        while matches!(self.slots.front(), Some(None)) {
            self.slots.pop_front();
            self.first += 1;
        }
        live
    }
}
