//! The server over real TLS sockets, in front of a kube-apiserver that is a function.

mod auth;
mod discovery;
mod fake;
mod values;
mod vectors;
mod wire;

use crate::{AuthoritySource, Described, Handle, MetricSource, MetricsApi, Missing, Names, Query, Settings, Value};
use fake::Fake;
use loadline_base::Timestamp;
use loadline_net::Clock;
use loadline_net::tls::{Clients, Leaf, PrivateKeyPem, ReloadableServer, ServerTls};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use wire::{Authority, Identity};

/// Everything around one server.
pub(super) struct World {
    pub(super) handle: Handle,
    pub(super) fake: Fake,
    /// Signs the server's certificate.
    pub(super) serving: Authority,
    /// The front proxy's authority.
    pub(super) proxies: Authority,
    /// The clients' authority.
    pub(super) clients: Authority,
    pub(super) tls: Arc<ReloadableServer>,
}

/// The keys of the ConfigMap with these authorities.
pub(super) fn keys(proxies: &Authority, clients: &Authority) -> BTreeMap<String, String> {
    [
        ("client-ca-file", clients.pem()),
        ("requestheader-client-ca-file", proxies.pem()),
        ("requestheader-allowed-names", r#"["front-proxy-client"]"#.to_owned()),
        ("requestheader-username-headers", r#"["X-Remote-User"]"#.to_owned()),
        ("requestheader-uid-headers", r#"["X-Remote-Uid"]"#.to_owned()),
        ("requestheader-group-headers", r#"["X-Remote-Group"]"#.to_owned()),
        ("requestheader-extra-headers-prefix", r#"["X-Remote-Extra-"]"#.to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

fn server_tls(authority: &Authority) -> ServerTls {
    let (certificate_pem, key) = authority.server_pem("metrics.test");
    let identity = Leaf { certificate_pem, key_pem: PrivateKeyPem::new(key) };
    ServerTls { identity, clients: Clients::Any, alpn: Vec::new() }
}

impl World {
    /// A server over `source` with settings changed by `change`.
    pub(super) fn start(source: Arc<dyn MetricSource>, change: impl FnOnce(&mut Settings)) -> Self {
        let [serving, proxies, clients] = ["serving", "front-proxy", "clients"].map(Authority::new);
        let mut settings = Settings {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            authorities: AuthoritySource::Fixed(keys(&proxies, &clients)),
            ..Settings::default()
        };
        change(&mut settings);
        let fake = Fake::new(keys(&proxies, &clients));
        let tls = Arc::new(ReloadableServer::new(&server_tls(&serving)).expect("tls"));
        let handle =
            MetricsApi::start(&settings, fake.client(), Clock::real(), source, Arc::clone(&tls)).expect("start");
        Self { handle, fake, serving, proxies, clients, tls }
    }

    /// A connection that shows this certificate.
    pub(super) async fn connect(&self, identity: Option<&Identity>) -> wire::Session {
        wire::Session::open(self.handle.local_addr(), &self.serving, identity).await
    }

    /// A connection of somebody who may do everything.
    pub(super) async fn master(&self) -> wire::Session {
        self.connect(Some(&self.clients.client("admin", &["system:masters"]))).await
    }
}

/// A source with the objects that the HTTP vectors suppose.
pub(super) struct Table;

impl Table {
    pub(super) const AT: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn objects(kind: &'static str, namespace: Option<&str>, count: usize) -> Vec<Value> {
        let object = |index: usize| Value {
            of: Described::Object {
                kind,
                api_version: "/v1",
                namespace: namespace.map(Into::into),
                name: format!("o{index}").into(),
            },
            value: 0.85,
            at: Self::AT,
        };
        (0..count).map(object).collect()
    }
}

impl MetricSource for Table {
    fn read(&self, _now: Timestamp, query: &Query<'_>) -> Result<Vec<Value>, Missing> {
        match *query {
            Query::Objects { resource: "nodes", namespace: None, .. } => Ok(Self::objects("Node", None, 4)),
            Query::Objects { resource: "pods", namespace: Some(namespace), selector, .. } => {
                Ok(Self::objects("Pod", Some(namespace), if selector.is_all() { 16 } else { 8 }))
            }
            Query::Object { resource, namespace, metric: "some-metric" | "vllm:x", .. } => {
                Ok(Self::objects(if resource == "pods" { "Pod" } else { "Node" }, namespace, 1))
            }
            Query::Namespace { .. } => Ok(Self::objects("Namespace", None, 1)),
            Query::External { namespace: "default", metric: "my-external-metric", selector } => {
                let series = |(key, value): (&str, &str)| Value {
                    of: Described::Labels([(key, value)].into_iter().collect()),
                    value: 1.5,
                    at: Self::AT,
                };
                let all = [("foo", "bar"), ("foo", "qux")];
                let wanted = all.iter().filter(|pair| selector.matches(&[**pair].into_iter().collect()));
                Ok(wanted.map(|pair| series(*pair)).collect())
            }
            _ => Err(Missing::NotFound("no such metric in the table".to_owned())),
        }
    }

    fn names(&self) -> Names {
        Names {
            custom: vec![
                ("namespaces".to_owned(), false, "m".to_owned()),
                ("pods".to_owned(), true, "m".to_owned()),
                ("pods".to_owned(), true, "vllm:x".to_owned()),
            ],
            external: vec!["my-external-metric".to_owned()],
        }
    }

    fn is_synced(&self) -> bool {
        true
    }
}
