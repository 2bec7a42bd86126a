//! Time of one page taken in by a loop over 200 models and 2,000 replicas, alone and with the decisions that fall due in between; prints
//! `name<TAB>value` lines.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_macros,
    clippy::expect_used,
    reason = "a benchmark reads the clock, prints what it saw, and stops at the first surprise"
)]

use loadline_base::{Labels, PoolId, ReplicaId, Timestamp};
use loadline_control::{
    Control, ControlSettings, Effect, Event, GatewayUse, MetricQuery, Mode, ModelSpec, Removal, ReplicaEvent,
};
use loadline_policy::hpa::{HpaRule, MetricSource, MetricSpec, MetricTarget};
use loadline_policy::{Budgets, Idle, Policy, PoolPolicy, Rule};
use loadline_signals::dialect::{NamedQueries, NamedQuery, Reading, SignalName, read_with};
use loadline_signals::exposition::Limits;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MODELS: u32 = 200;
const REPLICAS: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);
/// Rounds of one second each; the first fill the histories.
const ROUNDS: u32 = 400;
const WARM: u32 = 310;

fn spec(at: u32) -> ModelSpec {
    let name = format!("team-{:02}/llama-70b-{at:03}", at % 20);
    let metric = |name: &str, milli| MetricSpec {
        source: MetricSource::Signal { name: name.into() },
        target: MetricTarget::average_value(milli),
    };
    let metrics = vec![metric("requests_running", 4_000), metric("requests_waiting", 2_000)];
    let pool = PoolPolicy {
        min_replicas: 1,
        max_replicas: 20,
        rule: Rule::Hpa(HpaRule { metrics, ..HpaRule::default() }),
        idle: Some(Idle { after: Duration::from_secs(600) }),
        fallback: None,
        gpus_per_replica: 1,
        scrape_period: SECOND,
    };
    ModelSpec {
        model: name.as_str().into(),
        pool: name.as_str().into(),
        policy: Policy { pools: BTreeMap::from([(PoolId::new(name.as_str()), pool)]), ..Policy::default() },
        queries: vec![
            MetricQuery::Engine(SignalName::RequestsRunning),
            MetricQuery::Engine(SignalName::RequestsWaiting),
        ],
        slots: 8,
        scrape_period: SECOND,
        start_estimate: SECOND * 60,
        drain_timeout: SECOND * 60,
        gateway: GatewayUse::Absent,
        removal: Removal::Named,
        mode: Mode::Active,
    }
}

fn page(running: u32) -> Arc<Reading> {
    let named = NamedQueries::new(&[NamedQuery { name: "queue".into(), matching: Labels::new() }]);
    let text = format!("vllm:num_requests_running {running}\nvllm:num_requests_waiting 1\nqueue {running}\n");
    Arc::new(read_with(text.as_bytes(), None, &named, &Limits::default()).expect("a page"))
}

/// A loop that knows every replica and its count.
fn world(now: Timestamp) -> (Control, Vec<ReplicaId>) {
    let settings = ControlSettings { decision_period: SECOND, budgets: Budgets { gpus: Some(MODELS * REPLICAS * 2) } };
    let mut control = Control::new(settings);
    let mut effects = Vec::new();
    control.apply(now, Event::Configure((0..MODELS).map(spec).collect()), &mut effects);
    let mut replicas = Vec::new();
    for model in 0..MODELS {
        let pool = spec(model).pool;
        for at in 0..REPLICAS {
            let replica = ReplicaId::new(format!("{pool}-5f6d7c8b9-{at:05}"));
            let started =
                ReplicaEvent::Started { pool: pool.clone(), address: "10.0.0.1:8000".into(), created_at: now };
            for event in [started, ReplicaEvent::Ready] {
                control.apply(now, Event::Replica { replica: replica.clone(), event }, &mut effects);
            }
            replicas.push(replica);
        }
        control.apply(now, Event::Counted { pool, replicas: REPLICAS }, &mut effects);
        effects.clear();
    }
    (control, replicas)
}

fn main() {
    let pages: Vec<Arc<Reading>> = (3..6).map(page).collect();
    let start = Timestamp::from_secs(1_000_000);
    let (mut control, replicas) = world(start);
    let gap = SECOND / (MODELS * REPLICAS);
    let mut effects: Vec<Effect> = Vec::new();
    let (mut quiet, mut deciding) = (Vec::new(), Vec::new());
    let (mut decisions, mut seconds) = (0_u32, Vec::new());
    for round in 0..ROUNDS {
        let mut now = start.plus(SECOND * (round + 1));
        let begun = Instant::now();
        for (at, replica) in replicas.iter().enumerate() {
            now = now.plus(gap);
            let page = pages.get((at * 7 + usize::try_from(round).expect("small")) % pages.len()).expect("a page");
            let event = Event::Scraped { replica: replica.clone(), at: now, outcome: Ok(Arc::clone(page)) };
            let one = Instant::now();
            control.apply(now, event, &mut effects);
            let took = one.elapsed().as_secs_f64() * 1e6;
            let decided = effects.iter().filter(|effect| matches!(effect, Effect::Decided { .. })).count();
            if round >= WARM {
                decisions += u32::try_from(decided).expect("small");
                match u32::try_from(decided).expect("small") {
                    0 => quiet.push(took),
                    some => deciding.push(took / f64::from(some)),
                }
            }
            effects.clear();
        }
        if round >= WARM {
            seconds.push(begun.elapsed().as_secs_f64() * 1e6 / f64::from(MODELS * REPLICAS));
        }
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let rounds = f64::from(ROUNDS - WARM);
    println!(
        "apply(Scraped), {MODELS} models, {} replicas, no decision due, us, median\t{:.3}",
        replicas.len(),
        median(quiet)
    );
    println!("apply(Scraped) with decisions due, us a decision, median\t{:.3}", median(deciding));
    println!("apply(Scraped), decisions included, us a page, median of seconds\t{:.3}", median(seconds));
    println!("decisions a second\t{:.0}", f64::from(decisions) / rounds);
}
