//! The body of an answer: forwarded, held with comments, or our own.

use crate::error::{Dialect, Refusal};
use crate::exchange::Answer;
use crate::model::{Lease, Ticket};
use crate::upstream::{Upstream, Wire};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use loadline_base::Timestamp;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

/// At most this much of an error answer is repeated inside a stream.
const ERROR_BYTES: usize = 64 * 1024;
/// The comment that keeps a held stream alive.
const COMMENT: &[u8] = b": loadline holding, no replica is free yet\n\n";

/// The exchange of a request, boxed so that it can outlive the service call.
pub(crate) type Exchange = Pin<Box<dyn Future<Output = Result<Answer, Refusal>> + Send>>;

/// The body of any answer of the gateway.
pub(crate) enum ReplyBody {
    /// Our own words; empty once sent.
    Own(Bytes),
    /// A replica's answer.
    Forward(Box<Forward>),
    /// A stream whose status was sent while it is held.
    Held(Held),
}

/// A replica's answer on its way.
pub(crate) struct Forward {
    lease: Lease,
    upstream: Arc<Upstream>,
    wire: Option<Wire>,
    incoming: Incoming,
    events: bool,
    dialect: Dialect,
    started: Timestamp,
    ended: bool,
}

impl Forward {
    pub(crate) fn new(
        lease: Lease,
        upstream: Arc<Upstream>,
        wire: Wire,
        incoming: Incoming,
        headers: &HeaderMap,
        started: Timestamp,
    ) -> Self {
        let events = is_event_stream(headers);
        Self { lease, upstream, wire: Some(wire), incoming, events, dialect: Dialect::OpenAi, started, ended: false }
    }

    fn is_cut(&self) -> bool {
        self.upstream.is_gone() || self.lease.shared.aborting.load(Ordering::Acquire)
    }

    /// The answer was read to its end: the slot is free, the connection may serve again.
    fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let now = self.lease.shared.clock.now();
        self.lease.model.metrics.request_seconds.observe(now.since(self.started).as_secs_f64());
        self.lease.finish();
        if let Some(wire) = self.wire.take() {
            self.upstream.keep(wire);
        }
    }

    /// The answer broke off: a last event for event streams, a broken connection for all others.
    fn broken(&mut self) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.wire = None;
        self.ended = true;
        self.lease.model.metrics.broken.add(1);
        self.lease.finish();
        if !self.events {
            return Poll::Ready(Some(Err(io::Error::other("the replica's answer broke off"))));
        }
        let refusal = Refusal::new(
            StatusCode::BAD_GATEWAY,
            "upstream_reset",
            "the replica went away in the middle of its answer; repeat the request",
        );
        let event = [b"\n\n", refusal.event(self.dialect).as_ref()].concat();
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(event)))))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.is_cut() {
            return self.broken();
        }
        // The connection is what wakes us; its channel to `incoming` is filled only while we drive it.
        let mut quiet = Context::from_waker(Waker::noop());
        let mut frame = Pin::new(&mut self.incoming).poll_frame(&mut quiet);
        if frame.is_pending() {
            let closed = self.wire.as_mut().is_none_or(|wire| wire.drive(cx));
            frame = Pin::new(&mut self.incoming).poll_frame(&mut quiet);
            if frame.is_pending() && closed {
                return self.broken();
            }
        }
        match frame {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(Some(Err(_))) => self.broken(),
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // The server does not ask again once the announced length was passed on.
        if !self.ended && self.incoming.is_end_stream() {
            self.end();
        }
    }
}

/// A stream whose status was sent before its request got a slot.
pub(crate) struct Held {
    ticket: Arc<Ticket>,
    dialect: Dialect,
    stage: Stage,
}

enum Stage {
    Waiting(Exchange),
    Forwarding(Box<Forward>),
    /// The replica's answer is an error, which becomes the stream's last event.
    Gathering(Box<Forward>, StatusCode, BytesMut),
    Ended,
}

impl Held {
    pub(crate) const fn new(exchange: Exchange, ticket: Arc<Ticket>, dialect: Dialect) -> Self {
        Self { ticket, dialect, stage: Stage::Waiting(exchange) }
    }

    fn last(&mut self, event: Bytes) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.stage = Stage::Ended;
        Poll::Ready(Some(Ok(Frame::data(event))))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            match &mut self.stage {
                Stage::Waiting(exchange) => {
                    let answer = match exchange.as_mut().poll(cx) {
                        Poll::Ready(Ok(answer)) => answer,
                        Poll::Ready(Err(refusal)) => return self.last(refusal.event(self.dialect)),
                        Poll::Pending if self.ticket.comments.swap(0, Ordering::Relaxed) > 0 => {
                            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(COMMENT)))));
                        }
                        Poll::Pending => return Poll::Pending,
                    };
                    let mut forward = Box::new(answer.body);
                    forward.dialect = self.dialect;
                    self.stage = if answer.head.status.is_success() && forward.events {
                        Stage::Forwarding(forward)
                    } else {
                        // Gathered as a whole, so that a break must not add an event of its own.
                        forward.events = false;
                        Stage::Gathering(forward, answer.head.status, BytesMut::new())
                    };
                }
                Stage::Forwarding(forward) => return forward.poll(cx),
                Stage::Gathering(forward, status, gathered) => match forward.poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(frame))) if gathered.len() < ERROR_BYTES => {
                        gathered.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                    }
                    Poll::Ready(_) => {
                        let event = error_event(*status, gathered, self.dialect);
                        return self.last(event);
                    }
                },
                Stage::Ended => return Poll::Ready(None),
            }
        }
    }
}

/// The last event of a stream for a replica's answer that is no stream.
fn error_event(status: StatusCode, body: &[u8], dialect: Dialect) -> Bytes {
    let given = serde_json::from_slice::<serde_json::Value>(body).ok();
    if let Some(value) = given.filter(|value| status.is_success() || value.get("error").is_some()) {
        return Bytes::from(format!("data: {value}\n\n"));
    }
    let text = String::from_utf8_lossy(body);
    let message = format!("the replica answered `{status}`: {}", text.trim());
    Refusal::new(status, "upstream_error", message).event(dialect)
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

impl ReplyBody {
    /// A replica's answer; `dialect` is that of an error inside it.
    pub(crate) fn forward(mut forward: Forward, dialect: Dialect) -> Self {
        forward.dialect = dialect;
        Self::Forward(Box::new(forward))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Forward(forward) => forward.poll(cx),
            Self::Held(held) => held.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_empty(),
            Self::Forward(forward) => forward.ended || forward.incoming.is_end_stream(),
            Self::Held(held) => matches!(held.stage, Stage::Ended),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Self::Forward(forward) => forward.incoming.size_hint(),
            Self::Held(_) => SizeHint::default(),
        }
    }
}
