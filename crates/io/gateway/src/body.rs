//! Reading a request body into memory that was reserved for it first.

use crate::error::Refusal;
use crate::shared::{PERMIT_BYTES, Shared};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};

/// Room is reserved in steps of this size when the length is not known.
const STEP_BYTES: u64 = 64 * 1024;
/// At most this much is set aside for a body before its bytes come.
const FIRST_BYTES: u64 = 1024 * 1024;

/// A body, and the room it takes.
pub(crate) struct Kept {
    pub(crate) bytes: Bytes,
    room: Option<OwnedSemaphorePermit>,
}

impl Kept {
    /// Copies a small body out of the connection's read buffer, so that the buffer can be given back while it waits.
    pub(crate) fn compact(&mut self) {
        self.bytes = Bytes::copy_from_slice(&self.bytes);
    }
}

/// Reads a body of at most `limit` bytes. What would never fit into the room is too large as well.
pub(crate) async fn read(shared: &Arc<Shared>, mut incoming: Incoming, limit: u64) -> Result<Kept, Refusal> {
    let limit = limit.min(u64::from(shared.room_total).saturating_mul(PERMIT_BYTES));
    let hint = incoming.size_hint();
    let exact = hint.exact();
    if hint.lower() > limit {
        return Err(too_large(limit));
    }
    let mut kept = Kept { bytes: Bytes::new(), room: None };
    if let Some(total) = exact {
        reserve(shared, &mut kept.room, total).await?;
    }
    let mut gathered = BytesMut::new();
    let mut reserved = exact.unwrap_or(0);
    let mut size = 0_u64;
    let mut pace = Pace::new(shared);
    while let Some(data) = next_chunk(&mut incoming, pace.patience(size)).await? {
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        size = size.saturating_add(length);
        if size > limit {
            return Err(too_large(limit));
        }
        if exact == Some(length) && gathered.is_empty() {
            kept.bytes = data;
            return Ok(kept);
        }
        while exact.is_none() && reserved < size {
            let step = STEP_BYTES.min(limit.saturating_sub(reserved));
            let before = Instant::now();
            reserve(shared, &mut kept.room, step).await?;
            pace.pause(before.elapsed());
            reserved = reserved.saturating_add(step);
        }
        if gathered.is_empty() {
            let first = exact.unwrap_or(length).min(FIRST_BYTES).max(length);
            gathered.reserve(usize::try_from(first).unwrap_or(0));
        }
        gathered.extend_from_slice(&data);
    }
    kept.bytes = gathered.freeze();
    Ok(kept)
}

/// How long the next bytes of a body may take: a silence is bounded, and so is a trickle that holds room for hours.
struct Pace {
    silence: Duration,
    rate: u64,
    started: Instant,
}

impl Pace {
    fn new(shared: &Shared) -> Self {
        let settings = &shared.settings;
        Self { silence: settings.body_read_timeout, rate: settings.min_body_rate.max(1), started: Instant::now() }
    }

    /// Our own waiting is not the client's.
    fn pause(&mut self, span: Duration) {
        self.started += span;
    }

    fn patience(&self, size: u64) -> Duration {
        let in_all = self.silence.saturating_add(Duration::from_secs(size / self.rate));
        in_all.saturating_sub(self.started.elapsed()).min(self.silence)
    }
}

async fn next_chunk(incoming: &mut Incoming, limit: Duration) -> Result<Option<Bytes>, Refusal> {
    loop {
        let frame = match tokio::time::timeout(limit, incoming.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => {
                let message = format!("the body broke off: {error}");
                return Err(Refusal::new(StatusCode::BAD_REQUEST, "body_incomplete", message).closing());
            }
            Err(_) => {
                let message = "the body came too slowly or not at all; send it faster";
                return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message).closing());
            }
        };
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
}

/// Waits for room; while there is none the body stays unread, which stops its sender.
async fn reserve(shared: &Arc<Shared>, room: &mut Option<OwnedSemaphorePermit>, bytes: u64) -> Result<(), Refusal> {
    let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
    if permits == 0 {
        return Ok(());
    }
    let more = match Arc::clone(&shared.room).try_acquire_many_owned(permits) {
        Ok(more) => Some(more),
        Err(TryAcquireError::Closed) => None,
        Err(TryAcquireError::NoPermits) => {
            let wait = Arc::clone(&shared.room).acquire_many_owned(permits);
            tokio::time::timeout(shared.settings.body_read_timeout, wait).await.ok().and_then(Result::ok)
        }
    };
    let Some(more) = more else {
        let message = "the memory for waiting request bodies is used up; repeat later";
        let mut refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message).closing();
        refusal.retry_after = Some(Duration::from_secs(1));
        refusal.dropped = Some("rejected-saturated");
        return Err(refusal);
    };
    match room {
        Some(room) => room.merge(more),
        None => *room = Some(more),
    }
    Ok(())
}

fn too_large(limit: u64) -> Refusal {
    let message = format!("the body is larger than {limit} bytes; send less or raise `maxBodyBytes`");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message).useless_to_repeat().closing()
}
