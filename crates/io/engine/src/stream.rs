//! The tokens of one request on their way to its client.
//!
//! The model only raises a counter; the text is made when the connection asks for it, so a slow client costs no memory
//! and all tokens due at once go out in one write.

use crate::core::Shared;
use crate::http_guard::HttpGuard;
use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use loadline_sim::engine::RequestId;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// The text of every generated token.
pub(crate) const TOKEN_TEXT: &str = " tok";

/// Most tokens in one write; a client that has fallen behind further gets several.
const MAX_TOKENS_PER_WRITE: u32 = 1024;

/// How far a request has come.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    produced: AtomicU32,
    cached: AtomicU32,
    ended: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Slot {
    /// That many tokens are there.
    pub(crate) fn produce(&self, generated: u32) {
        self.produced.store(generated, Ordering::Release);
        self.wake();
    }

    /// All tokens are there.
    pub(crate) fn finish(&self, cached_tokens: u32) {
        self.cached.store(cached_tokens, Ordering::Release);
        self.end();
    }

    /// No more tokens will come.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Tokens so far, and whether that is the end; remembers who wants to know if there are no more than `sent`.
    fn poll(&self, sent: u32, cx: &Context<'_>) -> Poll<(u32, bool)> {
        let look = || {
            // `ended` first: what was produced before it is then visible.
            let ended = self.ended.load(Ordering::Acquire);
            (self.produced.load(Ordering::Acquire), ended)
        };
        let (produced, ended) = look();
        if produced > sent || ended {
            return Poll::Ready((produced, ended));
        }
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        let (produced, ended) = look();
        if produced > sent || ended { Poll::Ready((produced, ended)) } else { Poll::Pending }
    }

    /// Waits for the end; the number of tokens.
    pub(crate) async fn ended(&self) -> u32 {
        std::future::poll_fn(|cx| match self.poll(u32::MAX, cx) {
            Poll::Ready((produced, true)) => Poll::Ready(produced),
            _ => Poll::Pending,
        })
        .await
    }

    /// Prompt tokens that came from the prefix cache.
    pub(crate) fn cached_tokens(&self) -> u32 {
        self.cached.load(Ordering::Acquire)
    }
}

/// Cancels the request in the model unless it ended by itself.
#[derive(Debug)]
pub(crate) struct CancelOnDrop {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: Option<RequestId>,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.shared.cancel(id);
        }
    }
}

/// The texts of one streamed choice, made once.
#[derive(Debug)]
pub(crate) struct Chunks {
    /// Before the first token.
    pub(crate) opening: String,
    /// Each token but the last.
    pub(crate) token: String,
    /// The last token.
    pub(crate) last: String,
}

/// One choice of an answer.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) slot: Arc<Slot>,
    pub(crate) chunks: Chunks,
    pub(crate) output_tokens: u32,
    pub(crate) sent: u32,
    pub(crate) done: bool,
    pub(crate) cancel: CancelOnDrop,
}

/// A server-sent event stream with one chunk per token; the chunks of several choices come as they are produced.
#[derive(Debug)]
pub(crate) struct TokenStream {
    pub(crate) choices: Vec<Choice>,
    /// After all choices, without the end mark.
    pub(crate) closing: String,
    pub(crate) done: bool,
    /// Ends the request in the server's own counts when the stream ends.
    pub(crate) guard: HttpGuard,
}

impl Choice {
    fn text(&mut self, produced: u32, ended: bool, out: &mut BytesMut) {
        let most = self.sent.saturating_add(MAX_TOKENS_PER_WRITE);
        let (produced, ended) = if produced > most { (most, false) } else { (produced, ended) };
        let due = usize::try_from(produced.saturating_sub(self.sent)).unwrap_or(0);
        let chunk = self.chunks.token.len();
        let extra = self.chunks.opening.len() + self.chunks.last.len();
        out.reserve(due.saturating_mul(chunk).saturating_add(extra));
        if self.sent == 0 && produced > 0 {
            out.extend_from_slice(self.chunks.opening.as_bytes());
        }
        while self.sent < produced {
            self.sent += 1;
            let text = if self.sent == self.output_tokens { &self.chunks.last } else { &self.chunks.token };
            out.extend_from_slice(text.as_bytes());
        }
        if ended {
            self.done = true;
            self.cancel.id = None;
        }
    }
}

impl TokenStream {
    fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<Bytes>> {
        let mut out = BytesMut::new();
        for choice in self.choices.iter_mut().filter(|choice| !choice.done) {
            if let Poll::Ready((produced, ended)) = choice.slot.poll(choice.sent, cx) {
                choice.text(produced, ended, &mut out);
            }
        }
        if self.choices.iter().all(|choice| choice.done) {
            self.done = true;
            if self.choices.iter().all(|choice| choice.sent >= choice.output_tokens) {
                out.extend_from_slice(self.closing.as_bytes());
                out.extend_from_slice(b"data: [DONE]\n\n");
            }
            self.guard.end();
        }
        match (out.is_empty(), self.done) {
            (false, _) => Poll::Ready(Some(out.freeze())),
            (true, true) => Poll::Ready(None),
            (true, false) => Poll::Pending,
        }
    }
}

/// A response body.
#[derive(Debug)]
pub(crate) enum Answer {
    /// All at once.
    Whole(Option<Bytes>),
    /// Token by token.
    Stream(Box<TokenStream>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(stream) => {
                if stream.done {
                    return Poll::Ready(None);
                }
                stream.poll(cx).map(|text| text.map(|text| Ok(Frame::data(text))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream(stream) => stream.done,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                let len = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(len).unwrap_or(u64::MAX))
            }
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
