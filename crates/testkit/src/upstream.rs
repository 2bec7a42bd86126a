//! Servers that do what a script says, one script per connection.

use anyhow::Result;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// One step of an answer.
#[derive(Debug, Clone)]
pub enum Step {
    /// Write these bytes.
    Write(Vec<u8>),
    /// Write these bytes as one chunk of a chunked body.
    Chunk(Vec<u8>),
    /// Wait.
    Delay(Duration),
    /// Wait for one call of [`Upstream::open_gate`].
    Gate,
    /// Close in both directions, with what the client has sent unread: the client sees a reset.
    Reset,
}

/// A running server; it stops accepting when dropped.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    requests: Receiver<String>,
    gate: Sender<()>,
    stopping: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // a connection of our own wakes the thread, which closes the listener as it ends
        let woken = TcpStream::connect(self.address).is_ok();
        if let Some(accepting) = self.accepting.take().filter(|_| woken) {
            let _ = accepting.join();
        }
    }
}

impl Upstream {
    /// Starts a server that reads one request per connection and then plays `script`.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start(script: Vec<Step>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let ((seen, requests), (gate, gates)) = (channel(), channel());
        let (script, gates) = (Arc::new(script), Arc::new(Mutex::new(gates)));
        let stopping = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stopping);
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let (script, gates, seen) = (Arc::clone(&script), Arc::clone(&gates), seen.clone());
                // a test that ends leaves its connections to break
                std::thread::spawn(move || play(stream, &script, &gates, &seen));
            }
        });
        Ok(Self { address, requests, gate, stopping, accepting: Some(accepting) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets one connection pass one [`Step::Gate`].
    pub fn open_gate(&self) {
        let _ = self.gate.send(());
    }

    /// Waits for the next request: its head and body as text.
    ///
    /// # Errors
    /// If none comes within `patience`.
    pub fn request(&self, patience: Duration) -> Result<String> {
        Ok(self.requests.recv_timeout(patience)?)
    }
}

fn play(
    mut stream: TcpStream,
    script: &[Step],
    gates: &Mutex<Receiver<()>>,
    seen: &Sender<String>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let named = |line: &str| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok();
    let length: u64 = head.lines().find_map(named).unwrap_or(0);
    let mut body = Vec::new();
    let leave = u64::from(script.iter().any(|step| matches!(step, Step::Reset)));
    (&mut reader).take(length.saturating_sub(leave)).read_to_end(&mut body)?;
    let _ = seen.send(head + &String::from_utf8_lossy(&body));
    for step in script {
        match step {
            Step::Write(bytes) => stream.write_all(bytes)?,
            Step::Chunk(bytes) => {
                stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes())?;
                stream.write_all(bytes)?;
                stream.write_all(b"\r\n")?;
            }
            Step::Delay(span) => std::thread::sleep(*span),
            Step::Gate => {
                let opened = gates.lock().unwrap_or_else(PoisonError::into_inner).recv();
                if opened.is_err() {
                    return Ok(());
                }
            }
            Step::Reset => return Ok(()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PATIENCE;
    use crate::client::{Connection, request};

    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

    #[test]
    fn a_gated_stream_arrives_event_by_event() {
        let script = vec![
            Step::Write(CHUNKED.to_vec()),
            Step::Chunk(b"data: 1\n\nda".to_vec()),
            Step::Gate,
            Step::Chunk(b"ta: 2\n\n".to_vec()),
            Step::Chunk(vec![]),
        ];
        let upstream = Upstream::start(script).expect("start");
        let mut connection = Connection::open(upstream.address(), PATIENCE).expect("open");
        connection.send("POST", "/x", &[("a", "b")], b"body").expect("send");
        let seen = upstream.request(PATIENCE).expect("request");
        assert!(seen.starts_with("POST /x HTTP/1.1\r\n") && seen.ends_with("a: b\r\n\r\nbody"), "{seen}");
        assert_eq!(connection.head().expect("head").status, 200);
        let mut rest = vec![];
        assert_eq!(connection.event(&mut rest).expect("first").as_deref(), Some("data: 1"));
        upstream.open_gate();
        assert_eq!(connection.event(&mut rest).expect("second").as_deref(), Some("data: 2"));
        assert_eq!(connection.event(&mut rest).expect("end"), None);
    }

    #[test]
    fn a_dropped_server_gives_its_port_back() {
        let upstream = Upstream::start(vec![]).expect("start");
        let address = upstream.address();
        drop(upstream);
        assert!(Connection::open(address, PATIENCE).is_err());
    }

    #[test]
    fn a_cut_answer_is_an_error_and_other_machines_are_refused() {
        let cut = vec![Step::Write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc".to_vec()), Step::Reset];
        let upstream = Upstream::start(cut).expect("start");
        assert!(request(upstream.address(), "POST", "/", &[], b"xy", PATIENCE).is_err());
        let whole = vec![Step::Write(b"HTTP/1.1 503 No\r\nRetry-After: 3\r\ncontent-length: 3\r\n\r\nabc".to_vec())];
        let upstream = Upstream::start(whole).expect("start");
        let (head, body) = request(upstream.address(), "GET", "/", &[], b"", PATIENCE).expect("answer");
        assert_eq!((head.status, head.header("retry-after"), body.as_slice()), (503, Some("3"), &b"abc"[..]));
        assert!(Connection::open("192.0.2.1:80".parse().expect("address"), PATIENCE).is_err());
    }
}
