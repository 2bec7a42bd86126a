//! Two sides with certificates of one authority, and a peer that can be made to misbehave.

use loadline_base::{GatewayId, ModelId, Timestamp};
use loadline_hold::protocol::{Demand, GatewayReport};
use loadline_link::{
    ClientEvent, LinkClient, LinkClientSettings, LinkEvent, LinkLimits, LinkServer, Role, SERVER_NAME, certificate_name,
};
use loadline_net::Clock;
use loadline_net::tls::{
    AuthorityBundle, ClientTls, Clients, LeafSpec, Lifetimes, ReloadableClient, ReloadableServer, ServerTls, ensure,
};
use rustls::pki_types::ServerName;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_rustls::client::TlsStream;

/// Nothing in these tests takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

pub(crate) fn authority() -> AuthorityBundle {
    let wanted = BTreeMap::from([
        ("writer".to_owned(), LeafSpec::server([SERVER_NAME])),
        ("gateway".to_owned(), LeafSpec::client(certificate_name("ns", "g"))),
        ("other".to_owned(), LeafSpec::client(certificate_name("other", "g"))),
    ]);
    ensure(None, Clock::real().now(), &wanted, &Lifetimes::default()).expect("made").0
}

pub(crate) fn client_tls(bundle: &AuthorityBundle, leaf: &str) -> Arc<ReloadableClient> {
    let identity = Some(bundle.leaves[leaf].clone());
    let tls = ClientTls { ca_pem: bundle.ca_pem.clone(), identity, alpn: Vec::new() };
    Arc::new(ReloadableClient::new(&tls).expect("usable"))
}

pub(crate) fn server_tls(bundle: &AuthorityBundle) -> Arc<ReloadableServer> {
    let clients = Clients::Required { ca_pem: bundle.ca_pem.clone() };
    let tls = ServerTls { identity: bundle.leaves["writer"].clone(), clients, alpn: Vec::new() };
    Arc::new(ReloadableServer::new(&tls).expect("usable"))
}

/// Short enough that a test of silence is short, long enough for a busy machine.
pub(crate) fn limits() -> LinkLimits {
    LinkLimits {
        heartbeat: Duration::from_millis(100),
        dead_after: Duration::from_millis(1_500),
        backoff_first: Duration::from_millis(5),
        backoff_max: Duration::from_millis(50),
        ..LinkLimits::default()
    }
}

pub(crate) struct Writer {
    pub(crate) server: LinkServer,
    pub(crate) events: mpsc::Receiver<LinkEvent>,
}

impl Writer {
    pub(crate) fn start(bundle: &AuthorityBundle) -> Self {
        Self::start_with(bundle, Clock::real(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), limits())
    }

    pub(crate) fn start_with(bundle: &AuthorityBundle, clock: Clock, listen: SocketAddr, limits: LinkLimits) -> Self {
        let (tell, events) = mpsc::channel(64);
        let server = LinkServer::start(listen, server_tls(bundle), clock, limits, tell).expect("listens");
        server.set_role(Role::Writer);
        Self { server, events }
    }

    pub(crate) fn address(&self) -> String {
        self.server.local_addr().to_string()
    }

    pub(crate) async fn next(&mut self) -> LinkEvent {
        soon("an event of the server", self.events.recv()).await.expect("it lives")
    }

    /// The next event that is not routine.
    pub(crate) async fn next_but_demand(&mut self) -> LinkEvent {
        loop {
            match self.next().await {
                LinkEvent::Report(GatewayReport::Demand(_)) => {}
                other => return other,
            }
        }
    }

    pub(crate) async fn up(&mut self) {
        let event = self.next().await;
        assert!(matches!(&event, LinkEvent::Up { gateway, .. } if *gateway == id()), "{event:?}");
    }

    pub(crate) async fn down(&mut self) -> String {
        match self.next_but_demand().await {
            LinkEvent::Down { gateway, why } if gateway == id() => why,
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) struct Gateway {
    pub(crate) client: LinkClient,
    pub(crate) events: mpsc::Receiver<ClientEvent>,
    pub(crate) writer: watch::Sender<Option<String>>,
}

pub(crate) fn id() -> GatewayId {
    GatewayId::from("ns/g-1")
}

pub(crate) fn model() -> ModelId {
    ModelId::from("ns/m")
}

impl Gateway {
    pub(crate) fn start(tls: Arc<ReloadableClient>, writer: Option<String>) -> Self {
        Self::start_with(tls, Clock::real(), writer)
    }

    pub(crate) fn start_with(tls: Arc<ReloadableClient>, clock: Clock, writer: Option<String>) -> Self {
        let (writer, known) = watch::channel(writer);
        let (tell, events) = mpsc::channel(64);
        let settings = LinkClientSettings { gateway: id(), models: vec![model()], limits: limits(), seed: 7 };
        Self { client: LinkClient::start(settings, tls, clock, known, tell), events, writer }
    }

    pub(crate) async fn next(&mut self) -> ClientEvent {
        soon("an event of the client", self.events.recv()).await.expect("it lives")
    }

    pub(crate) async fn up(&mut self) -> String {
        loop {
            match self.next().await {
                ClientEvent::Up { writer } => return writer,
                ClientEvent::Down { .. } => {}
                order @ ClientEvent::Order(_) => panic!("{order:?}"),
            }
        }
    }
}

pub(crate) fn demand(sequence: u64, at: Timestamp, peak: u32) -> GatewayReport {
    GatewayReport::Demand(Demand {
        gateway: id(),
        model: model(),
        sequence,
        held: 0,
        in_flight: 0,
        peak,
        arrivals_total: 0,
        idle_since: Some(at.minus(Duration::from_secs(60))),
        at,
    })
}

pub(crate) fn wake(epoch: u64) -> GatewayReport {
    GatewayReport::Wake { gateway: id(), model: model(), epoch, held: 1 }
}

pub(crate) fn closed(epoch: u64) -> GatewayReport {
    GatewayReport::Closed { gateway: id(), model: model(), epoch, accepted: true }
}

/// A peer that says what a test tells it.
pub(crate) struct Raw(pub(crate) TlsStream<TcpStream>);

impl Raw {
    pub(crate) async fn connect(address: &str, tls: &ReloadableClient) -> Self {
        let tcp = TcpStream::connect(address).await.expect("connects");
        let name = ServerName::try_from(SERVER_NAME).expect("a name");
        Self(tls.connector().connect(name, tcp).await.expect("comes to terms"))
    }

    pub(crate) async fn say(&mut self, text: &str) {
        let length = u32::try_from(text.len()).expect("short");
        self.0.write_all(&length.to_be_bytes()).await.expect("written");
        self.0.write_all(text.as_bytes()).await.expect("written");
        self.0.flush().await.expect("written");
    }

    pub(crate) async fn hello(&mut self) {
        self.say(r#"{"kind":"hello","protocol":1,"gateway":"ns/g-1","models":["ns/m"],"sent_at":0}"#).await;
        assert_eq!(self.hear().await.as_deref(), Some(r#"{"kind":"welcome","protocol":1}"#));
    }

    /// The next frame; none at the end.
    pub(crate) async fn hear(&mut self) -> Option<String> {
        soon("a frame", async {
            let length = self.0.read_u32().await.ok()?;
            let mut bytes = vec![0; usize::try_from(length).ok()?];
            self.0.read_exact(&mut bytes).await.ok()?;
            String::from_utf8(bytes).ok()
        })
        .await
    }
}
