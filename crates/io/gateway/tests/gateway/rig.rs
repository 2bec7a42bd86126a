//! A gateway, a client that speaks HTTP/1.1 byte by byte, and replicas answered by hand.

use loadline_base::{ModelId, ReplicaId};
use loadline_gateway::{Gateway, GatewayHandle, GatewaySettings, ModelSettings};
use loadline_hold::HoldSettings;
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use loadline_net::Clock;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// No step of any test takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("nothing came of: {what}"))
}

pub(crate) struct Rig {
    pub(crate) gateway: GatewayHandle,
    pub(crate) reports: mpsc::Receiver<GatewayReport>,
}

pub(crate) fn model() -> ModelId {
    ModelId::from("m")
}

pub(crate) fn plain() -> HoldSettings {
    HoldSettings { ramp: false, ..HoldSettings::default() }
}

impl Rig {
    pub(crate) fn start(hold: HoldSettings) -> Self {
        Self::with(hold, GatewaySettings::default(), Clock::real())
    }

    pub(crate) fn with(hold: HoldSettings, settings: GatewaySettings, clock: Clock) -> Self {
        let (sender, reports) = mpsc::channel(10_000);
        let models = vec![ModelSettings { hold, ..ModelSettings::new("m") }];
        let gateway = Gateway::start(GatewaySettings { models, ..settings }, clock, sender).expect("starts");
        Self { gateway, reports }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.gateway.local_addr()).await
    }

    pub(crate) fn up(&self, name: &str, address: SocketAddr, slots: u32) {
        let (model, replica, address) = (model(), ReplicaId::from(name), address.to_string());
        self.gateway.order(GatewayOrder::ReplicaUp { model, replica, address, slots });
    }

    pub(crate) fn drain(&self, name: &str) {
        self.gateway.order(GatewayOrder::Drain { model: model(), replica: ReplicaId::from(name) });
    }

    pub(crate) fn down(&self, name: &str) {
        self.gateway.order(GatewayOrder::ReplicaDown { model: model(), replica: ReplicaId::from(name) });
    }

    /// Waits for a report that `pick` takes.
    pub(crate) async fn report<T>(&mut self, what: &str, mut pick: impl FnMut(GatewayReport) -> Option<T>) -> T {
        soon(what, async {
            loop {
                if let Some(found) = pick(self.reports.recv().await.expect("the gateway lives")) {
                    return found;
                }
            }
        })
        .await
    }

    /// Waits for a wake; its epoch.
    pub(crate) async fn wake(&mut self) -> u64 {
        self.report("a wake", |report| match report {
            GatewayReport::Wake { epoch, .. } => Some(epoch),
            _ => None,
        })
        .await
    }

    /// Waits until the counts of held and in flight are these.
    pub(crate) async fn counts(&mut self, held: u32, in_flight: u32) {
        self.report(&format!("{held} held, {in_flight} in flight"), |report| match report {
            GatewayReport::Demand(demand) => ((demand.held, demand.in_flight) == (held, in_flight)).then_some(()),
            _ => None,
        })
        .await;
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        let mut client = self.client().await;
        client.write(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await;
        client.answer().await
    }

    /// The value of one series of the metrics page.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let page = self.get("/metrics").await.text();
        let line = page.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        line.unwrap_or_else(|| panic!("no `{series}` in\n{page}")).rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    pub(crate) async fn no_law_is_broken(&self) {
        assert_eq!(self.gateway.law_violations(), [0; 3]);
    }
}

/// An HTTP/1.1 client connection.
pub(crate) struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("text")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.expect("connects"), unread: Vec::new() }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("writes");
    }

    /// The same connection twice, to read and write at the same time.
    pub(crate) fn split(self) -> (Self, Self) {
        let stream = self.stream.into_std().expect("a socket");
        let other = stream.try_clone().expect("a second descriptor");
        let again = |stream| Self { stream: TcpStream::from_std(stream).expect("a socket"), unread: Vec::new() };
        (again(stream), again(other))
    }

    pub(crate) async fn post(&mut self, body: &str) {
        self.post_to("/v1/chat/completions", "", body.as_bytes()).await;
    }

    /// Sends a request; `headers` are whole lines.
    pub(crate) async fn post_to(&mut self, path: &str, headers: &str, body: &[u8]) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        );
        self.write(&[head.as_bytes(), body].concat()).await;
    }

    /// Reads up to and with `end`.
    pub(crate) async fn until(&mut self, end: &[u8]) -> Vec<u8> {
        soon(&format!("`{}`", String::from_utf8_lossy(end)), async {
            loop {
                if let Some(at) = self.unread.windows(end.len()).position(|window| window == end) {
                    let rest = self.unread.split_off(at + end.len());
                    return std::mem::replace(&mut self.unread, rest);
                }
                let mut buffer = vec![0; 65_536];
                let count = self.stream.read(&mut buffer).await.expect("reads");
                assert!(count > 0, "closed after {}", String::from_utf8_lossy(&self.unread));
                self.unread.extend_from_slice(&buffer[..count]);
            }
        })
        .await
    }

    pub(crate) async fn head(&mut self) -> String {
        String::from_utf8(self.until(b"\r\n\r\n").await).expect("text")
    }

    async fn exactly(&mut self, count: usize) -> Vec<u8> {
        soon("a body", async {
            while self.unread.len() < count {
                let mut buffer = vec![0; 65_536];
                let got = self.stream.read(&mut buffer).await.expect("reads");
                assert!(got > 0, "closed too early");
                self.unread.extend_from_slice(&buffer[..got]);
            }
            let rest = self.unread.split_off(count);
            std::mem::replace(&mut self.unread, rest)
        })
        .await
    }

    /// The next chunk of a chunked body; empty at its end.
    pub(crate) async fn chunk(&mut self) -> Vec<u8> {
        let line = self.until(b"\r\n").await;
        let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).expect("a chunk size");
        let mut data = self.exactly(size + 2).await;
        data.truncate(size);
        data
    }

    /// The next chunk that is more than a comment, without the empty comment that leads the first event behind one.
    pub(crate) async fn event(&mut self) -> Vec<u8> {
        loop {
            let chunk = self.chunk().await;
            match chunk.strip_prefix(b":\n\n") {
                Some(event) => return event.to_vec(),
                None if chunk.starts_with(b":") => {}
                None => return chunk,
            }
        }
    }

    /// A whole answer.
    pub(crate) async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        let status = head[9..12].parse().expect("a status");
        let mut body = Vec::new();
        if let Some(length) = header(&head, "content-length") {
            body = self.exactly(length.parse().unwrap()).await;
        } else if header(&head, "transfer-encoding").is_some() {
            loop {
                let chunk = self.chunk().await;
                if chunk.is_empty() {
                    break;
                }
                body.extend(chunk);
            }
        }
        Answer { status, head, body }
    }

    /// Waits until the other side has closed; what came before.
    pub(crate) async fn closed(&mut self) -> Vec<u8> {
        soon("the end of the connection", async {
            let mut buffer = vec![0; 4096];
            while let Ok(count @ 1..) = self.stream.read(&mut buffer).await {
                self.unread.extend_from_slice(&buffer[..count]);
            }
            std::mem::take(&mut self.unread)
        })
        .await
    }
}

/// A replica: every request it gets is handed to the test.
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    calls: mpsc::UnboundedReceiver<Call>,
    accepted: tokio::task::JoinHandle<()>,
}

/// One request at a replica.
pub(crate) struct Call {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    connection: Client,
    again: mpsc::UnboundedSender<Call>,
}

impl Replica {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().unwrap();
        let (again, calls) = mpsc::unbounded_channel();
        let accepted = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(receive(Client { stream, unread: Vec::new() }, again.clone()));
            }
        });
        Self { address, calls, accepted }
    }

    /// The next request.
    pub(crate) async fn call(&mut self) -> Call {
        soon("a request at the replica", self.calls.recv()).await.expect("accepting")
    }

    /// Whether a request has come that nobody took.
    pub(crate) fn is_called(&mut self) -> bool {
        !self.calls.is_empty()
    }

    /// Stops listening.
    pub(crate) async fn refuse(self) -> SocketAddr {
        self.accepted.abort();
        let _ = self.accepted.await;
        self.address
    }
}

async fn receive(mut connection: Client, again: mpsc::UnboundedSender<Call>) {
    let mut buffer = vec![0; 65_536];
    loop {
        if let Some(at) = connection.unread.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(connection.unread[..at + 4].to_vec()).expect("text");
            let length: usize = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
            if connection.unread.len() >= at + 4 + length {
                let body = connection.unread[at + 4..at + 4 + length].to_vec();
                connection.unread.drain(..at + 4 + length);
                let _ = again.clone().send(Call { head, body, connection, again });
                return;
            }
        }
        match connection.stream.read(&mut buffer).await {
            Ok(count @ 1..) => connection.unread.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
}

impl Call {
    pub(crate) async fn write(&mut self, text: &str) {
        self.connection.write(text.as_bytes()).await;
    }

    /// Answers and listens for the next request on the same connection.
    pub(crate) async fn reply(mut self, body: &str) {
        let length = body.len();
        self.write(&format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await;
        self.keep();
    }

    pub(crate) fn keep(self) {
        tokio::spawn(receive(self.connection, self.again));
    }

    /// Begins an event stream.
    pub(crate) async fn stream(&mut self) {
        self.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await;
    }

    pub(crate) async fn chunk(&mut self, data: &str) {
        self.write(&format!("{:x}\r\n{data}\r\n", data.len())).await;
    }

    /// Streams until the gateway takes no more and hangs up.
    pub(crate) async fn flood(mut self) {
        let chunk = format!("{:x}\r\n{}\r\n", 65_536, "x".repeat(65_536));
        soon("the end of the flood", async {
            while self.connection.stream.write_all(chunk.as_bytes()).await.is_ok() {}
        })
        .await;
    }

    /// Waits until the gateway has hung up.
    pub(crate) async fn hung_up(mut self) {
        self.connection.closed().await;
    }
}
