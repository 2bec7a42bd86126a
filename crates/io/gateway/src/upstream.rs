//! Connections to one replica.
//!
//! A connection is driven by the request that uses it: no task stands between a client and its replica, and dropping the
//! request drops the connection, which the replica notices at once.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use loadline_base::ReplicaId;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::net::TcpStream;

/// Read buffer of a connection to a replica at most.
const READ_BUFFER: usize = 64 * 1024;

/// One connection and the means to use it.
pub(crate) struct Wire {
    sender: SendRequest<Full<Bytes>>,
    connection: Connection<TokioIo<TcpStream>, Full<Bytes>>,
    closed: bool,
}

impl Wire {
    /// Drives the connection; true once it has ended.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.closed && Pin::new(&mut self.connection).poll(cx).is_ready() {
            self.closed = true;
        }
        self.closed
    }

    /// Whether a request may be sent on it now.
    fn is_usable(&mut self, cx: &mut Context<'_>) -> bool {
        !self.drive(cx) && matches!(self.sender.poll_ready(cx), Poll::Ready(Ok(())))
    }
}

/// Connections to one replica.
pub(crate) struct Upstream {
    pub(crate) id: ReplicaId,
    address: String,
    socket: Option<SocketAddr>,
    idle: Mutex<Vec<Wire>>,
    max_idle: usize,
    gone: AtomicBool,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("id", &self.id).field("address", &self.address).finish_non_exhaustive()
    }
}

/// What is sent to a replica; kept until its answer begins.
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether it may be sent again after it was sent.
    pub(crate) twice: bool,
}

impl Outgoing {
    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptError {
    /// No connection; nothing was sent.
    Refused,
    /// The connection broke after the request was sent.
    Reset,
}

impl Upstream {
    pub(crate) fn new(id: ReplicaId, address: String, max_idle: usize) -> Self {
        let socket = address.parse().ok();
        Self { id, address, socket, idle: Mutex::new(Vec::new()), max_idle, gone: AtomicBool::new(false) }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The replica is gone.
    pub(crate) fn leave(&self) {
        self.gone.store(true, Ordering::Release);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Keeps a connection whose answer was read to its end.
    pub(crate) fn keep(&self, wire: Wire) {
        if wire.closed || self.is_gone() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.max_idle {
            idle.push(wire);
        }
    }

    /// Sends a request and waits for the head of its answer. A kept connection that turns out to be closed is replaced
    /// by a new one without notice, once: should the request itself break connections, it must not break all of them.
    pub(crate) async fn attempt(
        &self,
        outgoing: &Outgoing,
        connect_timeout: Duration,
    ) -> Result<(Response<Incoming>, Wire), AttemptError> {
        if let Some(wire) = self.usable().await {
            match send(wire, outgoing.request()).await {
                Ok(answer) => return Ok(answer),
                Err(Broken { sent: true }) if !outgoing.twice => return Err(AttemptError::Reset),
                // The other kept ones are as old or older.
                Err(_) => self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear(),
            }
        }
        let wire = self.connect(connect_timeout).await.ok_or(AttemptError::Refused)?;
        send(wire, outgoing.request()).await.map_err(|_| AttemptError::Reset)
    }

    /// A kept connection that is still open.
    async fn usable(&self) -> Option<Wire> {
        std::future::poll_fn(|cx| {
            loop {
                let Some(mut wire) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() else {
                    return Poll::Ready(None);
                };
                if wire.is_usable(cx) {
                    return Poll::Ready(Some(wire));
                }
            }
        })
        .await
    }

    async fn connect(&self, limit: Duration) -> Option<Wire> {
        let connecting = async {
            match self.socket {
                Some(socket) => TcpStream::connect(socket).await,
                None => TcpStream::connect(&*self.address).await,
            }
        };
        let stream = tokio::time::timeout(limit, connecting).await.ok()?.ok()?;
        // Failing to switch Nagle's algorithm off costs time, not correctness.
        let _ = stream.set_nodelay(true);
        let (sender, connection) =
            Builder::new().max_buf_size(READ_BUFFER).handshake(TokioIo::new(stream)).await.ok()?;
        Some(Wire { sender, connection, closed: false })
    }
}

/// A connection that ended without an answer.
struct Broken {
    /// Whether any of the request may have left.
    sent: bool,
}

/// Sends on a connection and drives it until the head of the answer.
async fn send(mut wire: Wire, request: Request<Full<Bytes>>) -> Result<(Response<Incoming>, Wire), Broken> {
    let mut answer = pin!(wire.sender.try_send_request(request));
    let result = std::future::poll_fn(|cx| {
        // The answer can only come by driving the connection, so that only the connection needs to wake us.
        let closed = wire.drive(cx);
        match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => {
                Poll::Ready(answer.map_err(|mut error| Broken { sent: error.take_message().is_none() }))
            }
            Poll::Pending if closed => Poll::Ready(Err(Broken { sent: true })),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    // No upgrade was asked for, so that a switch of protocols leaves nothing that could be passed on.
    let answer = result.and_then(|answer| match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS => Err(Broken { sent: true }),
        _ => Ok(answer),
    });
    answer.map(|answer| (answer, wire))
}
