//! One engine step: what is scheduled when it begins, and what it leaves when it ends.

use super::cache::blocks_for;
use super::request::{Event, RequestId};
use super::{Engine, InFlight};
use crate::profile::Batch;
use loadline_base::{Timestamp, num};

impl Engine {
    /// Schedules the next step at `self.now`; there is a running or a waiting request.
    pub(super) fn begin(&mut self, sink: &mut impl FnMut(Timestamp, Event)) {
        let mut budget = self.config.max_num_batched_tokens;
        let mut batch = Batch::default();
        let preempted = self.schedule_running(&mut budget, &mut batch, sink);
        if !preempted {
            self.admit(&mut budget, &mut batch);
        }
        batch.live = u32::try_from(self.running.len()).unwrap_or(u32::MAX);
        let nanos = num::f64_to_i64_trunc(self.step_time.millis(&batch) * 1e6 + 0.5).max(1);
        let took = std::time::Duration::from_nanos(u64::try_from(nanos).unwrap_or(1));
        self.in_flight = Some(InFlight { began: self.now, end: self.now.plus(took) });
    }

    /// Decoding requests and started prefills, in order of admission. True if a request had to be preempted.
    fn schedule_running(
        &mut self,
        budget: &mut u32,
        batch: &mut Batch,
        sink: &mut impl FnMut(Timestamp, Event),
    ) -> bool {
        let mut preempted = false;
        let mut index = 0;
        while let Some(id) = self.running.get(index).copied() {
            let Some(live) = self.table.get_mut(id) else {
                self.running.remove(index);
                continue;
            };
            let tokens = live.todo().min(*budget);
            live.scheduled = tokens;
            if tokens == 0 {
                index += 1;
                continue;
            }
            let total = blocks_for(live.computed + tokens);
            if self.blocks.grow(live, total) {
                *budget -= tokens;
                batch.add(live.computed, tokens, live.todo() == 1 && live.timing.generated > 0);
                index += 1;
                continue;
            }
            preempted = true;
            self.preempt_last(sink);
        }
        preempted
    }

    /// Evicts the last admitted request; it will be computed anew, before all others that wait.
    fn preempt_last(&mut self, sink: &mut impl FnMut(Timestamp, Event)) {
        let Some(id) = self.running.pop() else { return };
        let Some(live) = self.table.get_mut(id) else { return };
        self.blocks.release(live);
        live.computed = 0;
        live.scheduled = 0;
        live.private_blocks = 0;
        live.shared_hashes = 0;
        live.shared_blocks = 0;
        live.timing.preemptions += 1;
        self.counters.preemptions += 1;
        self.waiting.push_front(id);
        sink(self.now, Event::Preempted { request: id });
    }

    /// Takes waiting requests in order while budget, batch size and blocks for the whole prompt allow.
    fn admit(&mut self, budget: &mut u32, batch: &mut Batch) {
        while *budget > 0 && self.running.len() < self.config.max_num_seqs {
            let Some(id) = self.waiting.front().copied() else { return };
            let Some(live) = self.table.get_mut(id) else {
                self.waiting.pop_front();
                continue;
            };
            let (hits, from_free) = self.blocks.lookup(usable_prefix(live, self.config.prefix_block_tokens));
            let cached = u32::try_from(hits).unwrap_or(u32::MAX).saturating_mul(self.config.prefix_block_tokens);
            let whole = blocks_for(live.target) - blocks_for(cached) + from_free;
            if whole > self.blocks.free() {
                return;
            }
            self.blocks.share(live, hits);
            live.computed = cached;
            let tokens = live.todo().min(*budget);
            let total = blocks_for(live.computed + tokens);
            if !self.blocks.grow(live, total) {
                return;
            }
            if self.config.prefix_block_tokens > 0 {
                self.counters.prefix_queries += u64::from(live.target);
                self.counters.prefix_hits += u64::from(cached);
            }
            if !live.admitted {
                live.admitted = true;
                live.timing.scheduled = self.now;
                live.timing.cached_tokens = cached;
            }
            live.scheduled = tokens;
            *budget -= tokens;
            batch.add(live.computed, tokens, false);
            self.waiting.pop_front();
            self.running.push(id);
        }
    }

    /// The step has ended: tokens are there, finished requests leave.
    pub(super) fn commit(&mut self, step: InFlight, sink: &mut impl FnMut(Timestamp, Event)) {
        self.in_flight = None;
        self.now = step.end;
        let took_nanos = step.end.as_nanos() - step.began.as_nanos();
        self.counters.steps += 1;
        self.counters.busy_nanos += u64::try_from(took_nanos).unwrap_or(0);
        let mut ended = Step::default();
        let mut running = std::mem::take(&mut self.running);
        running.retain(|id| self.commit_one(*id, &mut ended, sink));
        self.running = running;
        self.counters.prefill_tokens_computed += u64::from(ended.prefill_tokens);
        self.iteration_tokens.observe(f64::from(ended.iteration_tokens));
        sink(
            step.end,
            Event::Step {
                prefill_tokens: ended.prefill_tokens,
                decoding: ended.decoding,
                iteration_tokens: ended.iteration_tokens,
                took_nanos,
            },
        );
    }

    /// True if the request stays in the batch.
    fn commit_one(&mut self, id: RequestId, ended: &mut Step, sink: &mut impl FnMut(Timestamp, Event)) -> bool {
        let now = self.now;
        let Some(live) = self.table.get_mut(id) else { return false };
        let tokens = std::mem::take(&mut live.scheduled);
        if tokens == 0 {
            return true;
        }
        let decoding = live.timing.generated > 0 && live.todo() == 1 && tokens == 1;
        live.computed += tokens;
        if decoding {
            ended.decoding += 1;
        } else {
            ended.prefill_tokens += tokens;
        }
        if live.todo() > 0 {
            return true;
        }
        live.target += 1;
        live.timing.generated += 1;
        self.counters.generation_tokens += 1;
        ended.iteration_tokens += 1;
        let gap_nanos = now.as_nanos() - live.timing.last_token.as_nanos();
        live.timing.last_token = now;
        let generated = live.timing.generated;
        if generated == 1 {
            live.timing.first_token = now;
            ended.iteration_tokens += live.request.input_tokens;
            self.counters.prompt_tokens += u64::from(live.request.input_tokens);
            self.counters.prompt_tokens_cached += u64::from(live.timing.cached_tokens);
        }
        if !decoding {
            self.blocks.publish(live, self.config.prefix_block_tokens);
        }
        let timing = live.timing;
        if generated == 1 {
            sink(now, Event::FirstToken { request: id, timing });
        } else {
            sink(now, Event::Token { request: id, generated, gap_nanos });
        }
        if generated < live.request.output_tokens {
            return true;
        }
        if let Some(live) = self.table.remove(id) {
            self.blocks.release(&live);
        }
        self.counters.finished += 1;
        sink(now, Event::Finished { request: id, timing });
        false
    }
}

/// The hashes that may hit: at least one token of the prompt is always computed.
fn usable_prefix(live: &super::request::Live, block_tokens: u32) -> &[u64] {
    if block_tokens == 0 {
        return &[];
    }
    let full = usize::try_from(live.target.saturating_sub(1) / block_tokens).unwrap_or(usize::MAX);
    live.request.prefix.get(..full.min(live.request.prefix.len())).unwrap_or_default()
}

#[derive(Debug, Default)]
struct Step {
    prefill_tokens: u32,
    decoding: u32,
    iteration_tokens: u32,
}
