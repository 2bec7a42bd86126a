//! Hours of silence and doubt.

use crate::world::{SECOND, World, page, policy, spec};
use loadline_control::{Event, GatewayUse};
use loadline_policy::{Alarm, Fallback};
use std::time::Duration;

#[test]
fn failure_01_source_down_is_not_zero() {
    for gateway in [GatewayUse::Absent, GatewayUse::Configured] {
        let mut world = World::new(spec(gateway, policy(|pool| pool.min_replicas = 0)), 4);
        world.run(60);
        world.is_scraping = false;
        world.gateway_speaks = false;
        world.load = 0.0;
        world.run_hours(3);
        assert_eq!((world.target, world.scaled.len()), (4, 0), "{:#?}", world.scaled);
        assert!(world.alarms.iter().any(|text| text.contains("cannot act")), "{:?}", world.alarms);
        // the same with errors instead of silence, then the source is back and says that there is nothing
        world.is_scraping = true;
        world.pods.values_mut().for_each(|pod| pod.is_silent = true);
        world.run_hours(1);
        assert_eq!(world.target, 4);
        world.pods.values_mut().for_each(|pod| pod.is_silent = false);
        world.gateway_speaks = true;
        world.run(700);
        assert_eq!(world.target, 0, "proven by whoever can: {:#?}", world.scaled);
        world.assert_lawful();
    }
}

#[test]
fn failure_02_zero_traffic_shrinks_on_proof() {
    // the only metric vanishes from the pages when nothing happens
    let mut spec = spec(GatewayUse::Configured, policy(|pool| pool.min_replicas = 0));
    spec.queries = vec![loadline_control::MetricQuery::Series { key: "ttft_mean".to_owned() }];
    let mut world = World::new(spec, 3);
    world.run(30);
    assert_eq!(world.target, 3);
    world.load = 0.0;
    world.run(90);
    assert_eq!(world.target, 0, "{}", world.said());
    world.assert_lawful();
}

#[test]
fn failure_03_invalid_intervals_never_shrink() {
    let mut world = World::new(spec(GatewayUse::Absent, policy(|_| ())), 5);
    world.run(30);
    for round in 0..60 {
        // 5 good seconds, then a page of NaN or none at all for up to 25
        for id in world.ids() {
            let outcome = if round % 2 == 0 { Ok(page(f64::NAN)) } else { Err("timeout".to_owned()) };
            world.feed(Event::Scraped { replica: id, at: world.now, outcome });
        }
        world.is_scraping = false;
        world.run(round % 26);
        world.is_scraping = true;
        world.run(5);
    }
    assert_eq!((world.target, world.scaled.len()), (5, 0), "{:#?}", world.scaled);
    world.assert_lawful();
}

#[test]
fn failure_04_no_live_signal_is_said_within_three_periods() {
    let mut world = World::new(spec(GatewayUse::Absent, policy(|_| ())), 2);
    world.run(30);
    assert_eq!(world.alarms, Vec::<String>::new());
    world.is_scraping = false;
    let silent = world.now;
    while world.alarms.is_empty() {
        world.step();
        // 10 periods until a value is missing, then 3 until it is said
        assert!(world.now.since(silent) <= SECOND * 15, "inert and healthy");
    }
    let decided = world.decided.as_ref().expect("decisions go on");
    assert!(decided.alarms.iter().any(|alarm| matches!(alarm, Alarm::CannotAct { .. })), "{:?}", decided.alarms);
    world.run(600);
    assert_eq!(world.alarms.len(), 1, "once, not every second: {:?}", world.alarms);
}

#[test]
fn failure_06_no_oscillation_between_two_and_one() {
    let mut world = World::new(spec(GatewayUse::Absent, policy(|_| ())), 2);
    for minute in 0..20 {
        world.load = if minute % 2 == 0 { 3.5 } else { 5.0 };
        world.run(60);
    }
    assert!(world.scaled.is_empty(), "the window holds what the last minutes needed: {:#?}", world.scaled);
    world.load = 1.0;
    world.run(400);
    assert_eq!((world.target, world.scaled.len()), (1, 1), "{:#?}", world.scaled);
    world.assert_lawful();
}

#[test]
fn failure_09_survivors_are_not_all() {
    let mut world = World::new(spec(GatewayUse::Absent, policy(|_| ())), 4);
    world.run(30);
    // three are full and unreachable, the one that still speaks has nothing to do
    for (at, pod) in world.pods.values_mut().enumerate() {
        pod.is_silent = at > 0;
        pod.running = (at == 0).then_some(0.0);
    }
    world.run(120);
    assert_eq!(world.target, 4, "{:#?}", world.scaled);
    assert!(world.said().contains("unknown"), "{}", world.said());
    world.assert_lawful();
}

#[test]
fn failure_10_fallback_is_never_below_the_count() {
    let fallback = Fallback { replicas: 3, after: Duration::from_secs(120) };
    struct Case {
        name: &'static str,
        count: u32,
        max: u32,
        expect: u32,
    }
    for case in [
        Case { name: "in the middle of a burst", count: 7, max: 10, expect: 7 },
        Case { name: "too few", count: 1, max: 10, expect: 3 },
        Case { name: "limited", count: 1, max: 2, expect: 2 },
    ] {
        let policy = policy(|pool| {
            pool.fallback = Some(fallback);
            pool.max_replicas = case.max;
        });
        let mut world = World::new(spec(GatewayUse::Absent, policy), case.count);
        world.run(30);
        world.is_scraping = false;
        world.load = 0.0;
        world.run(100);
        assert_eq!(world.target, case.count, "{}: not yet", case.name);
        world.run_hours(2);
        assert_eq!(world.target, case.expect, "{}: {:#?}", case.name, world.scaled);
        assert!(world.said().contains("`fallback`"), "{}: {}", case.name, world.said());
        assert!(world.alarms.iter().any(|text| text.contains("cannot act")), "{}", case.name);
        world.assert_lawful();
    }
}

#[test]
fn a_fallback_does_not_take_a_cold_start_for_silence() {
    let fallback = Fallback { replicas: 5, after: Duration::from_secs(30) };
    let policy = policy(|pool| pool.fallback = Some(fallback));
    let mut world = World::new(spec(GatewayUse::Absent, policy), 0);
    world.start = Duration::from_secs(60);
    world.load = 2.0;
    world.run(120);
    assert_eq!(world.target, 1, "the minimum, which took 60 s to start: {:#?}", world.scaled);
}
