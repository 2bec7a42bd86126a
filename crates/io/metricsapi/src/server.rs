//! Listening: TLS with optional client certificates, HTTP/1 and HTTP/2, bounds, and an orderly end.

use crate::auth::authorities::CurrentAuthorities;
use crate::auth::peer::{AnyCertificate, Peer};
use crate::auth::{Gate, watch};
use crate::meter::Meter;
use crate::service::Service;
use crate::settings::{AuthoritySource, Settings};
use crate::source::MetricSource;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use loadline_net::Clock;
use loadline_net::http::{BindError, serve::accept};
use loadline_net::tls::ReloadableServer;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why the server cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// It cannot listen.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The listener has no address.
    #[error("the listening socket cannot be asked for its address: {0}")]
    Address(std::io::Error),
    /// TLS cannot be set up.
    #[error("tls cannot be set up: {0}")]
    Tls(rustls::Error),
}

/// The metrics APIs.
#[derive(Debug, Clone, Copy)]
pub struct MetricsApi;

impl MetricsApi {
    /// Starts to serve the values of `source`, usually a [`crate::ServedSource`]. The server's certificate is asked of `tls` at
    /// every handshake (its clients and protocols are not: they are this server's own); who may read is asked of the cluster
    /// behind `client`. Ends when the handle is told to.
    ///
    /// # Errors
    /// When the address cannot be listened on, or TLS cannot be set up.
    pub fn start(
        settings: &Settings,
        client: kube::Client,
        clock: Clock,
        source: Arc<dyn MetricSource>,
        tls: Arc<ReloadableServer>,
    ) -> Result<Handle, StartError> {
        let config = server_config(tls).map_err(StartError::Tls)?;
        let listener = loadline_net::http::bind(settings.listen, &settings.listen_remedy)?;
        let address = listener.local_addr().map_err(StartError::Address)?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let authorities = CurrentAuthorities::default();
        match &settings.authorities {
            AuthoritySource::Fixed(keys) => watch::load(&authorities, keys, "settings"),
            AuthoritySource::ConfigMap { namespace, name } => {
                let (client, current, stop) = (client.clone(), authorities.clone(), stop.clone());
                let (namespace, name) = (namespace.clone(), name.clone());
                tasks.spawn(async move { watch::follow(client, &namespace, &name, current, stop).await });
            }
        }
        let meter = Arc::new(Meter::default());
        let service = Arc::new(Service {
            gate: Gate::new(settings, authorities, client, Arc::clone(&meter), clock.clone()),
            source,
            clock,
            meter,
            places: Semaphore::new(settings.max_in_flight.min(Semaphore::MAX_PERMITS)),
            deadline: settings.request_deadline,
            window: settings.window,
            stop: stop.clone(),
        });
        let front = Front {
            service: Arc::clone(&service),
            acceptor: TlsAcceptor::from(Arc::new(config)),
            builder: builder(settings),
            handshake_timeout: settings.handshake_timeout,
            idle_timeout: settings.idle_timeout,
            stop: stop.clone(),
            cut: CancellationToken::new(),
            tasks: tasks.clone(),
        };
        let places = Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS)));
        let cut = front.cut.clone();
        tasks.spawn(front.listen(listener, places));
        Ok(Handle { address, service, stop, cut, tasks, grace: settings.stop_grace })
    }
}

/// A running server.
pub struct Handle {
    address: SocketAddr,
    service: Arc<Service>,
    stop: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
    grace: Duration,
}

impl Handle {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Whether `/readyz` passes: the pods are known, callers can be recognised, and nobody asked for the end.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.service.source.is_synced() && self.service.gate.is_loaded() && !self.stop.is_cancelled()
    }

    /// The server's own metrics in the Prometheus text format.
    #[must_use]
    pub fn exposition(&self) -> String {
        self.service.meter.exposition()
    }

    /// Accepts nothing more, lets open requests finish within the grace, cuts what is left.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(self.grace, self.tasks.wait()).await.is_err() {
            self.cut.cancel();
            // a cut connection ends at its next poll
            let _ = tokio::time::timeout(Duration::from_secs(1), self.tasks.wait()).await;
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The server's certificate as it is at each handshake.
#[derive(Debug)]
struct CurrentIdentity(Hidden);

struct Hidden(Arc<ReloadableServer>);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReloadableServer")
    }
}

impl ResolvesServerCert for CurrentIdentity {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.0.config().cert_resolver.resolve(hello)
    }
}

fn server_config(tls: Arc<ReloadableServer>) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(AnyCertificate::new(provider)))
        .with_cert_resolver(Arc::new(CurrentIdentity(Hidden(tls))));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn builder(settings: &Settings) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    let head = usize::try_from(settings.max_head_bytes).unwrap_or(usize::MAX).max(8192);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(settings.header_timeout).max_buf_size(head);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.max_streams)
        .max_header_list_size(settings.max_head_bytes)
        .keep_alive_interval(settings.ping_interval)
        .keep_alive_timeout(settings.ping_interval);
    builder
}

/// What connections share.
#[derive(Clone)]
struct Front {
    service: Arc<Service>,
    acceptor: TlsAcceptor,
    builder: Builder<TokioExecutor>,
    handshake_timeout: Duration,
    idle_timeout: Duration,
    stop: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Front {
    async fn listen(self, listener: TcpListener, places: Arc<Semaphore>) {
        loop {
            let next = async { (Arc::clone(&places).acquire_owned().await, accept(&listener).await) };
            let (place, (stream, _)) = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                next = next => next,
            };
            Meter::up(&self.service.meter.connections);
            let front = self.clone();
            self.tasks.spawn(async move {
                let _place = place;
                front.connection(stream).await;
            });
        }
    }

    async fn connection(&self, stream: TcpStream) {
        let handshake = tokio::time::timeout(self.handshake_timeout, self.acceptor.accept(stream));
        let stream = tokio::select! {
            () = self.cut.cancelled() => return,
            done = handshake => match done {
                Ok(Ok(stream)) => stream,
                // a probe that only connects, a scanner, or a client that does not trust us: theirs to see
                _ => return Meter::up(&self.service.meter.handshakes_failed),
            },
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = Arc::new(Peer::new(chain.iter().map(|certificate| certificate.clone().into_owned()).collect()));
        let asking = Arc::clone(&peer);
        let answer = service_fn(move |request: Request<Incoming>| {
            let (service, peer) = (Arc::clone(&self.service), Arc::clone(&asking));
            async move {
                let _open = peer.begin();
                Ok::<_, Infallible>(service.answer(&peer, request).await)
            }
        });
        let mut connection = std::pin::pin!(self.builder.serve_connection(TokioIo::new(stream), answer));
        let mut stopping = false;
        let (mut idle, mut requests) = (tokio::time::interval(self.idle_timeout.max(Duration::from_millis(1))), None);
        idle.tick().await;
        loop {
            tokio::select! {
                // what goes wrong on one connection is its client's to see
                _ = connection.as_mut() => return,
                () = self.cut.cancelled() => return,
                _ = idle.tick(), if !stopping => {
                    let now = peer.at_rest();
                    if now.is_some() && now == requests {
                        stopping = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    requests = now;
                }
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}
