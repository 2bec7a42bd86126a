//! What the keeper does for the replica it holds, and for the binary it is part of.

use crate::support::{Fixture, PATIENCE, example, living, shell, until};
use loadline_process::PoolSpec;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The keeper waits for blocked signals; a replica that inherited the mask would never see a SIGTERM.
#[tokio::test]
async fn an_idle_replica_ends_at_once_on_sigterm_with_no_signal_blocked() {
    let grace = Duration::from_secs(15);
    let mut fixture = Fixture::new(PoolSpec { termination_grace: grace, ..shell("exec sleep 98770") });
    fixture.scale(1);
    let (replica, ..) = fixture.started().await;
    until("it runs", || !living("98770").is_empty()).await;
    let pid = living("98770").into_iter().next().expect("one");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a mask").trim().to_owned();
    assert_eq!(blocked, "0000000000000000");
    let asked = Instant::now();
    fixture.scale(0);
    assert_eq!(fixture.stopped().await, replica);
    assert!(asked.elapsed() < grace / 3, "{:?}", asked.elapsed());
    fixture.end().await;
}

/// It may end before the keeper waits for it.
#[tokio::test]
async fn a_program_that_ends_at_once_is_always_noticed() {
    let mut fixture = Fixture::new(shell("exit 0"));
    for _ in 0..30 {
        fixture.scale(1);
        fixture.started().await;
        assert_eq!(fixture.exited().await.0, "exited with code 0");
        fixture.scale(0);
    }
    fixture.end().await;
}

#[tokio::test]
async fn nothing_is_left_of_ended_and_killed_replicas_not_even_zombies() {
    let mut fixture = Fixture::new(shell("(setsid sleep 98771 &); exec sleep 98771"));
    fixture.scale(1);
    let (_, killed, _) = fixture.started().await;
    until("both run", || living("98771").len() == 2).await;
    let mut pids = living("98771");
    pids.push(killed);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(killed), nix::sys::signal::Signal::SIGKILL).expect("kill");
    fixture.exited().await;
    let (_, ended, _) = fixture.started().await;
    until("both run again", || living("98771").len() == 2).await;
    pids.extend(living("98771"));
    pids.push(ended);
    fixture.scale(0);
    fixture.stopped().await;
    let left: Vec<_> = pids.iter().filter(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists()).collect();
    assert!(left.is_empty(), "{left:?} of {pids:?}");
    fixture.end().await;
}

/// The keeper and the built-in engine are the same binary, started through `/proc/self/exe`.
#[test]
fn replicas_start_after_the_binary_was_removed_in_its_directory_and_environment() {
    let folder = std::env::temp_dir().join(format!("loadline-removed-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    let binary = folder.join("parent");
    std::fs::copy(example("parent"), &binary).expect("copy");
    let mut parent = Command::new(&binary)
        .arg("itself")
        .current_dir(&folder)
        .env("LOADLINE_TEST_MARK", "passed on")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("parent");
    let mut output = BufReader::new(parent.stdout.take().expect("piped")).lines();
    let mut line = || output.next().expect("a line").expect("text");
    assert_eq!(line(), "started");
    std::fs::remove_file(&binary).expect("remove");
    let mut input = parent.stdin.take().expect("piped");
    input.write_all(b"go\n").expect("still there");
    let said = line();
    let expected = format!("in {} with `passed on`", folder.canonicalize().expect("folder").display());
    assert!(said.contains(&expected), "{said} / {expected}");
    drop(input);
    let deadline = Instant::now() + PATIENCE;
    while parent.try_wait().expect("wait").is_none() {
        assert!(Instant::now() < deadline, "the parent does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::remove_dir_all(&folder).expect("clean");
}
