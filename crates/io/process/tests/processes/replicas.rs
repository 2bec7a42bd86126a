//! One replica: start, readiness, exit, restart, termination, orphans.

use crate::support::{Fixture, example, living, server, shell, spec, until};
use loadline_process::{ExitReason, PoolSpec, ProcessEvent, StartError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_replica_starts_answers_on_its_devices_restarts_when_killed_and_stops() {
    let mut fixture = Fixture::new(PoolSpec { devices: vec!["3,4".to_owned()], ..server("100") });
    fixture.scale(1);
    fixture.scale(1);
    let (first, keeper, address) = fixture.started().await;
    fixture.ready().await;
    let target = loadline_net::http::Target::plain(address, "/");
    let limits = loadline_net::http::FetchLimits::DEFAULT;
    let answer =
        loadline_net::http::fetch(&Default::default(), &target, &Default::default(), &limits).await.expect("up");
    assert_eq!(answer.body, "3,4");
    let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).expect("children");
    kill(Pid::from_raw(children.trim().parse().expect("one child")), Signal::SIGKILL).expect("kill");
    match fixture.next().await {
        ProcessEvent::Exited { replica, reason, last_lines, restart_in } => {
            assert_eq!((replica, reason), (first.clone(), ExitReason::Code(137)));
            assert_eq!((last_lines, restart_in), (vec!["listening".to_owned()], Duration::from_millis(50)));
        }
        other => panic!("{other:?}"),
    }
    let (second, ..) = fixture.started().await;
    assert_ne!(first, second);
    fixture.ready().await;
    fixture.scale(0);
    assert_eq!(fixture.next().await, ProcessEvent::Stopped { replica: second });
    fixture.end().await;
}

#[tokio::test]
async fn exits_are_restarted_with_growing_waits() {
    let mut fixture = Fixture::new(shell("echo one; echo two >&2; exit 3"));
    fixture.scale(1);
    for wait in [50, 100, 200, 200] {
        fixture.started().await;
        match fixture.next().await {
            ProcessEvent::Exited { reason, restart_in, mut last_lines, .. } => {
                last_lines.sort();
                assert_eq!((reason, restart_in), (ExitReason::Code(3), Duration::from_millis(wait)));
                assert_eq!(last_lines, ["one", "two"]);
            }
            other => panic!("{other:?}"),
        }
    }
    fixture.end().await;
}

#[tokio::test]
async fn what_ignores_sigterm_is_killed_with_its_detached_children() {
    let mut fixture = Fixture::new(shell("trap '' TERM; setsid sleep 98761 & while :; do sleep 0.05; done"));
    fixture.scale(1);
    let (replica, ..) = fixture.started().await;
    until("the detached child runs", || !living("98761").is_empty()).await;
    fixture.scale(0);
    assert_eq!(fixture.next().await, ProcessEvent::Stopped { replica });
    assert_eq!(living("98761"), [] as [i32; 0]);
    fixture.end().await;
}

#[tokio::test]
async fn a_killed_keeper_takes_its_replica_along() {
    let mut fixture = Fixture::new(shell("(setsid sleep 98762 &); sleep 98762"));
    fixture.scale(1);
    let (_, keeper, _) = fixture.started().await;
    until("both run", || living("98762").len() == 2).await;
    let old = living("98762");
    kill(Pid::from_raw(keeper), Signal::SIGKILL).expect("kill");
    match fixture.next().await {
        ProcessEvent::Exited { reason, .. } => assert_eq!(reason, ExitReason::KeeperKilled),
        other => panic!("{other:?}"),
    }
    assert!(!living("98762").iter().any(|pid| old.contains(pid)));
    fixture.end().await;
    assert_eq!(living("98762"), [] as [i32; 0]);
}

#[tokio::test]
async fn nothing_outlives_a_killed_loadline() {
    let mut parent = Command::new(example("parent"))
        .arg(example("keeper"))
        .arg("trap '' TERM; (setsid sleep 98763 &); while :; do sleep 98763; done")
        .stdin(Stdio::null())
        .spawn()
        .expect("parent");
    until("both run", || living("98763").len() == 2).await;
    parent.kill().expect("kill");
    parent.wait().expect("wait");
    let killed = Instant::now();
    until("all are gone", || living("98763").is_empty()).await;
    assert!(killed.elapsed() < Duration::from_secs(5), "{:?}", killed.elapsed());
}

#[tokio::test]
async fn never_ready_times_out_and_what_cannot_start_says_why() {
    let mut fixture =
        Fixture::new(PoolSpec { startup_timeout: Duration::from_millis(200), ..shell("echo hi; sleep 98764") });
    fixture.scale(1);
    fixture.started().await;
    match fixture.next().await {
        ProcessEvent::StartTimedOut { why, last_lines, .. } => {
            assert!(why.contains("refused"), "{why}");
            assert_eq!(last_lines, ["hi"]);
        }
        other => panic!("{other:?}"),
    }
    let event = fixture.next().await;
    assert!(matches!(event, ProcessEvent::Exited { reason: ExitReason::StartTimedOut, .. }), "{event:?}");
    fixture.end().await;

    for (command, part) in [("/nowhere/engine", "was not found"), ("/etc/passwd", "chmod +x")] {
        let mut fixture = Fixture::new(spec(&[command, "{port}"]));
        fixture.scale(1);
        match fixture.next().await {
            ProcessEvent::CannotStart { error, .. } => assert!(StartError::to_string(&error).contains(part), "{error}"),
            other => panic!("{other:?}"),
        }
        fixture.end().await;
    }
}

#[tokio::test]
async fn a_port_taken_by_a_stranger_is_noticed() {
    let mut fixture = Fixture::new(server("400"));
    fixture.scale(1);
    let (_, _, address) = fixture.started().await;
    let stranger = std::net::TcpListener::bind(address).expect("bind before the replica does");
    match fixture.next().await {
        ProcessEvent::Exited { reason, restart_in, .. } => {
            assert_eq!((reason, restart_in), (ExitReason::PortTaken(address.port()), Duration::ZERO));
        }
        other => panic!("{other:?}"),
    }
    let (_, _, second) = fixture.started().await;
    assert_ne!(second, address);
    fixture.ready().await;
    drop(stranger);
    fixture.end().await;
}

#[tokio::test]
async fn a_younger_replica_of_someone_else_on_the_same_port_is_not_taken_for_our_own() {
    let mut late = Fixture::new(server("600000"));
    late.scale(1);
    let (_, _, address) = late.started().await;
    // another Loadline chose the same port in the moment between choice and use; its replica answers our probes
    let port = address.port().to_string();
    let quick = spec(&[example("replica").to_str().expect("utf-8"), &port, "0", "/nonexistent/{port}"]);
    let mut other = Fixture::new(quick);
    other.scale(1);
    let (reason, _) = late.exited().await;
    assert_eq!(reason, ExitReason::PortTaken(address.port()).to_string());
    let (_, _, second) = late.started().await;
    assert_ne!(second, address);
    other.events.close();
    other.end().await;
    late.end().await;
}
