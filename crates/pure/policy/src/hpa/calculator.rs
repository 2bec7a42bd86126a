//! One metric to one proposal (`reference/hpa.md` 5).

use super::pod::Group;
use crate::hpa::{Behavior, Controller};
use loadline_base::num::{f64_to_i64_trunc, i64_to_f64, usize_to_f64};
use serde::{Deserialize, Serialize};

/// The dead band around a ratio of 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Below 1.
    pub down: f64,
    /// Above 1.
    pub up: f64,
}

impl Tolerance {
    /// The controller's tolerance, replaced per direction by the behavior's where the gate allows it.
    #[must_use]
    pub fn of(controller: &Controller, behavior: Option<&Behavior>) -> Self {
        let own = |pick: fn(&Behavior) -> Option<f64>| {
            behavior.filter(|_| controller.gates.configurable_tolerance).and_then(pick).unwrap_or(controller.tolerance)
        };
        Self { down: own(|b| b.scale_down.tolerance), up: own(|b| b.scale_up.tolerance) }
    }

    /// Whether a ratio is near enough to 1 to change nothing; never for NaN.
    #[must_use]
    pub fn holds(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// What status shows for a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shown {
    /// `averageUtilization` with `averageValue`.
    Utilization {
        /// Percent of the requests.
        percent: i32,
        /// Milli-units per replica.
        average_milli: i64,
    },
    /// `averageValue`.
    Average {
        /// Milli-units per replica.
        milli: i64,
    },
    /// `value`.
    Value {
        /// Milli-units.
        milli: i64,
    },
}

/// Pods that gave no value and what was put in its place, which is the peer's rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Assumed {
    /// Ready pods without a value that were counted.
    pub silent: i32,
    /// Whether they were counted as full (their target, and at least their request) rather than as 0.
    pub silent_full: bool,
    /// Pods that are not ready and were counted as 0.
    pub unready: i32,
}

impl Assumed {
    /// Whether nothing was put in place of a value.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.silent == 0 && self.unready == 0
    }
}

/// What one metric asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Replicas.
    pub replicas: i32,
    /// Of these, how many stand for replicas whose load is unknown (only with the evidence gate on).
    pub lost: i32,
    /// What status shows.
    pub shown: Shown,
    /// What stands for values that were not given.
    #[serde(default)]
    pub assumed: Assumed,
}

/// How replicas that say nothing at all enter the computation. One that speaks and only lacks this value enters as with the peer: at
/// target on the way down, at zero on the way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// As the peer does.
    Peer,
    /// As replicas without spare capacity: left out, and added to the result (DESIGN section 4, law L1).
    NoSpare,
}

/// The target of a per-replica computation.
#[derive(Debug, Clone, Copy)]
pub enum PerPodTarget<'a> {
    /// A percentage of requests; one request per pod, in the order of the pods.
    Utilization {
        /// Percent.
        percent: i32,
        /// Milli-units.
        requests: &'a [i64],
    },
    /// An average, milli-units.
    Average {
        /// Milli-units.
        milli: i64,
    },
}

/// A ratio with what it was made from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// Actual over target.
    pub ratio: f64,
    /// What status shows.
    pub shown: Shown,
}

/// Percent of requests over pods that have both a value and a request.
///
/// # Errors
/// When the requests add up to nothing.
pub fn utilization_ratio(pairs: impl Iterator<Item = (i64, i64)>, percent: i32) -> Result<Ratio, String> {
    let (mut usage, mut requests, mut count) = (0_i128, 0_i128, 0_i128);
    for (value, request) in pairs {
        usage += i128::from(value);
        requests += i128::from(request);
        count += 1;
    }
    if requests == 0 {
        return Err("no metrics returned matched known pods".to_owned());
    }
    let now = saturate_i32((usage * 100) / requests);
    let ratio = f64::from(now) / f64::from(percent);
    Ok(Ratio { ratio, shown: Shown::Utilization { percent: now, average_milli: saturate_i64(usage / count.max(1)) } })
}

/// The average of values over a target; all in milli-units. `leaving` is load that those with a value have to take over.
#[must_use]
pub fn usage_ratio(values: impl Iterator<Item = i64>, leaving: i64, target_milli: i64) -> Ratio {
    let (mut sum, mut count) = (i128::from(leaving), 0_i128);
    for value in values {
        sum += i128::from(value);
        count += 1;
    }
    let milli = saturate_i64(sum / count.max(1));
    Ratio { ratio: i64_to_f64(milli) / i64_to_f64(target_milli), shown: Shown::Average { milli } }
}

/// One per-pod metric: groups and values per pod (same order), and values whose pod is unknown.
pub struct PerPod<'a> {
    /// Where each pod stands.
    pub groups: &'a [Group],
    /// The value of each pod; read only where the group is [`Group::Ready`].
    pub values: &'a [Option<i64>],
    /// Values of pods that are not selected any more; the peer averages over them too.
    pub strangers: &'a [i64],
    /// What those on their way out still carry, milli-units: load of the pool until they are gone, and no capacity. Only for averages.
    pub leaving: i64,
    /// What is aimed at.
    pub target: PerPodTarget<'a>,
    /// `spec.replicas`.
    pub current: i32,
    /// The dead band.
    pub tolerance: Tolerance,
}

impl PerPod<'_> {
    /// The proposal (`reference/hpa.md` 5.2).
    ///
    /// # Errors
    /// When there is nothing to compute from; the text is the peer's.
    pub fn propose(&self) -> Result<Proposal, String> {
        let count_of = |group: Group| self.groups.iter().filter(|&&g| g == group).count();
        let (ready, unready, missing) = (count_of(Group::Ready), count_of(Group::Unready), count_of(Group::Missing));
        if ready + self.strangers.len() == 0 {
            return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
        }
        let lost = i32::try_from(count_of(Group::Lost)).unwrap_or(i32::MAX);
        // replicas that can be judged; with the peer's rule these are all
        let current = self.current.saturating_sub(lost);
        let done = |replicas: i32, shown: Shown, assumed: Assumed| Proposal {
            replicas: replicas.max(0).saturating_add(lost),
            lost,
            shown,
            assumed,
        };
        let first = self.ratio(None, None)?;
        let up_with_unready = unready > 0 && first.ratio > 1.0;
        let fill_missing = missing > 0;
        if !up_with_unready && !fill_missing {
            let replicas =
                if self.tolerance.holds(first.ratio) { current } else { ceil_i32(first.ratio * usize_to_f64(ready)) };
            return Ok(done(replicas, first.shown, Assumed::default()));
        }
        let fill = if !fill_missing || first.ratio == 1.0 { None } else { Some(first.ratio < 1.0) };
        let second = self.ratio(fill, up_with_unready.then_some(0))?;
        let crossed = (first.ratio < 1.0 && second.ratio > 1.0) || (first.ratio > 1.0 && second.ratio < 1.0);
        let filled = ready
            + self.strangers.len()
            + if fill.is_some() { missing } else { 0 }
            + if up_with_unready { unready } else { 0 };
        let replicas = ceil_i32(second.ratio * usize_to_f64(filled));
        let wrong_way = (second.ratio < 1.0 && replicas > current) || (second.ratio > 1.0 && replicas < current);
        let keep = self.tolerance.holds(second.ratio) || crossed || wrong_way;
        let counted =
            |pods: usize, is_counted: bool| if is_counted { i32::try_from(pods).unwrap_or(i32::MAX) } else { 0 };
        let assumed = Assumed {
            silent: counted(missing, fill.is_some()),
            silent_full: fill == Some(true),
            unready: counted(unready, up_with_unready),
        };
        Ok(done(if keep { current } else { replicas }, first.shown, assumed))
    }

    /// `fill_missing`: missing pods get their full share (`true`) or nothing (`false`); `unready`: what unready pods get.
    fn ratio(&self, fill_missing: Option<bool>, unready: Option<i64>) -> Result<Ratio, String> {
        let value = |at: usize, group: Group, full: i64| match group {
            Group::Ready => self.values.get(at).copied().flatten(),
            Group::Missing => fill_missing.map(|fill| if fill { full } else { 0 }),
            Group::Unready => unready,
            Group::Ignored | Group::Lost => None,
        };
        match self.target {
            PerPodTarget::Average { milli } => {
                let known = self.groups.iter().enumerate().filter_map(|(at, &group)| value(at, group, milli));
                Ok(usage_ratio(known.chain(self.strangers.iter().copied()), self.leaving, milli))
            }
            PerPodTarget::Utilization { percent, requests } => {
                let pairs = self.groups.iter().zip(requests).enumerate().filter_map(|(at, (&group, &request))| {
                    let full = i128::from(request) * i128::from(percent.max(100)) / 100;
                    value(at, group, saturate_i64(full)).map(|value| (value, request))
                });
                utilization_ratio(pairs, percent)
            }
        }
    }
}

/// `Value` targets of Object and External. `ready` counts ready pods and is asked only where the peer asks.
///
/// # Errors
/// Those of `ready`.
pub(super) fn propose_value(
    usage_milli: i64,
    target_milli: i64,
    current: i32,
    tolerance: Tolerance,
    ready: impl FnOnce() -> Result<usize, String>,
) -> Result<Proposal, String> {
    let ratio = i64_to_f64(usage_milli) / i64_to_f64(target_milli);
    let replicas = if current == 0 {
        ceil_i32(ratio)
    } else if tolerance.holds(ratio) {
        current
    } else {
        ceil_i32(ratio * usize_to_f64(ready()?))
    };
    Ok(Proposal { replicas, lost: 0, shown: Shown::Value { milli: usage_milli }, assumed: Assumed::default() })
}

/// `AverageValue` targets of Object and External; `replicas` is `status.replicas`.
#[must_use]
pub(super) fn propose_average(usage_milli: i64, target_milli: i64, replicas: i32, tolerance: Tolerance) -> Proposal {
    let (usage, target) = (i64_to_f64(usage_milli), i64_to_f64(target_milli));
    let ratio = usage / (target * f64::from(replicas));
    let proposed = if tolerance.holds(ratio) { replicas } else { ceil_i32(usage / target) };
    let shown = f64_to_i64_trunc((usage / f64::from(replicas)).ceil());
    Proposal { replicas: proposed, lost: 0, shown: Shown::Average { milli: shown }, assumed: Assumed::default() }
}

/// `ceil` into the range of a replica count.
fn ceil_i32(value: f64) -> i32 {
    saturate_i32(i128::from(f64_to_i64_trunc(value.ceil())))
}

fn saturate_i32(value: i128) -> i32 {
    i32::try_from(value).unwrap_or(if value < 0 { i32::MIN } else { i32::MAX })
}

fn saturate_i64(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}
