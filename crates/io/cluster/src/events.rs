//! Events, counted where they repeat, bounded where they rush, and never in anybody's way.

mod book;
#[cfg(test)]
mod tests;

use crate::error::ClusterError;
use crate::key::Key;
use crate::rest::Rest;
use crate::settings::{COMPONENT, ClusterSettings};
use crate::snapshot::AutoscalerSeen;
use crate::time::rfc3339;
use book::{Book, Entry, Post};
use loadline_manifest::autoscaler::{GROUP, KIND, VERSION};
use loadline_net::clock::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Reasons of events and conditions; the first group is the HPA controller's own vocabulary.
pub mod reason {
    /// A new count was written.
    pub const SUCCESSFUL_RESCALE: &str = "SuccessfulRescale";
    /// The target's scale cannot be read.
    pub const FAILED_GET_SCALE: &str = "FailedGetScale";
    /// The target's scale cannot be written (the condition's reason).
    pub const FAILED_UPDATE_SCALE: &str = "FailedUpdateScale";
    /// The target's scale cannot be written (the event's reason).
    pub const FAILED_RESCALE: &str = "FailedRescale";
    /// No count can be computed.
    pub const FAILED_COMPUTE_METRICS_REPLICAS: &str = "FailedComputeMetricsReplicas";
    /// The scale's selector is missing or wrong.
    pub const INVALID_SELECTOR: &str = "InvalidSelector";
    /// Status cannot be written.
    pub const FAILED_UPDATE_STATUS: &str = "FailedUpdateStatus";
    /// A pod could not be marked as the one to remove.
    pub const FAILED_DELETION_COST: &str = "FailedDeletionCost";
    /// Somebody else wrote the count (law L10).
    pub const FOREIGN_WRITE: &str = "ForeignWrite";
    /// Somebody else scales the same target.
    pub const CONFLICTING_AUTOSCALER: &str = "ConflictingAutoscaler";
    /// The spec cannot be carried out.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// Evidence is missing.
    pub const EVIDENCE_MISSING: &str = "EvidenceMissing";
    /// A wake was carried out.
    pub const WOKEN: &str = "Woken";
    /// Pods cannot be scheduled or do not start.
    pub const REPLICAS_STUCK: &str = "ReplicasStuck";
}

/// How loud an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    /// Something happened.
    Normal,
    /// Something is wrong.
    Warning,
}

impl EventKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectRef {
    /// `group/version` or `v1`.
    pub api_version: Arc<str>,
    /// The kind.
    pub kind: Arc<str>,
    /// Which.
    pub key: Key,
    /// Its uid; `kubectl describe` finds events by it.
    pub uid: Arc<str>,
}

impl ObjectRef {
    /// An InferenceAutoscaler.
    #[must_use]
    pub fn autoscaler(seen: &AutoscalerSeen) -> Self {
        Self::new(&format!("{GROUP}/{VERSION}"), KIND, seen.key.clone(), &seen.uid)
    }

    /// Any object.
    #[must_use]
    pub fn new(api_version: &str, kind: &str, key: Key, uid: &str) -> Self {
        Self { api_version: api_version.into(), kind: kind.into(), key, uid: uid.into() }
    }
}

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventNote {
    /// About what.
    pub about: ObjectRef,
    /// How loud.
    pub kind: EventKind,
    /// In one word, see [`reason`].
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Takes events; cheap to clone.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<EventNote>,
    dropped: Arc<AtomicU64>,
}

impl Events {
    pub(crate) fn start(
        rest: Rest,
        clock: Clock,
        settings: &ClusterSettings,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Self {
        let (queue, notes) = mpsc::channel(settings.event_queue.max(1));
        let dropped = Arc::new(AtomicU64::new(0));
        let book = Book::new(settings.events_per_minute, settings.event_queue);
        let writer = Writer { rest, clock, identity: settings.identity.as_str().into(), dropped: Arc::clone(&dropped) };
        tasks.spawn(writer.run(book, notes, cancel.clone()));
        Self { queue, dropped }
    }

    /// Notes an event. Returns at once: where the queue is full the event is dropped and counted.
    pub fn record(&self, note: EventNote) {
        if self.queue.try_send(note).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Events that were dropped since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// How often events that had to wait are looked at.
const TICK: Duration = Duration::from_secs(2);
/// How long what is queued at the end may take to be written.
const FAREWELL: Duration = Duration::from_secs(2);

struct Writer {
    rest: Rest,
    clock: Clock,
    identity: Arc<str>,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    async fn run(self, mut book: Book, mut notes: mpsc::Receiver<EventNote>, cancel: CancellationToken) {
        loop {
            tokio::select! {
                note = notes.recv() => match note {
                    Some(note) => book.note(self.clock.now(), note),
                    None => break,
                },
                () = self.clock.sleep(TICK) => {}
                () = cancel.cancelled() => break,
            }
            self.flush(&mut book).await;
        }
        notes.close();
        while let Ok(note) = notes.try_recv() {
            book.note(self.clock.now(), note);
        }
        if tokio::time::timeout(FAREWELL, self.flush(&mut book)).await.is_err() {
            tracing::debug!("some events were not written before the end");
        }
    }

    async fn flush(&self, book: &mut Book) {
        while let Some(post) = book.due(self.clock.now()) {
            match self.write(&post).await {
                Ok(()) => book.written(&post),
                Err(error) => {
                    let retry = error.is_transient();
                    let level_text = error.to_string();
                    tracing::warn!(reason = post.entry.reason, object = %post.entry.about.key, error = level_text, retry, "an event was not written");
                    book.failed(self.clock.now(), &post, retry);
                    if retry {
                        break;
                    }
                }
            }
        }
        self.dropped.fetch_add(book.take_dropped(), Ordering::Relaxed);
    }

    async fn write(&self, post: &Post) -> Result<(), ClusterError> {
        let entry = &post.entry;
        let folder = format!("/api/v1/namespaces/{}/events", entry.about.key.namespace);
        let what = format!("write event {} of {}", entry.reason, entry.about.key);
        if post.is_repeat {
            let body = serde_json::json!({
                "count": entry.count, "lastTimestamp": rfc3339(entry.last), "message": entry.message,
            });
            let path = format!("{folder}/{}?fieldManager={COMPONENT}", post.name);
            match self.rest.patch::<_, serde_json::Value>(&what, &path, &body).await {
                // events end after an hour; then it is told anew
                Err(ClusterError::NotFound { .. }) => {}
                other => return other.map(drop),
            }
        }
        let path = format!("{folder}?fieldManager={COMPONENT}");
        match self.rest.post::<_, serde_json::Value>(&what, &path, &self.body(&post.name, entry)).await {
            // a try whose answer was lost
            Err(ClusterError::Conflict { .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    fn body(&self, name: &str, entry: &Entry) -> serde_json::Value {
        let about = &entry.about;
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "name": name, "namespace": about.key.namespace },
            "involvedObject": {
                "apiVersion": about.api_version, "kind": about.kind, "namespace": about.key.namespace,
                "name": about.key.name, "uid": about.uid,
            },
            "type": entry.kind.name(),
            "reason": entry.reason,
            "message": entry.message,
            "firstTimestamp": rfc3339(entry.first),
            "lastTimestamp": rfc3339(entry.last),
            "count": entry.count,
            "source": { "component": COMPONENT },
            "reportingComponent": COMPONENT,
            "reportingInstance": self.identity,
        })
    }
}
