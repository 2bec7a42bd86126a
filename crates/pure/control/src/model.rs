//! One model: what it is told, what is known of it, and when its next decision is due.

use crate::edge::{self, Edges};
use crate::event::{Effect, GatewayUse, MetricQuery, Mode, ModelSpec, ReplicaEvent, Supplied};
use crate::gateways::{Gateways, Heed};
use crate::replicas::{Replica, Replicas};
use crate::scale::Scaling;
use loadline_base::{ReplicaId, Timestamp};
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use loadline_policy::{GatewayObservation, Memory, PoolDecision, ReplicaState};
use loadline_signals::dialect::Reading;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The value of a metric that is brought from outside.
#[derive(Debug, Clone, Default)]
pub(crate) struct SuppliedValue {
    /// The last value, and when its source gave it.
    pub(crate) last: Option<(Timestamp, Supplied)>,
    /// Why there is no newer one.
    pub(crate) error: Option<String>,
}

/// Everything the loop keeps of one model.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) spec: ModelSpec,
    pub(crate) replicas: Replicas,
    pub(crate) gateways: Gateways,
    pub(crate) scaling: Scaling,
    pub(crate) memory: Memory,
    pub(crate) last_decision: Option<PoolDecision>,
    pub(crate) decided_at: Option<Timestamp>,
    /// The next decision must not wait for the period.
    pub(crate) is_urgent: bool,
    /// The count that the scale target was told is known; before that nothing is decided (law L9).
    pub(crate) is_counted: bool,
    /// It is not configured any more and finishes what it has.
    pub(crate) is_retired: bool,
    /// Values brought from outside, by the metric's place in the policy.
    pub(crate) supplied: BTreeMap<usize, SuppliedValue>,
    /// Thresholds that a value may cross.
    pub(crate) edges: Edges,
    /// When a crossed threshold is to be decided.
    pub(crate) edge_due: Option<Timestamp>,
    /// Replicas that exist by the word of the scale target alone.
    pub(crate) unlisted: u32,
    /// Since when the scale target could not be written, and why.
    pub(crate) unwritten: Option<(Timestamp, String)>,
    /// The time it is entered with in the queue of what is due.
    pub(crate) entered: Option<Timestamp>,
    /// What a person was told and still holds: alarms are said when they begin, not with every decision.
    pub(crate) said: BTreeSet<String>,
    /// What the gateways were last told about replicas on their way.
    outlook: Option<(u32, Option<Duration>)>,
}

/// What a scrape gave.
type Outcome = Result<Arc<Reading>, String>;

impl Model {
    pub(crate) fn new(spec: ModelSpec, memory: Memory) -> Self {
        Self {
            edges: Edges::of(&spec),
            supplied: BTreeMap::new(),
            edge_due: None,
            unlisted: 0,
            unwritten: None,
            entered: None,
            spec,
            replicas: Replicas::default(),
            gateways: Gateways::default(),
            scaling: Scaling::default(),
            memory,
            last_decision: None,
            decided_at: None,
            is_urgent: true,
            is_counted: true,
            is_retired: false,
            said: BTreeSet::new(),
            outlook: None,
        }
    }

    /// When the next decision is due; never for a model that finishes what it has, or whose count is not known yet.
    pub(crate) fn decision_due(&self, period: Duration) -> Option<Timestamp> {
        if self.is_retired || !self.is_counted {
            return None;
        }
        let Some(at) = self.decided_at.filter(|_| !self.is_urgent) else { return Some(Timestamp::ZERO) };
        let routine = at.plus(period);
        Some(self.edge_due.map_or(routine, |edge| edge.min(routine)))
    }

    /// When anything is due.
    pub(crate) fn due(&self, period: Duration) -> Option<Timestamp> {
        [self.decision_due(period), self.next_expiry()].into_iter().flatten().min()
    }

    /// Sends an order to the gateways, if there are any.
    pub(crate) fn tell(&self, effects: &mut Vec<Effect>, order: GatewayOrder) {
        if self.spec.gateway == GatewayUse::Configured {
            effects.push(Effect::Gateway(order));
        }
    }

    /// Whether a replica that was told to go may still carry load of the pool: without a gateway nobody has emptied it, and where the
    /// target chooses another one it goes on as before.
    pub(crate) fn is_finishing(&self, replica: &Replica) -> bool {
        self.spec.gateway == GatewayUse::Absent && replica.is_leaving && replica.has_served
    }

    /// What the gateways say together.
    pub(crate) fn gateway(&self, now: Timestamp) -> GatewayObservation {
        match self.spec.gateway {
            GatewayUse::Configured => self.gateways.observe(now),
            GatewayUse::Absent => GatewayObservation::Absent,
        }
    }

    /// Takes in the outcome of a scrape; whether a decision became due earlier.
    pub(crate) fn scraped(&mut self, now: Timestamp, at: Timestamp, id: &ReplicaId, outcome: Outcome) -> bool {
        let Some((old, new)) = self.replicas.scraped(at, self.spec.scrape_period, id, outcome) else { return false };
        self.edges.page(&self.spec.queries, old.as_deref(), &new);
        self.look_for_edge(now)
    }

    /// Takes in a value from outside; whether a decision became due earlier.
    pub(crate) fn supply(
        &mut self,
        now: Timestamp,
        metric: usize,
        at: Timestamp,
        outcome: Result<Supplied, String>,
    ) -> bool {
        if !matches!(self.spec.queries.get(metric), Some(MetricQuery::Supplied { .. })) {
            return false;
        }
        let value = self.supplied.entry(metric).or_default();
        if value.last.as_ref().is_some_and(|(last, _)| at < *last) {
            return false;
        }
        match outcome {
            Ok(mut new) => {
                if let Supplied::PerReplica(values) = &mut new {
                    values.retain(|id, _| self.replicas.table.contains_key(id));
                }
                value.last = Some((at, new));
                value.error = None;
            }
            Err(why) => value.error = Some(why),
        }
        self.watch(now, metric)
    }

    /// A metric may have another value than before.
    fn watch(&mut self, now: Timestamp, metric: usize) -> bool {
        if let Some(query) = self.spec.queries.get(metric) {
            let answer = crate::observe::answer(now, self, self.gateway(now), metric, query);
            self.edges.answered(metric, &answer);
        }
        self.look_for_edge(now)
    }

    fn look_for_edge(&mut self, now: Timestamp) -> bool {
        if self.edge_due.is_some() || self.is_urgent || !self.edges.is_crossed(self.serving()) {
            return false;
        }
        self.edge_due = Some(edge::due(now, self.decided_at));
        true
    }

    /// Takes in what became of the last count that was ordered.
    pub(crate) fn written(&mut self, now: Timestamp, outcome: Result<(), String>) {
        match (outcome, &mut self.unwritten) {
            (Ok(()), unwritten) => *unwritten = None,
            (Err(why), Some((_, known))) => *known = why,
            (Err(why), unwritten) => {
                *unwritten = Some((now, why));
                self.is_urgent = true;
            }
        }
    }

    /// Takes over a changed specification.
    pub(crate) fn reconfigure(&mut self, now: Timestamp, spec: ModelSpec, effects: &mut Vec<Effect>) {
        self.is_urgent |= self.spec.policy != spec.policy || self.spec.mode != spec.mode || self.is_retired;
        let are_slots_new = self.spec.slots != spec.slots || self.is_retired;
        let stands_down = self.spec.mode != spec.mode && spec.mode == Mode::Advisory;
        let (is_lost, is_found) = match (self.spec.gateway, spec.gateway) {
            (GatewayUse::Configured, GatewayUse::Absent) => (true, false),
            (GatewayUse::Absent, GatewayUse::Configured) => (false, true),
            _ => (false, false),
        };
        if stands_down || is_lost {
            self.stand_down(now, effects);
        }
        if self.spec.queries != spec.queries {
            self.supplied.clear();
        }
        if self.spec != spec {
            self.edges = Edges::of(&spec);
        }
        self.is_retired = false;
        self.spec = spec;
        if is_lost {
            self.gateways = Gateways::default();
        }
        if are_slots_new || is_found {
            self.introduce_replicas(effects);
        }
    }

    /// Takes in what a gateway says.
    pub(crate) fn hear(&mut self, now: Timestamp, report: GatewayReport, effects: &mut Vec<Effect>) {
        if self.spec.gateway == GatewayUse::Absent {
            return;
        }
        match report {
            GatewayReport::Demand(demand) => {
                let has_load = demand.held.max(demand.in_flight).max(demand.peak) > 0;
                let heed = self.gateways.hear(now, demand);
                self.greet(heed, effects);
                self.is_urgent |= heed != Heed::Routine && has_load && self.serving() == 0;
                self.watch_demand(now);
            }
            GatewayReport::Wake { gateway, model, epoch, held } => {
                let heed = self.gateways.hear_wake(now, &gateway, &model, held);
                self.greet(heed, effects);
                self.hear_wake_epoch(epoch, effects);
                self.is_urgent |= self.serving() == 0;
                let expected = self
                    .replicas
                    .expected(now, self.spec.start_estimate)
                    .or_else(|| Some(self.replicas.start_p90(self.spec.start_estimate)))
                    // an advisor starts nothing
                    .filter(|_| self.spec.mode == Mode::Active || self.serving() > 0);
                self.tell(effects, GatewayOrder::Ack { model, epoch, expected });
            }
            GatewayReport::Closed { gateway, epoch, accepted, .. } => {
                self.closed(now, &gateway, epoch, accepted, effects);
            }
            GatewayReport::ReplicaLoad { gateway, replica, in_flight, .. } => {
                let is_draining = |replica: &Replica| replica.state == ReplicaState::Draining;
                if !self.replicas.table.get(&replica).is_some_and(is_draining) {
                    return; // a late word about a drain that is over or was taken back
                }
                self.gateways.hear_load(&gateway, &replica, in_flight);
                if self.gateways.drained_load(&replica) == Some(0) {
                    self.end_drain(now, &replica, effects);
                }
            }
        }
    }

    fn watch_demand(&mut self, now: Timestamp) {
        for metric in 0..self.spec.queries.len() {
            let is_demand = matches!(
                self.spec.queries.get(metric),
                Some(MetricQuery::GatewayDemand | MetricQuery::GatewayHeld | MetricQuery::GatewayInFlight)
            );
            if is_demand && self.watch(now, metric) {
                return;
            }
        }
    }

    /// Tells a gateway that knows nothing yet what there is; the others hear it once more.
    fn greet(&self, heed: Heed, effects: &mut Vec<Effect>) {
        if heed != Heed::New {
            return;
        }
        self.introduce_replicas(effects);
        for replica in self.replicas.in_state(ReplicaState::Draining) {
            self.tell(effects, GatewayOrder::Drain { model: self.spec.model.clone(), replica });
        }
    }

    /// Takes in what the supervisor says about a replica. Saying the same again changes nothing.
    pub(crate) fn replica(&mut self, now: Timestamp, id: ReplicaId, event: ReplicaEvent, effects: &mut Vec<Effect>) {
        let model = self.spec.model.clone();
        match event {
            ReplicaEvent::Started { created_at, address, .. } => {
                let known = self.replicas.table.get(&id);
                if known.is_none_or(|known| known.created_at != created_at || known.address != address) {
                    self.stopped(now, &id, effects);
                    self.replicas.started(now, id.clone(), created_at, address);
                    if !self.is_counted {
                        self.replicas.found(&id);
                    }
                    if self.is_above_goal(&id) {
                        // made anew by a target that was not told to go below it yet
                        self.replicas.set_state(now, &id, ReplicaState::Draining);
                        self.replicas.drained(&id);
                        self.follow_drains(now, effects);
                    }
                }
            }
            ReplicaEvent::Ready => {
                self.replicas.set_ready(&id, true);
                if let Some(address) = self.replicas.ready(now, &id) {
                    let slots = self.spec.slots;
                    self.tell(effects, GatewayOrder::ReplicaUp { model, replica: id, address, slots });
                    effects.push(Effect::TargetsChanged);
                }
            }
            ReplicaEvent::NotReady => {
                self.replicas.set_ready(&id, false);
                self.lose(now, &id, ReplicaState::Starting, effects);
            }
            ReplicaEvent::Unschedulable { why } => self.replicas.unschedulable(now, &id, why),
            ReplicaEvent::Scheduled => self.replicas.scheduled(now, &id),
            ReplicaEvent::Ending => self.ending(now, &id, effects),
            ReplicaEvent::Failed { why } => {
                self.replicas.set_ready(&id, false);
                if self.replicas.table.get(&id).is_some_and(|replica| !replica.is_leaving) {
                    effects.push(Effect::Alarm { model, text: format!("replica `{id}` failed: {why}") });
                }
                self.lose(now, &id, ReplicaState::Failed, effects);
            }
            ReplicaEvent::Stopped => self.stopped(now, &id, effects),
        }
        self.say_outlook(now, effects);
    }

    /// A replica is being ended by somebody: what it has may still finish, so the gateways only give it nothing new.
    fn ending(&mut self, now: Timestamp, id: &ReplicaId, effects: &mut Vec<Effect>) {
        let Some(replica) = self.replicas.table.get_mut(id) else { return };
        replica.is_ending = true;
        replica.is_ready = false;
        let (before, was_leaving) = (replica.state, replica.is_leaving);
        if was_leaving {
            return;
        }
        let has_goal = self.scaling.goal.is_some();
        self.replicas.leave(now, id);
        self.tell(effects, GatewayOrder::Drain { model: self.spec.model.clone(), replica: id.clone() });
        effects.push(Effect::TargetsChanged);
        match before {
            ReplicaState::Draining if has_goal => self.follow_drains(now, effects),
            // it was about to be removed: without a smaller count another one would take its place
            ReplicaState::Draining => self.order(self.ordered().saturating_sub(1), effects),
            ReplicaState::Ready => self.is_urgent = true,
            ReplicaState::Starting | ReplicaState::Failed => {}
        }
    }

    /// A replica is gone; if it was draining, the drain is over.
    fn stopped(&mut self, now: Timestamp, id: &ReplicaId, effects: &mut Vec<Effect>) {
        let Some(before) = self.replicas.table.get(id).map(|replica| (replica.state, replica.is_leaving)) else {
            return;
        };
        self.end_drain(now, id, effects);
        self.replicas.table.remove(id);
        self.gateways.forget_replica(id);
        self.is_urgent |= before == (ReplicaState::Ready, false);
        let model = self.spec.model.clone();
        self.tell(effects, GatewayOrder::ReplicaDown { model, replica: id.clone() });
        effects.push(Effect::TargetsChanged);
    }

    /// A replica that served does not any more; if it was draining, the drain is over. One that has to go is not waited for.
    fn lose(&mut self, now: Timestamp, id: &ReplicaId, state: ReplicaState, effects: &mut Vec<Effect>) {
        let Some(replica) = self.replicas.table.get(id).filter(|replica| !replica.is_leaving) else { return };
        let before = replica.state;
        let is_gone = state == ReplicaState::Failed;
        if before == ReplicaState::Draining {
            if is_gone {
                self.end_drain(now, id, effects);
            } else {
                self.replicas.set_ready(id, false);
            }
            return;
        }
        if before == state {
            return;
        }
        let has_served = replica.has_served;
        self.replicas.set_state(now, id, state);
        self.replicas.set_ready(id, false);
        let (model, replica) = (self.spec.model.clone(), id.clone());
        if is_gone && has_served {
            self.tell(effects, GatewayOrder::ReplicaDown { model, replica });
        } else if before == ReplicaState::Ready {
            // a probe that fails under load is no reason to cut off answers that are under way
            self.tell(effects, GatewayOrder::Drain { model, replica });
        }
        if before == ReplicaState::Ready {
            effects.push(Effect::TargetsChanged);
            self.is_urgent = true;
        }
    }

    /// Says what a person should know when it begins: `now_true` is all that holds now, each with a key that stays the same while the
    /// words may change.
    pub(crate) fn alarm(&mut self, now_true: Vec<(String, String)>, effects: &mut Vec<Effect>) {
        let model = &self.spec.model;
        let is_new = |key: &String| !self.said.contains(key);
        for (_, text) in now_true.iter().filter(|(key, _)| is_new(key)) {
            effects.push(Effect::Alarm { model: model.clone(), text: text.clone() });
        }
        self.said = now_true.into_iter().map(|(key, _)| key).collect();
    }

    /// Tells the gateways of every ready replica again.
    pub(crate) fn introduce_replicas(&self, effects: &mut Vec<Effect>) {
        for (id, replica) in &self.replicas.table {
            if replica.state == ReplicaState::Ready {
                self.tell(
                    effects,
                    GatewayOrder::ReplicaUp {
                        model: self.spec.model.clone(),
                        replica: id.clone(),
                        address: replica.address.clone(),
                        slots: self.spec.slots,
                    },
                );
            }
        }
    }

    /// Tells the gateways how many replicas are on their way, if that changed.
    pub(crate) fn say_outlook(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let starting = self.replicas.coming(now, self.spec.start_estimate);
        let expected = self.replicas.expected(now, self.spec.start_estimate);
        let outlook = Some((starting, expected.map(|span| Duration::from_secs(span.as_secs()))));
        if self.outlook != outlook {
            self.outlook = outlook;
            let model = self.spec.model.clone();
            self.tell(effects, GatewayOrder::Outlook { model, starting, expected });
        }
    }
}
