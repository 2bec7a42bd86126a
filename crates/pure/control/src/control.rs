//! The loop over all models.

use crate::checkpoint::Checkpoint;
use crate::event::{Effect, Event, ModelSpec, ReplicaEvent};
use crate::laws::LawCounts;
use crate::model::Model;
use crate::observe;
use loadline_base::{ModelId, PoolId, ReplicaId, Timestamp};
use loadline_hold::protocol::GatewayReport;
use loadline_policy::{Budgets, Decision, Memory, ReplicaState, arbitrate, decide, laws};
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
    settings: ControlSettings,
    models: BTreeMap<ModelId, Model>,
    /// Which model a replica belongs to.
    owner: BTreeMap<ReplicaId, ModelId>,
    /// Memory of models that were checkpointed and not configured yet.
    restored: BTreeMap<ModelId, Memory>,
    laws: LawCounts,
}

impl Control {
    /// A loop without models.
    #[must_use]
    pub fn new(settings: ControlSettings) -> Self {
        Self {
            settings,
            models: BTreeMap::new(),
            owner: BTreeMap::new(),
            restored: BTreeMap::new(),
            laws: LawCounts::default(),
        }
    }

    /// A loop that remembers what an earlier one did (law L9). Call before the first [`Event::Configure`].
    #[must_use]
    pub fn restore(settings: ControlSettings, checkpoint: Checkpoint) -> Self {
        Self { restored: checkpoint.memories, ..Self::new(settings) }
    }

    /// What must survive a restart.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        let live = self.models.iter().map(|(model, state)| (model.clone(), state.memory.clone()));
        Checkpoint { memories: self.restored.clone().into_iter().chain(live).collect() }
    }

    /// Takes one event in and appends what is to be done, in order.
    pub fn apply(&mut self, now: Timestamp, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Configure(specs) => self.configure(now, specs, effects),
            Event::Gateway(report) => self.gateway(now, report, effects),
            Event::Scraped { replica, at, outcome } => {
                if let Some(model) = self.owner.get(&replica).and_then(|model| self.models.get_mut(model)) {
                    model.replicas.scraped(at, &replica, outcome);
                    model.is_fresh = true;
                }
            }
            Event::Replica { replica, event } => self.replica(now, replica, event, effects),
            Event::Tick => {}
        }
        for model in self.models.values_mut() {
            model.expire(now, effects);
        }
        self.decide_due(now, effects);
    }

    /// When [`Event::Tick`] is due, if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let period = self.settings.decision_period;
        self.models.values().flat_map(|model| [Some(model.decision_due(period)), model.next_expiry()]).flatten().min()
    }

    /// Replicas worth scraping, with model and address.
    pub fn scrape_targets(&self) -> impl Iterator<Item = (&ModelId, &ReplicaId, &str)> {
        self.models.iter().flat_map(|(name, model)| {
            model
                .replicas
                .table
                .iter()
                .filter(|(_, replica)| matches!(replica.state, ReplicaState::Ready | ReplicaState::Draining))
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
        let kept: Vec<&ModelId> = specs.iter().map(|spec| &spec.model).collect();
        let gone: Vec<ModelId> = self.models.keys().filter(|model| !kept.contains(model)).cloned().collect();
        for name in gone {
            if let Some(model) = self.models.remove(&name) {
                self.owner.retain(|_, owner| *owner != name);
                effects.push(Effect::SetReplicas { pool: model.spec.pool, to: 0, remove_first: Vec::new() });
            }
        }
        for spec in specs {
            let name = spec.model.clone();
            match self.models.get_mut(&name) {
                Some(model) => {
                    if model.spec.policy != spec.policy {
                        model.is_urgent = true;
                    }
                    let are_slots_new = model.spec.slots != spec.slots;
                    model.spec = spec;
                    if are_slots_new {
                        model.introduce_replicas(effects);
                    }
                }
                None => {
                    let memory = self.restored.remove(&name).unwrap_or_default();
                    self.models.insert(name, Model::new(spec, memory));
                }
            }
        }
        effects.push(Effect::TargetsChanged);
        for model in self.models.values_mut() {
            model.say_outlook(now, effects);
        }
    }

    fn gateway(&mut self, now: Timestamp, report: GatewayReport, effects: &mut Vec<Effect>) {
        let model = match &report {
            GatewayReport::Demand(demand) => &demand.model,
            GatewayReport::Wake { model, .. }
            | GatewayReport::Closed { model, .. }
            | GatewayReport::ReplicaLoad { model, .. } => model,
        };
        if let Some(model) = self.models.get_mut(model) {
            model.hear(now, report, effects);
        }
    }

    fn replica(&mut self, now: Timestamp, id: ReplicaId, event: ReplicaEvent, effects: &mut Vec<Effect>) {
        if let ReplicaEvent::Started { pool, .. } = &event
            && let Some(name) = self.model_of(pool)
        {
            self.owner.insert(id.clone(), name);
        }
        let Some(name) = self.owner.get(&id).cloned() else { return };
        if event == ReplicaEvent::Stopped {
            self.owner.remove(&id);
        }
        if let Some(model) = self.models.get_mut(&name) {
            model.replica(now, id, event, effects);
        }
    }

    fn model_of(&self, pool: &PoolId) -> Option<ModelId> {
        self.models.iter().find(|(_, model)| model.spec.pool == *pool).map(|(name, _)| name.clone())
    }

    /// Decides for every model whose decision is due; budgets are settled with what the others last wanted.
    fn decide_due(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let period = self.settings.decision_period;
        let due: Vec<ModelId> = self
            .models
            .iter()
            .filter(|(_, model)| model.decision_due(period) <= now)
            .map(|(name, _)| name.clone())
            .collect();
        if due.is_empty() {
            return;
        }
        for name in &due {
            if let Some(model) = self.models.get_mut(name) {
                let observation = observe::observe(now, model);
                let before = std::mem::take(&mut model.memory);
                let (decision, memory) = decide(&model.spec.policy, &observation, before.clone());
                let made = laws::Made {
                    policy: &model.spec.policy,
                    seen: &observation,
                    before: &before,
                    decision: &decision,
                    after: &memory,
                };
                for violation in laws::check_all(made) {
                    self.laws.count(&violation);
                    effects.push(Effect::Alarm { model: name.clone(), text: format!("law broken: {violation}") });
                }
                model.memory = memory;
                model.decided_at = Some(now);
                model.is_fresh = false;
                model.is_urgent = false;
                model.gateways.start_window();
                model.last_decision = decision.pools.get(&model.spec.pool).cloned();
            }
        }
        self.carry_out(now, &due, effects);
    }

    /// Settles budgets over all models and starts what follows for those just decided.
    fn carry_out(&mut self, now: Timestamp, due: &[ModelId], effects: &mut Vec<Effect>) {
        let wanted: Vec<Decision> = self
            .models
            .values()
            .filter_map(|model| {
                let pool = model.last_decision.clone()?;
                Some(Decision { now, pools: BTreeMap::from([(model.spec.pool.clone(), pool)]) })
            })
            .collect();
        for decision in arbitrate(&wanted, &self.settings.budgets) {
            for (pool, decided) in decision.pools {
                let Some(name) = self.model_of(&pool) else { continue };
                let is_due = due.contains(&name);
                let Some(model) = self.models.get_mut(&name) else { continue };
                if is_due || decided.desired < model.scaling.serving() {
                    let reason = decided.binding().map(ToString::to_string).unwrap_or_default();
                    model.settle(now, decided.desired, &reason, effects);
                    model.last_decision = Some(decided.clone());
                    effects.push(Effect::Decided { model: name, decision: Box::new(decided) });
                }
            }
        }
    }
}
