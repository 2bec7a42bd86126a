//! What is sent when.

use loadline_sim::trace::Request;
use std::time::Duration;

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Each at its arrival time, whatever happened to the earlier ones.
    Open,
    /// The next one as soon as one of so many is done; arrival times are not used.
    Closed {
        /// Requests in flight.
        concurrency: usize,
    },
}

/// The requests of a run, and their pace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The requests, sorted by arrival.
    pub requests: Vec<Request>,
    /// When they are sent.
    pub pace: Pace,
    /// Tokens per prefix block, where requests carry prefix hashes: equal hashes give equal text.
    pub prefix_block_tokens: u32,
    /// Chooses the prompts' text: other seeds share no prefix by accident.
    pub seed: u64,
}

impl Plan {
    /// Replays requests at their arrival times.
    #[must_use]
    pub const fn open(requests: Vec<Request>) -> Self {
        Self { requests, pace: Pace::Open, prefix_block_tokens: 0, seed: 0 }
    }

    /// Keeps `concurrency` requests (at least one) in flight until all were sent.
    #[must_use]
    pub fn closed(requests: Vec<Request>, concurrency: usize) -> Self {
        Self { requests, pace: Pace::Closed { concurrency: concurrency.max(1) }, prefix_block_tokens: 0, seed: 0 }
    }

    /// Sets the block length of the requests' prefix hashes.
    #[must_use]
    pub const fn with_prefix_blocks(mut self, tokens: u32) -> Self {
        self.prefix_block_tokens = tokens;
        self
    }

    /// Sets the seed of the prompts' text.
    #[must_use]
    pub const fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Arrival of the last request.
    #[must_use]
    pub fn span(&self) -> Duration {
        self.requests.last().map_or(Duration::ZERO, |request| request.arrival)
    }
}
