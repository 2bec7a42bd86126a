//! One bounded GET over a connection of its own.

use super::connect::Connector;
use super::limits::{FetchLimits, MAX_RESPONSE_HEAD_BYTES};
use super::target::Target;
use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use std::fmt;
use thiserror::Error;

/// What came back, whatever its status.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The status; redirects are not followed.
    pub status: http::StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body, as sent: `content-encoding` is not undone.
    pub body: Bytes,
}

/// At which point a fetch failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FetchErrorKind {
    /// The host name has no address.
    Resolve,
    /// Nothing listens there.
    Refused,
    /// No connection within the limit.
    ConnectTimeout,
    /// No connection for another reason.
    Connect,
    /// No trusted TLS session.
    Tls,
    /// Connected, but no whole answer within the limit.
    Timeout,
    /// The body is over the limit.
    TooLarge,
    /// The connection broke, or what came was not HTTP.
    Broken,
    /// The request cannot be written as HTTP.
    Request,
}

impl FetchErrorKind {
    /// A stable word for metrics and machine-readable output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Refused => "refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::TooLarge => "too_large",
            Self::Broken => "broken",
            Self::Request => "request",
        }
    }
}

/// Why a fetch failed; the text names the target.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct FetchError {
    /// At which point.
    pub kind: FetchErrorKind,
    /// The URL.
    pub target: String,
    /// What the layer below said.
    pub detail: String,
}

impl FetchError {
    pub(crate) fn new(kind: FetchErrorKind, target: &Target, detail: impl Into<String>) -> Self {
        Self { kind, target: target.to_string(), detail: detail.into() }
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (target, detail) = (&self.target, &self.detail);
        match self.kind {
            FetchErrorKind::Resolve => write!(f, "`{target}`: the host name cannot be resolved ({detail})"),
            FetchErrorKind::Refused => write!(f, "`{target}`: connection refused; nothing listens there"),
            FetchErrorKind::Connect => write!(f, "`{target}`: cannot connect: {detail}"),
            FetchErrorKind::Tls => write!(f, "`{target}`: no trusted TLS session: {detail}"),
            FetchErrorKind::ConnectTimeout | FetchErrorKind::Timeout | FetchErrorKind::TooLarge => {
                write!(f, "`{target}`: {detail}")
            }
            FetchErrorKind::Broken => write!(f, "`{target}`: not a complete HTTP answer: {detail}"),
            FetchErrorKind::Request => write!(f, "`{target}`: the request cannot be written: {detail}"),
        }
    }
}

/// Gets `target` once: no redirects, no retries, no decompression; a connection of its own, closed afterwards.
///
/// `headers` are added to `host`, `user-agent` and `connection`, and replace them where they name the same.
///
/// # Errors
/// A [`FetchError`] for everything but an answer; an answer with an error status is not an error.
pub async fn fetch(
    connector: &Connector,
    target: &Target,
    headers: &HeaderMap,
    limits: &FetchLimits,
) -> Result<Fetched, FetchError> {
    let whole = async {
        let stream =
            tokio::time::timeout(limits.connect_timeout, connector.connect(target)).await.map_err(|_| {
                let detail = format!("no connection within {:?}", limits.connect_timeout);
                FetchError::new(FetchErrorKind::ConnectTimeout, target, detail)
            })??;
        let broken = |error: hyper::Error| FetchError::new(FetchErrorKind::Broken, target, in_full(&error));
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(MAX_RESPONSE_HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let request = request(target, headers)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            receive(response, target, limits.max_body_bytes).await
        };
        tokio::pin!(exchange, connection);
        let mut open = true;
        loop {
            tokio::select! {
                biased;
                result = &mut exchange => return result,
                // its error, if any, also reaches the exchange; what it has already delivered is still to be read
                _ = &mut connection, if open => open = false,
            }
        }
    };
    tokio::time::timeout(limits.total_timeout, whole).await.unwrap_or_else(|_| {
        let detail = format!("no complete answer within {:?}", limits.total_timeout);
        Err(FetchError::new(FetchErrorKind::Timeout, target, detail))
    })
}

/// An error with its causes: hyper's own text leaves them out.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

fn request(target: &Target, headers: &HeaderMap) -> Result<http::Request<Empty<Bytes>>, FetchError> {
    let invalid = |error: http::Error| FetchError::new(FetchErrorKind::Request, target, error.to_string());
    let host = HeaderValue::try_from(target.authority()).map_err(|error| invalid(error.into()))?;
    let mut request = http::Request::get(target.path()).body(Empty::new()).map_err(invalid)?;
    let all = request.headers_mut();
    all.insert(HOST, host);
    all.insert(USER_AGENT, HeaderValue::from_static(concat!("loadline/", env!("CARGO_PKG_VERSION"))));
    all.insert(CONNECTION, HeaderValue::from_static("close"));
    for name in headers.keys() {
        all.remove(name);
    }
    for (name, value) in headers {
        all.append(name, value.clone());
    }
    Ok(request)
}

async fn receive(
    response: http::Response<hyper::body::Incoming>,
    target: &Target,
    limit: usize,
) -> Result<Fetched, FetchError> {
    let too_large =
        || FetchError::new(FetchErrorKind::TooLarge, target, format!("the body is larger than {limit} bytes"));
    let (head, mut body) = response.into_parts();
    let declared = head.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok()).unwrap_or(0);
    if declared > limit {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| FetchError::new(FetchErrorKind::Broken, target, in_full(&error)))?;
        let Ok(piece) = frame.into_data() else { continue };
        if first.len() + whole.len() + piece.len() > limit {
            return Err(too_large());
        }
        if whole.is_empty() && first.is_empty() {
            // most pages come in one piece, which is then never copied
            first = piece;
            continue;
        }
        if whole.is_empty() {
            whole.reserve(declared.max(first.len() + piece.len()));
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&piece);
    }
    let body = if whole.is_empty() { first } else { whole.freeze() };
    Ok(Fetched { status: head.status, headers: head.headers, body })
}
