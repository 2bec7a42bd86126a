//! A local copy of what the API server lists, kept by a watch.

use super::faults::{Key, lock};
use futures_util::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Objects by namespace and name, and a count of changes.
pub(super) struct Mirror<K> {
    objects: Mutex<BTreeMap<Key, Arc<K>>>,
    version: watch::Sender<u64>,
}

impl<K> Mirror<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { objects: Mutex::default(), version: watch::Sender::new(0) })
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(super) fn all(&self) -> Vec<Arc<K>> {
        lock(&self.objects).values().cloned().collect()
    }

    fn put(&self, object: K) {
        lock(&self.objects).insert(key_of(&object), Arc::new(object));
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// Follows the API server for ever; while it is away the copy stays as it was.
    pub(super) async fn follow(self: Arc<Self>, api: Api<K>, wanted: watcher::Config) {
        let mut events = watcher::watcher(api, wanted).default_backoff().boxed();
        let mut fresh = BTreeMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => fresh.clear(),
                Ok(Event::InitApply(object)) => drop(fresh.insert(key_of(&object), Arc::new(object))),
                Ok(Event::InitDone) => {
                    *lock(&self.objects) = std::mem::take(&mut fresh);
                    self.changed();
                }
                Ok(Event::Apply(object)) => {
                    self.put(object);
                    self.changed();
                }
                Ok(Event::Delete(object)) => {
                    lock(&self.objects).remove(&key_of(&object));
                    self.changed();
                }
                Err(error) => tracing::debug!(%error, "a watch is interrupted"),
            }
        }
    }
}

fn key_of<K: Resource<DynamicType = ()>>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}
