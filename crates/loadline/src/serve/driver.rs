//! One task owns everything that changes: it waits for an input, takes it in, and sends out what follows.

use super::lease::Office;
use super::pages::Picture;
use super::pools::{Pools, PoolsSettings};
use super::scraping::Scraping;
use super::store::{MemoryNote, Remembered, StatusNote, Stores};
use super::supply::Supply;
use super::writer::{Output, Writer};
use super::writes::{self, Begin, Done};
use loadline_base::{GatewayId, ModelId, PoolId, Timestamp};
use loadline_cluster::events::reason;
use loadline_cluster::{Actuator, EventKind, EventNote, Events, Key, ObjectRef, Part, PodKey, Snapshot};
use loadline_control::ControlSettings;
use loadline_link::{LinkEvent, LinkServer, Role};
use loadline_metricsapi::ServedSource;
use loadline_net::Clock;
use loadline_scrape::{ScrapeReport, Scraper};
use loadline_signals::dialect::Reading;
use loadline_signals::served::{Page, Relabel, Served, ServedPod};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often what people see is renewed, floors are looked at, and stores are told.
const ROUND: Duration = Duration::from_millis(500);

/// The longest a write may take, the lease's own deadline apart.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// What the checkpoints said, or why they could not be read.
pub(crate) type MemoriesRead = Result<BTreeMap<ModelId, Remembered>, String>;

/// What the driver works with.
pub(crate) struct Parts {
    pub(crate) clock: Clock,
    pub(crate) served: Arc<RwLock<Served>>,
    pub(crate) source: ServedSource,
    pub(crate) scraper: Scraper,
    pub(crate) scraping: Scraping,
    pub(crate) link: LinkServer,
    pub(crate) actuator: Actuator,
    pub(crate) events: Events,
    pub(crate) stores: Stores,
    pub(crate) supply: Supply,
    pub(crate) is_writer: watch::Sender<bool>,
    pub(crate) picture: watch::Sender<Arc<Picture>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) control: ControlSettings,
    pub(crate) pools: PoolsSettings,
    pub(crate) checkpoint_period: Duration,
}

/// Where inputs come from.
pub(crate) struct Inputs {
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) office: watch::Receiver<Office>,
    pub(crate) scrapes: mpsc::Receiver<ScrapeReport>,
    pub(crate) links: mpsc::Receiver<LinkEvent>,
    pub(crate) written: mpsc::Receiver<Done>,
    pub(crate) memories: mpsc::Receiver<(u64, MemoriesRead)>,
    pub(crate) supplied: mpsc::Receiver<loadline_control::Event>,
    pub(crate) secrets: mpsc::Receiver<()>,
    pub(crate) cancel: CancellationToken,
}

enum Input {
    Snapshot,
    Office,
    Scrape(Box<ScrapeReport>),
    Link(LinkEvent),
    Written(Done),
    Memories(u64, MemoriesRead),
    Supplied(loadline_control::Event),
    Secrets,
    Time,
    End,
}

impl Inputs {
    async fn next(&mut self, clock: &Clock, deadline: Timestamp) -> Input {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Input::End,
            changed = self.office.changed() => changed.map_or(Input::End, |()| Input::Office),
            event = self.links.recv() => event.map_or(Input::End, Input::Link),
            done = self.written.recv() => done.map_or(Input::End, Input::Written),
            changed = self.snapshots.changed() => changed.map_or(Input::End, |()| Input::Snapshot),
            memories = self.memories.recv() => memories.map_or(Input::End, |(term, read)| Input::Memories(term, read)),
            () = clock.sleep_until(deadline) => Input::Time,
            event = self.supplied.recv() => event.map_or(Input::End, Input::Supplied),
            changed = self.secrets.recv() => changed.map_or(Input::End, |()| Input::Secrets),
            report = self.scrapes.recv() => report.map_or(Input::End, |report| Input::Scrape(Box::new(report))),
        }
    }
}

/// See the module's documentation.
pub(crate) struct Driver {
    parts: Parts,
    written: mpsc::Sender<Done>,
    memories: mpsc::Sender<(u64, MemoriesRead)>,
    /// Writes of counts.
    writing: TaskTracker,
    snapshot: Arc<Snapshot>,
    pools: Pools,
    /// The pools changed and the loop was not told yet.
    is_unsaid: bool,
    writer: Option<Writer>,
    office: Office,
    /// The term whose memory is being read.
    reading: Option<u64>,
    next_round: Timestamp,
    stored_at: Timestamp,
    /// Autoscalers that were there then.
    stored_for: BTreeSet<Key>,
    gateways: BTreeMap<GatewayId, Vec<ModelId>>,
    scrape_errors: u64,
    pages_read: u64,
    said_scaled: BTreeMap<Key, u64>,
    /// Laws that were found broken in earlier terms of this process.
    laws: BTreeMap<String, u64>,
}

impl Driver {
    /// A driver that has taken in nothing yet.
    pub(crate) fn new(parts: Parts, written: mpsc::Sender<Done>, memories: mpsc::Sender<(u64, MemoriesRead)>) -> Self {
        Self {
            parts,
            written,
            memories,
            writing: TaskTracker::new(),
            snapshot: Arc::default(),
            pools: Pools::default(),
            is_unsaid: false,
            writer: None,
            office: Office::default(),
            reading: None,
            next_round: Timestamp::ZERO,
            stored_at: Timestamp::ZERO,
            stored_for: BTreeSet::new(),
            gateways: BTreeMap::new(),
            scrape_errors: 0,
            pages_read: 0,
            said_scaled: BTreeMap::new(),
            laws: BTreeMap::new(),
        }
    }

    /// Runs until cancelled.
    pub(crate) async fn run(mut self, mut inputs: Inputs) {
        loop {
            let deadline = self.writer.as_ref().and_then(Writer::next_deadline).unwrap_or(Timestamp::MAX);
            let input = inputs.next(&self.parts.clock, deadline.min(self.next_round)).await;
            // a term that has run out ends before anything is decided on what came in
            self.check_term();
            match input {
                Input::End => break,
                Input::Snapshot => {
                    let snapshot = Arc::clone(&inputs.snapshots.borrow_and_update());
                    self.snapshot(snapshot);
                }
                Input::Office => {
                    self.office = inputs.office.borrow_and_update().clone();
                    self.take_office();
                }
                Input::Scrape(report) => self.scraped(*report),
                Input::Link(event) => self.link(event),
                Input::Written(done) => self.write_ended(done),
                Input::Memories(term, read) => self.remembered(term, read),
                Input::Supplied(event) => {
                    let now = self.parts.clock.now();
                    if let Some(writer) = &mut self.writer {
                        writer.apply(now, event);
                    }
                }
                Input::Secrets => self.retarget(),
                Input::Time => self.round(),
            }
            self.send_out();
        }
        // writes that are under way end before the lease does
        self.writing.close();
        self.writing.wait().await;
        self.parts.scraper.stop().await;
        self.parts.link.shutdown().await;
    }

    /// Drops everything that only a writer may have as soon as this process is none.
    fn check_term(&mut self) {
        let term = self.office.term_at(self.parts.clock.now());
        if let Some(lost) = self.writer.take_if(|writer| Some(writer.term) != term) {
            tracing::warn!("the lease is lost: nothing is decided or written any more");
            self.parts.is_writer.send_replace(false);
            for (law, count) in lost.laws().iter() {
                *self.laws.entry(law.to_owned()).or_default() += count;
            }
        }
        if term.is_none() {
            self.reading = None;
        }
    }

    /// What follows from the election.
    fn take_office(&mut self) {
        let now = self.parts.clock.now();
        self.check_term();
        let term = self.office.term_at(now);
        self.parts.is_writer.send_if_modified(|before| std::mem::replace(before, term.is_some()) != term.is_some());
        let Some(term) = term else {
            self.parts.link.set_role(Role::Reader { writer: self.office.writer_address.as_deref().map(str::to_owned) });
            return;
        };
        self.begin_term(term);
    }

    /// Reads what the writer before stored; until it is there nothing is decided.
    fn begin_term(&mut self, term: u64) {
        let is_begun = self.reading == Some(term) || self.writer.as_ref().is_some_and(|writer| writer.term == term);
        if is_begun {
            return;
        }
        self.reading = Some(term);
        let (read, memories) = (self.parts.stores.read(), self.memories.clone());
        self.parts.tasks.spawn(async move {
            // the driver is gone when it does not listen
            let _ = memories.send((term, read.await)).await;
        });
    }

    fn remembered(&mut self, term: u64, read: MemoriesRead) {
        if self.reading != Some(term) || self.office.term_at(self.parts.clock.now()) != Some(term) {
            return;
        }
        self.reading = None;
        match read {
            Err(error) => {
                tracing::warn!(error, "the checkpoints cannot be read; trying again");
                // asked for again by the next round
            }
            Ok(memories) => {
                tracing::info!(autoscalers = memories.len(), "this process writes now");
                self.writer = Some(Writer::new(term, self.parts.control.clone(), memories));
                self.gateways.clear();
                self.parts.link.set_role(Role::Writer);
                self.observe(true);
            }
        }
    }

    fn snapshot(&mut self, snapshot: Arc<Snapshot>) {
        let before = std::mem::replace(&mut self.snapshot, snapshot);
        let is_pods_new = !Arc::ptr_eq(&before.pods, &self.snapshot.pods);
        if is_pods_new {
            self.serve_pods();
        }
        let is_new = self.lower();
        if is_new || !Arc::ptr_eq(&before.scrape, &self.snapshot.scrape) {
            self.retarget();
        }
        if self.snapshot.is_synced(Part::Pods) {
            self.parts.source.set_synced();
        }
        self.observe(is_new);
    }

    /// Tells the store of latest values which pods there are.
    fn serve_pods(&self) {
        let pods = self.snapshot.pods.values().map(|pod| ServedPod {
            namespace: pod.key.namespace.to_string(),
            name: pod.key.name.to_string(),
            labels: pod.labels.to_labels(),
            is_ready: pod.serves(),
            started_at: pod.started_at,
        });
        self.parts.served.write().unwrap_or_else(PoisonError::into_inner).set_pods(pods.collect());
    }

    /// Whether the pools changed.
    fn lower(&mut self) -> bool {
        let pools = Pools::of(&self.snapshot, self.parts.clock.now(), &self.parts.pools, &self.pools);
        let is_new = !pools.is_as(&self.pools);
        if is_new {
            self.parts.supply.set(&pools);
        }
        self.pools = pools;
        is_new
    }

    fn retarget(&mut self) {
        let targets = self.parts.scraping.targets(&self.snapshot);
        self.parts.scraper.set_targets(targets);
    }

    /// Tells the loop what the watches see, once they have seen everything.
    fn observe(&mut self, is_new: bool) {
        self.is_unsaid |= is_new;
        let now = self.parts.clock.now();
        if let Some(writer) = self.writer.as_mut().filter(|_| self.snapshot.is_ready()) {
            let is_new = std::mem::take(&mut self.is_unsaid);
            writer.observe(now, &self.snapshot, &self.pools, is_new);
        }
    }

    fn scraped(&mut self, report: ScrapeReport) {
        let ScrapeReport { replica, endpoint: page_of, at, period, outcome, page, .. } = report;
        let Some(endpoint) = self.parts.scraping.endpoint(&replica, &page_of).cloned() else { return };
        let relabel = |name: &mut String, labels: &mut loadline_base::Labels| endpoint.relabel(name, labels);
        let read = {
            let mut served = self.parts.served.write().unwrap_or_else(PoisonError::into_inner);
            match (&outcome, &page) {
                (Ok(_), Some(text)) => {
                    let page = Page {
                        source: &endpoint.source,
                        at,
                        period,
                        text,
                        engine: super::scraping::engine(endpoint.found.engine),
                        named: self.pools.named_of(&endpoint.found.pod),
                        relabel: (endpoint.rules_id != 0).then_some(Relabel { id: endpoint.rules_id, apply: &relabel }),
                    };
                    served.page(&page).map_err(|error| error.to_string())
                }
                (Err(error), _) => {
                    let text = error.to_string();
                    served.failed(at, &endpoint.source, &text);
                    Err(text)
                }
                (Ok(_), None) => Err("the page was not kept".to_owned()),
            }
        };
        self.pages_read = self.pages_read.saturating_add(1);
        self.scrape_errors = self.scrape_errors.saturating_add(u64::from(read.is_err()));
        // of several pages of one pod the engine's alone is evidence, also where it fails; while none is known, the first
        if read.as_ref().is_ok_and(|reading| reading.engine.is_some()) {
            self.parts.scraping.speaks_for(&replica, &page_of);
        }
        let first = self.snapshot.scrape.get(&endpoint.found.pod).and_then(|pod| pod.endpoints.first());
        let is_first = first.is_some_and(|first| *first == endpoint.found);
        if self.parts.scraping.is_evidence(&replica, &page_of, is_first) {
            self.tell_loop(&endpoint.found.pod, at, read);
        }
    }

    /// Pages of pods that an autoscaler scales are evidence.
    fn tell_loop(&mut self, pod: &PodKey, at: Timestamp, read: Result<Reading, String>) {
        let now = self.parts.clock.now();
        let replica = loadline_base::ReplicaId::new(pod.to_string());
        if let Some(writer) = &mut self.writer {
            writer.scraped(now, replica, at, read.map(Arc::new));
        }
    }

    fn link(&mut self, event: LinkEvent) {
        let now = self.parts.clock.now();
        match event {
            LinkEvent::Up { gateway, models } | LinkEvent::Models { gateway, models } => {
                tracing::info!(%gateway, models = models.len(), "gateway connected");
                let before = self.gateways.insert(gateway.clone(), models.clone()).unwrap_or_default();
                let Some(writer) = &mut self.writer else { return };
                for model in before.into_iter().filter(|model| !models.contains(model)) {
                    writer.apply(now, loadline_control::Event::GatewayLeft { model, gateway: gateway.clone() });
                }
            }
            LinkEvent::Down { gateway, why } => {
                tracing::warn!(%gateway, why, "gateway lost; it is missing, not idle, until it or its pod is known to be gone");
            }
            LinkEvent::Report(report) => {
                if let Some(writer) = &mut self.writer {
                    writer.gateway(now, report);
                }
            }
        }
    }

    fn gateway_gone(&mut self, now: Timestamp, gateway: &GatewayId) {
        self.gateways.remove(gateway);
        if let Some(writer) = &mut self.writer {
            writer.gateway_gone(now, gateway.clone());
        }
    }

    /// Gateways whose pods are gone will not come back under their names.
    fn forget_gateways(&mut self, now: Timestamp) {
        // a list that does not follow the cluster says nothing about who is gone
        if !self.snapshot.is_synced(Part::Pods) || self.snapshot.stale_since().is_some() {
            return;
        }
        let is_gone = |gateway: &GatewayId| {
            Key::parse(gateway.as_str()).is_some_and(|pod| self.snapshot.pods.get(&pod).is_none_or(|pod| pod.is_over()))
        };
        let connected: BTreeSet<GatewayId> =
            self.parts.link.gateways().into_iter().map(|(gateway, _)| gateway).collect();
        let gone: Vec<GatewayId> =
            self.gateways.keys().filter(|gateway| !connected.contains(*gateway) && is_gone(gateway)).cloned().collect();
        for gateway in gone {
            tracing::info!(%gateway, "gateway gone with its pod");
            self.gateway_gone(now, &gateway);
        }
    }

    fn write_ended(&mut self, done: Done) {
        let now = self.parts.clock.now();
        let took = now.since(done.began);
        tracing::debug!(pool = %done.pool, to = done.order.to, took_ms = took.as_secs_f64() * 1_000.0, ok = done.outcome.is_ok(), "scale written");
        let Some(writer) = &mut self.writer else { return };
        let outputs = writer.written(now, done, &self.pools);
        for output in outputs {
            self.output(output);
        }
        // what the watch saw while the write was under way was not judged then
        self.observe(false);
    }

    /// What is due from time to time.
    fn round(&mut self) {
        let now = self.parts.clock.now();
        if let Some(writer) = &mut self.writer {
            writer.apply(now, loadline_control::Event::Tick);
        }
        if now < self.next_round {
            return;
        }
        self.next_round = now.plus(ROUND);
        if let Some(term) = self.office.term_at(now) {
            self.begin_term(term);
        }
        self.forget_gateways(now);
        // floors begin and end without anything else happening
        if self.lower() {
            self.retarget();
            self.observe(true);
        }
        self.tell_stores(now);
        self.publish(now);
    }

    fn tell_stores(&mut self, now: Timestamp) {
        let is_due = now.since(self.stored_at) >= self.parts.checkpoint_period;
        let Some(writer) = &mut self.writer else { return };
        if is_due {
            self.stored_at = now;
            let autoscalers = self.snapshot.parts.get(&Part::Autoscalers);
            if autoscalers.is_some_and(|part| part.synced && !part.absent && part.error.is_none()) {
                let there: BTreeSet<Key> = self.snapshot.autoscalers.keys().cloned().collect();
                // only those seen here: what else is stored may be another installation's
                self.parts.stores.remove(self.stored_for.difference(&there));
                self.said_scaled.retain(|key, _| there.contains(key));
                self.stored_for = there;
            }
        }
        for (pool, memory) in writer.take_memories(is_due) {
            if let Some(autoscaler) =
                self.pools.served.get(&pool).and_then(|pool| self.snapshot.autoscalers.get(&pool.autoscaler))
            {
                let uid = Arc::clone(&autoscaler.uid);
                self.parts.stores.memory(MemoryNote { pool, autoscaler: autoscaler.key.clone(), uid, memory });
            }
        }
        let mut news = writer.take_news();
        news.extend(self.pools.refused.keys().cloned());
        if is_due {
            // ages and conflicts change without a decision
            news.extend(self.snapshot.autoscalers.keys().cloned());
        }
        for key in news {
            let (Some(report), Some(seen)) =
                (writer.report(now, &key, &self.snapshot, &self.pools), self.snapshot.autoscalers.get(&key))
            else {
                continue;
            };
            self.parts.stores.status(StatusNote { seen: Arc::clone(seen), status: super::report::status(&report) });
        }
    }

    /// Sends out what follows from what was taken in.
    fn send_out(&mut self) {
        let now = self.parts.clock.now();
        let Some(writer) = self.writer.as_mut() else { return };
        if self.office.term_at(now) != Some(writer.term) {
            return;
        }
        let outputs = writer.outputs(now, &self.snapshot, &self.pools);
        for output in outputs {
            self.output(output);
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Write(begin) => self.write(begin),
            Output::Gateway(order) => {
                self.parts.link.order_all(&order);
            }
            Output::Rescaled { autoscaler, to, reason } => {
                *self.said_scaled.entry(autoscaler.clone()).or_default() += 1;
                let message = if reason.is_empty() {
                    format!("New size: {to}")
                } else {
                    format!("New size: {to}; reason: {reason}")
                };
                self.event(&autoscaler, EventKind::Normal, reason::SUCCESSFUL_RESCALE, message);
            }
            Output::Warning { autoscaler, reason, message } => {
                self.event(&autoscaler, EventKind::Warning, reason, message);
            }
        }
    }

    /// The autoscaler of a pool, for events.
    fn object_of(&self, pool: &PoolId) -> Option<ObjectRef> {
        let autoscaler = &self.pools.served.get(pool)?.autoscaler;
        self.snapshot.autoscalers.get(autoscaler).map(|seen| ObjectRef::autoscaler(seen))
    }

    fn event(&self, autoscaler: &Key, kind: EventKind, reason: &'static str, message: String) {
        if let Some(seen) = self.snapshot.autoscalers.get(autoscaler) {
            self.parts.events.record(EventNote { about: ObjectRef::autoscaler(seen), kind, reason, message });
        }
    }

    /// Begins a write that ends before the lease can.
    fn write(&self, begin: Begin) {
        let now = self.parts.clock.now();
        let limit = self.office.until.unwrap_or(now).min(now.plus(WRITE_LIMIT));
        let deadline = self.parts.clock.instant_of(limit);
        let (actuator, done) = (self.parts.actuator.clone(), self.written.clone());
        let (events, about) = (self.parts.events.clone(), self.object_of(&begin.pool));
        self.writing.spawn(async move {
            if !begin.costs.is_empty() {
                let failed = actuator.set_deletion_costs(&begin.costs, deadline).await;
                for (pod, error) in &failed {
                    tracing::warn!(%pod, %error, "its deletion cost could not be set; another pod may be removed in its place");
                }
                // one event, whatever the number of pods
                if let (Some((_, error)), Some(about)) = (failed.first(), about) {
                    let message = format!("{error}; another pod may be removed in its place");
                    events.record(EventNote {
                        about,
                        kind: EventKind::Warning,
                        reason: reason::FAILED_DELETION_COST,
                        message,
                    });
                }
            }
            let outcome = actuator.set_replicas(&writes::scale_write(&begin, deadline)).await;
            let ended = Done { pool: begin.pool, number: begin.number, order: begin.order, began: now, outcome };
            // the driver is gone when it does not listen
            let _ = done.send(ended).await;
        });
    }

    fn publish(&self, now: Timestamp) {
        let models = self.writer.as_ref().map(|writer| writer.models(now)).unwrap_or_default();
        let mut laws = self.laws.clone();
        for (law, count) in self.writer.iter().flat_map(|writer| writer.laws().iter()) {
            *laws.entry(law.to_owned()).or_default() += count;
        }
        self.parts.picture.send_replace(Arc::new(Picture {
            at: now,
            is_writer: self.writer.is_some(),
            holder: self.office.holder.clone(),
            lease_error: self.office.error.clone(),
            is_synced: self.snapshot.is_ready(),
            stale_since: self.snapshot.stale_since(),
            pods: self.snapshot.pods.len(),
            endpoints: self.snapshot.scrape.values().map(|pod| pod.endpoints.len()).sum(),
            pages_read: self.pages_read,
            scrape_errors: self.scrape_errors,
            decisions: self.writer.as_ref().map_or(0, Writer::decisions),
            gateways: self.parts.link.gateways(),
            refused: self.pools.refused.iter().map(|(key, (_, text))| (key.to_string(), text.clone())).collect(),
            scaled: self.said_scaled.iter().map(|(key, count)| (key.to_string(), *count)).collect(),
            models,
            laws,
        }));
    }
}
