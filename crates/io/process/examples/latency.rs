//! How long starts take: `latency COUNT [KEEPER ARG...]` prints, over COUNT starts of each kind,
//! - from the wish to the first instruction of the program's `main`, and
//! - from the port's opening to the `Ready` event,
//!
//! in milliseconds of wall time. The keeper is this program itself unless another is given.

use loadline_base::{PoolId, num};
use loadline_net::Clock;
use loadline_process::{
    KEEPER_ARGUMENT, KeeperCommand, Limits, PoolSpec, ProcessEvent, ProcessPools, Settings, keeper,
};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc::Receiver;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos()
}

fn main() -> Outcome<ExitCode> {
    let began = now();
    let mut args = std::env::args_os().skip(1);
    let first = args.next().ok_or("usage: latency COUNT [KEEPER ARG...]")?;
    if first == KEEPER_ARGUMENT {
        return Ok(keeper::run(args));
    }
    let text = |arg: Option<std::ffi::OsString>| arg.and_then(|text| text.into_string().ok()).ok_or("no argument");
    if first == "stamp" {
        println!("{began}");
        return Ok(ExitCode::from(1));
    }
    if first == "serve" {
        let (port, delay, file) = (text(args.next())?.parse()?, text(args.next())?.parse()?, text(args.next())?);
        serve(port, Duration::from_micros(delay), Path::new(&file))?;
    }
    let count = text(Some(first))?.parse()?;
    let keeper = match args.next() {
        Some(program) => KeeperCommand { program: program.into(), args: args.collect() },
        None => KeeperCommand::this_binary(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(count, keeper))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the time, opens the port, and answers everything.
fn serve(port: u16, delay: Duration, file: &Path) -> std::io::Result<()> {
    use std::io::{Read, Write};
    std::thread::sleep(delay);
    std::fs::write(file, now().to_string())?;
    let listener = std::net::TcpListener::bind(("127.0.0.1", port))?;
    loop {
        let (mut stream, _) = listener.accept()?;
        let _ = stream.read(&mut [0_u8; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    }
}

async fn until<T>(events: &mut Receiver<ProcessEvent>, wanted: impl Fn(ProcessEvent) -> Option<T>) -> Outcome<T> {
    loop {
        let event = events.recv().await.ok_or("the supervisor ended")?;
        if let Some(found) = wanted(event) {
            return Ok(found);
        }
    }
}

async fn measure(count: u64, keeper: KeeperCommand) -> Outcome<()> {
    let settings = Settings { keeper, limits: Limits::DEFAULT };
    let (sender, mut events) = tokio::sync::mpsc::channel(64);
    let handle = ProcessPools::start(settings, Clock::real(), sender)?;
    let pool = PoolId::from("p");
    let own = std::env::current_exe()?.display().to_string();
    let spec = |rest: &[&str]| {
        let command = std::iter::once(own.as_str()).chain(rest.iter().copied()).map(str::to_owned).collect();
        PoolSpec::new(pool.clone(), command)
    };
    handle.configure(vec![spec(&["stamp", "{port}"])])?;
    let (mut starts, mut starts_told) = (vec![], vec![]);
    for _ in 0..count {
        let (asked, instant) = (now(), Instant::now());
        handle.set_replicas(&pool, 1, vec![]);
        until(&mut events, |event| matches!(event, ProcessEvent::Started { .. }).then_some(())).await?;
        starts_told.push(instant.elapsed().as_nanos());
        let lines = until(&mut events, |event| match event {
            ProcessEvent::Exited { last_lines, .. } => Some(last_lines),
            _ => None,
        });
        let began: u128 = lines.await?.first().ok_or("no stamp")?.parse()?;
        starts.push(began.saturating_sub(asked));
        handle.set_replicas(&pool, 0, vec![]);
        // else the next wish would find the slot in its back-off
        while !handle.snapshot().waiting.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let file = std::env::temp_dir().join(format!("loadline-latency-{}", std::process::id()));
    let mut readies = vec![];
    for round in 0..count {
        // delays spread over the probe periods
        let delay = (50_000 + round.wrapping_mul(7_919) % 60_000).to_string();
        handle.configure(vec![spec(&["serve", "{port}", &delay, &file.display().to_string()])])?;
        handle.set_replicas(&pool, 1, vec![]);
        until(&mut events, |event| matches!(event, ProcessEvent::Ready { .. }).then_some(())).await?;
        let opened: u128 = std::fs::read_to_string(&file)?.parse()?;
        readies.push(now().saturating_sub(opened));
        handle.set_replicas(&pool, 0, vec![]);
        until(&mut events, |event| matches!(event, ProcessEvent::Stopped { .. }).then_some(())).await?;
    }
    let _ = std::fs::remove_file(&file);
    print("wish to program start", starts);
    print("wish to `Started` event", starts_told);
    print("port open to `Ready` event", readies);
    handle.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

fn print(name: &str, mut nanos: Vec<u128>) {
    nanos.sort_unstable();
    let at = |percent: usize| {
        let index = (nanos.len().saturating_sub(1) * percent).div_ceil(100);
        nanos.get(index).map_or(0.0, |value| num::u64_to_f64(u64::try_from(*value).unwrap_or(u64::MAX)) / 1e6)
    };
    println!("{name}: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms over {}", at(50), at(99), at(100), nanos.len());
}
