//! Listening, and the accept loop of HTTP/1 servers.

use super::limits::{ACCEPT_PAUSE, LISTEN_BACKLOG, ServeLimits};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why an address cannot be listened on; the text says what to do.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another process has it.
    #[error("address {address} is in use by another process; choose another with {remedy}")]
    InUse {
        /// The address.
        address: SocketAddr,
        /// The option or field that sets it, as the user writes it.
        remedy: String,
    },
    /// Ports below 1024 need a privilege.
    #[error("listening on {address} is not permitted; choose a port from 1024 up with {remedy}")]
    NotPermitted {
        /// The address.
        address: SocketAddr,
        /// The option or field that sets it, as the user writes it.
        remedy: String,
    },
    /// The address belongs to another machine.
    #[error("address {address} is not one of this machine's; choose another with {remedy}")]
    NotLocal {
        /// The address.
        address: SocketAddr,
        /// The option or field that sets it, as the user writes it.
        remedy: String,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {error}; choose another with {remedy}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// The option or field that sets it, as the user writes it.
        remedy: String,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

/// Listens on `address` with `SO_REUSEADDR`, so that a restart does not wait for the previous connections' time-out.
///
/// `remedy` names the option or field that sets the address, as the user writes it, for the error text.
///
/// # Errors
/// A [`BindError`] that says what to do.
pub fn bind(address: SocketAddr, remedy: &str) -> Result<TcpListener, BindError> {
    let listen = || -> io::Result<TcpListener> {
        let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(LISTEN_BACKLOG)
    };
    listen().map_err(|error| {
        let remedy = remedy.to_owned();
        match error.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address, remedy },
            io::ErrorKind::PermissionDenied => BindError::NotPermitted { address, remedy },
            io::ErrorKind::AddrNotAvailable => BindError::NotLocal { address, remedy },
            _ => BindError::Other { address, remedy, error },
        }
    })
}

/// Accepts one connection without Nagle's delay; waits out a shortage of descriptors or memory instead of failing.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // fails only on a connection that has just died, which its reader will notice
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Serves HTTP/1.1 until `stop`; then no connection is accepted, open requests may finish within `limits.stop_grace`,
/// and what is left is cut. The service is cloned per connection. A client that closes its sending side counts as gone:
/// its request's future is dropped.
pub async fn serve<S, B>(listener: TcpListener, service: S, limits: ServeLimits, stop: CancellationToken)
where
    S: hyper::service::Service<http::Request<hyper::body::Incoming>, Response = http::Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let places = Arc::new(Semaphore::new(limits.max_connections.min(Semaphore::MAX_PERMITS)));
    let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.max_head_bytes.max(8192));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, accept(&listener).await)
        };
        let (place, (stream, _peer)) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            next = next => next,
        };
        let connection = builder.serve_connection(TokioIo::new(stream), service.clone());
        let (stop, cut) = (stop.clone(), cut.clone());
        tasks.spawn(async move {
            let _place = place;
            tokio::pin!(connection);
            let mut stopping = false;
            loop {
                tokio::select! {
                    // what goes wrong on one connection is its client's to see
                    _ = &mut connection => break,
                    () = cut.cancelled() => break,
                    () = stop.cancelled(), if !stopping => {
                        stopping = true;
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(limits.stop_grace, tasks.wait()).await.is_err() {
        cut.cancel();
        // a cut connection ends at its next poll
        let _ = tokio::time::timeout(Duration::from_secs(1), tasks.wait()).await;
    }
}

#[cfg(test)]
mod tests;
