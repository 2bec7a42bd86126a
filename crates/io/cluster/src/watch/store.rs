//! From changes to snapshots. One task owns it; nothing here waits for the API.

mod derive;
mod targets;

use super::Told;
use super::feed::Change;
use super::scales::Wanted;
use crate::discovery::Rules;
use crate::error::ClusterError;
use crate::key::{Key, TargetKey};
use crate::settings::ClusterSettings;
use crate::snapshot::{AutoscalerSeen, Part, PartState, PodSeen, Snapshot};
use loadline_base::Timestamp;
use loadline_manifest::monitor::MonitorSpec;
use loadline_net::clock::Clock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use targets::Targets;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Changes taken in before the next snapshot is made.
const BATCH: usize = 512;

pub(super) type Monitors = BTreeMap<Key, Result<MonitorSpec, Arc<str>>>;

/// What has to be made anew.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    any: bool,
    /// Autoscalers of any kind.
    autoscalers: bool,
    /// Monitors, Services or slices.
    monitors: bool,
    targets: bool,
    pods: BTreeSet<Key>,
    all_pods: bool,
}

/// Everything seen, and what follows from it.
pub(crate) struct Store {
    pub(super) settings: ClusterSettings,
    pub(super) clock: Clock,
    pub(super) wanted_tx: watch::Sender<Wanted>,
    pub(super) view: Snapshot,
    pub(super) pod_monitors: Monitors,
    pub(super) service_monitors: Monitors,
    pub(super) targets: Targets,
    pub(super) members: BTreeMap<TargetKey, BTreeSet<Key>>,
    pub(super) selectors: derive::Selectors,
    pub(super) rules: Rules,
    pub(super) dirty: Dirty,
}

impl Store {
    pub(crate) fn new(settings: ClusterSettings, clock: Clock, wanted_tx: watch::Sender<Wanted>) -> Self {
        let mut view = Snapshot::default();
        // targets come with those who name them
        let unwatched =
            Part::ALL.into_iter().filter(|part| *part != Part::Targets && !super::is_watched(&settings, *part));
        for part in unwatched {
            view.parts.insert(part, PartState { synced: true, absent: true, ..PartState::default() });
        }
        Self {
            settings,
            clock,
            wanted_tx,
            view,
            pod_monitors: BTreeMap::new(),
            service_monitors: BTreeMap::new(),
            targets: Targets::default(),
            members: BTreeMap::new(),
            selectors: BTreeMap::new(),
            rules: Rules::default(),
            dirty: Dirty::default(),
        }
    }

    /// Takes changes in and publishes: the first change after a pause at once, those that follow at most every `coalesce`.
    pub(crate) async fn run(mut self, mut told: mpsc::Receiver<Told>, out: watch::Sender<Arc<Snapshot>>) {
        let mut not_before = Instant::now();
        loop {
            let Some(first) = told.recv().await else { return };
            self.take(first);
            loop {
                for _ in 0..BATCH {
                    match told.try_recv() {
                        Ok(next) => self.take(next),
                        Err(_) => break,
                    }
                }
                if not_before <= Instant::now() {
                    break;
                }
                tokio::select! {
                    next = told.recv() => match next {
                        Some(next) => self.take(next),
                        None => break,
                    },
                    () = tokio::time::sleep_until(not_before) => break,
                }
            }
            if let Some(snapshot) = self.publish() {
                not_before = Instant::now() + self.settings.coalesce;
                // a send fails only where nobody listens, and then nothing is lost
                out.send_replace(snapshot);
            }
        }
    }

    /// The snapshot of all that was taken in, if it differs from the last.
    pub(crate) fn publish(&mut self) -> Option<Arc<Snapshot>> {
        if !self.dirty.any {
            return None;
        }
        self.derive();
        self.dirty = Dirty::default();
        self.view.at = self.clock.now();
        self.view.sequence += 1;
        Some(Arc::new(self.view.clone()))
    }

    pub(crate) fn take(&mut self, told: Told) {
        let now = self.clock.now();
        let limit = self.settings.max_objects;
        let view = &mut self.view;
        let (dirty, parts) = (&mut self.dirty, &mut view.parts);
        match told {
            Told::Pods(change) => {
                let state = parts.entry(Part::Pods).or_default();
                take_pods(&mut view.pods, change, Context { state, dirty, now, limit });
            }
            Told::Autoscalers(change) => {
                let state = parts.entry(Part::Autoscalers).or_default();
                dirty.autoscalers |=
                    take_autoscalers(&mut view.autoscalers, change, Context { state, dirty, now, limit });
            }
            Told::Nodes(change) => {
                let state = parts.entry(Part::Nodes).or_default();
                shared(&mut view.nodes, change, Context { state, dirty, now, limit });
            }
            Told::Hpas(change) => {
                let state = parts.entry(Part::Hpas).or_default();
                dirty.autoscalers |= shared(&mut view.hpas, change, Context { state, dirty, now, limit });
            }
            Told::ScaledObjects(change) => {
                let state = parts.entry(Part::ScaledObjects).or_default();
                dirty.autoscalers |= shared(&mut view.scaled_objects, change, Context { state, dirty, now, limit });
            }
            Told::PodMonitors(change) => {
                let state = parts.entry(Part::PodMonitors).or_default();
                dirty.monitors |= plain(&mut self.pod_monitors, change, Context { state, dirty, now, limit });
            }
            Told::ServiceMonitors(change) => {
                let state = parts.entry(Part::ServiceMonitors).or_default();
                dirty.monitors |= plain(&mut self.service_monitors, change, Context { state, dirty, now, limit });
            }
            Told::Services(change) => {
                let state = parts.entry(Part::Services).or_default();
                dirty.monitors |= shared(&mut view.services, change, Context { state, dirty, now, limit });
            }
            Told::Slices(change) => {
                let state = parts.entry(Part::EndpointSlices).or_default();
                dirty.monitors |= shared(&mut view.slices, change, Context { state, dirty, now, limit });
            }
            Told::Absent(part) => self.absent(part, now),
            Told::Heartbeat(answer) => self.heartbeat(answer, now),
            Told::Target(news) => {
                dirty.any |= self.targets.take(news, now);
                dirty.targets = true;
            }
        }
    }

    fn heartbeat(&mut self, answer: Result<(), ClusterError>, now: Timestamp) {
        let api = &mut self.view.api;
        match answer {
            Ok(()) => {
                api.last_answer = Some(now);
                // an answer like the one before is no news
                self.dirty.any |= api.away_since.take().is_some() | api.error.take().is_some();
            }
            Err(error) => {
                // it has been away since it last answered, at the latest since now
                api.away_since = api.away_since.or(Some(api.last_answer.unwrap_or(now)));
                api.error = Some(error.to_string().into());
                self.dirty.any = true;
            }
        }
    }

    fn absent(&mut self, part: Part, now: Timestamp) {
        let state = self.view.parts.entry(part).or_default();
        if state.absent && state.synced {
            return;
        }
        *state = PartState { synced: true, absent: true, last_event: Some(now), ..PartState::default() };
        self.dirty.any = true;
        match part {
            Part::Autoscalers => self.view.autoscalers = Arc::default(),
            Part::ScaledObjects => self.view.scaled_objects = Arc::default(),
            Part::PodMonitors => self.pod_monitors.clear(),
            Part::ServiceMonitors => self.service_monitors.clear(),
            Part::Hpas => self.view.hpas = Arc::default(),
            Part::Services => self.view.services = Arc::default(),
            Part::EndpointSlices => self.view.slices = Arc::default(),
            Part::Pods | Part::Nodes | Part::Targets => {}
        }
        self.dirty.autoscalers = true;
        self.dirty.monitors = true;
    }
}

/// What a change is taken in with.
struct Context<'a> {
    state: &'a mut PartState,
    dirty: &'a mut Dirty,
    now: Timestamp,
    limit: usize,
}

impl Context<'_> {
    /// Notes that the watch spoke.
    fn heard(&mut self) {
        self.state.last_event = Some(self.now);
        self.state.absent = false;
        if self.state.failing_since.take().is_some() {
            self.state.error = None;
            self.dirty.any = true;
        }
    }

    fn failing(&mut self, why: Arc<str>) {
        self.state.failing_since = self.state.failing_since.or(Some(self.now));
        self.state.error = Some(why);
        self.dirty.any = true;
    }

    fn overflow(&mut self, kept: usize) {
        self.state.error = Some(format!("more than {kept} objects; the others are left out (`max_objects`)").into());
        self.dirty.any = true;
    }

    fn synced(&mut self) {
        self.dirty.any |= !self.state.synced;
        self.state.synced = true;
    }
}

/// Takes a change into a plain map; tells whether anything is different.
fn plain<K: Ord + Clone, V: PartialEq>(
    map: &mut BTreeMap<K, V>,
    change: Change<K, V>,
    mut context: Context<'_>,
) -> bool {
    let changed = match change {
        Change::Whole(mut whole) => {
            context.heard();
            context.synced();
            if whole.len() > context.limit {
                whole = whole.into_iter().take(context.limit).collect();
                context.overflow(context.limit);
            }
            let changed = *map != whole;
            *map = whole;
            changed
        }
        Change::Apply(key, value) => {
            context.heard();
            if map.get(&key) == Some(&value) {
                false
            } else if map.len() >= context.limit && !map.contains_key(&key) {
                context.overflow(context.limit);
                false
            } else {
                map.insert(key, value);
                true
            }
        }
        Change::Delete(key) => {
            context.heard();
            map.remove(&key).is_some()
        }
        Change::Failing { why } => {
            context.failing(why);
            false
        }
        Change::Alive => {
            context.heard();
            false
        }
    };
    context.dirty.any |= changed;
    changed
}

/// As [`plain`], into a map that published snapshots share: it is copied only where something is different.
fn shared<K: Ord + Clone, V: PartialEq>(
    map: &mut Arc<BTreeMap<K, Arc<V>>>,
    change: Change<K, V>,
    context: Context<'_>,
) -> bool {
    match change {
        Change::Whole(whole) => {
            let mut next: BTreeMap<K, Arc<V>> = whole.into_iter().map(|(key, value)| (key, Arc::new(value))).collect();
            // values that are the same stay the same allocation
            for (key, value) in &mut next {
                if let Some(old) = map.get(key).filter(|old| **old == *value) {
                    *value = Arc::clone(old);
                }
            }
            let mut scratch = (**map).clone();
            let changed = plain(&mut scratch, Change::Whole(next), context);
            if changed {
                *map = Arc::new(scratch);
            }
            changed
        }
        Change::Apply(key, value) => {
            if map.get(&key).is_some_and(|old| **old == value) {
                return plain(&mut BTreeMap::<K, V>::new(), Change::Alive, context);
            }
            plain(Arc::make_mut(map), Change::Apply(key, Arc::new(value)), context)
        }
        Change::Delete(key) => {
            if !map.contains_key(&key) {
                return plain(&mut BTreeMap::<K, V>::new(), Change::Alive, context);
            }
            plain(Arc::make_mut(map), Change::Delete(key), context)
        }
        Change::Failing { why } => plain(&mut BTreeMap::<K, V>::new(), Change::Failing { why }, context),
        Change::Alive => plain(&mut BTreeMap::<K, V>::new(), Change::Alive, context),
    }
}

/// As [`shared`], but a change of nothing but the status is no news: nearly always we wrote it ourselves, and nothing follows from it.
fn take_autoscalers(
    map: &mut Arc<BTreeMap<Key, Arc<AutoscalerSeen>>>,
    change: Change<Key, AutoscalerSeen>,
    mut context: Context<'_>,
) -> bool {
    if let Change::Apply(key, seen) = &change
        && let Some(old) = map.get(key).cloned()
    {
        let next = AutoscalerSeen { spec: old.spec.clone(), ..seen.clone() };
        let (status, resource_version) = (old.status.clone(), Arc::clone(&old.resource_version));
        if seen.spec == old.spec && (AutoscalerSeen { status, resource_version, ..next.clone() }) == *old {
            context.heard();
            Arc::make_mut(map).insert(key.clone(), Arc::new(next));
            return false;
        }
    }
    shared(map, change, context)
}

/// Pods: which ones changed is kept, so that a thousand others are not looked at.
fn take_pods(pods: &mut Arc<BTreeMap<Key, Arc<PodSeen>>>, change: Change<Key, PodSeen>, context: Context<'_>) {
    let touched = match &change {
        Change::Whole(whole) => {
            let gone = pods.keys().filter(|key| !whole.contains_key(*key)).cloned();
            let differ = whole.iter().filter(|(key, pod)| pods.get(*key).is_none_or(|old| **old != **pod));
            gone.chain(differ.map(|(key, _)| key.clone())).collect()
        }
        Change::Apply(key, _) | Change::Delete(key) => BTreeSet::from([key.clone()]),
        Change::Failing { .. } | Change::Alive => BTreeSet::new(),
    };
    let Context { state, dirty, now, limit } = context;
    if shared(pods, change, Context { state, dirty, now, limit }) {
        dirty.pods.extend(touched);
    }
}
