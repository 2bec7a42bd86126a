//! One request over HTTP/1.1: connection, answer, event stream, and the instants on the way.

use crate::live::{Live, add};
use crate::options::Options;
use crate::stream::{Scanner, StreamError, error_text, shorten};
use crate::target::Target;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of an error answer that are read.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// Read buffer of a connection: bounds how much one read can bring.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// Why a request was not answered; the names that reports use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Connect,
    ConnectionLost,
    Status(u16),
    StreamError,
    Truncated,
    Timeout,
    NotAStream,
    TooLarge,
    Empty,
}

impl Reason {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Status(code) => return format!("status_{code}"),
            Self::Connect => "connect",
            Self::ConnectionLost => "connection_lost",
            Self::StreamError => "stream_error",
            Self::Truncated => "truncated",
            Self::Timeout => "timeout",
            Self::NotAStream => "not_a_stream",
            Self::TooLarge => "too_large",
            Self::Empty => "empty",
        }
        .to_owned()
    }
}

/// A request that was not answered.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) message: String,
    /// How long the server asks to wait, in model time.
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    pub(crate) fn new(reason: Reason, message: impl ToString) -> Self {
        Self { reason, message: message.to_string(), retry_after: None }
    }

    /// Whether sending the same request again is safe (no byte of an answer came) and may help.
    pub(crate) const fn may_retry(&self) -> bool {
        matches!(self.reason, Reason::Connect | Reason::Status(429 | 503))
    }
}

/// A request that was answered whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) first: Instant,
    pub(crate) last: Instant,
    pub(crate) tokens: u64,
    pub(crate) comments: u64,
    /// Time in a gateway's queue, as its header says.
    pub(crate) queued: Option<Duration>,
}

type Sender = SendRequest<Full<Bytes>>;

/// Connections to one target; idle ones are used again, the latest first.
#[derive(Debug)]
pub(crate) struct Client {
    target: Target,
    idle: Mutex<Vec<Sender>>,
    connect_timeout: Duration,
    max_answer_bytes: u64,
}

impl Client {
    pub(crate) fn new(target: Target, options: &Options) -> Self {
        Self {
            target,
            idle: Mutex::new(Vec::new()),
            connect_timeout: options.connect_timeout,
            max_answer_bytes: options.max_answer_bytes,
        }
    }

    /// Sends one request and reads its answer to the end.
    pub(crate) async fn send(&self, body: Bytes, live: &Live) -> Result<Answer, Failure> {
        let (mut sender, response) = self.start(body).await?;
        let status = response.status();
        if status != http::StatusCode::OK {
            return Err(self.refused(sender, response).await);
        }
        let kind = response.headers().get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
        if !kind.starts_with("text/event-stream") {
            let message = format!(
                "the answer has content-type `{kind}` instead of `text/event-stream`: the endpoint must stream"
            );
            return Err(Failure::new(Reason::NotAStream, message));
        }
        let queued = queued(response.headers());
        let answer = self.read(response.into_body(), live).await.map(|answer| Answer { queued, ..answer })?;
        if sender.ready().await.is_ok() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        }
        Ok(answer)
    }

    /// Sends the request; one that a closed idle connection did not take goes over a new one.
    async fn start(&self, body: Bytes) -> Result<(Sender, http::Response<Incoming>), Failure> {
        let mut request = http::Request::new(Full::new(body));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() =
            self.target.address.path().parse().map_err(|error| Failure::new(Reason::Connect, error))?;
        request.headers_mut().clone_from(&self.target.headers);
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let (mut sender, reused) = match idle {
                Some(sender) if sender.is_closed() => continue,
                Some(sender) => (sender, true),
                None => (self.connect().await?, false),
            };
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((sender, response)),
                Err(mut error) => match error.take_message() {
                    // nothing of it was written
                    Some(unsent) if reused => request = unsent,
                    _ => return Err(Failure::new(Reason::ConnectionLost, chain(error.error()))),
                },
            }
        }
    }

    async fn connect(&self) -> Result<Sender, Failure> {
        let connecting = async {
            let stream = self
                .target
                .connector
                .connect(&self.target.address)
                .await
                .map_err(|e| Failure::new(Reason::Connect, e))?;
            http1::Builder::new()
                .max_buf_size(READ_BUFFER_BYTES)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(|error| Failure::new(Reason::Connect, chain(&error)))
        };
        let (sender, connection) = tokio::time::timeout(self.connect_timeout, connecting).await.map_err(|_| {
            Failure::new(Reason::Connect, format!("no connection to `{}` in time", self.target.address.authority()))
        })??;
        // it ends when the sender is dropped or the server closes; errors reach the request
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn read(&self, mut body: Incoming, live: &Live) -> Result<Answer, Failure> {
        let mut scanner = Scanner::default();
        let (mut first, mut first_payload, mut last) = (None, None, Instant::now());
        let mut bytes: u64 = 0;
        while let Some(frame) = body.frame().await {
            let data = match frame {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => data,
                    Err(_) => continue,
                },
                // everything was read: how the connection ends does not matter
                Err(_) if scanner.is_done() => break,
                Err(error) => {
                    let message = format!("after {} chunks: {}", scanner.chunks(), chain(&error));
                    return Err(Failure::new(Reason::Truncated, message));
                }
            };
            bytes = bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
            if bytes > self.max_answer_bytes {
                return Err(Failure::new(
                    Reason::TooLarge,
                    format!("the answer has more than {} bytes", self.max_answer_bytes),
                ));
            }
            let new = scanner.feed(&data).map_err(stream_failure)?;
            if new > 0 {
                last = Instant::now();
                if first.is_none() {
                    first = Some(last);
                    add(&live.streaming, 1);
                }
                add(&live.tokens, new);
            } else if first_payload.is_none() && scanner.payloads() > 0 {
                first_payload = Some(Instant::now());
            }
        }
        scanner.finish().map_err(stream_failure)?;
        if !scanner.is_done() {
            let message = format!("the stream ended after {} chunks without `data: [DONE]`", scanner.chunks());
            return Err(Failure::new(Reason::Truncated, message));
        }
        // an engine may report tokens whose text is empty
        let first = first.or(first_payload.filter(|_| scanner.tokens() > 0));
        let first = first.ok_or_else(|| Failure::new(Reason::Empty, "the stream carried no token"))?;
        Ok(Answer {
            first,
            last: last.max(first),
            tokens: scanner.tokens(),
            comments: scanner.comments(),
            queued: None,
        })
    }

    /// Reads an error answer.
    async fn refused(&self, sender: Sender, response: http::Response<Incoming>) -> Failure {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let body = Limited::new(response.into_body(), MAX_ERROR_BYTES).collect().await;
        let text = match body {
            Ok(body) => {
                let mut sender = sender;
                if sender.ready().await.is_ok() {
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
                }
                body.to_bytes()
            }
            Err(_) => Bytes::new(),
        };
        let said = match serde_json::from_slice::<serde_json::Value>(&text) {
            Ok(json) => error_text(json.get("error").unwrap_or(&json)),
            Err(_) => shorten(String::from_utf8_lossy(&text).trim()),
        };
        let message = if said.is_empty() { status.to_string() } else { said };
        Failure { reason: Reason::Status(status.as_u16()), message, retry_after }
    }
}

fn stream_failure(error: StreamError) -> Failure {
    let reason = match error {
        StreamError::InBand { .. } => Reason::StreamError,
        StreamError::LineTooLong => Reason::TooLarge,
    };
    Failure::new(reason, error)
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Headers in which gateways say how long a request was queued, in milliseconds: Loadline's and the llm-d endpoint picker's.
const QUEUE_HEADERS: [&str; 2] = ["x-gw-queue-ms", "x-llm-d-flow-queue-duration-ms"];

fn queued(headers: &http::HeaderMap) -> Option<Duration> {
    QUEUE_HEADERS.iter().find_map(|name| headers.get(*name)).and_then(|value| milliseconds(value.to_str().ok()?))
}

fn milliseconds(text: &str) -> Option<Duration> {
    let millis: f64 = text.trim().parse().ok()?;
    (millis >= 0.0).then(|| loadline_base::num::duration_from_secs(millis / 1e3))
}

fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    text("retry-after-ms").and_then(milliseconds).or_else(|| {
        let seconds: u64 = text("retry-after")?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds))
    })
}
