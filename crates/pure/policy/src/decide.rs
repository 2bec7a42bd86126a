//! The one decision function.

mod fallback;
mod foreign;

pub use foreign::HOLD_PERIODS;

use crate::decision::{Action, Alarm, Decision, PoolDecision};
use crate::evidence::{self, Down, GatewayEvidence, PoolEvidence};
use crate::hpa::{
    Branch, Condition, ConditionKind, HpaRule, Lost, MetricSource, Outcome, Pass, PolicyKind, Reason, ZeroRule, settle,
};
use crate::memory::{MAX_POOLS, Memory, Pending, PoolMemory};
use crate::observation::{GatewayObservation, Observation, PoolObservation, ReplicaObservation, ReplicaState};
use crate::policy::{Gate, Policy, PoolPolicy, Rule};
use crate::step::{Margin, NotIdle, Step};
use loadline_base::num::i64_to_f64;
use loadline_base::{PoolId, ReplicaId, Timestamp};

/// How many scrape periods a pool may be unable to act before it says so (law L8).
pub const ALARM_PERIODS: u32 = 3;

/// Decides every pool of an autoscaler.
///
/// With [`Gate::Off`] the result is the peer's, exactly. With [`Gate::On`] three things are added: replicas whose load is unknown
/// count as full, the table of DESIGN section 4 limits where a count may go, and zero is left at once on demand and reached only on
/// proof. Conditions say what holds once the actions are carried out; a change enters the history only when it is seen.
#[must_use]
pub fn decide(policy: &Policy, seen: &Observation, mut memory: Memory) -> (Decision, Memory) {
    memory.pools.retain(|pool, _| policy.pools.contains_key(pool));
    let mut decision = Decision { now: seen.now, pools: std::collections::BTreeMap::new() };
    for (at, (id, pool)) in policy.pools.iter().enumerate() {
        let decided = match seen.pools.get(id).filter(|_| at < MAX_POOLS) {
            Some(observed) => {
                let remembered = memory.pools.entry(id.clone()).or_default();
                PoolPass { id, policy: pool, gate: policy.gate, seen: observed, now: seen.now }.run(remembered)
            }
            None => unobserved(pool, memory.pools.get(id)),
        };
        decision.pools.insert(id.clone(), decided);
    }
    memory.bound();
    (decision, memory)
}

/// Nothing is known, so nothing changes.
fn unobserved(policy: &PoolPolicy, memory: Option<&PoolMemory>) -> PoolDecision {
    let count = memory.and_then(|memory| memory.last_count).unwrap_or(policy.min_replicas);
    PoolDecision {
        from: count,
        desired: count,
        min: policy.min_replicas,
        max: policy.max_replicas,
        gpus_per_replica: policy.gpus_per_replica,
        steps: vec![Step::PoolUnobserved],
        reason: Some(0),
        conditions: crate::hpa::Conditions::default(),
        alarms: vec![Alarm::CannotAct { since: Timestamp::ZERO, why: Step::PoolUnobserved.to_string() }],
        actions: Vec::new(),
    }
}

struct PoolPass<'a> {
    id: &'a PoolId,
    policy: &'a PoolPolicy,
    gate: Gate,
    seen: &'a PoolObservation,
    now: Timestamp,
}

/// A count on its way through the evidence rules.
struct Course {
    desired: u32,
    steps: Vec<Step>,
    /// A rule kept the count from where it would have gone, or nothing could be computed.
    blocked: bool,
}

impl PoolPass<'_> {
    fn run(&self, memory: &mut PoolMemory) -> PoolDecision {
        let Rule::Hpa(rule) = &self.policy.rule;
        let from = self.seen.spec_replicas;
        let mut alarms = Vec::new();
        let mut course = Course { desired: from, steps: Vec::new(), blocked: false };
        self.resume(memory);
        let written = self.settle(rule, memory);
        self.note_foreign(rule, memory, written);
        if let Some((expected, found)) = written {
            course.steps.push(Step::ForeignWrite { expected, found });
            alarms.push(Alarm::ForeignWrite { expected, found });
        }
        let evidence = PoolEvidence::of(self.seen, self.now, self.policy.scrape_period);
        let mut outcome = self.pass(rule, evidence).run(&mut memory.hpa);
        course.steps.append(&mut outcome.steps);
        if self.gate == Gate::On && self.policy.min_replicas == 0 {
            course.steps.iter_mut().filter(|step| step.keeps_one()).for_each(|step| *step = Step::LastKept);
        }
        course.desired = outcome.desired.map_or(from, count);
        course.blocked = match outcome.branch {
            Branch::Failed => !(self.gate == Gate::On && self.waits_for_replicas(evidence)),
            Branch::Unreadable => true,
            Branch::Disabled | Branch::OutOfRange | Branch::Computed => false,
        };
        if self.gate == Gate::On && outcome.branch != Branch::Unreadable {
            if outcome.branch != Branch::OutOfRange {
                self.leave_zero(rule, &outcome, &mut course);
                self.hold(rule, evidence, &outcome, &mut course);
            }
            self.fall_back(rule, evidence, memory, &outcome, &mut course);
            self.reach_zero(rule, evidence, &outcome, &mut course);
            self.clamp(&mut course);
            self.leave_foreign(rule, memory, &mut course);
        }
        alarms.extend(self.alarm(memory, &course));
        self.finish(rule, memory, &outcome, course, alarms)
    }

    /// Takes a change asked for earlier into the history once it is seen; returns a count that someone else wrote.
    fn settle(&self, rule: &HpaRule, memory: &mut PoolMemory) -> Option<(u32, u32)> {
        let found = self.seen.spec_replicas;
        let expected = memory.last_count.replace(found);
        let min = signed(self.policy.min_replicas);
        match memory.pending.take() {
            // not carried out yet, or refused
            Some(Pending { from, .. }) if found == from => None,
            // carried out, perhaps in part: a budget may have cut it
            Some(Pending { at, from, to }) if (from.min(to)..=from.max(to)).contains(&found) => {
                settle(rule, min, (signed(from), signed(found)), Ok(()), at, &mut memory.hpa);
                None
            }
            Some(Pending { to, .. }) => Some((to, found)),
            None => expected.filter(|&expected| expected != found).map(|expected| (expected, found)),
        }
    }

    fn pass<'b>(&'b self, rule: &'b HpaRule, evidence: PoolEvidence) -> Pass<'b> {
        let (min, max) = (signed(self.policy.min_replicas), signed(self.policy.max_replicas));
        match self.gate {
            Gate::Off => Pass {
                now: self.now,
                min,
                max,
                rule,
                seen: self.seen,
                zero: ZeroRule::Peer,
                lost: Lost::Peer,
                silent: 0,
                grace: std::time::Duration::ZERO,
            },
            // zero is reached by proof alone, so the rule never goes below one
            Gate::On => Pass {
                now: self.now,
                min: if self.seen.spec_replicas == 0 { min } else { min.max(1) },
                max,
                rule,
                seen: self.seen,
                zero: ZeroRule::Evidence,
                lost: Lost::NoSpare,
                silent: signed(evidence.silent),
                grace: evidence::grace(self.policy.scrape_period),
            },
        }
    }

    /// Whether metrics of replicas cannot have values yet: there are none, and a gateway watches for demand; or all of them start.
    fn waits_for_replicas(&self, evidence: PoolEvidence) -> bool {
        let mut there = self.seen.replicas.iter().filter(|r| r.state != ReplicaState::Failed).peekable();
        let speaks = evidence.gateway == GatewayEvidence::Live;
        match there.peek() {
            None => self.seen.spec_replicas == 0 && speaks,
            Some(_) => there.all(|replica| replica.state == ReplicaState::Starting),
        }
    }

    /// Demand at zero replicas starts at least one, at once: rate limits and windows do not hold it back. Without work none starts.
    fn leave_zero(&self, rule: &HpaRule, outcome: &Outcome, course: &mut Course) {
        let GatewayObservation::Live { held, in_flight, peak, .. } = self.seen.gateway else { return };
        if self.seen.spec_replicas > 0 {
            return;
        }
        if held.max(in_flight).max(peak) == 0 {
            // what was recommended before idleness was proven does not start a replica again: only work does
            if outcome.proposal.is_none_or(|(replicas, _)| replicas <= 0) {
                course.steps.retain(|step| !matches!(step, Step::Stabilized { .. }));
                course.desired = 0;
            }
            return;
        }
        let percent_only = rule.behavior.as_ref().is_some_and(|behavior| {
            let policies = &behavior.scale_up.policies;
            policies.iter().all(|policy| policy.kind == PolicyKind::Percent)
        });
        // a percentage of zero is zero, so such a policy says nothing about leaving it
        let asked = if percent_only { outcome.proposal.map_or(0, |(replicas, _)| count(replicas)) } else { 0 };
        let wanted = course.desired.max(asked).max(1).min(self.policy.max_replicas.max(1));
        course.steps.push(Step::FromZero { held, in_flight, peak, wanted });
        course.desired = wanted;
        course.blocked = false;
    }

    /// The table of DESIGN section 4.
    fn hold(&self, rule: &HpaRule, evidence: PoolEvidence, outcome: &Outcome, course: &mut Course) {
        let from = self.seen.spec_replicas;
        let allowed = evidence.allows();
        let wanted = course.desired;
        // nothing can be told from silence on both sides, even where nothing would have changed
        course.blocked |= !allowed.up;
        let refused = (wanted > from && !allowed.up) || (wanted < from && allowed.down == Down::No);
        if refused {
            let (engine, gateway) = (evidence.engine, evidence.gateway);
            course.steps.push(Step::HeldByEvidence { engine, gateway, wanted, kept: from });
            course.desired = from;
            course.blocked = true;
            return;
        }
        if wanted >= from {
            return;
        }
        if let Some(metric) = evidence::late_total(rule, self.seen) {
            course.steps.push(Step::HeldForLate { metric: metric.to_string(), wanted, kept: from });
            course.desired = from;
            course.blocked = true;
        } else {
            self.hold_for_unknown(rule, evidence, outcome, course);
        }
    }

    /// Lower only as far as it holds with everything of unknown load fully loaded.
    fn hold_for_unknown(&self, rule: &HpaRule, evidence: PoolEvidence, outcome: &Outcome, course: &mut Course) {
        let (from, wanted) = (self.seen.spec_replicas, course.desired);
        let unknown = evidence.not_live.max(evidence::unknown_values(rule, self.seen));
        if evidence.allows().down == Down::LostAreFull || unknown > 0 {
            let need = count(outcome.need);
            // beside the plain sum, what the rule itself would say of full replicas: its dead band may hold more
            let full = evidence::with_full_load(rule, self.seen, self.now);
            let filled = Pass { seen: &full, silent: 0, ..self.pass(rule, evidence) }.largest_proposal();
            let kept = need.saturating_add(evidence.not_live).max(filled.map_or(0, count)).min(from);
            if kept > wanted {
                course.steps.push(Step::HeldForLost { lost: unknown, need, wanted, kept });
                course.desired = kept;
                course.blocked = true;
            }
        }
    }

    /// Zero, where it is allowed and proven.
    fn reach_zero(&self, rule: &HpaRule, evidence: PoolEvidence, outcome: &Outcome, course: &mut Course) {
        let from = self.seen.spec_replicas;
        let Some(idle) = self.policy.idle.filter(|_| self.policy.min_replicas == 0 && from > 0) else { return };
        // a count above the maximum is first corrected; work outside the pool shows in metrics that need no replica
        if outcome.branch == Branch::OutOfRange {
            return;
        }
        match evidence::idle(self.seen, evidence, self.now, idle.after) {
            Ok(Some(_)) if outside_work(rule, outcome) || evidence::late_total(rule, self.seen).is_some() => {
                course.steps.push(Step::IdleWithheld { why: NotIdle::OutsideWork });
            }
            Ok(Some((proof, since))) if evidence.allows().zero == Some(proof) => {
                course.steps.push(Step::IdleProven {
                    proof,
                    since,
                    for_seconds: self.now.since(since).as_secs(),
                    needed_seconds: idle.after.as_secs(),
                });
                course.desired = 0;
                course.blocked = false;
            }
            Ok(_) => {}
            Err(why) => course.steps.push(Step::IdleWithheld { why }),
        }
    }

    /// Law L3 has the last word.
    fn clamp(&self, course: &mut Course) {
        let (min, max) = (self.policy.min_replicas, self.policy.max_replicas.max(self.policy.min_replicas));
        let wanted = course.desired;
        if wanted < min {
            course.steps.push(Step::Bounded {
                wanted: signed(wanted),
                bound: signed(min),
                at: crate::step::Bound::Min,
            });
        } else if wanted > max {
            course.steps.push(Step::Bounded {
                wanted: signed(wanted),
                bound: signed(max),
                at: crate::step::Bound::Max,
            });
        }
        course.desired = wanted.clamp(min, max);
    }

    fn alarm(&self, memory: &mut PoolMemory, course: &Course) -> Option<Alarm> {
        if !course.blocked {
            memory.blocked_since = None;
            return None;
        }
        let since = *memory.blocked_since.get_or_insert(self.now);
        let due = self.now.since(since) >= self.policy.scrape_period.saturating_mul(ALARM_PERIODS);
        due.then(|| {
            let holds = |step: &&Step| {
                matches!(
                    step,
                    Step::AllMetricsFailed { .. }
                        | Step::ScaleUnreadable { .. }
                        | Step::HeldByEvidence { .. }
                        | Step::HeldForLost { .. }
                        | Step::HeldForLate { .. }
                        | Step::HeldForForeign { .. }
                )
            };
            let why = course
                .steps
                .iter()
                .rev()
                .find(holds)
                .map_or_else(|| "neither the engines nor a gateway say anything".to_owned(), ToString::to_string);
            Alarm::CannotAct { since, why }
        })
    }

    fn finish(
        &self,
        rule: &HpaRule,
        memory: &mut PoolMemory,
        outcome: &Outcome,
        course: Course,
        alarms: Vec<Alarm>,
    ) -> PoolDecision {
        let (from, desired) = (self.seen.spec_replicas, course.desired);
        let mut steps = course.steps;
        let reason = binding(&steps, outcome, (from, desired));
        let mut conditions = outcome.conditions.clone();
        if desired == from {
            steps.push(Step::Unchanged { replicas: desired });
            memory.pending = None;
        } else {
            let binding = reason.and_then(|at| steps.get(at)).map(Step::constraint).unwrap_or_default();
            steps.push(Step::Changed { from, to: desired, binding, margin: margin(rule, outcome, from, desired) });
            memory.pending = Some(Pending { at: self.now, from, to: desired });
            let text = format!("the HPA controller was able to update the target scale to {desired}");
            conditions.set(ConditionKind::AbleToScale, true, Reason::SucceededRescale, text);
        }
        memory.last_count = Some(from);
        let held = |step: &Step| {
            matches!(step, Step::HeldByEvidence { .. } | Step::HeldForLost { .. } | Step::HeldForLate { .. })
        };
        if let Some(step) = reason.and_then(|at| steps.get(at)).filter(|step| held(step)) {
            conditions.set(ConditionKind::ScalingLimited, true, Reason::HeldByEvidence, step.to_string());
        }
        // between passes only the facts are kept; sentences are made anew
        memory.hpa.conditions = outcome
            .conditions
            .iter()
            .map(|condition| Condition { message: String::new(), ..condition.clone() })
            .collect();
        PoolDecision {
            from,
            desired,
            min: self.policy.min_replicas,
            max: self.policy.max_replicas,
            gpus_per_replica: self.policy.gpus_per_replica,
            steps,
            reason,
            conditions,
            alarms,
            actions: actions(self.id, self.seen, from, desired),
        }
    }
}

/// Metrics of something outside the pool that still ask for replicas, or do not answer.
fn outside_work(rule: &HpaRule, outcome: &Outcome) -> bool {
    let outside = |source: &MetricSource| matches!(source, MetricSource::Object { .. } | MetricSource::External { .. });
    rule.metrics.iter().zip(&outcome.metrics).any(|(metric, result)| {
        outside(&metric.source) && result.as_ref().map_or(true, |proposal| proposal.replicas > 0)
    })
}

/// The step that made the count what it is: the last one that cut or kept it, else the proposal that won.
fn binding(steps: &[Step], outcome: &Outcome, (from, desired): (u32, u32)) -> Option<usize> {
    let decides = |step: &Step| match step {
        Step::Proposal { .. } => false,
        Step::AllMetricsFailed { .. } => from == desired,
        other => other.binds(),
    };
    let last = steps.iter().rposition(decides);
    last.or_else(|| {
        let (replicas, _) = outcome.proposal?;
        steps.iter().position(|step| matches!(step, Step::Proposal { replicas: r, .. } if *r == replicas))
    })
    .or_else(|| steps.len().checked_sub(1))
}

/// What each replica would carry at the chosen count, with one less and with one more, by the metric that asked for most.
fn margin(rule: &HpaRule, outcome: &Outcome, from: u32, desired: u32) -> Option<Margin> {
    let (_, index) = outcome.proposal?;
    let metric = rule.metrics.get(index)?;
    let proposal = outcome.metrics.get(index)?.as_ref().ok()?;
    let target = metric.target;
    let (total, target) =
        match (proposal.shown, target.average_value_milli, target.average_utilization, target.value_milli) {
            (crate::hpa::Shown::Average { milli }, Some(target), _, _) => {
                (i64_to_f64(milli) / 1000.0 * f64::from(from.max(1)), i64_to_f64(target) / 1000.0)
            }
            (crate::hpa::Shown::Utilization { percent, .. }, _, Some(target), _) => {
                (f64::from(percent) * f64::from(from.max(1)), f64::from(target))
            }
            (crate::hpa::Shown::Value { milli }, Some(target), _, _) => {
                (i64_to_f64(milli) / 1000.0, i64_to_f64(target) / 1000.0)
            }
            (crate::hpa::Shown::Value { milli }, _, _, Some(target)) => {
                (i64_to_f64(milli) / 1000.0 * f64::from(from.max(1)), i64_to_f64(target) / 1000.0)
            }
            _ => return None,
        };
    let name = match &metric.source {
        MetricSource::Signal { name } => name.clone(),
        _ => metric.to_string(),
    };
    let each = |replicas: u32| total / f64::from(replicas);
    (desired > 0).then(|| Margin {
        metric: name,
        target,
        chosen: each(desired),
        one_less: (desired > 1).then(|| each(desired - 1)),
        one_more: each(desired.saturating_add(1)),
    })
}

/// The actions from one count to another. The one who carries them out drains before it lowers the count.
pub(crate) fn actions(pool: &PoolId, seen: &PoolObservation, from: u32, desired: u32) -> Vec<Action> {
    let mut actions = Vec::new();
    let live: Vec<&ReplicaObservation> = seen.replicas.iter().filter(|r| r.state != ReplicaState::Failed).collect();
    let wanted = usize::try_from(desired).unwrap_or(usize::MAX);
    let mut remove_first = Vec::new();
    if desired < from {
        if desired == 0 {
            actions.push(Action::Close { pool: pool.clone() });
        }
        remove_first = removal_order(seen, live.len().saturating_sub(wanted));
        for replica in &remove_first {
            actions.push(Action::Drain { pool: pool.clone(), replica: replica.clone() });
        }
    } else {
        let mut draining: Vec<&&ReplicaObservation> =
            live.iter().filter(|replica| replica.state == ReplicaState::Draining).collect();
        let serving = live.len() - draining.len();
        draining.sort_by(|a, b| b.since.cmp(&a.since).then_with(|| a.id.cmp(&b.id)));
        for replica in draining.iter().take(wanted.saturating_sub(serving)) {
            actions.push(Action::Undrain { pool: pool.clone(), replica: replica.id.clone() });
        }
    }
    if desired != from {
        actions.push(Action::SetReplicas { pool: pool.clone(), from, to: desired, remove_first });
    }
    actions
}

/// Which replicas go first: those already draining, then those not yet serving (newest first), then the least loaded, then the
/// newest; those of unknown load last, since they count as full.
fn removal_order(seen: &PoolObservation, excess: usize) -> Vec<ReplicaId> {
    let load = |replica: &ReplicaObservation| {
        let value =
            |signal: Option<crate::Signal>| signal.filter(|s| s.evidence == crate::Evidence::Live).map(|s| s.value);
        Some(value(replica.running)? + value(replica.waiting)?)
    };
    let class = |replica: &ReplicaObservation| match replica.state {
        ReplicaState::Failed => 0,
        ReplicaState::Draining => 1,
        ReplicaState::Starting => 2,
        ReplicaState::Ready if load(replica).is_some() => 3,
        ReplicaState::Ready => 4,
    };
    let mut order: Vec<&ReplicaObservation> =
        seen.replicas.iter().filter(|replica| replica.state != ReplicaState::Failed).collect();
    order.sort_by(|a, b| {
        let loads = (load(a).unwrap_or(0.0), load(b).unwrap_or(0.0));
        class(a)
            .cmp(&class(b))
            .then_with(|| if class(a) == 3 { loads.0.total_cmp(&loads.1) } else { std::cmp::Ordering::Equal })
            .then_with(|| b.created_at.cmp(&a.created_at))
            .then_with(|| a.id.cmp(&b.id))
    });
    order.into_iter().take(excess).map(|replica| replica.id.clone()).collect()
}

fn signed(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn count(replicas: i32) -> u32 {
    u32::try_from(replicas).unwrap_or(0)
}
