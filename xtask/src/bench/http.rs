//! Requests over a plain socket, so that a benchmark sees what it sends and when.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The size of every request body, bytes: short chat prompts are of this order.
pub(super) const BODY_BYTES: usize = 1024;
/// Longest silence of a server.
const SILENCE: Duration = Duration::from_secs(30);

/// An OpenAI completion request of exactly [`BODY_BYTES`].
pub(super) fn completion_body(model: &str, stream: bool) -> String {
    let head = format!(r#"{{"model":"{model}","max_tokens":16,"temperature":0,"stream":{stream},"prompt":""#);
    let tail = "\"}";
    let words = "the load line of a replica says how much work it carries within its objective ";
    let room = BODY_BYTES.saturating_sub(head.len() + tail.len());
    let prompt: String = words.chars().cycle().take(room).collect();
    format!("{head}{prompt}{tail}")
}

/// A whole HTTP/1.1 request.
pub(super) fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Connects with the limits of every request here.
pub(super) fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to `{address}`"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    Ok(stream)
}

/// The status of the answer that comes next.
pub(super) fn read_status(stream: &mut TcpStream) -> Result<u16> {
    let mut seen = Vec::new();
    let mut chunk = [0; 4096];
    while !seen.windows(2).any(|pair| pair == b"\r\n") {
        let count = stream.read(&mut chunk).context("no answer")?;
        if count == 0 {
            break;
        }
        seen.extend(chunk.iter().take(count));
    }
    let text = String::from_utf8_lossy(&seen);
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    code.with_context(|| format!("`{}` is not a status line", text.lines().next().unwrap_or_default()))
}

/// The body of a page; the connection is closed by the server.
pub(super) fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Whether a request is answered with 200.
pub(super) fn answers(address: SocketAddr, request: &str) -> bool {
    let ask = || -> Result<u16> {
        let mut stream = connect(address)?;
        stream.write_all(request.as_bytes())?;
        read_status(&mut stream)
    };
    ask().is_ok_and(|status| status == 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_the_promised_size() {
        for stream in [false, true] {
            let body = completion_body("m", stream);
            assert_eq!(body.len(), BODY_BYTES);
            assert!(serde_json::from_str::<serde_json::Value>(&body).is_ok());
        }
    }
}
