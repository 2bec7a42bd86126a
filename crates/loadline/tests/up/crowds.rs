//! Too much: bodies of a gigabyte, bodies without an end, ten thousand idle connections.

use crate::support::{CHAT, Up, chat, error, json, resident_kib};
use loadline_testkit::PATIENCE;
use loadline_testkit::client::Connection;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::time::{Duration, Instant};

const ONE: &str = "listen: 127.0.0.1:0
gateway: {headerTimeout: 10m}
models:
- {name: m, engine: {startup: 100ms}, minReplicas: 1}
";

/// A connection that has sent the head of a chat completion.
fn begun(up: &Up, framing: &str) -> Connection {
    let mut connection = Connection::open(up.address, PATIENCE).expect("connected");
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: test\r\n{framing}\r\n\r\n");
    connection.write(head.as_bytes()).expect("sent");
    connection
}

fn assert_too_large(connection: &mut Connection) {
    let head = connection.head().expect("a head");
    let body = connection.piece().expect("a body").expect("a body");
    assert_eq!(head.status, 413);
    let message = "the body is larger than 33554432 bytes; send less or raise `maxBodyBytes`";
    assert_eq!(json(&body), error(message, "invalid_request_error", "body_too_large"));
    assert_eq!(head.header("x-should-retry"), Some("false"));
    assert_eq!(head.header("retry-after"), None);
}

#[test]
fn a_body_of_a_gigabyte_is_refused_at_once_and_an_endless_one_at_the_limit() {
    let up = Up::start(ONE, &[]);
    assert_eq!(up.answer(&chat("m", 1, false)).0.status, 200);
    let before = resident_kib(up.process.id());
    // announced: refused before a byte of it is sent
    assert_too_large(&mut begun(&up, "content-length: 1000000000"));
    // not announced: refused when the limit is passed
    let mut endless = begun(&up, "transfer-encoding: chunked");
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x1_0000], b"\r\n"].concat();
    let mut most = before;
    let mut sent = 0_u64;
    while endless.write(&chunk).is_ok() {
        sent += 0x1_0000;
        most = most.max(resident_kib(up.process.id()));
        // what passes the limit, and what the sockets between may hold
        if sent > 33_554_432 {
            break;
        }
    }
    assert_too_large(&mut endless);
    assert!(sent <= 33_554_432 + 0x1_0000, "{sent}");
    let grown = most.max(resident_kib(up.process.id())) - before;
    assert!(grown < 80 * 1024, "{grown} KiB for one body of 32 MiB");
    assert_eq!(up.answer(&chat("m", 1, false)).0.status, 200);
}

#[test]
fn ten_thousand_idle_connections_leave_room_for_a_request() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).expect("raised");
    let descriptors = limit.maximum.unwrap_or(u64::MAX).saturating_sub(500);
    let count = usize::try_from(descriptors.min(10_000)).expect("a number");
    println!("{count} idle connections, with a limit of {:?} descriptors", limit.maximum);
    let up = Up::start(ONE, &[]);
    assert_eq!(up.answer(&chat("m", 1, false)).0.status, 200);
    let before = resident_kib(up.process.id());
    let idle: Vec<_> = (0..count).map(|_| Connection::open(up.address, PATIENCE).expect("connected")).collect();
    up.wait_metric("loadline_gateway_connections", f64::from(u32::try_from(count).expect("few")) + 1.0, PATIENCE);
    let asked = Instant::now();
    assert_eq!(up.answer(&chat("m", 1, false)).0.status, 200);
    let took = asked.elapsed();
    let grown = resident_kib(up.process.id()).saturating_sub(before);
    println!("answered in {took:?}; {grown} KiB for {count} connections");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(grown < 200 * 1024, "{grown} KiB");
    drop(idle);
    up.wait_metric("loadline_gateway_connections", 1.0, PATIENCE);
}
