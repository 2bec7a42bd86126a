//! Every row of the evidence table, in every direction.

use super::build::{
    at, decide_pool, demand_policy, gateway, idle_gateway, observed, only, per_replica, policy_of, pool, replica,
    signal_metric,
};
use crate::Evidence::{Live, Missing, Stale};
use crate::hpa::HpaRule;
use crate::step::{NotIdle, Step};
use crate::{Alarm, Evidence, GatewayObservation, Memory, Observation, ReplicaState, decide};
use std::time::Duration;

struct Case {
    name: &'static str,
    engines: &'static [Evidence],
    gateway: GatewayObservation,
    expect: u32,
}

fn seen(case: &Case, running: f64) -> Observation {
    let replicas = case.engines.iter().enumerate().map(|(i, &e)| replica(i, ReplicaState::Ready, e, running)).collect();
    observed(replicas, case.gateway)
}

#[test]
fn rows_with_a_gateway() {
    let cases = [
        Case { name: "live, live: up", engines: &[Live, Live], gateway: gateway(4, 12), expect: 4 },
        Case { name: "live, live: down", engines: &[Live, Live, Live], gateway: gateway(0, 3), expect: 1 },
        Case { name: "live, live: zero with proof", engines: &[Live, Live], gateway: idle_gateway(61), expect: 0 },
        Case {
            name: "live, live: not idle for long enough",
            engines: &[Live, Live],
            gateway: idle_gateway(59),
            expect: 1,
        },
        Case { name: "lost: up beside the lost one", engines: &[Live, Missing], gateway: gateway(8, 4), expect: 3 },
        Case { name: "lost: no spare capacity in it", engines: &[Missing, Live], gateway: gateway(5, 0), expect: 3 },
        Case {
            name: "lost: down as far as it holds",
            engines: &[Live, Live, Live, Missing],
            gateway: gateway(0, 4),
            expect: 2,
        },
        Case {
            name: "stale counts as lost on the way down",
            engines: &[Live, Live, Stale],
            gateway: gateway(0, 5),
            expect: 3,
        },
        Case { name: "lost: no zero", engines: &[Live, Missing], gateway: idle_gateway(600), expect: 1 },
        Case {
            name: "missing, live: up from arrivals",
            engines: &[Missing, Missing],
            gateway: gateway(0, 16),
            expect: 4,
        },
        Case {
            name: "missing, live: no down",
            engines: &[Missing, Missing, Missing],
            gateway: gateway(0, 1),
            expect: 3,
        },
        Case {
            name: "missing, live: zero with proof",
            engines: &[Missing, Missing],
            gateway: idle_gateway(61),
            expect: 0,
        },
        Case {
            name: "live, gateway missing: hold",
            engines: &[Live, Live],
            gateway: GatewayObservation::Missing,
            expect: 2,
        },
        Case {
            name: "both missing: hold",
            engines: &[Missing, Missing],
            gateway: GatewayObservation::Missing,
            expect: 2,
        },
    ];
    for case in &cases {
        let decided = decide_pool(&demand_policy(), &seen(case, 0.0));
        assert_eq!(decided.desired, case.expect, "{}: {:#?}", case.name, decided.steps);
    }
}

#[test]
fn rows_without_a_gateway() {
    let mut rule = HpaRule { metrics: vec![signal_metric("requests_running", 4_000)], ..HpaRule::default() };
    rule.controller.downscale_stabilization = Duration::ZERO;
    let policy = policy_of(rule, 0, 10);
    let cases: [(&str, &[Evidence], f64, u32); 5] = [
        ("live: up", &[Live, Live], 8.0, 4),
        ("live: down", &[Live, Live, Live], 1.0, 1),
        ("some lost: down only beside the lost", &[Live, Live, Live, Missing], 1.0, 2),
        ("some lost: up", &[Live, Missing], 8.0, 3),
        ("all missing: hold", &[Missing, Missing, Missing], 8.0, 3),
    ];
    for (name, engines, running, expect) in cases {
        let case = Case { name, engines, gateway: GatewayObservation::Absent, expect };
        let mut seen = seen(&case, running);
        let values: Vec<_> = engines.iter().enumerate().map(|(index, &e)| (index, running, e)).collect();
        seen.pools.get_mut(&pool()).expect("pool").metrics = vec![per_replica(&values)];
        let decided = decide_pool(&policy, &seen);
        assert_eq!(decided.desired, expect, "{name}: {:#?}", decided.steps);
    }
}

#[test]
fn without_a_gateway_zero_needs_every_replica() {
    let policy = demand_policy();
    let idle = |seconds: &[Option<i64>]| {
        let replicas = seconds.iter().enumerate().map(|(index, idle)| crate::ReplicaObservation {
            idle_since: idle.map(|seconds| at(-seconds)),
            ..replica(index, ReplicaState::Ready, Live, 0.0)
        });
        observed(replicas.collect(), GatewayObservation::Absent)
    };
    assert_eq!(decide_pool(&policy, &idle(&[Some(61), Some(90)])).desired, 0);
    assert_eq!(decide_pool(&policy, &idle(&[Some(61), Some(59)])).desired, 2);
    assert_eq!(decide_pool(&policy, &idle(&[Some(61), None])).desired, 2);
    let mut starting = idle(&[Some(61), Some(61)]);
    starting.pools.get_mut(&pool()).expect("pool").replicas[1].state = ReplicaState::Starting;
    assert_eq!(decide_pool(&policy, &starting).desired, 2, "a replica that starts has proven nothing");
}

#[test]
fn zero_is_withheld_with_a_reason() {
    let policy = demand_policy();
    let withheld = |seen: &Observation| {
        let decided = decide_pool(&policy, seen);
        let why = decided.steps.iter().find_map(|step| match step {
            Step::IdleWithheld { why } => Some(*why),
            _ => None,
        });
        (decided.desired, why)
    };
    let busy = observed(vec![replica(0, ReplicaState::Ready, Live, 1.0)], idle_gateway(600));
    assert_eq!(withheld(&busy), (1, Some(NotIdle::EngineBusy)));
    let mut unknown = observed(vec![replica(0, ReplicaState::Ready, Missing, 0.0)], idle_gateway(600));
    unknown.pools.get_mut(&pool()).expect("pool").replicas[0].known = false;
    assert_eq!(withheld(&unknown), (1, Some(NotIdle::ReplicaUnknown)));
    let mut unlisted = observed(vec![replica(0, ReplicaState::Ready, Live, 0.0)], idle_gateway(600));
    unlisted.pools.get_mut(&pool()).expect("pool").status_replicas = 2;
    assert_eq!(withheld(&unlisted), (1, Some(NotIdle::EngineSilent)));
    let silent = observed(vec![replica(0, ReplicaState::Ready, Live, 0.0)], GatewayObservation::Missing);
    assert_eq!(withheld(&silent), (1, Some(NotIdle::GatewaySilent)));
}

#[test]
fn a_report_of_a_gateway_grows_old() {
    let mut seen = observed((0..3).map(|i| replica(i, ReplicaState::Ready, Live, 0.0)).collect(), idle_gateway(600));
    let age = |seen: &mut Observation, seconds: i64| {
        if let GatewayObservation::Live { at: time, .. } = &mut seen.pools.get_mut(&pool()).expect("pool").gateway {
            *time = at(-seconds);
        }
    };
    for (seconds, expect) in [(10, 0), (11, 3), (50, 3), (51, 3)] {
        age(&mut seen, seconds);
        assert_eq!(decide_pool(&demand_policy(), &seen).desired, expect, "{seconds} s");
    }
}

#[test]
fn an_autoscaler_that_cannot_act_says_so_after_three_periods() {
    let policy = demand_policy();
    let mut seen = observed(vec![replica(0, ReplicaState::Ready, Missing, 0.0)], GatewayObservation::Missing);
    let mut memory = Memory::default();
    for (seconds, alarmed) in [(0, false), (5, false), (14, false), (15, true), (20, true)] {
        seen.now = at(seconds);
        let (decision, next) = decide(&policy, &seen, memory);
        memory = next;
        let said = only(decision).alarms.iter().any(|alarm| matches!(alarm, Alarm::CannotAct { .. }));
        assert_eq!(said, alarmed, "{seconds} s");
    }
}
