//! The metrics pages of all pods, from one server: which pod is asked shows in the address it is asked at.

use anyhow::{Context, Result};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The port of every page.
pub(crate) const PORT: u16 = 8000;
/// The longest request that is read.
const MAX_REQUEST: usize = 16 << 10;
/// The capture whose queue is scripted.
const SCRIPTED: &str = "vllm-0.32.0-load.prom";
/// The series that is scripted.
pub(crate) const GAUGE: &str = "vllm:num_requests_waiting";
/// Captures that a fleet serves in turn.
pub(crate) const CAPTURES: [&str; 3] = [SCRIPTED, "sglang-0.5.23-load.prom", "dynamo-1.6.1-mocker-load.prom"];

/// What a page shows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content {
    /// The scripted capture with this many waiting requests.
    Waiting(u32),
    /// A capture as it is.
    Capture(usize),
}

/// Every page.
pub(crate) struct Pages {
    before: Bytes,
    after: Bytes,
    captures: Vec<Bytes>,
    by_address: Mutex<BTreeMap<Ipv4Addr, Content>>,
}

impl Pages {
    /// Reads the captures and starts to serve.
    pub(crate) async fn start() -> Result<Arc<Self>> {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/metrics"));
        let read = |name: &&str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let captures = CAPTURES.iter().map(read).collect::<Result<Vec<_>>>()?;
        let scripted = read(&SCRIPTED)?;
        let start = scripted.find(&format!("\n{GAUGE}{{")).context("the capture has no queue")?;
        let (before, line) = scripted.split_at(start + 1);
        let end = line.find('\n').context("the capture ends in its queue")?;
        let (line, after) = line.split_at(end);
        let (series, _) = line.rsplit_once(' ').context("the queue has no value")?;
        let pages = Arc::new(Self {
            before: format!("{before}{series} ").into(),
            after: after.to_owned().into(),
            captures: captures.into_iter().map(Bytes::from).collect(),
            by_address: Mutex::default(),
        });
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
        tokio::spawn(accept(listener, Arc::clone(&pages)));
        Ok(pages)
    }

    /// From now on this address shows that.
    pub(crate) fn set(&self, address: Ipv4Addr, content: Content) {
        self.lock().insert(address, content);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Ipv4Addr, Content>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, address: Ipv4Addr) -> Vec<u8> {
        let content = self.lock().get(&address).copied();
        let parts: [&[u8]; 3];
        let value;
        match content {
            Some(Content::Waiting(waiting)) => {
                value = waiting.to_string();
                parts = [&self.before, value.as_bytes(), &self.after];
            }
            Some(Content::Capture(number)) => {
                let whole = self.captures.get(number % self.captures.len().max(1)).map_or(&[][..], |page| page);
                parts = [whole, &[], &[]];
            }
            None => return b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(),
        }
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {length}\r\n\r\n");
        let mut answer = Vec::with_capacity(head.len() + length);
        answer.extend_from_slice(head.as_bytes());
        parts.iter().for_each(|part| answer.extend_from_slice(part));
        answer
    }
}

async fn accept(listener: TcpListener, pages: Arc<Pages>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // a connection that breaks is its client's matter
        tokio::spawn(serve(stream, Arc::clone(&pages)));
    }
}

async fn serve(mut stream: TcpStream, pages: Arc<Pages>) -> Result<()> {
    let IpAddr::V4(address) = stream.local_addr()?.ip() else { return Ok(()) };
    stream.set_nodelay(true)?;
    let mut request = Vec::with_capacity(512);
    loop {
        while !request.ends_with(b"\r\n\r\n") {
            if request.len() > MAX_REQUEST || stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        request.clear();
        stream.write_all(&pages.answer(address)).await?;
    }
}
