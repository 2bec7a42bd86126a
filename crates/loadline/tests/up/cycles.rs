//! Nothing is lost: a hundred times from zero to one and back, with requests laid on the moment of going to zero.
//!
//! The clock of each `loadline up` is scaled, so that starts of 30 s and of 120 s take a fraction of a second. In each
//! cycle of a model one request wakes it, and a second one is sent around the moment at which it goes to zero: at an
//! offset that is swept from before to after the time that the cycle before took from its last answer to zero.

use crate::support::{Up, all_events, chat, has_content, json};
use loadline_testkit::{PATIENCE, wait_for};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Models that cycle beside each other, each with cycles one after the other.
const MODELS: u32 = 10;
const CYCLES: u32 = 10;
/// Tokens of each answer.
const TOKENS: u32 = 12;
/// Arrivals are laid from this long before the moment to as long after it, in wall time.
const EDGE: Duration = Duration::from_millis(20);

/// How often each model went up from zero and back to it, as the log says.
#[derive(Default)]
struct Edges(Mutex<BTreeMap<String, [usize; 2]>>);

impl Edges {
    /// Follows the log until told to end.
    fn follow(&self, up: &Up, end: &AtomicBool) {
        let mut read = 0;
        while !end.load(Ordering::Acquire) {
            let lines = up.process.lines();
            for line in &lines[read..] {
                let Some((model, change)) = line.split_once("scaled model=").and_then(|(_, rest)| rest.split_once(' '))
                else {
                    continue;
                };
                let mut counts = self.0.lock().expect("not poisoned");
                let counts = counts.entry(model.to_owned()).or_default();
                counts[0] += usize::from(change.starts_with("from=0 "));
                counts[1] += usize::from(change.contains(" to=0 "));
            }
            read = lines.len();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ups and downs of a model.
    fn of(&self, model: &str) -> [usize; 2] {
        self.0.lock().expect("not poisoned").get(model).copied().unwrap_or_default()
    }
}

/// Sends a request and checks that its answer is complete; returns its end.
fn ask(up: &Up, model: &str, stream: bool) -> Instant {
    let mut connection = up.ask(&chat(model, TOKENS, stream));
    let head = connection.head().expect("a head");
    if stream {
        let events = all_events(&mut connection, &mut vec![]);
        let ended = Instant::now();
        let tokens = events.iter().filter(|event| has_content(event)).count();
        assert_eq!(head.status, 200, "{model}: {events:?}");
        let whole = events.last().map(String::as_str) == Some("data: [DONE]");
        assert!(whole && tokens == TOKENS as usize, "{model}: {tokens} tokens of {TOKENS}: {events:?}");
        return ended;
    }
    let body = connection.piece().expect("a whole body").expect("a body");
    let ended = Instant::now();
    assert_eq!(head.status, 200, "{model}: {}", String::from_utf8_lossy(&body));
    assert_eq!(json(&body)["usage"]["completion_tokens"], TOKENS, "{model}");
    ended
}

/// The cycles of one model; returns how often it went to zero, and how often the second request of a cycle came after it.
fn cycle(up: &Up, edges: &Edges, (model, seed): (&str, u32), idle: Duration) -> [usize; 2] {
    // how long after the end of an answer the model went to zero, as last seen
    let mut span = idle;
    let mut late = 0;
    for number in 0..CYCLES {
        let stream = (number + seed) % 2 == 0;
        let [_, before] = edges.of(model);
        let ended = ask(up, model, stream);
        // a little later in each cycle and model, from before the moment to after it
        let offset = EDGE * 2 * (number * MODELS + seed) / (MODELS * CYCLES);
        let at = ended + (span + offset).saturating_sub(EDGE);
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        let ended = ask(up, model, !stream);
        let gone = || Some(edges.of(model)).filter(|[ups, downs]| ups == downs && *downs > before);
        let [_, downs] = wait_for("zero", PATIENCE, gone).unwrap_or_else(|error| {
            panic!("{model}: {error}\n{}", up.process.lines().join("\n"));
        });
        late += usize::from(downs > before + 1);
        span = ended.elapsed();
    }
    [edges.of(model)[1], late]
}

/// A hundred cycles with starts of this length.
fn hundred_cycles(startup: Duration, speedup: u32) {
    let idle = Duration::from_secs(20);
    let mut config = "listen: 127.0.0.1:0\nmodels:\n".to_owned();
    for model in 0..MODELS {
        // model time passes fast beside the processes' own, whose pauses must not count as failures
        writeln!(
            config,
            "- {{name: m{model}, engine: {{startup: {}s}}, idle: {{after: {}s}}, startupTimeout: 24h, coldWait: 24h, terminationGrace: 1h}}",
            startup.as_secs(),
            idle.as_secs()
        )
        .expect("a string");
    }
    let up = Up::start(&config, &["--speedup", &speedup.to_string()]);
    let (edges, end) = (Edges::default(), AtomicBool::new(false));
    let counts: Vec<[usize; 2]> = std::thread::scope(|scope| {
        scope.spawn(|| edges.follow(&up, &end));
        let all = (0..MODELS).map(|model| {
            let (up, edges) = (&up, &edges);
            scope.spawn(move || cycle(up, edges, (&format!("m{model}"), model), idle / speedup))
        });
        let all: Vec<_> = all.collect();
        let counts: Vec<_> = all.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        end.store(true, Ordering::Release);
        if counts.iter().any(Result::is_err) {
            println!("{}", up.process.lines().join("\n"));
        }
        counts.into_iter().map(|counts| counts.expect("every answer is complete")).collect()
    });
    let (cycles, late) = counts.iter().fold((0, 0), |(all, late), [more, later]| (all + more, late + later));
    println!("starts of {startup:?} at {speedup} times: {cycles} times to zero, {late} requests just after the edge");
    assert!(cycles >= 100, "{cycles} times to zero");
    let page = up.page("/metrics");
    let broken: BTreeSet<&str> = page
        .lines()
        .filter(|line| line.starts_with("loadline_law_violations_total{") && !line.ends_with(" 0"))
        .collect();
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn a_hundred_cycles_with_starts_of_30_seconds_lose_nothing() {
    hundred_cycles(Duration::from_secs(30), 100);
}

#[test]
fn a_hundred_cycles_with_starts_of_120_seconds_lose_nothing() {
    hundred_cycles(Duration::from_secs(120), 300);
}
