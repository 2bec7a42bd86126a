//! Targets with periods, tokens and certificates of their own.

use crate::tests::{Behaviour, PAGE, Server, answer, fast, next, target};
use crate::{PageUse, ScrapeErrorKind, ScrapeSettings, Scraper, Secret, Target, TargetAuth, TlsClient};
use loadline_net::Clock;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto::ring};

const NAME: &str = "engine.test";

/// A server with a certificate for [`NAME`], and the certificate of the authority that signed it.
async fn tls_server() -> (SocketAddr, String, tokio::task::JoinHandle<()>) {
    let authority_key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = authority.self_signed(&authority_key).expect("a certificate").pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec![NAME.to_owned()]).expect("parameters").signed_by(&key, &issuer);
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.expect("signed").der().clone()], private)
        .expect("a certificate that fits its key");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                    stream.write_all(&answer("200 OK", "", PAGE.as_bytes())).await.unwrap_or_default();
                }
            });
        }
    });
    (address, ca, task)
}

#[tokio::test]
async fn certificates_are_judged_as_the_target_says() {
    let (address, ca, server) = tls_server().await;
    let (_, stranger, other) = tls_server().await;
    let (ca, stranger, name): (Arc<str>, Arc<str>, Arc<str>) = (ca.into(), stranger.into(), NAME.into());
    let trusted = TlsClient { ca_pem: Some(Arc::clone(&ca)), server_name: Some(name), insecure: false };
    let cases = [
        ("by its authority and name", Some(trusted.clone()), Ok(())),
        ("not looked at", Some(TlsClient { insecure: true, ..TlsClient::default() }), Ok(())),
        ("another name", Some(TlsClient { server_name: None, ..trusted.clone() }), Err("certificate")),
        ("another authority", Some(TlsClient { ca_pem: Some(stranger), ..trusted.clone() }), Err("certificate")),
        ("no authority", Some(TlsClient { ca_pem: Some("none".into()), ..trusted }), Err("`ca` holds no certificate")),
        ("the system's", None, Err("certificate")),
    ];
    for (case, tls, expect) in cases {
        let (clock, settings) = fast();
        let (sender, mut reports) = mpsc::channel(1);
        let scraper = Scraper::start(clock, settings, sender);
        let auth = TargetAuth { tls, bearer: None };
        scraper.set_targets(vec![Target { auth, ..target("r1", format!("https://{address}/metrics")) }]);
        match (next(&mut reports).await.outcome, expect) {
            (Ok(reading), Ok(())) => assert!(!reading.signals.is_empty(), "{case}"),
            (Err(error), Err(part)) => {
                assert_eq!(error.kind, ScrapeErrorKind::Broken, "{case}: {error}");
                assert!(error.to_string().contains(part), "{case}: {error}");
            }
            (got, expect) => panic!("{case}: {got:?} where {expect:?} was expected"),
        }
        scraper.stop().await;
    }
    server.abort();
    other.abort();
}

#[tokio::test]
async fn a_token_is_sent_and_is_in_no_message() {
    let mut server = Server::start(Behaviour::Answer(answer("401 Unauthorized", "", b""))).await;
    let (clock, settings) = fast();
    let (sender, mut reports) = mpsc::channel(1);
    let scraper = Scraper::start(clock, settings, sender);
    let with = |token: &str| Target {
        auth: TargetAuth { bearer: Some(Secret::new(token)), tls: None },
        ..target("r1", server.url())
    };
    let (good, bad) = (with("hush-hush"), with("hush\nhush"));
    assert!(!format!("{good:?}").contains("hush"), "{good:?}");
    scraper.set_targets(vec![good]);
    let error = next(&mut reports).await.outcome.expect_err("unauthorized");
    assert!(error.to_string().contains("status 401; the page wants a bearer token"), "{error}");
    assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
    let head = server.heads.recv().await.expect("a request").to_ascii_lowercase();
    assert!(head.contains("authorization: bearer hush-hush\r\n"), "{head}");
    scraper.set_targets(vec![bad]);
    let unusable = loop {
        let error = next(&mut reports).await.outcome.expect_err("no token at all");
        if error.kind == ScrapeErrorKind::BadUrl {
            break error;
        }
    };
    assert!(
        unusable.to_string().contains("the bearer token has") && !unusable.to_string().contains("hush"),
        "{unusable}"
    );
    scraper.stop().await;
}

#[tokio::test]
async fn pages_are_handed_on_unread_and_endpoints_of_one_replica_are_apart() {
    let pages = ["a 1\n", "b 2\n"];
    let servers = [
        Server::start(Behaviour::Answer(answer("200 OK", "", pages[0].as_bytes()))).await,
        Server::start(Behaviour::Answer(answer("200 OK", "", pages[1].as_bytes()))).await,
    ];
    let (clock, settings) = fast();
    let (sender, mut reports) = mpsc::channel(4);
    let scraper = Scraper::start(clock, ScrapeSettings { pages: PageUse::Keep, ..settings }, sender);
    let at = |endpoint: &str, server: &Server| Target { endpoint: endpoint.into(), ..target("r1", server.url()) };
    scraper.set_targets(vec![at("0", &servers[0]), at("1", &servers[1])]);
    let mut seen = [false; 2];
    while seen != [true; 2] {
        let report = next(&mut reports).await;
        let number: usize = report.endpoint.parse().expect("an endpoint");
        assert_eq!(report.page.as_deref(), Some(pages[number].as_bytes()));
        assert!(report.outcome.expect("fetched").signals.is_empty());
        seen[number] = true;
    }
    scraper.stop().await;
}

#[tokio::test]
async fn a_new_address_of_a_known_replica_is_another_target() {
    let old = Server::start(Behaviour::Answer(answer("200 OK", "", b"a 1\n"))).await;
    let new = Server::start(Behaviour::Answer(answer("200 OK", "", PAGE.as_bytes()))).await;
    let (clock, settings) = fast();
    let (sender, mut reports) = mpsc::channel(1);
    let scraper = Scraper::start(clock, settings, sender);
    scraper.set_targets(vec![target("r1", old.url())]);
    assert!(next(&mut reports).await.outcome.expect("a reading").signals.is_empty());
    scraper.set_targets(vec![target("r1", new.url())]);
    while next(&mut reports).await.outcome.expect("a reading").signals.is_empty() {}
    let asked = old.requests.load(Ordering::SeqCst);
    for _ in 0..3 {
        assert!(!next(&mut reports).await.outcome.expect("a reading").signals.is_empty());
    }
    assert_eq!(old.requests.load(Ordering::SeqCst), asked, "the old address is not asked any more");
    scraper.stop().await;
}

#[tokio::test]
async fn a_period_and_a_time_limit_of_its_own_count_for_a_target() {
    let quick = Server::start(Behaviour::Answer(answer("200 OK", "", PAGE.as_bytes()))).await;
    let silent = Server::start(Behaviour::Silent).await;
    let settings = ScrapeSettings { timeout: Duration::from_secs(600), ..ScrapeSettings::default() };
    let (sender, mut reports) = mpsc::channel(1);
    let scraper = Scraper::start(Clock::scaled(50.0), settings, sender);
    let slow = Duration::from_secs(10);
    scraper.set_targets(vec![
        Target { period: Some(slow), ..target("slow", quick.url()) },
        Target { timeout: Some(Duration::from_millis(20)), ..target("silent", silent.url()) },
    ]);
    let mut turns = Vec::new();
    let mut timeouts = 0;
    while turns.len() < 3 || timeouts == 0 {
        let report = next(&mut reports).await;
        match report.outcome {
            Ok(_) => {
                assert_eq!(report.period, slow);
                turns.push(report.at.minus(report.duration));
            }
            Err(error) => {
                assert!(error.to_string().contains("within 20ms"), "{error}");
                timeouts += 1;
            }
        }
    }
    for pair in turns.windows(2) {
        assert!(pair[1].since(pair[0]) > slow / 2, "{turns:?}");
    }
    scraper.stop().await;
}
