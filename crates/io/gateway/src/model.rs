//! One model: its hold behind a lock, the letters to its waiting requests, and its replicas' connections.

use crate::metrics::{ModelMetrics, QueueOutcome};
use crate::reports::Reporter;
use crate::settings::ModelSettings;
use crate::shared::Shared;
use crate::upstream::Upstream;
use loadline_base::{ModelId, ReplicaId, Timestamp};
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use loadline_hold::{Arrival, Counts, Effect, Failure, Hold, Rejection, ReplicaKey, ReplicaPhase, RequestKey, Retry};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A slot on a replica, for one attempt.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) attempt: u32,
    pub(crate) waited: Duration,
    pub(crate) cold: bool,
}

/// The latest that a request must know; a newer letter replaces an older one.
#[derive(Debug)]
pub(crate) enum Letter {
    Grant(Grant),
    Reject(Rejection),
    Requeued,
}

/// Where a request finds its letters; it outlives the request's place in the hold.
#[derive(Debug, Default)]
pub(crate) struct Ticket {
    /// Comments to be written on its stream.
    pub(crate) comments: AtomicU32,
    /// Its stream's status is sent, or is about to be.
    pub(crate) committed: AtomicBool,
    mail: Mutex<Mail>,
}

#[derive(Debug, Default)]
struct Mail {
    waker: Option<Waker>,
    letter: Option<Letter>,
}

impl Ticket {
    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next letter.
    pub(crate) fn poll_letter(&self, cx: &Context<'_>) -> Poll<Letter> {
        let mut mail = self.mail();
        match mail.letter.take() {
            Some(letter) => Poll::Ready(letter),
            None => {
                if !mail.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    mail.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// Whether a letter lies there that has not been taken.
    fn has_letter(&self) -> bool {
        self.mail().letter.is_some()
    }

    fn deliver(&self, letter: Option<Letter>) {
        let mut mail = self.mail();
        if letter.is_some() {
            mail.letter = letter;
        }
        if let Some(waker) = &mail.waker {
            waker.wake_by_ref();
        }
    }
}

struct State {
    hold: Hold,
    tickets: Vec<Option<Arc<Ticket>>>,
    effects: Vec<Effect>,
    upstreams: Vec<Option<Arc<Upstream>>>,
}

/// One model of the gateway.
pub(crate) struct Model {
    pub(crate) id: ModelId,
    pub(crate) max_body_bytes: AtomicU64,
    /// Larger bodies are not sent twice.
    pub(crate) resend_bytes: AtomicU64,
    pub(crate) metrics: ModelMetrics,
    /// Its pool on the endpoint picker's metrics, if other than the gateway's.
    inference_pool: Mutex<Option<String>>,
    state: Mutex<State>,
    /// When the timer must tick it next, in nanoseconds.
    armed: AtomicI64,
}

impl Model {
    pub(crate) fn new(settings: &ModelSettings, max_body_bytes: u64, seed: u64, now: Timestamp) -> Self {
        Self {
            id: settings.model.clone(),
            max_body_bytes: AtomicU64::new(settings.max_body_bytes.unwrap_or(max_body_bytes)),
            resend_bytes: AtomicU64::new(settings.hold.retry_body_bytes),
            metrics: ModelMetrics::default(),
            inference_pool: Mutex::new(settings.inference_pool.clone()),
            state: Mutex::new(State {
                hold: Hold::new(settings.hold.clone(), seed, now),
                tickets: Vec::new(),
                effects: Vec::new(),
                upstreams: Vec::new(),
            }),
            armed: AtomicI64::new(now.as_nanos()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn armed(&self) -> Timestamp {
        Timestamp::from_nanos(self.armed.load(Ordering::Acquire))
    }

    /// Runs one event on the hold and carries out what it asks for.
    fn event<R>(&self, shared: &Shared, event: impl FnOnce(&mut State, Timestamp, &mut Vec<Effect>) -> R) -> R {
        let mut state = self.lock();
        let now = shared.clock.now();
        let mut effects = std::mem::take(&mut state.effects);
        let result = event(&mut state, now, &mut effects);
        for effect in effects.drain(..) {
            self.carry_out(&mut state, &shared.reporter, now, effect);
        }
        state.effects = effects;
        let next = state.hold.next_deadline().as_nanos();
        let before = self.armed.swap(next, Ordering::AcqRel);
        drop(state);
        if next < before {
            shared.timer_earlier(next);
        }
        result
    }

    fn carry_out(&self, state: &mut State, reporter: &Reporter, now: Timestamp, effect: Effect) {
        match effect {
            Effect::Grant { request, replica, attempt, waited, cold } => {
                let Some(Some(upstream)) = state.upstreams.get(replica.slot()) else { return };
                let grant = Grant { upstream: Arc::clone(upstream), attempt, waited, cold };
                state.deliver(request, Some(Letter::Grant(grant)));
            }
            Effect::Reject { request, rejection } => state.deliver(request, Some(Letter::Reject(rejection))),
            Effect::Requeued { request } => state.deliver(request, Some(Letter::Requeued)),
            Effect::KeepAlive { request } => {
                self.metrics.keepalives.add(1);
                if let Some(Some(ticket)) = state.tickets.get(request.slot()) {
                    ticket.committed.store(true, Ordering::Relaxed);
                    ticket.comments.fetch_add(1, Ordering::Relaxed);
                    ticket.deliver(None);
                }
            }
            Effect::AbortStream { request } => state.deliver(request, None),
            Effect::Wake { epoch, held } => {
                self.metrics.wakes.add(1);
                let (gateway, model) = (reporter.gateway(), self.id.clone());
                reporter.send(GatewayReport::Wake { gateway, model, epoch, held });
            }
            Effect::Closed { epoch, accepted } => {
                let (gateway, model) = (reporter.gateway(), self.id.clone());
                reporter.send(GatewayReport::Closed { gateway, model, epoch, accepted });
            }
            Effect::ReplicaLoad { replica, in_flight } => {
                let (gateway, model) = (reporter.gateway(), self.id.clone());
                reporter.send(GatewayReport::ReplicaLoad { gateway, model, replica, in_flight });
            }
            Effect::Demand => {
                let demand = state.hold.demand(now, &reporter.gateway(), &self.id);
                self.metrics.peak.raise(u64::from(demand.peak));
                reporter.send(GatewayReport::Demand(demand));
            }
        }
    }

    /// Admits a request; its first letter may lie in the ticket on return.
    pub(crate) fn arrive(
        &self,
        shared: &Shared,
        arrival: Arrival,
        ticket: &Arc<Ticket>,
    ) -> Result<RequestKey, Rejection> {
        self.event(shared, |state, now, effects| {
            let key = state.hold.arrive(now, arrival, effects)?;
            if state.tickets.len() <= key.slot() {
                state.tickets.resize_with(key.slot() + 1, || None);
            }
            if let Some(place) = state.tickets.get_mut(key.slot()) {
                *place = Some(Arc::clone(ticket));
            }
            Ok(key)
        })
    }

    /// The head of the answer has come; false if the attempt was given up before, which a letter in the ticket says.
    pub(crate) fn first_byte(&self, shared: &Shared, key: RequestKey, ticket: &Ticket) -> bool {
        self.event(shared, |state, now, effects| {
            let is_current = !ticket.has_letter();
            if is_current {
                state.hold.first_byte(now, key, effects);
            }
            is_current
        })
    }

    pub(crate) fn finished(&self, shared: &Shared, key: RequestKey) {
        self.event(shared, |state, now, effects| state.hold.finished(now, key, effects));
    }

    pub(crate) fn cancelled(&self, shared: &Shared, key: RequestKey) {
        self.event(shared, |state, now, effects| state.hold.cancelled(now, key, effects));
    }

    pub(crate) fn failed(&self, shared: &Shared, key: RequestKey, attempt: u32, failure: Failure) -> Retry {
        self.event(shared, |state, now, effects| state.hold.failed(now, key, attempt, failure, effects))
    }

    pub(crate) fn tick(&self, shared: &Shared) {
        self.event(shared, |state, now, effects| state.hold.tick(now, effects));
    }

    pub(crate) fn configure(&self, settings: &ModelSettings, max_body_bytes: u64) {
        self.max_body_bytes.store(settings.max_body_bytes.unwrap_or(max_body_bytes), Ordering::Relaxed);
        self.resend_bytes.store(settings.hold.retry_body_bytes, Ordering::Relaxed);
        self.inference_pool.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&settings.inference_pool);
        self.lock().hold.configure(settings.hold.clone());
    }

    pub(crate) fn inference_pool(&self) -> Option<String> {
        self.inference_pool.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Refuses what is held and what comes; with `all`, ends also what is in flight.
    pub(crate) fn stop(&self, shared: &Shared, all: bool) {
        self.event(shared, |state, now, effects| {
            state.hold.refuse(now, effects);
            if all {
                state.hold.abort(now, effects);
            }
        });
    }

    pub(crate) fn writer_changed(&self, shared: &Shared) {
        self.event(shared, |state, now, _| state.hold.writer_changed(now));
    }

    /// Obeys an order.
    pub(crate) fn order(&self, shared: &Shared, order: GatewayOrder) {
        self.event(shared, |state, now, effects| match order {
            GatewayOrder::Ack { epoch, expected, .. } => state.hold.acknowledge(now, epoch, expected),
            GatewayOrder::Close { epoch, .. } => state.hold.close(now, epoch, effects),
            GatewayOrder::ReplicaUp { replica, address, slots, .. } => {
                let idle = shared.settings.idle_connections_per_replica;
                state.replica_up(now, &replica, &address, (slots, idle), effects);
            }
            GatewayOrder::Drain { replica, .. } => state.hold.drain(now, &replica, effects),
            GatewayOrder::ReplicaDown { replica, .. } => {
                state.forget(&replica);
                state.hold.replica_down(now, &replica, effects);
            }
            GatewayOrder::Outlook { starting, expected, .. } => state.hold.outlook(now, starting, expected),
        });
    }

    /// Counts and replicas, for pages.
    pub(crate) fn snapshot(&self) -> (Counts, u64, Vec<ReplicaRow>) {
        let state = self.lock();
        let replicas = state
            .hold
            .replicas()
            .map(|view| ReplicaRow {
                id: view.id.clone(),
                slots: view.slots,
                in_flight: view.in_flight,
                phase: view.phase,
            })
            .collect();
        (state.hold.counts(), state.hold.arrivals_total(), replicas)
    }
}

impl State {
    fn deliver(&self, request: RequestKey, letter: Option<Letter>) {
        if let Some(Some(ticket)) = self.tickets.get(request.slot()) {
            ticket.deliver(letter);
        }
    }

    fn replica_up(
        &mut self,
        now: Timestamp,
        replica: &ReplicaId,
        address: &str,
        (slots, idle): (u32, usize),
        effects: &mut Vec<Effect>,
    ) {
        let known =
            self.hold.replicas().find(|view| view.id == replica).map(|view| (view.key, view.address == address));
        if known.is_none_or(|(_, same)| !same) {
            self.forget(replica);
        }
        // The hold may grant at once, but grants are carried out after the connections' entry below exists.
        let key: ReplicaKey = self.hold.replica_up(now, replica, address, slots, effects);
        if self.upstreams.len() <= key.slot() {
            self.upstreams.resize_with(key.slot() + 1, || None);
        }
        if let Some(entry) = self.upstreams.get_mut(key.slot())
            && entry.as_ref().is_none_or(|upstream| upstream.id != *replica || upstream.is_gone())
        {
            *entry = Some(Arc::new(Upstream::new(replica.clone(), address.to_owned(), idle)));
        }
    }

    /// Marks the connections of a replica as gone, so that its streams end.
    fn forget(&mut self, replica: &ReplicaId) {
        for entry in &mut self.upstreams {
            if let Some(upstream) = entry.take_if(|upstream| upstream.id == *replica) {
                upstream.leave();
            }
        }
    }
}

/// One replica on a page.
pub(crate) struct ReplicaRow {
    pub(crate) id: ReplicaId,
    pub(crate) slots: u32,
    pub(crate) in_flight: u32,
    pub(crate) phase: ReplicaPhase,
}

/// A request in the hold; dropping it cancels the request, which frees its place or slot.
pub(crate) struct Lease {
    pub(crate) shared: Arc<Shared>,
    pub(crate) model: Arc<Model>,
    pub(crate) key: RequestKey,
    arrived: Timestamp,
    dispatched: bool,
    ended: bool,
}

impl Lease {
    pub(crate) const fn new(shared: Arc<Shared>, model: Arc<Model>, key: RequestKey, arrived: Timestamp) -> Self {
        Self { shared, model, key, arrived, dispatched: false, ended: false }
    }

    /// It got a slot, after having been held for so long.
    pub(crate) fn dispatch(&mut self, waited: Duration) {
        if !std::mem::replace(&mut self.dispatched, true) {
            self.model.metrics.queue(QueueOutcome::Dispatched).observe(waited.as_secs_f64());
        }
    }

    /// The hold has let it go with this refusal.
    pub(crate) fn refused(&mut self, rejection: &Rejection) {
        self.ended = true;
        self.model.metrics.dropped(rejection.reason);
        if !std::mem::replace(&mut self.dispatched, true) {
            let outcome = QueueOutcome::of_held(rejection.reason);
            self.model.metrics.queue(outcome).observe(rejection.waited.as_secs_f64());
        }
    }

    /// The answer has ended.
    pub(crate) fn finish(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.model.finished(&self.shared, self.key);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.ended {
            self.model.metrics.cancelled.add(1);
            if !self.dispatched {
                let waited = self.shared.clock.now().since(self.arrived).as_secs_f64();
                self.model.metrics.queue(QueueOutcome::EvictedContextCancelled).observe(waited);
            }
            self.model.cancelled(&self.shared, self.key);
        }
    }
}
