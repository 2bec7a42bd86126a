//! One task owns the control loop: it waits for an event, applies it, and carries out the effects.

use super::lower::{Lowered, ScrapeSpec};
use super::meter::Meter;
use super::pages::pages;
use anyhow::{Context, Result};
use loadline_base::{ModelId, ReplicaId, Timestamp};
use loadline_control::{Control, ControlSettings, Effect, Event, ModelStatus, ReplicaEvent, ScaleEvent};
use loadline_gateway::{Gateway, GatewayHandle, GatewaySettings};
use loadline_hold::protocol::GatewayReport;
use loadline_net::Clock;
use loadline_policy::{Action, Budgets};
use loadline_process::{KeeperCommand, Limits, PoolSpec, ProcessEvent, ProcessHandle, ProcessPools, Settings};
use loadline_scrape::{ScrapeReport, ScrapeSettings, Scraper, Target};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Events waiting between a part and the loop; a full channel makes the part wait.
const CHANNEL: usize = 1_024;

/// Scale changes kept for status surfaces; the oldest go first.
const KEPT_SCALE_EVENTS: usize = 1_000;

/// The least time between two decisions for one model, edges excepted.
const DECISION_PERIOD: Duration = Duration::from_secs(1);

/// How often the picture for people is renewed when nothing happens, in wall time.
const SNAPSHOT_PERIOD: Duration = Duration::from_millis(100);

/// How a stack is run.
#[derive(Debug, Clone)]
pub(crate) struct StackOptions {
    /// The clock of everything in it.
    pub(crate) clock: Clock,
    /// How keepers are started.
    pub(crate) keeper: KeeperCommand,
}

/// What is going on, renewed often.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// Every model.
    pub(crate) models: Vec<ModelStatus>,
    /// The last scale changes, oldest first.
    pub(crate) scaled: VecDeque<ScaleEvent>,
    /// Scale changes since the start.
    pub(crate) scaled_total: u64,
    /// Replica time so far.
    pub(crate) replica_time: Duration,
    /// The most replicas that existed at once.
    pub(crate) most_replicas: usize,
    /// Replicas that exist now, ending ones included.
    pub(crate) live_replicas: usize,
    /// Broken laws, by id.
    pub(crate) violations: BTreeMap<String, u64>,
}

/// A running stack.
pub(crate) struct Stack {
    address: SocketAddr,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    configure: mpsc::Sender<Lowered>,
    cancel: CancellationToken,
    driver: JoinHandle<()>,
    gateway: Arc<GatewayHandle>,
    processes: ProcessHandle,
    longest_end: Duration,
    ended: CancellationToken,
}

impl Stack {
    /// Starts gateway, supervisor, scraper and loop.
    pub(crate) fn start(lowered: Lowered, options: StackOptions) -> Result<Self> {
        let StackOptions { clock, keeper } = options;
        let (reports, from_gateway) = mpsc::channel(CHANNEL);
        let (events, from_processes) = mpsc::channel(CHANNEL);
        let (scrapes, from_scraper) = mpsc::channel(CHANNEL);
        let (configure, configured) = mpsc::channel(1);
        let (publish, snapshots) = watch::channel(Arc::new(Snapshot::default()));
        let gateway_settings = GatewaySettings {
            pages: Some(pages(snapshots.clone())),
            // request ids begin with it, and must not come again after a restart
            seed: u64::try_from(clock.now().as_nanos()).unwrap_or_default(),
            ..lowered.gateway.clone()
        };
        let gateway = Arc::new(
            Gateway::start(gateway_settings, clock.clone(), reports)
                // its text names the system's reason already
                .map_err(|error| anyhow::anyhow!("{error}"))?,
        );
        let settings = Settings { keeper, limits: Limits::DEFAULT };
        let processes =
            ProcessPools::start(settings, clock.clone(), events).context("replicas cannot be supervised")?;
        let scraper = Scraper::start(
            clock.clone(),
            ScrapeSettings { period: lowered.scrape_period, ..ScrapeSettings::default() },
            scrapes,
        );
        let cancel = CancellationToken::new();
        let control_settings =
            ControlSettings { decision_period: DECISION_PERIOD, budgets: Budgets { gpus: lowered.gpus } };
        let address = gateway.local_addr();
        let longest_end = lowered.longest_end;
        let driver = Driver {
            clock,
            control: Control::new(control_settings),
            gateway: Arc::clone(&gateway),
            processes: processes.clone(),
            scraper,
            scrape: BTreeMap::new(),
            pools: Vec::new(),
            meter: Meter::default(),
            scaled: VecDeque::new(),
            scaled_total: 0,
            publish,
            published_at: None,
        };
        let inputs = Inputs { from_gateway, from_processes, from_scraper, configured, cancel: cancel.clone() };
        // commands that cannot be run as written are refused before anything runs
        processes.configure(lowered.pools.clone()).context("the replicas' commands were not accepted")?;
        let ended = CancellationToken::new();
        let on_end = ended.clone().drop_guard();
        let driver = tokio::task::spawn(async move {
            // dropped at the end of the loop, also when that is a panic
            let _on_end = on_end;
            driver.run(inputs, lowered).await;
        });
        Ok(Self { address, snapshots, configure, cancel, driver, gateway, processes, longest_end, ended })
    }

    /// Where the gateway listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is going on now.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// Waits until the picture satisfies a condition; false if it did not within `limit` of wall time.
    pub(crate) async fn wait_for(&self, limit: Duration, condition: impl FnMut(&Arc<Snapshot>) -> bool) -> bool {
        let mut snapshots = self.snapshots.clone();
        tokio::time::timeout(limit, snapshots.wait_for(condition)).await.is_ok_and(|seen| seen.is_ok())
    }

    /// Completes when the control loop has ended, however that came: a gateway without it would hold requests for nothing.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Takes a changed configuration into force.
    pub(crate) async fn reconfigure(&mut self, lowered: Lowered) -> Result<()> {
        // replicas started under the old times may still be there
        self.longest_end = self.longest_end.max(lowered.longest_end);
        self.configure.send(lowered).await.context("the control loop has ended")
    }

    /// Ends everything: no new requests, held and running ones finish within `patience`, then the replicas end.
    pub(crate) async fn shutdown(self, patience: Duration) {
        self.gateway.shutdown(patience).await;
        self.cancel.cancel();
        if let Err(error) = self.driver.await {
            tracing::error!(%error, "the control loop ended abnormally");
        }
        self.processes.shutdown(self.longest_end).await;
    }

    /// Broken laws of the gateway: L5, L6, L7.
    pub(crate) fn gateway_violations(&self) -> [u64; 3] {
        self.gateway.law_violations()
    }
}

struct Inputs {
    from_gateway: mpsc::Receiver<GatewayReport>,
    from_processes: mpsc::Receiver<ProcessEvent>,
    from_scraper: mpsc::Receiver<ScrapeReport>,
    configured: mpsc::Receiver<Lowered>,
    cancel: CancellationToken,
}

enum Input {
    Report(GatewayReport),
    Process(ProcessEvent),
    Scrape(Box<ScrapeReport>),
    Configuration(Box<Lowered>),
    Time,
    Picture,
    End,
}

impl Inputs {
    async fn next(&mut self, clock: &Clock, deadline: Timestamp) -> Input {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Input::End,
            report = self.from_gateway.recv() => report.map_or(Input::End, Input::Report),
            event = self.from_processes.recv() => event.map_or(Input::End, Input::Process),
            lowered = self.configured.recv() => lowered.map_or(Input::End, |lowered| Input::Configuration(Box::new(lowered))),
            report = self.from_scraper.recv() => report.map_or(Input::End, |report| Input::Scrape(Box::new(report))),
            () = clock.sleep_until(deadline) => Input::Time,
            () = tokio::time::sleep(SNAPSHOT_PERIOD) => Input::Picture,
        }
    }
}

struct Driver {
    clock: Clock,
    control: Control,
    gateway: Arc<GatewayHandle>,
    processes: ProcessHandle,
    scraper: Scraper,
    scrape: BTreeMap<ModelId, ScrapeSpec>,
    /// What the supervisor was last told.
    pools: Vec<PoolSpec>,
    meter: Meter,
    scaled: VecDeque<ScaleEvent>,
    scaled_total: u64,
    publish: watch::Sender<Arc<Snapshot>>,
    published_at: Option<tokio::time::Instant>,
}

impl Driver {
    async fn run(mut self, mut inputs: Inputs, lowered: Lowered) {
        self.configure(lowered);
        loop {
            let deadline = self.control.next_deadline().unwrap_or(Timestamp::MAX);
            match inputs.next(&self.clock, deadline).await {
                Input::End => break,
                Input::Report(report) => self.apply(Event::Gateway(report)),
                Input::Process(event) => self.process(event),
                Input::Scrape(report) => {
                    let ScrapeReport { replica, at, outcome, .. } = *report;
                    let outcome = outcome.map(Arc::new).map_err(|error| error.to_string());
                    self.apply(Event::Scraped { replica, at, outcome });
                }
                Input::Configuration(lowered) => self.configure(*lowered),
                Input::Time => self.apply(Event::Tick),
                Input::Picture => {}
            }
            self.picture();
        }
        self.scraper.stop().await;
    }

    /// Takes a configuration into force as a whole, or not at all.
    fn configure(&mut self, lowered: Lowered) {
        let Lowered { gateway, mut pools, models, scrape, gpus, .. } = lowered;
        let is_new = |old: &PoolSpec| pools.iter().all(|pool| pool.pool != old.pool);
        // replicas of a removed model finish what they have, so their pool stays until they are gone
        let kept: Vec<PoolSpec> = self.pools.iter().filter(|old| is_new(old)).cloned().collect();
        let is_alive = |pool: &PoolSpec| {
            let model = ModelId::new(pool.pool.as_str());
            self.control.knows(&model)
        };
        pools.extend(kept.into_iter().filter(is_alive));
        if let Err(error) = self.processes.configure(pools.clone()) {
            tracing::error!(%error, "the replicas' commands were not accepted; the configuration in force stays as it was");
            return;
        }
        self.pools = pools;
        self.gateway.set_models(gateway.models);
        self.scrape = scrape;
        self.control.set_budgets(Budgets { gpus });
        self.apply(Event::Configure(models));
    }

    fn process(&mut self, event: ProcessEvent) {
        let now = self.clock.now();
        let mut tell = |replica: ReplicaId, event: ReplicaEvent| self.apply(Event::Replica { replica, event });
        match event {
            ProcessEvent::Started { replica, pool, address, created_at, keeper } => {
                tracing::info!(%replica, %address, keeper, "replica started");
                self.meter.started(replica.clone(), created_at);
                let event = ReplicaEvent::Started { pool, address: address.to_string(), created_at };
                self.apply(Event::Replica { replica, event });
            }
            ProcessEvent::Ready { replica, .. } => {
                tracing::info!(%replica, "replica ready");
                tell(replica, ReplicaEvent::Ready);
            }
            ProcessEvent::NotReady { replica, why } => {
                tracing::warn!(%replica, why, "replica not ready any more");
                tell(replica, ReplicaEvent::NotReady);
            }
            ProcessEvent::StartTimedOut { replica, limit, why, last_lines } => {
                let limit = loadline_base::format_duration(limit);
                tracing::error!(%replica, limit, why, last_lines = last_lines.join("\n"), "replica was not ready in time; raise `startupTimeout` or look at its output");
            }
            ProcessEvent::Exited { replica, reason, last_lines, restart_in } => {
                let restart_in = loadline_base::format_duration(restart_in);
                tracing::error!(%replica, %reason, restart_in, last_lines = last_lines.join("\n"), "replica ended on its own");
                self.meter.ended(&replica, now);
                self.apply(Event::Replica {
                    replica: replica.clone(),
                    event: ReplicaEvent::Failed { why: reason.to_string() },
                });
                self.apply(Event::Replica { replica, event: ReplicaEvent::Stopped });
            }
            ProcessEvent::Stopped { replica } => {
                tracing::info!(%replica, "replica ended");
                self.meter.ended(&replica, now);
                self.apply(Event::Replica { replica, event: ReplicaEvent::Stopped });
            }
            ProcessEvent::CannotStart { pool, error, retry_in } => {
                let retry_in = loadline_base::format_duration(retry_in);
                tracing::error!(%pool, %error, retry_in, "a replica cannot be started");
            }
        }
    }

    fn apply(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.control.apply(self.clock.now(), event, &mut effects);
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Act(Action::SetReplicas { pool, to, remove_first, .. }) => {
                self.processes.set_replicas(&pool, to, remove_first);
            }
            // said to the gateway, in the effects beside it
            Effect::Act(Action::Drain { .. } | Action::Undrain { .. } | Action::Close { .. }) => {}
            Effect::Gateway(order) => self.gateway.order(order),
            Effect::TargetsChanged => self.scraper.set_targets(self.targets()),
            Effect::Scaled(event) => {
                tracing::info!(model = %event.model, from = event.from, to = event.to, reason = event.reason, "scaled");
                if self.scaled.len() == KEPT_SCALE_EVENTS {
                    self.scaled.pop_front();
                }
                self.scaled_total = self.scaled_total.saturating_add(1);
                self.scaled.push_back(event);
            }
            Effect::Decided { model, decision } => tracing::debug!(%model, decision = decision.summary(), "decided"),
            Effect::Alarm { model, text } => tracing::warn!(%model, "{text}"),
        }
    }

    fn targets(&self) -> Vec<Target> {
        self.control
            .scrape_targets()
            .filter_map(|(model, replica, address)| {
                let spec = self.scrape.get(model)?;
                Some(Target {
                    engine: spec.engine,
                    named: spec.named.clone(),
                    ..Target::new(replica.clone(), model.clone(), format!("http://{address}{}", spec.path))
                })
            })
            .collect()
    }

    /// Renews the picture for people, at most once a period.
    fn picture(&mut self) {
        let instant = tokio::time::Instant::now();
        if self.published_at.is_some_and(|at| instant < at + SNAPSHOT_PERIOD) {
            return;
        }
        self.published_at = Some(instant);
        let now = self.clock.now();
        self.publish.send_replace(Arc::new(Snapshot {
            models: self.control.status(now),
            scaled: self.scaled.clone(),
            scaled_total: self.scaled_total,
            replica_time: self.meter.total(now),
            most_replicas: self.meter.most(),
            live_replicas: self.meter.live(),
            violations: self.control.laws().iter().map(|(law, count)| (law.to_owned(), count)).collect(),
        }));
    }
}
