//! A replica that writes down when things happened to it: `cargo xtask bench-replica --port N --log FILE --ready-after MS`.
//!
//! Its log has one line of `event nanoseconds-since-1970` each for `started` (its first act), `ready` (from then on
//! `/health` answers 200) and `request` (the first that is neither `/health` nor `/metrics`).

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The command word under which this program is a replica.
pub(crate) const COMMAND: &str = "bench-replica";
/// What every request is answered with.
pub(super) const ANSWER: &str = r#"{"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" ok","logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":200,"completion_tokens":1,"total_tokens":201}}"#;

/// Nanoseconds since 1970 on the clock that all processes of a machine share.
pub(super) fn wall_nanos() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

struct Replica {
    started: Instant,
    ready_after: Duration,
    /// The log until the first request was noted.
    log: Mutex<Option<File>>,
}

/// Serves until it is ended.
pub(crate) fn run(args: &[&str]) -> Result<ExitCode> {
    let (started, started_wall) = (Instant::now(), wall_nanos());
    let &["--port", port, "--log", log, "--ready-after", ready_after] = args else {
        bail!("usage: {COMMAND} --port N --log FILE --ready-after MILLISECONDS");
    };
    let ready_after = Duration::from_millis(ready_after.parse().context("`--ready-after` is not a number")?);
    let port: u16 = port.parse().context("`--port` is not a port")?;
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("cannot listen on `{port}`"))?;
    let mut file = File::create(log).with_context(|| format!("cannot write `{log}`"))?;
    write!(file, "started {started_wall}\nready {}\n", started_wall + ready_after.as_nanos())?;
    let replica: &'static Replica = Box::leak(Box::new(Replica { started, ready_after, log: Mutex::new(Some(file)) }));
    for stream in listener.incoming() {
        let stream = stream.context("cannot accept")?;
        // A broken connection concerns nobody but its other end.
        std::thread::spawn(move || drop(replica.serve(stream)));
    }
    Ok(ExitCode::SUCCESS)
}

impl Replica {
    fn serve(&self, stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut writer = stream;
        loop {
            let Some((path, length)) = read_head(&mut reader)? else { return Ok(()) };
            std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
            let (status, body) = match path.as_str() {
                "/health" if self.started.elapsed() < self.ready_after => ("503 Service Unavailable", ""),
                "/health" | "/metrics" => ("200 OK", ""),
                _ => {
                    self.note_request()?;
                    ("200 OK", ANSWER)
                }
            };
            write!(
                writer,
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )?;
        }
    }

    fn note_request(&self) -> Result<()> {
        let now = wall_nanos();
        let file = self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(mut file) = file {
            writeln!(file, "request {now}")?;
        }
        Ok(())
    }
}

/// The path and the length of the body; `None` where the client has closed.
fn read_head(reader: &mut impl BufRead) -> Result<Option<(String, u64)>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).context("no path")?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { return Ok(Some((path, length))) };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().context("`content-length` is not a number")?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_to_its_end() {
        let mut bytes: &[u8] = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET";
        assert_eq!(read_head(&mut bytes).expect("a head"), Some(("/v1/x".to_owned(), 3)));
        assert_eq!(bytes, b"abcGET");
        let mut nothing: &[u8] = b"";
        assert_eq!(read_head(&mut nothing).expect("the end"), None);
    }
}
