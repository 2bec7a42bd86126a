//! The task that watches one replica from its start to its end.

use crate::event::ExitReason;
use crate::keeper;
use crate::listener;
use crate::logs::LogTail;
use crate::spec::{Limits, PoolSpec, Readiness};
use crate::sweep;
use loadline_base::ReplicaId;
use loadline_net::Clock;
use loadline_net::http::{Connector, FetchErrorKind, FetchLimits, Target, fetch};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::process::{Child, ChildStdin};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

/// The largest answer to a readiness probe that is read, in bytes.
const MAX_PROBE_BODY_BYTES: usize = 1024 * 1024;
/// How long output is still read after the end; a process that was not found by a sweep may hold it open.
const LOG_DRAIN: Duration = Duration::from_millis(200);

/// What a watch tells the supervisor.
#[derive(Debug)]
pub(crate) enum Notice {
    Ready,
    NotReady { why: String },
    StartTimedOut { why: String, last_lines: Vec<String> },
    Ended { reason: ExitReason, last_lines: Vec<String> },
}

/// What a probe found instead of a ready replica.
struct Unready {
    /// Nothing listens.
    closed: bool,
    why: String,
}

/// One replica to watch.
pub(crate) struct Watch {
    pub(crate) id: ReplicaId,
    pub(crate) spec: Arc<PoolSpec>,
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    pub(crate) notices: mpsc::Sender<(ReplicaId, Notice)>,
    /// Terminate it.
    pub(crate) stop: CancellationToken,
    /// Kill it.
    pub(crate) kill: CancellationToken,
}

impl Watch {
    async fn tell(&self, notice: Notice) {
        // the supervisor is gone only when nobody wants to know any more
        let _ = self.notices.send((self.id.clone(), notice)).await;
    }

    /// Watches until the process has ended and everything it started is gone.
    pub(crate) async fn run(self, mut child: Child) {
        let tail = LogTail::new(self.limits.log_lines, self.limits.log_line_bytes);
        let name = self.spec.forward_logs.then(|| self.id.clone());
        let mut readers = tokio::task::JoinSet::new();
        if let Some(output) = child.stdout.take() {
            readers.spawn(tail.clone().read(output, name.clone()));
        }
        if let Some(output) = child.stderr.take() {
            readers.spawn(tail.clone().read(output, name));
        }
        let keeper = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
        let mut pipe = child.stdin.take();
        let mut forced = None;
        let was_ready = AtomicBool::new(false);
        let status = tokio::select! {
            biased;
            status = child.wait() => status,
            reason = self.probe(keeper, &tail, &was_ready) => {
                forced = Some(reason);
                self.end(&mut child, &mut pipe).await
            }
            () = self.stop.cancelled() => self.end(&mut child, &mut pipe).await,
            () = self.kill.cancelled() => self.end(&mut child, &mut pipe).await,
        };
        drop(pipe);
        let seen = match status {
            Ok(status) => status.code().and_then(|code| u8::try_from(code).ok()).map_or_else(
                || {
                    debug_assert!(status.signal().is_some());
                    ExitReason::KeeperKilled
                },
                ExitReason::Code,
            ),
            Err(error) => ExitReason::Unwatchable(error.to_string()),
        };
        if !matches!(seen, ExitReason::Code(_)) {
            let token = self.token.clone();
            let _ = tokio::task::spawn_blocking(move || sweep::sweep(keeper, &token)).await;
        }
        let _ = tokio::time::timeout(LOG_DRAIN, async { while readers.join_next().await.is_some() {} }).await;
        let mut reason = forced.unwrap_or(seen);
        // it ended by itself before it could serve, and something else listens: it lost the race for the port
        let port = self.address.port();
        let was_asked = self.stop.is_cancelled() || self.kill.is_cancelled();
        if matches!(reason, ExitReason::Code(1..)) && !was_asked && !was_ready.load(Ordering::Relaxed) {
            let taken = tokio::net::TcpStream::connect(self.address);
            if matches!(tokio::time::timeout(self.limits.probe_timeout, taken).await, Ok(Ok(_))) {
                reason = ExitReason::PortTaken(port);
            }
        }
        self.tell(Notice::Ended { reason, last_lines: tail.lines() }).await;
    }

    /// Closes the pipe, or asks for the kill; in the end kills the keeper itself.
    async fn end(&self, child: &mut Child, pipe: &mut Option<ChildStdin>) -> std::io::Result<std::process::ExitStatus> {
        let grace = self.clock.to_wall(self.spec.termination_grace);
        let mut last = Instant::now() + grace + self.limits.keeper_margin;
        let mut killing = self.kill.is_cancelled();
        if killing {
            last = self.kill_now(pipe).await;
        } else if let Some(stdin) = pipe {
            // the pipe stays open for a later kill
            let _ = tokio::io::AsyncWriteExt::write_all(stdin, &[keeper::TERMINATE]).await;
        }
        loop {
            tokio::select! {
                biased;
                status = child.wait() => return status,
                () = self.kill.cancelled(), if !killing => {
                    killing = true;
                    last = self.kill_now(pipe).await;
                }
                () = sleep_until(last) => {
                    child.start_kill()?;
                    return child.wait().await;
                }
            }
        }
    }

    async fn kill_now(&self, pipe: &mut Option<ChildStdin>) -> Instant {
        if let Some(stdin) = pipe {
            let _ = tokio::io::AsyncWriteExt::write_all(stdin, &[keeper::KILL_NOW]).await;
        }
        Instant::now() + self.limits.keeper_margin
    }

    /// Probes for ever; returns only when the replica must be ended.
    async fn probe(&self, keeper: i32, tail: &LogTail, was_ready: &AtomicBool) -> ExitReason {
        let connector = Connector::new();
        let limit = self.spec.startup_timeout;
        let deadline = Instant::now() + self.clock.to_wall(limit).min(Duration::from_secs(86_400 * 365));
        let ticks = |period: Duration| {
            let mut ticks = interval(period.max(Duration::from_millis(1)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let mut why = "it was not probed yet".to_owned();
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = sleep_until(deadline) => {
                    self.tell(Notice::StartTimedOut { why, last_lines: tail.lines() }).await;
                    return ExitReason::StartTimedOut;
                }
                () = sleep_until(next) => {}
            }
            let began = Instant::now();
            match self.probe_once(&connector).await {
                Ok(()) => break,
                Err(unready) => {
                    next = began + if unready.closed { self.limits.connect_period } else { self.limits.probe_period };
                    why = unready.why;
                }
            }
        }
        let port = self.address.port();
        if tokio::task::spawn_blocking(move || listener::is_strangers(port, keeper)).await.unwrap_or(false) {
            return ExitReason::PortTaken(port);
        }
        was_ready.store(true, Ordering::Relaxed);
        self.tell(Notice::Ready).await;
        let (mut ready, mut failures) = (true, 0_u32);
        let mut tick = ticks(self.limits.ready_probe_period);
        tick.tick().await;
        loop {
            tick.tick().await;
            match (self.probe_once(&connector).await, ready) {
                (Ok(()), true) => failures = 0,
                (Ok(()), false) => {
                    (ready, failures) = (true, 0);
                    tick = ticks(self.limits.ready_probe_period);
                    tick.tick().await;
                    self.tell(Notice::Ready).await;
                }
                (Err(unready), true) => {
                    failures += 1;
                    if failures >= self.limits.not_ready_after {
                        ready = false;
                        tick = ticks(self.limits.probe_period);
                        self.tell(Notice::NotReady { why: unready.why }).await;
                    }
                }
                (Err(_), false) => {}
            }
        }
    }

    async fn probe_once(&self, connector: &Connector) -> Result<(), Unready> {
        let limit = self.limits.probe_timeout;
        let unready = |closed: bool, why: String| Unready { closed, why };
        match &self.spec.readiness {
            Readiness::Connect => match tokio::time::timeout(limit, tokio::net::TcpStream::connect(self.address)).await
            {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(unready(
                    error.kind() == std::io::ErrorKind::ConnectionRefused,
                    format!("{}: {error}", self.address),
                )),
                Err(_) => Err(unready(false, format!("{}: no connection within {limit:?}", self.address))),
            },
            Readiness::Http(path) => {
                let target = Target::plain(self.address, path);
                let limits =
                    FetchLimits { connect_timeout: limit, total_timeout: limit, max_body_bytes: MAX_PROBE_BODY_BYTES };
                match fetch(connector, &target, &http::HeaderMap::new(), &limits).await {
                    Ok(answer) if answer.status.is_success() => Ok(()),
                    Ok(answer) => Err(unready(false, format!("`{target}` answered {}", answer.status))),
                    Err(error) => Err(unready(error.kind == FetchErrorKind::Refused, error.to_string())),
                }
            }
        }
    }
}
