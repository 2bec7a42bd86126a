//! Who writes the count: other loops, people, and the process that comes after this one.

use crate::world::{SECOND, World, policy, spec};
use loadline_control::{Checkpoint, Event, GatewayUse, MetricQuery, Mode};
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use loadline_policy::memory::MAX_MEMORY_BYTES;
use std::time::Duration;

/// Holds a scale-down for a minute.
fn minute_window(pool: &mut loadline_policy::PoolPolicy) {
    let loadline_policy::Rule::Hpa(rule) = &mut pool.rule;
    rule.controller.downscale_stabilization = Duration::from_secs(60);
}

/// Somebody writes the count of the target.
fn write(world: &mut World, replicas: u32) {
    world.target = replicas;
    world.feed(Event::Counted { pool: "m".into(), replicas });
}

#[test]
fn failure_12_two_writers_come_to_rest() {
    // the other one wants 2, looks every 15 s, and knows no mercy; the load needs 5
    let mut world = World::new(spec(GatewayUse::Absent, policy(minute_window)), 5);
    world.run(30);
    let mut writes = Vec::new();
    for quarter in 0..4 * 20 {
        if world.target != 2 {
            write(&mut world, 2);
            writes.push(quarter);
        }
        world.run(15);
    }
    assert!((2..=8).contains(&writes.len()), "{} writes in 20 minutes: {:#?}", writes.len(), world.scaled);
    let late = writes.iter().filter(|quarter| **quarter > 4 * 10).count();
    assert!(late <= 2, "{late} in the last 10 minutes");
    assert!(world.alarms.iter().any(|text| text.contains("someone else made it 2")), "{:?}", world.alarms);
    assert!(world.said().contains("was undone"), "{}", world.said());
    world.assert_lawful();
}

#[test]
fn two_of_us_on_one_target_do_not_oscillate() {
    // by mistake two autoscalers, one of which wants twice as much, look after one target
    let mut one = World::new(spec(GatewayUse::Absent, policy(minute_window)), 4);
    let mut other = World::new(
        spec(
            GatewayUse::Absent,
            policy(|pool| {
                let loadline_policy::Rule::Hpa(rule) = &mut pool.rule;
                rule.metrics[0].target = loadline_policy::hpa::MetricTarget::average_value(8_000);
                rule.controller.downscale_stabilization = Duration::from_secs(60);
            }),
        ),
        4,
    );
    let (mut changes, mut late) = (0, 0);
    for second in 0..900 {
        one.load = 16.0;
        other.load = 16.0;
        for turn in 0..2 {
            let (mine, theirs) = if turn == 0 { (&mut one, &mut other) } else { (&mut other, &mut one) };
            let before = mine.target;
            mine.step();
            if mine.target != before {
                changes += 1;
                late += i32::from(second > 600);
                write(theirs, mine.target);
            }
        }
    }
    assert!(changes <= 16 && late <= 6, "{changes} changes, {late} of them late");
    one.assert_lawful();
    other.assert_lawful();
}

#[test]
fn a_person_is_reported_once_and_not_fought() {
    let mut world = World::new(spec(GatewayUse::Absent, policy(|_| ())), 3);
    world.run(400);
    // up, without any need
    write(&mut world, 6);
    world.run(290);
    assert_eq!((world.target, world.acts.len()), (6, 0), "kept for the down-window: {:#?}", world.scaled);
    let told = "the replica count was 3 and someone else made it 6";
    assert_eq!(world.alarms.iter().filter(|text| text.contains(told)).count(), 1, "{:?}", world.alarms);
    world.run(60);
    assert_eq!(world.target, 3, "then the metrics decide again");
    // down, below what the load needs: raised again, since that is what it needs
    world.run(400);
    write(&mut world, 1);
    world.run(5);
    assert_eq!(world.target, 3, "{:#?}", world.scaled);
    // more is always possible
    write(&mut world, 4);
    world.load = 40.0;
    world.run(60);
    assert_eq!(world.target, 10);
    // outside the bounds: corrected at once
    world.load = 40.0;
    write(&mut world, 14);
    world.run(2);
    assert_eq!(world.target, 10);
    world.assert_lawful();
}

#[test]
fn the_same_count_is_no_news_and_a_foreign_one_ends_what_was_under_way() {
    let mut world = World::new(spec(GatewayUse::Configured, policy(|_| ())), 3);
    world.run(400);
    world.feed(Event::Counted { pool: "m".into(), replicas: 3 });
    world.run(3);
    assert!(world.alarms.is_empty(), "{:?}", world.alarms);
    world.busy = world.ids().into_iter().map(|id| (id, 1)).collect();
    world.load = 4.0;
    while world.control.status(world.now).remove(0).draining == 0 {
        world.step();
    }
    write(&mut world, 4);
    let status = world.control.status(world.now).remove(0);
    assert_eq!((status.desired, status.draining), (4, 0), "nothing drains for a count that nobody wants any more");
    world.run(60);
    assert_eq!(world.target, 4);
    world.assert_lawful();
}

#[test]
fn an_advisor_only_speaks() {
    let mut advisory = spec(GatewayUse::Configured, policy(|pool| pool.min_replicas = 0));
    advisory.mode = Mode::Advisory;
    let mut world = World::new(advisory.clone(), 3);
    world.load = 32.0;
    world.run(60);
    let desired = world.decided.as_ref().map(|decided| decided.desired);
    assert_eq!((desired, world.acts.len(), world.scaled.len()), (Some(6), 0, 0));
    // whoever sets the count is right
    write(&mut world, 6);
    world.run(60);
    world.load = 0.0;
    world.run(900);
    assert_eq!(world.decided.as_ref().map(|decided| decided.desired), Some(0));
    assert_eq!((world.acts.len(), world.target), (0, 6));
    let closes = world.orders.iter().filter(|o| matches!(o, GatewayOrder::Close { .. } | GatewayOrder::Drain { .. }));
    assert_eq!((closes.count(), world.alarms.as_slice()), (0, [].as_slice()));
    // and the day it may act, it does
    world.spec.mode = Mode::Active;
    let spec = world.spec.clone();
    world.feed(Event::Configure(vec![spec]));
    world.run(5);
    assert_eq!(world.target, 0);
    // back again in the middle of a drain
    world.load = 8.0;
    world.run(60);
    world.busy = world.ids().into_iter().map(|id| (id, 1)).collect();
    world.load = 3.0;
    while world.control.status(world.now).remove(0).draining == 0 {
        world.step();
    }
    world.feed(Event::Configure(vec![advisory]));
    let status = world.control.status(world.now).remove(0);
    assert_eq!((status.draining, status.desired), (0, world.target));
    world.assert_lawful();
}

#[test]
fn failure_15_a_wake_is_answered_by_the_next_writer() {
    let mut spec = spec(GatewayUse::Configured, policy(|pool| pool.min_replicas = 0));
    spec.queries = vec![MetricQuery::GatewayDemand];
    let mut world = World::new(spec, 0);
    world.load = 0.0;
    world.run(30);
    // the writer dies with the wake in its hands; the gateway says it again to the next one
    world.take_over(world.control.checkpoint());
    let wake = GatewayReport::Wake { gateway: "g".into(), model: "m".into(), epoch: 1, held: 1 };
    world.feed(Event::Gateway(wake));
    assert_eq!(world.target, 1, "at once");
    assert!(world.orders.iter().any(|order| matches!(order, GatewayOrder::Ack { expected: Some(_), .. })));
    world.assert_lawful();
}

#[test]
fn failure_16_a_budget_of_zero_is_one_and_is_said() {
    let mut world = World::new(spec(GatewayUse::Absent, policy(|pool| pool.gpus_per_replica = 1)), 2);
    world.run(10);
    world.control.set_budgets(loadline_policy::Budgets { gpus: Some(3) });
    world.load = 40.0;
    world.run(10);
    assert_eq!(world.target, 3);
    assert!(world.said().contains("`gpuBudget` is 3"), "{}", world.said());
    world.control.set_budgets(loadline_policy::Budgets { gpus: Some(0) });
    world.run(10);
    assert_eq!(world.target, 0, "{}", world.said());
    assert!(world.said().contains("`gpuBudget` is 0"), "{}", world.said());
}

#[test]
fn failure_22_a_restart_holds_for_a_down_window() {
    struct Case {
        name: &'static str,
        /// Before the restart, what it had seen is kept; else the checkpoint is lost.
        has_checkpoint: bool,
        away: u64,
    }
    for case in [
        Case { name: "with its memory", has_checkpoint: true, away: 5 },
        Case { name: "after an hour", has_checkpoint: true, away: 3_600 },
        Case { name: "without any memory", has_checkpoint: false, away: 5 },
    ] {
        let mut world = World::new(spec(GatewayUse::Absent, policy(|_| ())), 6);
        world.run(400);
        let checkpoint = if case.has_checkpoint { world.control.checkpoint() } else { Checkpoint::default() };
        world.now = world.now.plus(SECOND * u32::try_from(case.away).expect("small"));
        world.load = 4.0;
        world.take_over(checkpoint);
        world.run(295);
        assert_eq!((world.target, world.scaled.len()), (6, 0), "{}: {:#?}", case.name, world.scaled);
        assert!(world.alarms.is_empty(), "{}: {:?}", case.name, world.alarms);
        world.run(20);
        assert_eq!(world.target, 1, "{}: a window later it has seen enough", case.name);
        // up needs no history
        let mut world = World::new(spec(GatewayUse::Absent, policy(|_| ())), 6);
        world.load = 32.0;
        world.run(3);
        assert_eq!(world.target, 8, "{}", case.name);
        world.assert_lawful();
    }
}

#[test]
fn a_count_written_while_nobody_looked_is_somebody_elses() {
    let mut world = World::new(spec(GatewayUse::Absent, policy(|_| ())), 3);
    world.run(60);
    let checkpoint = world.control.checkpoint();
    world.target = 5;
    world.reconcile_quietly(5);
    world.take_over(checkpoint);
    world.run(100);
    assert_eq!(world.target, 5);
    assert!(world.alarms.iter().any(|text| text.contains("was 3 and someone else made it 5")), "{:?}", world.alarms);
    world.assert_lawful();
}

#[test]
fn a_checkpoint_is_one_per_model_and_bounded() {
    let mut world = World::new(spec(GatewayUse::Absent, policy(|pool| pool.max_replicas = 30)), 4);
    let mut largest = 0;
    for round in 0_u32..400 {
        // every second another count is asked for, and now and then somebody else writes one
        world.load = f64::from(round * 7_919 % 120);
        world.step();
        if round % 97 == 0 {
            write(&mut world, round * 31 % 29 + 1);
        }
        if round % 50 == 0 {
            let memory = world.control.checkpoint_of(&"m".into()).expect("it is known");
            largest = largest.max(serde_json::to_string(&memory).expect("serialisable").len());
        }
    }
    assert!((1_000..=MAX_MEMORY_BYTES).contains(&largest), "{largest} bytes");
    assert_eq!(world.control.checkpoint_of(&"other".into()), None);
    let whole = world.control.checkpoint();
    assert_eq!(whole.memories.get("m").cloned(), world.control.checkpoint_of(&"m".into()));
    world.assert_lawful();
}

#[test]
fn a_released_model_leaves_its_target_as_it_is() {
    let mut world = World::new(spec(GatewayUse::Absent, policy(|_| ())), 3);
    world.run(10);
    world.feed(Event::Release("m".into()));
    world.feed(Event::Configure(Vec::new()));
    assert!(!world.control.knows(&"m".into()) && world.control.scrape_targets().count() == 0);
    assert_eq!((world.target, world.acts.len(), world.control.next_deadline()), (3, 0, None));
    // the same name again is another autoscaler
    world.take_over(Checkpoint::default());
    world.run(10);
    assert_eq!(world.target, 3);
}

#[test]
fn a_target_that_cannot_be_written_is_said_at_once() {
    let mut world = World::new(spec(GatewayUse::Absent, policy(|_| ())), 3);
    world.run(10);
    let why = "deployments.apps \"m\" is forbidden: cannot patch resource \"deployments/scale\"";
    world.feed(Event::Written { pool: "m".into(), outcome: Err(why.to_owned()) });
    world.run(5);
    assert_eq!(world.alarms.iter().filter(|text| text.contains("forbidden")).count(), 1, "{:?}", world.alarms);
    assert!(world.control.status(world.now).remove(0).unwritten.is_some());
    world.feed(Event::Written { pool: "m".into(), outcome: Ok(()) });
    world.run(2);
    assert_eq!(world.decided.as_ref().map(|decided| decided.alarms.len()), Some(0));
}

#[test]
fn a_crossed_threshold_does_not_wait_for_the_period_and_pages_are_decided_together() {
    let mut world = World::new(spec(GatewayUse::Absent, policy(|pool| pool.max_replicas = 40)), 10);
    world.run(10);
    let (mut decisions, start) = (0, world.now);
    world.load = 80.0;
    // all pages of ten replicas come within 50 ms of each other, 300 ms after the last decision
    for (at, id) in world.ids().into_iter().enumerate() {
        world.now = start.plus(Duration::from_millis(300 + 5 * at as u64));
        let before = world.decided.take();
        let (at, outcome) = (world.now, Ok(crate::world::page(8.0)));
        world.feed(Event::Scraped { replica: id, at, outcome });
        decisions += u32::from(world.decided.is_some());
        world.decided = world.decided.take().or(before);
    }
    assert_eq!(decisions, 1, "on the first page that crosses; the others come too soon after it");
    let next = world.control.next_deadline().expect("the rest is due");
    assert!(next <= start.plus(Duration::from_millis(450)), "100 ms after that one");
    world.now = next;
    world.feed(Event::Tick);
    assert_eq!(world.target, 20, "{:#?}", world.scaled);
    // values that ask for nothing else make nothing urgent
    let decided = world.decided.clone();
    for (at, id) in world.ids().into_iter().take(10).enumerate() {
        world.now = next.plus(Duration::from_millis(200 + at as u64));
        let (at, outcome) = (world.now, Ok(crate::world::page(8.0)));
        world.feed(Event::Scraped { replica: id, at, outcome });
    }
    assert_eq!(world.decided, decided);
    world.assert_lawful();
}
