//! A supervisor with one pool, and what a test asks of it.

use loadline_base::{PoolId, ReplicaId};
use loadline_net::Clock;
use loadline_process::{BackOff, KeeperCommand, Limits, PoolSpec, ProcessEvent, ProcessHandle, ProcessPools, Settings};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("own path");
    test.parent().and_then(|deps| deps.parent()).expect("target folder").join("examples").join(name)
}

pub(crate) struct Fixture {
    pub(crate) handle: ProcessHandle,
    pub(crate) events: mpsc::Receiver<ProcessEvent>,
    pub(crate) pool: PoolId,
}

impl Fixture {
    pub(crate) fn new(spec: PoolSpec) -> Self {
        Self::with(spec, Limits::DEFAULT, Clock::real(), 64)
    }

    pub(crate) fn with(spec: PoolSpec, limits: Limits, clock: Clock, channel: usize) -> Self {
        let settings = Settings { keeper: KeeperCommand { program: example("keeper"), args: vec![] }, limits };
        let (sender, events) = mpsc::channel(channel);
        let handle = ProcessPools::start(settings, clock, sender).expect("start");
        let pool = spec.pool.clone();
        handle.configure(vec![spec]).expect("valid");
        Self { handle, events, pool }
    }

    pub(crate) fn scale(&self, count: u32) {
        self.handle.set_replicas(&self.pool, count, vec![]);
    }

    pub(crate) async fn next(&mut self) -> ProcessEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("supervisor")
    }

    pub(crate) async fn started(&mut self) -> (ReplicaId, i32, std::net::SocketAddr) {
        match self.next().await {
            ProcessEvent::Started { replica, keeper, address, .. } => {
                (replica, i32::try_from(keeper).expect("pid"), address)
            }
            other => panic!("not started: {other:?}"),
        }
    }

    pub(crate) async fn ready(&mut self) {
        let event = self.next().await;
        assert!(matches!(event, ProcessEvent::Ready { .. }), "{event:?}");
    }

    /// Waits until `count` replicas have started and are ready; their ids in the order of their starts.
    pub(crate) async fn all_ready(&mut self, count: usize) -> Vec<ReplicaId> {
        let (mut started, mut ready) = (vec![], 0);
        while ready < count {
            match self.next().await {
                ProcessEvent::Started { replica, .. } => started.push(replica),
                ProcessEvent::Ready { .. } => ready += 1,
                other => panic!("{other:?}"),
            }
        }
        started
    }

    /// The next event must be the proper end of a replica; which one.
    pub(crate) async fn stopped(&mut self) -> ReplicaId {
        match self.next().await {
            ProcessEvent::Stopped { replica } => replica,
            other => panic!("not stopped: {other:?}"),
        }
    }

    /// The next event must be an exit; its reason as text, and the output in order.
    pub(crate) async fn exited(&mut self) -> (String, Vec<String>) {
        match self.next().await {
            ProcessEvent::Exited { reason, last_lines, .. } => (reason.to_string(), last_lines),
            other => panic!("not exited: {other:?}"),
        }
    }

    pub(crate) async fn end(mut self) {
        self.events.close();
        tokio::time::timeout(PATIENCE, self.handle.shutdown(Duration::from_secs(2))).await.expect("ends");
        assert!(self.handle.snapshot().replicas.is_empty());
    }
}

pub(crate) fn spec(command: &[&str]) -> PoolSpec {
    let mut spec = PoolSpec::new(PoolId::from("m"), command.iter().map(|s| (*s).to_owned()).collect());
    let quick = Duration::from_millis(50);
    spec.restart = BackOff { first: quick, max: Duration::from_millis(200), reset_after: Duration::from_secs(60) };
    spec.termination_grace = Duration::from_millis(300);
    spec
}

pub(crate) fn server(delay: &str) -> PoolSpec {
    spec(&[example("replica").to_str().expect("utf-8"), "{port}", delay])
}

pub(crate) fn shell(script: &str) -> PoolSpec {
    spec(&["/bin/sh", "-c", script, "{port}"])
}

/// Living processes whose command line holds `mark`.
pub(crate) fn living(mark: &str) -> Vec<i32> {
    let mut found = vec![];
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        // the sleeps themselves: shells and keepers carry the mark inside a script
        if line.starts_with("sleep\0") && line.contains(mark) {
            found.push(pid);
        }
    }
    found
}

pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
