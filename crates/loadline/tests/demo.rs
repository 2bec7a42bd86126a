//! The real binary's `demo`: from zero replicas and back over real HTTP, with one JSON object at the end.

#![expect(clippy::expect_used, reason = "what a test sets up may stop it")]

use serde_json::Value;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The keys that scripts may rely on.
const KEYS: [&str; 11] = [
    "sent",
    "answered",
    "failed",
    "attainment",
    "ttft_p95",
    "tpot_p95",
    "replica_seconds",
    "static_replica_seconds",
    "max_replicas",
    "scale_events",
    "law_violations",
];

/// Far beyond what a minute of workload takes at this speed, drain and idle time included.
const LIMIT: Duration = Duration::from_secs(60);

fn demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadline")).arg("demo").args(arguments).output().expect("the binary runs")
}

#[test]
fn a_short_demo_goes_from_zero_to_some_and_back_and_loses_nothing() {
    let begun = Instant::now();
    let output = demo(&["--duration", "60s", "--speedup", "20", "-o", "json"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let result: Value = serde_json::from_slice(&output.stdout).expect("standard output is one JSON object");
    assert!(output.status.success(), "{result:#}\n{stderr}");
    assert!(begun.elapsed() < LIMIT, "it took {:?}", begun.elapsed());
    for key in KEYS {
        assert!(result.get(key).is_some(), "`{key}` is missing: {result:#}");
    }
    let count = |key: &str| result[key].as_u64().expect("a count");
    assert!(count("sent") > 50, "{result:#}");
    assert_eq!(count("answered"), count("sent"));
    assert_eq!((count("failed"), count("law_violations")), (0, 0));
    let number = |value: &Value| value.as_f64().expect("a number");
    assert!((0.0..=1.0).contains(&number(&result["attainment"])));
    assert!(number(&result["ttft_p95"]) > 0.0 && number(&result["tpot_p95"]) > 0.0);
    assert!(number(&result["replica_seconds"]) > 0.0 && number(&result["static_replica_seconds"]) > 0.0);
    let events = result["scale_events"].as_array().expect("a list");
    // from zero, and to zero once: each change starts where the one before ended, and says why
    let mut last = 0;
    let mut time = 0.0;
    for event in events {
        assert_eq!(event["from"].as_u64(), Some(last), "{events:#?}");
        last = event["to"].as_u64().expect("a count");
        assert!(number(&event["time"]) >= time, "in order: {events:#?}");
        time = number(&event["time"]);
        assert!(!event["reason"].as_str().expect("a text").is_empty());
    }
    assert_eq!(last, 0, "{events:#?}");
    assert_eq!(events.iter().filter(|event| event["to"] == 0).count(), 1, "{events:#?}");
    assert!(count("max_replicas") >= 1);
    // what is in force is said before anything runs, also without a terminal
    for word in ["workload", "target", "SLO", "speed-up 20"] {
        assert!(stderr.contains(word), "`{word}` is not said:\n{stderr}");
    }
}

#[test]
fn a_trace_that_is_not_there_is_named() {
    let output = demo(&["--trace", "no/such/trace.csv"]);
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("no/such/trace.csv"), "{stderr}");
    assert!(output.stdout.is_empty());
}
