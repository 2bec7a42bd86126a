//! Status of InferenceAutoscalers.

use crate::error::ClusterError;
use crate::key::Key;
use crate::rest::Rest;
use crate::settings::COMPONENT;
use crate::snapshot::AutoscalerSeen;
use crate::time::rfc3339;
use loadline_base::Timestamp;
use loadline_manifest::autoscaler::{Condition, GROUP, InferenceAutoscalerStatus, PLURAL, VERSION};
use loadline_net::clock::Clock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Whether the target's scale can be read and written, as in autoscaling/v2.
pub const ABLE_TO_SCALE: &str = "AbleToScale";
/// Whether a count can be computed, as in autoscaling/v2.
pub const SCALING_ACTIVE: &str = "ScalingActive";
/// Whether a limit changed the count, as in autoscaling/v2.
pub const SCALING_LIMITED: &str = "ScalingLimited";
/// Whether everything above is well.
pub const READY: &str = "Ready";
/// Whether evidence is missing, so that not every direction is open.
pub const DEGRADED: &str = "Degraded";
/// Whether somebody else scales the same target.
pub const CONFLICT: &str = "Conflict";
/// Whether somebody else wrote the target's count (law L10).
pub const FOREIGN_WRITE: &str = "ForeignWrite";

/// The least time between two writes that no condition and no count asks for.
const PERIOD: Duration = Duration::from_secs(10);
/// The least time between two writes that differ in times only.
const TIMES_PERIOD: Duration = Duration::from_secs(60);
/// Longest message of a condition, as in `metav1.Condition`, and longest step.
const MAX_MESSAGE: usize = 1_024;
/// Steps kept.
const MAX_STEPS: usize = 32;
/// Fields that are cleared where a status does not have them.
const FIELDS: [&str; 11] = [
    "observedGeneration",
    "replicas",
    "desiredReplicas",
    "lastScaleTime",
    "bindingSignal",
    "selector",
    "conditions",
    "signals",
    "steps",
    "lastDecisionTime",
    "pools",
];

/// What became of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusOutcome {
    /// It was written.
    Written,
    /// It is what was written before.
    Unchanged,
    /// It differs in something that can wait; give it again later.
    Deferred,
}

/// A condition without its transition time, which the writer fills in.
#[must_use]
pub fn condition(kind: &str, status: bool, reason: impl Into<String>, message: impl Into<String>) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.into(),
        message: message.into(),
        ..Condition::default()
    }
}

struct Last {
    uid: Arc<str>,
    status: InferenceAutoscalerStatus,
    at: Timestamp,
}

/// Writes statuses, each no more often than it must. Cheap to clone; clones share what was written.
#[derive(Clone)]
pub struct StatusWriter {
    rest: Rest,
    clock: Clock,
    last: Arc<Mutex<BTreeMap<Key, Last>>>,
}

impl StatusWriter {
    pub(crate) fn new(rest: Rest, clock: Clock) -> Self {
        Self { rest, clock, last: Arc::default() }
    }

    /// Writes a status at once where a condition, a count or the binding signal changed, every 10 s where values changed, and every 60 s
    /// where only times did. `lastTransitionTime` of a condition is kept as long as its status is the same, and is now otherwise.
    ///
    /// # Errors
    /// Those of the request; the same status is then due again at once.
    pub async fn write(
        &self,
        autoscaler: &AutoscalerSeen,
        status: InferenceAutoscalerStatus,
    ) -> Result<StatusOutcome, ClusterError> {
        let now = self.clock.now();
        let key = &autoscaler.key;
        let (status, due) = {
            let last = self.lock();
            let mine = last.get(key).filter(|last| last.uid == autoscaler.uid);
            let before = mine.map(|last| &last.status).or(autoscaler.status.as_deref());
            let status = settle(status, before, now);
            (status.clone(), due(&status, mine.map(|last| (&last.status, last.at)), autoscaler.status.as_deref(), now))
        };
        if due != StatusOutcome::Written {
            return Ok(due);
        }
        let what = format!("write status of InferenceAutoscaler {key}");
        let path = format!(
            "/apis/{GROUP}/{VERSION}/namespaces/{}/{PLURAL}/{}/status?fieldManager={COMPONENT}",
            key.namespace, key.name
        );
        let body = serde_json::json!({ "metadata": { "uid": *autoscaler.uid }, "status": patch_of(&what, &status)? });
        let _: serde_json::Value = self.rest.patch(&what, &path, &body).await?;
        self.lock().insert(key.clone(), Last { uid: Arc::clone(&autoscaler.uid), status, at: now });
        Ok(StatusOutcome::Written)
    }

    /// Forgets an autoscaler that is gone, or all that was written by an earlier writer.
    pub fn forget(&self, autoscaler: &Key) {
        self.lock().remove(autoscaler);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Last>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fills transition times and cuts what is too long.
fn settle(
    mut status: InferenceAutoscalerStatus,
    before: Option<&InferenceAutoscalerStatus>,
    now: Timestamp,
) -> InferenceAutoscalerStatus {
    for condition in &mut status.conditions {
        let kept = before
            .and_then(|before| before.conditions.iter().find(|old| old.kind == condition.kind))
            .filter(|old| old.status == condition.status && !old.last_transition_time.is_empty());
        condition.last_transition_time = kept.map_or_else(|| rfc3339(now), |old| old.last_transition_time.clone());
        cut(&mut condition.message);
    }
    status.steps.truncate(MAX_STEPS);
    status.steps.iter_mut().for_each(cut);
    status
}

fn cut(text: &mut String) {
    if text.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE - 3).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
}

/// Whether it must be written now: against what this process wrote last, and against what is there.
fn due(
    status: &InferenceAutoscalerStatus,
    mine: Option<(&InferenceAutoscalerStatus, Timestamp)>,
    there: Option<&InferenceAutoscalerStatus>,
    now: Timestamp,
) -> StatusOutcome {
    let Some((last, at)) = mine else {
        return if there.is_some_and(|there| there == status) {
            StatusOutcome::Unchanged
        } else {
            StatusOutcome::Written
        };
    };
    if last == status {
        return StatusOutcome::Unchanged;
    }
    let urgent = headline(last) != headline(status);
    let wait = if without_times(last) == without_times(status) { TIMES_PERIOD } else { PERIOD };
    if urgent || now.since(at) >= wait { StatusOutcome::Written } else { StatusOutcome::Deferred }
}

/// What a person waits for.
fn headline(status: &InferenceAutoscalerStatus) -> impl PartialEq {
    let conditions: Vec<(String, String, String)> = status
        .conditions
        .iter()
        .map(|condition| (condition.kind.clone(), condition.status.clone(), condition.reason.clone()))
        .collect();
    let pools: Vec<_> =
        status.pools.iter().map(|pool| (pool.name.clone(), pool.replicas, pool.desired_replicas)).collect();
    (
        status.observed_generation,
        status.replicas,
        status.desired_replicas,
        status.last_scale_time.clone(),
        status.binding_signal.clone(),
        conditions,
        pools,
    )
}

fn without_times(status: &InferenceAutoscalerStatus) -> InferenceAutoscalerStatus {
    let mut plain = status.clone();
    plain.last_decision_time = None;
    for signal in &mut plain.signals {
        signal.time = None;
    }
    plain
}

/// A merge patch that leaves exactly `status`: what it does not have is set to null.
fn patch_of(what: &str, status: &InferenceAutoscalerStatus) -> Result<serde_json::Value, ClusterError> {
    let malformed = |why: String| ClusterError::Malformed { what: what.to_owned(), why };
    let mut value = serde_json::to_value(status).map_err(|why| malformed(why.to_string()))?;
    let fields = value.as_object_mut().ok_or_else(|| malformed("a status is an object".to_owned()))?;
    for field in FIELDS {
        if !fields.contains_key(field) {
            fields.insert(field.to_owned(), serde_json::Value::Null);
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadline_manifest::autoscaler::SignalStatus;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }

    fn sample(replicas: u32, message: &str) -> InferenceAutoscalerStatus {
        InferenceAutoscalerStatus {
            replicas: Some(replicas),
            conditions: vec![condition(ABLE_TO_SCALE, true, "ReadyForNewScale", message)],
            ..InferenceAutoscalerStatus::default()
        }
    }

    #[test]
    fn transition_times_are_kept_while_the_status_is_the_same() {
        let first = settle(sample(1, "a"), None, at(100));
        assert_eq!(first.conditions[0].last_transition_time, "1970-01-01T00:01:40Z");
        let mut next = sample(1, "b");
        next.conditions[0].reason = "SucceededRescale".to_owned();
        assert_eq!(settle(next, Some(&first), at(200)).conditions[0].last_transition_time, "1970-01-01T00:01:40Z");
        let mut flipped = sample(1, "c");
        flipped.conditions[0].status = "False".to_owned();
        assert_eq!(settle(flipped, Some(&first), at(200)).conditions[0].last_transition_time, "1970-01-01T00:03:20Z");
    }

    #[test]
    fn only_what_a_person_waits_for_is_written_at_once() {
        let last = settle(sample(1, "a"), None, at(100));
        let mut timed = last.clone();
        timed.last_decision_time = Some("1970-01-01T00:02:00Z".to_owned());
        let mut valued = last.clone();
        valued.signals = vec![SignalStatus { name: "requests_waiting".to_owned(), ..SignalStatus::default() }];
        let scaled = settle(sample(2, "a"), Some(&last), at(101));
        for (name, status, now, expect) in [
            ("the same", &last, at(1_000), StatusOutcome::Unchanged),
            ("times after 30 s", &timed, at(130), StatusOutcome::Deferred),
            ("times after 60 s", &timed, at(160), StatusOutcome::Written),
            ("values after 5 s", &valued, at(105), StatusOutcome::Deferred),
            ("values after 10 s", &valued, at(110), StatusOutcome::Written),
            ("replicas at once", &scaled, at(101), StatusOutcome::Written),
        ] {
            assert_eq!(due(status, Some((&last, at(100))), None, now), expect, "{name}");
        }
        assert_eq!(due(&last, None, Some(&last), at(200)), StatusOutcome::Unchanged, "a new writer finds it written");
        assert_eq!(due(&last, None, Some(&scaled), at(200)), StatusOutcome::Written, "a new writer finds another");
    }

    #[test]
    fn a_patch_clears_what_a_status_does_not_have() {
        let patch = patch_of("x", &sample(1, "a")).expect("object");
        assert!(patch["lastScaleTime"].is_null() && patch.as_object().expect("object").contains_key("pools"));
        assert_eq!(patch["replicas"], 1);
        let every = InferenceAutoscalerStatus {
            observed_generation: Some(1),
            replicas: Some(1),
            desired_replicas: Some(1),
            last_scale_time: Some(String::new()),
            binding_signal: Some(String::new()),
            selector: Some(String::new()),
            conditions: vec![Condition::default()],
            signals: vec![SignalStatus::default()],
            steps: vec![String::new()],
            last_decision_time: Some(String::new()),
            pools: vec![loadline_manifest::autoscaler::PoolStatus::default()],
        };
        let keys = serde_json::to_value(every).expect("json");
        let keys: Vec<&str> = keys.as_object().expect("object").keys().map(String::as_str).collect();
        assert_eq!(keys, FIELDS, "every field of the status is cleared where it is missing");
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let mut text = "ü".repeat(MAX_MESSAGE);
        cut(&mut text);
        assert!(text.len() <= MAX_MESSAGE && text.ends_with("ü..."));
    }
}
