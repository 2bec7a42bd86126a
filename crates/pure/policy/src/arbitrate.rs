//! Budgets over all models.

use crate::decision::{Action, Decision};
use crate::hpa::{ConditionKind, Reason};
use crate::step::Step;
use loadline_base::PoolId;
use serde::{Deserialize, Serialize};

/// What all autoscalers together may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Budgets {
    /// GPUs; `None` is no limit.
    pub gpus: Option<u32>,
}

struct Claim {
    decision: usize,
    pool: PoolId,
    from: u32,
    desired: u32,
    min: u32,
    gpus: u32,
    granted: u32,
}

/// Cuts decisions to the budget. Grants go in rounds, each one replica at a time and evenly: first every pool's minimum (at least one
/// replica where one is wanted, so that a model that wakes is not starved by another's growth), then what already runs, then growth.
/// The same input gives the same cut; a cut pool carries [`Step::Budget`] and changed actions. A pool goes below its minimum only where
/// the minimums together exceed the budget.
#[must_use]
pub fn arbitrate(decisions: &[Decision], budgets: &Budgets) -> Vec<Decision> {
    let mut result = decisions.to_vec();
    let Some(budget) = budgets.gpus else { return result };
    let mut claims = Vec::new();
    for (at, decision) in decisions.iter().enumerate() {
        for (pool, decided) in decision.pools.iter().filter(|(_, decided)| decided.gpus_per_replica > 0) {
            claims.push(Claim {
                decision: at,
                pool: pool.clone(),
                from: decided.from,
                desired: decided.desired,
                min: decided.min,
                gpus: decided.gpus_per_replica,
                granted: 0,
            });
        }
    }
    let demanded = claims.iter().map(|claim| u64::from(claim.desired) * u64::from(claim.gpus)).sum::<u64>();
    if demanded <= u64::from(budget) {
        return result;
    }
    let mut left = budget;
    grant(&mut claims, &mut left, |claim| claim.min.max(1).min(claim.desired));
    grant(&mut claims, &mut left, |claim| claim.from.min(claim.desired));
    grant(&mut claims, &mut left, |claim| claim.desired);
    for claim in claims.iter().filter(|claim| claim.granted != claim.desired) {
        if let Some(decision) = result.get_mut(claim.decision) {
            cut(decision, claim, budget, demanded);
        }
    }
    result
}

/// One replica at a time to the pool with the fewest, up to `goal`; ties go to the earlier pool.
fn grant(claims: &mut [Claim], left: &mut u32, goal: impl Fn(&Claim) -> u32) {
    while let Some(claim) = claims
        .iter_mut()
        .filter(|claim| claim.granted < goal(claim) && claim.gpus <= *left)
        .min_by_key(|claim| claim.granted)
    {
        claim.granted += 1;
        *left -= claim.gpus;
    }
}

fn cut(decision: &mut Decision, claim: &Claim, budget: u32, demanded: u64) {
    let Some(pool) = decision.pools.get_mut(&claim.pool) else { return };
    let step =
        Step::Budget { wanted: claim.desired, granted: claim.granted, gpus_per_replica: claim.gpus, budget, demanded };
    pool.conditions.set(ConditionKind::ScalingLimited, true, Reason::HeldByBudget, step.to_string());
    pool.steps.retain(|step| !matches!(step, Step::Changed { .. } | Step::Unchanged { .. }));
    pool.reason = Some(pool.steps.len());
    let binding = step.constraint();
    pool.steps.push(step);
    pool.desired = claim.granted;
    pool.steps.push(if claim.granted == pool.from {
        Step::Unchanged { replicas: pool.from }
    } else {
        Step::Changed { from: pool.from, to: claim.granted, binding, margin: None }
    });
    let (from, to) = (pool.from, claim.granted);
    let removed = usize::try_from(from.saturating_sub(to)).unwrap_or(usize::MAX);
    let mut kept = Vec::new();
    for action in std::mem::take(&mut pool.actions) {
        match action {
            Action::SetReplicas { pool, mut remove_first, .. } if to != from => {
                remove_first.truncate(removed);
                kept.push(Action::SetReplicas { pool, from, to, remove_first });
            }
            Action::SetReplicas { .. } | Action::Close { .. } | Action::Undrain { .. } => {}
            Action::Drain { .. } => kept.push(action),
        }
    }
    if to == 0 && from > 0 {
        kept.insert(0, Action::Close { pool: claim.pool.clone() });
    }
    let writes = kept.iter().any(|action| matches!(action, Action::SetReplicas { .. }));
    if to != from && !writes {
        // nothing was to change before the cut; which replica goes is left to the one who carries it out
        kept.push(Action::SetReplicas { pool: claim.pool.clone(), from, to, remove_first: Vec::new() });
    }
    pool.actions = kept;
}
