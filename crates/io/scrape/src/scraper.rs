//! The loops: one task per target, for as long as it is a target.

use crate::error::ScrapeError;
use crate::page::PageClient;
use crate::schedule::next_turn;
use crate::settings::ScrapeSettings;
use loadline_base::{ModelId, ReplicaId, Timestamp};
use loadline_net::Clock;
use loadline_net::http::Connector;
use loadline_signals::dialect::{EngineKind, NamedQueries, Reading, read, read_with};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// One replica's metrics page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which replica; the key of a target.
    pub replica: ReplicaId,
    /// Which model it serves.
    pub model: ModelId,
    /// `http://` or `https://`, with the path.
    pub url: String,
    /// The engine, where it is declared; otherwise each page tells.
    pub engine: Option<EngineKind>,
    /// Series that are read under their own names beside the signals, for the model's metrics that name them.
    pub named: Option<Arc<NamedQueries>>,
}

/// The outcome of one scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct ScrapeReport {
    /// Of which replica.
    pub replica: ReplicaId,
    /// Of which model.
    pub model: ModelId,
    /// When the page was there or the failure was known. Pages carry no times of their own.
    pub at: Timestamp,
    /// What was read.
    pub outcome: Result<Reading, ScrapeError>,
    /// How long it took, in model time.
    pub duration: Duration,
}

/// What all loops share.
#[derive(Debug)]
struct Shared {
    clock: Clock,
    settings: ScrapeSettings,
    permits: Semaphore,
    connector: Connector,
}

#[derive(Debug)]
struct Running {
    target: Target,
    _ends_with_entry: DropGuard,
}

/// Scrapes a set of targets that changes at run time. Dropping it ends every loop.
#[derive(Debug)]
pub struct Scraper {
    shared: Arc<Shared>,
    reports: mpsc::Sender<ScrapeReport>,
    tasks: TaskTracker,
    all: CancellationToken,
    _ends_with_scraper: DropGuard,
    running: Mutex<BTreeMap<ReplicaId, Running>>,
}

impl Scraper {
    /// Starts without targets; must be called inside a runtime. Reports go to `reports`, and wait there for room.
    #[must_use]
    pub fn start(clock: Clock, settings: ScrapeSettings, reports: mpsc::Sender<ScrapeReport>) -> Self {
        let all = CancellationToken::new();
        Self {
            shared: Arc::new(Shared {
                clock,
                settings,
                permits: Semaphore::new(settings.max_concurrent.clamp(1, Semaphore::MAX_PERMITS)),
                connector: Connector::new(),
            }),
            reports,
            tasks: TaskTracker::new(),
            _ends_with_scraper: all.clone().drop_guard(),
            all,
            running: Mutex::default(),
        }
    }

    /// Makes these the targets. Loops of targets that stay as they are go on undisturbed; loops of others end at once, in the middle of a
    /// scrape if need be. Of two targets with the same replica the last counts. Reports already sent may still arrive.
    pub fn set_targets(&self, targets: Vec<Target>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *running);
        let targets: BTreeMap<ReplicaId, Target> =
            targets.into_iter().map(|target| (target.replica.clone(), target)).collect();
        for (replica, target) in targets {
            let kept = before.remove(&replica).filter(|entry| entry.target == target);
            running.insert(replica, kept.unwrap_or_else(|| self.spawn(target)));
        }
    }

    fn spawn(&self, target: Target) -> Running {
        let stop = self.all.child_token();
        let (shared, reports) = (Arc::clone(&self.shared), self.reports.clone());
        let (own, stopped) = (target.clone(), stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stopped.cancelled() => {}
                () = run(&shared, &own, &reports) => {}
            }
        });
        Running { target, _ends_with_entry: stop.drop_guard() }
    }

    /// Ends every loop and waits until the last has ended.
    pub async fn stop(self) {
        self.all.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Scrapes one target until the receiver is gone.
async fn run(shared: &Shared, target: &Target, reports: &mpsc::Sender<ScrapeReport>) {
    let mut client = PageClient::new(&target.url, shared.connector.clone());
    let mut failing = false;
    let mut turn = shared.clock.now();
    loop {
        // a timer may fire a rounding error before its turn; a turn is never taken twice
        turn = next_turn(turn.max(shared.clock.now()), target.replica.as_str(), shared.settings.period);
        shared.clock.sleep_until(turn).await;
        let Ok(permit) = shared.permits.acquire().await else { return };
        let started = shared.clock.now();
        let outcome = match &mut client {
            Ok(client) => client.get(&shared.settings).await.and_then(|page| {
                let limits = &shared.settings.limits;
                match &target.named {
                    Some(named) => read_with(&page, target.engine, named, limits),
                    None => read(&page, target.engine, limits),
                }
                .map_err(|error| ScrapeError::unreadable(target.url.clone(), error))
            }),
            Err(error) => Err(error.clone()),
        };
        drop(permit);
        if outcome.is_err() != failing {
            failing = outcome.is_err();
            match &outcome {
                Ok(_) => {
                    tracing::info!(replica = %target.replica, model = %target.model, "metrics page is readable again")
                }
                Err(error) => {
                    tracing::info!(replica = %target.replica, model = %target.model, %error, "cannot read metrics")
                }
            }
        }
        let at = shared.clock.now();
        let report = ScrapeReport {
            replica: target.replica.clone(),
            model: target.model.clone(),
            at,
            outcome,
            duration: at.since(started),
        };
        if reports.send(report).await.is_err() {
            return;
        }
    }
}
