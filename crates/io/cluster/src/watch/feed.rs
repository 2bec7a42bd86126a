//! One watch, kept alive.

use crate::error::sources;
use futures_util::StreamExt;
use kube::core::ApiResource;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use loadline_net::clock::Clock;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// The server ends a watch after this; it is then resumed where it was. Also bounds how long a dead connection goes unnoticed.
const WATCH_SECONDS: u32 = 60;
/// Longest wait for the next object of a list.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);
/// First pause after a failure.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// Longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A watch that says nothing for this long after a failure is up again: connecting takes at most [`crate::client::CONNECT_TIMEOUT`].
const ALIVE_AFTER: Duration = Duration::from_millis(2_500);

/// Where objects are watched.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope {
    namespace: Option<Arc<str>>,
    fields: Option<String>,
}

impl Scope {
    pub(crate) fn of(scope: &crate::settings::WatchScope) -> Self {
        match scope {
            crate::settings::WatchScope::Cluster => Self::default(),
            crate::settings::WatchScope::Namespace(name) => {
                Self { namespace: Some(name.as_str().into()), fields: None }
            }
        }
    }

    pub(crate) fn one(namespace: &str, name: &str) -> Self {
        Self { namespace: Some(namespace.into()), fields: Some(format!("metadata.name={name}")) }
    }

    pub(crate) fn api<O>(&self, client: Client, resource: &ApiResource) -> Api<O>
    where
        O: Resource<DynamicType = ApiResource>,
        O: Resource<Scope = kube::core::DynamicResourceScope>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, resource),
            None => Api::all_with(client, resource),
        }
    }

    pub(crate) fn config(&self, page_size: u32) -> watcher::Config {
        let config = watcher::Config::default().page_size(page_size).timeout(WATCH_SECONDS);
        match &self.fields {
            Some(fields) => config.fields(fields),
            None => config,
        }
    }
}

/// What a watch says.
#[derive(Debug)]
pub(crate) enum Change<K, V> {
    /// Everything there is; what is not in it is gone.
    Whole(BTreeMap<K, V>),
    /// One object is new or different.
    Apply(K, V),
    /// One object is gone.
    Delete(K),
    /// The watch fails.
    Failing { why: Arc<str> },
    /// The watch works again, with nothing to tell.
    Alive,
}

/// Runs a watch until its kind is gone. `map` names an object and makes the small value that is kept; objects without a
/// name are passed over.
pub(crate) async fn run<O, K, V, F>(
    api: Api<O>,
    config: watcher::Config,
    clock: &Clock,
    mut map: impl FnMut(O) -> Option<(K, V)>,
    mut sink: impl FnMut(Change<K, V>) -> F,
) where
    O: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K: Ord,
    F: Future<Output = ()>,
{
    let mut failures = 0_u32;
    loop {
        let mut stream = pin!(watcher(api.clone(), config.clone()).fuse());
        let mut whole: Option<BTreeMap<K, V>> = None;
        loop {
            let wait = if whole.is_some() {
                LIST_TIMEOUT
            } else if failures > 0 {
                ALIVE_AFTER
            } else {
                Duration::MAX
            };
            let event = match tokio::time::timeout(wait, stream.next()).await {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(_) if whole.is_some() => {
                    sink(Change::Failing { why: "the list did not arrive in time".into() }).await;
                    failures += 1;
                    break;
                }
                Err(_) => {
                    failures = 0;
                    sink(Change::Alive).await;
                    continue;
                }
            };
            match event {
                Ok(watcher::Event::Init) => whole = Some(BTreeMap::new()),
                Ok(watcher::Event::InitApply(object)) => {
                    if let Some((key, value)) = map(object) {
                        whole.get_or_insert_default().insert(key, value);
                    }
                }
                Ok(watcher::Event::InitDone) => {
                    failures = 0;
                    sink(Change::Whole(whole.take().unwrap_or_default())).await;
                }
                Ok(watcher::Event::Apply(object)) => {
                    failures = 0;
                    if let Some((key, value)) = map(object) {
                        sink(Change::Apply(key, value)).await;
                    }
                }
                Ok(watcher::Event::Delete(object)) => {
                    failures = 0;
                    if let Some((key, _)) = map(object) {
                        sink(Change::Delete(key)).await;
                    }
                }
                Err(error) => {
                    let end = classify(&error);
                    if end == After::KindGone {
                        return;
                    }
                    sink(Change::Failing { why: sources(&error).into() }).await;
                    clock.sleep(backoff(failures)).await;
                    failures = failures.saturating_add(1);
                    whole = None;
                    if end == After::Relist {
                        break;
                    }
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// Go on with the same watch: it resumes where it was.
    Resume,
    /// The place to resume at is gone (compaction): list again.
    Relist,
    /// The kind does not exist (any more).
    KindGone,
}

fn classify(error: &watcher::Error) -> After {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404 => After::KindGone,
        // a 410 inside the stream starts the watcher over by itself; one that answers the request does not
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 404 => After::KindGone,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410 || status.code == 504 => {
            After::Relist
        }
        watcher::Error::WatchError(status) if status.code != 410 => After::Relist,
        watcher::Error::WatchFailed(kube::Error::SerdeError(_)) | watcher::Error::NoResourceVersion => After::Relist,
        _ => After::Resume,
    }
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(BACKOFF_MAX)
}
