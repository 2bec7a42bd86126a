//! How much is known about a pool, and what that allows (DESIGN section 4). Unknown is never zero.

use crate::hpa::{HpaRule, MetricSource, MetricSpec};
use crate::observation::{
    Evidence, GatewayObservation, MetricAnswer, PoolObservation, ReplicaObservation, ReplicaState, ReplicaValue, Signal,
};
use crate::step::{IdleProof, NotIdle};
use loadline_base::num::i64_to_f64;
use loadline_base::{ReplicaId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What the engines of a pool say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineEvidence {
    /// Every replica that should speak does; also where none should yet.
    Live,
    /// Some are silent or late.
    SomeLost,
    /// All are silent.
    Missing,
}

/// What the gateways of a pool say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayEvidence {
    /// Every instance speaks.
    Live,
    /// One is late: its values may raise a count, not lower it.
    Stale,
    /// One is silent.
    Missing,
    /// None is configured.
    Absent,
}

impl fmt::Display for EngineEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::SomeLost => "partly lost",
            Self::Missing => "missing",
        })
    }
}

impl fmt::Display for GatewayEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::Stale => "late",
            Self::Missing => "silent",
            Self::Absent => "not configured",
        })
    }
}

/// The evidence of one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolEvidence {
    /// Engines.
    pub engine: EngineEvidence,
    /// Gateways.
    pub gateway: GatewayEvidence,
    /// Replicas that are not surely idle or busy: silent or late, or said to exist and not listed.
    pub not_live: u32,
    /// Of these, the ready and silent ones whose capacity is not counted on. A replica that has only just become ready is not
    /// among them: its first scrape is still to come, and nobody has filled it yet.
    pub silent: u32,
}

/// What a row of the table allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// May go up.
    pub up: bool,
    /// May go down: not at all, or only with the lost replicas counted as fully loaded, or freely.
    pub down: Down,
    /// May go to zero if the proof holds.
    pub zero: Option<IdleProof>,
}

/// How far down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// As computed.
    Free,
    /// Only if it holds with lost replicas fully loaded.
    LostAreFull,
    /// Not at all.
    No,
}

impl PoolEvidence {
    /// Reads the evidence of an observation.
    #[must_use]
    pub fn of(seen: &PoolObservation, now: Timestamp, period: Duration) -> Self {
        let (mut expected, mut live, mut silent) = (0_u32, 0_u32, 0_u32);
        for replica in seen.replicas.iter().filter(|replica| should_speak(replica)) {
            expected = expected.saturating_add(1);
            match engine_of(replica) {
                Evidence::Live => live = live.saturating_add(1),
                Evidence::Stale => {}
                Evidence::Missing | Evidence::Absent => {
                    let counted = replica.state == ReplicaState::Ready && !is_new(replica, now, grace(period));
                    silent = silent.saturating_add(u32::from(counted));
                }
            }
        }
        // an observation of pods alone has no engine signals to lose: its metric answers carry their own evidence
        let of_pods = seen.replicas.is_empty() && seen.hpa.is_some();
        let listed = if of_pods { u32::MAX } else { u32::try_from(seen.replicas.len()).unwrap_or(u32::MAX) };
        let unlisted = seen.status_replicas.saturating_sub(listed);
        let not_live = expected.saturating_sub(live).saturating_add(unlisted);
        let engine = if not_live == 0 {
            EngineEvidence::Live
        } else if live == 0 {
            EngineEvidence::Missing
        } else {
            EngineEvidence::SomeLost
        };
        Self {
            engine,
            gateway: gateway_of(&seen.gateway, now, period),
            not_live,
            silent: silent.saturating_add(unlisted),
        }
    }

    /// The row of the table.
    #[must_use]
    pub const fn allows(self) -> Allowed {
        use EngineEvidence as E;
        use GatewayEvidence as G;
        let (up, down, zero) = match (self.engine, self.gateway) {
            (E::Live, G::Live) => (true, Down::Free, Some(IdleProof::Gateways)),
            (E::SomeLost, G::Live | G::Absent) => (true, Down::LostAreFull, None),
            (E::Missing, G::Live) => (true, Down::No, Some(IdleProof::Gateways)),
            (E::Live, G::Absent) => (true, Down::Free, Some(IdleProof::Replicas)),
            (E::Live | E::SomeLost, G::Missing | G::Stale) | (E::Missing, G::Stale) => (true, Down::No, None),
            (E::Missing, G::Missing | G::Absent) => (false, Down::No, None),
        };
        Allowed { up, down, zero }
    }
}

/// For how long after it became ready a replica is not expected to have been scraped: as long as a value counts as live.
pub(crate) const fn grace(period: Duration) -> Duration {
    period.saturating_mul(2)
}

/// Whether a replica became ready within the grace.
pub(crate) fn is_new(replica: &ReplicaObservation, now: Timestamp, grace: Duration) -> bool {
    now.since(replica.since) <= grace && grace > Duration::ZERO
}

/// Whether a replica's engine should answer scrapes.
fn should_speak(replica: &ReplicaObservation) -> bool {
    matches!(replica.state, ReplicaState::Ready | ReplicaState::Draining)
}

/// Whether a replica's engine says nothing at all.
pub(crate) fn is_silent(replica: &ReplicaObservation) -> bool {
    matches!(engine_of(replica), Evidence::Missing | Evidence::Absent)
}

/// The weaker of a replica's two counts.
fn engine_of(replica: &ReplicaObservation) -> Evidence {
    let finite = |signal: &Signal| signal.value.is_finite();
    let of = |signal: Option<Signal>| signal.filter(finite).map_or(Evidence::Missing, |signal| signal.evidence);
    of(replica.running).max(of(replica.waiting))
}

fn gateway_of(seen: &GatewayObservation, now: Timestamp, period: Duration) -> GatewayEvidence {
    match seen {
        GatewayObservation::Absent => GatewayEvidence::Absent,
        GatewayObservation::Missing => GatewayEvidence::Missing,
        GatewayObservation::Live { at, .. } => match Evidence::of_age(now, *at, period) {
            Evidence::Live => GatewayEvidence::Live,
            Evidence::Stale => GatewayEvidence::Stale,
            Evidence::Missing | Evidence::Absent => GatewayEvidence::Missing,
        },
    }
}

/// Whether a pool is proven idle for `after`. `Ok(None)`: it is not idle, or not for long enough, which needs no explanation.
///
/// # Errors
/// Says what stands in the way of a proof although the pool looks idle.
pub fn idle(
    seen: &PoolObservation,
    evidence: PoolEvidence,
    now: Timestamp,
    after: Duration,
) -> Result<Option<(IdleProof, Timestamp)>, NotIdle> {
    let busy = |replica: &ReplicaObservation| {
        let works =
            |signal: Option<crate::Signal>| signal.is_some_and(|s| s.evidence == Evidence::Live && s.value > 0.0);
        replica.state != ReplicaState::Failed && (works(replica.running) || works(replica.waiting))
    };
    match (evidence.gateway, &seen.gateway) {
        (
            GatewayEvidence::Live,
            GatewayObservation::Live { held: 0, in_flight: 0, peak: 0, idle_since: Some(since), .. },
        ) => {
            if now.since(*since) < after {
                Ok(None)
            } else if evidence.engine == EngineEvidence::SomeLost {
                Err(NotIdle::EngineSilent)
            } else if evidence.engine == EngineEvidence::Missing && !all_known(seen) {
                Err(NotIdle::ReplicaUnknown)
            } else if seen.replicas.iter().any(busy) {
                Err(NotIdle::EngineBusy)
            } else {
                Ok(Some((IdleProof::Gateways, *since)))
            }
        }
        (GatewayEvidence::Live, _) => Ok(None),
        (GatewayEvidence::Absent, _) => idle_by_replicas(seen, evidence, now, after),
        (GatewayEvidence::Stale | GatewayEvidence::Missing, _) => Err(NotIdle::GatewaySilent),
    }
}

/// Every replica that exists must report idleness itself; one that starts reports nothing.
fn idle_by_replicas(
    seen: &PoolObservation,
    evidence: PoolEvidence,
    now: Timestamp,
    after: Duration,
) -> Result<Option<(IdleProof, Timestamp)>, NotIdle> {
    if evidence.engine != EngineEvidence::Live {
        return Err(NotIdle::EngineSilent);
    }
    let mut since = None;
    for replica in seen.replicas.iter().filter(|replica| replica.state != ReplicaState::Failed) {
        let Some(idle) = replica.idle_since.filter(|_| should_speak(replica)) else { return Ok(None) };
        since = Some(since.map_or(idle, |latest: Timestamp| latest.max(idle)));
    }
    Ok(since.filter(|since| now.since(*since) >= after).map(|since| (IdleProof::Replicas, since)))
}

fn all_known(seen: &PoolObservation) -> bool {
    let listed = u32::try_from(seen.replicas.len()).unwrap_or(u32::MAX);
    listed >= seen.status_replicas && seen.replicas.iter().all(|replica| replica.known)
}

/// Whether a metric's values come from the pool's replicas, one each.
fn is_of_replicas(source: &MetricSource) -> bool {
    match source {
        MetricSource::Signal { name } => crate::signal::lookup(name).is_some_and(|entry| !entry.gateway),
        MetricSource::Pods { .. } | MetricSource::Resource { .. } | MetricSource::ContainerResource { .. } => true,
        MetricSource::Object { .. } | MetricSource::External { .. } | MetricSource::Unknown { .. } => false,
    }
}

/// Ready replicas that lack a fresh value of some metric of the rule which is observed one value each: what they carry is not known,
/// even where their engines speak (a value that is brought from elsewhere may lag behind).
#[must_use]
pub fn unknown_values(rule: &HpaRule, seen: &PoolObservation) -> u32 {
    let lacking = |replica: &ReplicaObservation| {
        rule.metrics.iter().zip(&seen.metrics).any(|(metric, answer)| match answer {
            MetricAnswer::PerReplica { values } if is_of_replicas(&metric.source) => !values.iter().any(|value| {
                value.replica == replica.id && value.signal.evidence == Evidence::Live && value.signal.value.is_finite()
            }),
            _ => false,
        })
    };
    // the usual case, without looking each replica up
    let is_whole = rule.metrics.iter().zip(&seen.metrics).all(|(metric, answer)| match answer {
        MetricAnswer::PerReplica { values } if is_of_replicas(&metric.source) => {
            let ready = seen.replicas.iter().filter(|replica| replica.state == ReplicaState::Ready).map(|r| &r.id);
            let fresh =
                |value: &&ReplicaValue| value.signal.evidence == Evidence::Live && value.signal.value.is_finite();
            let mut known = values.iter().filter(fresh).map(|value| &value.replica);
            ready.into_iter().all(|id| known.any(|known| known == id))
        }
        _ => true,
    });
    if is_whole {
        return 0;
    }
    let ready = seen.replicas.iter().filter(|replica| replica.state == ReplicaState::Ready);
    u32::try_from(ready.filter(|replica| lacking(replica)).count()).unwrap_or(u32::MAX)
}

/// A total that was brought from outside and is not fresh: it may raise a count, not lower it.
#[must_use]
pub fn late_total<'a>(rule: &'a HpaRule, seen: &PoolObservation) -> Option<&'a MetricSpec> {
    let late = |(metric, answer): &(&MetricSpec, &MetricAnswer)| {
        let is_outside = matches!(metric.source, MetricSource::External { .. } | MetricSource::Object { .. });
        is_outside && matches!(answer, MetricAnswer::Total { signal, .. } if signal.evidence != Evidence::Live)
    };
    rule.metrics.iter().zip(&seen.metrics).find(late).map(|(metric, _)| metric)
}

/// The observation in which every ready replica without a fresh value reports, freshly, exactly its target of every metric that has one
/// value per replica: the fullest load that a replica is meant to carry (law L1).
#[must_use]
pub fn with_full_load(rule: &HpaRule, seen: &PoolObservation, now: Timestamp) -> PoolObservation {
    let mut full = seen.clone();
    let ready: Vec<ReplicaId> = seen
        .replicas
        .iter()
        .filter(|replica| replica.state == ReplicaState::Ready)
        .map(|replica| replica.id.clone())
        .collect();
    for replica in &mut full.replicas {
        for signal in [&mut replica.running, &mut replica.waiting] {
            let value = signal.map_or(0.0, |signal| signal.value);
            *signal = Some(Signal { value, at: now, evidence: Evidence::Live });
        }
    }
    for (metric, answer) in rule.metrics.iter().zip(&mut full.metrics) {
        let (true, Some(target), MetricAnswer::PerReplica { values }) =
            (is_of_replicas(&metric.source), metric.target.per_replica(), answer)
        else {
            continue;
        };
        let load = Signal { value: i64_to_f64(target) / 1000.0, at: now, evidence: Evidence::Live };
        let mut all: BTreeMap<ReplicaId, Signal> =
            values.drain(..).map(|value| (value.replica, value.signal)).collect();
        for id in &ready {
            let is_known =
                all.get(id).is_some_and(|signal| signal.evidence == Evidence::Live && signal.value.is_finite());
            if !is_known {
                all.insert(id.clone(), load);
            }
        }
        values.extend(all.into_iter().map(|(replica, signal)| ReplicaValue { replica, signal }));
    }
    full
}
