//! The gateway's own pages: health, readiness, metrics and the list of models.

use crate::error::{Dialect, Refusal};
use crate::model::Model;
use crate::page;
use crate::reply::ReplyBody;
use crate::route;
use crate::shared::Shared;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Value, json};

/// Where the models are listed.
const MODELS: &str = "/v1/models";

/// Answers a request for one of the gateway's own pages; none if it is for a model.
pub(crate) fn answer(shared: &Shared, request: &Request<Incoming>) -> Option<Response<ReplyBody>> {
    // The server leaves the body of an answer to HEAD out.
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return None;
    }
    match request.uri().path() {
        "/healthz" => Some(text(StatusCode::OK, "ok\n")),
        "/readyz" if shared.is_draining() => {
            Some(text(StatusCode::SERVICE_UNAVAILABLE, "the gateway is shutting down\n"))
        }
        "/readyz" => {
            let missing = shared.settings.readiness.as_ref().and_then(|readiness| readiness.0());
            Some(missing.map_or_else(
                || text(StatusCode::OK, "ok\n"),
                |why| text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            ))
        }
        "/metrics" => {
            let mut text = page::render(shared);
            if let Some((_, rest)) = process_page(shared, "/metrics") {
                text.push_str(&rest);
            }
            Some(page_of("text/plain; version=0.0.4; charset=utf-8", text))
        }
        MODELS => {
            let list: Vec<Value> = shared.models().values().map(|model| entry(model)).collect();
            Some(json_page(StatusCode::OK, &json!({"object": "list", "data": list})))
        }
        path => {
            if let Some((kind, text)) = process_page(shared, path) {
                return Some(page_of(kind, text));
            }
            let name = path.strip_prefix(MODELS)?.strip_prefix('/')?;
            let name = route::percent_decoded(name);
            Some(match shared.models().get(name.as_str()) {
                Some(model) => json_page(StatusCode::OK, &entry(model)),
                None => {
                    let name = route::echo(&name);
                    let message = format!("the model `{name}` does not exist; GET {MODELS} lists those that do");
                    let refusal = Refusal::new(StatusCode::NOT_FOUND, "model_not_found", message)
                        .about("model")
                        .useless_to_repeat();
                    let mut response = Response::new(ReplyBody::Own(refusal.body(Dialect::OpenAi)));
                    *response.status_mut() = refusal.status;
                    refusal.headers(response.headers_mut());
                    response
                }
            })
        }
    }
}

fn process_page(shared: &Shared, path: &str) -> Option<(&'static str, String)> {
    shared.settings.pages.as_ref().and_then(|pages| pages.0(path))
}

fn page_of(kind: &'static str, text: String) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::Own(Bytes::from(text)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// One model of the list. `state` is ours: `ready`, `waking` while requests wait for a first replica, or `zero`.
fn entry(model: &Model) -> Value {
    let (counts, _, _) = model.snapshot();
    let state = match (counts.serving, counts.held) {
        (0, 0) => "zero",
        (0, _) => "waking",
        _ => "ready",
    };
    json!({"id": model.id.as_str(), "object": "model", "created": 0, "owned_by": "loadline", "state": state})
}

fn text(status: StatusCode, words: impl Into<Bytes>) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::Own(words.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json_page(status: StatusCode, value: &Value) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::Own(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
