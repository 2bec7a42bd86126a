//! A scripted API server behind a client, in this process.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

/// One request as it arrived.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path with query.
    pub(crate) path: String,
    pub(crate) body: Value,
}

/// What is answered.
pub(crate) enum Answer {
    /// A status and a body.
    Json(u16, Value),
    /// Lines of a watch, as they are sent; the watch ends when the sender does.
    Watch(mpsc::UnboundedReceiver<Value>),
    /// Nothing, ever.
    Silence,
}

type Handler = dyn Fn(&Seen) -> Answer + Send + Sync;

/// Answers by a function, and remembers what was asked.
#[derive(Clone)]
pub(crate) struct Fake {
    seen: Arc<Mutex<Vec<Seen>>>,
    handler: Arc<Handler>,
}

impl Fake {
    pub(crate) fn new(handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self { seen: Arc::default(), handler: Arc::new(handler) }
    }

    /// Answers in the order of the list; more requests than answers get a 500.
    pub(crate) fn script(answers: Vec<Answer>) -> Self {
        let answers = Mutex::new(VecDeque::from(answers));
        Self::new(move |_| {
            let next = answers.lock().expect("no panic while locked").pop_front();
            next.unwrap_or_else(|| status(500, "the script has ended"))
        })
    }

    /// What was asked so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic while locked").clone()
    }

    pub(crate) fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move { fake.answer(request).await }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response<Reply>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let seen = Seen {
            method: parts.method.to_string(),
            path: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        };
        self.seen.lock().expect("no panic while locked").push(seen.clone());
        let (code, body) = match (self.handler)(&seen) {
            Answer::Json(code, value) => {
                let body = Full::new(Bytes::from(value.to_string()));
                (code, body.map_err(|never| match never {}).boxed_unsync())
            }
            Answer::Watch(lines) => (200, watch_body(lines)),
            Answer::Silence => std::future::pending().await,
        };
        Response::builder()
            .status(code)
            .header("content-type", "application/json")
            .body(body)
            .map_err(std::io::Error::other)
    }
}

type Reply = UnsyncBoxBody<Bytes, std::io::Error>;

fn watch_body(lines: mpsc::UnboundedReceiver<Value>) -> Reply {
    let lines = futures_util::stream::unfold(lines, |mut lines| async move {
        let line = lines.recv().await?;
        Some((Ok(hyper::body::Frame::data(Bytes::from(format!("{line}\n")))), lines))
    });
    StreamBody::new(lines).boxed_unsync()
}

/// A status object, as the API server answers errors.
pub(crate) fn status(code: u16, message: &str) -> Answer {
    let body = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": "Test", "code": code,
    });
    Answer::Json(code, body)
}

pub(crate) fn ok(value: Value) -> Answer {
    Answer::Json(200, value)
}
