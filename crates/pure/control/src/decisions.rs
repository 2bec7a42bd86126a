//! Decisions that are due, and what follows from them.

use crate::control::Control;
use crate::event::{Effect, Mode};
use crate::model::Model;
use crate::observe;
use loadline_base::{ModelId, Timestamp};
use loadline_policy::{Alarm, Budgets, Decision, PoolDecision, Step, arbitrate, decide, laws};
use std::collections::BTreeMap;

/// Decisions made on one event. With very many models the rest waits for the next event or tick, which is due at once, so that a wake
/// is never kept waiting by a round of routine decisions.
const DECISIONS_AT_ONCE: usize = 8;

/// For how many scrape periods a replica may be impossible to run before a person hears of it (law L8).
const UNPLACED_PERIODS: u32 = 3;

/// What a person should know now, each with a key that stays the same while its words change.
type Told = Vec<(String, String)>;

impl Control {
    /// Ends what has run out of time and decides what is due, for the models that are due and for no others.
    pub(crate) fn work_off(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.due.first().is_none_or(|at| at > now) {
            return;
        }
        let names = self.due.by(now, DECISIONS_AT_ONCE);
        let period = self.settings.decision_period;
        let mut told: BTreeMap<ModelId, Told> = BTreeMap::new();
        for name in &names {
            self.with(name, |model| model.expire(now, effects));
            let is_due = |model: &Model| model.decision_due(period).is_some_and(|at| at <= now);
            if self.models.get(name).is_some_and(is_due) {
                told.insert(name.clone(), self.decide(now, name));
            }
        }
        if !told.is_empty() {
            self.carry_out(now, told, effects);
        }
        // carrying out one may change another (budgets)
        for name in &names {
            self.with(name, |_| {});
        }
    }

    fn decide(&mut self, now: Timestamp, name: &ModelId) -> Told {
        let mut told = Told::new();
        let Some(model) = self.models.get_mut(name) else { return told };
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
            told.push((violation.law.clone(), format!("law broken: {violation}")));
        }
        model.memory = memory;
        model.decided_at = Some(now);
        model.is_urgent = false;
        model.edge_due = None;
        model.gateways.start_window();
        if let Some(seen) = observation.pools.get(&model.spec.pool) {
            model.edges.decided(&seen.metrics);
        }
        model.last_decision = decision.pools.get(&model.spec.pool).cloned();
        model.say_what_fails(now);
        let alarms = model.last_decision.iter().flat_map(|decided| &decided.alarms);
        told.extend(alarms.map(|alarm| (kind_of(alarm), alarm.to_string())));
        told
    }

    /// Settles budgets over all models and starts what follows for those just decided. Devices of replicas that are still ending are
    /// not free: a model that needs them waits, and is asked again with its next decision.
    fn carry_out(&mut self, now: Timestamp, mut told: BTreeMap<ModelId, Told>, effects: &mut Vec<Effect>) {
        self.advise(now, &mut told, effects);
        let budgets = self.free_budgets();
        let is_tight = self.is_tight(budgets);
        let wanted: Vec<Decision> = self
            .models
            .iter()
            .filter(|(name, model)| is_active(model) && (is_tight || told.contains_key(*name)))
            .filter_map(|(_, model)| {
                let pool = model.last_decision.clone()?;
                Some(Decision { now, pools: BTreeMap::from([(model.spec.pool.clone(), pool)]) })
            })
            .collect();
        let granted = arbitrate(&wanted, &budgets);
        if let Err(violation) = laws::l3_budgets(&granted, &budgets) {
            self.laws.count(&violation);
            for told in told.values_mut() {
                told.push((violation.law.clone(), format!("law broken: {violation}")));
            }
        }
        for (pool, decided) in granted.into_iter().flat_map(|decision| decision.pools) {
            let Some(name) = self.pools.get(&pool).cloned() else { continue };
            let room = self.room(decided.gpus_per_replica);
            let told = told.remove(&name);
            self.with(&name, |model| settle(now, model, decided, room, told, effects));
        }
    }

    /// Decisions of advisors are said, and that is all.
    fn advise(&mut self, now: Timestamp, told: &mut BTreeMap<ModelId, Told>, effects: &mut Vec<Effect>) {
        let is_advisor = |name: &ModelId| self.models.get(name).is_some_and(|m| m.spec.mode == Mode::Advisory);
        let advisors: Vec<ModelId> = told.keys().filter(|name| is_advisor(name)).cloned().collect();
        for name in advisors {
            let Some(told) = told.remove(&name) else { continue };
            self.with(&name, |model| {
                let count = model.serving();
                model.memory.granted(&model.spec.pool, now, count, count);
                model.alarm(told, effects);
                if let Some(decided) = model.last_decision.clone() {
                    let model = model.spec.model.clone();
                    effects.push(Effect::Decided { model, decision: Box::new(decided) });
                }
            });
        }
    }

    /// What advisors' targets take is not ours to give.
    fn free_budgets(&self) -> Budgets {
        let Some(gpus) = self.settings.budgets.gpus else { return self.settings.budgets };
        let theirs = self.models.values().filter(|model| model.spec.mode == Mode::Advisory);
        let taken = theirs.fold(0_u32, |sum, model| sum.saturating_add(devices(model, model.occupied())));
        Budgets { gpus: Some(gpus.saturating_sub(taken)) }
    }

    /// Whether all that is wanted exceeds the budget, so that everybody's wishes have to be weighed.
    fn is_tight(&self, budgets: Budgets) -> bool {
        let Some(gpus) = budgets.gpus else { return false };
        let active = self.models.values().filter(|model| is_active(model));
        let wish = |model: &Model| model.last_decision.as_ref().map_or(0, |decided| decided.desired);
        active.fold(0_u32, |sum, model| sum.saturating_add(devices(model, wish(model)))) > gpus
    }

    /// How many replicas of this many GPUs each can be added to all that exist now.
    fn room(&self, gpus: u32) -> u32 {
        let Some(budget) = self.settings.budgets.gpus else { return u32::MAX };
        let taken = self.models.values().fold(0_u32, |sum, model| sum.saturating_add(devices(model, model.occupied())));
        budget.saturating_sub(taken).checked_div(gpus).unwrap_or(u32::MAX)
    }
}

fn is_active(model: &Model) -> bool {
    !model.is_retired && model.spec.mode == Mode::Active
}

/// GPUs of this many replicas.
fn devices(model: &Model, replicas: u32) -> u32 {
    let each = model.spec.policy.pools.get(&model.spec.pool).map_or(0, |policy| policy.gpus_per_replica);
    replicas.saturating_mul(each)
}

/// Starts what leads to the granted count. `told` is given where the model was just decided; another is only cut.
fn settle(
    now: Timestamp,
    model: &mut Model,
    decided: PoolDecision,
    room: u32,
    told: Option<Told>,
    effects: &mut Vec<Effect>,
) {
    let serving = model.serving();
    if told.is_none() && decided.desired >= serving {
        return;
    }
    let got = model.settle(now, &decided, room, effects);
    if model.last_decision.as_ref().is_some_and(|wish| wish.desired != got) {
        model.memory.granted(&model.spec.pool, now, serving, got);
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
    let model = model.spec.model.clone();
    effects.push(Effect::Decided { model, decision: Box::new(decided) });
}

impl Model {
    /// Adds to the decision just made what became of the earlier ones: replicas that cannot run, a target that cannot be written.
    fn say_what_fails(&mut self, now: Timestamp) {
        let patience = self.spec.scrape_period.saturating_mul(UNPLACED_PERIODS);
        let (unschedulable, stuck, why) = self.replicas.unplaced(now, self.spec.start_estimate, patience);
        let started = self.replicas.count(loadline_policy::ReplicaState::Ready);
        let wanted = self.serving();
        let Some(decided) = &mut self.last_decision else { return };
        if unschedulable > 0 || stuck > 0 {
            let step = Step::Unplaced { started, wanted, unschedulable, stuck, why };
            decided.alarms.push(Alarm::Unplaced { why: step.to_string() });
            decided.note(step);
        }
        if let Some((since, why)) = &self.unwritten {
            let why = format!("the replica count of the target could not be written: {why}");
            decided.alarms.push(Alarm::CannotAct { since: *since, why });
        }
    }
}

/// What stays the same of an alarm while its words change.
fn kind_of(alarm: &Alarm) -> String {
    match alarm {
        Alarm::CannotAct { .. } => "cannot act".to_owned(),
        Alarm::ForeignWrite { expected, found } => format!("foreign write {expected} {found}"),
        Alarm::Unplaced { .. } => "unplaced".to_owned(),
    }
}
