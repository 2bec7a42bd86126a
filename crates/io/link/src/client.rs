//! A gateway's side.

use crate::backoff::Backoff;
use crate::frame::{Broken, ClientFrame, PROTOCOL, ServerFrame, read_frame, send, write_frame};
use crate::identity::SERVER_NAME;
use crate::limits::LinkLimits;
use crate::outbox::{Outbox, ReportSubject, Unacknowledged, model_of_report};
use loadline_base::{GatewayId, ModelId};
use loadline_hold::protocol::{Demand, GatewayOrder, GatewayReport};
use loadline_net::Clock;
use loadline_net::tls::ReloadableClient;
use rustls::pki_types::ServerName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// Times a gateway goes at once where it was sent, before it waits like after any failure.
const MAX_HOPS: u32 = 3;
/// Bytes of frames written at once.
const BATCH_BYTES: usize = 64 * 1024;
/// A peer that leaves more reports than this unacknowledged is given up.
const MAX_UNACKNOWLEDGED: usize = 65_536;

/// What a client is started with.
#[derive(Debug, Clone)]
pub struct LinkClientSettings {
    /// Who it is: `namespace/pod`.
    pub gateway: GatewayId,
    /// What it serves: `namespace/autoscaler`.
    pub models: Vec<ModelId>,
    /// The bounds.
    pub limits: LinkLimits,
    /// Seed of the jitter of pauses.
    pub seed: u64,
}

/// What a client hears. `Up`, then any number of `Order`, then `Down`.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientEvent {
    /// A writer has taken this gateway in, and has heard nothing of it yet.
    Up {
        /// Where it listens.
        writer: String,
    },
    /// It orders.
    Order(GatewayOrder),
    /// The connection is lost; another is being made.
    Down {
        /// Why, for people.
        why: String,
    },
}

struct Shared {
    settings: LinkClientSettings,
    clock: Clock,
    tls: Arc<ReloadableClient>,
    outbox: Outbox<GatewayReport>,
    models: Mutex<BTreeSet<ModelId>>,
    models_changed: AtomicBool,
    /// The latest counts of each model, which a new writer is told first.
    demand: Mutex<BTreeMap<ModelId, Demand>>,
    events: mpsc::Sender<ClientEvent>,
}

/// A gateway's side of the link. Dropping it ends the connection.
pub struct LinkClient {
    shared: Arc<Shared>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl LinkClient {
    /// Connects to the writer, again and again; to be called within a runtime. `writer` is its address as its Lease says it,
    /// `host:port`; a change of it ends a connection to another one.
    #[must_use]
    pub fn start(
        settings: LinkClientSettings,
        tls: Arc<ReloadableClient>,
        clock: Clock,
        writer: watch::Receiver<Option<String>>,
        events: mpsc::Sender<ClientEvent>,
    ) -> Self {
        let shared = Arc::new(Shared {
            outbox: Outbox::new(settings.limits.max_pending),
            models: Mutex::new(settings.models.iter().cloned().collect()),
            models_changed: AtomicBool::new(false),
            demand: Mutex::default(),
            settings,
            clock,
            tls,
            events,
        });
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = shared.connect_for_ever(writer) => {}
                }
            }
        });
        Self { shared, stop, task: Some(task) }
    }

    /// Sends a report as soon as there is a connection, unless a newer one about the same comes first. Never waits.
    pub fn report(&self, report: GatewayReport) {
        if let GatewayReport::Demand(demand) = &report {
            self.shared.demand().insert(demand.model.clone(), demand.clone());
        }
        // wakes and closes are bounded by the models; what finds no room is counts, which come again
        self.shared.outbox.push(report);
    }

    /// The gateway serves these models from now on.
    pub fn set_models(&self, models: impl IntoIterator<Item = ModelId>) {
        let models: BTreeSet<ModelId> = models.into_iter().collect();
        self.shared.demand().retain(|model, _| models.contains(model));
        let mut present = self.shared.models();
        if *present != models {
            *present = models;
            // with the models locked: whoever sees them sends them first
            self.shared.models_changed.store(true, Ordering::Release);
            drop(present);
            self.shared.outbox.ring();
        }
    }

    /// Ends the connection.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // it was told to end
            let _ = task.await;
        }
    }
}

impl Drop for LinkClient {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// How an attempt, or a connection, ended.
struct Ended {
    why: Broken,
    /// Where the writer is instead.
    writer: Option<String>,
    /// Whether there was a connection.
    was_up: bool,
}

impl From<Broken> for Ended {
    fn from(why: Broken) -> Self {
        Self { why, writer: None, was_up: false }
    }
}

impl Shared {
    fn demand(&self) -> MutexGuard<'_, BTreeMap<ModelId, Demand>> {
        self.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn models(&self) -> MutexGuard<'_, BTreeSet<ModelId>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect_for_ever(&self, mut writer: watch::Receiver<Option<String>>) {
        let mut backoff = Backoff::new(&self.settings.limits, self.settings.seed);
        let (mut hops, mut sent_to) = (0, None);
        loop {
            let known = writer.borrow_and_update().clone();
            let Some(address) = sent_to.take().or(known) else {
                if writer.changed().await.is_err() {
                    // nobody will ever say where the writer is
                    return;
                }
                continue;
            };
            let ended = tokio::select! {
                ended = self.connection(&address) => ended,
                () = moved(&mut writer, &address) => Ended {
                    why: Broken::Rule("another process writes replica counts now".to_owned()),
                    writer: None,
                    was_up: false,
                },
            };
            tracing::info!(writer = address, why = %ended.why, "no link to the writer");
            if ended.was_up {
                backoff.reset();
                hops = 0;
            }
            sent_to = ended.writer.filter(|other| *other != address && hops < MAX_HOPS);
            if sent_to.is_some() {
                hops += 1;
                continue;
            }
            hops = 0;
            tokio::select! {
                () = tokio::time::sleep(backoff.pause()) => {}
                () = moved(&mut writer, &address) => {}
            }
        }
    }

    /// One connection, from its attempt to its end.
    async fn connection(&self, address: &str) -> Ended {
        let patience = self.settings.limits.handshake_timeout;
        let stream = match tokio::time::timeout(patience, self.greet(address)).await {
            Err(_) => return Broken::Silent(patience).into(),
            Ok(Err(ended)) => return ended,
            Ok(Ok(stream)) => stream,
        };
        let mut session = Session { shared: self, unacknowledged: Mutex::default(), is_told: true };
        if self.events.send(ClientEvent::Up { writer: address.to_owned() }).await.is_err() {
            return Broken::Rule("the gateway is ending".to_owned()).into();
        }
        session.is_told = false;
        self.say_demand();
        let (read, write) = tokio::io::split(stream);
        let (why, writer) = tokio::select! {
            end = session.listen(read) => end,
            why = session.speak(write) => (why, None),
        };
        session.is_told = true;
        // nobody hears it at the end of the gateway
        let _ = self.events.send(ClientEvent::Down { why: why.to_string() }).await;
        Ended { why, writer, was_up: true }
    }

    /// TCP, TLS and the first words.
    async fn greet(&self, address: &str) -> Result<TlsStream<TcpStream>, Ended> {
        let most = self.settings.limits.max_frame_bytes;
        let patience = self.settings.limits.handshake_timeout;
        let tcp = TcpStream::connect(address).await.map_err(Broken::Io)?;
        tcp.set_nodelay(true).map_err(Broken::Io)?;
        let name = ServerName::try_from(SERVER_NAME).map_err(|error| Broken::Rule(error.to_string()))?;
        let mut stream = self.tls.connector().connect(name, tcp).await.map_err(Broken::Io)?;
        self.models_changed.store(false, Ordering::Release);
        let hello = ClientFrame::Hello {
            protocol: PROTOCOL,
            gateway: self.settings.gateway.clone(),
            models: self.models().iter().cloned().collect(),
            sent_at: self.clock.now(),
        };
        let mut buffer = Vec::new();
        write_frame(&hello, most, &mut buffer)?;
        send(&mut stream, patience, &mut buffer).await?;
        match read_frame(&mut stream, most, patience, &mut buffer).await? {
            ServerFrame::Welcome { protocol: PROTOCOL } => Ok(stream),
            ServerFrame::Welcome { protocol } => {
                Err(Broken::Rule(format!("protocol {protocol} is spoken there, and {PROTOCOL} here")).into())
            }
            ServerFrame::NotWriter { writer } => Err(Ended { writer, ..not_writer().into() }),
            ServerFrame::Refused { why } => Err(Broken::Rule(format!("refused: {why}")).into()),
            ServerFrame::Order { .. } | ServerFrame::Heartbeat { .. } => {
                Err(Broken::Rule("the first words were not `welcome`".to_owned()).into())
            }
        }
    }

    /// Queues the latest counts of each model, if none wait.
    fn say_demand(&self) {
        let demand: Vec<Demand> = self.demand().values().cloned().collect();
        let mut levels = self.outbox.lock();
        for demand in demand {
            if !levels.holds(&ReportSubject::Demand(demand.model.clone())) {
                levels.push(GatewayReport::Demand(demand), self.settings.limits.max_pending);
            }
        }
        drop(levels);
        self.outbox.ring();
    }
}

fn not_writer() -> Broken {
    Broken::Rule("it does not write replica counts".to_owned())
}

/// Completes when the writer is known to be elsewhere.
async fn moved(writer: &mut watch::Receiver<Option<String>>, address: &str) {
    loop {
        if writer.changed().await.is_err() {
            return std::future::pending().await;
        }
        if writer.borrow_and_update().as_deref().is_some_and(|other| other != address) {
            return;
        }
    }
}

/// One connection. However it ends, what may be lost with it goes back into the queue.
struct Session<'a> {
    shared: &'a Shared,
    unacknowledged: Mutex<Unacknowledged>,
    /// That it ended has been told.
    is_told: bool,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        std::mem::take(&mut *self.unacknowledged()).give_back(&self.shared.outbox);
        if !self.is_told {
            // dropped in the middle, since the writer moved; where the queue is full, the next `Up` tells as much
            let why = "another process writes replica counts now".to_owned();
            let _ = self.shared.events.try_send(ClientEvent::Down { why });
        }
    }
}

impl Session<'_> {
    fn unacknowledged(&self) -> MutexGuard<'_, Unacknowledged> {
        self.unacknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the writer says, until it breaks off.
    async fn listen(&self, mut read: impl AsyncRead + Unpin) -> (Broken, Option<String>) {
        let limits = &self.shared.settings.limits;
        let mut buffer = Vec::new();
        loop {
            match read_frame(&mut read, limits.max_frame_bytes, limits.dead_after, &mut buffer).await {
                Err(broken) => return (broken, None),
                Ok(ServerFrame::Heartbeat { received }) => self.unacknowledged().received(received),
                Ok(ServerFrame::Order { order }) => {
                    if self.shared.events.send(ClientEvent::Order(order)).await.is_err() {
                        return (Broken::Rule("the gateway is ending".to_owned()), None);
                    }
                }
                Ok(ServerFrame::NotWriter { writer }) => return (not_writer(), writer),
                Ok(ServerFrame::Refused { why }) => return (Broken::Rule(format!("refused: {why}")), None),
                Ok(ServerFrame::Welcome { .. }) => return (Broken::Rule("it said `welcome` twice".to_owned()), None),
            }
        }
    }

    /// Sends reports and heartbeats.
    async fn speak(&self, mut write: impl AsyncWrite + Unpin) -> Broken {
        let limits = &self.shared.settings.limits;
        let mut beat = tokio::time::interval(limits.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut buffer = Vec::new();
        loop {
            let written = tokio::select! {
                biased;
                () = self.shared.outbox.changed() => self.write_reports(&mut buffer),
                _ = beat.tick() => {
                    let beat = ClientFrame::Heartbeat { sent_at: self.shared.clock.now() };
                    write_frame(&beat, limits.max_frame_bytes, &mut buffer)
                }
            };
            let sent = match written {
                Ok(()) => send(&mut write, limits.dead_after, &mut buffer).await,
                Err(broken) => Err(broken),
            };
            if let Err(broken) = sent {
                return broken;
            }
        }
    }

    fn write_reports(&self, buffer: &mut Vec<u8>) -> Result<(), Broken> {
        let most = self.shared.settings.limits.max_frame_bytes;
        let sent_at = self.shared.clock.now();
        while buffer.len() < BATCH_BYTES {
            let report = self.shared.outbox.pop();
            let models = self.shared.models();
            if self.shared.models_changed.swap(false, Ordering::AcqRel) {
                let models = models.iter().cloned().collect();
                write_frame(&ClientFrame::Models { models }, most, buffer)?;
            }
            let Some(report) = report else { return Ok(()) };
            if !models.contains(model_of_report(&report)) {
                // of a model that is not served any more
                continue;
            }
            drop(models);
            let mut unacknowledged = self.unacknowledged();
            unacknowledged.sent(report.clone());
            if unacknowledged.len() > MAX_UNACKNOWLEDGED {
                return Err(Broken::Rule(format!("{MAX_UNACKNOWLEDGED} reports were not acknowledged")));
            }
            drop(unacknowledged);
            write_frame(&ClientFrame::Report { sent_at, report }, most, buffer)?;
        }
        self.shared.outbox.ring();
        Ok(())
    }
}
