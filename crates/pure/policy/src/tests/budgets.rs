//! Budgets over all models.

use super::build::at;
use crate::hpa::Conditions;
use crate::laws::l3_budgets;
use crate::step::Step;
use crate::{Action, Budgets, Decision, PoolDecision, arbitrate};
use loadline_base::PoolId;
use std::collections::BTreeMap;

/// (from, desired, min, GPUs per replica)
fn decision(name: &str, (from, desired, min, gpus): (u32, u32, u32, u32)) -> Decision {
    let pool = PoolId::new(name);
    let change = Action::SetReplicas { pool: pool.clone(), from, to: desired, remove_first: Vec::new() };
    let decided = PoolDecision {
        from,
        desired,
        min,
        max: 100,
        gpus_per_replica: gpus,
        steps: vec![Step::Changed { from, to: desired, binding: "load".to_owned(), margin: None }],
        reason: Some(0),
        conditions: Conditions::default(),
        alarms: Vec::new(),
        actions: if from == desired { Vec::new() } else { vec![change] },
    };
    Decision { now: at(0), pools: BTreeMap::from([(pool, decided)]) }
}

fn granted(decisions: &[Decision], gpus: u32) -> Vec<u32> {
    let budgets = Budgets { gpus: Some(gpus) };
    let cut = arbitrate(decisions, &budgets);
    assert_eq!(l3_budgets(&cut, &budgets), Ok(()));
    assert_eq!(cut, arbitrate(decisions, &budgets), "the same input gives the same cut");
    cut.iter().flat_map(|decision| decision.pools.values()).map(|pool| pool.desired).collect()
}

#[test]
fn what_is_granted() {
    let cases = [
        ("fits", vec![(1, 2, 1, 1), (1, 2, 1, 1)], 4, vec![2, 2]),
        ("growth is cut evenly", vec![(1, 5, 1, 1), (1, 5, 1, 1)], 6, vec![3, 3]),
        ("what runs is kept before growth", vec![(4, 4, 1, 1), (1, 5, 1, 1)], 6, vec![4, 2]),
        ("a model that wakes gets its first replica", vec![(4, 4, 1, 1), (0, 2, 0, 1)], 4, vec![3, 1]),
        ("minimums stand before everything", vec![(0, 3, 3, 1), (5, 5, 0, 1)], 5, vec![3, 2]),
        ("impossible minimums are cut in order", vec![(0, 2, 2, 1), (0, 2, 2, 1)], 3, vec![2, 1]),
        ("a large replica that does not fit leaves room", vec![(0, 1, 0, 8), (0, 4, 0, 1)], 4, vec![0, 4]),
    ];
    for (name, claims, gpus, expect) in cases {
        let decisions: Vec<Decision> =
            claims.iter().enumerate().map(|(at, claim)| decision(&format!("m{at}"), *claim)).collect();
        assert_eq!(granted(&decisions, gpus), expect, "{name}");
    }
}

#[test]
fn a_cut_explains_itself_and_changes_the_actions() {
    let cut = arbitrate(&[decision("a", (1, 5, 1, 2))], &Budgets { gpus: Some(6) });
    let pool = cut[0].pools.values().next().expect("a pool");
    assert_eq!(pool.desired, 3);
    assert_eq!(
        pool.summary(),
        "1 -> 3: 3 rather than 5: all models together ask for 10 GPUs and `gpuBudget` is 6 (a replica here takes 2)"
    );
    let expect = Action::SetReplicas { pool: PoolId::new("a"), from: 1, to: 3, remove_first: Vec::new() };
    assert_eq!(pool.actions, [expect]);
    let gone = arbitrate(&[decision("a", (1, 1, 0, 2))], &Budgets { gpus: Some(1) });
    assert!(matches!(gone[0].pools.values().next().expect("a pool").actions[0], Action::Close { .. }));
}

#[test]
fn no_budget_changes_nothing() {
    let decisions = [decision("a", (1, 50, 1, 8))];
    assert_eq!(arbitrate(&decisions, &Budgets::default()), decisions);
}
