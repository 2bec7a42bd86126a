//! One request: which part answers it, and how its answer is made.

use crate::body;
use crate::error::{Dialect, Refusal};
use crate::exchange::{self, Answer, Ready, millis};
use crate::model::{Model, Ticket};
use crate::own;
use crate::reply::{Exchange, Held, ReplyBody};
use crate::route;
use crate::shared::{ModelTable, Shared};
use crate::upstream::Outgoing;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use loadline_hold::Arrival;
use loadline_hold::classify::classify;
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// The id of a request, as clients and replicas see it.
static REQUEST_ID: http::HeaderName = http::HeaderName::from_static("x-request-id");

/// Answers the requests of one connection.
pub(crate) struct Service {
    shared: Arc<Shared>,
    /// The models as last seen; read again only when they have changed.
    models: RefCell<(u64, Arc<ModelTable>)>,
    /// A request has come.
    begun: Arc<AtomicBool>,
}

impl Service {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let models = RefCell::new((shared.version(), shared.models()));
        Self { shared, models, begun: Arc::default() }
    }

    /// Whether a request has come on this connection.
    pub(crate) fn begun(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.begun)
    }

    fn models(&self) -> Arc<ModelTable> {
        let version = self.shared.version();
        let mut cached = self.models.borrow_mut();
        if cached.0 != version {
            *cached = (version, self.shared.models());
        }
        Arc::clone(&cached.1)
    }
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<ReplyBody>;
    type Error = Infallible;
    type Future = Handling;

    fn call(&self, request: Request<Incoming>) -> Handling {
        self.begun.store(true, Ordering::Relaxed);
        let shared = Arc::clone(&self.shared);
        let dialect = Dialect::of_path(request.uri().path());
        if let Some(answer) = own::answer(&shared, &request) {
            return Handling { shared, dialect, id: None, work: Work::Done(Some(answer)) };
        }
        let id = request_id(&shared, &request);
        let ticket = Arc::new(Ticket::default());
        let exchange: Exchange =
            Box::pin(serve(Arc::clone(&shared), self.models(), request, id.clone(), Arc::clone(&ticket)));
        Handling { shared, dialect, id: Some(id), work: Work::Exchange(Some(exchange), ticket) }
    }
}

fn request_id(shared: &Shared, request: &Request<Incoming>) -> HeaderValue {
    if let Some(id) = request.headers().get(&REQUEST_ID) {
        // Copied, so that it does not keep the connection's read buffer.
        return HeaderValue::from_bytes(id.as_bytes()).unwrap_or(HeaderValue::from_static(""));
    }
    let text = format!("{:x}-{:x}", shared.settings.seed, shared.next_id());
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

/// Reads a request, finds its model and exchanges it for an answer.
async fn serve(
    shared: Arc<Shared>,
    models: Arc<ModelTable>,
    request: Request<Incoming>,
    id: HeaderValue,
    ticket: Arc<Ticket>,
) -> Result<Answer, Refusal> {
    let started = shared.clock.now();
    let (mut head, incoming) = request.into_parts();
    if head.method == Method::CONNECT {
        let message = "`CONNECT` is not served here; this is no tunnel";
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).useless_to_repeat());
    }
    let named = route::model_header(&head.headers);
    let known = named.as_deref().map(|name| route::find(&models, name)).transpose()?;
    if known.is_none() && head.method != Method::POST {
        let path = route::echo(head.uri.path());
        let message = format!(
            "there is no `{} {path}`; name a model by `x-model` to pass it on",
            route::echo(head.method.as_str())
        );
        return Err(Refusal::new(StatusCode::NOT_FOUND, "not_found", message).useless_to_repeat());
    }
    if known.is_none()
        && let Some(coding) = route::content_coding(&head.headers)
    {
        let coding = String::from_utf8_lossy(coding.as_bytes());
        let message = format!(
            "the body is encoded as `{}` and its `model` cannot be read; send it plain or name the model by `x-model`",
            route::echo(&coding)
        );
        let refusal = Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding_unsupported", message);
        return Err(refusal.useless_to_repeat().closing());
    }
    let limit =
        known.as_ref().map_or(shared.settings.max_body_bytes, body_limit).max(largest(&models, known.is_some()));
    let kept = body::read(&shared, incoming, limit).await?;
    let read = shared.clock.now();
    let (model, streamed) = match known {
        Some(model) => (model, classify(&kept.bytes).ok().and_then(|found| found.stream).unwrap_or(false)),
        None => {
            let found = classify(&kept.bytes).map_err(|error| {
                Refusal::new(StatusCode::BAD_REQUEST, "invalid_json", error.to_string()).useless_to_repeat()
            })?;
            let name = found.model.as_deref().ok_or_else(|| {
                let message = "the body has no `model`; name one of GET /v1/models";
                Refusal::new(StatusCode::BAD_REQUEST, "model_missing", message).about("model").useless_to_repeat()
            })?;
            (route::find(&models, name)?, found.stream.unwrap_or(false))
        }
    };
    let size = u64::try_from(kept.bytes.len()).unwrap_or(u64::MAX);
    if size > body_limit(&model) {
        let message = format!("the body is larger than {} bytes, the limit of `{}`", body_limit(&model), model.id);
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message).useless_to_repeat());
    }
    let ttl = route::ttl(&head.headers);
    route::strip_hop_by_hop(&mut head.headers);
    route::strip_trusted(&mut head.headers);
    head.headers.remove(header::EXPECT);
    // What the target names is the host, whatever the header says (RFC 9112 3.2.2); a user name before it is not.
    if let Some(authority) = head.uri.authority()
        && let Some(Ok(host)) = authority.as_str().rsplit('@').next().map(HeaderValue::from_str)
    {
        head.headers.insert(header::HOST, host);
    }
    head.headers.insert(&REQUEST_ID, id);
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let uri = if head.uri.authority().is_some() { path.parse().unwrap_or_default() } else { head.uri };
    let twice = size <= model.resend_bytes.load(Ordering::Relaxed);
    let outgoing = Outgoing { method: head.method, uri, headers: head.headers, body: kept.bytes.clone(), twice };
    let arrival = Arrival { bytes: size, streamed, ttl };
    exchange::run(shared, Ready { model, outgoing, kept, arrival, started, read }, ticket).await
}

fn body_limit(model: &Arc<Model>) -> u64 {
    model.max_body_bytes.load(Ordering::Relaxed)
}

/// The largest limit of any model, while it is not known whose request is read.
fn largest(models: &ModelTable, known: bool) -> u64 {
    if known { 0 } else { models.values().map(body_limit).max().unwrap_or(0) }
}

/// A request being answered.
pub(crate) struct Handling {
    shared: Arc<Shared>,
    dialect: Dialect,
    id: Option<HeaderValue>,
    work: Work,
}

enum Work {
    Done(Option<Response<ReplyBody>>),
    Exchange(Option<Exchange>, Arc<Ticket>),
}

impl Future for Handling {
    type Output = Result<Response<ReplyBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut response = match &mut this.work {
            Work::Done(answer) => match answer.take() {
                Some(answer) => answer,
                None => return Poll::Pending,
            },
            Work::Exchange(exchange, ticket) => {
                let Some(running) = exchange.as_mut() else { return Poll::Pending };
                match running.as_mut().poll(cx) {
                    Poll::Ready(Ok(answer)) => answered(answer, this.dialect),
                    Poll::Ready(Err(refusal)) => {
                        this.shared.metrics.refused(refusal.status);
                        refused(&refusal, this.dialect)
                    }
                    Poll::Pending if ticket.comments.load(Ordering::Relaxed) > 0 => match exchange.take() {
                        Some(exchange) => committed(Held::new(exchange, Arc::clone(ticket), this.dialect)),
                        None => return Poll::Pending,
                    },
                    Poll::Pending => return Poll::Pending,
                }
            }
        };
        if let Some(id) = this.id.take() {
            response.headers_mut().insert(&REQUEST_ID, id);
        }
        if this.shared.is_draining() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(response))
    }
}

fn answered(answer: Answer, dialect: Dialect) -> Response<ReplyBody> {
    let Answer { mut head, body, grant } = answer;
    route::strip_hop_by_hop(&mut head.headers);
    insight(&mut head.headers, grant.waited, grant.cold);
    head.version = http::Version::default();
    Response::from_parts(head, ReplyBody::forward(body, dialect))
}

fn insight(headers: &mut http::HeaderMap, waited: Duration, cold: bool) {
    headers.insert("x-gw-queue-ms", HeaderValue::from(millis(waited)));
    if cold {
        headers.insert("x-gw-cold-start", HeaderValue::from_static("1"));
    }
}

fn refused(refusal: &Refusal, dialect: Dialect) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::Own(refusal.body(dialect)));
    *response.status_mut() = refusal.status;
    refusal.headers(response.headers_mut());
    insight(response.headers_mut(), refusal.waited, refusal.cold);
    response
}

/// The status and headers of a stream that is still held.
fn committed(held: Held) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::Held(held));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
