//! The state machine.

use crate::budget::{Chance, EndInterval, RegimeClock, RetryBudget, StartTimes};
use crate::demand::Load;
use crate::effect::{Effect, Reason, Rejection};
use crate::queue::{Limits, Waiting};
use crate::replicas::{ReplicaPhase, ReplicaView, Replicas};
use crate::request::{Arrival, Counts, Place, Request};
use crate::settings::HoldSettings;
use crate::slab::{ReplicaKey, RequestKey, Slab};
use crate::wake::Wake;
use loadline_base::{ReplicaId, Timestamp};
use std::collections::BTreeSet;
use std::time::Duration;

/// The start time assumed for `Retry-After` before any was seen or announced.
const UNKNOWN_START: Duration = Duration::from_secs(10);
/// The time to a free slot assumed before any was seen.
const UNKNOWN_INTERVAL: Duration = Duration::from_secs(1);

/// Holds the requests of one model and gives each to a replica slot. See the crate's invariants.
#[derive(Debug, Clone)]
pub struct Hold {
    pub(crate) settings: HoldSettings,
    pub(crate) requests: Slab<RequestKey, Request>,
    pub(crate) waiting: Waiting,
    pub(crate) keepalives: BTreeSet<(Timestamp, RequestKey)>,
    pub(crate) replicas: Replicas,
    pub(crate) clock: RegimeClock,
    pub(crate) wake: Wake,
    pub(crate) load: Load,
    pub(crate) retries: RetryBudget,
    pub(crate) intervals: EndInterval,
    starts: StartTimes,
    chance: Chance,
    starting: u32,
    expected: Option<Timestamp>,
    /// The start time the writer named last.
    announced: Option<Duration>,
    refusing: bool,
    sequence: u64,
    left_total: u64,
    slot_violations: u64,
    bound_violations: u64,
}

impl Hold {
    /// A hold with no replica. `seed` fixes the jitter of `Retry-After`.
    #[must_use]
    pub fn new(settings: HoldSettings, seed: u64, now: Timestamp) -> Self {
        Self {
            retries: RetryBudget::new(settings.retry_reserve),
            settings,
            requests: Slab::default(),
            waiting: Waiting::default(),
            keepalives: BTreeSet::new(),
            replicas: Replicas::default(),
            clock: RegimeClock::new(now),
            wake: Wake::default(),
            load: Load::new(now),
            intervals: EndInterval::default(),
            starts: StartTimes::default(),
            chance: Chance::new(seed),
            starting: 0,
            expected: None,
            announced: None,
            refusing: false,
            sequence: 0,
            left_total: 0,
            slot_violations: 0,
            bound_violations: 0,
        }
    }

    /// Changes bounds and switches; what is held already keeps the limits it came with.
    pub fn configure(&mut self, settings: HoldSettings) {
        self.settings = settings;
    }

    /// Admits a request that has been read. If a slot is free and nobody waits, `effects` holds its grant on return.
    ///
    /// # Errors
    /// The refusal to answer with; the request was not admitted then.
    pub fn arrive(
        &mut self,
        now: Timestamp,
        arrival: Arrival,
        effects: &mut Vec<Effect>,
    ) -> Result<RequestKey, Rejection> {
        self.clock.advance(now);
        self.load.arrived(now);
        self.replicas.advance(now, self.settings.ramp_step);
        if self.refusing {
            return Err(self.refusal(Reason::Draining, now));
        }
        let limits = self.limits_of(now, arrival);
        if let Some(reason) = self.must_refuse(now, arrival, limits) {
            return Err(self.refusal(reason, now));
        }
        self.retries.deposit(self.settings.retry_percent, self.settings.retry_reserve);
        self.sequence += 1;
        let key = self.requests.insert(Request {
            sequence: self.sequence,
            bytes: arrival.bytes,
            place: Place::Held,
            attempts: 0,
            limits,
            left: (0, 0),
            arrived: now,
            held_since: now,
            waited: Duration::ZERO,
            cold: self.clock.is_cold(),
            committed: false,
            keepalive_at: (arrival.streamed && self.settings.keepalive)
                .then(|| now.plus(self.settings.keepalive_grace)),
        });
        if !(self.waiting.is_empty() && self.grant(now, key, effects)) {
            self.enqueue(key);
            self.dispatch(now, effects);
        }
        self.settle(now, effects);
        Ok(key)
    }

    /// The first byte of the answer has come: from here on it cannot be sent to another replica.
    pub fn first_byte(&mut self, now: Timestamp, key: RequestKey, effects: &mut Vec<Effect>) {
        let Some(request) = self.requests.get_mut(key) else { return };
        let Place::Granted { replica, answered, .. } = &mut request.place else { return };
        let (replica, before) = (*replica, std::mem::replace(answered, true));
        let keepalive = request.keepalive_at.take();
        self.keepalives_remove(keepalive, key);
        if !before {
            self.replicas.proved(replica, now, self.settings.ramp_step);
            self.dispatch(now, effects);
        }
    }

    /// The answer has ended.
    pub fn finished(&mut self, now: Timestamp, key: RequestKey, effects: &mut Vec<Effect>) {
        self.leave(now, key, effects);
    }

    /// The client has gone.
    pub fn cancelled(&mut self, now: Timestamp, key: RequestKey, effects: &mut Vec<Effect>) {
        self.leave(now, key, effects);
    }

    fn leave(&mut self, now: Timestamp, key: RequestKey, effects: &mut Vec<Effect>) {
        self.clock.advance(now);
        if self.remove(now, key, effects).is_some() {
            self.dispatch(now, effects);
            self.settle(now, effects);
        }
    }

    /// A replica can take requests, or can again after a drain or a close.
    pub fn replica_up(
        &mut self,
        now: Timestamp,
        id: &ReplicaId,
        address: &str,
        slots: u32,
        effects: &mut Vec<Effect>,
    ) -> ReplicaKey {
        self.clock.advance(now);
        let moved = self.replicas.find(id).filter(|key| self.replicas.get(*key).is_some_and(|r| r.address != address));
        if let Some(key) = moved {
            self.lose(now, key, effects);
        }
        self.wake.reopen();
        let key = if let Some(key) = self.replicas.find(id) {
            if self.replicas.restate(key, slots) {
                self.report_load(key, effects);
            }
            key
        } else {
            if let (Some(since), 0) = (self.wake.since(), self.replicas.serving()) {
                self.starts.add(now.since(since));
            }
            let key = self.replicas.add(id.clone(), address.to_owned(), slots, self.settings.ramp);
            self.replicas.share_out(key, self.waiting.len(), self.starting, self.expected, now);
            key
        };
        self.follow_regime(now);
        self.dispatch(now, effects);
        self.settle(now, effects);
        key
    }

    /// Gives a replica nothing new. Answered by [`Effect::ReplicaLoad`] at once and when it is empty.
    pub fn drain(&mut self, now: Timestamp, id: &ReplicaId, effects: &mut Vec<Effect>) {
        self.clock.advance(now);
        match self.replicas.find(id) {
            Some(key) => {
                self.replicas.stop(key, ReplicaPhase::Draining);
                self.report_load(key, effects);
                self.follow_regime(now);
                self.settle(now, effects);
            }
            None => effects.push(Effect::ReplicaLoad { replica: id.clone(), in_flight: 0 }),
        }
    }

    /// A replica is gone: what it had without a byte is held again, the rest ends with an error in its stream.
    pub fn replica_down(&mut self, now: Timestamp, id: &ReplicaId, effects: &mut Vec<Effect>) {
        self.clock.advance(now);
        if let Some(key) = self.replicas.find(id) {
            self.lose(now, key, effects);
            self.follow_regime(now);
            self.dispatch(now, effects);
            self.settle(now, effects);
        }
    }

    /// How many replicas are on their way, and when the next is expected.
    pub fn outlook(&mut self, now: Timestamp, starting: u32, expected: Option<Duration>) {
        self.starting = starting;
        self.expected = expected.map(|span| now.plus(span));
    }

    /// The writer wants to go to zero. Answered by [`Effect::Closed`]; if that says accepted, every later arrival is held
    /// and asks for a wake of a newer epoch.
    pub fn close(&mut self, now: Timestamp, epoch: u64, effects: &mut Vec<Effect>) {
        self.clock.advance(now);
        let idle = self.waiting.is_empty() && self.replicas.in_flight() == 0;
        let accepted = self.wake.close(epoch, idle);
        if accepted {
            self.replicas.close();
            self.follow_regime(now);
        }
        effects.push(Effect::Closed { epoch, accepted });
        self.settle(now, effects);
    }

    /// The writer has heard a wake.
    pub fn acknowledge(&mut self, now: Timestamp, epoch: u64, expected: Option<Duration>) {
        self.wake.acknowledge(now, epoch);
        if let Some(span) = expected {
            self.clock.advance(now);
            let before = self.cold_budget();
            self.announced = Some(span);
            self.expected = Some(now.plus(span));
            self.extend(self.cold_budget().saturating_sub(before));
        }
    }

    /// Lets those that wait for a first replica wait longer, as a longer start was announced; `hold_limit` stays.
    fn extend(&mut self, more: Duration) {
        if more.is_zero() {
            return;
        }
        let more = u64::try_from(more.as_nanos()).unwrap_or(u64::MAX);
        let keys: Vec<RequestKey> = self.waiting.keys().collect();
        for key in keys {
            if let Some(request) = self.requests.get_mut(key) {
                self.waiting.remove(request.sequence, key, request.bytes, request.limits);
                request.limits.cold = request.limits.cold.saturating_add(more);
                self.waiting.insert(request.sequence, key, request.bytes, request.limits);
            }
        }
    }

    /// There is a new writer: a wake still needed is sent again at the next tick.
    pub fn writer_changed(&mut self, now: Timestamp) {
        self.wake.forget_acknowledgement(now);
    }

    /// Does what is due at `now`; to be called at [`Self::next_deadline`].
    pub fn tick(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.clock.advance(now);
        self.replicas.advance(now, self.settings.ramp_step);
        self.dispatch(now, effects);
        while let Some(key) = self.waiting.expired(&self.clock, now) {
            let reason = if self.clock.is_cold() { Reason::ColdTimeout } else { Reason::SaturatedTimeout };
            self.reject(now, key, reason, effects);
        }
        while let Some((_, key)) = self.keepalives.first().copied().filter(|(at, _)| *at <= now) {
            self.keep_alive(now, key, effects);
        }
        self.settle(now, effects);
    }

    /// Refuses all that is held and all that comes from now on, with [`Reason::Draining`].
    pub fn refuse(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.clock.advance(now);
        self.refusing = true;
        while let Some(key) = self.waiting.head() {
            self.reject(now, key, Reason::Draining, effects);
        }
        self.settle(now, effects);
    }

    /// Ends all that is in flight: with an error in its stream, or, without a byte so far, with [`Reason::Draining`].
    pub fn abort(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.clock.advance(now);
        let granted: Vec<(RequestKey, bool)> = self
            .requests
            .iter()
            .filter_map(|(key, request)| match request.place {
                Place::Granted { answered, .. } => Some((key, answered)),
                Place::Held => None,
            })
            .collect();
        for (key, answered) in granted {
            if answered {
                self.remove(now, key, effects);
                effects.push(Effect::AbortStream { request: key });
            } else {
                self.reject(now, key, Reason::Draining, effects);
            }
        }
        self.settle(now, effects);
    }

    /// When [`Self::tick`] is due next.
    #[must_use]
    pub fn next_deadline(&self) -> Timestamp {
        let mut next = self.load.due(self.held(), self.replicas.in_flight());
        if !self.waiting.is_empty() {
            next = self.waiting.next_expiry(&self.clock).map_or(next, |at| next.min(at));
            next = self.replicas.next_change().map_or(next, |at| next.min(at));
            next = self.wake.next().map_or(next, |at| next.min(at));
        }
        self.keepalives.first().map_or(next, |(at, _)| next.min(*at))
    }

    /// Counts now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            held: self.waiting.len(),
            held_bytes: self.waiting.bytes(),
            in_flight: self.replicas.in_flight(),
            serving: self.replicas.serving(),
            cold: self.clock.is_cold(),
            admitted_total: self.sequence,
            left_total: self.left_total,
            oldest: self.waiting.head().and_then(|key| self.requests.get(key)).map(|request| request.arrived),
            slot_violations: self.slot_violations,
            bound_violations: self.bound_violations,
        }
    }

    /// All replicas, in order of place.
    pub fn replicas(&self) -> impl Iterator<Item = ReplicaView<'_>> {
        self.replicas.views()
    }

    /// The budget of a request that waits for a first replica, as in force now.
    #[must_use]
    pub fn cold_budget(&self) -> Duration {
        let settings = &self.settings;
        settings.cold_budget.unwrap_or_else(|| {
            let known = self.starts.p90().max(self.announced);
            let budget = known.map_or(settings.cold_budget_max, |start| start.saturating_mul(2));
            budget.max(settings.cold_budget_min).min(settings.cold_budget_max)
        })
    }

    /// Whether nothing may be held any more.
    pub(crate) const fn is_refusing(&self) -> bool {
        self.refusing
    }

    pub(crate) fn held(&self) -> u32 {
        self.waiting.len()
    }

    /// When the first or next replica is expected: announced, else learnt.
    pub(crate) fn expected_start(&self, now: Timestamp) -> Duration {
        if let Some(at) = self.expected.filter(|at| *at > now) {
            return at.since(now);
        }
        let passed = self.wake.since().map_or(Duration::ZERO, |since| now.since(since));
        self.starts.p90().map_or(UNKNOWN_START, |p90| p90.saturating_sub(passed))
    }

    fn limits_of(&self, now: Timestamp, arrival: Arrival) -> Limits {
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let mut total = self.settings.hold_limit.min(arrival.ttl.unwrap_or(Duration::MAX));
        if !arrival.streamed {
            total = total.min(self.settings.unstreamed_hold_limit.unwrap_or(Duration::MAX));
        }
        Limits {
            cold: self.clock.cold_nanos().saturating_add(nanos(self.cold_budget())),
            saturated: self.clock.saturated_nanos().saturating_add(nanos(self.settings.saturated_budget)),
            at: now.plus(total),
        }
    }

    /// Whether an arrival must be refused: only if it would have to be held.
    fn must_refuse(&self, now: Timestamp, arrival: Arrival, limits: Limits) -> Option<Reason> {
        if self.waiting.is_empty() && self.replicas.has_open() {
            return None;
        }
        let bytes = self.waiting.bytes().saturating_add(arrival.bytes);
        if self.waiting.len() >= self.settings.max_held || bytes > self.settings.max_held_bytes {
            return Some(Reason::QueueFull);
        }
        if !self.settings.early_reject {
            return None;
        }
        let enough = usize::try_from(self.settings.early_reject_samples).unwrap_or(usize::MAX);
        let (wait, budget, reason) = if self.clock.is_cold() {
            let wait = (self.starts.count() >= enough).then(|| self.expected_start(now))?;
            (wait, self.cold_budget(), Reason::NoCapacity)
        } else {
            if self.intervals.count() < self.settings.early_reject_samples {
                return None;
            }
            let wait = self.intervals.wait_for(self.waiting.len().saturating_add(1))?;
            (wait, self.settings.saturated_budget, Reason::SaturatedTimeout)
        };
        (wait > budget.min(limits.at.since(now))).then_some(reason)
    }

    pub(crate) fn enqueue(&mut self, key: RequestKey) {
        let Some(request) = self.requests.get_mut(key) else { return };
        request.place = Place::Held;
        request.cold |= self.clock.is_cold();
        let again = request.attempts > 0;
        let (sequence, bytes, limits) = (request.sequence, request.bytes, request.limits);
        if let Some(at) = request.keepalive_at {
            self.keepalives.insert((at, key));
        }
        self.waiting.insert(sequence, key, bytes, limits);
        // What is held again was admitted before: it may carry the queue beyond the bounds of arrivals.
        let over = self.waiting.len() > self.settings.max_held || self.waiting.bytes() > self.settings.max_held_bytes;
        self.bound_violations += u64::from(over && !again);
    }

    /// Gives the head of the queue to a free slot, as long as there are both.
    pub(crate) fn dispatch(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        while let Some(key) = self.waiting.head() {
            if !self.grant(now, key, effects) {
                break;
            }
        }
    }

    /// Gives one request a slot, if one is free.
    fn grant(&mut self, now: Timestamp, key: RequestKey, effects: &mut Vec<Effect>) -> bool {
        let Some(replica) = self.replicas.take(now, self.settings.ramp_step) else { return false };
        self.slot_violations += u64::from(self.replicas.get(replica).is_none_or(|r| r.in_flight > r.slots));
        let Some(request) = self.requests.get_mut(key) else { return false };
        request.cold |= self.clock.is_cold();
        request.attempts += 1;
        request.waited = request.waited.saturating_add(now.since(request.held_since));
        request.left = (
            request.limits.cold.saturating_sub(self.clock.cold_nanos()),
            request.limits.saturated.saturating_sub(self.clock.saturated_nanos()),
        );
        request.place = Place::Granted { replica, at: now, answered: false };
        let (sequence, bytes, limits) = (request.sequence, request.bytes, request.limits);
        // A stream whose 200 is out is kept alive until its first byte; any other is no longer held.
        let silenced = if request.committed { None } else { request.keepalive_at };
        effects.push(Effect::Grant {
            request: key,
            replica,
            attempt: request.attempts,
            waited: request.waited,
            cold: request.cold,
        });
        self.keepalives_remove(silenced, key);
        self.waiting.remove(sequence, key, bytes, limits);
        true
    }

    pub(crate) fn keepalives_remove(&mut self, at: Option<Timestamp>, key: RequestKey) {
        if let Some(at) = at
            && !self.keepalives.is_empty()
        {
            self.keepalives.remove(&(at, key));
        }
    }

    fn keep_alive(&mut self, now: Timestamp, key: RequestKey, effects: &mut Vec<Effect>) {
        self.keepalives.pop_first();
        let Some(request) = self.requests.get_mut(key) else { return };
        request.committed = true;
        let next = now.plus(self.settings.keepalive_period.max(Duration::from_millis(1)));
        request.keepalive_at = Some(next);
        self.keepalives.insert((next, key));
        effects.push(Effect::KeepAlive { request: key });
    }

    /// Takes a request out, wherever it is, and frees its slot.
    pub(crate) fn remove(&mut self, now: Timestamp, key: RequestKey, effects: &mut Vec<Effect>) -> Option<Request> {
        let request = self.requests.remove(key)?;
        self.left_total += 1;
        self.keepalives_remove(request.keepalive_at, key);
        match request.place {
            Place::Held => self.waiting.remove(request.sequence, key, request.bytes, request.limits),
            Place::Granted { replica, .. } => self.release(now, replica, effects),
        }
        Some(request)
    }

    pub(crate) fn release(&mut self, now: Timestamp, replica: ReplicaKey, effects: &mut Vec<Effect>) {
        self.intervals.ended(now, !self.waiting.is_empty());
        let left = self.replicas.release(replica);
        if left == 0 && self.replicas.get(replica).is_some_and(|r| r.phase == ReplicaPhase::Draining) {
            self.report_load(replica, effects);
        }
    }

    pub(crate) fn report_load(&self, key: ReplicaKey, effects: &mut Vec<Effect>) {
        if let Some(replica) = self.replicas.get(key) {
            effects.push(Effect::ReplicaLoad { replica: replica.id.clone(), in_flight: replica.in_flight });
        }
    }

    pub(crate) fn reject(&mut self, now: Timestamp, key: RequestKey, reason: Reason, effects: &mut Vec<Effect>) {
        if let Some(rejection) = self.take_rejected(now, key, reason, effects) {
            effects.push(Effect::Reject { request: key, rejection });
        }
    }

    /// Takes a request out with a refusal for it.
    pub(crate) fn take_rejected(
        &mut self,
        now: Timestamp,
        key: RequestKey,
        reason: Reason,
        effects: &mut Vec<Effect>,
    ) -> Option<Rejection> {
        let request = self.remove(now, key, effects)?;
        let more = if request.place == Place::Held { now.since(request.held_since) } else { Duration::ZERO };
        let waited = request.waited.saturating_add(more);
        Some(Rejection { waited, cold: request.cold, ..self.refusal(reason, now) })
    }

    /// A refusal with its estimate of when to try again.
    fn refusal(&mut self, reason: Reason, now: Timestamp) -> Rejection {
        let estimate = match reason {
            Reason::Draining | Reason::UpstreamReset => Duration::ZERO,
            _ if self.clock.is_cold() => self.expected_start(now),
            _ => self.intervals.wait_for(self.waiting.len().max(1)).unwrap_or(UNKNOWN_INTERVAL),
        };
        let retry_after = self.chance.retry_after(estimate);
        Rejection { reason, retry_after, waited: Duration::ZERO, cold: self.clock.is_cold() }
    }

    /// Whether requests are held for want of a replica; call after every change of replicas.
    pub(crate) fn follow_regime(&mut self, now: Timestamp) {
        let cold = self.replicas.serving() == 0;
        if cold && !self.clock.is_cold() {
            self.expected = None;
            for key in self.waiting.keys() {
                if let Some(request) = self.requests.get_mut(key) {
                    request.cold = true;
                }
            }
        }
        self.clock.advance(now);
        self.clock.set_cold(cold);
    }

    /// Brings wake and demand in line with the counts; ends every event.
    pub(crate) fn settle(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let held = self.waiting.len();
        let needed = held > 0 && self.clock.is_cold() && !self.refusing;
        self.wake.follow(now, needed, held, effects);
        if self.load.follow(now, held, self.replicas.in_flight()) {
            effects.push(Effect::Demand);
        }
    }
}
