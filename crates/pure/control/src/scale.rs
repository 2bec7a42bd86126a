//! From a wanted count to actions, in an order that loses no request: drain before removal, close before zero.

use crate::event::{Effect, ScaleEvent};
use crate::model::Model;
use loadline_base::{GatewayId, ReplicaId, Timestamp};
use loadline_hold::protocol::GatewayOrder;
use loadline_policy::ReplicaState;

/// How often a close that nobody answers is said again.
const CLOSE_REPEAT: std::time::Duration = std::time::Duration::from_secs(2);

/// The counts that were ordered, and what is under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scaling {
    /// The count the supervisor was last told to have.
    ordered: u32,
    /// How many of those are draining.
    draining: u32,
    /// The close under way, and when it was last said.
    closing: Option<(u64, Timestamp)>,
    /// The largest epoch seen or used.
    epoch: u64,
}

impl Scaling {
    /// Wanted replicas: ordered and not on their way out.
    pub(crate) fn serving(&self) -> u32 {
        self.ordered.saturating_sub(self.draining)
    }

    /// Whether a close is under way.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Epochs only grow.
    pub(crate) fn hear_epoch(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }
}

impl Model {
    /// Starts whatever leads from the present count to `desired`.
    pub(crate) fn settle(&mut self, now: Timestamp, desired: u32, reason: &str, effects: &mut Vec<Effect>) {
        let serving = self.scaling.serving();
        if desired != serving && !(desired == 0 && self.scaling.is_closing()) {
            effects.push(Effect::Scaled(ScaleEvent {
                at: now,
                model: self.spec.model.clone(),
                from: serving,
                to: desired,
                reason: reason.to_owned(),
            }));
        }
        if desired > 0 && self.scaling.closing.take().is_some() {
            // gateways that had already accepted learn that the replicas are back
            self.introduce_replicas(effects);
        }
        match desired.cmp(&serving) {
            std::cmp::Ordering::Greater => self.grow(now, desired - serving, effects),
            std::cmp::Ordering::Less if desired == 0 => self.close(now, effects),
            std::cmp::Ordering::Less => self.shrink(now, serving - desired, effects),
            std::cmp::Ordering::Equal => {}
        }
        self.say_outlook(now, effects);
    }

    /// Draining replicas are instant capacity; only what they cannot give is started.
    fn grow(&mut self, now: Timestamp, mut missing: u32, effects: &mut Vec<Effect>) {
        let mut draining: Vec<(Timestamp, ReplicaId)> = self
            .replicas
            .table
            .iter()
            .filter(|(_, replica)| replica.state == ReplicaState::Draining)
            .map(|(id, replica)| (replica.since, id.clone()))
            .collect();
        draining.sort();
        while missing > 0 {
            let Some((_, id)) = draining.pop() else { break };
            self.replicas.set_state(now, &id, ReplicaState::Ready);
            self.gateways.forget_replica(&id);
            self.scaling.draining = self.scaling.draining.saturating_sub(1);
            if let Some(address) = self.replicas.table.get(&id).map(|replica| replica.address.clone()) {
                let (model, slots) = (self.spec.model.clone(), self.spec.slots);
                effects.push(Effect::Gateway(GatewayOrder::ReplicaUp { model, replica: id, address, slots }));
            }
            missing -= 1;
        }
        if missing > 0 {
            self.order(self.scaling.ordered.saturating_add(missing), Vec::new(), effects);
        }
    }

    /// Failed and starting replicas go at once; ready ones are drained first, those with the least work first.
    fn shrink(&mut self, now: Timestamp, surplus: u32, effects: &mut Vec<Effect>) {
        let surplus = usize::try_from(surplus).unwrap_or(usize::MAX);
        let mut idle: Vec<(bool, Timestamp, ReplicaId)> = Vec::new();
        let mut busy: Vec<(u64, std::cmp::Reverse<Timestamp>, ReplicaId)> = Vec::new();
        for (id, replica) in self.replicas.table.iter().filter(|(_, replica)| !replica.is_leaving) {
            match replica.state {
                ReplicaState::Failed => idle.push((true, replica.created_at, id.clone())),
                ReplicaState::Starting => idle.push((false, replica.created_at, id.clone())),
                ReplicaState::Ready => {
                    busy.push((self.work_of(replica), std::cmp::Reverse(replica.created_at), id.clone()));
                }
                ReplicaState::Draining => {}
            }
        }
        // failed first, then the youngest start
        idle.sort();
        let at_once: Vec<ReplicaId> = idle.into_iter().rev().map(|(_, _, id)| id).take(surplus).collect();
        busy.sort();
        let unseen =
            usize::try_from(self.scaling.serving()).unwrap_or(usize::MAX).saturating_sub(at_once.len() + busy.len());
        let removable = at_once.len().saturating_add(unseen).min(surplus);
        if removable > 0 {
            let count = u32::try_from(removable).unwrap_or(u32::MAX);
            for id in &at_once {
                self.replicas.leave(now, id);
            }
            self.order(self.scaling.ordered.saturating_sub(count), at_once, effects);
        }
        for (_, _, id) in busy.into_iter().take(surplus - removable) {
            let deadline = now.plus(self.spec.drain_timeout);
            self.replicas.set_state(now, &id, ReplicaState::Draining);
            if let Some(replica) = self.replicas.table.get_mut(&id) {
                replica.drain_deadline = Some(deadline);
            }
            self.scaling.draining = self.scaling.draining.saturating_add(1);
            effects.push(Effect::Gateway(GatewayOrder::Drain { model: self.spec.model.clone(), replica: id.clone() }));
            if self.gateways.is_empty() {
                self.end_drain(now, &id, effects);
            }
        }
    }

    /// Running and waiting requests by the replica's last page, in whole requests.
    fn work_of(&self, replica: &crate::replicas::Replica) -> u64 {
        use loadline_signals::dialect::SignalName::{RequestsRunning, RequestsWaiting};
        let value = |name| replica.reading.as_ref().and_then(|(_, reading)| Some(reading.signals.get(&name)?.value));
        let total = value(RequestsRunning).unwrap_or(0.0) + value(RequestsWaiting).unwrap_or(0.0);
        loadline_base::num::f64_to_u64_trunc(total)
    }

    /// Asks every gateway whether nothing is held or in flight.
    fn close(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.gateways.is_empty() {
            self.reach_zero(now, effects);
            return;
        }
        if self.scaling.closing.is_some_and(|(_, said)| now.since(said) < CLOSE_REPEAT) {
            return;
        }
        self.scaling.epoch = self.scaling.epoch.saturating_add(1);
        self.scaling.closing = Some((self.scaling.epoch, now));
        let (model, epoch) = (self.spec.model.clone(), self.scaling.epoch);
        effects.push(Effect::Gateway(GatewayOrder::Close { model, epoch }));
    }

    /// Takes in a gateway's answer to a close.
    pub(crate) fn closed(
        &mut self,
        now: Timestamp,
        gateway: &GatewayId,
        epoch: u64,
        is_accepted: bool,
        effects: &mut Vec<Effect>,
    ) {
        if self.scaling.closing.is_none_or(|(open, _)| open != epoch) {
            if is_accepted && self.scaling.serving() > 0 {
                // an answer to a close that was taken back
                self.introduce_replicas(effects);
            }
            return;
        }
        if !is_accepted {
            self.scaling.closing = None;
            self.introduce_replicas(effects);
            self.is_urgent = true;
            return;
        }
        if self.gateways.hear_accepted(gateway, epoch) {
            self.scaling.closing = None;
            self.reach_zero(now, effects);
        }
    }

    /// Nothing is held or in flight anywhere, and gateways hold what comes: the replicas can go.
    fn reach_zero(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let all: Vec<ReplicaId> = self.replicas.table.keys().cloned().collect();
        for id in &all {
            self.replicas.leave(now, id);
            let (model, replica) = (self.spec.model.clone(), id.clone());
            effects.push(Effect::Gateway(GatewayOrder::ReplicaDown { model, replica }));
        }
        self.scaling.draining = 0;
        effects.push(Effect::TargetsChanged);
        self.order(0, all, effects);
    }

    /// A draining replica has nothing left, or is gone: the count can go down.
    pub(crate) fn end_drain(&mut self, now: Timestamp, id: &ReplicaId, effects: &mut Vec<Effect>) {
        let is_draining = self.replicas.table.get(id).is_some_and(|replica| replica.state == ReplicaState::Draining);
        if !is_draining {
            return;
        }
        self.replicas.leave(now, id);
        self.gateways.forget_replica(id);
        self.scaling.draining = self.scaling.draining.saturating_sub(1);
        let model = self.spec.model.clone();
        effects.push(Effect::Gateway(GatewayOrder::ReplicaDown { model, replica: id.clone() }));
        effects.push(Effect::TargetsChanged);
        self.order(self.scaling.ordered.saturating_sub(1), vec![id.clone()], effects);
    }

    /// Ends drains that ran out of time and repeats a close that nobody answered.
    pub(crate) fn expire(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let late: Vec<ReplicaId> = self
            .replicas
            .table
            .iter()
            .filter(|(_, replica)| replica.drain_deadline.is_some_and(|deadline| deadline <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in late {
            let in_flight =
                self.gateways.drained_load(&id).map_or("an unknown number of".to_owned(), |n| n.to_string());
            effects.push(Effect::Alarm {
                model: self.spec.model.clone(),
                text: format!(
                    "replica `{id}` still had {in_flight} requests when its drain time ran out; raise `drainTimeout`"
                ),
            });
            self.end_drain(now, &id, effects);
        }
        if self.scaling.closing.is_some_and(|(_, said)| now.since(said) >= CLOSE_REPEAT) {
            self.close(now, effects);
        }
    }

    /// The next moment at which [`Self::expire`] has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Timestamp> {
        let drains = self.replicas.table.values().filter_map(|replica| replica.drain_deadline).min();
        let close = self.scaling.closing.map(|(_, said)| said.plus(CLOSE_REPEAT));
        [drains, close].into_iter().flatten().min()
    }

    /// Tells the supervisor a new count.
    fn order(&mut self, to: u32, remove_first: Vec<ReplicaId>, effects: &mut Vec<Effect>) {
        self.scaling.ordered = to;
        effects.push(Effect::SetReplicas { pool: self.spec.pool.clone(), to, remove_first });
    }
}
