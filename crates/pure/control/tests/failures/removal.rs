//! Who goes, and what it may finish before.

use crate::world::{World, policy, spec};
use loadline_base::ReplicaId;
use loadline_control::{Event, GatewayUse, Removal, ReplicaEvent};
use loadline_hold::protocol::GatewayOrder;
use loadline_policy::ReplicaState;

/// Scales down within seconds.
fn quick(pool: &mut loadline_policy::PoolPolicy) {
    let loadline_policy::Rule::Hpa(rule) = &mut pool.rule;
    rule.controller.downscale_stabilization = std::time::Duration::ZERO;
}

fn drains(world: &World) -> Vec<&str> {
    let drained = world.orders.iter().filter_map(|order| match order {
        GatewayOrder::Drain { replica, .. } => Some(replica.as_str()),
        _ => None,
    });
    drained.collect()
}

#[test]
fn failure_13_without_a_gateway_the_emptiest_are_named_and_the_count_goes_down_at_once() {
    let mut world = World::new(spec(GatewayUse::Absent, policy(quick)), 4);
    world.run(10);
    let ids = world.ids();
    for (id, running) in ids.iter().zip([5.0, 1.0, 2.0, 0.0]) {
        world.pods.get_mut(id).expect("a pod").running = Some(running);
    }
    world.run(5);
    assert_eq!(world.target, 2, "8 requests at 4");
    let (from, to, mut named) = world.acts.last().cloned().expect("an order");
    named.sort();
    let mut emptiest = vec![ids[1].clone(), ids[3].clone()];
    emptiest.sort();
    assert_eq!((from, to, named), (4, 2, emptiest), "one order, and the two with the least to do");
    assert_eq!(world.orders, Vec::<GatewayOrder>::new(), "nobody to say anything to");
    assert_eq!(world.ids(), [ids[0].clone(), ids[2].clone()].into_iter().collect::<Vec<_>>());
    world.assert_lawful();
}

#[test]
fn failure_13_with_a_gateway_the_count_waits_for_the_drain() {
    let mut world = World::new(spec(GatewayUse::Configured, policy(quick)), 3);
    world.run(10);
    let ids = world.ids();
    for (id, running) in ids.iter().zip([4.0, 1.0, 3.0]) {
        world.pods.get_mut(id).expect("a pod").running = Some(running);
        world.busy.insert(id.clone(), running as u32);
    }
    world.run(5);
    assert_eq!((world.target, drains(&world)), (3, vec![ids[1].as_str()]), "drained, not removed");
    world.drained(&ids[1]);
    assert_eq!(world.target, 2);
    assert_eq!(world.acts, [(3, 2, vec![ids[1].clone()])]);
    world.assert_lawful();
}

#[test]
fn failure_13_a_stateful_set_is_drained_from_the_top() {
    let mut stateful = spec(GatewayUse::Configured, policy(quick));
    stateful.removal = Removal::HighestOrdinal;
    let mut world = World::new(stateful, 5);
    world.run(10);
    for id in world.ids() {
        world.busy.insert(id.clone(), 2);
    }
    // the lowest is as empty as any; it stays
    for (id, running) in world.ids().iter().zip([0.0, 6.0, 6.0, 0.0, 0.0]) {
        world.pods.get_mut(id).expect("a pod").running = Some(running);
    }
    world.run(5);
    assert_eq!((world.target, drains(&world)), (5, vec!["ns/m-3", "ns/m-4"]), "12 at 4: to three");
    // the lower of the two is empty first and has to wait, since the target would take the other
    world.drained(&"ns/m-3".into());
    world.run(3);
    assert_eq!(world.target, 5);
    // a new burst takes both back, the one that was empty, too
    world.busy.insert("ns/m-3".into(), 2);
    for pod in world.pods.values_mut() {
        pod.running = Some(4.0);
    }
    world.run(2);
    let status = world.control.status(world.now).remove(0);
    assert_eq!((status.desired, status.ready, status.draining, world.target), (5, 5, 0, 5));
    // down again; now the top empties first
    for pod in world.pods.values_mut() {
        pod.running = Some(2.0);
    }
    world.run(5);
    world.drained(&"ns/m-4".into());
    assert_eq!(world.target, 4, "as far as it is empty");
    world.drained(&"ns/m-3".into());
    assert_eq!(world.target, 3);
    world.run(10);
    assert_eq!(world.ids(), ["ns/m-0", "ns/m-1", "ns/m-2"].map(ReplicaId::from));
    assert_eq!(world.acts.iter().map(|(from, to, _)| (*from, *to)).collect::<Vec<_>>(), [(5, 4), (4, 3)]);
    world.assert_lawful();
}

#[test]
fn a_stateful_set_goes_past_pods_that_have_nothing() {
    let mut stateful = spec(GatewayUse::Configured, policy(quick));
    stateful.removal = Removal::HighestOrdinal;
    let mut world = World::new(stateful, 3);
    world.room = 3;
    world.run(10);
    world.load = 18.0;
    world.run(5);
    assert_eq!((world.target, world.pods.len()), (5, 5));
    world.busy.insert("ns/m-2".into(), 1);
    world.load = 6.0;
    world.run(3);
    assert_eq!((world.target, drains(&world)), (3, vec!["ns/m-2"]), "those without a node went at once");
    // its drain time is 30 s
    world.run(40);
    assert_eq!(world.target, 2);
    assert!(world.alarms.iter().any(|text| text.contains("drain time ran out")), "{:?}", world.alarms);
    world.assert_lawful();
}

#[test]
fn ordinals_may_start_anywhere_and_names_may_have_none() {
    let mut stateful = spec(GatewayUse::Configured, policy(quick));
    stateful.removal = Removal::HighestOrdinal;
    for (names, victims) in [
        (["ns/m-7", "ns/m-8", "ns/m-9"], vec!["ns/m-8", "ns/m-9"]),
        (["ns/m-9", "ns/m-10", "ns/m-11"], vec!["ns/m-10", "ns/m-11"]),
        (["ns/a", "ns/b", "ns/c"], vec![]),
    ] {
        let mut world = World::new(stateful.clone(), 0);
        world.gateway_speaks = true;
        for name in names {
            let created = world.now;
            let pod = crate::world::Pod {
                created,
                is_ready: true,
                ends: None,
                is_homeless: false,
                is_silent: false,
                running: Some(1.0),
            };
            world.pods.insert(name.into(), pod);
            world.busy.insert(name.into(), 1);
        }
        world.target = 3;
        world.take_over(loadline_control::Checkpoint::default());
        for _ in 0..3 {
            world.now = world.now.plus(crate::world::SECOND);
            world.demand();
            world.scrape();
            world.feed(Event::Tick);
        }
        let mut drained = drains(&world);
        drained.sort_unstable_by_key(|name| (name.len(), *name));
        assert_eq!(drained, victims, "{names:?}");
        assert_eq!(world.target, if victims.is_empty() { 1 } else { 3 }, "{names:?}");
    }
}

#[test]
fn where_nobody_chooses_only_the_count_goes_down() {
    let mut unknown = spec(GatewayUse::Configured, policy(quick));
    unknown.removal = Removal::Unknown;
    let mut world = World::new(unknown, 4);
    world.run(10);
    world.load = 8.0;
    world.run(3);
    assert_eq!(world.acts, [(4, 2, Vec::new())], "nobody is named");
    // whoever the target chose takes nothing new, as soon as that is known
    assert_eq!(drains(&world).len(), 2);
    world.run(60);
    assert_eq!((world.target, world.pods.len()), (2, 2));
    world.assert_lawful();
}

#[test]
fn a_replica_that_was_spared_serves_again() {
    let mut world = World::new(spec(GatewayUse::Configured, policy(quick)), 3);
    world.run(10);
    let ids = world.ids();
    world.load = 6.0;
    world.now = world.now.plus(crate::world::SECOND);
    world.demand();
    world.scrape();
    // the first page was decided at once; the others are decided together a little later
    world.now = world.control.next_deadline().expect("a decision is due");
    world.feed(Event::Tick);
    let named = world.acts.last().expect("an order").2.clone();
    assert_eq!((world.target, named.len()), (2, 1));
    // the target ends another one
    let other = ids.iter().find(|id| !named.contains(id)).expect("two were not named").clone();
    world.end(&other);
    let stays = |world: &World| {
        let status = world.control.status(world.now).remove(0);
        status.replicas.iter().find(|replica| replica.replica == named[0]).map(|replica| replica.state)
    };
    // not before it is certain: an older view of the target, or one that is still ending
    world.feed(Event::Settled { pool: "m".into(), replicas: 3 });
    world.feed(Event::Settled { pool: "m".into(), replicas: 2 });
    assert_eq!(stays(&world), Some(ReplicaState::Failed));
    world.run(5);
    assert_eq!(stays(&world), Some(ReplicaState::Ready));
    let is_up = |order: &GatewayOrder| matches!(order, GatewayOrder::ReplicaUp { replica, .. } if *replica == named[0]);
    assert!(world.orders.iter().rev().any(is_up));
    assert_eq!((world.target, world.pods.len()), (2, 2));
    world.assert_lawful();
}

#[test]
fn a_pod_that_somebody_deletes_finishes_what_it_has_and_is_replaced() {
    let mut world = World::new(spec(GatewayUse::Configured, policy(|_| ())), 3);
    world.run(10);
    let id = world.ids().remove(1);
    world.orders.clear();
    world.end(&id);
    let downs = |world: &World| world.orders.iter().filter(|o| matches!(o, GatewayOrder::ReplicaDown { .. })).count();
    assert_eq!((drains(&world), downs(&world)), (vec![id.as_str()], 0), "its streams go on");
    world.run(30);
    assert_eq!((downs(&world), world.target, world.pods.len()), (1, 3, 3));
    assert!(world.scaled.is_empty(), "{:#?}", world.scaled);
    // one that is draining, too, and then the count goes down with it
    world.busy = world.ids().into_iter().map(|id| (id, 1)).collect();
    world.load = 8.0;
    world.run(400);
    world.say(&"ns/unknown".into(), ReplicaEvent::Ending);
    world.assert_lawful();
}

#[test]
fn zero_without_a_gateway_needs_every_replica() {
    let mut world = World::new(
        spec(
            GatewayUse::Absent,
            policy(|pool| {
                pool.min_replicas = 0;
                quick(pool);
            }),
        ),
        3,
    );
    world.run(10);
    world.load = 0.0;
    let busy = world.ids().remove(2);
    world.pods.get_mut(&busy).expect("a pod").running = Some(1.0);
    world.run(600);
    assert_eq!(world.target, 1, "one has something to do: {:#?}", world.scaled);
    world.pods.values_mut().for_each(|pod| pod.running = Some(0.0));
    world.run(55);
    assert_eq!(world.target, 1, "60 s are not over");
    world.run(10);
    assert_eq!((world.target, world.orders.len()), (0, 0));
    world.run(30);
    assert_eq!(world.pods.len(), 0);
    world.assert_lawful();
}
