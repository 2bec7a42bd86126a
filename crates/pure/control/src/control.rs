//! The loop over all models.

use crate::checkpoint::Checkpoint;
use crate::event::{Effect, Event, ModelSpec, ReplicaEvent};
use crate::laws::LawCounts;
use crate::model::Model;
use crate::observe;
use loadline_base::{ModelId, PoolId, ReplicaId, Timestamp};
use loadline_hold::protocol::GatewayReport;
use loadline_policy::{Action, Alarm, Budgets, Decision, Memory, ReplicaState, arbitrate, decide, laws};
use std::collections::BTreeMap;
use std::time::Duration;

/// Decisions made on one event. With very many models the rest waits for the next event or tick, which is due at once, so that a wake
/// is never kept waiting by a round of routine decisions.
const DECISIONS_AT_ONCE: usize = 8;

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
    /// Replicas of an earlier loop may exist: a model is not decided before its count is told.
    awaits_counts: bool,
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
            awaits_counts: false,
            laws: LawCounts::default(),
        }
    }

    /// A loop that remembers what an earlier one did (law L9). Call before the first [`Event::Configure`]. Nothing is decided for a model
    /// before its replicas were reported and then [`Event::Counted`] said how many there shall be.
    #[must_use]
    pub fn restore(settings: ControlSettings, checkpoint: Checkpoint) -> Self {
        Self { restored: checkpoint.memories, awaits_counts: true, ..Self::new(settings) }
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
                }
            }
            Event::Replica { replica, event } => self.replica(now, replica, event, effects),
            Event::GatewayGone(gateway) => {
                for model in self.models.values_mut() {
                    model.gateway_gone(now, &gateway, effects);
                }
            }
            Event::Counted { pool, replicas } => {
                if let Some(model) = self.model_of(&pool).and_then(|name| self.models.get_mut(&name)) {
                    model.adopt(replicas);
                }
            }
            Event::Tick => {}
        }
        for model in self.models.values_mut() {
            model.expire(now, effects);
        }
        self.models.retain(|_, model| !model.is_over());
        self.decide_due(now, effects);
    }

    /// When [`Event::Tick`] is due, if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let period = self.settings.decision_period;
        self.models.values().flat_map(|model| [model.decision_due(period), model.next_expiry()]).flatten().min()
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
        let stays = |name: &ModelId, model: &Model| {
            specs.iter().any(|spec| spec.model == *name && spec.pool == model.spec.pool)
        };
        let (mut kept, gone): (BTreeMap<ModelId, Model>, BTreeMap<ModelId, Model>) =
            std::mem::take(&mut self.models).into_iter().partition(|(name, model)| stays(name, model));
        for (name, mut model) in gone {
            if specs.iter().any(|spec| spec.model == name) {
                // the same model in another pool: the new pool takes its place at once
                self.owner.retain(|_, owner| *owner != name);
                let from = model.ordered();
                effects.push(Effect::Act(Action::SetReplicas {
                    pool: model.spec.pool,
                    from,
                    to: 0,
                    remove_first: Vec::new(),
                }));
            } else {
                model.retire(now, effects);
                kept.insert(name, model);
            }
        }
        self.models = kept;
        for spec in specs {
            let name = spec.model.clone();
            match self.models.get_mut(&name) {
                Some(model) => {
                    if model.spec.policy != spec.policy || model.is_retired {
                        model.is_urgent = true;
                    }
                    let are_slots_new = model.spec.slots != spec.slots || model.is_retired;
                    model.is_retired = false;
                    model.spec = spec;
                    if are_slots_new {
                        model.introduce_replicas(effects);
                    }
                }
                None => {
                    let memory = self.restored.remove(&name).unwrap_or_default();
                    let mut model = Model::new(spec, memory);
                    model.is_counted = !self.awaits_counts;
                    self.models.insert(name, model);
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
        let mut due: Vec<(Timestamp, ModelId)> = self
            .models
            .iter()
            .filter_map(|(name, model)| Some((model.decision_due(period).filter(|at| *at <= now)?, name.clone())))
            .collect();
        // urgent ones are due since the beginning of time
        due.sort();
        due.truncate(DECISIONS_AT_ONCE);
        let due: Vec<ModelId> = due.into_iter().map(|(_, name)| name).collect();
        if due.is_empty() {
            return;
        }
        let mut told: BTreeMap<ModelId, Vec<(String, String)>> = BTreeMap::new();
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
                let told = told.entry(name.clone()).or_default();
                for violation in laws::check_all(made) {
                    self.laws.count(&violation);
                    told.push((violation.law.clone(), format!("law broken: {violation}")));
                }
                model.memory = memory;
                model.decided_at = Some(now);
                model.is_urgent = false;
                model.gateways.start_window();
                model.last_decision = decision.pools.get(&model.spec.pool).cloned();
                let alarms = model.last_decision.iter().flat_map(|decided| &decided.alarms);
                told.extend(alarms.map(|alarm| (kind_of(alarm), alarm.to_string())));
            }
        }
        self.carry_out(now, told, effects);
    }

    /// Settles budgets over all models and starts what follows for those just decided. Devices of replicas that are still ending are
    /// not free: a model that needs them waits, and is asked again with its next decision.
    fn carry_out(
        &mut self,
        now: Timestamp,
        mut told: BTreeMap<ModelId, Vec<(String, String)>>,
        effects: &mut Vec<Effect>,
    ) {
        let is_shared = self.settings.budgets.gpus.is_some();
        let wanted: Vec<Decision> = self
            .models
            .iter()
            .filter(|(name, model)| !model.is_retired && (is_shared || told.contains_key(*name)))
            .map(|(_, model)| model)
            .filter_map(|model| {
                let pool = model.last_decision.clone()?;
                Some(Decision { now, pools: BTreeMap::from([(model.spec.pool.clone(), pool)]) })
            })
            .collect();
        let granted = arbitrate(&wanted, &self.settings.budgets);
        if let Err(violation) = laws::l3_budgets(&granted, &self.settings.budgets) {
            self.laws.count(&violation);
            for told in told.values_mut() {
                told.push((violation.law.clone(), format!("law broken: {violation}")));
            }
        }
        for (pool, decided) in granted.into_iter().flat_map(|decision| decision.pools) {
            let Some(name) = self.model_of(&pool) else { continue };
            let room = self.room(decided.gpus_per_replica);
            let Some(model) = self.models.get_mut(&name) else { continue };
            let told = told.remove(&name);
            let serving = model.serving();
            if told.is_none() && decided.desired >= serving {
                continue;
            }
            let got = model.settle(now, &decided, room, effects);
            if model.last_decision.as_ref().is_some_and(|wish| wish.desired != got) {
                model.memory.granted(&pool, now, serving, got);
            }
            if let Some(mut told) = told {
                if got < decided.desired {
                    let text = format!(
                        "{} replicas are wanted and {got} can be had until replicas of other models have ended and free their GPUs",
                        decided.desired
                    );
                    told.push(("gpus".to_owned(), text));
                }
                model.alarm(told, effects);
            }
            model.last_decision = Some(decided.clone());
            effects.push(Effect::Decided { model: name, decision: Box::new(decided) });
        }
    }

    /// How many replicas of this many GPUs each can be added to all that exist now.
    fn room(&self, gpus: u32) -> u32 {
        let Some(budget) = self.settings.budgets.gpus else { return u32::MAX };
        let taken = self.models.values().fold(0_u32, |sum, model| {
            let each = model.spec.policy.pools.get(&model.spec.pool).map_or(0, |policy| policy.gpus_per_replica);
            sum.saturating_add(model.occupied().saturating_mul(each))
        });
        budget.saturating_sub(taken).checked_div(gpus).unwrap_or(u32::MAX)
    }
}

/// What stays the same of an alarm while its words change.
fn kind_of(alarm: &Alarm) -> String {
    match alarm {
        Alarm::CannotAct { .. } => "cannot act".to_owned(),
        Alarm::ForeignWrite { expected, found } => format!("foreign write {expected} {found}"),
    }
}
