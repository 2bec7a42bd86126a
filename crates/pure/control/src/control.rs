//! The loop over all models.

use crate::checkpoint::Checkpoint;
use crate::due::Due;
use crate::event::{Effect, Event, Mode, ModelSpec, ReplicaEvent};
use crate::laws::LawCounts;
use crate::model::Model;
use loadline_base::{ModelId, PoolId, ReplicaId, Timestamp};
use loadline_hold::protocol::GatewayReport;
use loadline_policy::{Action, Budgets, Memory, ReplicaState};
use std::collections::BTreeMap;
use std::time::Duration;

/// How the loop runs.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlSettings {
    /// The least time between two decisions for one model, edges excepted.
    pub decision_period: Duration,
    /// What all models share.
    pub budgets: Budgets,
}

/// The loop: see the crate's documentation.
#[derive(Debug, Clone)]
pub struct Control {
    pub(crate) settings: ControlSettings,
    pub(crate) models: BTreeMap<ModelId, Model>,
    /// Which model a replica belongs to.
    owner: BTreeMap<ReplicaId, ModelId>,
    /// Which model a pool belongs to.
    pub(crate) pools: BTreeMap<PoolId, ModelId>,
    /// What is due when.
    pub(crate) due: Due,
    /// Memory of models that were checkpointed and not configured yet.
    restored: BTreeMap<ModelId, Memory>,
    /// Replicas of an earlier loop may exist: a model is not decided before its count is told.
    awaits_counts: bool,
    pub(crate) laws: LawCounts,
}

impl Control {
    /// A loop without models.
    #[must_use]
    pub fn new(settings: ControlSettings) -> Self {
        Self {
            settings,
            models: BTreeMap::new(),
            owner: BTreeMap::new(),
            pools: BTreeMap::new(),
            due: Due::default(),
            restored: BTreeMap::new(),
            awaits_counts: false,
            laws: LawCounts::default(),
        }
    }

    /// A loop that remembers what an earlier one did (law L9). Call before the first [`Event::Configure`]. Nothing is decided for a model
    /// before its replicas were reported and then [`Event::Counted`] said how many there shall be.
    #[must_use]
    pub fn restore(settings: ControlSettings, mut checkpoint: Checkpoint) -> Self {
        checkpoint.memories.values_mut().for_each(Memory::resume);
        Self { restored: checkpoint.memories, awaits_counts: true, ..Self::new(settings) }
    }

    /// What must survive a restart.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        let live = self.models.iter().map(|(model, state)| (model.clone(), state.memory.clone()));
        Checkpoint { memories: self.restored.clone().into_iter().chain(live).collect() }
    }

    /// What must survive a restart of one model.
    #[must_use]
    pub fn checkpoint_of(&self, model: &ModelId) -> Option<Memory> {
        self.models.get(model).map(|state| &state.memory).or_else(|| self.restored.get(model)).cloned()
    }

    /// Takes one event in and appends what is to be done, in order.
    pub fn apply(&mut self, now: Timestamp, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Configure(specs) => self.configure(now, specs, effects),
            Event::Release(model) => self.release(now, &model, effects),
            Event::Gateway(report) => {
                let name = model_of_report(&report).clone();
                self.with(&name, |model| model.hear(now, report, effects));
            }
            Event::Scraped { replica, at, outcome } => {
                let period = self.settings.decision_period;
                if let Some(name) = self.owner.get(&replica)
                    && let Some(model) = self.models.get_mut(name)
                    && model.scraped(now, at, &replica, outcome)
                {
                    let due = model.due(period);
                    self.due.set(name, &mut model.entered, due);
                }
            }
            Event::Supplied { model, metric, at, outcome } => {
                self.with(&model, |model| {
                    model.supply(now, metric, at, outcome);
                });
            }
            Event::Replica { replica, event } => self.replica(now, replica, event, effects),
            Event::GatewayGone(gateway) => {
                for name in self.models.keys().cloned().collect::<Vec<_>>() {
                    self.with(&name, |model| model.gateway_gone(now, &gateway, effects));
                }
            }
            Event::GatewayLeft { model, gateway } => {
                self.with(&model, |model| model.gateway_gone(now, &gateway, effects));
            }
            Event::Gateways { model, running } => {
                self.with(&model, |model| model.gateways_running(now, running, effects));
            }
            Event::Unlisted { pool, replicas } => self.with_pool(&pool, |model| model.unlisted = replicas),
            Event::Counted { pool, replicas } => {
                self.with_pool(&pool, |model| model.adopt(now, replicas, effects));
            }
            Event::Settled { pool, replicas } => {
                self.with_pool(&pool, |model| model.settled(now, replicas, effects));
            }
            Event::Written { pool, outcome } => self.with_pool(&pool, |model| model.written(now, outcome)),
            Event::Tick => {}
        }
        self.work_off(now, effects);
    }

    /// When [`Event::Tick`] is due, if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.due.first()
    }

    /// Does something with a model, and notes when it is due next; one that has left nothing behind is forgotten.
    pub(crate) fn with(&mut self, name: &ModelId, change: impl FnOnce(&mut Model)) {
        let Some(model) = self.models.get_mut(name) else { return };
        change(model);
        if model.is_over() {
            self.due.set(name, &mut model.entered, None);
            if let Some(model) = self.models.remove(name) {
                self.pools.remove(&model.spec.pool);
            }
            self.owner.retain(|_, owner| owner != name);
            return;
        }
        let due = model.due(self.settings.decision_period);
        self.due.set(name, &mut model.entered, due);
    }

    fn with_pool(&mut self, pool: &PoolId, change: impl FnOnce(&mut Model)) {
        if let Some(name) = self.pools.get(pool).cloned() {
            self.with(&name, change);
        }
    }

    /// Changes what all models share; in force from the next decision of each.
    pub fn set_budgets(&mut self, budgets: Budgets) {
        self.settings.budgets = budgets;
    }

    /// Whether a model is known: configured, or still finishing what it has.
    #[must_use]
    pub fn knows(&self, model: &ModelId) -> bool {
        self.models.contains_key(model)
    }

    /// Replicas worth scraping, with model and address.
    pub fn scrape_targets(&self) -> impl Iterator<Item = (&ModelId, &ReplicaId, &str)> {
        self.models.iter().flat_map(|(name, model)| {
            model
                .replicas
                .table
                .iter()
                .filter(|(_, replica)| {
                    matches!(replica.state, ReplicaState::Ready | ReplicaState::Draining) || model.is_finishing(replica)
                })
                .map(move |(id, replica)| (name, id, replica.address.as_str()))
        })
    }

    /// The models, for status surfaces.
    pub(crate) fn models(&self) -> &BTreeMap<ModelId, Model> {
        &self.models
    }

    /// How often each law was found broken.
    #[must_use]
    pub fn laws(&self) -> &LawCounts {
        &self.laws
    }

    fn configure(&mut self, now: Timestamp, specs: Vec<ModelSpec>, effects: &mut Vec<Effect>) {
        let mut wanted: BTreeMap<ModelId, ModelSpec> =
            specs.into_iter().map(|spec| (spec.model.clone(), spec)).collect();
        for name in self.models.keys().cloned().collect::<Vec<_>>() {
            let Some(model) = self.models.get(&name) else { continue };
            match wanted.get(&name) {
                Some(spec) if spec.pool == model.spec.pool => {}
                Some(_) => self.move_out(now, &name, effects),
                None => self.with(&name, |model| model.retire(now, effects)),
            }
        }
        while let Some((name, spec)) = wanted.pop_first() {
            self.pools.insert(spec.pool.clone(), name.clone());
            if !self.models.contains_key(&name) {
                let memory = self.restored.remove(&name).unwrap_or_default();
                let mut model = Model::new(spec.clone(), memory);
                model.is_counted = !self.awaits_counts;
                self.models.insert(name.clone(), model);
            }
            self.with(&name, |model| model.reconfigure(now, spec, effects));
        }
        effects.push(Effect::TargetsChanged);
        for model in self.models.values_mut() {
            model.say_outlook(now, effects);
        }
    }

    /// The same model in another pool: the new pool takes its place at once.
    fn move_out(&mut self, now: Timestamp, name: &ModelId, effects: &mut Vec<Effect>) {
        let Some(mut model) = self.models.remove(name) else { return };
        self.due.set(name, &mut model.entered, None);
        self.owner.retain(|_, owner| owner != name);
        self.pools.remove(&model.spec.pool);
        if model.spec.mode == Mode::Advisory {
            model.release(now, effects);
            return;
        }
        let (pool, from) = (model.spec.pool.clone(), model.ordered());
        effects.push(Effect::Act(Action::SetReplicas { pool, from, to: 0, remove_first: Vec::new() }));
    }

    /// Somebody else looks after the target from now on.
    fn release(&mut self, now: Timestamp, name: &ModelId, effects: &mut Vec<Effect>) {
        self.restored.remove(name);
        if self.models.contains_key(name) {
            self.with(name, |model| model.release(now, effects));
            effects.push(Effect::TargetsChanged);
        }
    }

    fn replica(&mut self, now: Timestamp, id: ReplicaId, event: ReplicaEvent, effects: &mut Vec<Effect>) {
        if let ReplicaEvent::Started { pool, .. } = &event
            && let Some(name) = self.pools.get(pool).cloned()
        {
            self.owner.insert(id.clone(), name);
        }
        let Some(name) = self.owner.get(&id).cloned() else { return };
        if event == ReplicaEvent::Stopped {
            self.owner.remove(&id);
        }
        self.with(&name, |model| model.replica(now, id, event, effects));
    }
}

fn model_of_report(report: &GatewayReport) -> &ModelId {
    match report {
        GatewayReport::Demand(demand) => &demand.model,
        GatewayReport::Wake { model, .. }
        | GatewayReport::Closed { model, .. }
        | GatewayReport::ReplicaLoad { model, .. } => model,
    }
}
