//! One model: what it is told, what is known of it, and when its next decision is due.

use crate::event::{Effect, ModelSpec, ReplicaEvent};
use crate::gateways::{Gateways, Heed};
use crate::replicas::Replicas;
use crate::scale::Scaling;
use loadline_base::{ReplicaId, Timestamp};
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use loadline_policy::{Memory, PoolDecision, ReplicaState};
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
    /// Evidence has come since the last decision.
    pub(crate) is_fresh: bool,
    /// The next decision must not wait for the period.
    pub(crate) is_urgent: bool,
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
            is_fresh: true,
            is_urgent: true,
            outlook: None,
        }
    }

    /// When the next decision is due.
    pub(crate) fn decision_due(&self, period: Duration) -> Timestamp {
        match self.decided_at {
            Some(at) if !self.is_urgent => at.plus(period),
            _ => Timestamp::ZERO,
        }
    }

    /// Takes in what a gateway says.
    pub(crate) fn hear(&mut self, now: Timestamp, report: GatewayReport, effects: &mut Vec<Effect>) {
        match report {
            GatewayReport::Demand(demand) => {
                let is_new = !self.gateways.knows(&demand.gateway);
                let heed = self.gateways.hear(now, demand);
                self.is_fresh = true;
                if is_new {
                    // a gateway that has just come knows no replica
                    self.introduce_replicas(effects);
                }
                self.is_urgent |= heed == Heed::Edge && self.scaling.serving() == 0;
            }
            GatewayReport::Wake { gateway, model, epoch, held } => {
                self.gateways.hear_wake(now, &gateway, held);
                self.scaling.hear_epoch(epoch);
                if self.scaling.serving() == 0 {
                    self.is_urgent = true;
                }
                self.is_fresh = true;
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
                self.gateways.hear_load(&gateway, &replica, in_flight);
                if self.gateways.drained_load(&replica) == Some(0) {
                    self.end_drain(now, &replica, effects);
                }
            }
        }
    }

    /// Takes in what the supervisor says about a replica.
    pub(crate) fn replica(&mut self, now: Timestamp, id: ReplicaId, event: ReplicaEvent, effects: &mut Vec<Effect>) {
        self.is_fresh = true;
        let model = self.spec.model.clone();
        match event {
            ReplicaEvent::Started { created_at, address, .. } => self.replicas.started(now, id, created_at, address),
            ReplicaEvent::Ready => {
                if let Some(address) = self.replicas.ready(now, &id) {
                    let slots = self.spec.slots;
                    effects.push(Effect::Gateway(GatewayOrder::ReplicaUp { model, replica: id, address, slots }));
                    effects.push(Effect::TargetsChanged);
                }
            }
            ReplicaEvent::NotReady => self.lose(now, id, ReplicaState::Starting, effects),
            ReplicaEvent::Failed { why } => {
                effects.push(Effect::Alarm { model, text: format!("replica `{id}` failed: {why}") });
                self.lose(now, id, ReplicaState::Failed, effects);
            }
            ReplicaEvent::Stopped => {
                let was_known = self.replicas.table.remove(&id).is_some();
                self.gateways.forget_replica(&id);
                if was_known {
                    effects.push(Effect::Gateway(GatewayOrder::ReplicaDown { model, replica: id }));
                    effects.push(Effect::TargetsChanged);
                }
            }
        }
        self.say_outlook(now, effects);
    }

    /// A replica that served does not any more; if it was draining, the drain is over.
    fn lose(&mut self, now: Timestamp, id: ReplicaId, state: ReplicaState, effects: &mut Vec<Effect>) {
        let Some(before) = self.replicas.table.get(&id).map(|replica| replica.state) else { return };
        if before == ReplicaState::Draining {
            self.end_drain(now, &id, effects);
            return;
        }
        self.replicas.set_state(now, &id, state);
        self.gateways.forget_replica(&id);
        if before == ReplicaState::Ready {
            let model = self.spec.model.clone();
            effects.push(Effect::Gateway(GatewayOrder::ReplicaDown { model, replica: id }));
            effects.push(Effect::TargetsChanged);
            self.is_urgent = true;
        }
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
