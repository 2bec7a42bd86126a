//! The limit on how long an HTTP/2 client may leave its stream's window shut.
//!
//! The socket's own limit does not see that: other streams may go on. While a window is shut the server does not ask the
//! answer for more, so that the answer cannot notice it by itself; the task that sends it does.

use hyper::rt::Executor;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

tokio::task_local! {
    /// What the answer said when it was last asked within this turn of its task: whether it had something to send.
    static ASKED: Cell<Option<bool>>;
}

/// Notes that an answer was asked and whether it had something to send.
pub(crate) fn note(had_something: bool) {
    // Without a task that watches, as for HTTP/1, there is nothing to note.
    let _ = ASKED.try_with(|asked| asked.set(Some(had_something)));
}

/// Runs the tasks of HTTP/2 streams and ends those whose client takes nothing for the given time.
#[derive(Clone)]
pub(crate) struct StreamExecutor {
    limit: Duration,
}

impl StreamExecutor {
    pub(crate) const fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let watched = Watched { stream: Box::pin(stream), limit: self.limit, stalled: None };
        tokio::spawn(ASKED.scope(Cell::new(None), watched));
    }
}

struct Watched<F> {
    stream: Pin<Box<F>>,
    limit: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        // The scope is always there, as `execute` makes it.
        let _ = ASKED.try_with(|asked| asked.set(None));
        if this.stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match ASKED.try_with(Cell::get) {
            // It gave something, and its client has no room for more.
            Ok(Some(true)) => this.stalled = Some(Box::pin(tokio::time::sleep(this.limit))),
            // It has nothing to give.
            Ok(Some(false)) => this.stalled = None,
            Ok(None) | Err(_) => {}
        }
        // Dropping the stream resets it and frees what it holds.
        this.stalled.as_mut().map_or(Poll::Pending, |stalled| stalled.as_mut().poll(cx))
    }
}
