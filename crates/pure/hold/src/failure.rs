//! What becomes of requests whose attempt failed or whose replica is gone.

use crate::effect::{Effect, Failure, Reason, Retry};
use crate::machine::Hold;
use crate::request::Place;
use crate::slab::{ReplicaKey, RequestKey};
use loadline_base::Timestamp;

impl Hold {
    /// Attempt `attempt` failed before the first byte of its answer.
    ///
    /// A refused or reset connection ejects the replica for a while. Such losses of requests that were given to it before
    /// are held again whatever the retry budget says, as they add no load; any other retry needs budget. No request is
    /// given to replicas more than `max_attempts` times.
    pub fn failed(
        &mut self,
        now: Timestamp,
        key: RequestKey,
        attempt: u32,
        failure: Failure,
        effects: &mut Vec<Effect>,
    ) -> Retry {
        self.clock.advance(now);
        let Some(request) = self.requests.get(key) else { return Retry::Stale };
        let Place::Granted { replica, at, answered: false } = request.place else { return Retry::Stale };
        if request.attempts != attempt {
            return Retry::Stale;
        }
        let resendable = failure == Failure::Refused || request.bytes <= self.settings.retry_body_bytes;
        let attempts_left = attempt < self.settings.max_attempts && !self.is_refusing();
        let lost = failure != Failure::Unavailable && {
            let before = self.replicas.get(replica).and_then(|r| r.ejected_at).is_some_and(|ejected| at <= ejected);
            self.replicas.eject(replica, now, &self.settings) || before
        };
        let retry = resendable && attempts_left && (lost || self.retries.withdraw());
        let outcome = if retry {
            self.hold_again(now, key, replica, effects);
            Retry::Held
        } else {
            self.take_rejected(now, key, Reason::UpstreamReset, effects).map_or(Retry::Stale, Retry::Over)
        };
        self.dispatch(now, effects);
        self.settle(now, effects);
        outcome
    }

    /// Frees the slot of a request and holds it again, with what is left of its budgets. Not for a hold that refuses: it
    /// may never get a replica again.
    fn hold_again(&mut self, now: Timestamp, key: RequestKey, replica: ReplicaKey, effects: &mut Vec<Effect>) {
        self.release(now, replica, effects);
        let (cold, saturated) = (self.clock.cold_nanos(), self.clock.saturated_nanos());
        if let Some(request) = self.requests.get_mut(key) {
            request.limits.cold = cold.saturating_add(request.left.0);
            request.limits.saturated = saturated.saturating_add(request.left.1);
            // Time on a replica is not time held.
            if let Place::Granted { at, .. } = request.place {
                request.limits.at = request.limits.at.plus(now.since(at));
            }
            request.held_since = now;
        }
        self.enqueue(key);
    }

    /// Forgets a replica and settles what it had. The caller follows with the regime, a dispatch and a settle.
    pub(crate) fn lose(&mut self, now: Timestamp, replica: ReplicaKey, effects: &mut Vec<Effect>) {
        // Nothing may be given to it while its requests are settled.
        self.replicas.stop(replica, crate::replicas::ReplicaPhase::Closed);
        let refusing = self.is_refusing();
        let had: Vec<(RequestKey, bool, bool)> = self
            .requests
            .iter()
            .filter_map(|(key, request)| match request.place {
                Place::Granted { replica: at, answered, .. } if at == replica => {
                    let resendable = request.bytes <= self.settings.retry_body_bytes && !refusing;
                    Some((key, answered, resendable && request.attempts < self.settings.max_attempts))
                }
                _ => None,
            })
            .collect();
        for (key, answered, again) in had {
            if answered {
                self.remove(now, key, effects);
                effects.push(Effect::AbortStream { request: key });
            } else if again {
                self.hold_again(now, key, replica, effects);
                effects.push(Effect::Requeued { request: key });
            } else {
                self.reject(now, key, Reason::UpstreamReset, effects);
            }
        }
        self.replicas.remove(replica);
    }
}
