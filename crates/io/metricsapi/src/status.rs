//! Replies, and errors as the `Status` objects that every Kubernetes client reads.

use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use serde::Serialize;

/// Every reply's body: whole, in memory.
pub(crate) type Reply = Response<Full<Bytes>>;

/// The content type of everything that is no aggregated discovery and no plain text.
pub(crate) const JSON: &str = "application/json";
/// The content type of health checks.
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";

#[derive(Serialize)]
struct Metadata {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: Metadata,
    status: &'static str,
    message: &'a str,
    reason: &'static str,
    code: u16,
}

/// An error with its message for people; the machine-readable reason follows from the code (apimachinery's `StatusReason`).
pub(crate) fn failure(code: StatusCode, message: &str) -> Reply {
    let reason = match code.as_u16() {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        406 => "NotAcceptable",
        414 => "RequestURITooLong",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    let status = Status {
        kind: "Status",
        api_version: "v1",
        metadata: Metadata {},
        status: "Failure",
        message,
        reason,
        code: code.as_u16(),
    };
    let mut reply = json(&status, JSON);
    *reply.status_mut() = code;
    let extra = match code {
        StatusCode::METHOD_NOT_ALLOWED => Some((header::ALLOW, "GET")),
        StatusCode::TOO_MANY_REQUESTS => Some((header::RETRY_AFTER, "1")),
        StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer realm=\"loadline\"")),
        _ => None,
    };
    if let Some((name, value)) = extra {
        reply.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    reply
}

/// A value as JSON, with this content type. Replies are about the moment: nobody may keep them.
pub(crate) fn json<T: Serialize>(value: &T, content_type: &str) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => bytes(body, content_type),
        // only a map with keys that are no text fails, and there is none in our replies
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the reply cannot be written: {error}\n")),
    }
}

/// Plain text.
pub(crate) fn text(code: StatusCode, body: String) -> Reply {
    let mut reply = bytes(body.into_bytes(), TEXT);
    *reply.status_mut() = code;
    reply
}

fn bytes(body: Vec<u8>, content_type: &str) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    let headers = reply.headers_mut();
    if let Ok(value) = HeaderValue::from_str(content_type) {
        headers.insert(header::CONTENT_TYPE, value);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}
