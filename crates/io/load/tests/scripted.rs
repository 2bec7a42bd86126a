//! The client against servers that stall, cut, refuse and lie.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "what a test sets up may stop it")]

use loadline_load::{Endpoint, Load, Options, Plan, Report, Slo, Target, read_trace};
use loadline_net::Clock;
use loadline_sim::trace::{Format, Limits, Request};
use loadline_sim::workload::fixed_lengths;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nx-gw-queue-ms: 250\r\n\r\n";
const TOKEN: &str = "data: {\"choices\":[{\"text\":\"a\"}]}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":8,\"completion_tokens\":4}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// One step of a scripted answer.
#[derive(Clone, Copy)]
enum Step {
    Raw(&'static str),
    Chunk(&'static str),
    End,
    /// Model milliseconds of the clock given to [`server`].
    Wait(u64),
    Stall,
    Close,
}
use Step::{Chunk, Close, End, Raw, Stall, Wait};

const GOOD: &[Step] =
    &[Raw(HEAD), Chunk(TOKEN), Chunk(TOKEN), Chunk(TOKEN), Chunk(TOKEN), Chunk(USAGE), Chunk(DONE), End];

/// Answers request number `n` with `scripts[n % len]`, counting requests over all connections.
async fn server(scripts: &'static [&'static [Step]], clock: Clock) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (count, clock) = (Arc::clone(&count), clock.clone());
            tokio::spawn(async move { connection(stream, scripts, &count, &clock).await });
        }
    });
    (url, served)
}

async fn connection(
    mut stream: TcpStream,
    scripts: &'static [&'static [Step]],
    count: &AtomicUsize,
    clock: &Clock,
) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        while !is_whole(&buffer) {
            if stream.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        }
        for step in scripts[count.fetch_add(1, Ordering::SeqCst) % scripts.len()] {
            match step {
                Raw(text) => stream.write_all(text.as_bytes()).await.ok()?,
                Chunk(text) => stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await.ok()?,
                End => stream.write_all(b"0\r\n\r\n").await.ok()?,
                Wait(millis) => clock.sleep(Duration::from_millis(*millis)).await,
                Stall => std::future::pending().await,
                Close => return None,
            }
        }
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    body.len() >= length.parse::<usize>().expect("a number")
}

fn target(url: &str) -> Target {
    Target::new(url, "m", Endpoint::Completions).expect("a URL")
}

fn plan(count: usize) -> Plan {
    Plan::closed(fixed_lengths(count, 8, 4, f64::INFINITY, 1), 1)
}

async fn run(url: &str, options: Options, clock: Clock, plan: Plan) -> Report {
    Load::new(target(url), options, clock).run(plan, CancellationToken::new()).await
}

struct Case {
    name: &'static str,
    scripts: &'static [&'static [Step]],
    reason: Option<&'static str>,
    message: &'static str,
}

/// Answers, and what is made of them.
const FAILURES: &[Case] = &[
    Case { name: "good", scripts: &[GOOD], reason: None, message: "" },
    Case {
        name: "closed by length of connection",
        scripts: &[&[
            Raw("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"),
            Raw(TOKEN),
            Raw("data: [DONE]"),
            Close,
        ]],
        reason: None,
        message: "",
    },
    Case {
        name: "cut in a chunk",
        scripts: &[&[Raw(HEAD), Chunk(TOKEN), Raw("ff\r\ndata: {"), Close]],
        reason: Some("truncated"),
        message: "after 1 chunks",
    },
    Case {
        name: "ended without done",
        scripts: &[&[Raw(HEAD), Chunk(TOKEN), Chunk(TOKEN), End]],
        reason: Some("truncated"),
        message: "the stream ended after 2 chunks without `data: [DONE]`",
    },
    Case {
        name: "error in the stream",
        scripts: &[&[Raw(HEAD), Chunk(TOKEN), Chunk("data: {\"error\":{\"message\":\"replica lost\"}}\n\n"), End]],
        reason: Some("stream_error"),
        message: "replica lost",
    },
    Case { name: "no token", scripts: &[&[Raw(HEAD), Chunk(DONE), End]], reason: Some("empty"), message: "no token" },
    Case {
        name: "no stream",
        scripts: &[&[Raw("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")]],
        reason: Some("not_a_stream"),
        message: "`application/json`",
    },
    Case {
        name: "429",
        scripts: &[&[Raw(
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\ncontent-length: 47\r\n\r\n{\"error\":{\"message\":\"queue full\",\"code\":\"full\"}}",
        )]],
        reason: Some("status_429"),
        message: "queue full",
    },
    Case {
        name: "an error without a body",
        scripts: &[&[Raw("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n")]],
        reason: Some("status_500"),
        message: "500 Internal Server Error",
    },
    Case { name: "closed without an answer", scripts: &[&[Close]], reason: Some("connection_lost"), message: "" },
    Case {
        name: "no HTTP",
        scripts: &[&[Raw("SSH-2.0-x\r\n\r\n"), Close]],
        reason: Some("connection_lost"),
        message: "",
    },
];

#[tokio::test]
async fn each_way_to_fail_has_its_name_and_the_servers_words() {
    for case in FAILURES {
        let clock = Clock::real();
        let (url, _) = server(case.scripts, clock.clone()).await;
        let report = run(&url, Options::default(), clock, plan(2)).await;
        assert_eq!(report.sent, 2, "{}", case.name);
        assert_eq!(report.answered + report.failed, 2, "{}", case.name);
        match case.reason {
            None => assert_eq!(report.answered, 2, "{}: {:?}", case.name, report.failures),
            Some(reason) => {
                let failure =
                    report.failures.get(reason).unwrap_or_else(|| panic!("{}: {:?}", case.name, report.failures));
                assert_eq!(failure.count, 2, "{}", case.name);
                assert!(failure.example.contains(case.message), "{}: {}", case.name, failure.example);
                assert_eq!(report.attainment, Some(0.0), "{}", case.name);
            }
        }
    }
}

#[tokio::test]
async fn a_good_answer_is_measured_and_its_connection_used_again() {
    let clock = Clock::real();
    let (url, served) = server(&[GOOD], clock.clone()).await;
    let options = Options { max_records: 10, ..Options::default() };
    let load = Load::new(target(&url), options, clock);
    let live = load.live();
    let report = load.run(plan(5), CancellationToken::new()).await;
    assert_eq!((report.answered, report.failed, report.short), (5, 0, 0), "{:?}", report.failures);
    assert_eq!((report.input_tokens, report.output_tokens), (40, 20));
    assert_eq!(served.load(Ordering::SeqCst), 5);
    assert!((report.queued.p50.expect("the header") - 0.25).abs() < 0.001);
    assert_eq!(report.records.len(), 5);
    let counts = live.snapshot();
    assert_eq!((counts.planned, counts.sent, counts.answered, counts.tokens, counts.in_flight()), (5, 5, 5, 20, 0));
}

#[tokio::test]
async fn a_server_that_closes_after_each_answer_costs_no_request() {
    const CLOSING: &[Step] = &[
        Raw("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"),
        Raw(TOKEN),
        Raw(DONE),
        Close,
    ];
    let clock = Clock::real();
    let (url, _) = server(&[CLOSING], clock.clone()).await;
    let requests = fixed_lengths(50, 8, 1, f64::INFINITY, 1);
    let report = run(&url, Options::default(), clock, Plan::closed(requests, 4)).await;
    assert_eq!((report.answered, report.failed), (50, 0), "{:?}", report.failures);
}

#[tokio::test]
async fn nobody_there_is_said_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let report = run(&url, Options::default(), Clock::real(), plan(3)).await;
    assert_eq!(report.failures["connect"].count, 3);
    assert!(report.failures["connect"].example.contains("refused"), "{}", report.failures["connect"].example);
}

/// At a hundredfold speed-up: waits on the server are model time, and so are the latencies.
#[tokio::test]
async fn latencies_are_in_model_time() {
    const SLOW: &[Step] = &[
        Raw(HEAD),
        Wait(20_000),
        Chunk(TOKEN),
        Wait(9_000),
        Chunk(TOKEN),
        Chunk(TOKEN),
        Chunk(TOKEN),
        Chunk(DONE),
        End,
    ];
    let clock = Clock::scaled(100.0);
    let (url, _) = server(&[SLOW], clock.clone()).await;
    let slo = Slo { ttft: Duration::from_secs(19), tpot: Duration::from_secs(60) };
    let report = run(&url, Options { slo, ..Options::default() }, clock, plan(1)).await;
    let (ttft, tpot) = (report.ttft.p50.expect("measured"), report.tpot.p50.expect("measured"));
    // lower bounds hold on any machine
    assert!(ttft >= 19.9, "{ttft}");
    assert!(tpot >= 2.9, "{tpot}");
    assert_eq!((report.attainment, report.attainment_ttft), (Some(0.0), Some(0.0)));
}

#[tokio::test]
async fn a_stalled_stream_times_out_in_model_time() {
    const STALL: &[Step] = &[Raw(HEAD), Chunk(TOKEN), Stall];
    let clock = Clock::scaled(1000.0);
    let (url, _) = server(&[STALL], clock.clone()).await;
    let options = Options { request_timeout: Duration::from_secs(60), ..Options::default() };
    let report = run(&url, options, clock, plan(1)).await;
    assert_eq!(report.failures["timeout"].example, "no complete answer within 1m");
    assert!(report.duration >= 60.0);
}

#[tokio::test]
async fn retries_wait_as_asked_and_are_off_by_default() {
    const LATER: &[Step] = &[Raw("HTTP/1.1 503 Service Unavailable\r\nretry-after: 30\r\ncontent-length: 0\r\n\r\n")];
    let clock = Clock::scaled(1000.0);
    let (url, served) = server(&[LATER, LATER, GOOD], clock.clone()).await;
    let options = Options { retries: 2, ..Options::default() };
    let report = run(&url, options, clock.clone(), plan(1)).await;
    assert_eq!((report.answered, report.retries, served.load(Ordering::SeqCst)), (1, 2, 3));
    assert!(report.ttft.p50.expect("measured") >= 59.9, "the waits count: {:?}", report.ttft);
    let report = run(&url, Options::default(), clock, plan(1)).await;
    assert_eq!((report.failed, report.retries), (1, 0));
}

#[tokio::test]
async fn a_late_client_counts_its_lateness_in_the_first_token() {
    // one connection for two requests that are due at once: the second waits for the first
    const SLOW: &[Step] = &[Raw(HEAD), Wait(50), Chunk(TOKEN), Chunk(DONE), End];
    let clock = Clock::real();
    let (url, _) = server(&[SLOW], clock.clone()).await;
    let options = Options { max_connections: 1, max_records: 2, ..Options::default() };
    let requests = fixed_lengths(2, 8, 1, f64::INFINITY, 1);
    let report = run(&url, options, clock, Plan::open(requests)).await;
    assert_eq!(report.answered, 2);
    let second = &report.records[1];
    assert!(second.lateness >= 0.049, "{second:?}");
    assert!(second.ttft.expect("answered") >= 0.099, "{second:?}");
}

#[tokio::test]
async fn cancelling_reports_what_was_in_flight_as_unfinished() {
    const STALL: &[Step] = &[Raw(HEAD), Chunk(TOKEN), Stall];
    let clock = Clock::real();
    let (url, _) = server(&[STALL], clock.clone()).await;
    let load = Load::new(target(&url), Options::default(), clock);
    let (live, cancel) = (load.live(), CancellationToken::new());
    let far = Request { arrival: Duration::from_secs(3600), input_tokens: 1, output_tokens: 1, ..Request::default() };
    let mut requests = fixed_lengths(3, 8, 4, f64::INFINITY, 1);
    requests.push(far);
    let run = load.run(Plan::open(requests), cancel.clone());
    let stop = async {
        until(|| live.snapshot().streaming == 3).await;
        cancel.cancel();
    };
    let (report, ()) = tokio::join!(run, stop);
    assert_eq!((report.sent, report.unfinished, report.answered), (3, 3, 0));
    assert_eq!(report.attainment, Some(0.0));
}

async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn trace_files_are_read_plain_and_gzipped_whatever_their_name() {
    let text = b"arrival_s,input_tokens,output_tokens\n1,2,3\n";
    let folder = std::env::temp_dir().join(format!("loadline-load-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).expect("memory");
    let zipped = encoder.finish().expect("memory");
    for (name, bytes) in [("plain.gz", text.to_vec()), ("zipped.csv", zipped.clone())] {
        let path = folder.join(name);
        std::fs::write(&path, bytes).expect("written");
        let trace = read_trace(&path, Limits::default()).expect(name);
        assert_eq!((trace.format, trace.requests.len()), (Format::Own, 1), "{name}");
    }
    let cut = folder.join("cut.gz");
    std::fs::write(&cut, &zipped[..zipped.len() / 2]).expect("written");
    let error = read_trace(&cut, Limits::default()).expect_err("cut").to_string();
    assert!(error.contains("cut.gz") && error.contains("line "), "{error}");
    let error = read_trace(&folder.join("none"), Limits::default()).expect_err("missing").to_string();
    assert!(error.starts_with("cannot open the trace `"), "{error}");
    std::fs::remove_dir_all(&folder).expect("removed");
}
