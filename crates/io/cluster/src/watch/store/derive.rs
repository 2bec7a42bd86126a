//! What follows from what was seen: targets, their pods, claims, and pages.

use super::Store;
use crate::discovery::{self, Rules, RulesInput};
use crate::key::{Key, TargetKey};
use crate::labels::Selector;
use crate::snapshot::{Claim, ClaimBy, Part, Snapshot, TargetSeen};
use loadline_manifest::autoscaler::Mode;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Store {
    /// Makes anew what the changes since the last snapshot touch.
    pub(super) fn derive(&mut self) {
        if self.dirty.autoscalers {
            self.want();
        }
        // without a single autoscaler nothing changes, and that there are no targets is known too
        if self.dirty.autoscalers || self.dirty.targets || !self.view.is_synced(Part::Targets) {
            self.read_targets();
        }
        self.update_members();
        if self.dirty.autoscalers || self.dirty.monitors || self.dirty.targets {
            self.update_rules();
        }
        self.update_scrape();
    }

    /// Says which targets somebody names, and who claims each.
    fn want(&mut self) {
        let mut wanted: BTreeMap<TargetKey, Arc<str>> = BTreeMap::new();
        let mut left_out = 0_usize;
        let limit = self.settings.max_targets;
        let mut want = |target: &TargetKey, api_version: &Arc<str>| {
            if wanted.len() < limit || wanted.contains_key(target) {
                wanted.entry(target.clone()).or_insert_with(|| Arc::clone(api_version));
            } else {
                left_out += 1;
            }
        };
        // ours first: they must not be crowded out
        for pool in self.view.autoscalers.values().flat_map(|seen| &seen.targets) {
            want(&pool.target, &pool.api_version);
        }
        for hpa in self.view.hpas.values() {
            want(&hpa.target, &hpa.api_version);
        }
        if left_out > 0 {
            tracing::warn!(left_out, limit, "more scale targets than `max_targets`; the others are not followed");
        }
        let claims = claims_of(&self.view);
        if *self.view.claims != claims {
            self.view.claims = Arc::new(claims);
        }
        self.wanted_tx.send_if_modified(|old| {
            let differs = **old != wanted;
            if differs {
                *old = Arc::new(wanted);
            }
            differs
        });
    }

    fn read_targets(&mut self) {
        let wanted = Arc::clone(&self.wanted_tx.borrow());
        let (seen, mut state) = self.targets.view(&wanted, self.clock.now());
        // which targets there are is known only once everybody who names one has been seen
        state.synced &= self.view.is_synced(Part::Autoscalers);
        self.view.parts.insert(Part::Targets, state);
        let old = &self.view.targets;
        let same =
            seen.len() == old.len() && seen.iter().all(|(key, one)| old.get(key).is_some_and(|have| **have == *one));
        if same {
            return;
        }
        let next: BTreeMap<TargetKey, Arc<TargetSeen>> = seen
            .into_iter()
            .map(|(key, one)| {
                let kept = old.get(&key).filter(|have| ***have == one).cloned();
                (key, kept.unwrap_or_else(|| Arc::new(one)))
            })
            .collect();
        self.view.targets = Arc::new(next);
    }

    /// Keeps the pods of each target: pods that changed are matched again, and all of them for a selector that changed.
    fn update_members(&mut self) {
        let pods = Arc::clone(&self.view.pods);
        let targets = Arc::clone(&self.view.targets);
        let mut touched: BTreeSet<TargetKey> = BTreeSet::new();
        let gone: Vec<TargetKey> = self.members.keys().filter(|key| !targets.contains_key(*key)).cloned().collect();
        for key in gone {
            self.members.remove(&key);
            self.selectors.remove(&key);
            touched.insert(key);
        }
        for (key, target) in targets.iter() {
            if self.selectors.get(key) == Some(&target.selector) {
                continue;
            }
            let selected = match &target.selector {
                Some(selector) => namespace_pods(&self.view, &key.key.namespace)
                    .filter(|pod| selector.matches(&pod.labels))
                    .map(|pod| pod.key.clone())
                    .collect(),
                None => BTreeSet::new(),
            };
            self.selectors.insert(key.clone(), target.selector.clone());
            self.members.insert(key.clone(), selected);
            touched.insert(key.clone());
        }
        if !self.dirty.pods.is_empty() {
            for (key, members) in &mut self.members {
                let Some(Some(selector)) = self.selectors.get(key) else { continue };
                for pod in self.dirty.pods.iter().filter(|pod| pod.namespace == key.key.namespace) {
                    let selected = pods.get(pod).is_some_and(|seen| selector.matches(&seen.labels));
                    let changed = if selected { members.insert(pod.clone()) } else { members.remove(pod) };
                    if changed {
                        touched.insert(key.clone());
                    }
                }
            }
        }
        if touched.is_empty() {
            return;
        }
        let shared = Arc::make_mut(&mut self.view.members);
        for key in touched {
            match self.members.get(&key) {
                Some(members) => drop(shared.insert(key, Arc::new(members.iter().cloned().collect()))),
                None => drop(shared.remove(&key)),
            }
        }
    }

    fn update_rules(&mut self) {
        let rules = Rules::new(&RulesInput {
            view: &self.view,
            pod_monitors: &self.pod_monitors,
            service_monitors: &self.service_monitors,
            respect_monitor_interval: self.settings.respect_monitor_interval,
        });
        if rules != self.rules {
            self.rules = rules;
            self.dirty.all_pods = true;
        }
    }

    fn update_scrape(&mut self) {
        if !self.dirty.all_pods && self.dirty.pods.is_empty() {
            return;
        }
        let pods = Arc::clone(&self.view.pods);
        let scrape = Arc::make_mut(&mut self.view.scrape);
        let keys: Vec<Key> = if self.dirty.all_pods {
            scrape.retain(|key, _| pods.contains_key(key));
            pods.keys().cloned().collect()
        } else {
            self.dirty.pods.iter().cloned().collect()
        };
        for key in keys {
            match pods.get(&key) {
                Some(pod) => {
                    let next = discovery::scrape_of(&self.rules, pod);
                    if scrape.get(&key).is_none_or(|old| **old != next) {
                        scrape.insert(key, Arc::new(next));
                    }
                }
                None => drop(scrape.remove(&key)),
            }
        }
    }
}

fn namespace_pods<'a>(
    view: &'a Snapshot,
    namespace: &Arc<str>,
) -> impl Iterator<Item = &'a Arc<crate::snapshot::PodSeen>> {
    let first = Key { namespace: Arc::clone(namespace), name: "".into() };
    let namespace = Arc::clone(namespace);
    view.pods.range(first..).take_while(move |(key, _)| key.namespace == namespace).map(|(_, pod)| pod)
}

/// Who scales what.
fn claims_of(view: &Snapshot) -> BTreeMap<TargetKey, Vec<Claim>> {
    let mut claims: BTreeMap<TargetKey, Vec<Claim>> = BTreeMap::new();
    let mut claim = |target: &TargetKey, by: ClaimBy, key: &Key, active: bool| {
        let list = claims.entry(target.clone()).or_default();
        if !list.iter().any(|one| one.by == by && one.key == *key) {
            list.push(Claim { by, key: key.clone(), active });
        }
    };
    for seen in view.autoscalers.values() {
        let active = !seen.deleting && seen.spec.as_ref().is_ok_and(|spec| spec.mode == Mode::Active);
        for pool in &seen.targets {
            claim(&pool.target, ClaimBy::InferenceAutoscaler, &seen.key, active);
        }
    }
    // an HPA that a ScaledObject owns is that ScaledObject
    for hpa in view.hpas.values().filter(|hpa| !hpa.owned_by_scaled_object) {
        // only the switch "off at zero replicas" is off; an HPA without metrics comes back by itself
        let disabled = hpa.scaling_active.as_ref().is_some_and(|(active, why)| !active && &**why == "ScalingDisabled");
        claim(&hpa.target, ClaimBy::HorizontalPodAutoscaler, &hpa.key, !disabled);
    }
    for object in view.scaled_objects.values() {
        claim(&object.target, ClaimBy::ScaledObject, &object.key, !object.paused);
    }
    claims.values_mut().for_each(|list| list.sort());
    claims
}

/// The selectors that `members` were made with.
pub(super) type Selectors = BTreeMap<TargetKey, Option<Arc<Selector>>>;
