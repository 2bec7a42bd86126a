//! What tests of the binary share: the built binary as a child, a blocking HTTP client, scripted servers, and a real Kubernetes
//! control plane in a private network namespace.
//!
//! Invariants
//! - Only loopback and addresses of the private namespace are spoken to; other addresses are refused.
//! - Every wait has a deadline, every read a bound; a child is killed when its handle is dropped.
//!
//! Deliberately absent: retries, redirects, TLS, and any opinion on what an answer should be.

pub mod binary;
pub mod client;
pub mod controlplane;
pub mod dcgm;
pub mod netns;
pub mod node;
pub mod upstream;

use anyhow::{Result, bail};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

/// How long a wait may take unless a test says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The most that is read of one answer, in bytes.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(2);

/// A port on loopback that nothing listens on now.
///
/// # Errors
/// If there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Refuses what is neither on loopback nor, inside a private namespace, of one of its plans.
///
/// # Errors
/// For every other address.
pub fn within_reach(address: SocketAddr) -> Result<SocketAddr> {
    let is_planned = match address.ip() {
        IpAddr::V4(ip) => netns::is_inside() && netns::Plan::of(ip).is_some(),
        IpAddr::V6(_) => false,
    };
    if !address.ip().is_loopback() && !is_planned {
        bail!("{address} is neither on loopback nor in the private namespace; tests do not leave them");
    }
    Ok(address)
}

/// Waits until `look` finds something.
///
/// # Errors
/// After `patience`, naming `what` was waited for.
pub fn wait_for<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {patience:?} in vain for {what}");
        }
        std::thread::sleep(POLL);
    }
}
