//! Time of one HPA decision over 100 pods and 3 metrics; prints `name<TAB>value` lines. A test of the goal is in `cargo xtask bench`.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_macros,
    reason = "a benchmark reads the clock and prints what it saw"
)]

use loadline_base::{PoolId, Timestamp};
use loadline_policy::hpa::{
    Answer, Behavior, Container, ContainerUsage, HpaObservation, HpaRule, MetricSource, MetricSpec, MetricTarget,
    Phase, Pod, PodUsage, PodValue, Ready,
};
use loadline_policy::{Gate, Memory, Observation, Policy, PoolObservation, PoolPolicy, Rule, decide};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

const PODS: usize = 100;
const ROUNDS: usize = 40;
const PER_ROUND: u32 = 500;

fn metrics() -> Vec<MetricSpec> {
    let metric = |source, target| MetricSpec { source, target };
    vec![
        metric(MetricSource::Resource { name: "cpu".to_owned() }, MetricTarget::utilization(60)),
        metric(
            MetricSource::Pods { metric: "requests_running".to_owned(), selector: None },
            MetricTarget::average_value(20_000),
        ),
        metric(
            MetricSource::External { metric: "queue_length".to_owned(), selector: None },
            MetricTarget::average_value(30_000),
        ),
    ]
}

fn pod(at: usize, now: Timestamp) -> Pod {
    let old = now.minus(Duration::from_secs(3_600));
    Pod {
        name: format!("llama-70b-5f6d7c8b9-{at:05}"),
        phase: Phase::Running,
        ready: Some(Ready::True),
        ready_at: Some(old),
        started_at: Some(old),
        containers: vec![Container {
            name: "engine".to_owned(),
            request_milli: BTreeMap::from([("cpu".to_owned(), 8_000), ("memory".to_owned(), 64_000_000)]),
            ..Container::default()
        }],
        ..Pod::default()
    }
}

fn observation(now: Timestamp) -> PoolObservation {
    let pods: Vec<Pod> = (0..PODS).map(|at| pod(at, now)).collect();
    let usage = pods.iter().zip(0_i64..).map(|(pod, at)| PodUsage {
        pod: pod.name.clone(),
        at: now,
        window: Duration::from_secs(15),
        containers: vec![ContainerUsage { name: "engine".to_owned(), usage_milli: Some(4_000 + 10 * at) }],
    });
    let running = pods.iter().zip(0_i64..).map(|(pod, at)| PodValue {
        pod: pod.name.clone(),
        at: now,
        window_seconds: None,
        value_milli: 15_000 + 100 * at,
    });
    let answers = vec![
        Answer::Usage { pods: usage.collect() },
        Answer::Pods { pods: running.collect() },
        Answer::External { values_milli: vec![2_900_000] },
    ];
    PoolObservation {
        spec_replicas: 100,
        status_replicas: 100,
        hpa: Some(HpaObservation { selector: "app=llama".to_owned(), pods, answers, ..HpaObservation::default() }),
        ..PoolObservation::default()
    }
}

fn main() {
    let id = PoolId::new("llama");
    let now = Timestamp::from_secs(1_700_000_000);
    let pool = PoolPolicy {
        min_replicas: 1,
        max_replicas: 200,
        rule: Rule::Hpa(HpaRule { metrics: metrics(), behavior: Some(Behavior::api_default()), ..HpaRule::default() }),
        idle: None,
        fallback: None,
        gpus_per_replica: 0,
        scrape_period: Duration::from_secs(5),
    };
    let policy = Policy { pools: BTreeMap::from([(id.clone(), pool)]), gate: Gate::Off };
    let mut seen = Observation { now, pools: BTreeMap::from([(id, observation(now))]) };
    let mut memory = Memory::default();
    let mut best = f64::INFINITY;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..PER_ROUND {
            // a full history: one pass each second over a window of 300 s
            seen.now = seen.now.plus(Duration::from_secs(1));
            let (decision, next) = decide(black_box(&policy), black_box(&seen), memory);
            memory = next;
            black_box(decision);
        }
        let each = start.elapsed().as_secs_f64() * 1e6 / f64::from(PER_ROUND);
        best = best.min(each);
        times.push(each);
    }
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2).copied().unwrap_or(best);
    println!("decide, hpa, 100 pods, 3 metrics, us, median\t{median:.3}");
    println!("decide, hpa, 100 pods, 3 metrics, us, best\t{best:.3}");
}
