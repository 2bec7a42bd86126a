//! What the writer puts into the cluster beside counts: status and memory. Both are levels; only the newest of each is on its way.

use loadline_base::{ModelId, PoolId, Timestamp};
use loadline_cluster::{AutoscalerSeen, Checkpoints, Key, StatusOutcome, StatusWriter};
use loadline_manifest::autoscaler::InferenceAutoscalerStatus;
use loadline_net::Clock;
use loadline_policy::Memory;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// After a failed or deferred write, before the next try of the same object.
const RETRY: Duration = Duration::from_secs(2);

/// A status to write.
#[derive(Debug, Clone)]
pub(crate) struct StatusNote {
    /// Of which autoscaler.
    pub(crate) seen: Arc<AutoscalerSeen>,
    /// What it shall say.
    pub(crate) status: InferenceAutoscalerStatus,
}

/// Memory to store.
#[derive(Debug, Clone)]
pub(crate) struct MemoryNote {
    /// Of which pool.
    pub(crate) pool: PoolId,
    /// Of which autoscaler.
    pub(crate) autoscaler: Key,
    /// Its uid.
    pub(crate) uid: Arc<str>,
    /// What to remember.
    pub(crate) memory: Memory,
}

/// Memory that was found.
#[derive(Debug, Clone)]
pub(crate) struct Remembered {
    /// Of which autoscaler.
    pub(crate) autoscaler: Key,
    /// Its uid then; another one now is another autoscaler.
    pub(crate) uid: Arc<str>,
    /// What it remembered.
    pub(crate) memory: Memory,
}

#[derive(Debug, Default)]
struct Pending {
    statuses: BTreeMap<Key, StatusNote>,
    memories: BTreeMap<Key, (Arc<str>, BTreeMap<PoolId, Memory>)>,
    /// Autoscalers whose memory is to be written.
    due: BTreeMap<Key, ()>,
}

/// Writes both, from tasks of its own; a slow API server never holds a decision up.
#[derive(Clone)]
pub(crate) struct Stores {
    statuses: StatusWriter,
    checkpoints: Checkpoints,
    clock: Clock,
    pending: Arc<Mutex<Pending>>,
    wake_statuses: Arc<Notify>,
    wake_memories: Arc<Notify>,
}

impl Stores {
    /// Nothing is pending.
    pub(crate) fn new(statuses: StatusWriter, checkpoints: Checkpoints, clock: Clock) -> Self {
        let (pending, wake_statuses, wake_memories) = (Arc::default(), Arc::default(), Arc::default());
        Self { statuses, checkpoints, clock, pending, wake_statuses, wake_memories }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the place of an older status that is still to be written.
    pub(crate) fn status(&self, note: StatusNote) {
        self.lock().statuses.insert(note.seen.key.clone(), note);
        self.wake_statuses.notify_one();
    }

    /// Takes the place of older memory of the pool that is still to be written.
    pub(crate) fn memory(&self, note: MemoryNote) {
        let MemoryNote { pool, autoscaler, uid, memory } = note;
        let mut pending = self.lock();
        let entry = pending.memories.entry(autoscaler.clone()).or_insert_with(|| (Arc::clone(&uid), BTreeMap::new()));
        if entry.0 != uid {
            // another autoscaler of the same name remembers nothing of the one before
            *entry = (uid, BTreeMap::new());
        }
        entry.1.insert(pool, memory);
        pending.due.insert(autoscaler, ());
        self.wake_memories.notify_one();
    }

    /// Everything that an earlier writer stored; what cannot be read is left out and said.
    pub(crate) fn read(&self) -> impl Future<Output = Result<BTreeMap<ModelId, Remembered>, String>> + Send + use<> {
        let stores = self.clone();
        async move {
            let found = stores.checkpoints.load_all().await.map_err(|error| error.to_string())?;
            let mut out = BTreeMap::new();
            let mut pending = stores.lock();
            (pending.memories, pending.due) = (BTreeMap::new(), BTreeMap::new());
            for (key, seen) in found {
                match serde_json::from_str::<BTreeMap<PoolId, Memory>>(&seen.json) {
                    Ok(memories) => {
                        let (autoscaler, uid) = (&key, &seen.uid);
                        out.extend(memories.iter().map(|(pool, memory)| {
                            let (autoscaler, uid, memory) = (autoscaler.clone(), Arc::clone(uid), memory.clone());
                            (ModelId::new(pool.as_str()), Remembered { autoscaler, uid, memory })
                        }));
                        pending.memories.insert(key, (seen.uid, memories));
                    }
                    Err(error) => {
                        tracing::warn!(autoscaler = %key, %error, "its checkpoint cannot be read and is not used")
                    }
                }
            }
            Ok(out)
        }
    }

    /// Removes what is stored of autoscalers that are gone.
    pub(crate) fn remove<'k>(&self, gone: impl Iterator<Item = &'k Key>) {
        let mut pending = self.lock();
        for key in gone {
            pending.memories.remove(key);
            self.statuses.forget(key);
            pending.due.insert(key.clone(), ());
            self.wake_memories.notify_one();
        }
    }

    /// Writes statuses until cancelled, while this process is the writer.
    pub(crate) async fn write_statuses(self, is_writer: watch::Receiver<bool>, cancel: CancellationToken) {
        loop {
            if !self.woken(&self.wake_statuses, &cancel).await {
                return;
            }
            let due = std::mem::take(&mut self.lock().statuses);
            for (key, note) in due {
                if !*is_writer.borrow() {
                    break;
                }
                let outcome = self.statuses.write(&note.seen, note.status.clone()).await;
                let again = match outcome {
                    Ok(StatusOutcome::Written | StatusOutcome::Unchanged) => false,
                    Ok(StatusOutcome::Deferred) => true,
                    Err(error) => {
                        tracing::warn!(autoscaler = %key, %error, "its status cannot be written");
                        error.is_transient()
                    }
                };
                if again {
                    self.lock().statuses.entry(key).or_insert(note);
                }
            }
            let has_more = !self.lock().statuses.is_empty();
            self.rest(&cancel, &self.wake_statuses, has_more).await;
        }
    }

    /// Writes memories until cancelled, while this process is the writer.
    pub(crate) async fn write_memories(self, is_writer: watch::Receiver<bool>, cancel: CancellationToken) {
        loop {
            if !self.woken(&self.wake_memories, &cancel).await {
                return;
            }
            let due = std::mem::take(&mut self.lock().due);
            for key in due.into_keys() {
                let note = self.lock().memories.get(&key).cloned();
                if !*is_writer.borrow() {
                    continue;
                }
                let Some((uid, memories)) = note else {
                    if let Err(error) = self.checkpoints.remove(&key).await {
                        tracing::warn!(autoscaler = %key, %error, "the memory of this deleted autoscaler cannot be removed");
                    }
                    continue;
                };
                let Ok(json) = serde_json::to_string(&memories) else { continue };
                if let Err(error) = self.checkpoints.store(&key, &uid, &json).await {
                    tracing::warn!(autoscaler = %key, %error, "its memory cannot be stored; a restart now would hold its scale-down for a while");
                    if error.is_transient() {
                        self.lock().due.insert(key, ());
                    }
                }
            }
            let has_more = !self.lock().due.is_empty();
            self.rest(&cancel, &self.wake_memories, has_more).await;
        }
    }

    async fn woken(&self, wake: &Notify, cancel: &CancellationToken) -> bool {
        tokio::select! {
            () = cancel.cancelled() => false,
            () = wake.notified() => true,
        }
    }

    /// Before what is left over is tried again.
    async fn rest(&self, cancel: &CancellationToken, wake: &Notify, has_more: bool) {
        if has_more {
            let until: Timestamp = self.clock.now().plus(RETRY);
            tokio::select! {
                () = cancel.cancelled() => {}
                () = self.clock.sleep_until(until) => wake.notify_one(),
            }
        }
    }
}
