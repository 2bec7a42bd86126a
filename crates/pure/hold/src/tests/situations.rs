use super::*;
use crate::{Failure, Reason, ReplicaPhase, Retry};

#[test]
fn first_come_first_served_and_never_more_than_the_slots() {
    let mut bench = Bench::plain();
    bench.up(0.0, "a", 2);
    let keys: Vec<_> = (0..5).map(|_| bench.arrive(1.0)).collect();
    let first: Vec<_> = keys.iter().flat_map(|(_, effects)| granted(effects)).collect();
    assert_eq!(first, [keys[0].0, keys[1].0]);
    let mut order = Vec::new();
    for (key, _) in &keys {
        order.extend(granted(&bench.finish(2.0, *key)));
    }
    assert_eq!(order, [keys[2].0, keys[3].0, keys[4].0]);
    assert_eq!(bench.hold.counts().slot_violations, 0);
}

#[test]
fn the_first_held_request_wakes_and_repeats_are_1_2_5_5() {
    let mut bench = Bench::plain();
    let (_, effects) = bench.arrive(0.0);
    assert_eq!(effects, [Effect::Wake { epoch: 0, held: 1 }]);
    let mut seen = Vec::new();
    let mut now = Timestamp::ZERO;
    for _ in 0..40 {
        now = bench.hold.next_deadline().max(now);
        bench.hold.tick(now, &mut bench.effects);
        if bench.effects.contains(&Effect::Demand) {
            bench.hold.demand(now, &"g".into(), &"m".into());
        }
        if bench.take().iter().any(|effect| matches!(effect, Effect::Wake { .. })) {
            seen.push(now.as_secs_f64());
        }
    }
    assert_eq!(&seen[..5], &[1.0, 3.0, 8.0, 13.0, 18.0]);
}

#[test]
fn budgets_end_exactly_and_no_change_of_regime_restarts_them() {
    let settings = HoldSettings {
        cold_budget: Some(Duration::from_secs(100)),
        saturated_budget: Duration::from_secs(60),
        ramp: false,
        ..HoldSettings::default()
    };
    let ended = |bench: &mut Bench, key| loop {
        let now = bench.hold.next_deadline();
        bench.hold.tick(now, &mut bench.effects);
        if bench.effects.contains(&Effect::Demand) {
            bench.hold.demand(now, &"g".into(), &"m".into());
        }
        for effect in bench.take() {
            if let Effect::Reject { request, rejection } = effect
                && request == key
            {
                return (now.as_secs_f64(), rejection.reason, rejection.waited.as_secs_f64(), rejection.cold);
            }
        }
    };

    let mut bench = Bench::new(settings.clone());
    let (key, _) = bench.arrive(0.0);
    assert_eq!(ended(&mut bench, key), (100.0, Reason::ColdTimeout, 100.0, true));

    let mut bench = Bench::new(settings.clone());
    bench.up(0.0, "a", 1);
    bench.arrive(0.0);
    let (key, _) = bench.arrive(0.0);
    assert_eq!(ended(&mut bench, key), (60.0, Reason::SaturatedTimeout, 60.0, false));

    // 40 s cold, 50 s saturated, then cold again: 60 s of the cold budget are left.
    let mut bench = Bench::new(settings.clone());
    let (_, _) = bench.arrive(0.0);
    let (key, _) = bench.arrive(0.0);
    bench.up(40.0, "a", 1);
    bench.hold.drain(at(90.0), &replica("a"), &mut bench.effects);
    assert_eq!(ended(&mut bench, key), (150.0, Reason::ColdTimeout, 150.0, true));

    // 40 s cold, then saturated: the saturated budget is whole, and no more than that.
    let mut bench = Bench::new(settings.clone());
    let (_, _) = bench.arrive(0.0);
    let (key, _) = bench.arrive(0.0);
    bench.up(40.0, "a", 1);
    assert_eq!(ended(&mut bench, key), (100.0, Reason::SaturatedTimeout, 100.0, true));

    // The client's own limit.
    let mut bench = Bench::new(settings);
    let arrival = Arrival { ttl: Some(Duration::from_secs(3)), ..ARRIVAL };
    let key = bench.hold.arrive(at(0.0), arrival, &mut bench.effects).expect("admitted");
    assert_eq!(ended(&mut bench, key).0, 3.0);
}

#[test]
fn the_default_cold_budget_follows_the_start_times() {
    let mut bench = Bench::plain();
    assert_eq!(bench.hold.cold_budget(), Duration::from_secs(900), "nothing is known yet");
    bench.arrive(0.0);
    bench.hold.acknowledge(at(0.0), 0, Some(Duration::from_secs(20)));
    assert_eq!(bench.hold.cold_budget(), Duration::from_secs(120));
    bench.up(100.0, "a", 1);
    assert_eq!(bench.hold.cold_budget(), Duration::from_secs(200));
    bench.hold.replica_down(at(101.0), &replica("a"), &mut bench.effects);
    bench.up(1_101.0, "b", 1);
    assert_eq!(bench.hold.cold_budget(), Duration::from_secs(900));
}

#[test]
fn a_longer_start_announced_by_the_writer_extends_the_wait() {
    let mut bench = Bench::plain();
    bench.arrive(0.0);
    bench.up(30.0, "a", 1);
    bench.hold.replica_down(at(31.0), &replica("a"), &mut bench.effects);
    bench.take();
    assert_eq!(bench.hold.cold_budget(), Duration::from_secs(120));
    let (second, _) = bench.arrive(100.0);
    bench.hold.acknowledge(at(101.0), 0, Some(Duration::from_secs(150)));
    assert!(
        !bench.tick(399.0).iter().any(|effect| matches!(effect, Effect::Reject { request, .. } if *request == second))
    );
    assert!(
        bench.tick(400.0).iter().any(|effect| matches!(effect, Effect::Reject { request, .. } if *request == second))
    );
}

#[test]
fn the_newest_is_refused_when_the_queue_is_full() {
    let settings = HoldSettings { max_held: 2, max_held_bytes: 100, ..HoldSettings::default() };
    let mut bench = Bench::new(settings);
    bench.arrive(0.0);
    let big = Arrival { bytes: 95, ..ARRIVAL };
    let refused = bench.hold.arrive(at(0.0), big, &mut bench.effects).expect_err("too many bytes");
    assert_eq!(refused.reason, Reason::QueueFull);
    bench.arrive(0.0);
    let refused = bench.hold.arrive(at(0.0), ARRIVAL, &mut bench.effects).expect_err("too many requests");
    assert_eq!((refused.reason, refused.reason.status()), (Reason::QueueFull, 429));
    assert!(refused.retry_after >= Duration::from_secs(8) && refused.retry_after <= Duration::from_secs(12));
    assert_eq!(bench.hold.counts().held, 2);
    // With a free slot no bound of the queue matters.
    bench.up(1.0, "a", 3);
    let big = Arrival { bytes: 1_000, ..ARRIVAL };
    bench.tick(2.0);
    assert!(bench.hold.arrive(at(2.0), big, &mut bench.effects).is_ok());
}

#[test]
fn a_failed_attempt_keeps_its_place_and_goes_elsewhere() {
    let mut bench = Bench::plain();
    bench.up(0.0, "a", 1);
    let (first, _) = bench.arrive(0.0);
    let (second, _) = bench.arrive(0.0);
    let outcome = bench.hold.failed(at(1.0), first, 1, Failure::Reset, &mut bench.effects);
    assert_eq!((outcome, bench.take()), (Retry::Held, vec![]));
    assert_eq!(bench.hold.failed(at(1.0), first, 1, Failure::Reset, &mut bench.effects), Retry::Stale);
    // `a` is ejected for half a second; `b` comes and takes the older one first.
    assert_eq!(granted(&bench.up(1.1, "b", 1)), [first]);
    assert_eq!(granted(&bench.tick(1.5)), [second]);
    let third = bench.hold.failed(at(1.6), first, 2, Failure::Refused, &mut bench.effects);
    assert_eq!(third, Retry::Held);
    assert_eq!(granted(&bench.up(1.7, "c", 1)), [first]);
    let Retry::Over(rejection) = bench.hold.failed(at(1.8), first, 3, Failure::Reset, &mut bench.effects) else {
        panic!("three attempts are enough");
    };
    assert_eq!((rejection.reason, rejection.reason.status()), (Reason::UpstreamReset, 502));
}

#[test]
fn the_retry_budget_is_a_share_of_what_was_admitted() {
    let settings = HoldSettings { retry_reserve: 1, max_attempts: 100, ramp: false, ..HoldSettings::default() };
    let mut bench = Bench::new(settings);
    bench.up(0.0, "a", 1);
    let mut retried = 0;
    for count in 0..100 {
        let (key, _) = bench.arrive(f64::from(count));
        match bench.hold.failed(at(f64::from(count)), key, 1, Failure::Unavailable, &mut bench.effects) {
            Retry::Held => {
                retried += 1;
                bench.finish(f64::from(count), key);
            }
            Retry::Over(_) => {}
            Retry::Stale => panic!("never stale"),
        }
    }
    assert_eq!(retried, 20);
}

#[test]
fn a_large_body_is_not_sent_twice() {
    let settings = HoldSettings { retry_body_bytes: 100, ramp: false, ..HoldSettings::default() };
    for (failure, held) in [(Failure::Refused, true), (Failure::Reset, false)] {
        let mut bench = Bench::new(settings.clone());
        bench.up(0.0, "a", 1);
        let big = Arrival { bytes: 101, ..ARRIVAL };
        let key = bench.hold.arrive(at(0.0), big, &mut bench.effects).expect("admitted");
        let outcome = bench.hold.failed(at(0.0), key, 1, failure, &mut bench.effects);
        assert_eq!(outcome == Retry::Held, held, "{failure:?}");
    }
}

#[test]
fn a_lost_replica_gives_back_what_has_no_byte_yet() {
    let mut bench = Bench::plain();
    bench.up(0.0, "a", 2);
    let (streaming, _) = bench.arrive(0.0);
    let (silent, _) = bench.arrive(0.0);
    bench.hold.first_byte(at(0.5), streaming, &mut bench.effects);
    bench.hold.replica_down(at(1.0), &replica("a"), &mut bench.effects);
    let effects = bench.take();
    assert_eq!(
        effects,
        [
            Effect::AbortStream { request: streaming },
            Effect::Requeued { request: silent },
            Effect::Wake { epoch: 0, held: 1 },
        ]
    );
    assert_eq!(granted(&bench.up(2.0, "b", 2)), [silent]);
    let counts = bench.hold.counts();
    assert_eq!((counts.in_flight, counts.left_total), (1, 1));
}

#[test]
fn a_new_replica_is_given_1_then_4_then_16() {
    let mut bench = Bench::new(HoldSettings::default());
    let keys: Vec<_> = (0..30).map(|_| bench.arrive(0.0).0).collect();
    assert_eq!(granted(&bench.up(1.0, "a", 20)).len(), 1);
    assert_eq!(bench.hold.next_deadline().as_secs_f64(), 0.1, "demand is due before");
    assert_eq!(granted(&bench.tick(1.05)).len(), 0);
    assert_eq!(granted(&bench.tick(1.1)).len(), 3);
    bench.hold.first_byte(at(1.15), keys[0], &mut bench.effects);
    assert_eq!(granted(&bench.take()).len(), 12);
    assert_eq!(granted(&bench.tick(1.25)).len(), 4);
    assert_eq!(granted(&bench.tick(9.0)).len(), 0);
}

#[test]
fn a_new_replica_leaves_their_part_to_those_about_to_come() {
    let mut bench = Bench::plain();
    for _ in 0..30 {
        bench.arrive(0.0);
    }
    bench.hold.outlook(at(1.0), 2, Some(Duration::from_secs(1)));
    assert_eq!(granted(&bench.up(1.0, "a", 30)).len(), 10);
    assert_eq!(granted(&bench.tick(2.0)).len(), 20, "nobody came in time");
}

#[test]
fn draining_stops_new_requests_and_reports_every_change() {
    let mut bench = Bench::plain();
    bench.up(0.0, "a", 2);
    let (key, _) = bench.arrive(0.0);
    bench.hold.drain(at(1.0), &replica("a"), &mut bench.effects);
    assert_eq!(bench.take(), [Effect::ReplicaLoad { replica: replica("a"), in_flight: 1 }]);
    let (held, effects) = bench.arrive(1.0);
    assert_eq!(effects, [Effect::Wake { epoch: 0, held: 1 }]);
    assert_eq!(bench.finish(1.9, key), [Effect::ReplicaLoad { replica: replica("a"), in_flight: 0 }]);
    let effects = bench.up(3.0, "a", 2);
    assert_eq!(effects[0], Effect::ReplicaLoad { replica: replica("a"), in_flight: 0 });
    assert_eq!(granted(&effects), [held]);
    assert_eq!(bench.hold.replicas().next().map(|view| view.phase), Some(ReplicaPhase::Serving));
}

#[test]
fn held_streams_are_kept_alive_until_their_first_byte() {
    let mut bench = Bench::plain();
    let key = bench.hold.arrive(at(0.0), STREAM, &mut bench.effects).expect("admitted");
    let alive = [Effect::KeepAlive { request: key }];
    let comments = |effects: Vec<Effect>| -> Vec<Effect> {
        effects.into_iter().filter(|effect| matches!(effect, Effect::KeepAlive { .. })).collect()
    };
    assert_eq!(comments(bench.tick(14.9)), []);
    assert_eq!(comments(bench.tick(15.0)), alive);
    assert_eq!(comments(bench.tick(29.9)), []);
    assert_eq!(comments(bench.tick(30.0)), alive);
    bench.up(31.0, "a", 1);
    assert_eq!(comments(bench.tick(45.0)), alive, "granted, but silent");
    bench.hold.first_byte(at(46.0), key, &mut bench.effects);
    assert_eq!(comments(bench.tick(90.0)), []);
}

#[test]
fn early_refusal_acts_only_with_enough_samples() {
    let settings = HoldSettings {
        early_reject: true,
        early_reject_samples: 3,
        saturated_budget: Duration::from_secs(10),
        ramp: false,
        ..HoldSettings::default()
    };
    let mut bench = Bench::new(settings);
    bench.up(0.0, "a", 1);
    let keys: Vec<_> = (0..8).map(|_| bench.arrive(0.0).0).collect();
    for (count, key) in keys.iter().take(4).enumerate() {
        bench.finish(2.0 * loadline_base::num::usize_to_f64(count + 1), *key);
    }
    // Three wait, one slot ends every 2 s: a fourth fits into 10 s, a fifth does not.
    bench.arrive(8.0);
    let refused = bench.hold.arrive(at(8.0), ARRIVAL, &mut bench.effects);
    assert!(refused.is_ok());
    let refused = bench.hold.arrive(at(8.0), ARRIVAL, &mut bench.effects).expect_err("12 s are too long");
    assert_eq!(refused.reason, Reason::SaturatedTimeout);
}

#[test]
fn the_edge_to_demand_is_reported_at_once_but_not_thousands_of_times() {
    let mut bench = Bench::plain();
    bench.up(0.0, "a", 4);
    let (mut reports, mut now) = (0, 5.0);
    for count in 0..2_000 {
        if count % 2 == 0 {
            bench.hold.arrive(at(now), ARRIVAL, &mut bench.effects).expect("admitted");
        } else {
            let key = granted(&bench.effects)[0];
            bench.hold.finished(at(now), key, &mut bench.effects);
            bench.effects.retain(|effect| *effect == Effect::Demand);
        }
        if let Some(place) = bench.effects.iter().position(|effect| *effect == Effect::Demand) {
            bench.effects.remove(place);
            reports += 1;
            assert_eq!(bench.hold.demand(at(now), &"g".into(), &"m".into()).sequence, reports);
        }
        now += 0.0005;
    }
    assert!((10..=22).contains(&reports), "{reports}");
}

#[test]
fn shutdown_refuses_what_is_held_and_ends_what_flies() {
    let mut bench = Bench::plain();
    bench.up(0.0, "a", 2);
    let (streaming, _) = bench.arrive(0.0);
    bench.hold.first_byte(at(0.1), streaming, &mut bench.effects);
    let (silent, _) = bench.arrive(0.0);
    let (held, _) = bench.arrive(0.0);
    bench.hold.refuse(at(1.0), &mut bench.effects);
    bench.hold.abort(at(1.0), &mut bench.effects);
    let effects = bench.take();
    let reasons: Vec<_> = effects
        .iter()
        .map(|effect| match effect {
            Effect::Reject { request, rejection } => (*request, Some(rejection.reason)),
            Effect::AbortStream { request } => (*request, None),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(reasons, [(held, Some(Reason::Draining)), (streaming, None), (silent, Some(Reason::Draining))]);
    assert!(bench.hold.arrive(at(2.0), ARRIVAL, &mut bench.effects).is_err());
    assert_eq!(bench.hold.counts().exit_violations(), 0);
}

#[test]
fn a_hold_that_refuses_holds_nothing_again() {
    // Its model was removed: nobody will tick it or name it a replica any more.
    for down in [false, true] {
        let mut bench = Bench::plain();
        bench.up(0.0, "a", 1);
        let (key, _) = bench.arrive(1.0);
        bench.hold.refuse(at(2.0), &mut bench.effects);
        assert_eq!(bench.take(), [], "what is in flight may finish");
        if down {
            bench.hold.replica_down(at(3.0), &replica("a"), &mut bench.effects);
            assert!(matches!(bench.take().as_slice(), [Effect::Reject { request, .. }] if *request == key));
        } else {
            let retry = bench.hold.failed(at(3.0), key, 1, Failure::Reset, &mut bench.effects);
            assert!(matches!(retry, Retry::Over(rejection) if rejection.reason == Reason::UpstreamReset));
        }
        let counts = bench.hold.counts();
        assert_eq!((counts.held, counts.in_flight, counts.exit_violations()), (0, 0, 0));
    }
}
