//! One task takes part in the election of the writer, undisturbed by whatever else goes on.

use anyhow::{Context, Result};
use loadline_base::Timestamp;
use loadline_cluster::{ClusterError, LeaseClient, LeaseSeen};
use loadline_control::election::{Election, ElectionSettings, ElectionStep};
use loadline_net::Clock;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// After so long without a failure one is over.
const MENDED: Duration = Duration::from_secs(10);

/// What the election says now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Office {
    /// The number of this process's term as the writer, while it is one.
    pub(crate) term: Option<u64>,
    /// By when everything that the writer sends has to have ended.
    pub(crate) until: Option<Timestamp>,
    /// Where gateways find the writer, whoever that is.
    pub(crate) writer_address: Option<Arc<str>>,
    /// Who holds the lease.
    pub(crate) holder: Option<String>,
    /// Why the lease could not be read or written.
    pub(crate) error: Option<String>,
}

impl Office {
    /// The term, if this process may write at `now`.
    pub(crate) fn term_at(&self, now: Timestamp) -> Option<u64> {
        self.term.filter(|_| self.until.is_some_and(|until| now < until))
    }
}

/// Takes part until cancelled, then gives the lease back if this process has it.
pub(crate) struct Candidate {
    election: Election,
    client: LeaseClient,
    clock: Clock,
    /// Where this process's link listens, as the lease says it to gateways.
    address: String,
    seen_address: Option<Arc<str>>,
    /// Why the lease cannot be read or written, and when that was last so.
    said: Option<(Timestamp, String)>,
    publish: watch::Sender<Office>,
}

impl Candidate {
    /// A candidate and where its office can be looked at.
    pub(crate) fn new(
        settings: ElectionSettings,
        client: LeaseClient,
        clock: Clock,
        address: String,
    ) -> Result<(Self, watch::Receiver<Office>)> {
        let election = Election::new(settings).context("`lease` in the configuration")?;
        let (publish, office) = watch::channel(Office::default());
        Ok((Self { election, client, clock, address, seen_address: None, said: None, publish }, office))
    }

    /// Runs until `cancel`.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        loop {
            self.tell();
            let now = self.clock.now();
            let step = self.election.next(now);
            let done = async {
                match step {
                    ElectionStep::Wait(until) => {
                        self.clock.sleep_until(until).await;
                    }
                    ElectionStep::Read => {
                        let deadline = self.clock.instant_of(self.election.give_up_at(now));
                        let read = timely(deadline, self.client.read()).await;
                        self.heard(read);
                    }
                    ElectionStep::Write(record) => {
                        let deadline = self.clock.instant_of(self.election.give_up_at(now));
                        let write = self.client.write(&record, Some(&self.address), deadline).await;
                        self.wrote(now, write);
                    }
                }
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                () = done => {}
            }
        }
        self.leave().await;
    }

    fn heard(&mut self, read: Result<Option<LeaseSeen>, String>) {
        let now = self.clock.now();
        match read {
            Ok(seen) => {
                self.seen_address = seen.as_ref().and_then(|seen| seen.writer_address.clone());
                self.election.observe(now, seen.map(|seen| seen.record));
            }
            Err(error) => self.election.read_failed(now, error),
        }
    }

    fn wrote(&mut self, started: Timestamp, write: Result<LeaseSeen, ClusterError>) {
        let now = self.clock.now();
        match write {
            Ok(seen) => {
                self.seen_address = seen.writer_address.clone();
                self.election.wrote(started, now, Ok(seen.record));
            }
            Err(error) => self.election.wrote(started, now, Err(error.to_string())),
        }
    }

    /// Publishes what holds now; a term that has run out is over without any event.
    fn tell(&mut self) {
        let now = self.clock.now();
        self.say_error(now);
        let office = Office {
            term: self.election.writer_term(now),
            until: self.election.write_deadline(),
            writer_address: self.seen_address.clone(),
            holder: self.election.holder().map(str::to_owned),
            error: self.said.as_ref().map(|(_, error)| error.clone()),
        };
        self.publish.send_if_modified(|before| {
            let is_new = *before != office;
            *before = office;
            is_new
        });
    }

    /// Says once why the lease cannot be read or written: without one nobody decides, and no status can say it. Where only one of the two
    /// fails, they alternate: it is over when neither has failed for a while.
    fn say_error(&mut self, now: Timestamp) {
        if let Some(error) = self.election.last_error() {
            if self.said.as_ref().is_none_or(|(_, said)| said != error) {
                tracing::warn!(error, "the lease cannot be read or written; without it nothing is decided");
            }
            self.said = Some((now, error.to_owned()));
        } else if self.said.take_if(|(at, _)| now.since(*at) >= MENDED).is_some() {
            tracing::info!("the lease can be read and written again");
        }
    }

    /// Gives the lease back, so that another takes over at once.
    async fn leave(mut self) {
        let now = self.clock.now();
        let Some(record) = self.election.release(now) else { return };
        self.tell();
        let deadline = self.clock.instant_of(self.election.give_up_at(now));
        if let Err(error) = self.client.write(&record, None, deadline).await {
            tracing::warn!(%error, "the lease could not be given back; another process takes over when it runs out");
        }
    }
}

async fn timely<T>(
    deadline: tokio::time::Instant,
    request: impl Future<Output = Result<T, ClusterError>>,
) -> Result<T, String> {
    match tokio::time::timeout_at(deadline, request).await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err("the API server did not answer in time".to_owned()),
    }
}
