//! Scale targets: what their objects and scales say.

use crate::error::ClusterError;
use crate::events::reason;
use crate::key::{Key, TargetKey};
use crate::labels::Selector;
use crate::scale::Scale;
use crate::snapshot::{PartState, TargetError, TargetSeen};
use crate::watch::feed::Change;
use crate::watch::parse::ObjectSeen;
use crate::watch::scales::{TargetNews, Wanted};
use loadline_base::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

type Kind = (Arc<str>, Arc<str>);

#[derive(Default)]
struct KindSeen {
    objects: BTreeMap<Key, (ObjectSeen, Timestamp)>,
    synced: bool,
    failing: Option<(Timestamp, Arc<str>)>,
}

/// Everything known of targets.
#[derive(Default)]
pub(in crate::watch) struct Targets {
    kinds: BTreeMap<Kind, KindSeen>,
    scales: BTreeMap<TargetKey, (Timestamp, Scale)>,
    errors: BTreeMap<TargetKey, ClusterError>,
}

impl Targets {
    /// Takes news in; tells whether a snapshot can differ.
    pub(super) fn take(&mut self, news: TargetNews, now: Timestamp) -> bool {
        match news {
            TargetNews::Unresolved(target, error) => {
                let same = self.errors.get(&target) == Some(&error);
                self.errors.insert(target, error);
                !same
            }
            TargetNews::Objects(kind, change) => self.objects(kind, change, now),
            TargetNews::Watch(kind, failure) => {
                let seen = self.kinds.entry(kind).or_default();
                let was = (seen.synced, seen.failing.is_some());
                match failure {
                    Some(why) => seen.failing = Some((seen.failing.as_ref().map_or(now, |(since, _)| *since), why)),
                    None => (seen.synced, seen.failing) = (true, None),
                }
                was != (seen.synced, seen.failing.is_some())
            }
            TargetNews::Scale(target, at, Ok(scale)) => {
                let failed = self.errors.remove(&target).is_some();
                let same = self.scales.get(&target).is_some_and(|(_, old)| *old == scale);
                self.scales.insert(target, (at, scale));
                failed || !same
            }
            TargetNews::Scale(target, _, Err(error)) => {
                if matches!(error, ClusterError::NotFound { .. }) {
                    self.scales.remove(&target);
                }
                self.errors.insert(target, error).is_none()
            }
        }
    }

    fn objects(&mut self, kind: Kind, change: Change<Key, ObjectSeen>, now: Timestamp) -> bool {
        let (group, name) = kind.clone();
        let seen = self.kinds.entry(kind).or_default();
        if !matches!(change, Change::Failing { .. }) {
            seen.failing = None;
        }
        match change {
            Change::Whole(whole) => {
                seen.synced = true;
                seen.objects = whole.into_iter().map(|(key, object)| (key, (object, now))).collect();
                self.errors.retain(|target, _| target.group != group || target.kind != name);
            }
            Change::Apply(key, object) => {
                self.errors.remove(&TargetKey { group, kind: name, key: key.clone() });
                seen.objects.insert(key, (object, now));
            }
            Change::Delete(key) => drop(seen.objects.remove(&key)),
            Change::Failing { why } => {
                seen.failing = Some((seen.failing.as_ref().map_or(now, |(since, _)| *since), why));
            }
            Change::Alive => {}
        }
        true
    }

    /// Every wanted target of which something can be said, and how far that can be trusted.
    pub(super) fn view(&mut self, wanted: &Wanted, now: Timestamp) -> (BTreeMap<TargetKey, TargetSeen>, PartState) {
        self.scales.retain(|target, _| wanted.contains_key(target));
        self.errors.retain(|target, _| wanted.contains_key(target));
        let mut state = PartState { synced: true, ..PartState::default() };
        let mut out = BTreeMap::new();
        for target in wanted.keys() {
            let seen = self.one(target, now);
            state.synced &= seen.is_some();
            state.last_event = state.last_event.max(seen.as_ref().map(|seen| seen.at));
            if let Some(seen) = seen {
                out.insert(target.clone(), seen);
            }
        }
        let used = |kind: &Kind| wanted.keys().any(|target| target.group == kind.0 && target.kind == kind.1);
        self.kinds.retain(|kind, _| used(kind));
        for (since, why) in self.kinds.values().filter_map(|kind| kind.failing.as_ref()) {
            state.failing_since = Some(state.failing_since.map_or(*since, |earliest| earliest.min(*since)));
            state.error = Some(Arc::clone(why));
        }
        (out, state)
    }

    fn one(&self, target: &TargetKey, now: Timestamp) -> Option<TargetSeen> {
        let kind = self.kinds.get(&(Arc::clone(&target.group), Arc::clone(&target.kind)));
        let object = kind.and_then(|kind| kind.objects.get(&target.key));
        let scale = self.scales.get(target);
        let error = self.errors.get(target);
        if let Some((object, at)) = object {
            return Some(of_object(target, object, *at));
        }
        if let Some((at, scale)) = scale {
            let failed = error.map(|error| failed_get(error.to_string(), true));
            return Some(of_scale(target, scale, *at, failed));
        }
        if let Some(error) = error {
            return Some(unseen(target, now, failed_get(error.to_string(), false)));
        }
        // one kind that may not be listed must not keep all others waiting
        if let Some((_, why)) = kind.filter(|kind| !kind.synced).and_then(|kind| kind.failing.as_ref()) {
            return Some(unseen(target, now, failed_get(format!("{target} cannot be watched: {why}"), false)));
        }
        // the whole list has been seen, and it is not in it
        let known = kind.is_some_and(|kind| kind.synced && (!kind.objects.is_empty() || is_known(target)));
        known.then(|| {
            let why = format!("{target} does not exist; create it, or correct the reference");
            unseen(target, now, failed_get(why, false))
        })
    }
}

/// Whether the objects of this kind show their scale.
fn is_known(target: &TargetKey) -> bool {
    &*target.group == "apps" && matches!(&*target.kind, "Deployment" | "StatefulSet" | "ReplicaSet")
}

fn failed_get(message: String, seen_before: bool) -> TargetError {
    TargetError { reason: reason::FAILED_GET_SCALE, message: message.into(), seen_before }
}

fn of_object(target: &TargetKey, object: &ObjectSeen, at: Timestamp) -> TargetSeen {
    let wrong = object.selector.as_ref().err().map(|why| TargetError {
        reason: reason::INVALID_SELECTOR,
        message: Arc::clone(why),
        seen_before: true,
    });
    let selector = object.selector.as_ref().ok().filter(|selector| !selector.is_empty());
    TargetSeen {
        key: target.clone(),
        uid: Some(Arc::clone(&object.uid)),
        spec_replicas: object.replicas,
        status_replicas: object.status_replicas,
        selector_text: selector.map_or_else(|| "".into(), |selector| selector.to_string().into()),
        selector: selector.cloned(),
        resource_version: Arc::clone(&object.resource_version),
        at,
        error: wrong.or_else(|| selector.is_none().then(no_selector)),
    }
}

fn of_scale(target: &TargetKey, scale: &Scale, at: Timestamp, failed: Option<TargetError>) -> TargetSeen {
    let parsed = Selector::parse(&scale.status.selector);
    let wrong = parsed.as_ref().err().map(|why| TargetError {
        reason: reason::INVALID_SELECTOR,
        message: why.as_str().into(),
        seen_before: true,
    });
    let selector = parsed.ok().filter(|selector| !selector.is_empty()).map(Arc::new);
    TargetSeen {
        key: target.clone(),
        uid: (!scale.metadata.uid.is_empty()).then(|| scale.metadata.uid.as_str().into()),
        spec_replicas: scale.spec.replicas,
        status_replicas: scale.status.replicas,
        selector_text: scale.status.selector.as_str().into(),
        resource_version: scale.metadata.resource_version.as_str().into(),
        at,
        error: failed.or(wrong).or_else(|| selector.is_none().then(no_selector)),
        selector,
    }
}

fn no_selector() -> TargetError {
    TargetError {
        reason: reason::INVALID_SELECTOR,
        message: "the target's scale has no selector, so its pods are not known".into(),
        seen_before: true,
    }
}

fn unseen(target: &TargetKey, now: Timestamp, error: TargetError) -> TargetSeen {
    TargetSeen {
        key: target.clone(),
        uid: None,
        spec_replicas: 0,
        status_replicas: 0,
        selector_text: "".into(),
        selector: None,
        resource_version: "".into(),
        at: now,
        error: Some(error),
    }
}
