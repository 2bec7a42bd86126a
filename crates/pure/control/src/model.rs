//! One model: what it is told, what is known of it, and when its next decision is due.

use crate::event::{Effect, ModelSpec, ReplicaEvent};
use crate::gateways::{Gateways, Heed};
use crate::replicas::{Replica, Replicas};
use crate::scale::Scaling;
use loadline_base::{ReplicaId, Timestamp};
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use loadline_policy::{Memory, PoolDecision, ReplicaState};
use std::collections::BTreeSet;
use std::time::Duration;

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
    /// What a person was told and still holds: alarms are said when they begin, not with every decision.
    pub(crate) said: BTreeSet<String>,
    /// What the gateways were last told about replicas on their way.
    outlook: Option<(u32, Option<Duration>)>,
}

impl Model {
    pub(crate) fn new(spec: ModelSpec, memory: Memory) -> Self {
        Self {
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
        Some(match self.decided_at {
            Some(at) if !self.is_urgent => at.plus(period),
            _ => Timestamp::ZERO,
        })
    }

    /// Takes in what a gateway says.
    pub(crate) fn hear(&mut self, now: Timestamp, report: GatewayReport, effects: &mut Vec<Effect>) {
        match report {
            GatewayReport::Demand(demand) => {
                let has_load = demand.held.max(demand.in_flight).max(demand.peak) > 0;
                let heed = self.gateways.hear(now, demand);
                self.greet(heed, effects);
                self.is_urgent |= heed != Heed::Routine && has_load && self.serving() == 0;
            }
            GatewayReport::Wake { gateway, model, epoch, held } => {
                let heed = self.gateways.hear_wake(now, &gateway, &model, held);
                self.greet(heed, effects);
                self.hear_wake_epoch(epoch, effects);
                self.is_urgent |= self.serving() == 0;
                let expected = self
                    .replicas
                    .expected(now, self.spec.start_estimate)
                    .or_else(|| Some(self.replicas.start_p90(self.spec.start_estimate)));
                effects.push(Effect::Gateway(GatewayOrder::Ack { model, epoch, expected }));
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

    /// Tells a gateway that knows nothing yet what there is; the others hear it once more.
    fn greet(&self, heed: Heed, effects: &mut Vec<Effect>) {
        if heed != Heed::New {
            return;
        }
        self.introduce_replicas(effects);
        for replica in self.replicas.in_state(ReplicaState::Draining) {
            effects.push(Effect::Gateway(GatewayOrder::Drain { model: self.spec.model.clone(), replica }));
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
                }
            }
            ReplicaEvent::Ready => {
                self.replicas.set_ready(&id, true);
                if let Some(address) = self.replicas.ready(now, &id) {
                    let slots = self.spec.slots;
                    effects.push(Effect::Gateway(GatewayOrder::ReplicaUp { model, replica: id, address, slots }));
                    effects.push(Effect::TargetsChanged);
                }
            }
            ReplicaEvent::NotReady => self.lose(now, &id, ReplicaState::Starting, effects),
            ReplicaEvent::Failed { why } => {
                if self.replicas.table.get(&id).is_some_and(|replica| !replica.is_leaving) {
                    effects.push(Effect::Alarm { model, text: format!("replica `{id}` failed: {why}") });
                }
                self.lose(now, &id, ReplicaState::Failed, effects);
            }
            ReplicaEvent::Stopped => self.stopped(now, &id, effects),
        }
        self.say_outlook(now, effects);
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
        effects.push(Effect::Gateway(GatewayOrder::ReplicaDown { model, replica: id.clone() }));
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
            effects.push(Effect::Gateway(GatewayOrder::ReplicaDown { model, replica }));
        } else if before == ReplicaState::Ready {
            // a probe that fails under load is no reason to cut off answers that are under way
            effects.push(Effect::Gateway(GatewayOrder::Drain { model, replica }));
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
                effects.push(Effect::Gateway(GatewayOrder::ReplicaUp {
                    model: self.spec.model.clone(),
                    replica: id.clone(),
                    address: replica.address.clone(),
                    slots: self.spec.slots,
                }));
            }
        }
    }

    /// Tells the gateways how many replicas are on their way, if that changed.
    pub(crate) fn say_outlook(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let starting = self.replicas.count(ReplicaState::Starting);
        let expected = self.replicas.expected(now, self.spec.start_estimate);
        let outlook = Some((starting, expected.map(|span| Duration::from_secs(span.as_secs()))));
        if self.outlook != outlook {
            self.outlook = outlook;
            let model = self.spec.model.clone();
            effects.push(Effect::Gateway(GatewayOrder::Outlook { model, starting, expected }));
        }
    }
}
