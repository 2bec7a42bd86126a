//! A run: each request at its time, one task each, within the bounds.

use crate::client::{Client, Failure, Reason};
use crate::live::{Live, add};
use crate::options::Options;
use crate::plan::{Pace, Plan};
use crate::prompt::Bodies;
use crate::report::{Collector, Ended, Outcome, Report};
use crate::target::Target;
use bytes::Bytes;
use loadline_base::Timestamp;
use loadline_net::Clock;
use loadline_sim::trace::Request;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The load client for one target.
#[derive(Debug, Clone)]
pub struct Load {
    target: Target,
    options: Options,
    clock: Clock,
    live: Arc<Live>,
}

impl Load {
    /// A client; nothing is sent yet.
    #[must_use]
    pub fn new(target: Target, options: Options, clock: Clock) -> Self {
        Self { target, options, clock, live: Arc::new(Live::default()) }
    }

    /// The counts of the run in progress, to be watched from elsewhere.
    #[must_use]
    pub fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live)
    }

    /// Sends what the plan says and returns when every request has ended. Cancelling stops sending and cuts off what is in flight; those
    /// requests are reported as unfinished.
    pub async fn run(&self, plan: Plan, cancel: CancellationToken) -> Report {
        let slots = match plan.pace {
            Pace::Open => self.options.max_connections,
            Pace::Closed { concurrency } => concurrency.min(self.options.max_connections),
        };
        let permits = Arc::new(Semaphore::new(slots.clamp(1, Semaphore::MAX_PERMITS)));
        let run = Arc::new(Run {
            client: Client::new(self.target.clone(), &self.options),
            collector: Mutex::new(Collector::new(self.options.slo, self.options.max_records)),
            clock: self.clock.clone(),
            start: self.clock.now(),
            live: Arc::clone(&self.live),
            options: self.options.clone(),
            cancel,
        });
        let bodies = Bodies::new(&self.target, plan.prefix_block_tokens, plan.seed);
        add(&self.live.planned, u64::try_from(plan.requests.len()).unwrap_or(u64::MAX));
        let tracker = TaskTracker::new();
        for (index, request) in (0_u64..).zip(&plan.requests) {
            let due = match plan.pace {
                Pace::Open => run.start.plus(request.arrival),
                Pace::Closed { .. } => Timestamp::ZERO,
            };
            let Some((permit, due)) = run.slot(&permits, plan.pace, due, request).await else { break };
            let body = bodies.body(request, index);
            let run = Arc::clone(&run);
            let lengths = Lengths::of(request);
            tracker.spawn(async move { run.one(body, lengths, due, permit).await });
        }
        tracker.close();
        tracker.wait().await;
        let duration = self.clock.now().since(run.start);
        let mut collector = run.collector.lock().unwrap_or_else(PoisonError::into_inner);
        collector.finish(duration)
    }
}

#[derive(Debug, Clone, Copy)]
struct Lengths {
    input: u32,
    output: u32,
}

impl Lengths {
    fn of(request: &Request) -> Self {
        Self { input: request.input_tokens.max(1), output: request.output_tokens.max(1) }
    }
}

/// What the tasks of a run share.
#[derive(Debug)]
struct Run {
    client: Client,
    collector: Mutex<Collector>,
    clock: Clock,
    start: Timestamp,
    live: Arc<Live>,
    options: Options,
    cancel: CancellationToken,
}

impl Run {
    /// Waits until the request is due and a connection is free; none when the run was cancelled.
    async fn slot(
        &self,
        permits: &Arc<Semaphore>,
        pace: Pace,
        due: Timestamp,
        request: &Request,
    ) -> Option<(OwnedSemaphorePermit, Instant)> {
        let mut due = self.clock.instant_of(due);
        if pace == Pace::Open && due > Instant::now() {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return None,
                () = tokio::time::sleep_until(due) => {}
            }
        }
        if self.cancel.is_cancelled() {
            return None;
        }
        if pace == Pace::Open {
            add(&self.live.due, 1);
        }
        let permit = tokio::select! {
            biased;
            () = self.cancel.cancelled() => None,
            permit = Arc::clone(permits).acquire_owned() => permit.ok(),
        };
        if pace != Pace::Open {
            due = Instant::now();
            add(&self.live.due, u64::from(permit.is_some()));
        } else if permit.is_none() {
            self.end(Lengths::of(request), due, None, 0, Outcome::Unfinished);
        }
        permit.map(|permit| (permit, due))
    }

    /// One request from sending to its end.
    async fn one(&self, body: Bytes, lengths: Lengths, due: Instant, permit: OwnedSemaphorePermit) {
        let sent = Instant::now();
        add(&self.live.sent, 1);
        let mut retries = 0;
        let deadline = sent + self.clock.to_wall(self.options.request_timeout);
        let attempts = tokio::time::timeout_at(deadline, self.attempts(body, &mut retries));
        let outcome = tokio::select! {
            biased;
            () = self.cancel.cancelled() => Outcome::Unfinished,
            ended = attempts => match ended {
                Ok(Ok(answer)) => Outcome::Answered(answer),
                Ok(Err(failure)) => Outcome::Failed(failure),
                Err(_) => {
                    let limit = loadline_base::format_duration(self.options.request_timeout);
                    Outcome::Failed(Failure::new(Reason::Timeout, format!("no complete answer within {limit}")))
                }
            },
        };
        drop(permit);
        self.end(lengths, due, Some(sent), u64::from(retries), outcome);
    }

    async fn attempts(&self, body: Bytes, retries: &mut u32) -> Result<crate::client::Answer, Failure> {
        loop {
            match self.client.send(body.clone(), &self.live).await {
                Err(failure) if failure.may_retry() && *retries < self.options.retries => {
                    *retries += 1;
                    let wait = failure.retry_after.unwrap_or(DEFAULT_RETRY_WAIT).min(self.options.max_retry_wait);
                    self.clock.sleep(wait).await;
                }
                other => return other,
            }
        }
    }

    fn end(&self, lengths: Lengths, due: Instant, sent: Option<Instant>, retries: u64, outcome: Outcome) {
        let since_due = |instant: Instant| self.clock.to_model(instant.saturating_duration_since(due));
        let (ttft, e2e) = match &outcome {
            Outcome::Answered(answer) => {
                add(&self.live.answered, 1);
                (since_due(answer.first), since_due(answer.last))
            }
            Outcome::Failed(_) | Outcome::Unfinished => {
                add(&self.live.failed, 1);
                (Duration::ZERO, Duration::ZERO)
            }
        };
        let start = self.clock.instant_of(self.start);
        let ended = Ended {
            due: self.clock.to_model(due.saturating_duration_since(start)),
            input_tokens: lengths.input,
            requested_tokens: lengths.output,
            lateness: sent.unwrap_or_else(Instant::now).saturating_duration_since(due),
            retries,
            ttft,
            e2e,
            outcome,
        };
        self.collector.lock().unwrap_or_else(PoisonError::into_inner).add(&ended);
    }
}

/// Wait before sending again when the server names none, in model time.
const DEFAULT_RETRY_WAIT: Duration = Duration::from_secs(1);
