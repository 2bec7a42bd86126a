//! Someone else's writes of the replica count: noticed, reported, not fought (law L10).
//!
//! A loop goes on from the count it finds, and does not change it back at once:
//! - after a raise it does not lower for the *hold time*: the scale-down stabilization window, at least [`HOLD_PERIODS`] scrape periods;
//! - after a cut it may raise again at once, once, if its metrics ask for it; when that is undone too, raising waits for the hold time;
//! - with every further write that undoes a change of this loop the hold time doubles, up to [`MAX_HOLD`]. So two loops with different
//!   opinions come to rest instead of writing in turns, and bounds are not fought over either.
//! - demand at zero replicas is always answered: held requests are not lost to an argument.

use super::{Course, PoolPass};
use crate::hpa::HpaRule;
use crate::memory::{ForeignWrite, PoolMemory};
use crate::policy::Gate;
use crate::step::Step;
use std::time::Duration;

/// The hold time in scrape periods, at least.
pub const HOLD_PERIODS: u32 = 3;

/// The longest hold time that repeated writes lead to.
pub(super) const MAX_HOLD: Duration = Duration::from_secs(3_600);

impl PoolPass<'_> {
    /// Takes in what was found. A write that undoes what this loop did after an earlier one is counted.
    pub(super) fn note_foreign(&self, rule: &HpaRule, memory: &mut PoolMemory, written: Option<(u32, u32)>) {
        let Some((expected, found)) = written.filter(|_| self.gate == Gate::On) else { return };
        let before = memory.foreign.filter(|old| self.now.since(old.at) < self.hold_time(rule, *old).saturating_mul(2));
        let undone = before.map_or(0, |old| {
            let undoes = (expected > old.found && found < expected) || (expected < old.found && found > expected);
            old.undone.saturating_add(u32::from(undoes))
        });
        memory.foreign = Some(ForeignWrite { at: self.now, expected, found, undone });
    }

    /// Keeps the count that someone else wrote for its hold time.
    pub(super) fn leave_foreign(&self, rule: &HpaRule, memory: &PoolMemory, course: &mut Course) {
        let Some(foreign) = memory.foreign else { return };
        let (kept, wanted) = (self.seen.spec_replicas, course.desired);
        let until = foreign.at.plus(self.hold_time(rule, foreign));
        let raised = foreign.found > foreign.expected;
        let lowers_back = raised && wanted < kept;
        let raises_back = !raised && wanted > kept && foreign.undone > 0 && kept > 0;
        if self.now >= until || !(lowers_back || raises_back) {
            return;
        }
        let ForeignWrite { expected, found, undone, .. } = foreign;
        let for_seconds = until.since(self.now).as_secs();
        course.steps.push(Step::HeldForForeign { expected, found, wanted, kept, for_seconds, undone });
        course.desired = self.lawful(kept, undone);
        course.blocked |= raises_back;
    }

    /// A first write is brought back into the bounds; one that is repeated is left even outside them.
    fn lawful(&self, kept: u32, undone: u32) -> u32 {
        let (min, max) = (self.policy.min_replicas, self.policy.max_replicas.max(self.policy.min_replicas));
        if undone > 0 { kept } else { kept.clamp(min, max) }
    }

    /// For how long a write is not changed back.
    fn hold_time(&self, rule: &HpaRule, foreign: ForeignWrite) -> Duration {
        let least = down_window(rule).max(self.policy.scrape_period.saturating_mul(HOLD_PERIODS));
        let factor = 2_u32.saturating_pow(foreign.undone);
        least.saturating_mul(factor).min(MAX_HOLD.max(least))
    }

    /// What happened between a checkpoint and now is not known: as if the present count had just been recommended.
    pub(super) fn resume(&self, memory: &mut PoolMemory) {
        if std::mem::take(&mut memory.is_resumed)
            && let Some(log) = &mut memory.hpa.recommendations
        {
            let replicas = i32::try_from(self.seen.spec_replicas).unwrap_or(i32::MAX);
            log.push(crate::hpa::history::Recommendation { at: self.now, replicas });
        }
    }
}

/// The scale-down stabilization window of a rule.
pub(super) fn down_window(rule: &HpaRule) -> Duration {
    let own = rule.behavior.as_ref().and_then(|behavior| behavior.scale_down.stabilization_window_seconds);
    own.map_or(rule.controller.downscale_stabilization, |seconds| {
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    })
}
