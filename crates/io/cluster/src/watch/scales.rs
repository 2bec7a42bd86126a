//! Scale targets: watches of their objects, and reads of those scales that an object does not show.

use super::Told;
use super::feed::{self, Change, Scope};
use super::parse::{self, ObjectSeen};
use crate::client::Cluster;
use crate::error::ClusterError;
use crate::key::{Key, TargetKey};
use crate::mapper::ScaleResource;
use crate::scale::Scale;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kube::core::{DynamicObject, PartialObjectMeta};
use loadline_base::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Kinds of targets watched at once.
const MAX_KINDS: usize = 64;
/// Scales read at once.
const MAX_READS: usize = 16;
/// Nudges waiting.
const NUDGES: usize = 4_096;

/// The targets that somebody names, with the `apiVersion` as written.
pub(crate) type Wanted = Arc<BTreeMap<TargetKey, Arc<str>>>;
type Kind = (Arc<str>, Arc<str>);

/// What the store hears of targets.
pub(crate) enum TargetNews {
    /// The kind of these targets cannot be watched.
    Unresolved(TargetKey, ClusterError),
    /// A watch of a kind whose objects show their scale: group and kind.
    Objects(Kind, Change<Key, ObjectSeen>),
    /// A watch of another kind fails or works again.
    Watch(Kind, Option<Arc<str>>),
    /// A scale was read.
    Scale(TargetKey, Timestamp, Result<Scale, ClusterError>),
}

pub(crate) fn start(
    cluster: &Cluster,
    told: mpsc::Sender<Told>,
    wanted: watch::Receiver<Wanted>,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) {
    let (nudge_tx, nudges) = mpsc::channel(NUDGES);
    let keeper = Keeper {
        cluster: cluster.clone(),
        told,
        tasks: tasks.clone(),
        cancel: cancel.clone(),
        nudge: nudge_tx,
        kinds: BTreeMap::new(),
        read: BTreeMap::new(),
        due: BTreeMap::new(),
        resolve_again: None,
    };
    let cancel = cancel.clone();
    tasks.spawn(async move {
        tokio::select! { () = keeper.run(wanted, nudges) => {}, () = cancel.cancelled() => {} }
    });
}

struct Followed {
    resource: Arc<ScaleResource>,
    cancel: CancellationToken,
}

struct Keeper {
    cluster: Cluster,
    told: mpsc::Sender<Told>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    nudge: mpsc::Sender<(Kind, Option<Key>)>,
    kinds: BTreeMap<Kind, Followed>,
    /// Targets whose scale has to be read, with the time of the last read.
    read: BTreeMap<TargetKey, Option<Instant>>,
    /// When each is due next.
    due: BTreeMap<TargetKey, Instant>,
    /// When kinds that could not be found are looked for again.
    resolve_again: Option<Instant>,
}

impl Keeper {
    async fn run(mut self, mut wanted: watch::Receiver<Wanted>, mut nudges: mpsc::Receiver<(Kind, Option<Key>)>) {
        let mut reads = FuturesUnordered::new();
        let mut reading: BTreeSet<TargetKey> = BTreeSet::new();
        let first = Arc::clone(&wanted.borrow_and_update());
        self.follow(&first).await;
        loop {
            let now = Instant::now();
            let free = MAX_READS.saturating_sub(reads.len());
            let ready: Vec<TargetKey> = self
                .due
                .iter()
                .filter(|(target, at)| **at <= now && !reading.contains(*target))
                .map(|(target, _)| target.clone())
                .take(free)
                .collect();
            for target in ready {
                self.due.insert(target.clone(), now + self.cluster.settings.scale_resync);
                self.read.insert(target.clone(), Some(now));
                if let Some(followed) = self.kinds.get(&kind_of(&target)) {
                    reading.insert(target.clone());
                    reads.push(read(self.cluster.clone(), Arc::clone(&followed.resource), target));
                }
            }
            let next = self.due.iter().filter(|(target, _)| !reading.contains(*target)).map(|(_, at)| *at);
            let wake = next.chain(self.resolve_again).min().unwrap_or_else(|| now + self.cluster.settings.scale_resync);
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now_wanted = Arc::clone(&wanted.borrow_and_update());
                    self.follow(&now_wanted).await;
                }
                Some((kind, key)) = nudges.recv() => self.nudged(&kind, key.as_ref()),
                Some((target, at, outcome)) = reads.next(), if !reads.is_empty() => {
                    reading.remove(&target);
                    if self.read.contains_key(&target) {
                        if outcome.is_err() {
                            self.due.insert(target.clone(), Instant::now() + self.cluster.settings.heartbeat);
                        }
                        self.tell(TargetNews::Scale(target, at, outcome)).await;
                    }
                }
                () = tokio::time::sleep_until(wake) => {
                    if self.resolve_again.is_some_and(|at| at <= Instant::now()) {
                        let now_wanted = Arc::clone(&wanted.borrow());
                        self.follow(&now_wanted).await;
                    }
                }
            }
        }
    }

    /// Watches the kinds that are named, and no others.
    async fn follow(&mut self, wanted: &Wanted) {
        self.resolve_again = None;
        let mut used = BTreeSet::new();
        for (target, api_version) in wanted.iter() {
            let resource = match self.cluster.mapper.resolve(target, api_version).await {
                Ok(resource) => resource,
                Err(error) => {
                    self.resolve_again = Some(Instant::now() + self.cluster.settings.kind_retry);
                    self.tell(TargetNews::Unresolved(target.clone(), error)).await;
                    continue;
                }
            };
            let kind = kind_of(target);
            used.insert(kind.clone());
            if !self.kinds.contains_key(&kind) && self.kinds.len() < MAX_KINDS {
                let cancel = self.cancel.child_token();
                self.watch_kind(kind.clone(), &resource, &cancel);
                self.kinds.insert(kind, Followed { resource: Arc::clone(&resource), cancel });
            }
            if !resource.known && !self.read.contains_key(target) {
                self.read.insert(target.clone(), None);
                self.due.insert(target.clone(), Instant::now());
            }
        }
        self.read.retain(|target, _| wanted.contains_key(target));
        self.due.retain(|target, _| wanted.contains_key(target));
        self.kinds.retain(|kind, followed| {
            let keep = used.contains(kind);
            if !keep {
                followed.cancel.cancel();
            }
            keep
        });
    }

    fn watch_kind(&self, kind: Kind, resource: &Arc<ScaleResource>, cancel: &CancellationToken) {
        let (cluster, told, nudge) = (self.cluster.clone(), self.told.clone(), self.nudge.clone());
        let (resource, cancel) = (Arc::clone(resource), cancel.clone());
        self.tasks.spawn(async move {
            let following = async {
                loop {
                    if resource.known {
                        watch_known(&cluster, &resource, &kind, &told).await;
                    } else {
                        watch_other(&cluster, &resource, &kind, &told, &nudge).await;
                    }
                    cluster.clock.sleep(cluster.settings.kind_retry).await;
                }
            };
            tokio::select! { () = following => {}, () = cancel.cancelled() => {} }
        });
    }

    /// An object changed (or, without a name, any may have): its scale is read after the gap.
    fn nudged(&mut self, kind: &Kind, key: Option<&Key>) {
        let gap = self.cluster.settings.scale_gap;
        let now = Instant::now();
        for (target, last) in &self.read {
            if kind_of(target) == *kind && key.is_none_or(|key| *key == target.key) {
                let at = last.map_or(now, |last| (last + gap).max(now));
                let due = self.due.entry(target.clone()).or_insert(at);
                *due = at.min(*due);
            }
        }
    }

    async fn tell(&self, news: TargetNews) {
        // the store lives as long as the process; where it ended, nobody listens
        drop(self.told.send(Told::Target(news)).await);
    }
}

fn kind_of(target: &TargetKey) -> Kind {
    (Arc::clone(&target.group), Arc::clone(&target.kind))
}

async fn read(
    cluster: Cluster,
    resource: Arc<ScaleResource>,
    target: TargetKey,
) -> (TargetKey, Timestamp, Result<Scale, ClusterError>) {
    // the time before the request: what is read may be as old as that, never older
    let at = cluster.clock.now();
    let what = format!("read scale of {target}");
    let outcome = cluster.rest.get(&what, &resource.scale_path(&target.key)).await;
    (target, at, outcome)
}

async fn watch_known(cluster: &Cluster, resource: &ScaleResource, kind: &Kind, told: &mpsc::Sender<Told>) {
    let scope = Scope::of(&cluster.settings.scope);
    let api = scope.api::<parse::ScalableObject>(cluster.client(), &resource.api_resource());
    let sink = |change| {
        let (told, kind) = (told.clone(), kind.clone());
        async move { drop(told.send(Told::Target(TargetNews::Objects(kind, change))).await) }
    };
    feed::run(api, scope.config(cluster.settings.page_size), &cluster.clock, parse::scalable, sink).await;
}

/// Of kinds that are not known, only names and versions are kept: a change is a reason to read the scale.
async fn watch_other(
    cluster: &Cluster,
    resource: &ScaleResource,
    kind: &Kind,
    told: &mpsc::Sender<Told>,
    nudge: &mpsc::Sender<(Kind, Option<Key>)>,
) {
    let scope = Scope::of(&cluster.settings.scope);
    let api = scope.api::<PartialObjectMeta<DynamicObject>>(cluster.client(), &resource.api_resource());
    let map = |object: PartialObjectMeta<DynamicObject>| parse::key_of(&object.metadata).map(|key| (key, ()));
    let sink = |change: Change<Key, ()>| {
        let (told, nudge, kind) = (told.clone(), nudge.clone(), kind.clone());
        async move {
            let (touched, state) = match change {
                Change::Whole(_) => (Some(None), Some(None)),
                Change::Apply(key, ()) | Change::Delete(key) => (Some(Some(key)), None),
                Change::Failing { why } => (None, Some(Some(why))),
                Change::Alive => (None, Some(None)),
            };
            if let Some(key) = touched {
                drop(nudge.send((kind.clone(), key)).await);
            }
            if let Some(failure) = state {
                drop(told.send(Told::Target(TargetNews::Watch(kind, failure))).await);
            }
        }
    };
    feed::run(api, scope.config(cluster.settings.page_size), &cluster.clock, map, sink).await;
}
