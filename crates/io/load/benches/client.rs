//! How much load one core of client can make: `taskset -c 0 cargo bench -p loadline-load --bench client`.
//!
//! The server is this program again, on core 1 (by `taskset`), and does as little as it can: it reads a request and writes chunks, one write
//! each. Printed per case: requests and chunks per second, and the client's processor time for each.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a measuring program may stop at the first surprise")]

use loadline_load::{Endpoint, Load, Options, Plan, Target};
use loadline_net::Clock;
use loadline_sim::trace::Request;
use loadline_sim::workload::fixed_lengths;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const EVENT: &str = "data: {\"id\":\"cmpl-0123456789abcdef\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"m\",\"choices\":[{\"index\":0,\"text\":\" word\",\"logprobs\":null,\"finish_reason\":null}]}\n\n";

struct Case {
    name: &'static str,
    /// Seconds between chunks.
    interval: f64,
    chunks: u32,
    requests: usize,
    /// Requests a second; 0 is a closed loop of 64.
    rate: f64,
}

const CASES: [Case; 4] = [
    Case { name: "closed loop of 64, 16 chunks", interval: 0.0, chunks: 16, requests: 40_000, rate: 0.0 },
    Case {
        name: "open loop, 2,000 req/s, 16 chunks at 10 ms",
        interval: 0.01,
        chunks: 16,
        requests: 20_000,
        rate: 2_000.0,
    },
    Case { name: "closed loop of 64, 500 chunks", interval: 0.0, chunks: 500, requests: 2_000, rate: 0.0 },
    Case {
        name: "open loop, 1,200 streams of 200 chunks at 10 ms",
        interval: 0.01,
        chunks: 200,
        requests: 9_000,
        rate: 600.0,
    },
];

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if std::env::args().any(|argument| argument == "serve") {
        return runtime.block_on(serve());
    }
    if !std::env::args().any(|argument| argument == "--bench") {
        return println!("measured only with `--bench`, as `cargo bench` gives it");
    }
    let exe = std::env::current_exe().unwrap();
    let mut child = Command::new("taskset")
        .args(["-c", "1"])
        .arg(exe)
        .arg("serve")
        .stdout(Stdio::piped())
        .spawn()
        .expect("`taskset` of util-linux");
    let mut address = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
    for case in &CASES {
        runtime.block_on(measure(case, address.trim()));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

async fn measure(case: &Case, address: &str) {
    let mut target = Target::new(&format!("http://{address}"), "m", Endpoint::Completions).unwrap();
    target.header("x-interval", &case.interval.to_string()).unwrap();
    let requests: Vec<Request> = fixed_lengths(case.requests, 256, case.chunks, case.rate, 1);
    let plan = if case.rate > 0.0 { Plan::open(requests) } else { Plan::closed(requests, 64) };
    let load = Load::new(target, Options::default(), Clock::real());
    let (before, started) = (processor_seconds(), Instant::now());
    let report = load.run(plan, CancellationToken::new()).await;
    let (wall, used) = (started.elapsed().as_secs_f64(), processor_seconds() - before);
    assert_eq!(report.answered, case.requests as u64, "{:?}", report.failures);
    let chunks = f64::from(case.chunks) * case.requests as f64;
    println!(
        "{}: requests_per_second {:.0} chunks_per_second {:.0} client_cpu_us_per_request {:.1} client_cpu_us_per_chunk {:.2} client_core {:.0} % lateness_p99_ms {:.2}",
        case.name,
        case.requests as f64 / wall,
        chunks / wall,
        used / case.requests as f64 * 1e6,
        used / chunks * 1e6,
        used / wall * 100.0,
        report.lateness.p99.unwrap_or(0.0) * 1e3,
    );
}

/// User and system time of this process; the kernel counts in ticks of 10 ms.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields.get(11).unwrap().parse::<f64>().unwrap() + fields.get(12).unwrap().parse::<f64>().unwrap()) / 100.0
}

async fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        tokio::spawn(async move {
            let _ = connection(stream).await;
        });
    }
}

async fn connection(mut stream: TcpStream) -> std::io::Result<()> {
    let chunk = format!("{:x}\r\n{EVENT}\r\n", EVENT.len());
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        let (interval, chunks) = loop {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            if let Some(asked) = asked(&buffer) {
                break asked;
            }
        };
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            .await?;
        let mut next = tokio::time::Instant::now();
        for _ in 0..chunks {
            if interval > Duration::ZERO {
                next += interval;
                tokio::time::sleep_until(next).await;
            }
            stream.write_all(chunk.as_bytes()).await?;
        }
        stream.write_all(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n").await?;
    }
}

/// Interval and chunk count, once the whole request is there.
fn asked(request: &[u8]) -> Option<(Duration, u32)> {
    let end = request.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let (head, body) = request.split_at(end + 4);
    let head = std::str::from_utf8(head).ok()?;
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    if body.len() < header("content-length")?.parse().ok()? {
        return None;
    }
    let body = std::str::from_utf8(body).ok()?;
    let tokens = body.rsplit_once("\"max_tokens\":")?.1.trim_end_matches('}').parse().ok()?;
    Some((Duration::from_secs_f64(header("x-interval")?.parse().ok()?), tokens))
}
