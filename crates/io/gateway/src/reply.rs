//! The body of an answer: forwarded, held with comments, or our own.

use crate::error::{Dialect, Refusal};
use crate::exchange::Answer;
use crate::model::{Lease, Ticket};
use crate::route;
use crate::stall;
use crate::upstream::{Upstream, Wire};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use loadline_base::Timestamp;
use serde::de::IgnoredAny;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

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
    /// It is a plain event stream.
    events: bool,
    /// The client was told its length, so that no event can be added.
    sized: bool,
    dialect: Dialect,
    started: Timestamp,
    silence: Silence,
    ended: bool,
}

/// Watches how long a replica says nothing within its answer. Nothing is set up for answers that come without a pause.
#[derive(Default)]
struct Silence {
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    /// True once the silence has lasted for `limit`; called whenever there is nothing to pass on.
    fn is_over(&mut self, limit: Duration, cx: &mut Context<'_>) -> bool {
        let until = self.since.get_or_insert_with(Instant::now).checked_add(limit);
        let Some(until) = until else { return false };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        // The timer of an earlier silence is moved only when it goes off, as most silences end soon.
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                return true;
            }
            timer.as_mut().reset(until);
        }
        false
    }
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
        let events = is_event_stream(headers) && route::content_coding(headers).is_none();
        let (sized, dialect) = (incoming.size_hint().exact().is_some(), Dialect::OpenAi);
        let (wire, silence, ended) = (Some(wire), Silence::default(), false);
        Self { lease, upstream, wire, incoming, events, sized, dialect, started, silence, ended }
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

    /// The answer broke off.
    fn broken(&mut self) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let message = "the replica went away in the middle of its answer; repeat the request";
        self.break_off(StatusCode::BAD_GATEWAY, "upstream_reset", message)
    }

    /// Ends the answer before its end: with a last event for event streams, a broken connection for all others.
    ///
    /// What was passed on may end within an event. The blank line before the last event closes that one, as there is no
    /// way to take it back, and is without effect between events.
    fn break_off(
        &mut self,
        status: StatusCode,
        code: &'static str,
        message: &str,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.wire = None;
        self.ended = true;
        self.lease.model.metrics.broken.add(1);
        self.lease.finish();
        if !self.events || self.sized {
            return Poll::Ready(Some(Err(io::Error::other("the replica's answer broke off"))));
        }
        let refusal = Refusal::new(status, code, message);
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
            Poll::Ready(Some(Ok(frame))) => {
                self.silence.since = None;
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => self.broken(),
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Pending if self.silence.is_over(self.lease.shared.settings.stream_idle_timeout, cx) => {
                let message = "the replica fell silent in the middle of its answer; repeat the request";
                self.break_off(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", message)
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
    /// A comment was sent and no event yet.
    is_commented: bool,
}

/// Sent in one piece with the first event behind a comment: an empty comment of its own. Some clients (`vllm bench serve` 0.32) strip
/// each network read before they look for the end of an event, so that a comment that arrives alone would swallow the event behind it.
const LEAD: &[u8] = b":\n\n";

enum Stage {
    Waiting(Exchange),
    Forwarding(Box<Forward>),
    /// The replica's answer is an error, which becomes the stream's last event.
    Gathering(Box<Forward>, StatusCode, BytesMut),
    Ended,
}

impl Held {
    pub(crate) const fn new(exchange: Exchange, ticket: Arc<Ticket>, dialect: Dialect) -> Self {
        Self { ticket, dialect, stage: Stage::Waiting(exchange), is_commented: false }
    }

    fn last(&mut self, event: Bytes) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.stage = Stage::Ended;
        Poll::Ready(Some(Ok(Frame::data(self.led(event)))))
    }

    /// The first event behind a comment, with its lead; anything else as it is.
    fn led(&mut self, event: Bytes) -> Bytes {
        if std::mem::take(&mut self.is_commented) { Bytes::from([LEAD, &event[..]].concat()) } else { event }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            match &mut self.stage {
                Stage::Waiting(exchange) => {
                    let answer = match exchange.as_mut().poll(cx) {
                        Poll::Ready(Ok(answer)) => answer,
                        Poll::Ready(Err(refusal)) => return self.last(refusal.event(self.dialect)),
                        Poll::Pending if self.ticket.comments.swap(0, Ordering::Relaxed) > 0 => {
                            self.is_commented = true;
                            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(COMMENT)))));
                        }
                        Poll::Pending => return Poll::Pending,
                    };
                    if let Some(coding) = route::content_coding(&answer.head.headers) {
                        let coding = route::echo(&String::from_utf8_lossy(coding.as_bytes()));
                        let message =
                            format!("the replica answered in the encoding `{coding}`, which was not asked for");
                        let refusal = Refusal::new(StatusCode::BAD_GATEWAY, "upstream_error", message);
                        return self.last(refusal.event(self.dialect));
                    }
                    let mut forward = Box::new(answer.body);
                    forward.dialect = self.dialect;
                    forward.sized = false;
                    self.stage = if answer.head.status.is_success() && forward.events {
                        Stage::Forwarding(forward)
                    } else {
                        // Gathered as a whole, so that a break must not add an event of its own.
                        forward.events = false;
                        Stage::Gathering(forward, answer.head.status, BytesMut::new())
                    };
                }
                Stage::Forwarding(forward) => {
                    let frame = forward.poll(cx);
                    return frame.map_ok(|frame| frame.map_data(|event| self.led(event)));
                }
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
    let is_json = serde_json::from_slice::<IgnoredAny>(body).is_ok();
    let is_error = serde_json::from_slice::<BTreeMap<Cow<'_, str>, IgnoredAny>>(body)
        .is_ok_and(|members| members.contains_key("error"));
    if is_error || (is_json && status.is_success()) {
        let name: &[u8] = if is_error { dialect.event_name() } else { b"" };
        let mut event = [name, b"data: ", body.trim_ascii(), b"\n\n"].concat();
        // Ends of lines stand only between the tokens of JSON, where a blank is as good; an event has one line.
        let line = event.len().saturating_sub(2);
        for byte in event.iter_mut().take(line).skip(name.len()).filter(|byte| matches!(byte, b'\n' | b'\r')) {
            *byte = b' ';
        }
        return Bytes::from(event);
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

fn noted<T>(frame: Poll<T>) -> Poll<T> {
    stall::note(frame.is_ready());
    frame
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Forward(forward) => noted(forward.poll(cx)),
            Self::Held(held) => noted(held.poll(cx)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_silence_of_the_whole_span_is_over() {
        let limit = Duration::from_secs(10);
        let mut silence = Silence::default();
        let mut lasted = Duration::ZERO;
        let start = Instant::now();
        // Words after 6 s each; then none.
        for spoken in [true, true, true, false] {
            let mut next = std::pin::pin!(tokio::time::sleep(Duration::from_secs(6)));
            let over = std::future::poll_fn(|cx| {
                if silence.is_over(limit, cx) {
                    return Poll::Ready(true);
                }
                if spoken { next.as_mut().poll(cx).map(|()| false) } else { Poll::Pending }
            })
            .await;
            assert_eq!(over, !spoken);
            silence.since = None;
            lasted = start.elapsed();
        }
        assert!(lasted >= Duration::from_secs(28) && lasted < Duration::from_secs(29), "{lasted:?}");
    }
}
