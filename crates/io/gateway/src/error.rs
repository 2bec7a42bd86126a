//! What a client is told when it gets no answer from a model.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use loadline_hold::{Reason, Rejection};
use serde_json::json;
use std::time::Duration;

/// The dialect of the error body, by path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `{"error":{"message","type","param","code"}}`.
    OpenAi,
    /// `{"type":"error","error":{"type","message"}}`.
    Anthropic,
}

impl Dialect {
    /// What stands before the last event of a stream that ends with an error.
    pub(crate) const fn event_name(self) -> &'static [u8] {
        match self {
            Self::OpenAi => b"",
            Self::Anthropic => b"event: error\n",
        }
    }

    pub(crate) fn of_path(path: &str) -> Self {
        if path.starts_with("/v1/messages") { Self::Anthropic } else { Self::OpenAi }
    }
}

/// An error to answer with.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// As in the error body and in the counters.
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// The field at fault.
    pub(crate) param: Option<&'static str>,
    pub(crate) retry_after: Option<Duration>,
    /// False where a repeat is useless; told to openai-python by `x-should-retry`.
    pub(crate) retry: bool,
    /// Whether the connection is closed after the answer.
    pub(crate) close: bool,
    pub(crate) waited: Duration,
    pub(crate) cold: bool,
    /// The endpoint picker's word for the reason.
    pub(crate) dropped: Option<&'static str>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            param: None,
            retry_after: None,
            retry: true,
            close: false,
            waited: Duration::ZERO,
            cold: false,
            dropped: None,
        }
    }

    pub(crate) fn useless_to_repeat(mut self) -> Self {
        self.retry = false;
        self
    }

    pub(crate) const fn about(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }

    pub(crate) const fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// The error for a request the hold refused.
    pub(crate) fn of_hold(rejection: &Rejection, model: &str) -> Self {
        let seconds = rejection.waited.as_secs();
        let message = match rejection.reason {
            Reason::QueueFull => format!("too many requests wait for `{model}`; repeat later"),
            Reason::SaturatedTimeout => {
                format!(
                    "no slot of `{model}` became free in time (held {seconds} s); repeat later or send fewer at once"
                )
            }
            Reason::ColdTimeout => format!("no replica of `{model}` started in time (held {seconds} s); repeat later"),
            Reason::NoCapacity => format!("no replica of `{model}` is expected in time; repeat later"),
            Reason::Draining => format!("the gateway is shutting down or `{model}` was removed; repeat"),
            Reason::UpstreamReset => {
                format!("every attempt at a replica of `{model}` failed before it answered; repeat")
            }
        };
        let dropped = match rejection.reason {
            Reason::QueueFull if rejection.cold => Some("rejected-no-endpoints"),
            Reason::QueueFull => Some("rejected-saturated"),
            Reason::SaturatedTimeout => Some("rejected-ttl-expired"),
            Reason::ColdTimeout | Reason::NoCapacity => Some("rejected-no-endpoints"),
            Reason::Draining => Some("rejected-shutting-down"),
            Reason::UpstreamReset => None,
        };
        let status = StatusCode::from_u16(rejection.reason.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Self {
            retry_after: Some(rejection.retry_after),
            waited: rejection.waited,
            cold: rejection.cold,
            dropped,
            ..Self::new(status, rejection.reason.code(), message)
        }
    }

    fn kind(&self, dialect: Dialect) -> &'static str {
        match (dialect, self.status.as_u16()) {
            (_, 429) => "rate_limit_error",
            (Dialect::OpenAi, 500..) => "server_error",
            (Dialect::OpenAi, _) => "invalid_request_error",
            (Dialect::Anthropic, 404) => "not_found_error",
            (Dialect::Anthropic, 413) => "request_too_large",
            (Dialect::Anthropic, 503) => "overloaded_error",
            (Dialect::Anthropic, 500..) => "api_error",
            (Dialect::Anthropic, _) => "invalid_request_error",
        }
    }

    /// The error body.
    pub(crate) fn body(&self, dialect: Dialect) -> Bytes {
        let kind = self.kind(dialect);
        let value = match dialect {
            Dialect::OpenAi => {
                json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
            }
            Dialect::Anthropic => json!({"type": "error", "error": {"type": kind, "message": self.message}}),
        };
        Bytes::from(value.to_string())
    }

    /// The error as the last event of a stream whose status is already sent.
    pub(crate) fn event(&self, dialect: Dialect) -> Bytes {
        let body = self.body(dialect);
        Bytes::from([dialect.event_name(), b"data: ", &body, b"\n\n"].concat())
    }

    /// The headers that say more than the status.
    pub(crate) fn headers(&self, headers: &mut http::HeaderMap) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(span) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(span)));
            headers.insert("x-gw-dropped-reason", HeaderValue::from_static(self.code));
        }
        if let Some(reason) = self.dropped {
            headers.insert("x-llm-d-request-dropped-reason", HeaderValue::from_static(reason));
        }
        if !self.retry {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// Whole seconds, within the bounds of `Retry-After`.
fn whole_seconds(span: Duration) -> u64 {
    loadline_base::num::f64_to_u64_trunc(span.as_secs_f64().round().clamp(1.0, 120.0))
}
