//! The loops: one task per target, for as long as it is a target.

use crate::auth::TargetAuth;
use crate::error::ScrapeError;
use crate::page::PageClient;
use crate::schedule::next_turn;
use crate::settings::{PageUse, ScrapeSettings};
use bytes::Bytes;
use loadline_base::{ModelId, ReplicaId, Timestamp};
use loadline_net::Clock;
use loadline_net::http::{Connector, TlsClient};
use loadline_signals::dialect::{EngineKind, NamedQueries, Reading, read, read_with};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// One metrics page of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which replica; with `endpoint` the key of a target.
    pub replica: ReplicaId,
    /// Which of the replica's pages; empty where it has one only.
    pub endpoint: Arc<str>,
    /// Which model it serves.
    pub model: ModelId,
    /// `http://` or `https://`, with the path.
    pub url: String,
    /// The engine, where it is declared; otherwise each page tells.
    pub engine: Option<EngineKind>,
    /// Series that are read under their own names beside the signals, for the model's metrics that name them.
    pub named: Option<Arc<NamedQueries>>,
    /// How it is asked, and trusted.
    pub auth: TargetAuth,
    /// In place of [`ScrapeSettings::period`].
    pub period: Option<Duration>,
    /// In place of [`ScrapeSettings::timeout`].
    pub timeout: Option<Duration>,
}

impl Target {
    /// A replica's only page, without anything declared.
    #[must_use]
    pub fn new(replica: ReplicaId, model: ModelId, url: impl Into<String>) -> Self {
        Self {
            replica,
            endpoint: Arc::default(),
            model,
            url: url.into(),
            engine: None,
            named: None,
            auth: TargetAuth::default(),
            period: None,
            timeout: None,
        }
    }
}

/// The outcome of one scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct ScrapeReport {
    /// Of which replica.
    pub replica: ReplicaId,
    /// Of which of its pages.
    pub endpoint: Arc<str>,
    /// Of which model.
    pub model: ModelId,
    /// When the page was there or the failure was known. Pages carry no times of their own.
    pub at: Timestamp,
    /// From one scrape of the target to the next: says when this one is stale.
    pub period: Duration,
    /// What was read; empty with [`PageUse::Keep`].
    pub outcome: Result<Reading, ScrapeError>,
    /// The page, with [`PageUse::Keep`].
    pub page: Option<Bytes>,
    /// How long it took, in model time.
    pub duration: Duration,
}

/// Pages that come from the same process instead of a socket: a benchmark's.
pub type DirectPages = Arc<dyn Fn(&Target) -> Result<Bytes, ScrapeError> + Send + Sync>;

/// What all loops share.
struct Shared {
    clock: Clock,
    settings: ScrapeSettings,
    permits: Semaphore,
    /// By how servers are trusted, so that targets of one trust read its certificates once. Only those in use are kept.
    connectors: Mutex<BTreeMap<TlsClient, Connector>>,
    direct: Option<DirectPages>,
}

impl Shared {
    fn connector(&self, trust: Option<&TlsClient>) -> Connector {
        let mut connectors = self.connectors.lock().unwrap_or_else(PoisonError::into_inner);
        let trust = trust.cloned().unwrap_or_default();
        connectors.entry(trust).or_insert_with_key(|trust| Connector::with_tls(trust.clone())).clone()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

type Key = (ReplicaId, Arc<str>);

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
    running: Mutex<BTreeMap<Key, Running>>,
}

impl Scraper {
    /// Starts without targets; must be called inside a runtime. Reports go to `reports`, and wait there for room.
    #[must_use]
    pub fn start(clock: Clock, settings: ScrapeSettings, reports: mpsc::Sender<ScrapeReport>) -> Self {
        Self::with(clock, settings, reports, None)
    }

    /// [`Self::start`] with pages from this process: everything but the sockets is as usual, URLs name nothing.
    #[must_use]
    pub fn start_direct(
        clock: Clock,
        settings: ScrapeSettings,
        reports: mpsc::Sender<ScrapeReport>,
        pages: DirectPages,
    ) -> Self {
        Self::with(clock, settings, reports, Some(pages))
    }

    fn with(
        clock: Clock,
        settings: ScrapeSettings,
        reports: mpsc::Sender<ScrapeReport>,
        direct: Option<DirectPages>,
    ) -> Self {
        let all = CancellationToken::new();
        Self {
            shared: Arc::new(Shared {
                clock,
                settings,
                permits: Semaphore::new(settings.max_concurrent.clamp(1, Semaphore::MAX_PERMITS)),
                connectors: Mutex::default(),
                direct,
            }),
            reports,
            tasks: TaskTracker::new(),
            _ends_with_scraper: all.clone().drop_guard(),
            all,
            running: Mutex::default(),
        }
    }

    /// Makes these the targets. Loops of targets that stay as they are go on undisturbed; loops of others end at once, in the middle of a
    /// scrape if need be; a target of which anything changed, its address for one, is another. Of two targets with the same replica and endpoint the
    /// last counts. Reports already sent may still arrive.
    pub fn set_targets(&self, targets: Vec<Target>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *running);
        let key = |target: &Target| (target.replica.clone(), Arc::clone(&target.endpoint));
        let targets: BTreeMap<Key, Target> = targets.into_iter().map(|target| (key(&target), target)).collect();
        let trusts: BTreeSet<TlsClient> =
            targets.values().map(|target| target.auth.tls.clone().unwrap_or_default()).collect();
        let mut connectors = self.shared.connectors.lock().unwrap_or_else(PoisonError::into_inner);
        connectors.retain(|trust, _| trusts.contains(trust));
        drop(connectors);
        for (key, target) in targets {
            let kept = before.remove(&key).filter(|entry| entry.target == target);
            running.insert(key, kept.unwrap_or_else(|| self.spawn(target)));
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
    let connector = shared.connector(target.auth.tls.as_ref());
    let mut client = PageClient::new(&target.url, connector, target.auth.bearer.as_ref());
    let period = target.period.unwrap_or(shared.settings.period);
    // pages of one replica take different places in the period
    let place = format!("{}{}", target.replica, target.endpoint);
    let mut failing = false;
    let mut turn = shared.clock.now();
    loop {
        // a timer may fire a rounding error before its turn; a turn is never taken twice
        turn = next_turn(turn.max(shared.clock.now()), &place, period);
        shared.clock.sleep_until(turn).await;
        let Ok(permit) = shared.permits.acquire().await else { return };
        let started = shared.clock.now();
        let fetched = fetch(shared, target, &mut client).await;
        let (outcome, page) = match (fetched, shared.settings.pages) {
            (Ok(page), PageUse::Keep) => (Ok(Reading::default()), Some(page)),
            (Ok(page), PageUse::Read) => (read_page(shared, target, &page), None),
            (Err(error), _) => (Err(error), None),
        };
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
            endpoint: Arc::clone(&target.endpoint),
            model: target.model.clone(),
            at,
            period,
            outcome,
            page,
            duration: at.since(started),
        };
        let sent = reports.send(report).await;
        // only now: pages that wait to be taken count too, so that a slow reader does not gather one of every target in memory
        drop(permit);
        if sent.is_err() {
            return;
        }
    }
}

async fn fetch(
    shared: &Shared,
    target: &Target,
    client: &mut Result<PageClient, ScrapeError>,
) -> Result<Bytes, ScrapeError> {
    if let Some(direct) = &shared.direct {
        return direct(target);
    }
    let timeout = target.timeout.unwrap_or(shared.settings.timeout);
    match client {
        Ok(client) => client.get(timeout, shared.settings.max_body_bytes).await,
        Err(error) => Err(error.clone()),
    }
}

fn read_page(shared: &Shared, target: &Target, page: &[u8]) -> Result<Reading, ScrapeError> {
    let limits = &shared.settings.limits;
    let read = match &target.named {
        Some(named) => read_with(page, target.engine, named, limits),
        None => read(page, target.engine, limits),
    };
    read.map_err(|error| ScrapeError::unreadable(target.url.clone(), error))
}
