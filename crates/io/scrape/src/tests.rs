use crate::{ScrapeErrorKind, ScrapeReport, ScrapeSettings, Scraper, Target, fetch_page};
use loadline_base::{ModelId, ReplicaId};
use loadline_net::Clock;
use loadline_signals::dialect::{EngineKind, NamedQueries, NamedQuery, SignalName};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub(crate) const PAGE: &str = "vllm:num_requests_running{engine=\"0\"} 2\nvllm:num_requests_waiting{engine=\"0\"} 3\n";

/// What the test server does with each connection.
#[derive(Clone)]
pub(crate) enum Behaviour {
    /// Answers every request with these bytes, and keeps the connection.
    Answer(Vec<u8>),
    /// The same, and closes the connection without having said so.
    AnswerThenClose(Vec<u8>),
    /// Reads and never answers.
    Silent,
    /// Sends a head without a length and then zeros without an end.
    Endless,
}

/// A server on a loopback port of its own.
pub(crate) struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    pub(crate) requests: Arc<AtomicUsize>,
    pub(crate) heads: mpsc::UnboundedReceiver<String>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (heads_in, heads) = mpsc::unbounded_channel();
        let (seen, asked) = (Arc::clone(&connections), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                seen.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, behaviour.clone(), heads_in.clone(), Arc::clone(&asked)));
            }
        });
        Self { address, connections, requests, heads, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/metrics", self.address)
    }
}

async fn serve(
    mut stream: TcpStream,
    behaviour: Behaviour,
    heads: mpsc::UnboundedSender<String>,
    requests: Arc<AtomicUsize>,
) {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => read.extend_from_slice(&buffer[..count]),
        }
        if !read.ends_with(b"\r\n\r\n") {
            continue;
        }
        requests.fetch_add(1, Ordering::SeqCst);
        let _ = heads.send(String::from_utf8(std::mem::take(&mut read)).expect("text"));
        match &behaviour {
            Behaviour::Answer(answer) => stream.write_all(answer).await.unwrap_or_default(),
            Behaviour::AnswerThenClose(answer) => {
                stream.write_all(answer).await.unwrap_or_default();
                return;
            }
            Behaviour::Silent => {}
            Behaviour::Endless => {
                let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
                stream.write_all(head).await.unwrap_or_default();
                while stream.write_all(&[b'0'; 8192]).await.is_ok() {}
                return;
            }
        }
    }
}

pub(crate) fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn zipped(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).expect("memory");
    encoder.finish().expect("memory")
}

pub(crate) fn target(replica: &str, url: String) -> Target {
    Target::new(ReplicaId::from(replica), ModelId::from("m"), url)
}

/// 20 ms of wall time between scrapes.
pub(crate) fn fast() -> (Clock, ScrapeSettings) {
    (Clock::scaled(50.0), ScrapeSettings::default())
}

pub(crate) async fn next(reports: &mut mpsc::Receiver<ScrapeReport>) -> ScrapeReport {
    tokio::time::timeout(Duration::from_secs(30), reports.recv()).await.expect("a report in time").expect("a report")
}

#[tokio::test]
async fn pages_are_read_over_one_kept_connection() {
    let mut server = Server::start(Behaviour::Answer(answer("200 OK", "", PAGE.as_bytes()))).await;
    let (clock, settings) = fast();
    let (sender, mut reports) = mpsc::channel(4);
    let scraper = Scraper::start(clock.clone(), settings, sender);
    let started = clock.now();
    scraper.set_targets(vec![target("r1", server.url())]);
    let mut last = started;
    for _ in 0..4 {
        let report = next(&mut reports).await;
        assert_eq!((report.replica.as_str(), report.model.as_str()), ("r1", "m"));
        let reading = report.outcome.expect("a reading");
        assert_eq!(reading.engine, Some(EngineKind::Vllm));
        assert_eq!(reading.value(SignalName::RequestsWaiting), Some(3.0));
        assert!(report.at > last, "{} after {last}", report.at);
        last = report.at;
    }
    scraper.stop().await;
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    let head = server.heads.recv().await.expect("a request").to_ascii_lowercase();
    assert!(head.starts_with("get /metrics http/1.1\r\n"), "{head}");
    assert!(
        head.contains("accept: text/plain;version=0.0.4\r\n") && head.contains("accept-encoding: gzip\r\n"),
        "{head}"
    );
    while reports.recv().await.is_some() {}
}

#[tokio::test]
async fn series_are_read_under_their_own_names_too() {
    let server = Server::start(Behaviour::Answer(answer("200 OK", "", PAGE.as_bytes()))).await;
    let query = NamedQuery { name: "vllm_num_requests_waiting".to_owned(), matching: loadline_base::Labels::new() };
    let named = Some(Arc::new(NamedQueries::new(std::slice::from_ref(&query))));
    let (clock, settings) = fast();
    let (sender, mut reports) = mpsc::channel(4);
    let scraper = Scraper::start(clock, settings, sender);
    scraper.set_targets(vec![Target { named, ..target("r1", server.url()) }]);
    let reading = next(&mut reports).await.outcome.expect("a reading");
    assert_eq!(reading.named.get(&query.key()), Some(&3.0));
    assert_eq!(reading.value(SignalName::RequestsRunning), Some(2.0));
    scraper.stop().await;
}

#[tokio::test]
async fn a_server_that_closes_kept_connections_costs_no_scrape() {
    let server = Server::start(Behaviour::AnswerThenClose(answer("200 OK", "", PAGE.as_bytes()))).await;
    let (clock, settings) = fast();
    let (sender, mut reports) = mpsc::channel(4);
    let scraper = Scraper::start(clock, settings, sender);
    scraper.set_targets(vec![target("r1", server.url())]);
    for _ in 0..5 {
        let report = next(&mut reports).await;
        assert!(report.outcome.is_ok(), "{:?}", report.outcome);
    }
    assert!(server.connections.load(Ordering::SeqCst) >= 5);
    scraper.stop().await;
}

/// A bad target and how it is reported.
struct Failure {
    name: &'static str,
    behaviour: Behaviour,
    kind: &'static str,
    message: &'static str,
}

fn failures() -> [Failure; 10] {
    let giant_head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n".to_vec();
    let html = b"<!DOCTYPE html><html></html>";
    [
        Failure {
            name: "an HTML page",
            behaviour: Behaviour::Answer(answer("200 OK", "content-type: text/plain\r\n", html)),
            kind: "not_metrics",
            message: "HTML",
        },
        Failure {
            name: "metrics switched off",
            behaviour: Behaviour::Answer(answer("404 Not Found", "", b"{}")),
            kind: "status",
            message: "--enable-metrics",
        },
        Failure {
            name: "elsewhere",
            behaviour: Behaviour::Answer(answer("307 Temporary Redirect", "location: /metrics/\r\n", b"")),
            kind: "status",
            message: "status 307: the page has moved to `/metrics/`",
        },
        Failure {
            name: "not ready",
            behaviour: Behaviour::Answer(answer("503 Service Unavailable", "", b"")),
            kind: "status",
            message: "status 503",
        },
        Failure {
            name: "a giant, declared",
            behaviour: Behaviour::Answer(giant_head),
            kind: "too_large",
            message: "larger than 10000 bytes",
        },
        Failure {
            name: "a giant, undeclared",
            behaviour: Behaviour::Endless,
            kind: "too_large",
            message: "max_body_bytes",
        },
        Failure {
            name: "a giant, zipped",
            behaviour: Behaviour::Answer(answer("200 OK", "content-encoding: gzip\r\n", &zipped(&vec![b'#'; 1 << 20]))),
            kind: "too_large",
            message: "larger than 10000 bytes",
        },
        Failure {
            name: "damaged gzip",
            behaviour: Behaviour::Answer(answer("200 OK", "content-encoding: gzip\r\n", b"\x1f\x8bnonsense")),
            kind: "broken",
            message: "gzip body is damaged",
        },
        Failure {
            name: "cut off",
            behaviour: Behaviour::AnswerThenClose(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\nvllm:n".to_vec()),
            kind: "broken",
            message: "not a complete HTTP answer",
        },
        Failure {
            name: "not HTTP",
            behaviour: Behaviour::AnswerThenClose(b"SSH-2.0-OpenSSH_9\r\n".to_vec()),
            kind: "broken",
            message: "not a complete HTTP answer",
        },
    ]
}

#[tokio::test]
async fn each_failure_is_told_apart() {
    // only the silent one may run into its time limit
    let settings =
        ScrapeSettings { timeout: Duration::from_secs(20), max_body_bytes: 10_000, ..ScrapeSettings::default() };
    for case in failures() {
        let server = Server::start(case.behaviour).await;
        let (sender, mut reports) = mpsc::channel(1);
        let scraper = Scraper::start(Clock::scaled(50.0), settings, sender);
        scraper.set_targets(vec![target("r1", server.url())]);
        let error = next(&mut reports).await.outcome.expect_err(case.name);
        assert_eq!(error.kind.as_str(), case.kind, "{}: {error}", case.name);
        let message = error.to_string();
        assert!(message.contains(case.message) && message.contains(&server.url()), "{}: {message}", case.name);
        scraper.stop().await;
    }
}

#[tokio::test]
async fn refused_and_unusable_addresses_are_reported_every_period() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let free = listener.local_addr().expect("its address");
    drop(listener);
    let (clock, settings) = fast();
    for (url, kind) in [
        (format!("http://{free}/metrics"), ScrapeErrorKind::Refused),
        ("ftp://host/metrics".to_owned(), ScrapeErrorKind::BadUrl),
    ] {
        let (sender, mut reports) = mpsc::channel(4);
        let scraper = Scraper::start(clock.clone(), settings, sender);
        scraper.set_targets(vec![target("r1", url.clone())]);
        for _ in 0..2 {
            let error = next(&mut reports).await.outcome.expect_err(&url);
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.to_string().contains(&url), "{error}");
        }
        scraper.stop().await;
    }
}

#[tokio::test]
async fn targets_come_and_go_and_keep_their_connection_while_they_stay() {
    let stays = Server::start(Behaviour::Answer(answer("200 OK", "", PAGE.as_bytes()))).await;
    let goes = Server::start(Behaviour::Answer(answer("200 OK", "", b"tgi_queue_size 4\n"))).await;
    let (clock, settings) = fast();
    let (sender, mut reports) = mpsc::channel(1);
    let scraper = Scraper::start(clock, settings, sender);
    scraper.set_targets(vec![target("stays", stays.url()), target("goes", goes.url())]);
    let (mut seen_stays, mut seen_goes) = (0, 0);
    while seen_stays < 2 || seen_goes < 2 {
        let report = next(&mut reports).await;
        let engine = report.outcome.expect("a reading").engine;
        match report.replica.as_str() {
            "stays" => {
                assert_eq!(engine, Some(EngineKind::Vllm));
                seen_stays += 1;
            }
            _ => {
                assert_eq!(engine, Some(EngineKind::Tgi));
                seen_goes += 1;
            }
        }
    }
    scraper.set_targets(vec![target("stays", stays.url())]);
    // what was sent before may still be in the channel: at most one per place in it and one on its way
    let mut late = 0;
    for _ in 0..8 {
        late += usize::from(next(&mut reports).await.replica.as_str() == "goes");
    }
    assert!(late <= 2, "{late} reports of a target that has gone");
    let asked = goes.requests.load(Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(next(&mut reports).await.replica.as_str(), "stays");
    }
    assert_eq!(goes.requests.load(Ordering::SeqCst), asked, "it is not asked any more");
    assert_eq!(stays.connections.load(Ordering::SeqCst), 1, "it went on undisturbed");
    scraper.stop().await;
    while reports.recv().await.is_some() {}
}

#[tokio::test]
async fn a_slow_target_is_never_asked_twice_at_once_and_a_full_channel_holds_the_loops_back() {
    let server = Server::start(Behaviour::Silent).await;
    let settings =
        ScrapeSettings { timeout: Duration::from_millis(200), max_concurrent: 1, ..ScrapeSettings::default() };
    let (sender, mut reports) = mpsc::channel(1);
    // ten periods pass while one scrape runs into its limit
    let scraper = Scraper::start(Clock::scaled(50.0), settings, sender);
    scraper.set_targets(vec![target("r1", server.url())]);
    for finished in 1..=3 {
        let report = next(&mut reports).await;
        let error = report.outcome.expect_err("silent");
        assert_eq!(error.kind, ScrapeErrorKind::Timeout);
        assert!(error.to_string().contains("no complete page within 200ms (`timeout`)"), "{error}");
        assert!(report.duration >= Duration::from_secs(10), "model time: {:?}", report.duration);
        // at most the next one has begun, and one more is waiting for its place in the channel
        assert!(server.requests.load(Ordering::SeqCst) <= finished + 2);
    }
    scraper.stop().await;
}

#[tokio::test]
async fn the_loops_end_with_the_scraper_and_with_the_receiver() {
    let server = Server::start(Behaviour::Silent).await;
    let (clock, settings) = fast();
    let (sender, mut reports) = mpsc::channel(1);
    let scraper = Scraper::start(clock.clone(), settings, sender);
    scraper.set_targets(vec![target("r1", server.url()), target("r2", server.url())]);
    drop(scraper);
    let ended = tokio::time::timeout(Duration::from_secs(30), reports.recv()).await.expect("every sender is gone");
    assert_eq!(ended, None);

    let fine = Server::start(Behaviour::Answer(answer("200 OK", "", PAGE.as_bytes()))).await;
    let (sender, reports) = mpsc::channel(1);
    let scraper = Scraper::start(clock, settings, sender);
    scraper.set_targets(vec![target("r1", fine.url())]);
    drop(reports);
    tokio::time::timeout(Duration::from_secs(30), scraper.stop()).await.expect("no loop is left");
}

#[tokio::test]
async fn a_single_page_can_be_fetched_zipped() {
    let server =
        Server::start(Behaviour::Answer(answer("200 OK", "content-encoding: gzip\r\n", &zipped(PAGE.as_bytes()))))
            .await;
    let page = fetch_page(&server.url(), &ScrapeSettings::default()).await.expect("a page");
    assert_eq!(page, PAGE.as_bytes());
}
