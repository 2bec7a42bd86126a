//! The writer's side.

use crate::frame::{Broken, ClientFrame, PROTOCOL, ServerFrame, read_frame, send, write_frame};
use crate::identity;
use crate::limits::LinkLimits;
use crate::offset::Offset;
use crate::outbox::model_of_report;
use crate::registry::{Connected, Registry};
use loadline_base::{GatewayId, ModelId, Timestamp};
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use loadline_net::Clock;
use loadline_net::tls::{ReloadableServer, facts};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bytes of frames written at once.
const BATCH_BYTES: usize = 64 * 1024;

/// Whether this process writes replica counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It does.
    Writer,
    /// It does not.
    Reader {
        /// Where the writer's link listens, if that is known: `host:port`.
        writer: Option<String>,
    },
}

/// What a server hears. For each gateway: `Up`, then any number of `Models` and `Report`, then `Down`.
#[derive(Debug, Clone, PartialEq)]
pub enum LinkEvent {
    /// A gateway has connected. It knows nothing that was said on an earlier connection.
    Up {
        /// Which.
        gateway: GatewayId,
        /// What it serves: `namespace/autoscaler`.
        models: Vec<ModelId>,
    },
    /// It serves other models now.
    Models {
        /// Which.
        gateway: GatewayId,
        /// What it serves.
        models: Vec<ModelId>,
    },
    /// It reports; times in this process's clock.
    Report(GatewayReport),
    /// Its connection is lost. It may come back under this name.
    Down {
        /// Which.
        gateway: GatewayId,
        /// Why, for people.
        why: String,
    },
}

/// Why a server could not start.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] loadline_net::http::BindError),
    /// The system does not say which address that is.
    #[error("the address of the link cannot be read: {0}")]
    Address(std::io::Error),
}

struct Shared {
    limits: LinkLimits,
    clock: Clock,
    tls: Arc<ReloadableServer>,
    registry: Registry,
    role: watch::Sender<Role>,
    events: mpsc::Sender<LinkEvent>,
    refused: AtomicU64,
}

/// The writer's side of all links. Dropping it ends every connection.
pub struct LinkServer {
    local: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl LinkServer {
    /// Listens; to be called within a runtime. It begins as a reader that knows no writer: say [`Self::set_role`].
    ///
    /// While `events` is full, gateways wait, and join what they have to say.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn start(
        listen: SocketAddr,
        tls: Arc<ReloadableServer>,
        clock: Clock,
        limits: LinkLimits,
        events: mpsc::Sender<LinkEvent>,
    ) -> Result<Self, LinkError> {
        let listener = loadline_net::http::bind(listen, "the link's listen address")?;
        let local = listener.local_addr().map_err(LinkError::Address)?;
        let (role, _) = watch::channel(Role::Reader { writer: None });
        let refused = AtomicU64::new(0);
        let shared = Arc::new(Shared { limits, clock, tls, registry: Registry::default(), role, events, refused });
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(accept(Arc::clone(&shared), listener, tasks.clone(), stop.clone()));
        Ok(Self { local, shared, stop, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Says whether this process writes. A reader sends gateways away, to the writer if it is known.
    pub fn set_role(&self, role: Role) {
        self.shared.role.send_if_modified(|present| {
            let is_new = *present != role;
            *present = role;
            is_new
        });
    }

    /// Sends an order to one gateway; false if it is not connected or does not serve the model.
    pub fn order(&self, gateway: &GatewayId, order: GatewayOrder) -> bool {
        self.shared.registry.order(gateway, order)
    }

    /// Sends an order to all gateways that serve its model; how many there are.
    pub fn order_all(&self, order: &GatewayOrder) -> usize {
        self.shared.registry.order_all(order)
    }

    /// The gateways that are connected, each with its models.
    #[must_use]
    pub fn gateways(&self) -> Vec<(GatewayId, Vec<ModelId>)> {
        self.shared.registry.list()
    }

    /// Connections that were refused or sent away since the start.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Ends every connection; `Down` is told of each while there is somebody to hear it.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for LinkServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, tasks: TaskTracker, stop: CancellationToken) {
    loop {
        let (tcp, peer) = tokio::select! {
            accepted = loadline_net::http::serve::accept(&listener) => accepted,
            () = stop.cancelled() => return,
        };
        // this task is one of them
        if tasks.len() > shared.limits.max_connections {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%peer, most = shared.limits.max_connections, "too many connections of gateways; one was closed");
            continue;
        }
        let (shared, stop) = (Arc::clone(&shared), stop.child_token());
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                greeted = shared.greet(tcp) => match greeted {
                    Ok(session) => session.run(&shared, &stop).await,
                    Err(error) => {
                        shared.refused.fetch_add(1, Ordering::Relaxed);
                        tracing::info!(%peer, %error, "a gateway's connection was refused");
                    }
                },
            }
        });
    }
}

/// A gateway that has said who it is.
struct Session {
    stream: TlsStream<TcpStream>,
    gateway: GatewayId,
    models: BTreeSet<ModelId>,
    offset: Offset,
}

impl Shared {
    /// TLS and the first words.
    async fn greet(&self, tcp: TcpStream) -> Result<Session, Broken> {
        let patience = self.limits.handshake_timeout;
        let accept = tokio::time::timeout(patience, self.tls.acceptor().accept(tcp));
        let mut stream = accept.await.map_err(|_| Broken::Silent(patience))??;
        let hello = read_frame(&mut stream, self.limits.max_frame_bytes, patience, &mut Vec::new()).await;
        let received_at = self.clock.now();
        let answer = match (&*self.role.borrow(), hello) {
            (Role::Reader { writer }, _) => Err(ServerFrame::NotWriter { writer: writer.clone() }),
            (Role::Writer, Err(error)) => Err(ServerFrame::Refused { why: error.to_string() }),
            (Role::Writer, Ok(hello)) => {
                self.admit(hello, peer_name(&stream).as_deref()).map_err(|why| ServerFrame::Refused { why })
            }
        };
        let (first, admitted) = match answer {
            Ok(admitted) => (ServerFrame::Welcome { protocol: PROTOCOL }, Ok(admitted)),
            Err(ServerFrame::NotWriter { writer }) => {
                let why = "this process does not write replica counts".to_owned();
                (ServerFrame::NotWriter { writer }, Err(Broken::Rule(why)))
            }
            Err(ServerFrame::Refused { why }) => (ServerFrame::Refused { why: why.clone() }, Err(Broken::Rule(why))),
            Err(other) => (other, Err(Broken::Rule("not admitted".to_owned()))),
        };
        let mut buffer = Vec::new();
        write_frame(&first, self.limits.max_frame_bytes, &mut buffer)?;
        send(&mut stream, patience, &mut buffer).await?;
        let (gateway, models, sent_at) = admitted?;
        let mut offset = Offset::default();
        offset.saw(sent_at, received_at);
        Ok(Session { stream, gateway, models, offset })
    }

    /// Checks the first words; the error is for the gateway.
    fn admit(
        &self,
        hello: ClientFrame,
        peer: Option<&str>,
    ) -> Result<(GatewayId, BTreeSet<ModelId>, Timestamp), String> {
        let ClientFrame::Hello { protocol, gateway, models, sent_at } = hello else {
            return Err("the first words must be `hello`".to_owned());
        };
        if protocol != PROTOCOL {
            return Err(format!("protocol {protocol} is spoken, and {PROTOCOL} here; run the same version of both"));
        }
        let peer = peer.unwrap_or_default();
        if !identity::allows(peer, &gateway) {
            return Err(format!("the certificate of `{peer}` is not one of gateway `{gateway}`"));
        }
        let models = self.admit_models(&gateway, models)?;
        Ok((gateway, models, sent_at))
    }

    fn admit_models(&self, gateway: &GatewayId, models: Vec<ModelId>) -> Result<BTreeSet<ModelId>, String> {
        if models.len() > self.limits.max_models {
            return Err(format!("{} models are more than the {} allowed", models.len(), self.limits.max_models));
        }
        match models.iter().find(|model| !identity::is_of_namespace(gateway, model)) {
            Some(model) => Err(format!("model `{model}` is not of the namespace of gateway `{gateway}`")),
            None => Ok(models.into_iter().collect()),
        }
    }
}

/// The common name of the peer's certificate, which the handshake has verified.
fn peer_name(stream: &TlsStream<TcpStream>) -> Option<String> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    facts(certificate).ok()?.common_name
}

impl Session {
    async fn run(self, shared: &Shared, stop: &CancellationToken) {
        let Self { stream, gateway, models, mut offset } = self;
        let entry = shared.registry.enter(&gateway, models.clone(), shared.limits.max_pending).await;
        let up = LinkEvent::Up { gateway: gateway.clone(), models: models.into_iter().collect() };
        if shared.events.send(up).await.is_ok() {
            let (read, write) = tokio::io::split(stream);
            let received = AtomicU64::new(0);
            let end = tokio::select! {
                end = shared.listen(read, &gateway, &entry, &mut offset, &received) => end,
                end = shared.speak(write, &entry, &received) => end,
                () = entry.stop.cancelled() => Broken::Rule("it connected again, or took no orders".to_owned()),
                () = stop.cancelled() => Broken::Rule("this process is ending".to_owned()),
            };
            let why = end.to_string();
            tracing::info!(%gateway, why, "a gateway's connection has ended");
            // nobody hears it at the end of the process
            let _ = shared.events.send(LinkEvent::Down { gateway: gateway.clone(), why }).await;
        }
        shared.registry.leave(&gateway, &entry);
        entry.ended.cancel();
    }
}

impl Shared {
    /// Takes in what a gateway says, until it breaks off or a rule.
    async fn listen(
        &self,
        mut read: impl AsyncRead + Unpin,
        gateway: &GatewayId,
        entry: &Connected,
        offset: &mut Offset,
        received: &AtomicU64,
    ) -> Broken {
        let mut buffer = Vec::new();
        loop {
            let frame = read_frame(&mut read, self.limits.max_frame_bytes, self.limits.dead_after, &mut buffer).await;
            let event = match frame {
                Err(broken) => return broken,
                Ok(ClientFrame::Hello { .. }) => return Broken::Rule("it said hello twice".to_owned()),
                Ok(ClientFrame::Heartbeat { sent_at }) => {
                    offset.saw(sent_at, self.clock.now());
                    continue;
                }
                Ok(ClientFrame::Models { models }) => match self.admit_models(gateway, models) {
                    Err(why) => return Broken::Rule(why),
                    Ok(models) => {
                        entry.models().clone_from(&models);
                        LinkEvent::Models { gateway: gateway.clone(), models: models.into_iter().collect() }
                    }
                },
                Ok(ClientFrame::Report { sent_at, report }) => {
                    let now = self.clock.now();
                    offset.saw(sent_at, now);
                    if !entry.models().contains(model_of_report(&report)) {
                        return Broken::Rule(format!(
                            "it reports `{}`, which it does not serve",
                            model_of_report(&report)
                        ));
                    }
                    match self.in_our_time(report, gateway, offset, now) {
                        Some(report) => LinkEvent::Report(report),
                        None => return Broken::Rule("it reports for another gateway".to_owned()),
                    }
                }
            };
            let is_report = matches!(event, LinkEvent::Report(_));
            if self.events.send(event).await.is_err() {
                return Broken::Rule("this process is ending".to_owned());
            }
            received.fetch_add(u64::from(is_report), Ordering::Relaxed);
        }
    }

    /// The report with its times in our clock; none if it is another gateway's.
    fn in_our_time(
        &self,
        mut report: GatewayReport,
        gateway: &GatewayId,
        offset: &Offset,
        now: Timestamp,
    ) -> Option<GatewayReport> {
        let speaker = match &mut report {
            GatewayReport::Demand(demand) => {
                demand.at =
                    self.registry.forwards(gateway, offset.to_ours(demand.at, now), self.limits.max_connections);
                demand.idle_since = demand.idle_since.map(|since| offset.to_ours(since, now));
                &demand.gateway
            }
            GatewayReport::Wake { gateway, .. }
            | GatewayReport::Closed { gateway, .. }
            | GatewayReport::ReplicaLoad { gateway, .. } => gateway,
        };
        (speaker == gateway).then_some(report)
    }

    /// Sends orders and heartbeats, and at last that somebody else writes.
    async fn speak(&self, mut write: impl AsyncWrite + Unpin, entry: &Connected, received: &AtomicU64) -> Broken {
        let (most, patience) = (self.limits.max_frame_bytes, self.limits.dead_after);
        let mut role = self.role.subscribe();
        let mut beat = tokio::time::interval(self.limits.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut buffer = Vec::new();
        loop {
            let written = tokio::select! {
                biased;
                reader = writer_elsewhere(&mut role) => {
                    let said = write_frame(&ServerFrame::NotWriter { writer: reader }, most, &mut buffer);
                    if said.is_ok() {
                        // it finds out by itself if this does not reach it
                        let _ = send(&mut write, patience, &mut buffer).await;
                    }
                    return Broken::Rule("this process does not write replica counts any more".to_owned());
                }
                () = entry.outbox.changed() => {
                    let mut written = Ok(());
                    while written.is_ok() && buffer.len() < BATCH_BYTES && let Some(order) = entry.outbox.pop() {
                        written = write_frame(&ServerFrame::Order { order }, most, &mut buffer);
                    }
                    if buffer.len() >= BATCH_BYTES {
                        entry.outbox.ring();
                    }
                    written
                }
                _ = beat.tick() => {
                    let received = received.load(Ordering::Relaxed);
                    write_frame(&ServerFrame::Heartbeat { received }, most, &mut buffer)
                }
            };
            let sent = match written {
                Ok(()) => send(&mut write, patience, &mut buffer).await,
                Err(broken) => Err(broken),
            };
            if let Err(broken) = sent {
                return broken;
            }
        }
    }
}

/// Completes when this process is a reader, with the writer's address if it is known.
async fn writer_elsewhere(role: &mut watch::Receiver<Role>) -> Option<String> {
    match role.wait_for(|role| *role != Role::Writer).await.as_deref() {
        Ok(Role::Reader { writer }) => writer.clone(),
        _ => None,
    }
}
