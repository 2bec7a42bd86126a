//! Pods that cannot run, die, lie or start slowly.

use crate::world::{SECOND, World, page, policy, spec};
use loadline_base::ReplicaId;
use loadline_control::{Event, GatewayUse, MetricQuery, ReplicaEvent, Supplied};
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use loadline_policy::hpa::{HpaRule, MetricSource, MetricSpec, MetricTarget};
use loadline_policy::{Alarm, Rule};
use std::time::Duration;

#[test]
fn failure_05_unschedulable_pods_freeze_nothing() {
    let mut world = World::new(spec(GatewayUse::Absent, policy(|_| ())), 3);
    world.room = 3;
    world.run(30);
    world.load = 18.0;
    world.run(30);
    assert_eq!((world.target, world.pods.len()), (5, 5), "{:#?}", world.scaled);
    let told = "3 of 5 replicas have started; 2 cannot be scheduled: 0/4 nodes are available";
    assert!(world.alarms.iter().any(|text| text.contains(told)), "{:?}", world.alarms);
    assert!(world.said().contains(told), "in the steps, too");
    // half an hour later decisions still follow the load, upwards
    world.run(100);
    world.load = 27.0;
    world.run(30);
    assert_eq!(world.target, 7);
    // and downwards: what could not be placed is cancelled, what serves is kept
    world.load = 12.0;
    let serving: Vec<ReplicaId> = world.pods.iter().filter(|(_, pod)| pod.is_ready).map(|(id, _)| id.clone()).collect();
    world.run(600);
    assert_eq!((world.target, world.ids()), (3, serving), "{:#?}", world.scaled);
    world.assert_lawful();
}

#[test]
fn a_pod_that_never_becomes_ready_is_not_waited_for() {
    let mut world = World::new(spec(GatewayUse::Absent, policy(|pool| pool.min_replicas = 0)), 2);
    world.run(30);
    world.start = Duration::from_secs(1_000_000);
    world.load = 12.0;
    world.run(50);
    let status = |world: &World| world.control.status(world.now).remove(0);
    assert_eq!((status(&world).ready, status(&world).starting), (2, 1));
    assert!(!world.said().contains("started long ago"), "{}", world.said());
    world.run(60);
    assert!(world.said().contains("1 should have started long ago"), "{}", world.said());
    let decided = world.decided.as_ref().expect("decisions go on");
    assert!(decided.alarms.iter().any(|alarm| matches!(alarm, Alarm::Unplaced { .. })));
    // it does not stand in the way of zero either: everybody who can speak is idle
    world.load = 0.0;
    world.run(500);
    assert_eq!(world.target, 0, "{}", world.said());
    world.assert_lawful();
}

#[test]
fn a_pod_that_finds_a_node_late_has_its_whole_start_before_it() {
    let mut world = World::new(spec(GatewayUse::Absent, policy(|_| ())), 1);
    world.room = 1;
    world.load = 8.0;
    world.run(300);
    assert!(world.said().contains("1 cannot be scheduled"), "{}", world.said());
    let id = world.ids().into_iter().find(|id| world.pods[id].is_homeless).expect("one has no node");
    world.say(&id, ReplicaEvent::Scheduled);
    world.run(10);
    let steps = world.decided.as_ref().map(|decided| format!("{:?}", decided.steps)).unwrap_or_default();
    assert!(!steps.contains("Unplaced"), "{steps}");
}

#[test]
fn failure_07_the_gauge_of_a_dead_pod_dies_with_it() {
    let mut world = World::new(spec(GatewayUse::Absent, policy(|_| ())), 3);
    world.run(30);
    let id = world.ids().remove(0);
    world.pods.get_mut(&id).expect("a pod").running = Some(9.0);
    world.load = 6.0;
    world.run(5);
    world.end(&id);
    world.run(700);
    assert_eq!(world.target, 2, "6 requests on pods that live: {:#?}", world.scaled);
    assert!(!world.pods.contains_key(&id));
    world.assert_lawful();
}

#[test]
fn failure_08_a_crash_looping_pod_blocks_nothing() {
    let mut world = World::new(spec(GatewayUse::Absent, policy(|_| ())), 3);
    world.run(30);
    let id = world.ids().remove(0);
    let flap = |world: &mut World, seconds: u64| {
        for _ in 0..seconds / 10 {
            world.say(&id, ReplicaEvent::Failed { why: "exit code 139".to_owned() });
            world.run(6);
            world.say(&id, ReplicaEvent::Ready);
            world.run(4);
        }
    };
    world.load = 24.0;
    flap(&mut world, 120);
    assert!(world.target >= 6, "up in spite of it: {:#?}", world.scaled);
    world.load = 6.0;
    flap(&mut world, 1_500);
    assert!(world.target <= 3, "and down again: {} {:#?}", world.target, world.scaled);
    world.assert_lawful();
}

#[test]
fn failure_17_starting_pods_are_capacity_to_come() {
    let demand = |pool: &mut loadline_policy::PoolPolicy| {
        pool.min_replicas = 0;
        pool.rule = Rule::Hpa(HpaRule {
            metrics: vec![MetricSpec {
                source: MetricSource::Signal { name: "requests_demand".into() },
                target: MetricTarget::average_value(4_000),
            }],
            ..HpaRule::default()
        });
    };
    let mut with_gateway = spec(GatewayUse::Configured, policy(demand));
    with_gateway.queries = vec![MetricQuery::GatewayDemand];
    let mut world = World::new(with_gateway, 0);
    world.start = Duration::from_secs(300);
    world.load = 7.0;
    // the same seven requests are held all the while
    world.run(299);
    assert_eq!(world.target, 2, "7 at 4 per replica, however long they wait: {:#?}", world.scaled);
    world.run(100);
    assert_eq!(world.target, 2);
    // by engine signals: two starting pods beside two full ones are enough for twice the load
    let mut world = World::new(spec(GatewayUse::Absent, policy(|_| ())), 2);
    world.start = Duration::from_secs(50);
    world.run(10);
    world.load = 16.0;
    world.run(45);
    assert_eq!(world.target, 4, "{:#?}", world.scaled);
    world.assert_lawful();
}

#[test]
fn failure_23_a_new_life_of_a_pod_starts_from_nothing() {
    let mut spec = spec(GatewayUse::Absent, policy(|_| ()));
    spec.removal = loadline_control::Removal::HighestOrdinal;
    let mut world = World::new(spec, 2);
    world.run(30);
    let id = ReplicaId::from("ns/m-1");
    let before = world.now;
    world.pods.get_mut(&id).expect("a pod").is_silent = true;
    world.end(&id);
    world.run(3);
    assert!(world.pods[&id].created > before, "the same name, another pod");
    // a page of the first life that comes late, and the start of the second
    world.feed(Event::Scraped { replica: id.clone(), at: before, outcome: Ok(page(9_000_000.0)) });
    world.run(120);
    assert_eq!(world.target, 2, "{:#?}", world.scaled);
    assert!(world.scaled.is_empty());
    world.assert_lawful();
}

#[test]
fn failure_24_a_total_is_not_multiplied() {
    // an absolute (12 requests in the whole system) against a share per replica, brought from outside
    let external = |pool: &mut loadline_policy::PoolPolicy| {
        pool.rule = Rule::Hpa(HpaRule {
            metrics: vec![MetricSpec {
                source: MetricSource::External { metric: "queue".to_owned(), selector: None },
                target: MetricTarget::average_value(4_000),
            }],
            ..HpaRule::default()
        });
    };
    let mut spec = spec(GatewayUse::Absent, policy(external));
    spec.queries = vec![MetricQuery::Supplied { period: SECOND * 15 }];
    let mut world = World::new(spec, 3);
    let supply = |world: &mut World, value: f64| {
        let (at, outcome) = (world.now, Ok(Supplied::Total(value)));
        world.feed(Event::Supplied { model: "m".into(), metric: 0, at, outcome });
    };
    for _ in 0..60 {
        supply(&mut world, 12.0);
        world.run(15);
    }
    assert_eq!(world.target, 3, "{:#?}", world.scaled);
    // a crossed threshold is decided at once, without any time passing
    supply(&mut world, 19.0);
    world.now = world.now.plus(Duration::from_millis(100));
    world.feed(Event::Tick);
    assert_eq!(world.target, 5);
    world.assert_lawful();
}

#[test]
fn supplied_shares_of_replicas_work_like_a_resource_metric() {
    let cpu = |pool: &mut loadline_policy::PoolPolicy| {
        pool.rule = Rule::Hpa(HpaRule {
            metrics: vec![MetricSpec {
                source: MetricSource::Resource { name: "cpu".to_owned() },
                target: MetricTarget::utilization(50),
            }],
            ..HpaRule::default()
        });
    };
    let mut spec = spec(GatewayUse::Absent, policy(cpu));
    spec.queries = vec![MetricQuery::Supplied { period: SECOND * 15 }];
    let mut world = World::new(spec, 2);
    let supply = |world: &mut World, percent: &[f64]| {
        let values = world.ids().into_iter().zip(percent.iter().copied()).collect();
        let (at, outcome) = (world.now, Ok(Supplied::PerReplica(values)));
        world.feed(Event::Supplied { model: "m".into(), metric: 0, at, outcome });
    };
    supply(&mut world, &[80.0, 90.0]);
    world.run(2);
    assert_eq!(world.target, 4, "85 % of 50 % on two: {:#?}", world.scaled);
    world.run(25);
    supply(&mut world, &[50.0; 4]);
    // then its source is gone: nothing is lowered, and a person hears why
    let (at, outcome) = (world.now, Err("metrics.k8s.io answers 503".to_owned()));
    world.feed(Event::Supplied { model: "m".into(), metric: 0, at, outcome });
    world.run(200);
    assert_eq!(world.target, 4);
    assert!(world.said().contains("503"), "{}", world.said());
    world.assert_lawful();
}

#[test]
fn a_wake_of_an_advisor_is_heard_and_nothing_is_promised() {
    let mut spec = spec(GatewayUse::Configured, policy(|pool| pool.min_replicas = 0));
    spec.mode = loadline_control::Mode::Advisory;
    let mut world = World::new(spec, 0);
    let wake = GatewayReport::Wake { gateway: "g".into(), model: "m".into(), epoch: 1, held: 1 };
    world.feed(Event::Gateway(wake));
    assert!(world.orders.iter().any(|order| matches!(order, GatewayOrder::Ack { expected: None, .. })));
    assert_eq!((world.acts.len(), world.target), (0, 0));
}
