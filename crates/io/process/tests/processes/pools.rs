//! Wishes: which replicas go, how many may be, what a changed specification means, and how everything ends.

use crate::support::{Fixture, PATIENCE, living, server, shell, until};
use loadline_base::{PoolId, ReplicaId};
use loadline_net::Clock;
use loadline_process::{BackOff, Limits, PoolSpec, ProcessEvent, ReplicaStage};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[tokio::test]
async fn named_replicas_go_first_then_the_newest() {
    let mut fixture = Fixture::new(server("0"));
    // one by one: their ages must differ
    let mut ids = vec![];
    for count in 1..=4 {
        fixture.scale(count);
        ids.extend(fixture.all_ready(1).await);
    }
    let [first, second, third, fourth] = ids.as_slice() else { panic!("{ids:?}") };
    // the named one, although it is the oldest; unknown names do not count
    fixture.handle.set_replicas(&fixture.pool, 3, vec![ReplicaId::from("m-99"), first.clone()]);
    assert_eq!(fixture.stopped().await, *first);
    fixture.scale(2);
    assert_eq!(fixture.stopped().await, *fourth);
    // an order to remove one is overtaken by one for more: the named one goes, and another takes its place
    fixture.handle.set_replicas(&fixture.pool, 1, vec![second.clone()]);
    fixture.handle.set_replicas(&fixture.pool, 2, vec![second.clone()]);
    let mut stopped = None;
    let mut is_ready = false;
    while stopped.is_none() || !is_ready {
        match fixture.next().await {
            ProcessEvent::Stopped { replica } => stopped = Some(replica),
            ProcessEvent::Started { .. } => {}
            ProcessEvent::Ready { .. } => is_ready = true,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(stopped.as_ref(), Some(second));
    let left: Vec<_> = fixture.handle.snapshot().replicas.iter().map(|replica| replica.id.clone()).collect();
    assert!(left.len() == 2 && left.contains(third), "{left:?}");
    fixture.end().await;
}

#[tokio::test]
async fn starting_replicas_go_before_ready_ones() {
    let mut fixture = Fixture::new(server("0"));
    fixture.scale(1);
    let ready = fixture.all_ready(1).await;
    let slow = PoolSpec { env: BTreeMap::from([("MARK".to_owned(), "1".to_owned())]), ..server("60000") };
    fixture.handle.configure(vec![slow]).expect("valid");
    fixture.scale(2);
    let (starting, ..) = fixture.started().await;
    fixture.scale(1);
    assert_eq!(fixture.stopped().await, starting);
    fixture.scale(0);
    assert_eq!(vec![fixture.stopped().await], ready);
    fixture.end().await;
}

#[tokio::test]
async fn there_are_never_more_replicas_than_device_slots_ending_ones_included() {
    let devices = vec!["0".to_owned(), "1".to_owned()];
    let stubborn = shell("trap '' TERM; while :; do sleep 0.02; done; : {gpu}");
    let grace = Duration::from_millis(400);
    let mut fixture = Fixture::new(PoolSpec { devices, termination_grace: grace, ..stubborn });
    fixture.scale(5);
    let mut first = vec![fixture.started().await.0, fixture.started().await.0];
    until("the rest waits", || fixture.handle.snapshot().waiting.get(&fixture.pool) == Some(&3)).await;
    let slots: Vec<u32> = fixture.handle.snapshot().replicas.iter().map(|replica| replica.slot).collect();
    assert_eq!(slots, [0, 1]);
    fixture.scale(0);
    until("both are ending", || {
        fixture.handle.snapshot().replicas.iter().all(|replica| replica.stage == ReplicaStage::Stopping)
    })
    .await;
    fixture.scale(1);
    // the slots are still held: an end must come before the next start
    let ended = fixture.stopped().await;
    first.retain(|id| *id != ended);
    assert_eq!(first.len(), 1);
    let mut rest = vec![fixture.next().await, fixture.next().await];
    rest.retain(|event| matches!(event, ProcessEvent::Started { .. }));
    assert_eq!(rest.len(), 1);
    fixture.end().await;
}

#[tokio::test]
async fn placeholders_are_filled_in_command_and_environment() {
    let script = "echo {slot} {gpu} $A $CUDA_VISIBLE_DEVICES '{\"json\": {}}'; exit 3";
    let env = BTreeMap::from([("A".to_owned(), "p{port}s{slot}g{gpu}".to_owned())]);
    let mut fixture = Fixture::new(PoolSpec { env, devices: vec!["4,5".to_owned()], ..shell(script) });
    fixture.scale(1);
    let (_, _, address) = fixture.started().await;
    let (_, lines) = fixture.exited().await;
    assert_eq!(lines, [format!("0 4,5 p{}s0g4,5 4,5 {{\"json\": {{}}}}", address.port())]);
    fixture.end().await;
}

#[tokio::test]
async fn a_changed_specification_counts_for_new_replicas_and_a_removed_pool_ends() {
    let mut fixture = Fixture::new(server("0"));
    fixture.scale(1);
    let first = fixture.all_ready(1).await;
    let marked = PoolSpec { env: BTreeMap::from([("MARK".to_owned(), "1".to_owned())]), ..server("0") };
    fixture.handle.configure(vec![marked]).expect("valid");
    fixture.scale(2);
    let (second, keeper, _) = fixture.started().await;
    fixture.ready().await;
    let environment = std::fs::read(format!("/proc/{keeper}/environ")).expect("environ");
    assert!(environment.split(|byte| *byte == 0).any(|entry| entry == b"MARK=1"));
    let ids: Vec<_> = fixture.handle.snapshot().replicas.iter().map(|replica| replica.id.clone()).collect();
    assert_eq!(ids, [first, vec![second]].concat(), "the running one stays");
    fixture.handle.configure(vec![]).expect("valid");
    let mut ended = vec![fixture.stopped().await, fixture.stopped().await];
    ended.sort();
    assert_eq!(ended, ids);
    fixture.scale(3);
    fixture.handle.configure(vec![server("0")]).expect("valid");
    until("an unknown pool had no wish", || fixture.handle.snapshot().replicas.is_empty()).await;
    fixture.end().await;
}

#[tokio::test]
async fn a_corrected_command_ends_the_back_off() {
    let hour = Duration::from_secs(3600);
    let back_off = BackOff { first: hour, max: hour, reset_after: hour };
    let mut fixture = Fixture::new(PoolSpec { restart: back_off, ..shell("exit 3") });
    fixture.scale(1);
    fixture.started().await;
    fixture.exited().await;
    assert_eq!(fixture.handle.snapshot().waiting.get(&fixture.pool), Some(&1));
    fixture.handle.configure(vec![server("0")]).expect("valid");
    fixture.all_ready(1).await;
    fixture.end().await;
}

#[tokio::test]
async fn what_is_left_at_the_shutdown_deadline_is_killed() {
    let stubborn = shell("trap '' TERM; while :; do sleep 98772; done");
    let mut fixture = Fixture::new(PoolSpec { termination_grace: Duration::from_secs(3600), ..stubborn });
    fixture.scale(1);
    fixture.started().await;
    until("it runs", || !living("98772").is_empty()).await;
    let within = Duration::from_millis(300);
    let asked = Instant::now();
    tokio::time::timeout(PATIENCE, fixture.handle.shutdown(within)).await.expect("ends");
    assert!(asked.elapsed() >= within, "{:?}", asked.elapsed());
    assert_eq!(living("98772"), [] as [i32; 0]);
    assert!(fixture.handle.snapshot().ended);
}

#[tokio::test]
async fn a_dropped_handle_ends_everything() {
    let mut fixture = Fixture::new(shell("exec sleep 98773"));
    fixture.scale(2);
    fixture.started().await;
    fixture.started().await;
    until("both run", || living("98773").len() == 2).await;
    let Fixture { handle, mut events, .. } = fixture;
    let clone = handle.clone();
    drop(handle);
    // a clone keeps it alive: something still happens on its wish
    clone.set_replicas(&PoolId::from("m"), 1, vec![]);
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time");
    assert!(matches!(event, Some(ProcessEvent::Stopped { .. })), "{event:?}");
    drop(clone);
    let rest = async { while events.recv().await.is_some() {} };
    tokio::time::timeout(PATIENCE, rest).await.expect("the supervisor ends");
    assert_eq!(living("98773"), [] as [i32; 0]);
}

#[tokio::test]
async fn unread_events_are_bounded_and_the_newest_are_kept() {
    let wait = Duration::from_millis(1);
    let spec = PoolSpec { restart: BackOff { first: wait, max: wait, reset_after: PATIENCE }, ..shell("exit 3") };
    let limits = Limits { pending_events: 4, ..Limits::DEFAULT };
    let mut fixture = Fixture::with(spec, limits, Clock::real(), 1);
    fixture.scale(1);
    let number = |id: &ReplicaId| id.to_string().trim_start_matches("m-").parse::<u32>().expect("a number");
    let newest = || fixture.handle.snapshot().replicas.first().map_or(0, |replica| number(&replica.id));
    until("many restarts, read by nobody", || newest() >= 12).await;
    let newest = newest();
    let mut seen = vec![];
    for _ in 0..5 {
        if let ProcessEvent::Started { replica, .. } = fixture.next().await {
            seen.push(number(&replica));
        }
    }
    // one event waits in the channel from the beginning, four in the queue
    assert_eq!(seen.first(), Some(&1));
    assert!(seen.iter().skip(1).all(|number| *number + 4 >= newest), "{seen:?}, newest {newest}");
    fixture.end().await;
}
