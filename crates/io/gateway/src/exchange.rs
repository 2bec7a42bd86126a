//! One request from its grant to the head of its answer.

use crate::body::Kept;
use crate::error::Refusal;
use crate::metrics::QueueOutcome;
use crate::model::{Grant, Lease, Letter, Model, Ticket};
use crate::reply::Forward;
use crate::shared::Shared;
use crate::upstream::{AttemptError, Outgoing, Wire};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::body::Incoming;
use loadline_base::{Timestamp, num};
use loadline_hold::{Arrival, Failure, Retry};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

/// Bodies up to this size are copied out of the connection's buffer while they wait.
const COMPACT_BYTES: usize = 64 * 1024;

/// A request that has been read and knows its model.
pub(crate) struct Ready {
    pub(crate) model: Arc<Model>,
    pub(crate) outgoing: Outgoing,
    pub(crate) kept: Kept,
    pub(crate) arrival: Arrival,
    pub(crate) started: Timestamp,
    /// When its body was read.
    pub(crate) read: Timestamp,
}

/// An answer whose head has come.
pub(crate) struct Answer {
    pub(crate) head: Parts,
    pub(crate) body: Forward,
    pub(crate) grant: Grant,
}

/// Waits for a slot, sends the request, and gives the head of the answer.
pub(crate) async fn run(shared: Arc<Shared>, mut ready: Ready, ticket: Arc<Ticket>) -> Result<Answer, Refusal> {
    let model = Arc::clone(&ready.model);
    let key = match model.arrive(&shared, ready.arrival, &ticket) {
        Ok(key) => key,
        Err(rejection) => {
            model.metrics.dropped(rejection.reason);
            model.metrics.queue(QueueOutcome::of_arrival(&rejection)).observe(0.0);
            return Err(Refusal::of_hold(&rejection, model.id.as_str()));
        }
    };
    let mut lease = Lease::new(Arc::clone(&shared), Arc::clone(&model), key, ready.read);
    let mut letter = std::future::poll_fn(|cx| {
        Poll::Ready(match ticket.poll_letter(cx) {
            Poll::Ready(letter) => Some(letter),
            Poll::Pending => None,
        })
    })
    .await;
    if letter.is_none() && ready.kept.bytes.len() <= COMPACT_BYTES {
        compact(&mut ready);
    }
    loop {
        let next = match letter.take() {
            Some(letter) => letter,
            None => std::future::poll_fn(|cx| ticket.poll_letter(cx)).await,
        };
        let grant = match next {
            Letter::Grant(grant) => grant,
            Letter::Requeued => continue,
            Letter::Reject(rejection) => {
                lease.refused(&rejection);
                return Err(Refusal::of_hold(&rejection, model.id.as_str()));
            }
        };
        lease.dispatch(grant.waited);
        if ticket.committed.load(Ordering::Relaxed) {
            // The stream's head is sent, so that no coding can be announced any more.
            ready.outgoing.headers.remove(header::ACCEPT_ENCODING);
        }
        if grant.attempt == 1 {
            let own = shared.clock.now().since(ready.read.plus(grant.waited));
            model.metrics.overhead_seconds.observe(own.as_secs_f64());
        }
        // Boxed, so that a request takes the room for it only once it has a slot.
        match Box::pin(attempt(&shared, &ready, &grant, &ticket)).await {
            Outcome::Answered(answer, wire) => {
                if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
                    match model.failed(&shared, key, grant.attempt, Failure::Unavailable) {
                        Retry::Held => {
                            model.metrics.retries_unavailable.add(1);
                            continue;
                        }
                        Retry::Stale => continue,
                        // Out of attempts or budget: the replica's own words are the best answer.
                        Retry::Over(_) => {}
                    }
                }
                // Given up in the very moment its head came: a letter says what now.
                if !model.first_byte(&shared, key, &ticket) {
                    continue;
                }
                return Ok(answered(lease, ready, grant, answer, wire));
            }
            Outcome::Failed(failure) => match model.failed(&shared, key, grant.attempt, failure) {
                Retry::Held => model.metrics.retried(failure),
                Retry::Stale => {}
                Retry::Over(rejection) => {
                    lease.refused(&rejection);
                    return Err(Refusal::of_hold(&rejection, model.id.as_str()));
                }
            },
            Outcome::Moved(newer) => letter = Some(newer),
            Outcome::Silent => {
                lease.finish();
                model.metrics.timeouts.add(1);
                let seconds = shared.settings.response_timeout.as_secs();
                let message = format!("the replica took the request and did not answer within {seconds} s");
                return Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", message));
            }
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "the large one is the usual one, and it is moved once")]
enum Outcome {
    Answered(Response<Incoming>, Wire),
    Failed(Failure),
    /// The hold gave up this attempt.
    Moved(Letter),
    Silent,
}

/// One attempt, given up when the hold says so or the replica stays silent.
async fn attempt(shared: &Shared, ready: &Ready, grant: &Grant, ticket: &Ticket) -> Outcome {
    let mut answer = pin!(grant.upstream.attempt(&ready.outgoing, shared.settings.connect_timeout));
    let mut silence = pin!(tokio::time::sleep(shared.settings.response_timeout));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(letter) = ticket.poll_letter(cx) {
            return Poll::Ready(Outcome::Moved(letter));
        }
        if let Poll::Ready(result) = answer.as_mut().poll(cx) {
            return Poll::Ready(match result {
                Ok((answer, wire)) => Outcome::Answered(answer, wire),
                Err(AttemptError::Refused) => Outcome::Failed(Failure::Refused),
                Err(AttemptError::Reset) => Outcome::Failed(Failure::Reset),
            });
        }
        silence.as_mut().poll(cx).map(|()| Outcome::Silent)
    })
    .await
}

fn answered(lease: Lease, ready: Ready, grant: Grant, answer: Response<Incoming>, wire: Wire) -> Answer {
    let metrics = &lease.model.metrics;
    let now = lease.shared.clock.now();
    metrics.first_byte(ready.arrival.streamed).observe(now.since(ready.started).as_secs_f64());
    if grant.cold {
        metrics.cold_start_seconds.observe(grant.waited.as_secs_f64());
    }
    let (head, incoming) = answer.into_parts();
    let body = Forward::new(lease, Arc::clone(&grant.upstream), wire, incoming, &head.headers, ready.started);
    Answer { head, body, grant }
}

/// Copies a small request out of its connection's read buffer, which is then free for its next use.
fn compact(ready: &mut Ready) {
    ready.kept.compact();
    ready.outgoing.body = ready.kept.bytes.clone();
    let headers = std::mem::take(&mut ready.outgoing.headers);
    let mut copy = HeaderMap::with_capacity(headers.len());
    for (name, value) in &headers {
        if let (Ok(name), Ok(value)) =
            (http::HeaderName::from_bytes(name.as_str().as_bytes()), HeaderValue::from_bytes(value.as_bytes()))
        {
            copy.append(name, value);
        }
    }
    ready.outgoing.headers = copy;
    if let Ok(uri) = ready.outgoing.uri.to_string().parse() {
        ready.outgoing.uri = uri;
    }
}

/// Whole milliseconds.
pub(crate) fn millis(span: std::time::Duration) -> u64 {
    num::f64_to_u64_trunc(span.as_secs_f64() * 1e3)
}
