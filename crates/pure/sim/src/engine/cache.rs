//! KV memory: blocks held by requests, and the prefix cache in the blocks that nobody holds.

use super::request::Live;
use std::collections::BTreeMap;

/// Tokens per KV block (vLLM's default).
pub const BLOCK_TOKENS: u32 = 16;

/// Blocks that `tokens` tokens need.
pub(crate) fn blocks_for(tokens: u32) -> usize {
    usize::try_from(tokens.div_ceil(BLOCK_TOKENS)).unwrap_or(usize::MAX)
}

#[derive(Debug, Clone)]
struct Entry {
    blocks: usize,
    /// Live requests that share it; at 0 it is evictable.
    holders: usize,
    /// When it was last let go, as a place in the eviction order.
    stamp: u64,
}

/// All KV blocks of a replica.
///
/// Used blocks are those of live requests; a cached prefix that no live request shares is free memory that is evicted,
/// oldest first, when blocks are needed.
#[derive(Debug, Clone)]
pub(crate) struct Blocks {
    usable: usize,
    used: usize,
    cached: usize,
    entries: BTreeMap<u64, Entry>,
    evictable: BTreeMap<u64, u64>,
    stamp: u64,
    evicted: u64,
}

impl Blocks {
    pub(crate) const fn new(usable: usize) -> Self {
        Self { usable, used: 0, cached: 0, entries: BTreeMap::new(), evictable: BTreeMap::new(), stamp: 0, evicted: 0 }
    }

    /// Cached blocks that were evicted so far.
    pub(crate) const fn evicted(&self) -> u64 {
        self.evicted
    }

    pub(crate) const fn usable(&self) -> usize {
        self.usable
    }

    pub(crate) const fn used(&self) -> usize {
        self.used
    }

    /// Blocks of evictable prefixes.
    pub(crate) const fn cached(&self) -> usize {
        self.cached
    }

    pub(crate) const fn free(&self) -> usize {
        self.usable - self.used
    }

    /// Leading hashes that are in the cache, and the blocks among them that would have to be taken from the free ones.
    pub(crate) fn lookup(&self, prefix: &[u64]) -> (usize, usize) {
        let mut from_free = 0;
        let mut hits = 0;
        for hash in prefix {
            let Some(entry) = self.entries.get(hash) else { break };
            hits += 1;
            if entry.holders == 0 {
                from_free += entry.blocks;
            }
        }
        (hits, from_free)
    }

    /// Shares the first `hits` hashes of the request's prefix with it.
    pub(crate) fn share(&mut self, live: &mut Live, hits: usize) {
        let prefix = live.request.prefix.clone();
        for hash in prefix.iter().take(hits) {
            let Some(entry) = self.entries.get_mut(hash) else { break };
            if entry.holders == 0 {
                self.evictable.remove(&entry.stamp);
                self.cached -= entry.blocks;
                self.used += entry.blocks;
            }
            entry.holders += 1;
            live.shared_hashes += 1;
            live.shared_blocks += entry.blocks;
        }
    }

    /// Gives the request blocks of its own until it holds `total`. False, and nothing changes, if too few are free.
    pub(crate) fn grow(&mut self, live: &mut Live, total: usize) -> bool {
        let more = total.saturating_sub(live.held_blocks());
        if more > self.free() {
            return false;
        }
        self.used += more;
        live.private_blocks += more;
        while self.used + self.cached > self.usable {
            let Some((_, hash)) = self.evictable.pop_first() else { break };
            if let Some(entry) = self.entries.remove(&hash) {
                self.cached -= entry.blocks;
                self.evicted += u64::try_from(entry.blocks).unwrap_or(0);
            }
        }
        true
    }

    /// Puts the request's computed prefix blocks of `block_tokens` tokens into the cache, still held by it.
    pub(crate) fn publish(&mut self, live: &mut Live, block_tokens: u32) {
        if block_tokens == 0 {
            return;
        }
        let blocks = blocks_for(block_tokens);
        let prefix = live.request.prefix.clone();
        let full = usize::try_from(live.request.input_tokens / block_tokens).unwrap_or(usize::MAX);
        for hash in prefix.iter().take(full).skip(live.shared_hashes) {
            // Computed by two requests at once: the second keeps its copy for itself, and the chain ends there.
            if self.entries.contains_key(hash) || live.private_blocks < blocks {
                break;
            }
            self.entries.insert(*hash, Entry { blocks, holders: 1, stamp: 0 });
            live.private_blocks -= blocks;
            live.shared_hashes += 1;
            live.shared_blocks += blocks;
        }
    }

    /// Takes back all that the request holds; shared prefixes stay cached.
    pub(crate) fn release(&mut self, live: &Live) {
        self.used -= live.private_blocks;
        // Deepest first, so that eviction, oldest first, takes the end of a prefix before its beginning.
        let held = live.request.prefix.get(..live.shared_hashes).unwrap_or_default();
        for hash in held.iter().rev() {
            let Some(entry) = self.entries.get_mut(hash) else { continue };
            entry.holders = entry.holders.saturating_sub(1);
            if entry.holders == 0 {
                self.stamp += 1;
                entry.stamp = self.stamp;
                self.evictable.insert(self.stamp, *hash);
                self.used -= entry.blocks;
                self.cached += entry.blocks;
            }
        }
    }
}
