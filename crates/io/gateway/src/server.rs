//! Starting, accepting, stopping.

use crate::io::ClientIo;
use crate::model::Model;
use crate::reports::Reporter;
use crate::service::Service;
use crate::settings::{GatewaySettings, ModelSettings};
use crate::shared::{ModelTable, Shared};
use crate::stall::StreamExecutor;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use loadline_net::Clock;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections the kernel may keep until they are accepted.
const BACKLOG: u32 = 4096;
/// The pause after an error of accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The least buffer that hyper takes.
const LEAST_BUFFER: usize = 8 * 1024;
/// The pause between two looks at a connection that has sent only part of its first word.
const PREFACE_PAUSE: Duration = Duration::from_millis(1);
/// The time streams have to end after they were told to.
const ABORT_GRACE: Duration = Duration::from_secs(1);
/// What a connection beyond the limit is told.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
content-type: application/json\r\ncontent-length: 119\r\n\r\n\
{\"error\":{\"message\":\"too many connections; close some or repeat later\",\"type\":\"server_error\",\"param\":null,\"code\":null}}";

/// Why a gateway could not start.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// The address cannot be listened on.
    #[error("cannot listen on `{address}`: {source}; choose another address or end the process that uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The gateway.
pub struct Gateway;

impl Gateway {
    /// Listens and serves until [`GatewayHandle::shutdown`]; to be called within a runtime. Reports go to `reports`,
    /// which should hold at least a few hundred: demand and wakes that find it full are dropped and said again.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn start(
        settings: GatewaySettings,
        clock: Clock,
        reports: Sender<GatewayReport>,
    ) -> Result<GatewayHandle, GatewayError> {
        let address = settings.listen;
        let listen = |source| GatewayError::Listen { address, source };
        let listener = listen_on(address).map_err(listen)?;
        let local = listener.local_addr().map_err(listen)?;
        let reporter = Reporter::new(settings.gateway.clone(), reports);
        let models = settings.models.clone();
        let shared = Arc::new(Shared::new(settings, clock, reporter));
        let handle = GatewayHandle {
            local,
            connections: TaskTracker::new(),
            stop: CancellationToken::new(),
            timer: tokio::spawn(Arc::clone(&shared).run_timer()),
            accept: Mutex::new(None),
            shared,
        };
        handle.set_models(models);
        let accept = accept(Arc::clone(&handle.shared), listener, handle.connections.clone(), handle.stop.clone());
        *handle.accept.lock().unwrap_or_else(PoisonError::into_inner) = Some(tokio::spawn(accept));
        Ok(handle)
    }
}

/// A running gateway. Dropping it stops accepting and ends every connection.
pub struct GatewayHandle {
    local: SocketAddr,
    shared: Arc<Shared>,
    connections: TaskTracker,
    stop: CancellationToken,
    timer: JoinHandle<()>,
    accept: Mutex<Option<JoinHandle<()>>>,
}

impl GatewayHandle {
    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Obeys an order of the writer at once; one for an unknown model is dropped.
    pub fn order(&self, order: GatewayOrder) {
        let model = match &order {
            GatewayOrder::Ack { model, .. }
            | GatewayOrder::Close { model, .. }
            | GatewayOrder::ReplicaUp { model, .. }
            | GatewayOrder::Drain { model, .. }
            | GatewayOrder::ReplicaDown { model, .. }
            | GatewayOrder::Outlook { model, .. } => self.shared.models().get(model).cloned(),
        };
        if let Some(model) = model {
            model.order(&self.shared, order);
        }
    }

    /// There is a new writer: wakes that are still needed are sent again.
    pub fn writer_changed(&self) {
        for model in self.shared.models().values() {
            model.writer_changed(&self.shared);
        }
    }

    /// Broken laws since the start, over all models: L5, L6, L7.
    #[must_use]
    pub fn law_violations(&self) -> [u64; 3] {
        self.shared.models().values().fold([0; 3], |[lost, slots, bounds], model| {
            let (counts, _, _) = model.snapshot();
            [lost + counts.exit_violations(), slots + counts.slot_violations, bounds + counts.bound_violations]
        })
    }

    /// Serves these models from now on. A model that stays keeps its replicas and what it holds; of one that goes, what
    /// is held is refused and what is in flight may finish.
    pub fn set_models(&self, models: Vec<ModelSettings>) {
        let present = self.shared.models();
        let settings = &self.shared.settings;
        let mut table = ModelTable::new();
        for (count, wanted) in models.into_iter().enumerate() {
            let model = match present.get(&wanted.model) {
                Some(model) => {
                    model.configure(&wanted, settings.max_body_bytes);
                    Arc::clone(model)
                }
                None => {
                    let seed = settings.seed.wrapping_add(u64::try_from(count).unwrap_or(0));
                    Arc::new(Model::new(&wanted, settings.max_body_bytes, seed, self.shared.clock.now()))
                }
            };
            table.insert(wanted.model, model);
        }
        let gone: Vec<_> =
            present.iter().filter(|(id, _)| !table.contains_key(*id)).map(|(_, m)| Arc::clone(m)).collect();
        self.shared.replace_models(table);
        for model in gone {
            model.stop(&self.shared, false);
        }
    }

    /// Stops: not ready at once; no new connections after `drain_delay`; what is held or in flight is served until
    /// `deadline` (wall time from now), then refused or ended with an error.
    pub async fn shutdown(&self, deadline: Duration) {
        let until = tokio::time::Instant::now() + deadline;
        self.shared.draining.store(true, Ordering::Release);
        tokio::time::sleep(self.shared.settings.drain_delay.min(deadline)).await;
        let accept = self.accept.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(accept) = accept {
            accept.abort();
            // Its end closes the listener; that it was aborted is what was wanted.
            let _ = accept.await;
        }
        self.stop.cancel();
        self.connections.close();
        if tokio::time::timeout_at(until, self.connections.wait()).await.is_err() {
            self.shared.aborting.store(true, Ordering::Release);
            for model in self.shared.models().values() {
                model.stop(&self.shared, true);
            }
            // Who does not take the last words within the grace is cut off with the handle.
            let _ = tokio::time::timeout(ABORT_GRACE, self.connections.wait()).await;
        }
        self.timer.abort();
    }
}

impl Drop for GatewayHandle {
    fn drop(&mut self) {
        self.timer.abort();
        if let Some(accept) = self.accept.lock().unwrap_or_else(PoisonError::into_inner).take() {
            accept.abort();
        }
        self.stop.cancel();
    }
}

fn listen_on(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// How each kind of connection is served.
///
/// The kind is found by looking at the first bytes without taking them: hyper then reads a head in one piece into its
/// smallest buffer, which matters with thousands of held requests.
struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<StreamExecutor>,
}

impl Protocols {
    fn new(shared: &Shared) -> Self {
        let settings = &shared.settings;
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(settings.header_read_timeout)
            .max_header_size(settings.max_header_bytes)
            .max_buf_size(settings.max_header_bytes.max(LEAST_BUFFER));
        let mut http2 = http2::Builder::new(StreamExecutor::new(settings.write_stall_timeout));
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.h2_max_streams)
            .keep_alive_interval(settings.header_read_timeout)
            .max_header_list_size(u32::try_from(settings.max_header_bytes).unwrap_or(u32::MAX));
        Self { http1, http2 }
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, connections: TaskTracker, stop: CancellationToken) {
    let protocols = Arc::new(Protocols::new(&shared));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if connections.len() >= shared.settings.max_connections {
            shared.metrics.connections_refused.add(1);
            turn_away(stream);
            continue;
        }
        shared.metrics.connections.add(1);
        connections.spawn(connection(Arc::clone(&shared), Arc::clone(&protocols), stream, stop.clone()));
    }
}

/// Tells a connection beyond the limit so, without a task: the few bytes fit into an empty socket buffer.
fn turn_away(mut stream: TcpStream) {
    let mut write = Box::pin(stream.write_all(TOO_MANY));
    // What cannot be said at once is not said.
    let _ = write.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
}

async fn connection(shared: Arc<Shared>, protocols: Arc<Protocols>, stream: TcpStream, stop: CancellationToken) {
    // Failing to switch Nagle's algorithm off costs time, not correctness.
    let _ = stream.set_nodelay(true);
    let patience = shared.settings.header_read_timeout;
    let is_http2 = tokio::select! {
        is_http2 = tokio::time::timeout(patience, starts_http2(&stream)) => is_http2.unwrap_or_default(),
        () = stop.cancelled() => None,
    };
    let ended = match is_http2 {
        None => Ok(()),
        Some(false) => {
            let io = ClientIo::new(TokioIo::new(stream), shared.settings.write_stall_timeout);
            let serving = pin!(protocols.http1.serve_connection(io, Service::new(Arc::clone(&shared))));
            drive(serving, http1::Connection::graceful_shutdown, &stop).await
        }
        Some(true) => {
            let io = ClientIo::new(TokioIo::new(stream), shared.settings.write_stall_timeout);
            let service = Service::new(Arc::clone(&shared));
            let begun = service.begun();
            let mut serving = Box::pin(protocols.http2.serve_connection(io, service));
            let mut driven = pin!(drive(serving.as_mut(), http2::Connection::graceful_shutdown, &stop));
            // Who has sent no request by then may not have ended its handshake, which nothing else bounds.
            match tokio::time::timeout(patience, driven.as_mut()).await {
                Ok(ended) => ended,
                Err(_) if begun.load(Ordering::Relaxed) => driven.await,
                Err(_) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended with an error");
    }
    shared.metrics.connections_closed.add(1);
}

/// Drives a connection to its end; once the gateway stops, the connection is asked to end after what it has begun.
async fn drive<C: Future>(
    mut serving: Pin<&mut C>,
    ask_to_end: fn(Pin<&mut C>),
    stop: &CancellationToken,
) -> C::Output {
    let mut stopping = pin!(stop.cancelled());
    let mut asked = false;
    std::future::poll_fn(|cx| {
        if !asked && stopping.as_mut().poll(cx).is_ready() {
            asked = true;
            ask_to_end(serving.as_mut());
        }
        serving.as_mut().poll(cx)
    })
    .await
}

/// Whether a connection begins with HTTP/2's preface (RFC 9113 3.4); none if it ends before that is clear.
async fn starts_http2(stream: &TcpStream) -> Option<bool> {
    const PREFACE: &[u8] = b"PRI ";
    let mut first = [0; PREFACE.len()];
    loop {
        let count = stream.peek(&mut first).await.ok().filter(|count| *count > 0)?;
        let seen = first.get(..count)?;
        if !PREFACE.starts_with(seen) {
            return Some(false);
        }
        if count == PREFACE.len() {
            return Some(true);
        }
        // The beginning of the preface, or of a method like POST: a look cannot wait for more than there is.
        tokio::time::sleep(PREFACE_PAUSE).await;
    }
}
