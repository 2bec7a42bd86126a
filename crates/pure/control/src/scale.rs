//! From a wanted count to actions, in an order that loses no request: drain before removal, close before zero.

use crate::event::{Effect, GatewayUse, Mode, Removal, ScaleEvent};
use crate::model::Model;
use loadline_base::{GatewayId, ReplicaId, Timestamp};
use loadline_hold::protocol::GatewayOrder;
use loadline_policy::{Action, PoolDecision, ReplicaState};
use std::collections::{BTreeMap, BTreeSet};

/// How often a close that nobody answers is said again.
const CLOSE_REPEAT: std::time::Duration = std::time::Duration::from_secs(2);

/// The counts that were ordered, and what is under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scaling {
    /// The count the supervisor was last told to have, draining replicas included.
    ordered: u32,
    /// The close under way.
    closing: Option<Closing>,
    /// The largest epoch seen or used.
    epoch: u64,
    /// The count that a target which removes the highest ordinal goes down to, once those above are empty.
    pub(crate) goal: Option<u32>,
}

/// A close that not every gateway has answered.
#[derive(Debug, Clone)]
struct Closing {
    epoch: u64,
    /// When it was last said.
    said: Timestamp,
    /// Why zero is wanted; it becomes a scale event only when zero is reached.
    reason: String,
}

impl Scaling {
    /// Epochs only grow.
    fn hear_epoch(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }
}

impl Model {
    /// Wanted replicas: ordered and not on their way out.
    pub(crate) fn serving(&self) -> u32 {
        match self.scaling.goal {
            Some(goal) => goal.min(self.scaling.ordered),
            None => self.scaling.ordered.saturating_sub(self.replicas.count(ReplicaState::Draining)),
        }
    }

    /// Replicas that exist or may come to exist at any moment, those that are ending included: what devices they take.
    pub(crate) fn occupied(&self) -> u32 {
        let leaving = self.replicas.table.values().filter(|replica| replica.is_leaving).count();
        let ordered = self.scaling.ordered.saturating_add(u32::try_from(leaving).unwrap_or(u32::MAX));
        // while nobody says how many there shall be, those that exist take theirs
        let there = if self.is_counted { 0 } else { u32::try_from(self.replicas.table.len()).unwrap_or(u32::MAX) };
        ordered.max(there)
    }

    /// What the scale target was found to be told, whoever told it. A count that this loop did not order takes the place of what it had
    /// under way; the next decision knows that it is someone else's (law L10). An advisor takes it as it is.
    pub(crate) fn adopt(&mut self, now: Timestamp, replicas: u32, effects: &mut Vec<Effect>) {
        if self.is_counted && replicas == self.scaling.ordered {
            return;
        }
        if self.is_counted {
            let expected = if self.spec.mode == Mode::Advisory { replicas } else { self.serving() };
            self.memory.overwritten(&self.spec.pool, expected);
            self.take_back_close(effects);
            self.end_all_drains(now, self.scaling.ordered.saturating_sub(replicas), effects);
        }
        self.scaling.ordered = replicas;
        self.is_counted = true;
        self.is_urgent = true;
    }

    /// What drains goes as far as the target was told to remove replicas; the rest serves again.
    fn end_all_drains(&mut self, now: Timestamp, removed: u32, effects: &mut Vec<Effect>) {
        self.scaling.goal = None;
        let removed = usize::try_from(removed).unwrap_or(usize::MAX);
        // the highest names first, as a target with ordinals would
        for (at, id) in self.replicas.in_state(ReplicaState::Draining).into_iter().rev().enumerate() {
            if at < removed {
                self.replicas.leave(now, &id);
            } else {
                self.take_back_drain(now, &id, effects);
            }
        }
    }

    /// The target has come to rest with the ordered count: what was named for removal and is still there was spared.
    pub(crate) fn settled(&mut self, now: Timestamp, replicas: u32, effects: &mut Vec<Effect>) {
        let there = u32::try_from(self.replicas.table.len()).unwrap_or(u32::MAX);
        let is_at_rest = replicas == self.scaling.ordered && there <= replicas;
        if !is_at_rest || self.is_retired || self.replicas.table.values().any(|replica| replica.is_ending) {
            return;
        }
        let leaving = self.replicas.table.iter().filter(|(_, replica)| replica.is_leaving);
        for id in leaving.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            if let Some(replica) = self.replicas.table.get_mut(&id) {
                replica.is_leaving = false;
            }
            self.take_back_drain(now, &id, effects);
            effects.push(Effect::TargetsChanged);
        }
    }

    /// A replica that was to go serves again, if it can.
    pub(crate) fn take_back_drain(&mut self, now: Timestamp, id: &ReplicaId, effects: &mut Vec<Effect>) {
        self.gateways.forget_replica(id);
        let Some(replica) = self.replicas.table.get(id) else { return };
        let (is_ready, address) = (replica.is_ready, replica.address.clone());
        self.replicas.set_state(now, id, if is_ready { ReplicaState::Ready } else { ReplicaState::Starting });
        if is_ready {
            let (model, slots) = (self.spec.model.clone(), self.spec.slots);
            self.tell(effects, GatewayOrder::ReplicaUp { model, replica: id.clone(), address, slots });
        }
    }

    /// Takes back everything under way: decisions are not carried out any more.
    pub(crate) fn stand_down(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.take_back_close(effects);
        self.end_all_drains(now, 0, effects);
    }

    /// The count the scale target was last told to have.
    pub(crate) fn ordered(&self) -> u32 {
        self.scaling.ordered
    }

    /// Starts whatever leads from the present count to the decided one; no more than `room` replicas may be added. Returns the count that is
    /// now wanted, or is waited for through a close.
    pub(crate) fn settle(
        &mut self,
        now: Timestamp,
        decided: &PoolDecision,
        room: u32,
        effects: &mut Vec<Effect>,
    ) -> u32 {
        let reason = &decided.binding().map(ToString::to_string).unwrap_or_default();
        let serving = self.serving();
        let most = serving.saturating_add(self.reclaimable()).saturating_add(room);
        let desired = decided.desired.min(most);
        if desired > 0 {
            self.take_back_close(effects);
            self.scaled(now, serving, desired, reason, effects);
        }
        match desired.cmp(&serving) {
            std::cmp::Ordering::Greater => self.grow(now, desired - serving, effects),
            std::cmp::Ordering::Less if desired == 0 => self.close(now, reason, effects),
            std::cmp::Ordering::Less => self.shrink(now, serving - desired, removal_order(decided), effects),
            std::cmp::Ordering::Equal => {}
        }
        self.say_outlook(now, effects);
        desired
    }

    /// Replicas that can serve again without being started.
    fn reclaimable(&self) -> u32 {
        if self.scaling.goal.is_some() {
            return self.scaling.ordered.saturating_sub(self.serving());
        }
        let takes_back =
            |replica: &&crate::replicas::Replica| replica.state == ReplicaState::Draining && replica.is_ready;
        u32::try_from(self.replicas.table.values().filter(takes_back).count()).unwrap_or(u32::MAX)
    }

    fn scaled(&self, now: Timestamp, from: u32, to: u32, reason: &str, effects: &mut Vec<Effect>) {
        if from != to {
            let model = self.spec.model.clone();
            effects.push(Effect::Scaled(ScaleEvent { at: now, model, from, to, reason: reason.to_owned() }));
        }
    }

    /// Gateways that had already accepted a close learn that the replicas are back.
    fn take_back_close(&mut self, effects: &mut Vec<Effect>) {
        if self.scaling.closing.take().is_some() {
            self.introduce_replicas(effects);
        }
    }

    /// A gateway holds requests and asks for a replica. A close of its epoch or an older one is over: it has accepted that, and then
    /// something came.
    pub(crate) fn hear_wake_epoch(&mut self, epoch: u64, effects: &mut Vec<Effect>) {
        self.scaling.hear_epoch(epoch);
        if self.scaling.closing.as_ref().is_some_and(|closing| closing.epoch <= epoch) {
            self.take_back_close(effects);
        }
    }

    /// The model is not configured any more: nothing new will come, and what is under way has the drain time to finish.
    pub(crate) fn retire(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.is_retired {
            return;
        }
        self.is_retired = true;
        if self.spec.mode == Mode::Advisory {
            self.release(now, effects);
            return;
        }
        self.scaling.closing = None;
        let serving = self.serving();
        self.scaled(now, serving, 0, "the model is not in the configuration any more", effects);
        self.memory.granted(&self.spec.pool, now, serving, 0);
        self.shrink(now, serving, &[], effects);
        if self.gateways.is_unloaded() {
            let draining: Vec<ReplicaId> = self.replicas.in_state(ReplicaState::Draining);
            for id in draining {
                self.end_drain(now, &id, effects);
            }
        }
    }

    /// The model is let go and its target stays as it is.
    pub(crate) fn release(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.stand_down(now, effects);
        self.is_retired = true;
        self.scaling.ordered = 0;
        self.replicas.table.clear();
    }

    /// Whether a retired model has left nothing behind.
    pub(crate) fn is_over(&self) -> bool {
        self.is_retired && self.scaling.ordered == 0 && self.replicas.table.is_empty()
    }

    /// Draining replicas are instant capacity; only what they cannot give is started.
    fn grow(&mut self, now: Timestamp, mut missing: u32, effects: &mut Vec<Effect>) {
        if self.scaling.goal.is_some() {
            return self.grow_from_goal(now, self.serving().saturating_add(missing), effects);
        }
        let mut draining: Vec<(Timestamp, ReplicaId)> = self
            .replicas
            .table
            .iter()
            .filter(|(_, replica)| replica.state == ReplicaState::Draining && replica.is_ready)
            .map(|(id, replica)| (replica.since, id.clone()))
            .collect();
        draining.sort();
        while missing > 0 {
            let Some((_, id)) = draining.pop() else { break };
            self.take_back_drain(now, &id, effects);
            missing -= 1;
        }
        if missing > 0 {
            self.order(self.scaling.ordered.saturating_add(missing), effects);
        }
    }

    fn shrink(&mut self, now: Timestamp, surplus: u32, order: &[ReplicaId], effects: &mut Vec<Effect>) {
        match self.removal() {
            Removal::Named => self.shrink_named(now, surplus, order, effects),
            Removal::HighestOrdinal => self.shrink_from_top(now, self.serving().saturating_sub(surplus), effects),
            // whoever goes ends its own work
            Removal::Unknown => self.order(self.scaling.ordered.saturating_sub(surplus), effects),
        }
    }

    /// Failed and starting replicas go at once; ready ones are drained first, in the order of the decision, then the newest. Without a
    /// gateway there is nobody to drain them, and they go at once, too.
    fn shrink_named(&mut self, now: Timestamp, surplus: u32, order: &[ReplicaId], effects: &mut Vec<Effect>) {
        let surplus = usize::try_from(surplus).unwrap_or(usize::MAX);
        let mut idle: Vec<(bool, Timestamp, ReplicaId)> = Vec::new();
        let mut busy: Vec<(usize, std::cmp::Reverse<Timestamp>, ReplicaId)> = Vec::new();
        let places: BTreeMap<&ReplicaId, usize> = order.iter().enumerate().map(|(at, id)| (id, at)).collect();
        let place = |id: &ReplicaId| places.get(id).copied().unwrap_or(usize::MAX);
        for (id, replica) in self.replicas.table.iter().filter(|(_, replica)| !replica.is_leaving) {
            match replica.state {
                ReplicaState::Failed => idle.push((true, replica.created_at, id.clone())),
                // it was ready before and may still have requests
                ReplicaState::Starting if replica.has_served => busy.push((0, std::cmp::Reverse(now), id.clone())),
                ReplicaState::Starting => idle.push((false, replica.created_at, id.clone())),
                ReplicaState::Ready => {
                    busy.push((place(id), std::cmp::Reverse(replica.created_at), id.clone()));
                }
                ReplicaState::Draining => {}
            }
        }
        // failed first, then the youngest start
        idle.sort();
        let mut at_once: Vec<ReplicaId> = idle.into_iter().rev().map(|(_, _, id)| id).take(surplus).collect();
        busy.sort();
        let unseen = usize::try_from(self.serving()).unwrap_or(usize::MAX).saturating_sub(at_once.len() + busy.len());
        let mut removable = at_once.len().saturating_add(unseen).min(surplus);
        let mut drained: Vec<ReplicaId> = busy.into_iter().take(surplus - removable).map(|(_, _, id)| id).collect();
        if self.is_unheard() {
            removable = removable.saturating_add(drained.len());
            at_once.append(&mut drained);
        }
        if removable > 0 {
            for id in &at_once {
                let has_served = self.replicas.table.get(id).is_some_and(|replica| replica.has_served);
                self.replicas.leave(now, id);
                if has_served {
                    let model = self.spec.model.clone();
                    self.tell(effects, GatewayOrder::ReplicaDown { model, replica: id.clone() });
                    effects.push(Effect::TargetsChanged);
                }
            }
            let count = u32::try_from(removable).unwrap_or(u32::MAX);
            self.order(self.scaling.ordered.saturating_sub(count), effects);
        }
        for id in drained {
            self.begin_drain(now, &id, effects);
        }
    }

    /// Nothing new for a replica; what it has may finish within the drain time.
    pub(crate) fn begin_drain(&mut self, now: Timestamp, id: &ReplicaId, effects: &mut Vec<Effect>) {
        let deadline = now.plus(self.spec.drain_timeout);
        self.replicas.set_state(now, id, ReplicaState::Draining);
        if let Some(replica) = self.replicas.table.get_mut(id) {
            replica.drain_deadline = Some(deadline);
        }
        // what was said of an earlier drain does not count for this one
        self.gateways.forget_replica(id);
        self.tell(effects, GatewayOrder::Drain { model: self.spec.model.clone(), replica: id.clone() });
    }

    /// Asks every gateway whether nothing is held or in flight.
    fn close(&mut self, now: Timestamp, reason: &str, effects: &mut Vec<Effect>) {
        if self.is_unheard() {
            self.reach_zero(now, reason, effects);
            return;
        }
        if self.scaling.closing.as_ref().is_some_and(|closing| now.since(closing.said) < CLOSE_REPEAT) {
            return;
        }
        // at least the time in milliseconds: a writer that was restarted is ahead of what gateways have heard from the one before
        let time = u64::try_from(now.as_nanos() / 1_000_000).unwrap_or(0);
        let epoch = self.scaling.epoch.saturating_add(1).max(time);
        self.scaling.epoch = epoch;
        self.scaling.closing = Some(Closing { epoch, said: now, reason: reason.to_owned() });
        let model = self.spec.model.clone();
        self.tell(effects, GatewayOrder::Close { model, epoch });
    }

    /// Takes in a gateway's answer to a close. A refusal is not answered by another close before the next regular decision.
    pub(crate) fn closed(
        &mut self,
        now: Timestamp,
        gateway: &GatewayId,
        epoch: u64,
        is_accepted: bool,
        effects: &mut Vec<Effect>,
    ) {
        if self.scaling.closing.as_ref().is_none_or(|closing| closing.epoch != epoch) {
            if is_accepted && self.serving() > 0 {
                // an answer to a close that was taken back
                self.introduce_replicas(effects);
            }
            return;
        }
        if !is_accepted {
            self.take_back_close(effects);
            return;
        }
        self.gateways.hear_accepted(gateway, epoch);
        self.end_close(now, effects);
    }

    /// Zero, if every gateway has accepted the close under way.
    fn end_close(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(closing) = self.scaling.closing.take_if(|closing| self.gateways.have_accepted(closing.epoch)) else {
            return;
        };
        self.reach_zero(now, &closing.reason, effects);
    }

    /// Nothing is held or in flight anywhere, and gateways hold what comes: the replicas can go.
    fn reach_zero(&mut self, now: Timestamp, reason: &str, effects: &mut Vec<Effect>) {
        self.scaled(now, self.serving(), 0, reason, effects);
        let all: Vec<ReplicaId> = self.replicas.table.keys().cloned().collect();
        for id in &all {
            self.replicas.leave(now, id);
            let (model, replica) = (self.spec.model.clone(), id.clone());
            self.tell(effects, GatewayOrder::ReplicaDown { model, replica });
        }
        effects.push(Effect::TargetsChanged);
        self.order(0, effects);
    }

    /// A gateway is gone for good: what waited for its word waits no longer.
    pub(crate) fn gateway_gone(&mut self, now: Timestamp, gateway: &GatewayId, effects: &mut Vec<Effect>) {
        if self.gateways.remove(gateway) {
            self.await_fewer(now, effects);
        }
    }

    /// These gateways run.
    pub(crate) fn gateways_running(&mut self, now: Timestamp, running: BTreeSet<GatewayId>, effects: &mut Vec<Effect>) {
        if self.spec.gateway == GatewayUse::Configured {
            self.gateways.running(running);
            self.await_fewer(now, effects);
        }
    }

    /// What waited for the word of a gateway that is gone waits no longer.
    fn await_fewer(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        for id in self.replicas.in_state(ReplicaState::Draining) {
            if self.gateways.is_empty() || self.gateways.drained_load(&id) == Some(0) {
                self.end_drain(now, &id, effects);
            }
        }
        if self.gateways.is_empty() {
            // nobody is left to accept; a decision without gateways comes next
            self.scaling.closing = None;
        } else {
            self.end_close(now, effects);
        }
    }

    /// A draining replica has nothing left, or is gone: the count can go down.
    pub(crate) fn end_drain(&mut self, now: Timestamp, id: &ReplicaId, effects: &mut Vec<Effect>) {
        let is_draining = self.replicas.table.get(id).is_some_and(|replica| replica.state == ReplicaState::Draining);
        if !is_draining {
            return;
        }
        if self.scaling.goal.is_some() {
            self.replicas.drained(id);
            self.follow_drains(now, effects);
            return;
        }
        self.replicas.leave(now, id);
        self.gateways.forget_replica(id);
        let model = self.spec.model.clone();
        self.tell(effects, GatewayOrder::ReplicaDown { model, replica: id.clone() });
        effects.push(Effect::TargetsChanged);
        self.order(self.scaling.ordered.saturating_sub(1), effects);
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
        let silent = |closing: &Closing| now.since(closing.said) >= CLOSE_REPEAT;
        if let Some(reason) = self.scaling.closing.as_ref().filter(|c| silent(c)).map(|c| c.reason.clone()) {
            self.close(now, &reason, effects);
        }
    }

    /// The next moment at which [`Self::expire`] has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Timestamp> {
        let drains = self.replicas.table.values().filter_map(|replica| replica.drain_deadline).min();
        let close = self.scaling.closing.as_ref().map(|closing| closing.said.plus(CLOSE_REPEAT));
        [drains, close].into_iter().flatten().min()
    }

    /// Tells the supervisor a new count, and again of every replica that has to go: an earlier order may have been overtaken.
    pub(crate) fn order(&mut self, to: u32, effects: &mut Vec<Effect>) {
        let from = std::mem::replace(&mut self.scaling.ordered, to);
        let leaving = self.replicas.table.iter().filter(|(_, replica)| replica.is_leaving && !replica.is_ending);
        let remove_first = leaving.map(|(id, _)| id.clone()).collect();
        effects.push(Effect::Act(Action::SetReplicas { pool: self.spec.pool.clone(), from, to, remove_first }));
    }
}

/// Which replicas a decision wants to go first.
fn removal_order(decided: &PoolDecision) -> &[ReplicaId] {
    let named = decided.actions.iter().find_map(|action| match action {
        Action::SetReplicas { remove_first, .. } => Some(remove_first.as_slice()),
        Action::Drain { .. } | Action::Undrain { .. } | Action::Close { .. } => None,
    });
    named.unwrap_or_default()
}
