//! A blocking HTTP/1.1 client over one raw connection.

use crate::{MAX_ANSWER_BYTES, within_reach};
use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// One connection.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<TcpStream>,
    body: Framing,
}

#[derive(Debug, Clone, Copy)]
enum Framing {
    Done,
    Length(usize),
    Chunked,
    ToEnd,
}

/// Status and headers of an answer; header names in lower case.
#[derive(Debug, Clone)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// In the order received.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first header of this (lower-case) name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Sends one request on a connection of its own and reads the whole answer.
///
/// # Errors
/// If it does not come within `patience` per read, or is not HTTP.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    patience: Duration,
) -> Result<(Head, Vec<u8>)> {
    let mut connection = Connection::open(address, patience)?;
    connection.send(method, path, headers, body)?;
    let head = connection.head()?;
    let mut whole = Vec::new();
    while let Some(piece) = connection.piece()? {
        whole.extend_from_slice(&piece);
        ensure!(whole.len() <= MAX_ANSWER_BYTES, "the answer is larger than {MAX_ANSWER_BYTES} bytes");
    }
    Ok((head, whole))
}

impl Connection {
    /// Connects; every read and write may take `patience`.
    ///
    /// # Errors
    /// For addresses off loopback and the private namespace, and if nothing listens.
    pub fn open(address: SocketAddr, patience: Duration) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&within_reach(address)?, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { reader: BufReader::new(stream), body: Framing::Done })
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.reader.get_mut().write_all(bytes)?)
    }

    /// Writes a whole request.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<()> {
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        self.write(&bytes)
    }

    /// Closes the sending side only.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn half_close(&self) -> Result<()> {
        Ok(self.reader.get_ref().shutdown(Shutdown::Write)?)
    }

    /// One line, without its end.
    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        (&mut self.reader).take(64 * 1024).read_until(b'\n', &mut line)?;
        ensure!(line.ends_with(b"\n"), "the connection ended within a line: {:?}", String::from_utf8_lossy(&line));
        Ok(String::from_utf8(line)?.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Reads status and headers.
    ///
    /// # Errors
    /// If it is not HTTP or the connection ends.
    pub fn head(&mut self) -> Result<Head> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status: u16 = status.with_context(|| format!("not a status line: {first}"))?;
        let mut head = Head { status, headers: vec![] };
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                ensure!(line.is_empty(), "not a header: {line}");
                break;
            };
            head.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let length = head.header("content-length").map(str::parse).transpose()?;
        self.body = match (head.header("transfer-encoding"), length) {
            (Some("chunked"), _) => Framing::Chunked,
            (_, Some(length)) => Framing::Length(length),
            _ if matches!(status, 100..=199 | 204 | 304) => Framing::Done,
            _ => Framing::ToEnd,
        };
        Ok(head)
    }

    /// The next piece of the body as it was framed; `None` at its proper end.
    ///
    /// # Errors
    /// If the connection ends before the body does.
    pub fn piece(&mut self) -> Result<Option<Vec<u8>>> {
        let size = match self.body {
            Framing::Done | Framing::Length(0) => return Ok(None),
            Framing::Length(size) => size,
            Framing::Chunked => usize::from_str_radix(self.line()?.trim(), 16)?,
            Framing::ToEnd => {
                let piece = self.reader.fill_buf()?.to_vec();
                self.reader.consume(piece.len());
                return Ok(Some(piece).filter(|piece| !piece.is_empty()));
            }
        };
        ensure!(size <= MAX_ANSWER_BYTES, "a piece of {size} bytes is larger than {MAX_ANSWER_BYTES}");
        let mut piece = vec![0; size];
        self.reader.read_exact(&mut piece).context("the body is cut short")?;
        if matches!(self.body, Framing::Chunked) {
            if !self.line()?.is_empty() {
                bail!("a chunk is longer than its length");
            }
            if size == 0 {
                self.body = Framing::Done;
                return Ok(None);
            }
        } else {
            self.body = Framing::Done;
        }
        Ok(Some(piece))
    }

    /// The next event of a stream, up to its blank line and without it; events may lie across pieces, and `rest` keeps
    /// what was read beyond. `None` at the end.
    ///
    /// # Errors
    /// As [`Connection::piece`], and if the stream ends within an event.
    pub fn event(&mut self, rest: &mut Vec<u8>) -> Result<Option<String>> {
        loop {
            if let Some(end) = rest.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = rest.drain(..end + 2).collect();
                return Ok(Some(String::from_utf8(event)?.trim_end().to_owned()));
            }
            match self.piece()? {
                Some(piece) => rest.extend_from_slice(&piece),
                None if rest.is_empty() => return Ok(None),
                None => bail!("the stream ended within an event: {}", String::from_utf8_lossy(rest)),
            }
            ensure!(rest.len() <= MAX_ANSWER_BYTES, "an event is larger than {MAX_ANSWER_BYTES} bytes");
        }
    }
}
