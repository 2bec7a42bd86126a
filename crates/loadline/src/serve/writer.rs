//! What only the writer has: the control loop with what it was told, and the counts on their way to the targets.

use super::feed::PoolFeed;
use super::pools::{Pools, ServedPool};
use super::report::{AutoscalerReport, PoolReport};
use super::store::Remembered;
use super::writes::{Begin, Done, Order, Verdict, Writes, is_victims_cost, pods_of};
use loadline_base::{GatewayId, ModelId, PoolId, ReplicaId, Timestamp};
use loadline_cluster::{DELETION_COST, Key, Part, PodKey, PodPhase, PodSeen, Snapshot, TargetKey, TargetSeen};
use loadline_control::{Checkpoint, Control, ControlSettings, Effect, Event, ModelStatus, ScaleEvent};
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use loadline_policy::{Action, Memory};
use loadline_signals::dialect::Reading;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Alarms kept per autoscaler; they are said again with every status.
const KEPT_ALARMS: usize = 8;

/// The label of a gateway's pods: its name, as autoscalers write it.
const GATEWAY_LABEL: &str = "loadline.dev/gateway";

/// Something that goes out to the cluster or to gateways.
#[derive(Debug)]
pub(crate) enum Output {
    /// Begin a write.
    Write(Begin),
    /// Say this to every gateway of the model.
    Gateway(GatewayOrder),
    /// A count was changed, with its explanation.
    Rescaled {
        /// The autoscaler.
        autoscaler: Key,
        /// The target's new count.
        to: u32,
        /// Why.
        reason: String,
    },
    /// A person should look at an autoscaler.
    Warning {
        /// The autoscaler.
        autoscaler: Key,
        /// A word of the HPA's vocabulary, or ours.
        reason: &'static str,
        /// The sentence.
        message: String,
    },
}

/// What is kept beside the loop for each pool.
#[derive(Debug, Default)]
struct Beside {
    feed: PoolFeed,
    /// Why the count last changed, as said at the decision; the write that follows carries it.
    explained: Option<ScaleEvent>,
    decided_at: Option<Timestamp>,
    last_scale: Option<Timestamp>,
    alarms: Vec<String>,
    is_settled: bool,
    /// What the pool scales.
    target: Option<TargetKey>,
    /// What was said last of the gateways that run.
    gateways: BTreeSet<GatewayId>,
    /// What was said last of replicas that are not listed.
    unlisted: u32,
}

/// The gateways that run, by their pods' label.
#[derive(Debug, Default)]
struct Instances {
    /// The pods that it was made of.
    pods: Arc<BTreeMap<PodKey, Arc<PodSeen>>>,
    /// By namespace and name.
    running: BTreeMap<(Arc<str>, String), BTreeSet<GatewayId>>,
}

impl Instances {
    /// Whether there was anything new to look at.
    fn update(&mut self, snapshot: &Snapshot) -> bool {
        if Arc::ptr_eq(&self.pods, &snapshot.pods) {
            return false;
        }
        self.pods = Arc::clone(&snapshot.pods);
        self.running.clear();
        for pod in self.pods.values().filter(|pod| pod.phase == PodPhase::Running) {
            if let Some(name) = pod.labels.get(GATEWAY_LABEL) {
                let of = (Arc::clone(&pod.key.namespace), name.to_owned());
                self.running.entry(of).or_default().insert(GatewayId::new(pod.key.to_string()));
            }
        }
        true
    }

    fn of(&self, namespace: &Arc<str>, name: &str) -> BTreeSet<GatewayId> {
        self.running.get(&(Arc::clone(namespace), name.to_owned())).cloned().unwrap_or_default()
    }
}

/// One term as the writer.
pub(crate) struct Writer {
    /// Which term.
    pub(crate) term: u64,
    control: Control,
    beside: BTreeMap<PoolId, Beside>,
    writes: Writes,
    /// Whose memories were restored: autoscaler and uid.
    remembered: BTreeMap<ModelId, (Key, Arc<str>)>,
    instances: Instances,
    /// Pools whose memory changed since it was last stored.
    changed: BTreeSet<PoolId>,
    /// Pools that were scaled since their memory was last stored.
    scaled: BTreeSet<PoolId>,
    /// Autoscalers whose status may have changed.
    news: BTreeSet<Key>,
    effects: Vec<Effect>,
    /// Decisions made.
    decisions: u64,
    /// Nothing was observed yet.
    is_fresh: bool,
}

impl Writer {
    /// A writer that remembers what the one before it stored (law L9).
    pub(crate) fn new(term: u64, settings: ControlSettings, found: BTreeMap<ModelId, Remembered>) -> Self {
        let of =
            |(model, found): (&ModelId, &Remembered)| (model.clone(), (found.autoscaler.clone(), found.uid.clone()));
        let remembered = found.iter().map(of).collect();
        let memories = found.into_iter().map(|(model, found)| (model, found.memory)).collect();
        Self {
            term,
            remembered,
            instances: Instances::default(),
            control: Control::restore(settings, Checkpoint { memories }),
            beside: BTreeMap::new(),
            writes: Writes::of_term(term),
            changed: BTreeSet::new(),
            scaled: BTreeSet::new(),
            news: BTreeSet::new(),
            effects: Vec::new(),
            decisions: 0,
            is_fresh: true,
        }
    }

    /// Takes in what the watches see.
    pub(crate) fn observe(&mut self, now: Timestamp, snapshot: &Snapshot, pools: &Pools, is_new: bool) {
        if is_new || std::mem::replace(&mut self.is_fresh, false) {
            self.is_fresh = false;
            self.let_go(now, snapshot, pools);
            let specs = pools.served.values().map(|pool| pool.spec.clone()).collect();
            self.apply(now, Event::Configure(specs));
            self.writes.retain(|pool| pools.served.contains_key(pool));
        }
        let is_pods_new = self.instances.update(snapshot);
        for (id, pool) in &pools.served {
            if is_new || is_pods_new {
                self.tell_gateways(now, id, pool, is_new);
            }
            let pods = snapshot.pods_of(&pool.target).map(|pod| &**pod);
            let events = self.beside.entry(id.clone()).or_default().feed.update(id, pods, |pod| pool.serving_port(pod));
            let is_moved = !events.is_empty();
            self.tell_unlisted(now, id, pool, snapshot);
            for event in events {
                self.apply(now, event);
            }
            let Some(target) = snapshot.targets.get(&pool.target).filter(|target| is_usable(target)) else { continue };
            if let Some(found) = self.writes.seen(now, id, target) {
                self.apply(now, Event::Counted { pool: id.clone(), replicas: found });
                self.news.insert(pool.autoscaler.clone());
            }
            // a pod that was evicted stays in the list for long, and is no replica
            let pods = snapshot.pods_of(&pool.target).filter(|pod| !pod.is_over()).count();
            self.settle(now, id, target, pods, is_moved);
        }
    }

    /// Forgets what is not served any more, and what was remembered of an autoscaler that is not the same.
    fn let_go(&mut self, now: Timestamp, snapshot: &Snapshot, pools: &Pools) {
        let is_same = |(key, uid): &(Key, Arc<str>)| {
            let seen = snapshot.autoscalers.get(key);
            seen.is_none_or(|seen| uid.is_empty() || seen.uid == *uid)
        };
        for (model, of) in std::mem::take(&mut self.remembered) {
            if !is_same(&of) {
                tracing::info!(autoscaler = %of.0, "it was made anew; what was remembered of the one before is not used");
                self.apply(now, Event::Release(model));
            }
        }
        let is_served = |pool: &PoolId, beside: &Beside| {
            // the same pool with another target has nothing in common with what was seen of the one before
            let served = pools.served.get(pool);
            served.is_some_and(|served| beside.target.as_ref().is_none_or(|target| *target == served.target))
        };
        let gone = self.beside.iter().filter(|(pool, beside)| !is_served(pool, beside));
        for pool in gone.map(|(pool, _)| pool.clone()).collect::<Vec<_>>() {
            // whoever deletes an autoscaler leaves its target as it is
            self.apply(now, Event::Release(ModelId::new(pool.as_str())));
            self.beside.remove(&pool);
        }
        for (pool, served) in &pools.served {
            self.beside.entry(pool.clone()).or_default().target = Some(served.target.clone());
        }
    }

    /// Says which gateways run in front of a pool.
    fn tell_gateways(&mut self, now: Timestamp, id: &PoolId, pool: &ServedPool, is_new: bool) {
        let Some(name) = &pool.gateway else { return };
        let running = self.instances.of(&pool.autoscaler.namespace, name);
        let beside = self.beside.entry(id.clone()).or_default();
        if !is_new && beside.gateways == running {
            return;
        }
        beside.gateways.clone_from(&running);
        self.apply(now, Event::Gateways { model: ModelId::new(id.as_str()), running });
    }

    /// Says how many replicas only the target knows of, while the watch of pods does not follow the cluster or its selector is not known.
    fn tell_unlisted(&mut self, now: Timestamp, id: &PoolId, pool: &ServedPool, snapshot: &Snapshot) {
        let target = snapshot.targets.get(&pool.target);
        let is_whole = snapshot.parts.get(&Part::Pods).is_none_or(|pods| pods.error.is_none())
            && target.is_none_or(|target| target.error.is_none());
        let is_there = |pod: &&Arc<PodSeen>| !pod.is_over() && pod.deletion.is_none();
        let listed = u32::try_from(snapshot.pods_of(&pool.target).filter(is_there).count()).unwrap_or(u32::MAX);
        let told = target.map_or(0, |target| target.status_replicas);
        let replicas = if is_whole { 0 } else { told.saturating_sub(listed) };
        let Some(beside) = self.beside.get_mut(id).filter(|beside| beside.unlisted != replicas) else { return };
        beside.unlisted = replicas;
        self.apply(now, Event::Unlisted { pool: id.clone(), replicas });
    }

    /// Says that a target is at rest, once each time it comes to rest.
    fn settle(&mut self, now: Timestamp, id: &PoolId, target: &TargetSeen, pods: usize, is_moved: bool) {
        let counts = (target.spec_replicas, target.status_replicas);
        let is_settled = counts.0 == counts.1
            && u32::try_from(pods).is_ok_and(|pods| pods == counts.0)
            && self.writes.expected(id) == Some(counts.0);
        let Some(beside) = self.beside.get_mut(id) else { return };
        let before = std::mem::replace(&mut beside.is_settled, is_settled);
        if is_settled && (!before || is_moved) {
            self.apply(now, Event::Settled { pool: id.clone(), replicas: counts.0 });
        }
    }

    /// Takes in a page of a replica.
    pub(crate) fn scraped(
        &mut self,
        now: Timestamp,
        replica: ReplicaId,
        at: Timestamp,
        outcome: Result<Arc<Reading>, String>,
    ) {
        self.apply(now, Event::Scraped { replica, at, outcome });
    }

    /// Takes in what a gateway says.
    pub(crate) fn gateway(&mut self, now: Timestamp, report: GatewayReport) {
        self.apply(now, Event::Gateway(report));
    }

    /// A gateway is gone for good.
    pub(crate) fn gateway_gone(&mut self, now: Timestamp, gateway: GatewayId) {
        self.apply(now, Event::GatewayGone(gateway));
    }

    /// Takes in any other event.
    pub(crate) fn apply(&mut self, now: Timestamp, event: Event) {
        self.control.apply(now, event, &mut self.effects);
    }

    /// When the loop wants to be asked again.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        [self.control.next_deadline(), self.writes.next_retry()].into_iter().flatten().min()
    }

    /// What follows from everything taken in so far.
    pub(crate) fn outputs(&mut self, now: Timestamp, snapshot: &Snapshot, pools: &Pools) -> Vec<Output> {
        let mut out = Vec::new();
        for effect in std::mem::take(&mut self.effects) {
            self.effect(now, effect, snapshot, pools, &mut out);
        }
        let see = |target: &loadline_cluster::TargetKey| snapshot.targets.get(target).map(|seen| &**seen);
        out.extend(self.writes.begin(now, see).into_iter().map(Output::Write));
        out
    }

    fn effect(&mut self, now: Timestamp, effect: Effect, snapshot: &Snapshot, pools: &Pools, out: &mut Vec<Output>) {
        match effect {
            Effect::Act(Action::SetReplicas { pool, from, to, remove_first }) => {
                let Some(served) = pools.served.get(&pool) else { return };
                let seen = snapshot.targets.get(&served.target).map(|target| target.spec_replicas);
                let is_marked = |pod: &&Arc<PodSeen>| {
                    pod.deletion.is_none() && pod.annotations.get(DELETION_COST).is_some_and(is_victims_cost)
                };
                let marked = snapshot.pods_of(&served.target).filter(is_marked).map(|pod| pod.key.clone()).collect();
                let order = Order {
                    target: served.target.clone(),
                    api_version: Arc::clone(&served.api_version),
                    from: self.writes.expected(&pool).or(seen).unwrap_or(from),
                    to,
                    victims: if served.has_deletion_costs() { pods_of(&remove_first) } else { Vec::new() },
                    marked,
                };
                self.writes.order(&pool, order);
            }
            // said to the gateways, in the effects beside it
            Effect::Act(Action::Drain { .. } | Action::Undrain { .. } | Action::Close { .. })
            | Effect::TargetsChanged => {}
            Effect::Gateway(order) => out.push(Output::Gateway(order)),
            Effect::Scaled(event) => {
                let pool = PoolId::new(event.model.as_str());
                tracing::info!(autoscaler = %event.model, from = event.from, to = event.to, reason = event.reason, "scaled");
                self.scaled.insert(pool.clone());
                self.note(&pool, pools, |beside| beside.explained = Some(event));
            }
            Effect::Decided { model, decision } => {
                tracing::debug!(autoscaler = %model, decision = decision.summary(), "decided");
                self.decisions = self.decisions.saturating_add(1);
                let pool = PoolId::new(model.as_str());
                let alarms: Vec<String> = decision.alarms.iter().map(ToString::to_string).collect();
                self.changed.insert(pool.clone());
                self.note(&pool, pools, |beside| {
                    beside.decided_at = Some(now);
                    beside.alarms = alarms;
                    beside.alarms.truncate(KEPT_ALARMS);
                });
            }
            Effect::Alarm { model, text } => {
                tracing::warn!(autoscaler = %model, "{text}");
                if let Some(served) = pools.served.get(&PoolId::new(model.as_str())) {
                    let autoscaler = served.autoscaler.clone();
                    out.push(Output::Warning { autoscaler, reason: "Alarm", message: text });
                }
            }
        }
    }

    fn note(&mut self, pool: &PoolId, pools: &Pools, change: impl FnOnce(&mut Beside)) {
        let Some(served) = pools.served.get(pool) else { return };
        self.news.insert(served.autoscaler.clone());
        change(self.beside.entry(pool.clone()).or_default());
    }

    /// Takes in the end of a write.
    pub(crate) fn written(&mut self, now: Timestamp, done: Done, pools: &Pools) -> Vec<Output> {
        let pool = done.pool.clone();
        let verdict = self.writes.done(now, done);
        let Some(served) = pools.served.get(&pool) else { return Vec::new() };
        let autoscaler = served.autoscaler.clone();
        self.news.insert(autoscaler.clone());
        match verdict {
            Verdict::Written { to, changed, .. } => {
                self.apply(now, Event::Written { pool: pool.clone(), outcome: Ok(()) });
                if !changed {
                    return Vec::new();
                }
                let beside = self.beside.entry(pool).or_default();
                beside.last_scale = Some(now);
                let reason = beside.explained.as_ref().map(|event| event.reason.clone()).unwrap_or_default();
                vec![Output::Rescaled { autoscaler, to, reason }]
            }
            Verdict::Outdated => Vec::new(),
            Verdict::Foreign(found) => {
                self.apply(now, Event::Counted { pool, replicas: found });
                Vec::new()
            }
            Verdict::Failed { reason, message } => {
                self.apply(now, Event::Written { pool, outcome: Err(message.clone()) });
                vec![Output::Warning { autoscaler, reason, message }]
            }
        }
    }

    /// Autoscalers with something new for their status, and forgets that.
    pub(crate) fn take_news(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.news)
    }

    /// Memory to store now: of every pool that was scaled, or of all that changed.
    pub(crate) fn take_memories(&mut self, all: bool) -> Vec<(PoolId, Memory)> {
        let due = if all {
            self.scaled.clear();
            std::mem::take(&mut self.changed)
        } else {
            std::mem::take(&mut self.scaled)
        };
        due.into_iter()
            .filter_map(|pool| {
                let memory = self.control.checkpoint_of(&ModelId::new(pool.as_str()))?;
                Some((pool, memory))
            })
            .collect()
    }

    /// Every model as the loop sees it.
    pub(crate) fn models(&self, now: Timestamp) -> Vec<ModelStatus> {
        self.control.status(now)
    }

    /// Decisions made in this term.
    pub(crate) const fn decisions(&self) -> u64 {
        self.decisions
    }

    /// How often each law was found broken.
    pub(crate) fn laws(&self) -> &loadline_control::LawCounts {
        self.control.laws()
    }

    /// What the status of an autoscaler says.
    pub(crate) fn report(
        &self,
        now: Timestamp,
        key: &Key,
        snapshot: &Snapshot,
        pools: &Pools,
    ) -> Option<AutoscalerReport> {
        let autoscaler = snapshot.autoscalers.get(key)?;
        let own: Vec<(&PoolId, &ServedPool)> =
            pools.served.iter().filter(|(_, pool)| pool.autoscaler == *key).map(|(id, pool)| (id, &**pool)).collect();
        let besides = || own.iter().filter_map(|(id, _)| self.beside.get(*id));
        Some(AutoscalerReport {
            generation: autoscaler.generation,
            pools: own.iter().map(|(id, pool)| self.pool_report(now, id, pool, snapshot)).collect(),
            refused: pools.refused.get(key).cloned(),
            conflicts: snapshot.conflicts_of(key),
            alarms: besides().flat_map(|beside| beside.alarms.clone()).collect(),
            is_advisory: own.iter().any(|(_, pool)| pool.is_advisory),
            last_scale: besides().filter_map(|beside| beside.last_scale).max(),
        })
    }

    fn pool_report(&self, now: Timestamp, id: &PoolId, pool: &ServedPool, snapshot: &Snapshot) -> PoolReport {
        let target = snapshot.targets.get(&pool.target);
        let unreadable = target.and_then(|target| target.error.as_ref());
        let failure = unreadable
            .map(|error| (error.reason.to_owned(), error.message.to_string()))
            .or_else(|| self.writes.failure(id).map(|(reason, message)| ((*reason).to_owned(), message.clone())));
        let model = ModelId::new(id.as_str());
        PoolReport {
            name: pool.name.clone(),
            policy: pool.spec.policy.clone(),
            replicas: target.map(|target| target.spec_replicas),
            ready: u32::try_from(snapshot.pods_of(&pool.target).filter(|pod| pod.serves()).count()).unwrap_or(u32::MAX),
            selector: target.map(|target| target.selector_text.to_string()).filter(|text| !text.is_empty()),
            seen: self.control.observation(now, &model),
            decision: self.control.decision(&model).cloned(),
            decided_at: self.beside.get(id).and_then(|beside| beside.decided_at),
            failure,
        }
    }
}

/// Whether a target's counts are those of a good read.
fn is_usable(target: &TargetSeen) -> bool {
    target.error.as_ref().is_none_or(|error| error.seen_before)
}
