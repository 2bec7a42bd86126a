//! Readiness over time, scaled time, ports, and forwarded output.

use crate::support::{Fixture, PATIENCE, server, shell, until};
use loadline_net::Clock;
use loadline_process::{Limits, PoolSpec, ProcessEvent};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};

#[tokio::test]
async fn a_ready_replica_can_be_not_ready_and_ready_again() {
    let file = std::env::temp_dir().join(format!("loadline-unready-{}", std::process::id()));
    let mut spec = server("0");
    spec.command.push(file.display().to_string());
    let limits = Limits { ready_probe_period: Duration::from_millis(20), not_ready_after: 2, ..Limits::DEFAULT };
    let mut fixture = Fixture::with(spec, limits, Clock::real(), 64);
    fixture.scale(1);
    let (replica, ..) = fixture.started().await;
    fixture.ready().await;
    for _ in 0..2 {
        std::fs::write(&file, "").expect("write");
        match fixture.next().await {
            ProcessEvent::NotReady { replica: seen, why } => {
                assert!(seen == replica && why.contains("503"), "{seen}: {why}");
            }
            other => panic!("{other:?}"),
        }
        std::fs::remove_file(&file).expect("remove");
        fixture.ready().await;
    }
    fixture.scale(0);
    fixture.stopped().await;
    fixture.end().await;
}

/// All spans of a specification are model time.
#[tokio::test]
async fn a_scaled_clock_scales_the_start_limit_the_grace_and_the_back_off() {
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let mut spec = shell("trap '' TERM; while :; do sleep 0.02; done");
    // at 600 times: 0.6 s to start, 0.3 s of grace
    (spec.startup_timeout, spec.termination_grace) = (minutes(6), minutes(3));
    (spec.restart.first, spec.restart.max) = (minutes(2), minutes(2));
    let clock = Clock::scaled(600.0);
    let mut fixture = Fixture::with(spec, Limits::DEFAULT, clock.clone(), 64);
    fixture.scale(1);
    fixture.started().await;
    let started = Instant::now();
    let event = fixture.next().await;
    assert!(matches!(event, ProcessEvent::StartTimedOut { limit, .. } if limit == minutes(6)), "{event:?}");
    let event = fixture.next().await;
    match event {
        ProcessEvent::Exited { restart_in, .. } => assert_eq!(restart_in, minutes(2)),
        other => panic!("{other:?}"),
    }
    fixture.started().await;
    let passed = started.elapsed();
    // start limit, grace and back-off, as no second of model time takes one on the wall
    assert!(passed >= Duration::from_millis(1050) && passed < Duration::from_secs(20), "{passed:?}");
    fixture.end().await;
}

/// Another listener on the same port does not make the later death of a replica that served a lost race for the port.
#[tokio::test]
async fn an_exit_after_ready_is_not_a_taken_port() {
    let mut fixture = Fixture::new(server("0"));
    fixture.scale(1);
    let (_, keeper, address) = fixture.started().await;
    fixture.ready().await;
    let stranger = tokio::net::TcpSocket::new_v4().expect("socket");
    stranger.set_reuseport(true).expect("option");
    stranger.bind(address).expect("shares the port");
    let stranger = stranger.listen(8).expect("listen");
    let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).expect("children");
    kill(Pid::from_raw(children.trim().parse().expect("one child")), Signal::SIGKILL).expect("kill");
    assert_eq!(fixture.exited().await.0, "ended by signal 9 (SIGKILL)");
    drop(stranger);
    fixture.end().await;
}

/// Keeps the text of every event.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl tracing::Subscriber for Kept {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().expect("kept").push(format!("{}: {}", event.metadata().target(), text.0));
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn output_goes_to_the_log_where_asked_with_the_replicas_name() {
    let kept = Kept::default();
    // this runtime has one thread, so that the subscriber of the thread sees all of its tasks
    let _guard = tracing::subscriber::set_default(kept.clone());
    let mut fixture =
        Fixture::new(PoolSpec { forward_logs: true, ..shell("echo out; echo err >&2; exec sleep 98774") });
    fixture.scale(1);
    let (replica, ..) = fixture.started().await;
    let has = |part: &str| kept.0.lock().expect("kept").iter().any(|line| line == part);
    for stream in ["out", "err"] {
        until("the line", || has(&format!("loadline::replica: [{replica}] {stream}"))).await;
    }
    tokio::time::timeout(PATIENCE, fixture.end()).await.expect("ends");
}
