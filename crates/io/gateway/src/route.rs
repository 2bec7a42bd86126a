//! From a request's head to its model, and which headers go on.

use crate::error::Refusal;
use crate::model::Model;
use crate::shared::ModelTable;
use http::{HeaderMap, HeaderName, StatusCode, header};
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

/// Removes the headers that concern one connection only.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
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
        .and_then(|value| value.to_str().ok())
        .map(|value| value.trim().to_owned())
}

/// How long the client wants to wait at most.
pub(crate) fn ttl(headers: &HeaderMap) -> Option<Duration> {
    parse_duration(headers.get(TTL_HEADER)?.to_str().ok()?).ok()
}

/// The model of that name.
pub(crate) fn find(models: &ModelTable, name: &str) -> Result<Arc<Model>, Refusal> {
    models.get(name).cloned().ok_or_else(|| {
        let message = format!("the model `{name}` does not exist; GET /v1/models lists those that do");
        Refusal::new(StatusCode::NOT_FOUND, "model_not_found", message).about("model").useless_to_repeat()
    })
}
