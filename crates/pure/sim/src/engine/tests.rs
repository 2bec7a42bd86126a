use super::*;
use crate::profile::{DEFAULT_PROFILE, Profile, StepModel};
use proptest::prelude::*;
use std::time::Duration;

fn config() -> EngineConfig {
    let step = StepModel {
        batch_tokens: vec![1, 256, 2048],
        ms: vec![10.0, 12.0, 80.0],
        kv_ms_per_token: 1e-4,
        attn_ms_per_token_pair: 1e-6,
        step_overhead_ms: 1.0,
        per_seq_ms: 0.01,
        table_scale: 1.0,
        kv_scale: 1.0,
    };
    EngineConfig {
        step,
        kv_blocks: 101,
        max_num_seqs: 8,
        max_num_batched_tokens: 256,
        max_model_len: 1600,
        max_waiting: 1000,
        prefix_block_tokens: 0,
        api_overhead: Duration::ZERO,
        startup: Startup::NONE,
    }
}

fn request(input_tokens: u32, output_tokens: u32) -> Request {
    Request { input_tokens, output_tokens, ..Request::default() }
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_nanos(ms * 1_000_000)
}

fn run_dry(engine: &mut Engine) -> Vec<(Timestamp, Event)> {
    let mut events = Vec::new();
    while let Some(next) = engine.next_event() {
        engine.advance(next, &mut |when, event| events.push((when, event)));
        assert!(engine.gauges().used_blocks <= engine.gauges().usable_blocks);
    }
    events
}

fn finished(events: &[(Timestamp, Event)]) -> Vec<(RequestId, Timing)> {
    let one = |event: &Event| match event {
        Event::Finished { request, timing } => Some((*request, *timing)),
        _ => None,
    };
    events.iter().filter_map(|(_, event)| one(event)).collect()
}

#[test]
fn one_request_takes_prefill_chunks_then_one_step_per_token() {
    let mut engine = Engine::new(config(), 1, at(0)).unwrap();
    let id = engine.submit(at(5), request(600, 3)).unwrap();
    let events = run_dry(&mut engine);
    // 256 + 256 + 88 tokens of prefill, the last chunk samples the first token; two decode steps follow.
    assert_eq!(engine.counters().steps, 5);
    let kinds: Vec<&str> = events
        .iter()
        .map(|(_, event)| match event {
            Event::FirstToken { .. } => "first",
            Event::Token { generated: 2, .. } => "second",
            Event::Token { .. } => "third",
            Event::Finished { .. } => "finished",
            Event::Step { .. } => "step",
            Event::Ready | Event::Preempted { .. } => "unexpected",
        })
        .collect();
    assert_eq!(kinds, ["step", "step", "first", "step", "second", "step", "third", "finished", "step"]);
    let [(done, timing)] = finished(&events)[..] else { panic!("one request") };
    assert_eq!((done, timing.generated, timing.preemptions), (id, 3, 0));
    assert_eq!(timing.scheduled, at(5));
    // Chunk 1: 12 ms table, pairs 256*128, overhead 1, one sequence.
    let first = 12.0 + 256.0 * 128.0 * 1e-6 + 1.01;
    let second = 12.0 + 256.0 * (256.0 + 128.0) * 1e-6 + 1.01;
    let third = 10.0 + 2.0 * 87.0 / 255.0 + 88.0 * (512.0 + 44.0) * 1e-6 + 1.01;
    assert!((timing.ttft_seconds() * 1e3 - first - second - third).abs() < 1e-5, "{}", timing.ttft_seconds());
    assert_eq!(engine.counters().prompt_tokens, 600);
    assert_eq!(engine.counters().generation_tokens, 3);
    assert_eq!(engine.iteration_tokens().sum(), 603.0);
    assert_eq!(engine.gauges().used_blocks, 0);
}

#[test]
fn a_step_that_began_is_not_cut_by_an_arrival() {
    let mut engine = Engine::new(config(), 1, at(0)).unwrap();
    engine.submit(at(0), request(10, 5)).unwrap();
    engine.advance(at(0), &mut |_, _| {});
    let end = engine.next_event().unwrap();
    engine.submit(at(1), request(10, 5)).unwrap();
    engine.advance(at(1), &mut |_, _| panic!("nothing ends at 1 ms"));
    assert_eq!(engine.next_event(), Some(end));
    assert_eq!((engine.gauges().running, engine.live()), (1, 2));
    engine.advance(end, &mut |_, _| {});
    assert_eq!((engine.gauges().running, engine.gauges().waiting()), (2, 0));
}

#[test]
fn under_kv_pressure_the_last_admitted_is_preempted_and_nothing_is_lost() {
    let mut engine = Engine::new(EngineConfig { kv_blocks: 21, max_model_len: 320, ..config() }, 1, at(0)).unwrap();
    let ids: Vec<RequestId> = (0..4).map(|_| engine.submit(at(0), request(64, 100)).unwrap()).collect();
    let events = run_dry(&mut engine);
    assert!(engine.counters().preemptions > 0);
    let first_preempted = events.iter().find_map(|(_, event)| match event {
        Event::Preempted { request } => Some(*request),
        _ => None,
    });
    assert_eq!(first_preempted, ids.last().copied());
    let order: Vec<RequestId> = finished(&events).iter().map(|(id, _)| *id).collect();
    assert_eq!(order, ids, "equal requests finish in order of arrival");
    assert_eq!(engine.counters().generation_tokens, 400);
    assert_eq!(engine.counters().prompt_tokens, 256);
    assert!(engine.counters().prefill_tokens_computed > 256, "preempted work is done again");
}

#[test]
fn a_cancelled_request_frees_its_memory_at_once() {
    let mut engine = Engine::new(config(), 1, at(0)).unwrap();
    let a = engine.submit(at(0), request(64, 100)).unwrap();
    let b = engine.submit(at(0), request(64, 2)).unwrap();
    engine.advance(at(0), &mut |_, _| {});
    assert_eq!(engine.gauges().used_blocks, 8);
    assert!(engine.cancel(a) && !engine.cancel(a));
    assert_eq!(engine.gauges().used_blocks, 4);
    let events = run_dry(&mut engine);
    assert_eq!(finished(&events).iter().map(|(id, _)| *id).collect::<Vec<_>>(), [b]);
    assert_eq!(engine.counters().cancelled, 1);
}

#[test]
fn life_is_starting_ready_draining_gone() {
    let startup = Startup { mean: Duration::from_secs(10), jitter: 0.2 };
    let mut engine = Engine::new(EngineConfig { startup, ..config() }, 7, at(0)).unwrap();
    let Phase::Starting { until } = engine.phase() else { panic!("starting") };
    assert!(until >= at(8_000) && until <= at(12_000) && until != at(10_000));
    assert_eq!(startup.draw(7), startup.draw(7));
    assert_ne!(startup.draw(7), startup.draw(8));
    assert_eq!(engine.submit(at(1), request(1, 1)), Err(Refusal::Starting));
    engine.advance(until, &mut |when, event| assert_eq!((when, event), (until, Event::Ready)));
    engine.submit(until, request(16, 2)).unwrap();
    engine.drain();
    assert_eq!(engine.phase(), Phase::Draining);
    assert_eq!(engine.submit(until, request(1, 1)), Err(Refusal::Draining));
    run_dry(&mut engine);
    assert_eq!(engine.phase(), Phase::Gone);
    assert_eq!(engine.submit(until, request(1, 1)), Err(Refusal::Gone));
    assert_eq!(engine.counters().refused, 3);
}

#[test]
fn what_can_never_fit_is_refused() {
    let mut engine = Engine::new(EngineConfig { max_waiting: 1, ..config() }, 1, at(0)).unwrap();
    assert_eq!(engine.submit(at(0), request(0, 1)), Err(Refusal::Empty));
    assert_eq!(engine.submit(at(0), request(1500, 101)), Err(Refusal::TooLong { tokens: 1601, limit: 1600 }));
    engine.submit(at(0), request(1500, 100)).unwrap();
    assert_eq!(engine.submit(at(0), request(1, 1)), Err(Refusal::QueueFull { limit: 1 }));
    assert!(Engine::new(EngineConfig { kv_blocks: 1, ..config() }, 1, at(0)).is_err());
    assert!(Engine::new(EngineConfig { prefix_block_tokens: 17, ..config() }, 1, at(0)).is_err());
}

#[test]
fn prefix_hits_save_prefill_and_unheld_prefixes_are_evicted() {
    let make = EngineConfig { prefix_block_tokens: 32, kv_blocks: 21, max_model_len: 320, ..config() };
    let mut engine = Engine::new(make, 1, at(0)).unwrap();
    let with = |prefix: &[u64], input| Request { input_tokens: input, output_tokens: 2, prefix: prefix.into() };
    engine.submit(at(0), with(&[1, 2, 3], 100)).unwrap();
    run_dry(&mut engine);
    assert_eq!((engine.gauges().used_blocks, engine.gauges().cached_blocks), (0, 6));
    engine.submit(at(900), with(&[1, 2, 9], 100)).unwrap();
    let timing = finished(&run_dry(&mut engine))[0].1;
    assert_eq!(timing.cached_tokens, 64);
    assert_eq!((engine.counters().prefix_queries, engine.counters().prefix_hits), (200, 64));
    // The whole prompt is cached, yet at least one token is computed: the last block does not count.
    engine.submit(at(1800), with(&[1, 2, 3], 96)).unwrap();
    assert_eq!(finished(&run_dry(&mut engine))[0].1.cached_tokens, 64);
    engine.submit(at(2700), request(310, 2)).unwrap();
    run_dry(&mut engine);
    assert!(engine.gauges().cached_blocks <= 1, "a large prompt takes the memory of cached prefixes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Token conservation, KV bounds, first come first served, Little's law and determinism on random small traces.
    #[test]
    fn laws_hold_on_random_traces(
        trace in prop::collection::vec((0i64..2_000, 1u32..200, 1u32..60, 0u64..4), 1..40),
        kv_blocks in 20usize..80,
        prefix in prop::bool::ANY,
    ) {
        let mut trace = trace;
        trace.sort_by_key(|row| row.0);
        let prefix_block_tokens = if prefix { 16 } else { 0 };
        let make = EngineConfig { kv_blocks, prefix_block_tokens, ..config() };
        let run = || {
            let mut engine = Engine::new(make.clone(), 3, at(0)).unwrap();
            let mut events = Vec::new();
            let mut area = 0.0;
            let mut seen = at(0);
            let mut taken = Vec::new();
            let mut step = |engine: &mut Engine, to: Timestamp, events: &mut Vec<(Timestamp, Event)>| {
                while let Some(next) = engine.next_event().filter(|next| *next <= to) {
                    area += engine.live() as f64 * next.since(seen).as_secs_f64();
                    seen = seen.max(next);
                    engine.advance(next, &mut |when, event| events.push((when, event)));
                    let gauges = engine.gauges();
                    assert!(gauges.used_blocks + gauges.cached_blocks <= gauges.usable_blocks);
                    assert!(gauges.running <= 8);
                }
                if to != Timestamp::MAX {
                    area += engine.live() as f64 * to.since(seen).as_secs_f64();
                    seen = seen.max(to);
                    engine.advance(to, &mut |when, event| events.push((when, event)));
                }
            };
            for (ms, input, output, family) in &trace {
                step(&mut engine, at(*ms), &mut events);
                let hashes: Vec<u64> = (0..u64::from(*input / 16)).map(|i| family * 1000 + i).collect();
                let asked = Request { input_tokens: *input, output_tokens: *output, prefix: hashes.into() };
                if let Ok(id) = engine.submit(at(*ms), asked) {
                    taken.push((id, *input, *output));
                }
            }
            step(&mut engine, Timestamp::MAX, &mut events);
            (engine.counters().clone(), engine.gauges(), events, taken, area)
        };
        let (counters, gauges, events, taken, area) = run();
        let done = finished(&events);
        prop_assert_eq!(done.len(), taken.len());
        prop_assert_eq!(gauges.used_blocks, 0);
        prop_assert_eq!(counters.generation_tokens, taken.iter().map(|t| u64::from(t.2)).sum::<u64>());
        prop_assert_eq!(counters.prompt_tokens, taken.iter().map(|t| u64::from(t.1)).sum::<u64>());
        for pair in events.windows(2) {
            prop_assert!(pair[0].0 <= pair[1].0);
        }
        let mut by_id = done.clone();
        by_id.sort_by_key(|(id, _)| *id);
        for pair in by_id.windows(2) {
            prop_assert!(pair[0].1.scheduled <= pair[1].1.scheduled, "first come first served");
        }
        let sojourn: f64 = done.iter().map(|(_, timing)| timing.e2e_seconds()).sum();
        prop_assert!((area - sojourn).abs() < 1e-6 * (1.0 + area), "Little: {} {}", area, sojourn);
        let again = run();
        prop_assert!(again.2 == events && again.0 == counters);
    }
}

#[test]
fn the_default_profile_makes_an_engine() {
    let profile = Profile::find(DEFAULT_PROFILE).unwrap();
    let engine = Engine::new(EngineConfig::from_profile(profile), 1, at(0)).unwrap();
    assert_eq!(engine.config().max_num_seqs, 256);
}
