//! Starting and stopping an engine, its listener, and the task that lets model time pass.

use crate::core::{Core, Opened, Shared};
use crate::server;
use crate::settings::{Dialect, EngineSettings};
use crate::stream::Answer;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use loadline_net::Clock;
use loadline_sim::engine::{self, ConfigError};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 4096;
/// How long a client may take to send its next request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a request head that has begun is still read after a stop (wall time); idle connections close at once.
const STOP_HEAD_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause after a failed accept (descriptors are used up), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings cannot serve anything.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address is taken or not ours.
    #[error("cannot listen on `{address}`: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// Starts emulated engines.
#[derive(Debug)]
pub struct Engine;

/// A started engine; when it is dropped the engine stops at once.
#[derive(Debug)]
pub struct EngineHandle {
    local_addr: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    kill: CancellationToken,
    tasks: TaskTracker,
    driver: Option<JoinHandle<()>>,
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        self.stop.cancel();
        self.kill.cancel();
        if let Some(driver) = &self.driver {
            driver.abort();
        }
    }
}

impl Engine {
    /// Takes the address and begins the start-up; must run inside a tokio runtime.
    ///
    /// The port is reserved at once. In the vLLM dialect connections are refused until the engine is ready, in the
    /// others they are answered with 503.
    ///
    /// # Errors
    /// If the settings cannot serve anything or the address cannot be had.
    pub fn start(settings: EngineSettings, clock: Clock) -> Result<EngineHandle, StartError> {
        let address = SocketAddr::new(settings.host, settings.port);
        let failed = |source| StartError::Listen { address, source };
        let socket = match address.ip() {
            IpAddr::V4(_) => TcpSocket::new_v4(),
            IpAddr::V6(_) => TcpSocket::new_v6(),
        }
        .map_err(failed)?;
        socket.set_reuseaddr(true).map_err(failed)?;
        socket.bind(address).map_err(failed)?;
        let local_addr = socket.local_addr().map_err(failed)?;
        let now = clock.now();
        let model = engine::Engine::new(settings.config.clone(), settings.seed, now)?;
        let shared = Arc::new(Shared {
            core: Mutex::new(Core::new(&settings, model, now)),
            changed: Notify::new(),
            opened: watch::Sender::new(Opened::NotYet),
            clock,
            loaded: Notify::new(),
            numbers: std::sync::atomic::AtomicU64::new(0),
            settings,
        });
        // Listening early also finds a port that another process listens on.
        let listener = match shared.settings.dialect {
            Dialect::Vllm => Pending::Later(socket, address),
            Dialect::Sglang | Dialect::Dynamo => Pending::Now(socket.listen(BACKLOG).map_err(failed)?),
        };
        let (stop, kill, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let driver = tokio::spawn(drive(shared.clone()));
        tasks.spawn(accept(shared.clone(), listener, (stop.clone(), kill.clone()), tasks.clone()));
        Ok(EngineHandle { local_addr, shared, stop, kill, tasks, driver: Some(driver) })
    }
}

impl EngineHandle {
    /// Where it listens, or will listen when it is ready.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Waits until the engine is ready and its port is open.
    ///
    /// # Errors
    /// If the port was taken by another process while the engine started.
    pub async fn ready(&self) -> Result<(), StartError> {
        let mut opened = self.shared.opened.subscribe();
        loop {
            match &*opened.borrow_and_update() {
                Opened::Yes => return Ok(()),
                Opened::Failed(kind, text) => {
                    let source = std::io::Error::new(*kind, text.clone());
                    return Err(StartError::Listen { address: self.local_addr, source });
                }
                Opened::NotYet => {}
            }
            // The sender lives as long as `self`, so this does not fail.
            let _ = opened.changed().await;
        }
    }

    /// The engine model's gauges now.
    #[must_use]
    pub fn gauges(&self) -> engine::Gauges {
        let now = self.shared.clock.now();
        let mut core = self.shared.lock();
        core.advance(now);
        core.engine.gauges()
    }

    /// The engine model's counters now.
    #[must_use]
    pub fn counters(&self) -> engine::Counters {
        let now = self.shared.clock.now();
        let mut core = self.shared.lock();
        core.advance(now);
        core.engine.counters().clone()
    }

    /// Stops accepting, lets in-flight requests finish within the shutdown timeout, then cuts what is left. True if
    /// nothing had to be cut.
    pub async fn shutdown(mut self) -> bool {
        self.stop.cancel();
        {
            let mut core = self.shared.lock();
            core.engine.drain();
        }
        self.tasks.close();
        let clean = tokio::time::timeout(self.shared.settings.shutdown_timeout, self.tasks.wait()).await.is_ok();
        if !clean {
            self.shared.lock().cancel_all(self.shared.clock.now());
            self.kill.cancel();
            self.tasks.wait().await;
        }
        if let Some(driver) = self.driver.take() {
            driver.abort();
        }
        clean
    }
}

enum Pending {
    Now(TcpListener),
    Later(TcpSocket, SocketAddr),
}

/// Lets model time pass: wakes at the end of every step.
async fn drive(shared: Arc<Shared>) {
    loop {
        let next = {
            let now = shared.clock.now();
            let mut core = shared.lock();
            core.advance(now);
            let next = core.engine.next_event();
            let started = !matches!(core.engine.phase(), engine::Phase::Starting { .. });
            drop(core);
            let opened = !matches!(*shared.opened.borrow(), Opened::NotYet);
            if started && !opened {
                match shared.settings.dialect {
                    // Ready only with the port open, which is the accepting task's work.
                    Dialect::Vllm => shared.loaded.notify_one(),
                    Dialect::Sglang | Dialect::Dynamo => drop(shared.opened.send_replace(Opened::Yes)),
                }
            }
            next
        };
        match next {
            Some(at) => {
                tokio::select! {
                    () = shared.clock.sleep_until(at) => {}
                    () = shared.changed.notified() => {}
                }
            }
            None => shared.changed.notified().await,
        }
    }
}

async fn accept(
    shared: Arc<Shared>,
    pending: Pending,
    (stop, kill): (CancellationToken, CancellationToken),
    tasks: TaskTracker,
) {
    let listener = match pending {
        Pending::Now(listener) => listener,
        Pending::Later(socket, address) => {
            tokio::select! {
                () = shared.loaded.notified() => {}
                () = stop.cancelled() => return,
            }
            match socket.listen(BACKLOG) {
                Ok(listener) => {
                    shared.opened.send_replace(Opened::Yes);
                    listener
                }
                Err(error) => {
                    tracing::error!(%address, %error, "cannot listen");
                    shared.opened.send_replace(Opened::Failed(error.kind(), error.to_string()));
                    return;
                }
            }
        }
    };
    let connections = Arc::new(Semaphore::new(shared.settings.max_connections.min(Semaphore::MAX_PERMITS)));
    loop {
        let permit = tokio::select! {
            permit = connections.clone().acquire_owned() => permit,
            () = stop.cancelled() => return,
        };
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let serving = connection(shared.clone(), stream, stop.clone(), kill.clone());
                tasks.spawn(async move {
                    serving.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// An answer that is known to be open until its body is written.
struct Open {
    answer: Answer,
    _open: Arc<()>,
}

impl Body for Open {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.get_mut().answer).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, stop: CancellationToken, kill: CancellationToken) {
    // Tokens are small writes that must not wait for each other.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let open = Arc::new(());
    let requests = Arc::downgrade(&open);
    let service = service_fn(move |request| {
        let (shared, open) = (shared.clone(), open.clone());
        async move {
            let answer = server::serve(shared, request).await;
            Ok::<http::Response<Open>, Infallible>(answer.map(|answer| Open { answer, _open: open }))
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let mut stopping = false;
    let head_timeout = tokio::time::sleep(STOP_HEAD_TIMEOUT);
    let mut head_timeout = std::pin::pin!(head_timeout);
    let mut heads_read = false;
    loop {
        tokio::select! {
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
                head_timeout.as_mut().reset(tokio::time::Instant::now() + STOP_HEAD_TIMEOUT);
            }
            () = head_timeout.as_mut(), if stopping && !heads_read => {
                heads_read = true;
                // the service holds one; more are requests being answered, which are waited for
                if requests.strong_count() <= 1 {
                    return;
                }
            }
            () = kill.cancelled() => return,
        }
    }
}
