//! The whole of it over real sockets: snapshots made by hand, a replica answered by hand, a real writer's side of the link.

use super::certificates::TlsSource;
use super::driver::{Daemon, Inputs, Settings};
use super::view::View;
use loadline_base::{GatewayId, ModelId, ReplicaId, Timestamp};
use loadline_cluster::{
    AutoscalerSeen, Key, LabelSet, Part, PartState, PodPhase, PodPort, PodSeen, PoolTarget, Snapshot, TargetKey,
};
use loadline_hold::HoldSettings;
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use loadline_link::{LinkEvent, LinkLimits, LinkServer, Role, SERVER_NAME, certificate_name};
use loadline_manifest::autoscaler::{GatewayRef, InferenceAutoscalerSpec, IntOrString, ScrapeSpec};
use loadline_net::Clock;
use loadline_net::tls::{Clients, LeafSpec, Lifetimes, ReloadableServer, ServerTls, ensure};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

/// Nothing here takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

fn target() -> TargetKey {
    TargetKey::new("ns", "apps/v1", "Deployment", "llama")
}

fn pod(name: &str, port: u16, change: impl FnOnce(&mut PodSeen)) -> PodSeen {
    let mut pod = PodSeen {
        key: Key::new("ns", name),
        uid: format!("uid-{name}").into(),
        labels: LabelSet::default(),
        annotations: LabelSet::default(),
        ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        phase: PodPhase::Running,
        ready: true,
        ready_changed: None,
        created_at: Timestamp::ZERO,
        started_at: None,
        node: None,
        deletion: None,
        unschedulable: None,
        waiting: None,
        ports: Arc::from([
            PodPort { name: Some("metrics".into()), port: 1 },
            PodPort { name: Some("http".into()), port },
            PodPort { name: Some("alt".into()), port: 3 },
        ]),
        containers: Arc::from([]),
        restarts: 0,
        owner: None,
    };
    change(&mut pod);
    pod
}

fn spec() -> InferenceAutoscalerSpec {
    let gateway = GatewayRef { name: "g".to_owned(), slots: Some(2), ..GatewayRef::default() };
    InferenceAutoscalerSpec { model: Some("llama".to_owned()), gateway: Some(gateway), ..Default::default() }
}

fn autoscaler(namespace: &str, name: &str, spec: Result<InferenceAutoscalerSpec, &str>) -> AutoscalerSeen {
    AutoscalerSeen {
        key: Key::new(namespace, name),
        uid: "u".into(),
        generation: 1,
        resource_version: "1".into(),
        created_at: Timestamp::ZERO,
        deleting: false,
        spec: spec.map(Arc::new).map_err(Arc::from),
        status: None,
        targets: vec![PoolTarget { pool: "".into(), target: target(), api_version: "apps/v1".into() }],
    }
}

fn snapshot(autoscalers: Vec<AutoscalerSeen>, pods: Vec<PodSeen>) -> Arc<Snapshot> {
    let synced = PartState { synced: true, ..PartState::default() };
    let keys = pods.iter().map(|pod| pod.key.clone()).collect();
    Arc::new(Snapshot {
        parts: [Part::Pods, Part::Autoscalers, Part::Targets].into_iter().map(|part| (part, synced.clone())).collect(),
        autoscalers: Arc::new(autoscalers.into_iter().map(|seen| (seen.key.clone(), Arc::new(seen))).collect()),
        pods: Arc::new(pods.into_iter().map(|pod| (pod.key.clone(), Arc::new(pod))).collect()),
        members: Arc::new(BTreeMap::from([(target(), Arc::new(keys))])),
        ..Snapshot::default()
    })
}

/// A replica that answers every request with its own name.
async fn replica(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let port = listener.local_addr().expect("known").port();
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            tokio::spawn(async move {
                let mut bytes = vec![0; 64 * 1024];
                let mut seen = Vec::new();
                while let Ok(count) = stream.read(&mut bytes).await
                    && count > 0
                {
                    seen.extend_from_slice(&bytes[..count]);
                    if seen.ends_with(b"}") {
                        seen.clear();
                        let length = name.len();
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{name}");
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    port
}

async fn http(address: SocketAddr, request: String) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = String::new();
    soon("an answer", stream.read_to_string(&mut answer)).await.expect("read");
    answer
}

async fn get(address: SocketAddr, path: &str) -> String {
    http(address, format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
}

async fn ask(address: SocketAddr) -> String {
    let body = r#"{"model":"llama"}"#;
    let length = body.len();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
    http(address, format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}")).await
}

struct World {
    daemon: Option<Daemon>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    writer: watch::Sender<Option<String>>,
    server: LinkServer,
    events: mpsc::Receiver<LinkEvent>,
    directory: PathBuf,
}

impl World {
    fn start(test: &str) -> Self {
        let wanted = BTreeMap::from([
            ("writer".to_owned(), LeafSpec::server([SERVER_NAME])),
            ("client".to_owned(), LeafSpec::client(certificate_name("ns", "g"))),
        ]);
        let bundle = ensure(None, Clock::real().now(), &wanted, &Lifetimes::default()).expect("made").0;
        let directory = std::env::temp_dir().join(format!("loadline-gatewayd-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("made");
        for (file, text) in bundle.leaf_secret("client").expect("there") {
            std::fs::write(directory.join(file), text).expect("written");
        }
        let clients = Clients::Required { ca_pem: bundle.ca_pem.clone() };
        let tls = ServerTls { identity: bundle.leaves["writer"].clone(), clients, alpn: Vec::new() };
        let (tell, events) = mpsc::channel(64);
        let server = LinkServer::start(
            SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            Arc::new(ReloadableServer::new(&tls).expect("usable")),
            Clock::real(),
            LinkLimits::default(),
            tell,
        )
        .expect("listens");
        server.set_role(Role::Writer);
        let (snapshots, seen) = watch::channel(Arc::new(Snapshot::default()));
        let (writer, known) = watch::channel(Some(server.local_addr().to_string()));
        let settings = Settings {
            id: GatewayId::from("ns/g-1"),
            namespace: "ns".to_owned(),
            name: "g".to_owned(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: TlsSource::Directory(directory.clone()),
            tls_period: Duration::from_millis(20),
            hold: HoldSettings::default(),
            link: LinkLimits::default(),
            drain_delay: Duration::ZERO,
            top_level_controller_name: "loadline".to_owned(),
        };
        let daemon = Daemon::start(settings, Clock::real(), Inputs { snapshots: seen, writer: known }).expect("starts");
        Self { daemon: Some(daemon), snapshots, writer, server, events, directory }
    }

    fn address(&self) -> SocketAddr {
        self.daemon.as_ref().expect("it runs").address()
    }

    fn sees(&self, pods: Vec<PodSeen>) {
        self.snapshots.send_replace(snapshot(vec![autoscaler("ns", "ia", Ok(spec()))], pods));
    }

    /// Waits until a page says so.
    async fn until(&self, path: &str, text: &str) {
        soon(text, async { while !get(self.address(), path).await.contains(text) {} }).await;
    }

    /// Waits for a report about the model that satisfies a condition.
    async fn report(&mut self, wanted: impl Fn(&GatewayReport) -> bool) -> GatewayReport {
        soon("a report", async {
            loop {
                if let LinkEvent::Report(report) = self.events.recv().await.expect("the server lives")
                    && wanted(&report)
                {
                    return report;
                }
            }
        })
        .await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[tokio::test]
async fn from_nothing_to_an_answer_through_a_wake() {
    let mut world = World::start("wake");
    let address = world.address();
    assert!(get(address, "/readyz").await.contains("have not been listed yet"));
    assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    world.sees(vec![]);
    world.until("/readyz", "200 OK").await;
    world.until("/v1/models", "\"llama\"").await;
    let asked = tokio::spawn(ask(address));
    let wake = world.report(|report| matches!(report, GatewayReport::Wake { .. })).await;
    assert!(matches!(&wake, GatewayReport::Wake { model, held: 1, .. } if model.as_str() == "ns/ia"), "{wake:?}");
    let ack = GatewayOrder::Ack { model: "ns/ia".into(), epoch: 0, expected: Some(Duration::from_secs(1)) };
    assert_eq!(world.server.order_all(&ack), 1);
    let port = replica("one").await;
    world.sees(vec![pod("a", port, |pod| pod.ready = false)]);
    world.sees(vec![pod("a", port, |_| {})]);
    assert!(asked.await.expect("no panic").ends_with("one"));
    let page = get(address, "/metrics").await;
    let flow = "llm_d_epp_flow_control_queue_size{fairness_id=\"default-flow\",priority=\"0\",inference_pool=\"ia\",model_name=\"llama\",target_model_name=\"llama\",top_level_controller_name=\"loadline\"} 0";
    assert!(page.contains(flow), "{page}");
    assert!(page.contains("\nloadline_gateway_link_up 1\n"), "{page}");
    assert!(get(address, "/status").await.contains("\"up\":1"));
}

#[tokio::test]
async fn it_serves_on_without_writer_and_api_server_and_finds_the_next_writer() {
    let mut world = World::start("away");
    let address = world.address();
    let port = replica("one").await;
    world.sees(vec![pod("a", port, |_| {})]);
    world.until("/metrics", "\nloadline_gateway_link_up 1\n").await;
    // the writer goes, and the API server does not answer
    world.server.set_role(Role::Reader { writer: None });
    world.until("/metrics", "\nloadline_gateway_link_up 0\n").await;
    let mut stale = Snapshot::clone(&snapshot(vec![autoscaler("ns", "ia", Ok(spec()))], vec![pod("a", port, |_| {})]));
    stale.api.away_since = Some(Timestamp::from_secs(1));
    world.snapshots.send_replace(Arc::new(stale));
    world.until("/metrics", "\nloadline_gateway_watch_stale 1\n").await;
    assert!(ask(address).await.ends_with("one"));
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    world.server.set_role(Role::Writer);
    world.until("/metrics", "\nloadline_gateway_link_connections_total 2\n").await;
    let demand =
        world.report(|report| matches!(report, GatewayReport::Demand(demand) if demand.arrivals_total > 0)).await;
    assert!(matches!(&demand, GatewayReport::Demand(demand) if demand.model.as_str() == "ns/ia"), "{demand:?}");
    // what the lease says last stays if it says nothing
    world.writer.send_replace(None);
    assert!(ask(address).await.ends_with("one"));
}

#[tokio::test]
async fn a_drain_of_the_writer_outlives_what_is_seen_of_the_pod_and_a_leaving_pod_gets_nothing_new() {
    let mut world = World::start("drain");
    let address = world.address();
    let (one, two) = (replica("one").await, replica("two").await);
    world.sees(vec![pod("a", one, |_| {})]);
    world.until("/status", "\"up\":1").await;
    world.until("/metrics", "\nloadline_gateway_link_up 1\n").await;
    let drain = GatewayOrder::Drain { model: ModelId::from("ns/ia"), replica: ReplicaId::from("ns/a") };
    assert_eq!(world.server.order_all(&drain), 1);
    world.report(|report| matches!(report, GatewayReport::ReplicaLoad { in_flight: 0, .. })).await;
    world.sees(vec![pod("a", one, |pod| pod.ready = false), pod("b", two, |_| {})]);
    world.sees(vec![pod("a", one, |_| {}), pod("b", two, |_| {})]);
    world.until("/status", "\"pods\":2").await;
    for _ in 0..4 {
        assert!(ask(address).await.ends_with("two"));
    }
    let up = GatewayOrder::ReplicaUp {
        model: ModelId::from("ns/ia"),
        replica: ReplicaId::from("ns/a"),
        address: "127.0.0.1:1".to_owned(),
        slots: 2,
    };
    assert_eq!(world.server.order_all(&up), 1);
    world.sees(vec![pod("a", one, |_| {}), pod("b", two, |pod| pod.deletion = Some(Timestamp::from_secs(9)))]);
    world.until("/metrics", "\nloadline_gateway_replicas_known{model=\"llama\",state=\"up\"} 1\n").await;
    soon("the drain", async { while !ask(address).await.ends_with("one") {} }).await;
    for _ in 0..4 {
        assert!(ask(address).await.ends_with("one"));
    }
}

#[tokio::test]
async fn what_is_held_at_the_end_is_still_served() {
    let mut world = World::start("end");
    let address = world.address();
    world.sees(vec![]);
    world.until("/v1/models", "\"llama\"").await;
    let asked = tokio::spawn(ask(address));
    world.until("/metrics", "loadline_gateway_queue_depth{model=\"llama\",reason=\"cold\"} 1").await;
    let port = replica("late").await;
    let daemon = world.daemon.take().expect("it runs");
    let ending = tokio::spawn(daemon.shutdown(PATIENCE));
    soon("the end of accepting", async { while TcpStream::connect(address).await.is_ok() {} }).await;
    world.sees(vec![pod("a", port, |_| {})]);
    soon("the end", ending).await.expect("no panic");
    assert!(asked.await.expect("no panic").ends_with("late"));
}

#[test]
fn autoscalers_are_read_as_they_are_written() {
    let mut view = View::default();
    let mut read =
        |autoscalers: Vec<AutoscalerSeen>, pods: Vec<PodSeen>| view.read(&snapshot(autoscalers, pods), "ns", "g");
    let with = |change: fn(&mut InferenceAutoscalerSpec)| {
        let mut spec = spec();
        change(&mut spec);
        spec
    };
    struct Case {
        name: &'static str,
        change: fn(&mut InferenceAutoscalerSpec),
        expect: Option<(&'static str, u32, &'static str)>,
    }
    for case in [
        Case { name: "as it is", change: |_| {}, expect: Some(("llama", 2, "127.0.0.1:2")) },
        Case { name: "its own name", change: |spec| spec.model = None, expect: Some(("ia", 2, "127.0.0.1:2")) },
        Case {
            name: "default slots",
            change: |spec| spec.gateway = Some(GatewayRef { name: "g".to_owned(), ..GatewayRef::default() }),
            expect: Some(("llama", 32, "127.0.0.1:2")),
        },
        Case {
            name: "the gateway's port by name, before that of the page",
            change: |spec| {
                spec.scrape = Some(ScrapeSpec { port: Some(IntOrString::Int(9)), ..ScrapeSpec::default() });
                if let Some(gateway) = &mut spec.gateway {
                    gateway.port = Some(IntOrString::Text("alt".to_owned()));
                }
            },
            expect: Some(("llama", 2, "127.0.0.1:3")),
        },
        Case {
            name: "the page's port",
            change: |spec| {
                spec.scrape =
                    Some(ScrapeSpec { port: Some(IntOrString::Text("9".to_owned())), ..ScrapeSpec::default() });
            },
            expect: Some(("llama", 2, "127.0.0.1:9")),
        },
        Case { name: "another gateway", change: |spec| drop(spec.gateway.take()), expect: None },
    ] {
        let (facts, problems) = read(vec![autoscaler("ns", "ia", Ok(with(case.change)))], vec![pod("a", 2, |_| {})]);
        let got = facts.first().map(|facts| {
            let address = facts.pods.values().next().and_then(|pod| pod.address.as_deref());
            (facts.model.as_str(), facts.slots, address.unwrap_or_default())
        });
        assert_eq!(got, case.expect, "{}", case.name);
        assert!(problems.is_empty(), "{}: {problems:?}", case.name);
    }
    // of another namespace; one that cannot be read any more; one that never could; one with two pools
    let (facts, _) = read(vec![autoscaler("other", "ia", Ok(spec()))], vec![]);
    assert!(facts.is_empty());
    read(vec![autoscaler("ns", "ia", Ok(spec()))], vec![]);
    let (facts, problems) = read(vec![autoscaler("ns", "ia", Err("wrong")), autoscaler("ns", "ib", Err("x"))], vec![]);
    assert_eq!((facts.len(), problems.len()), (1, 1), "{problems:?}");
    let mut two = autoscaler("ns", "ia", Ok(spec()));
    two.targets.extend(two.targets.clone());
    let (facts, problems) = read(vec![two], vec![]);
    assert!(facts.is_empty() && problems[0].contains("2 pools"), "{problems:?}");
}
