//! Single scenes that went wrong once, or easily could.

use super::*;
use loadline_policy::ReplicaState;

#[test]
fn a_model_that_wakes_gets_its_device_when_the_other_has_given_one_up_and_not_before() {
    let mut world = World::new(Control::new(settings(Some(3))), &["g"], &["a", "b"], Some(3));
    world.feed(configure(0, true));
    let (a, b) = ((GatewayId::from("g"), ModelId::from("a")), (GatewayId::from("g"), ModelId::from("b")));
    for _ in 0..6 {
        world.arrive(&a);
    }
    world.pass(40);
    assert_eq!(world.wanted.get(&ModelId::from("a")), Some(&3));
    world.arrive(&b);
    world.pass(8);
    // every replica of `a` is busy: one drains, and its device is not free yet
    assert_eq!(world.wanted.get(&ModelId::from("b")), None, "checked against the devices at every step");
    for pick in 0..6 {
        world.finish(&a, pick);
    }
    world.pass(60);
    assert_eq!(world.wanted.get(&ModelId::from("b")), Some(&1), "{:#?}", world.scaled);
    assert_eq!(world.lost, 0);
}

#[test]
fn a_restart_alone_changes_nothing() {
    let mut world = World::new(Control::new(settings(None)), &["g"], &["a"], None);
    world.feed(Event::Configure(vec![spec("a", 0)]));
    let key = (GatewayId::from("g"), ModelId::from("a"));
    for _ in 0..5 {
        world.arrive(&key);
    }
    world.pass(40);
    let model = ModelId::from("a");
    assert_eq!(world.wanted.get(&model), Some(&3));
    let checkpoint = world.control.checkpoint();
    let text = serde_json::to_string(&checkpoint).expect("serialisable");
    let scaled = world.scaled.len();
    world.control = Control::restore(settings(None), serde_json::from_str(&text).expect("the same"));
    world.now = world.now.plus(Duration::from_secs(5));
    world.feed(Event::Configure(vec![spec("a", 0)]));
    world.demand(&key);
    let ids: Vec<ReplicaId> = world.processes.keys().cloned().collect();
    for id in ids {
        let started = world.started(&id);
        world.feed(started);
        world.feed(Event::Replica { replica: id, event: ReplicaEvent::Ready });
    }
    assert_eq!(world.scaled.len(), scaled, "nothing before the count is known");
    world.feed(Event::Counted { pool: PoolId::from("a"), replicas: 3 });
    // even with less work than before: the engines have not been heard
    for pick in 0..4 {
        world.finish(&key, pick);
    }
    world.pass(80);
    assert_eq!(world.wanted.get(&model), Some(&3));
    assert_eq!(world.scaled.len(), scaled, "{:#?}", world.scaled);
    assert!(world.control.status(world.now).iter().all(|status| status.ready == 3));
}

#[test]
fn a_gateway_that_refuses_to_close_is_asked_again_at_the_pace_of_decisions() {
    let mut control = Control::new(settings(None));
    let (mut now, mut effects) = (Timestamp::from_secs(1_000), Vec::new());
    control.apply(now, Event::Configure(vec![spec("a", 0)]), &mut effects);
    let demand = |sequence, held, idle_since, at| {
        Event::Gateway(GatewayReport::Demand(Demand {
            gateway: "g".into(),
            model: "a".into(),
            sequence,
            held,
            in_flight: 0,
            peak: held,
            arrivals_total: 1,
            idle_since,
            at,
        }))
    };
    control.apply(now, demand(1, 1, None, now), &mut effects);
    let replica = ReplicaId::from("a-1");
    let started = ReplicaEvent::Started { pool: "a".into(), address: "x:1".to_owned(), created_at: now };
    control.apply(now, Event::Replica { replica: replica.clone(), event: started }, &mut effects);
    control.apply(now, Event::Replica { replica, event: ReplicaEvent::Ready }, &mut effects);
    let (mut asked, idle_since, mut scaled_to_zero) = (0, now, 0);
    for second in 0..60_u64 {
        now = now.plus(PERIOD);
        let mut queue = VecDeque::from([demand(second + 2, 0, Some(idle_since), now), Event::Tick]);
        while let Some(event) = queue.pop_front() {
            let mut effects = Vec::new();
            control.apply(now, event, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Gateway(GatewayOrder::Close { model, epoch }) => {
                        asked += 1;
                        let report = GatewayReport::Closed { gateway: "g".into(), model, epoch, accepted: false };
                        queue.push_back(Event::Gateway(report));
                    }
                    Effect::Scaled(event) if event.to == 0 => scaled_to_zero += 1,
                    _ => {}
                }
            }
        }
    }
    assert!((20..=60).contains(&asked), "asked {asked} times in a minute");
    assert_eq!(scaled_to_zero, 0, "a refused close is no scale change");
}

#[test]
fn a_removed_model_finishes_what_it_has() {
    let mut world = World::new(Control::new(settings(None)), &["g"], &["a"], None);
    world.feed(Event::Configure(vec![spec("a", 0)]));
    let key = (GatewayId::from("g"), ModelId::from("a"));
    world.arrive(&key);
    world.pass(40);
    world.feed(Event::Configure(Vec::new()));
    world.pass(20);
    assert_eq!(world.lost, 0);
    assert!(world.control.knows(&key.1), "it drains");
    world.finish(&key, 0);
    world.pass(20);
    assert!(!world.control.knows(&key.1), "forgotten once nothing is left");
    assert_eq!((world.lost, world.processes.len()), (0, 0));
}

#[test]
fn a_replica_that_fails_a_probe_keeps_its_requests() {
    let mut world = World::new(Control::new(settings(None)), &["g"], &["a"], None);
    world.feed(Event::Configure(vec![spec("a", 0)]));
    let key = (GatewayId::from("g"), ModelId::from("a"));
    world.arrive(&key);
    world.pass(40);
    let has = |world: &World| world.lanes.get(&key).expect("a lane").at.values().copied().collect::<Vec<_>>();
    assert_eq!(has(&world), [(1, true)]);
    world.flap(0);
    assert_eq!(has(&world), [(1, false)], "nothing new, and what it has stays");
    world.pass(1);
    assert_eq!(has(&world), [(1, true)]);
    assert_eq!(world.lanes.get(&key).expect("a lane").held, 0);
}

#[test]
fn a_gateway_that_is_gone_blocks_neither_drain_nor_zero() {
    let mut world = World::new(Control::new(settings(None)), &["g", "h"], &["a"], None);
    world.feed(Event::Configure(vec![spec("a", 0)]));
    let key = (GatewayId::from("g"), ModelId::from("a"));
    world.arrive(&key);
    world.demand(&(GatewayId::from("h"), ModelId::from("a")));
    world.pass(40);
    world.lanes.retain(|(gateway, _), _| gateway.as_str() == "g");
    world.finish(&key, 0);
    world.pass(240);
    assert_eq!(world.wanted.get(&key.1), Some(&1), "a gateway that is silent is not idle");
    world.feed(Event::GatewayGone("h".into()));
    world.pass(240);
    let status = world.control.status(world.now);
    assert_eq!(world.wanted.get(&key.1), Some(&0), "{status:#?}");
    assert!(world.control.status(world.now).iter().all(|status| status.draining == 0));
}

#[test]
fn engines_without_a_page_go_up_and_to_zero_by_the_gateway_alone() {
    // nothing in this world ever answers a scrape
    let mut world = World::new(Control::new(settings(None)), &["g"], &["a"], None);
    world.feed(Event::Configure(vec![spec("a", 0)]));
    let key = (GatewayId::from("g"), ModelId::from("a"));
    for _ in 0..3 {
        world.arrive(&key);
    }
    world.pass(80);
    for _ in 0..3 {
        world.arrive(&key);
    }
    world.pass(8);
    assert_eq!(world.wanted.get(&key.1), Some(&3), "up from arrivals");
    for _ in 0..6 {
        world.finish(&key, 0);
    }
    world.pass(200);
    assert_eq!(world.wanted.get(&key.1), Some(&0), "to zero on the gateways' proof");
    assert!(world.scaled.iter().all(|event| event.to == 0 || event.to > event.from), "{:#?}", world.scaled);
    assert_eq!(world.control.laws().total(), 0);
}

#[test]
fn a_ready_said_twice_does_not_take_a_drain_back() {
    let mut control = Control::new(settings(None));
    let now = Timestamp::from_secs(1_000);
    let mut effects = Vec::new();
    control.apply(now, Event::Configure(vec![spec("a", 0)]), &mut effects);
    let report = |held: u32, sequence, at: Timestamp| {
        Event::Gateway(GatewayReport::Demand(Demand {
            gateway: "g".into(),
            model: "a".into(),
            sequence,
            held,
            in_flight: 0,
            peak: held,
            arrivals_total: 1,
            idle_since: None,
            at,
        }))
    };
    control.apply(now, report(1, 1, now), &mut effects);
    let id = ReplicaId::from("a-1");
    let started = ReplicaEvent::Started { pool: "a".into(), address: "x:1".to_owned(), created_at: now };
    control.apply(now, Event::Replica { replica: id.clone(), event: started }, &mut effects);
    let ready = || Event::Replica { replica: id.clone(), event: ReplicaEvent::Ready };
    control.apply(now, ready(), &mut effects);
    control.apply(now, report(1, 2, now), &mut effects);
    // not configured any more: it drains, as a request is held
    control.apply(now, Event::Configure(Vec::new()), &mut effects);
    let state = |control: &Control, at| {
        control.status(at).first().and_then(|status| status.replicas.first().map(|replica| replica.state))
    };
    assert_eq!(state(&control, now), Some(ReplicaState::Draining));
    control.apply(now, ready(), &mut effects);
    assert_eq!(state(&control, now), Some(ReplicaState::Draining));
    let late = now.plus(Duration::from_secs(31));
    control.apply(late, Event::Tick, &mut effects);
    assert!(control.next_deadline().is_none_or(|at| at > late), "no deadline stays in the past");
}

#[test]
fn a_wake_does_not_wait_for_a_round_of_routine_decisions() {
    let mut control = Control::new(settings(None));
    let names: Vec<String> = (0..100).map(|index| format!("m{index:03}")).collect();
    let now = Timestamp::from_secs(1_000);
    let mut effects = Vec::new();
    control.apply(now, Event::Configure(names.iter().map(|name| spec(name, 0)).collect()), &mut effects);
    for name in &names {
        control.apply(now, Event::Counted { pool: PoolId::new(name.as_str()), replicas: 0 }, &mut effects);
    }
    // every routine decision is due by now
    let later = now.plus(PERIOD * 2);
    effects.clear();
    let wake = GatewayReport::Wake { gateway: "g".into(), model: "m099".into(), epoch: 1, held: 1 };
    control.apply(later, Event::Gateway(wake), &mut effects);
    let decided = effects.iter().filter(|effect| matches!(effect, Effect::Decided { .. })).count();
    let started = effects.iter().any(
        |effect| matches!(effect, Effect::Act(Action::SetReplicas { pool, to: 1, .. }) if pool.as_str() == "m099"),
    );
    assert!(started && decided < 10, "{decided} decided: {effects:#?}");
    assert!(control.next_deadline().is_some_and(|at| at <= later), "the rest is due at once");
}
