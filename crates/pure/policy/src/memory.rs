//! What a decision leaves for the next one. Serialisable and bounded to [`MAX_MEMORY_BYTES`] of JSON.

use crate::hpa::HpaMemory;
use crate::hpa::history::{bound_events, bound_recommendations};
use loadline_base::{PoolId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The bound on a memory as JSON (DESIGN section 4).
pub const MAX_MEMORY_BYTES: usize = 64 * 1024;
/// Pools that one autoscaler may have; further ones of a policy are held as they are.
pub const MAX_POOLS: usize = 16;
/// Recommendations kept over all pools of an autoscaler.
pub const MAX_RECOMMENDATIONS: usize = 640;
/// Scale events kept per direction over all pools of an autoscaler.
pub const MAX_SCALE_EVENTS: usize = 256;

/// A change that was asked for and not yet seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// When it was asked for.
    pub at: Timestamp,
    /// The count before.
    pub from: u32,
    /// The count asked for.
    pub to: u32,
}

/// A replica count that someone else wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignWrite {
    /// When it was noticed.
    pub at: Timestamp,
    /// The count that was asked for or seen before.
    pub expected: u32,
    /// The count found.
    pub found: u32,
    /// How many in a row undid a change of this loop, this one included; 0 for one that came unprovoked.
    pub undone: u32,
}

/// What is remembered of one pool.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolMemory {
    /// Of the HPA rule.
    pub hpa: HpaMemory,
    /// A change becomes a scale event only when it is seen to have happened.
    pub pending: Option<Pending>,
    /// The count last asked for or seen.
    pub last_count: Option<u32>,
    /// Since when the pool cannot be decided freely.
    pub blocked_since: Option<Timestamp>,
    /// Since when no metric has given an answer.
    pub unanswered_since: Option<Timestamp>,
    /// The last count that someone else wrote.
    pub foreign: Option<ForeignWrite>,
    /// It was loaded from a checkpoint and not used since: what happened in between is not known.
    pub is_resumed: bool,
}

/// What is remembered of one autoscaler.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// One entry per pool.
    pub pools: BTreeMap<PoolId, PoolMemory>,
}

impl Memory {
    /// A budget or a lack of room gave another count than the decision asked for: what is found next is nobody else's write.
    pub fn granted(&mut self, pool: &PoolId, at: Timestamp, from: u32, to: u32) {
        if let Some(memory) = self.pools.get_mut(pool) {
            memory.pending = (from != to).then_some(Pending { at, from, to });
        }
    }

    /// Someone else wrote the count after this one was seen or asked for: the next decision finds theirs and knows whose it is.
    pub fn overwritten(&mut self, pool: &PoolId, expected: u32) {
        if let Some(memory) = self.pools.get_mut(pool) {
            memory.pending = None;
            memory.last_count = Some(expected);
        }
    }

    /// After a load from a checkpoint: what happened since it was made is lost, and forbids a scale-down until it would have been
    /// forgotten anyway (law L9).
    pub fn resume(&mut self) {
        for pool in self.pools.values_mut() {
            pool.is_resumed = true;
        }
    }

    /// Shortens histories to their bounds. What is shortened only ever holds a scale-down back for longer.
    pub(crate) fn bound(&mut self) {
        let share = self.pools.len().max(1);
        for pool in self.pools.values_mut() {
            if let Some(log) = &mut pool.hpa.recommendations {
                bound_recommendations(log, MAX_RECOMMENDATIONS / share);
            }
            bound_events(&mut pool.hpa.up_events, false, MAX_SCALE_EVENTS / share);
            bound_events(&mut pool.hpa.down_events, true, MAX_SCALE_EVENTS / share);
        }
    }
}
