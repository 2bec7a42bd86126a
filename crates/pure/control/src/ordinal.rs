//! Targets that always remove the highest ordinal (a StatefulSet): drained from the top, and never lowered past one that has work.

use crate::event::{Effect, GatewayUse, Removal};
use crate::model::Model;
use loadline_base::{ReplicaId, Timestamp};
use loadline_hold::protocol::GatewayOrder;
use loadline_policy::ReplicaState;

/// The number behind the last `-` of a name.
fn ordinal(id: &ReplicaId) -> Option<u32> {
    id.as_str().rsplit_once('-')?.1.parse().ok()
}

impl Model {
    /// Who chooses the replica that goes. Where names carry no ordinals nobody can tell.
    pub(crate) fn removal(&self) -> Removal {
        let has_ordinals = || self.staying().all(|(id, _)| ordinal(id).is_some());
        match self.spec.removal {
            Removal::HighestOrdinal if !has_ordinals() => Removal::Unknown,
            removal => removal,
        }
    }

    fn staying(&self) -> impl Iterator<Item = (&ReplicaId, &crate::replicas::Replica)> {
        self.replicas.table.iter().filter(|(_, replica)| !replica.is_leaving)
    }

    /// Replicas that stay so far with their place: 0 for the lowest ordinal. Ordinals may start above 0, and some may be missing just now.
    fn places(&self) -> Vec<(u32, ReplicaId)> {
        let known: Vec<(u32, &ReplicaId)> = self.staying().filter_map(|(id, _)| Some((ordinal(id)?, id))).collect();
        let (lowest, highest) = known.iter().fold((u32::MAX, 0), |(low, high), (n, _)| (low.min(*n), high.max(*n)));
        let first = highest.saturating_add(1).saturating_sub(self.ordered()).min(lowest);
        known.into_iter().map(|(n, id)| (n.saturating_sub(first), id.clone())).collect()
    }

    /// Whether a replica is above the count that is being gone down to.
    pub(crate) fn is_above_goal(&self, id: &ReplicaId) -> bool {
        self.scaling.goal.is_some_and(|goal| self.places().iter().any(|(place, of)| of == id && *place >= goal))
    }

    /// Drains the highest ordinals down to `to` replicas.
    pub(crate) fn shrink_from_top(&mut self, now: Timestamp, to: u32, effects: &mut Vec<Effect>) {
        self.scaling.goal = Some(to);
        for (_, id) in self.places().into_iter().filter(|(place, _)| *place >= to) {
            let Some(replica) = self.replicas.table.get(&id) else { continue };
            let has_work = match replica.state {
                ReplicaState::Draining => continue,
                ReplicaState::Ready => true,
                ReplicaState::Starting => replica.has_served,
                ReplicaState::Failed => false,
            };
            if has_work && !self.is_unheard() {
                self.begin_drain(now, &id, effects);
            } else {
                // nobody has sent it anything: it only waits for its turn
                self.replicas.set_state(now, &id, ReplicaState::Draining);
                self.replicas.drained(&id);
            }
        }
        self.follow_drains(now, effects);
    }

    /// Lowers the count past every replica at the top that has nothing left.
    pub(crate) fn follow_drains(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(goal) = self.scaling.goal else { return };
        let places = self.places();
        let has_work = |id: &ReplicaId| {
            self.replicas.table.get(id).is_some_and(|r| r.state == ReplicaState::Draining && !r.is_drained)
        };
        let busy = places.iter().filter(|(place, id)| *place >= goal && has_work(id)).map(|(place, _)| *place).max();
        let floor = busy.map_or(goal, |place| place.saturating_add(1).max(goal));
        if floor < self.ordered() {
            for (_, id) in places.into_iter().filter(|(place, _)| *place >= floor) {
                self.replicas.leave(now, &id);
                self.gateways.forget_replica(&id);
                let model = self.spec.model.clone();
                self.tell(effects, GatewayOrder::ReplicaDown { model, replica: id });
            }
            effects.push(Effect::TargetsChanged);
            self.order(floor, effects);
        }
        if self.ordered() <= goal {
            self.scaling.goal = None;
        }
    }

    /// Goes back up to `to`: what drains below that serves again, lowest first; only the rest is started.
    pub(crate) fn grow_from_goal(&mut self, now: Timestamp, to: u32, effects: &mut Vec<Effect>) {
        for (_, id) in self.places().into_iter().filter(|(place, _)| *place < to) {
            if self.replicas.table.get(&id).is_some_and(|replica| replica.state == ReplicaState::Draining) {
                self.take_back_drain(now, &id, effects);
            }
        }
        self.scaling.goal = (to < self.ordered()).then_some(to);
        if to > self.ordered() {
            self.order(to, effects);
        }
    }

    /// Whether no gateway can have sent a replica anything, so that none has to be asked.
    pub(crate) fn is_unheard(&self) -> bool {
        self.spec.gateway == GatewayUse::Absent || self.gateways.is_empty()
    }
}
