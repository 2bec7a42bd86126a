//! Counts on their way to scale targets: one write at a time per target, the last order wins, and a count that nobody here ordered is
//! somebody else's.

use loadline_base::{PoolId, ReplicaId, Timestamp};
use loadline_cluster::{Key, PodKey, ScaleFailure, ScaleWrite, ScaleWritten, TargetKey, TargetSeen};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Pauses between tries of a write that failed for the moment: doubling from the first to the last.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// How long a written count may be missing from the watch before what the watch says counts as somebody else's.
const WATCH_LAG: Duration = Duration::from_secs(5);

/// The lowest cost is removed first; far from zero, so that a user's own small costs stay between.
const VICTIM_COST: i32 = -1_000_000;

/// Victims that get a cost of their own.
const MAX_VICTIMS: i32 = 100_000;

/// A count that shall be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    /// Its target.
    pub(crate) target: TargetKey,
    /// The target's `apiVersion` as the autoscaler names it.
    pub(crate) api_version: Arc<str>,
    /// The count the order starts from.
    pub(crate) from: u32,
    /// The count.
    pub(crate) to: u32,
    /// On the way down: which pods to remove, first to last.
    pub(crate) victims: Vec<PodKey>,
    /// Pods that carry a cost of ours, as seen; an earlier writer may have left it there.
    pub(crate) marked: Vec<PodKey>,
}

/// A write to begin.
#[derive(Debug, Clone)]
pub(crate) struct Begin {
    /// Of which pool.
    pub(crate) pool: PoolId,
    /// Tells it from every other write of this process.
    pub(crate) number: u64,
    /// What to write.
    pub(crate) order: Order,
    /// The object as it was seen, if it has not been written since.
    pub(crate) seen: Option<(Arc<str>, Arc<str>)>,
    /// Costs to set first; `None` clears one.
    pub(crate) costs: BTreeMap<PodKey, Option<i32>>,
}

/// What became of a write.
#[derive(Debug)]
pub(crate) struct Done {
    /// Of which pool.
    pub(crate) pool: PoolId,
    /// The write's number.
    pub(crate) number: u64,
    /// What was to be written.
    pub(crate) order: Order,
    /// When it was begun.
    pub(crate) began: Timestamp,
    /// How it ended.
    pub(crate) outcome: Result<ScaleWritten, ScaleFailure>,
}

/// What follows from a write's end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The target has the count.
    Written {
        /// From which count.
        from: u32,
        /// To which.
        to: u32,
        /// Whether this write changed it.
        changed: bool,
    },
    /// Somebody else wrote this count.
    Foreign(u32),
    /// It says nothing about the target: it was of another one, or of another term or autoscaler than the one that is served now, or it
    /// met a write of ours that had been given up.
    Outdated,
    /// It failed and is tried again.
    Failed {
        /// In the HPA's vocabulary.
        reason: &'static str,
        /// What happened and what to do.
        message: String,
    },
}

#[derive(Debug, Default)]
struct Target {
    /// Which one; everything below is about it, and about no other that the same pool had before.
    of: Option<TargetKey>,
    /// What the control loop last ordered or was last told.
    expected: Option<u32>,
    /// What the target has, as last written or seen; an order starts from it.
    known: Option<u32>,
    /// The count of a write of which nobody knows whether it was carried out: found later, it is ours.
    perhaps: Option<u32>,
    /// The number of the write under way.
    in_flight: Option<u64>,
    /// The last order, until it is written.
    wanted: Option<Order>,
    /// The last write: count, version, time.
    written: Option<(u32, Arc<str>, Timestamp)>,
    /// Pods that carry a cost of ours.
    costs: BTreeMap<PodKey, i32>,
    failures: u32,
    retry_at: Option<Timestamp>,
    failure: Option<(&'static str, String)>,
}

/// The writes of all targets.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    targets: BTreeMap<PoolId, Target>,
    /// The number of the last write.
    number: u64,
}

impl Writes {
    /// The writes of one term; their numbers are those of no other term.
    pub(crate) fn of_term(term: u64) -> Self {
        Self { number: term.saturating_mul(1 << 40), ..Self::default() }
    }

    /// The state of a pool's target; another target than before begins anew.
    fn target(&mut self, pool: &PoolId, key: &TargetKey) -> &mut Target {
        let target = self.targets.entry(pool.clone()).or_default();
        if target.of.as_ref() != Some(key) {
            *target = Target { of: Some(key.clone()), ..Target::default() };
        }
        target
    }

    /// Takes an order in; it replaces one that has not begun.
    pub(crate) fn order(&mut self, pool: &PoolId, mut order: Order) {
        let target = self.target(pool, &order.target);
        target.expected = Some(order.to);
        order.from = target.known.unwrap_or(order.from);
        target.wanted = Some(order);
        target.retry_at = None;
    }

    /// Forgets pools that are not served any more.
    pub(crate) fn retain(&mut self, keep: impl Fn(&PoolId) -> bool) {
        self.targets.retain(|pool, _| keep(pool));
    }

    /// The count that a target is known or ordered to have.
    pub(crate) fn expected(&self, pool: &PoolId) -> Option<u32> {
        self.targets.get(pool)?.expected
    }

    /// Why the last write of a target failed, while it has not succeeded.
    pub(crate) fn failure(&self, pool: &PoolId) -> Option<&(&'static str, String)> {
        self.targets.get(pool)?.failure.as_ref()
    }

    /// What the watch says of a target; the count, where it is somebody else's or the first one seen.
    pub(crate) fn seen(&mut self, now: Timestamp, pool: &PoolId, seen: &TargetSeen) -> Option<u32> {
        let target = self.target(pool, &seen.key);
        if target.in_flight.is_some() {
            return None;
        }
        let found = seen.spec_replicas;
        if let Some((count, version, at)) = &target.written {
            let is_behind = found != *count && is_older(&seen.resource_version, version, now.since(*at));
            if is_behind {
                return None;
            }
        }
        target.known = Some(found);
        if target.expected == Some(found) {
            return None;
        }
        if target.perhaps == Some(found)
            && let Some(order) = &mut target.wanted
        {
            // an earlier order was carried out after all; the one after it starts from there
            order.from = found;
            return None;
        }
        if target.wanted.as_ref().is_some_and(|order| order.from == found) {
            // a write that is still to be tried, on a target that nobody has touched
            return None;
        }
        target.expected = Some(found);
        target.wanted = None;
        Some(found)
    }

    /// Every write that can begin now.
    pub(crate) fn begin<'a>(
        &mut self,
        now: Timestamp,
        see: impl Fn(&TargetKey) -> Option<&'a TargetSeen>,
    ) -> Vec<Begin> {
        let mut out = Vec::new();
        for (pool, target) in &mut self.targets {
            if target.in_flight.is_some() || target.retry_at.is_some_and(|at| now < at) {
                continue;
            }
            let Some(order) = target.wanted.clone() else { continue };
            self.number = self.number.saturating_add(1);
            target.in_flight = Some(self.number);
            let seen = see(&order.target)
                .filter(|seen| seen.error.is_none() && seen.spec_replicas == order.from)
                .and_then(|seen| Some((Arc::clone(seen.uid.as_ref()?), Arc::clone(&seen.resource_version))));
            let costs = cost_changes(&mut target.costs, &order);
            out.push(Begin { pool: pool.clone(), number: self.number, order, seen, costs });
        }
        out
    }

    /// When a failed write is tried again.
    pub(crate) fn next_retry(&self) -> Option<Timestamp> {
        self.targets.values().filter(|target| target.in_flight.is_none()).filter_map(|target| target.retry_at).min()
    }

    /// Takes in the end of a write.
    pub(crate) fn done(&mut self, now: Timestamp, done: Done) -> Verdict {
        let Done { pool, number, order, outcome, .. } = done;
        let Some(target) = self.targets.get_mut(&pool).filter(|target| target.in_flight == Some(number)) else {
            return Verdict::Outdated;
        };
        target.in_flight = None;
        let is_last = target.wanted.as_ref() == Some(&order);
        match outcome {
            Ok(written) => {
                target.known = Some(written.replicas);
                target.perhaps = None;
                target.written = Some((written.replicas, written.resource_version, now));
                (target.failures, target.retry_at, target.failure) = (0, None, None);
                if is_last {
                    target.wanted = None;
                } else if let Some(next) = &mut target.wanted {
                    next.from = written.replicas;
                }
                Verdict::Written { from: order.from, to: written.replicas, changed: written.changed }
            }
            Err(ScaleFailure::ForeignWrite { found, .. })
                if target.perhaps == Some(found) && target.wanted.is_some() =>
            {
                target.known = Some(found);
                target.perhaps = None;
                if let Some(next) = &mut target.wanted {
                    next.from = found;
                }
                Verdict::Outdated
            }
            Err(ScaleFailure::ForeignWrite { found, .. }) => {
                target.perhaps = None;
                target.wanted = None;
                target.known = Some(found);
                target.expected = Some(found);
                Verdict::Foreign(found)
            }
            Err(failure) => {
                if matches!(failure, ScaleFailure::Busy(_) | ScaleFailure::Deadline { maybe_written: true, .. }) {
                    target.perhaps = Some(order.to);
                }
                let pause = RETRY_FIRST.saturating_mul(1 << target.failures.min(8)).min(RETRY_LAST);
                target.failures = target.failures.saturating_add(1);
                target.retry_at = Some(now.plus(pause));
                let (reason, message) = (failure.reason(), failure.to_string());
                target.failure = Some((reason, message.clone()));
                Verdict::Failed { reason, message }
            }
        }
    }
}

/// Whether a version seen by the watch is from before one that was written. Versions of one object grow; where they are no numbers,
/// the watch is given some time.
fn is_older(seen: &str, written: &str, since: Duration) -> bool {
    match (seen.parse::<u64>(), written.parse::<u64>()) {
        (Ok(seen), Ok(written)) => seen < written,
        _ => since < WATCH_LAG,
    }
}

/// Which costs to set for an order, given those that stand.
fn cost_changes(standing: &mut BTreeMap<PodKey, i32>, order: &Order) -> BTreeMap<PodKey, Option<i32>> {
    let wanted: BTreeMap<PodKey, i32> =
        (VICTIM_COST..VICTIM_COST + MAX_VICTIMS).zip(&order.victims).map(|(cost, pod)| (pod.clone(), cost)).collect();
    let mut changes = BTreeMap::new();
    for pod in standing.keys().chain(&order.marked).filter(|pod| !wanted.contains_key(*pod)) {
        changes.insert(pod.clone(), None);
    }
    for (pod, cost) in &wanted {
        if standing.get(pod) != Some(cost) {
            changes.insert(pod.clone(), Some(*cost));
        }
    }
    *standing = wanted;
    changes
}

/// Whether a deletion cost is one that is given to victims here, of which there are never more than pods of a target.
pub(crate) fn is_victims_cost(text: &str) -> bool {
    text.parse::<i32>().is_ok_and(|cost| (VICTIM_COST..VICTIM_COST + MAX_VICTIMS).contains(&cost))
}

/// The pods of replicas that are named.
pub(crate) fn pods_of(replicas: &[ReplicaId]) -> Vec<PodKey> {
    replicas.iter().filter_map(|replica| Key::parse(replica.as_str())).collect()
}

/// The write that an order is, to end by `deadline`.
pub(crate) fn scale_write(begin: &Begin, deadline: tokio::time::Instant) -> ScaleWrite {
    ScaleWrite {
        target: begin.order.target.clone(),
        api_version: Arc::clone(&begin.order.api_version),
        from: begin.order.from,
        to: begin.order.to,
        seen: begin.seen.clone(),
        deadline,
    }
}
