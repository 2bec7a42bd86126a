//! Speed of a metric of 500 pods over TLS and HTTP/2, as kube-apiserver asks for it, while pages of the same pods arrive:
//! one `name<TAB>value` line per figure.

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use loadline_metricsapi::{AuthoritySource, MetricsApi, ServedSource, Settings};
use loadline_net::Clock;
use loadline_net::tls::{Clients, Leaf, PrivateKeyPem, ReloadableServer, ServerTls};
use loadline_signals::served::{Page, PageSource, Served, ServedLimits, ServedPod};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

type Any = Box<dyn std::error::Error + Send + Sync>;

/// Pods of the list.
const PODS: usize = 500;
/// Requests measured one after the other.
const REQUESTS: usize = 2_000;
/// Requests open at once in the second measurement.
const AT_ONCE: usize = 16;
/// The question of a stock HPA.
const PATH: &str = "https://metrics.test/apis/custom.metrics.k8s.io/v1beta2/namespaces/ml/pods/%2A/vllm%3Anum_requests_waiting?labelSelector=app%3Dvllm";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Any> {
    let page = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../testdata/metrics/vllm-0.32.0-load.prom"))?;
    let clock = Clock::real();
    let served = Arc::new(RwLock::new(Served::new(ServedLimits::default())));
    fill(&served, &clock, &page);
    let source = Arc::new(ServedSource::new(Arc::clone(&served)));
    source.set_synced();
    let authority = authority()?;
    let (certificate_pem, key) = issue(&authority, "metrics.test")?;
    let identity = Leaf { certificate_pem, key_pem: PrivateKeyPem::new(key) };
    let tls = Arc::new(ReloadableServer::new(&ServerTls { identity, clients: Clients::Any, alpn: Vec::new() })?);
    let keys = [("client-ca-file".to_owned(), authority.pem())].into_iter().collect();
    let settings = Settings {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        authorities: AuthoritySource::Fixed(keys),
        ..Settings::default()
    };
    let handle = MetricsApi::start(&settings, everybody_may(), clock.clone(), source, tls)?;
    let sender = connect(handle.local_addr(), &authority).await?;
    let writer = tokio::spawn(keep_scraping(Arc::clone(&served), clock, page));
    let size = ask(sender.clone()).await?;
    println!("list_pods\t{PODS}\nlist_bytes\t{size}");
    let mut one = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let started = Instant::now();
        ask(sender.clone()).await?;
        one.push(started.elapsed());
    }
    print_quantiles("list", one);
    let mut many = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS / AT_ONCE {
        let open: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let (sender, started) = (sender.clone(), Instant::now());
                tokio::spawn(async move { ask(sender).await.map(|_| started.elapsed()) })
            })
            .collect();
        for task in open {
            many.push(task.await??);
        }
    }
    print_quantiles(&format!("list_{AT_ONCE}_at_once"), many);
    writer.abort();
    handle.shutdown().await;
    Ok(())
}

fn pod(index: usize) -> String {
    format!("vllm-{index}")
}

fn fill(served: &RwLock<Served>, clock: &Clock, page: &[u8]) {
    let mut store = served.write().unwrap_or_else(PoisonError::into_inner);
    let pod_of = |index| ServedPod {
        namespace: "ml".to_owned(),
        name: pod(index),
        labels: [("app", "vllm"), ("pod-template-hash", "6c9")].into_iter().collect(),
        is_ready: true,
        started_at: None,
    };
    store.set_pods((0..PODS).map(pod_of).collect());
    for index in 0..PODS {
        let _ = store.page(&Page::new(&PageSource::new("ml", &pod(index)), clock.now(), page));
    }
}

/// Every pod's page once a second.
async fn keep_scraping(served: Arc<RwLock<Served>>, clock: Clock, page: Vec<u8>) {
    let mut ticks = tokio::time::interval(Duration::from_micros(2_000));
    for index in (0..PODS).cycle() {
        ticks.tick().await;
        let source = PageSource::new("ml", &pod(index));
        let mut store = served.write().unwrap_or_else(PoisonError::into_inner);
        let _ = store.page(&Page::new(&source, clock.now(), &page));
    }
}

/// A kube-apiserver that allows every access.
fn everybody_may() -> kube::Client {
    let service = tower::service_fn(|_: Request<kube::client::Body>| async {
        let body = r#"{"kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1","metadata":{},"spec":{},"status":{"allowed":true}}"#;
        Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(body))))
    });
    kube::Client::new(service, "default")
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, Any> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

fn issue(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> Result<(String, String), Any> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok((params.signed_by(&key, authority)?.pem(), key.serialize_pem()))
}

async fn connect(
    address: SocketAddr,
    authority: &CertifiedIssuer<'static, KeyPair>,
) -> Result<SendRequest<Empty<Bytes>>, Any> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes())?)?;
    let (certificate, key) = issue(authority, "horizontal-pod-autoscaler")?;
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(ServerName::try_from("metrics.test")?, stream).await?;
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// The body's length of one answer, which must be a list.
async fn ask(mut sender: SendRequest<Empty<Bytes>>) -> Result<usize, Any> {
    sender.ready().await?;
    let reply = sender.send_request(Request::builder().uri(PATH).body(Empty::new())?).await?;
    if reply.status() != StatusCode::OK {
        return Err(format!("status {}", reply.status()).into());
    }
    Ok(reply.into_body().collect().await?.to_bytes().len())
}

fn print_quantiles(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    for (quantile, per_mille) in [("p50", 500), ("p99", 990), ("max", 1000)] {
        let index = (times.len() * per_mille / 1000).min(times.len().saturating_sub(1));
        let time = times.get(index).copied().unwrap_or_default();
        println!("{name}_{quantile}_us\t{}", time.as_micros());
    }
}
