//! The law checks notice decisions that break them.

use super::build::{IDLE_AFTER, at, demand_policy, gateway, idle_gateway, observed, pool, replica};
use crate::Evidence::{Live, Missing};
use crate::laws::{Made, check_all};
use crate::{Decision, Evidence, Gate, GatewayObservation, Memory, Observation, Policy, ReplicaState, decide};

/// The ids of the laws that a doctored decision breaks.
fn broken(policy: &Policy, seen: &Observation, doctor: impl FnOnce(&mut Decision, &mut Memory)) -> Vec<String> {
    let before = Memory::default();
    let (mut decision, mut after) = decide(policy, seen, before.clone());
    doctor(&mut decision, &mut after);
    let made = Made { policy, seen, before: &before, decision: &decision, after: &after };
    check_all(made).into_iter().map(|violation| violation.law).collect()
}

fn engines(evidence: &[Evidence], gateway: GatewayObservation) -> Observation {
    let replicas = evidence.iter().enumerate().map(|(i, &e)| replica(i, ReplicaState::Ready, e, 0.0)).collect();
    observed(replicas, gateway)
}

fn set(desired: u32) -> impl FnOnce(&mut Decision, &mut Memory) {
    move |decision, _| decision.pools.get_mut(&pool()).expect("pool").desired = desired
}

#[test]
fn doctored_decisions_are_noticed() {
    let idle_for = i64::try_from(IDLE_AFTER.as_secs()).expect("small");
    // every change of the count also breaks L4, since deciding again gives another, and L8, since no step says so
    let cases = [
        ("untouched", engines(&[Live, Live], gateway(0, 8)), 2, vec![]),
        ("down in silence", engines(&[Missing, Missing], gateway(0, 8)), 1, vec!["L1", "L4", "L8"]),
        ("down past the lost", engines(&[Live, Live, Missing], gateway(0, 8)), 1, vec!["L1", "L4", "L8"]),
        ("down with a silent gateway", engines(&[Live, Live], GatewayObservation::Missing), 1, vec!["L1", "L4", "L8"]),
        ("zero too early", engines(&[Live], idle_gateway(idle_for - 1)), 0, vec!["L2", "L4", "L8"]),
        ("zero with work", engines(&[Live], gateway(0, 1)), 0, vec!["L2", "L4", "L8"]),
        ("above the maximum", engines(&[Live], gateway(0, 1)), 11, vec!["L3", "L4", "L8"]),
    ];
    for (name, seen, desired, expect) in cases {
        assert_eq!(broken(&demand_policy(), &seen, set(desired)), expect, "{name}");
    }
}

#[test]
fn a_silent_block_is_noticed() {
    let seen = engines(&[Missing], GatewayObservation::Missing);
    let laws = broken(&demand_policy(), &seen, |_, after| {
        after.pools.get_mut(&pool()).expect("pool").blocked_since = Some(at(-15));
    });
    assert_eq!(laws, ["L4", "L8"]);
}

#[test]
fn the_peers_own_semantics_are_not_judged_by_evidence() {
    let mut policy = demand_policy();
    policy.gate = Gate::Off;
    let seen = engines(&[Missing, Missing], gateway(0, 8));
    assert!(!broken(&policy, &seen, set(1)).contains(&"L1".to_owned()));
}
