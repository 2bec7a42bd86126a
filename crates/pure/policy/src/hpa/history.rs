//! What an HPA remembers: recommendations and scale events (`reference/hpa.md` 7).

use super::spec::ScalingRules;
use loadline_base::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A replica count once recommended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(Timestamp, i32)", into = "(Timestamp, i32)")]
pub struct Recommendation {
    /// When.
    pub at: Timestamp,
    /// How many.
    pub replicas: i32,
}

impl From<(Timestamp, i32)> for Recommendation {
    fn from((at, replicas): (Timestamp, i32)) -> Self {
        Self { at, replicas }
    }
}

impl From<Recommendation> for (Timestamp, i32) {
    fn from(entry: Recommendation) -> Self {
        (entry.at, entry.replicas)
    }
}

/// A change once made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(Timestamp, i32, bool)", into = "(Timestamp, i32, bool)")]
pub struct ScaleEvent {
    /// When.
    pub at: Timestamp,
    /// By how many, positive.
    pub change: i32,
    /// Older than every period that counts it; may be overwritten.
    pub outdated: bool,
}

impl From<(Timestamp, i32, bool)> for ScaleEvent {
    fn from((at, change, outdated): (Timestamp, i32, bool)) -> Self {
        Self { at, change, outdated }
    }
}

impl From<ScaleEvent> for (Timestamp, i32, bool) {
    fn from(event: ScaleEvent) -> Self {
        (event.at, event.change, event.outdated)
    }
}

/// `seconds` as a span; negative counts as zero.
pub(super) fn span(seconds: i32) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// How much was changed within the last `period`, by events strictly newer than it.
#[must_use]
pub fn change_within(events: &[ScaleEvent], period: Duration, now: Timestamp) -> i32 {
    let cutoff = now.minus(period);
    events.iter().filter(|event| event.at > cutoff).fold(0, |sum, event| sum.saturating_add(event.change))
}

/// Stores an event: the last outdated one is overwritten, else it is appended. Without rules nothing is stored.
pub fn store_event(events: &mut Vec<ScaleEvent>, rules: Option<&ScalingRules>, change: i32, now: Timestamp) {
    let Some(rules) = rules else { return };
    let longest = rules.policies.iter().map(|policy| policy.period_seconds).max().unwrap_or(0);
    let cutoff = now.minus(span(longest));
    let mut slot = None;
    for (at, event) in events.iter_mut().enumerate() {
        event.outdated |= event.at < cutoff;
        if event.outdated {
            slot = Some(at);
        }
    }
    let event = ScaleEvent { at: now, change, outdated: false };
    match slot.and_then(|at| events.get_mut(at)) {
        Some(old) => *old = event,
        None => events.push(event),
    }
}

/// Without behavior: the largest recommendation of the window, an entry exactly as old as it included.
pub fn stabilize_legacy(log: &mut Vec<Recommendation>, desired: i32, window: Duration, now: Timestamp) -> i32 {
    let cutoff = now.minus(window);
    let mut result = desired;
    let mut slot = None;
    for (at, entry) in log.iter().enumerate() {
        if entry.at < cutoff {
            slot = Some(at);
        } else {
            result = result.max(entry.replicas);
        }
    }
    put(log, slot, Recommendation { at: now, replicas: desired });
    result
}

/// With behavior: the current count, moved into the band between the lowest and the highest recent recommendation.
pub fn stabilize(
    log: &mut Vec<Recommendation>,
    current: i32,
    desired: i32,
    (up_window, down_window): (Duration, Duration),
    now: Timestamp,
) -> i32 {
    let (up_cutoff, down_cutoff) = (now.minus(up_window), now.minus(down_window));
    let oldest = up_cutoff.min(down_cutoff);
    let (mut up, mut down) = (desired, desired);
    let mut slot = None;
    for (at, entry) in log.iter().enumerate() {
        if entry.at > up_cutoff {
            up = up.min(entry.replicas);
        }
        if entry.at > down_cutoff {
            down = down.max(entry.replicas);
        }
        if entry.at < oldest {
            slot = Some(at);
        }
    }
    put(log, slot, Recommendation { at: now, replicas: desired });
    // lowest first, then highest: where they cross, the highest recent one wins
    current.max(up).min(down)
}

fn put(log: &mut Vec<Recommendation>, slot: Option<usize>, entry: Recommendation) {
    match slot.and_then(|at| log.get_mut(at)) {
        Some(old) => *old = entry,
        None => log.push(entry),
    }
}

/// Shortens a log to `limit` entries without ever letting a scale-down happen that the whole log would have held back:
/// of two neighbours in time the larger count stays, at the later time.
pub fn bound_recommendations(log: &mut Vec<Recommendation>, limit: usize) {
    while log.len() > limit.max(1) {
        log.sort_by_key(|entry| entry.at);
        // pairs of the older half, so that the recent past keeps its detail
        let half = (log.len() / 2).max(2);
        let merged = log.get(..half).unwrap_or(&[]).chunks(2).filter_map(|pair| {
            let replicas = pair.iter().map(|entry| entry.replicas).max()?;
            Some(Recommendation { at: pair.last()?.at, replicas })
        });
        *log = merged.chain(log.iter().skip(half).copied()).collect();
    }
}

/// Shortens an event log to `limit` entries. Removals stay counted for longer and additions for shorter than they were: both only
/// ever hold a scale-down back, since a period's starting count is the current one less additions plus removals.
pub fn bound_events(events: &mut Vec<ScaleEvent>, removals: bool, limit: usize) {
    while events.len() > limit.max(1) {
        events.sort_by_key(|event| event.at);
        let [first, second, ..] = events.as_slice() else { return };
        let at = if removals { second.at } else { first.at };
        let joined = ScaleEvent { at, change: first.change.saturating_add(second.change), outdated: false };
        events.splice(..2, [joined]);
    }
}
