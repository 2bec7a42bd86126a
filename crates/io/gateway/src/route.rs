//! From a request's head to its model, and which headers go on.

use crate::error::Refusal;
use crate::model::Model;
use crate::shared::ModelTable;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use loadline_base::parse_duration;
use std::sync::Arc;
use std::time::Duration;

/// Headers by which a client names its model, in order of precedence.
const MODEL_HEADERS: [&str; 2] = ["x-model", "x-gateway-model-name"];
/// The longest wait a client wants, in the form the endpoint picker takes.
const TTL_HEADER: &str = "x-llm-d-inference-ttl";

/// Headers of one connection only (RFC 9110 7.6.1), and those that this side settles anew.
static HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Beginnings of the headers by which the parts of an inference gateway speak to each other. The edge takes them from
/// clients as wishes at most and must not pass them on, as those behind it trust them (`gateway.md` 3.1 and 4).
const TRUSTED_PREFIXES: [&str; 2] = ["x-llm-d-", "x-gateway-"];
/// At most this many bytes of a client's own words are repeated in an error.
const ECHO_BYTES: usize = 128;

/// Removes the headers that only the edge may set.
pub(crate) fn strip_trusted(headers: &mut HeaderMap) {
    let is_trusted = |name: &HeaderName| TRUSTED_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix));
    while let Some(name) = headers.keys().find(|name| is_trusted(name)).cloned() {
        headers.remove(name);
    }
}

/// A client's own words for an error message, cut to a bounded length.
pub(crate) fn echo(words: &str) -> String {
    match words.char_indices().map(|(at, _)| at).find(|at| *at >= ECHO_BYTES).and_then(|at| words.get(..at)) {
        Some(start) => format!("{start}..."),
        None => words.to_owned(),
    }
}

/// Removes the headers that concern one connection only.
///
/// A length beside a transfer coding is void (RFC 9112 6.3) and goes as well, so that nothing behind us believes it.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

/// The model named by a header.
pub(crate) fn model_header(headers: &HeaderMap) -> Option<String> {
    MODEL_HEADERS
        .iter()
        .find_map(|name| headers.get(*name))
        .and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
        .map(|value| value.trim().to_owned())
}

/// How long the client wants to wait at most.
pub(crate) fn ttl(headers: &HeaderMap) -> Option<Duration> {
    parse_duration(headers.get(TTL_HEADER)?.to_str().ok()?).ok()
}

/// The model of that name.
pub(crate) fn find(models: &ModelTable, name: &str) -> Result<Arc<Model>, Refusal> {
    models.get(name).cloned().ok_or_else(|| {
        let message = format!("the model `{}` does not exist; GET /v1/models lists those that do", echo(name));
        Refusal::new(StatusCode::NOT_FOUND, "model_not_found", message).about("model").useless_to_repeat()
    })
}

/// The content coding in which a body is, unless it is plain.
pub(crate) fn content_coding(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(header::CONTENT_ENCODING).filter(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Resolves the percent escapes of a path (RFC 3986 2.1); what is no escape stays as it is.
pub(crate) fn percent_decoded(path: &str) -> String {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let escape = (*first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(escape.unwrap_or(*first));
        rest = if escape.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_paths_are_resolved_and_echoes_are_bounded() {
        for (path, expect) in
            [("Qwen%2FQwen3", "Qwen/Qwen3"), ("a%2", "a%2"), ("%zz%+1%41", "%zz%+1A"), ("", ""), ("%ff", "\u{fffd}")]
        {
            assert_eq!(percent_decoded(path), expect, "{path}");
        }
        assert_eq!(echo("short"), "short");
        assert_eq!(echo(&"é".repeat(100)), format!("{}...", "é".repeat(64)));
    }

    #[test]
    fn headers_of_one_connection_and_of_the_edge_go() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-a ,x-b"),
            ("x-a", "1"),
            ("x-b", "1"),
            ("x-c", "1"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("x-llm-d-inference-objective", "top"),
            ("x-llm-d-slo-ttft-ms", "1"),
            ("x-gateway-destination-endpoint", "10.0.0.1:1"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        strip_trusted(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-c"]);
    }
}
