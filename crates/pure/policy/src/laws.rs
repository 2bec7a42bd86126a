//! The laws of DESIGN section 5 that one decision can break, as functions: property tests and production counters call the same ones.

use crate::arbitrate::Budgets;
use crate::decide::{ALARM_PERIODS, HOLD_PERIODS, decide};
use crate::decision::{Alarm, Decision, PoolDecision};
use crate::evidence::{late_total, unknown_values, with_full_load};
use crate::memory::{Memory, PoolMemory};
use crate::observation::{
    Evidence, GatewayObservation, Observation, PoolObservation, ReplicaObservation, ReplicaState, Signal,
};
use crate::policy::{Gate, Policy, PoolPolicy, Rule};
use crate::step::Step;
use loadline_base::PoolId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A law.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Law {
    /// Its id, as counters are named.
    pub id: &'static str,
    /// What it says.
    pub statement: &'static str,
}

/// L1.
pub const L1: Law = Law {
    id: "L1",
    statement: "with the gate on, no value that a missing one could have had would have asked for more replicas than were kept",
};
/// L2.
pub const L2: Law = Law {
    id: "L2",
    statement: "zero only when idleness is proven, or, where no gateway is configured, reported by every replica",
};
/// L3.
pub const L3: Law = Law { id: "L3", statement: "desired stays within min, max and budgets" };
/// L4.
pub const L4: Law =
    Law { id: "L4", statement: "same policy, observation and memory give the same decision, bit for bit" };
/// L8.
pub const L8: Law = Law {
    id: "L8",
    statement: "a scale change carries its explanation; an autoscaler that cannot act says so within 3 periods",
};
/// L10.
pub const L10: Law =
    Law { id: "L10", statement: "someone else's write to the scale target is noticed, reported and not fought" };

/// Every law checked here.
pub const ALL: [Law; 6] = [L1, L2, L3, L4, L8, L10];

/// A broken law.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("law {law} is broken in pool `{pool}`: {found}")]
pub struct Violation {
    /// Its id.
    pub law: String,
    /// Where.
    pub pool: String,
    /// What was found.
    pub found: String,
}

fn broken(law: Law, pool: &PoolId, found: String) -> Violation {
    Violation { law: law.id.to_owned(), pool: pool.as_str().to_owned(), found }
}

/// One decision with everything it was made from.
#[derive(Debug, Clone, Copy)]
pub struct Made<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// The observation.
    pub seen: &'a Observation,
    /// The memory before.
    pub before: &'a Memory,
    /// The decision, as [`decide`] gave it.
    pub decision: &'a Decision,
    /// The memory after.
    pub after: &'a Memory,
}

/// One pool of a decision.
type Part<'a> = (&'a PoolId, &'a PoolPolicy, &'a PoolObservation, &'a PoolDecision);

impl<'a> Made<'a> {
    fn parts(self) -> impl Iterator<Item = Part<'a>> {
        self.decision
            .pools
            .iter()
            .filter_map(move |(id, decided)| Some((id, self.policy.pools.get(id)?, self.seen.pools.get(id)?, decided)))
    }
}

/// L1: silence on a whole side lowers nothing; and had every silent replica reported a full load, no more would have been asked for.
///
/// # Errors
/// The first violation.
pub fn l1(made: Made<'_>) -> Result<(), Violation> {
    if made.policy.gate == Gate::Off {
        return Ok(());
    }
    for (id, policy, seen, decided) in made.parts().filter(|(_, _, _, d)| d.desired < d.from && d.from <= d.max) {
        let period = policy.scrape_period;
        let speaks =
            |replica: &&ReplicaObservation| matches!(replica.state, ReplicaState::Ready | ReplicaState::Draining);
        let live = |replica: &ReplicaObservation| {
            let fresh = |signal: Option<Signal>| signal.is_some_and(|signal| signal.evidence == Evidence::Live);
            fresh(replica.running) && fresh(replica.waiting)
        };
        let gateway = match seen.gateway {
            GatewayObservation::Live { at, .. } => Evidence::of_age(made.seen.now, at, period),
            GatewayObservation::Missing => Evidence::Missing,
            GatewayObservation::Absent => Evidence::Absent,
        };
        if matches!(gateway, Evidence::Missing | Evidence::Stale) {
            return Err(broken(L1, id, format!("{} -> {} with a silent gateway", decided.from, decided.desired)));
        }
        let expected = seen.replicas.iter().filter(speaks).count();
        let heard = seen.replicas.iter().filter(speaks).filter(|replica| live(replica)).count();
        let Rule::Hpa(rule) = &policy.rule;
        if let Some(metric) = late_total(rule, seen) {
            return Err(broken(
                L1,
                id,
                format!("{} -> {} with a late value of {metric}", decided.from, decided.desired),
            ));
        }
        if heard == expected && unknown_values(rule, seen) == 0 {
            continue;
        }
        if heard == 0 && expected > 0 && decided.desired > 0 {
            return Err(broken(L1, id, format!("{} -> {} with every engine silent", decided.from, decided.desired)));
        }
        if decided.desired == 0 {
            continue; // zero by proof: law L2
        }
        let kept = decided.desired;
        let mut full = made.seen.clone();
        full.pools.insert(id.clone(), with_full_load(rule, seen, made.seen.now));
        let (other, _) = decide(made.policy, &full, made.before.clone());
        let asked = other.pools.get(id).map_or(0, |pool| pool.desired);
        if asked > kept {
            return Err(broken(L1, id, format!("{kept} kept, {asked} had silent replicas reported a full load")));
        }
    }
    Ok(())
}

/// L2: zero only on proof.
///
/// # Errors
/// The first violation.
pub fn l2(made: Made<'_>) -> Result<(), Violation> {
    if made.policy.gate == Gate::Off {
        return Ok(());
    }
    for (id, policy, seen, decided) in made.parts().filter(|(_, _, _, d)| d.desired == 0 && d.from > 0 && d.max > 0) {
        let after = policy.idle.map(|idle| idle.after);
        let long = |since: Option<loadline_base::Timestamp>| {
            since.zip(after).is_some_and(|(since, after)| made.seen.now.since(since) >= after)
        };
        let proven = match seen.gateway {
            GatewayObservation::Live { held: 0, in_flight: 0, idle_since, at, .. } => {
                long(idle_since) && Evidence::of_age(made.seen.now, at, policy.scrape_period) == Evidence::Live
            }
            GatewayObservation::Live { .. } | GatewayObservation::Missing => false,
            GatewayObservation::Absent => {
                let mut there = seen.replicas.iter().filter(|r| r.state != ReplicaState::Failed).peekable();
                there.peek().is_some() && there.all(|replica| long(replica.idle_since))
            }
        };
        if !proven {
            return Err(broken(L2, id, format!("{} -> 0 without proof of idleness", decided.from)));
        }
    }
    Ok(())
}

/// L3: min and max; with the gate off zero is also where the peer leaves a target alone.
///
/// # Errors
/// The first violation.
pub fn l3(made: Made<'_>) -> Result<(), Violation> {
    for (id, policy, _, decided) in made.parts() {
        let held = made.policy.gate == Gate::Off
            && decided.desired == decided.from
            && (decided.from == 0 || !decided.alarms.is_empty());
        let max = policy.max_replicas.max(policy.min_replicas);
        let unreadable = decided.steps.iter().any(|step| matches!(step, Step::ScaleUnreadable { .. }));
        // two that undo each other would fight over bounds, too (law L10)
        let contested = decided.desired == decided.from
            && decided.steps.iter().any(|step| matches!(step, Step::HeldForForeign { undone: 1.., .. }));
        if !(policy.min_replicas..=max).contains(&decided.desired) && !held && !unreadable && !contested {
            let found = format!("{} is outside {}..{max}", decided.desired, policy.min_replicas);
            return Err(broken(L3, id, found));
        }
    }
    Ok(())
}

/// L3 for what [`crate::arbitrate()`] gave.
///
/// # Errors
/// When the decisions together exceed a budget.
pub fn l3_budgets(decisions: &[Decision], budgets: &Budgets) -> Result<(), Violation> {
    let Some(budget) = budgets.gpus else { return Ok(()) };
    let pools = decisions.iter().flat_map(|decision| decision.pools.values());
    let taken: u64 = pools.map(|pool| u64::from(pool.desired) * u64::from(pool.gpus_per_replica)).sum();
    if taken <= u64::from(budget) {
        return Ok(());
    }
    Err(broken(L3, &PoolId::new("*"), format!("{taken} GPUs of {budget}")))
}

/// L4: deciding again gives the same. The round trip through JSON is the property tests' part.
///
/// # Errors
/// When it does not.
pub fn l4(made: Made<'_>) -> Result<(), Violation> {
    let (decision, after) = decide(made.policy, made.seen, made.before.clone());
    if decision == *made.decision && after == *made.after {
        return Ok(());
    }
    let pool = decision.pools.iter().find(|(id, pool)| made.decision.pools.get(*id) != Some(pool)).map(|(id, _)| id);
    let unknown = PoolId::new("*");
    Err(broken(L4, pool.unwrap_or(&unknown), "the same input gave another decision".to_owned()))
}

/// L8: a change names what binds it, and a pool that has been blocked for three periods has an alarm.
///
/// # Errors
/// The first violation.
pub fn l8(made: Made<'_>) -> Result<(), Violation> {
    for (id, policy, _, decided) in made.parts() {
        let said = decided.steps.iter().any(|step| {
            matches!(step, Step::Changed { from, to, binding, .. }
            if *from == decided.from && *to == decided.desired && !binding.is_empty())
        });
        if decided.desired != decided.from && !said {
            return Err(broken(L8, id, format!("{} -> {} without a reason", decided.from, decided.desired)));
        }
        let since = made.after.pools.get(id).and_then(|memory| memory.blocked_since);
        let long = |since| made.seen.now.since(since) >= policy.scrape_period.saturating_mul(ALARM_PERIODS);
        let silent = !decided.alarms.iter().any(|alarm| matches!(alarm, Alarm::CannotAct { .. }));
        if since.is_some_and(long) && silent {
            return Err(broken(L8, id, "blocked for three periods without an alarm".to_owned()));
        }
    }
    Ok(())
}

/// L10: a count that is neither the last one seen nor one that was asked for has an alarm; a raise is not taken back at once, and a cut
/// that undid this loop's own raise is not undone again at once. Bounds are kept once, and demand at zero is always answered.
///
/// # Errors
/// The first violation.
pub fn l10(made: Made<'_>) -> Result<(), Violation> {
    if made.policy.gate == Gate::Off {
        return Ok(());
    }
    for (id, policy, seen, decided) in made.parts() {
        let before = made.before.pools.get(id);
        let is_ours = |memory: &PoolMemory| match memory.pending {
            Some(pending) => {
                (pending.from.min(pending.to)..=pending.from.max(pending.to)).contains(&seen.spec_replicas)
            }
            None => memory.last_count.is_none_or(|count| count == seen.spec_replicas),
        };
        let is_said = decided.alarms.iter().any(|alarm| matches!(alarm, Alarm::ForeignWrite { .. }));
        if before.is_some_and(|memory| !is_ours(memory)) && !is_said {
            return Err(broken(
                L10,
                id,
                format!("{} is somebody else's count and nobody was told", seen.spec_replicas),
            ));
        }
        let Some(foreign) = made.after.pools.get(id).and_then(|memory| memory.foreign) else { continue };
        let is_held = made.seen.now.since(foreign.at) < policy.scrape_period.saturating_mul(HOLD_PERIODS);
        let bounds = policy.min_replicas..=policy.max_replicas.max(policy.min_replicas);
        if !is_held || (foreign.undone == 0 && !bounds.contains(&decided.from)) {
            continue;
        }
        let is_raise = foreign.found > foreign.expected;
        let fights_raise = is_raise && decided.desired < decided.from;
        let fights_cut = !is_raise && foreign.undone > 0 && decided.from > 0 && decided.desired > decided.from;
        if fights_raise || fights_cut {
            let found =
                format!("{} -> {} right after someone else wrote {}", decided.from, decided.desired, foreign.found);
            return Err(broken(L10, id, found));
        }
    }
    Ok(())
}

/// Every law that is broken. Costs about as much as deciding again.
#[must_use]
pub fn check_all(made: Made<'_>) -> Vec<Violation> {
    [l1(made), l2(made), l3(made), l4(made), l8(made), l10(made)].into_iter().filter_map(Result::err).collect()
}
