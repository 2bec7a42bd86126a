use super::*;
use crate::http::{Connector, FetchError, FetchErrorKind, FetchLimits, Fetched, Target, fetch};
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const LIMITS: FetchLimits = FetchLimits {
    connect_timeout: Duration::from_secs(5),
    total_timeout: Duration::from_secs(10),
    max_body_bytes: 1000,
};

/// A server that reads one request head, writes `answer`, then closes or keeps silent.
async fn scripted(answer: &'static [u8], close: bool) -> Target {
    let listener = bind(LOOPBACK, "`--listen`").expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        let (mut stream, _) = accept(&listener).await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("head"));
        }
        stream.write_all(answer).await.expect("write");
        if !close {
            std::future::pending::<()>().await;
        }
    });
    Target::plain(address, "/metrics")
}

async fn get(target: &Target, limits: &FetchLimits) -> Result<Fetched, FetchError> {
    fetch(&Connector::new(), target, &HeaderMap::new(), limits).await
}

#[tokio::test]
async fn an_answer_comes_back_whole_and_a_bad_one_is_an_error_of_its_kind() {
    struct Case {
        name: &'static str,
        answer: &'static [u8],
        close: bool,
        expect: Result<(u16, &'static [u8]), FetchErrorKind>,
    }
    let short = FetchLimits { total_timeout: Duration::from_millis(200), ..LIMITS };
    for case in [
        Case {
            name: "length",
            answer: b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            close: false,
            expect: Ok((200, b"hello")),
        },
        Case {
            name: "chunks",
            answer: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            close: false,
            expect: Ok((200, b"abcde")),
        },
        Case { name: "to the end", answer: b"HTTP/1.0 503 No\r\n\r\nwait", close: true, expect: Ok((503, b"wait")) },
        Case {
            name: "declared too large",
            answer: b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n",
            close: false,
            expect: Err(FetchErrorKind::TooLarge),
        },
        Case {
            name: "cut short",
            answer: b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel",
            close: true,
            expect: Err(FetchErrorKind::Broken),
        },
        Case { name: "not http", answer: b"SSH-2.0-x\r\n\r\n", close: true, expect: Err(FetchErrorKind::Broken) },
        Case { name: "nothing", answer: b"", close: true, expect: Err(FetchErrorKind::Broken) },
        Case { name: "silence", answer: b"", close: false, expect: Err(FetchErrorKind::Timeout) },
    ] {
        let target = scripted(case.answer, case.close).await;
        let limits = if case.expect == Err(FetchErrorKind::Timeout) { short } else { LIMITS };
        let result = get(&target, &limits).await;
        let seen = result.as_ref().map(|f| (f.status.as_u16(), f.body.as_ref())).map_err(|error| error.kind);
        assert_eq!(seen, case.expect, "{}: {result:?}", case.name);
        if let Err(error) = result {
            assert!(error.to_string().contains(&target.to_string()), "{error}");
        }
    }
}

#[tokio::test]
async fn an_endless_body_stops_at_the_limit() {
    let listener = bind(LOOPBACK, "`--listen`").expect("bind");
    let target = Target::plain(listener.local_addr().expect("address"), "/");
    tokio::spawn(async move {
        let (mut stream, _) = accept(&listener).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'x'; 300]).await.is_ok() {}
    });
    assert_eq!(get(&target, &LIMITS).await.expect_err("too large").kind, FetchErrorKind::TooLarge);
}

#[tokio::test]
async fn a_closed_port_and_a_server_without_tls_are_told_apart() {
    let listener = bind(LOOPBACK, "`--listen`").expect("bind");
    let address = listener.local_addr().expect("address");
    let taken = bind(address, "`--listen`").expect_err("taken").to_string();
    assert_eq!(taken, format!("address {address} is in use by another process; choose another with `--listen`"));
    let secure: Target = format!("https://{address}/").parse().expect("url");
    let server = tokio::spawn(async move {
        let (mut stream, _) = accept(&listener).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    assert_eq!(get(&secure, &LIMITS).await.expect_err("no tls").kind, FetchErrorKind::Tls);
    server.await.expect("server");
    let error = get(&Target::plain(address, "/"), &LIMITS).await.expect_err("closed");
    assert_eq!(error.kind, FetchErrorKind::Refused);
}

#[tokio::test]
async fn a_missing_roots_file_is_named() {
    let target = scripted(b"", true).await;
    let secure: Target = target.to_string().replace("http:", "https:").parse().expect("url");
    let connector = Connector::with_roots_file("/nowhere/roots.pem");
    let error = fetch(&connector, &secure, &HeaderMap::new(), &LIMITS).await.expect_err("no roots");
    assert!(error.to_string().contains("`/nowhere/roots.pem`"), "{error}");
}

#[tokio::test]
async fn serve_answers_sends_headers_and_ends_open_connections() {
    let listener = bind(LOOPBACK, "`--listen`").expect("bind");
    let address = listener.local_addr().expect("address");
    let stop = CancellationToken::new();
    let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
        if request.uri().path() == "/stuck" {
            std::future::pending::<()>().await;
        }
        let seen = format!("{} {:?}", request.uri(), request.headers().get("x-name").map(HeaderValue::as_bytes));
        Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(seen))))
    });
    let limits = ServeLimits { stop_grace: Duration::from_millis(50), max_connections: 2, ..ServeLimits::DEFAULT };
    let server = tokio::spawn(serve(listener, service, limits, stop.clone()));
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static("x-name"), HeaderValue::from_static("v"));
    for _ in 0..5 {
        let target = Target::plain(address, "/a?b=1");
        let fetched = fetch(&Connector::new(), &target, &headers, &LIMITS).await.expect("answer");
        assert_eq!(fetched.body, format!("/a?b=1 {:?}", Some(b"v")));
    }
    let stuck = tokio::spawn(async move { get(&Target::plain(address, "/stuck"), &LIMITS).await });
    let idle = TcpStream::connect(address).await.expect("idle connection");
    tokio::task::yield_now().await;
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), server).await.expect("ends").expect("no panic");
    let kind = stuck.await.expect("no panic").expect_err("cut").kind;
    assert!(matches!(kind, FetchErrorKind::Broken | FetchErrorKind::Refused | FetchErrorKind::Connect), "{kind:?}");
    drop(idle);
}
