//! Limits on one pass (`reference/hpa.md` 7.1, 7.2).

use super::condition::Reason;
use super::history::{ScaleEvent, change_within, span};
use super::spec::{Behavior, PolicyKind, ScalingRules, SelectPolicy};
use loadline_base::Timestamp;
use loadline_base::num::f64_to_i64_trunc;

/// A limited count and the limit that was looked at last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// Replicas.
    pub replicas: i32,
    /// [`Reason::DesiredWithinRange`] where nothing was cut.
    pub reason: Reason,
}

/// The counts a limit depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// `spec.replicas`.
    pub current: i32,
    /// After stabilization.
    pub desired: i32,
    /// `minReplicas`.
    pub min: i32,
    /// `maxReplicas`.
    pub max: i32,
}

/// Without behavior: at most `factor` times the current count, or `minimum`, per pass.
#[must_use]
pub fn legacy(counts: Counts, factor: i32, minimum: i32) -> Limited {
    let limit = counts.current.saturating_mul(factor).max(minimum);
    let (top, reason) =
        if counts.max > limit { (limit, Reason::ScaleUpLimit) } else { (counts.max, Reason::TooManyReplicas) };
    if counts.desired < counts.min {
        Limited { replicas: counts.min, reason: Reason::TooFewReplicas }
    } else if counts.desired > top {
        Limited { replicas: top, reason }
    } else {
        Limited { replicas: counts.desired, reason: Reason::DesiredWithinRange }
    }
}

/// The changes already made, by direction.
#[derive(Debug, Clone, Copy)]
pub struct Events<'a> {
    /// Upwards.
    pub up: &'a [ScaleEvent],
    /// Downwards.
    pub down: &'a [ScaleEvent],
}

impl Events<'_> {
    /// The count at the start of a period.
    fn start(self, current: i32, period_seconds: i32, now: Timestamp) -> i32 {
        let period = span(period_seconds);
        current
            .saturating_sub(change_within(self.up, period, now))
            .saturating_add(change_within(self.down, period, now))
    }
}

/// The highest count that the rules allow, before clamping to the current one.
#[must_use]
pub fn scale_up_limit(current: i32, events: Events<'_>, rules: &ScalingRules, now: Timestamp) -> i32 {
    let proposals = rules.policies.iter().map(|policy| {
        let start = events.start(current, policy.period_seconds, now);
        match policy.kind {
            PolicyKind::Pods => start.saturating_add(policy.value),
            PolicyKind::Percent => clamp((f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil()),
        }
    });
    match rules.select_policy {
        SelectPolicy::Disabled => current,
        SelectPolicy::Max => proposals.max().unwrap_or(i32::MIN),
        SelectPolicy::Min => proposals.min().unwrap_or(i32::MAX),
    }
}

/// The lowest count that the rules allow, before clamping to the current one.
#[must_use]
pub fn scale_down_limit(current: i32, events: Events<'_>, rules: &ScalingRules, now: Timestamp) -> i32 {
    let proposals = rules.policies.iter().map(|policy| {
        let start = events.start(current, policy.period_seconds, now);
        match policy.kind {
            PolicyKind::Pods => start.saturating_sub(policy.value),
            PolicyKind::Percent => clamp(f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)),
        }
    });
    match rules.select_policy {
        SelectPolicy::Disabled => current,
        // the largest change is the smallest count
        SelectPolicy::Max => proposals.min().unwrap_or(i32::MAX),
        SelectPolicy::Min => proposals.max().unwrap_or(i32::MIN),
    }
}

/// With behavior: rate limits, then min and max.
#[must_use]
pub fn by_behavior(counts: Counts, behavior: &Behavior, events: Events<'_>, now: Timestamp) -> Limited {
    let Counts { current, desired, min, max } = counts;
    if desired > current {
        let limit = scale_up_limit(current, events, &behavior.scale_up, now).max(current);
        let (top, reason) = if max > limit { (limit, Reason::ScaleUpLimit) } else { (max, Reason::TooManyReplicas) };
        if desired > top {
            return Limited { replicas: top, reason };
        }
    } else if desired < current {
        let limit = scale_down_limit(current, events, &behavior.scale_down, now).min(current);
        let (floor, reason) = if min < limit { (limit, Reason::ScaleDownLimit) } else { (min, Reason::TooFewReplicas) };
        if desired < floor {
            return Limited { replicas: floor, reason };
        }
    }
    Limited { replicas: desired, reason: Reason::DesiredWithinRange }
}

/// Truncates into the range of a replica count.
fn clamp(value: f64) -> i32 {
    let whole = f64_to_i64_trunc(value);
    i32::try_from(whole).unwrap_or(if whole < 0 { i32::MIN } else { i32::MAX })
}
