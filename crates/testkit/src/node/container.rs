//! One container's life: pull, start, probes, restarts with back-off, and its end.

use super::context::{self, Context};
use super::env::{self, Downward, Objects};
use super::faults::{Failure, Handle, lock};
use super::probe::{Aim, Count, Pace};
use super::process::{Launch, signal_group};
use super::status::{Ended, State};
use super::volumes;
use anyhow::Result;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Probe};
use k8s_openapi::jiff::Timestamp;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Before what cannot start is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// What a process gets after a preStop hook that took the whole grace period.
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// A container that ran this long starts over with the shortest back-off.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// When a container starts again after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restart {
    Always,
    OnFailure,
    Never,
}

impl Restart {
    pub(super) fn of(text: Option<&str>) -> Self {
        match text {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    fn again(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

/// What a pod's containers share.
pub(super) struct Room {
    pub(super) context: Arc<Context>,
    pub(super) handle: Arc<Handle>,
    pub(super) files: PathBuf,
    pub(super) scratch: PathBuf,
    pub(super) logs: PathBuf,
    pub(super) places: BTreeMap<String, PathBuf>,
    pub(super) sandbox: Option<u32>,
    pub(super) pod_ip: Ipv4Addr,
    /// Cancelled when the pod is to end; `grace` then says how long it may take.
    pub(super) stop: CancellationToken,
    pub(super) grace: watch::Receiver<Duration>,
}

/// One container to be run until it ends for good.
pub(super) struct Run {
    pub(super) room: Arc<Room>,
    pub(super) container: Container,
    pub(super) restart: Restart,
    /// Of the pod, or for sidecars their own.
    pub(super) stop: CancellationToken,
}

enum Event {
    Exited(std::io::Result<ExitStatus>),
    Unhealthy { grace: Option<Duration> },
    Stopped,
    Crash,
}

impl Run {
    fn image(&self) -> &str {
        self.container.image.as_deref().unwrap_or_default()
    }

    fn fails(&self, failure: Failure) -> bool {
        self.room.context.faults.fails(&self.room.handle.pod(), self.image(), failure)
    }

    fn set(&self, state: State) {
        self.room.handle.change(|record| {
            if let Some(unit) = record.unit(&self.container.name) {
                unit.is_ready = false;
                unit.is_started = false;
                unit.state = state;
            }
        });
    }

    fn wait(&self, reason: &'static str, message: String) {
        self.set(State::Waiting { reason, message });
    }

    /// Runs the container until it ends for good or the pod is stopped.
    pub(super) async fn last(self) -> i32 {
        let mut back_off = Duration::ZERO;
        loop {
            if self.stop.is_cancelled() {
                return self.never_ran();
            }
            tokio::select! {
                () = self.pull() => {}
                () = self.stop.cancelled() => return self.never_ran(),
            }
            let started = Timestamp::now();
            let clock = Instant::now();
            let (child, aim) = match self.start().await {
                Ok(started) => started,
                Err(error) => {
                    self.wait("CreateContainerConfigError", format!("{error:#}"));
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => {}
                        () = self.stop.cancelled() => {}
                    }
                    continue;
                }
            };
            let status = self.supervise(child, &aim).await;
            lock(&self.room.handle.pids).remove(&self.container.name);
            self.room.context.faults.present(&self.room.handle.node).await;
            let code = status.as_ref().map_or(137, exit_code);
            let ended = Ended {
                code,
                reason: if code == 0 { "Completed" } else { "Error" }.to_owned(),
                started,
                finished: Timestamp::now(),
            };
            self.set(State::Ended(ended.clone()));
            if self.stop.is_cancelled() || !self.restart.again(code) {
                return code;
            }
            back_off = self.rest(back_off, clock.elapsed(), &ended).await;
            if self.stop.is_cancelled() {
                self.set(State::Ended(ended));
                return code;
            }
            self.room.handle.change(|record| {
                if let Some(unit) = record.unit(&self.container.name) {
                    unit.restarts = unit.restarts.saturating_add(1);
                    unit.last = Some(ended);
                }
            });
        }
    }

    /// A container that is stopped before it ran has ended with 137, as kubelet says.
    fn never_ran(&self) -> i32 {
        let now = Timestamp::now();
        self.set(State::Ended(Ended {
            code: 137,
            reason: "ContainerStatusUnknown".to_owned(),
            started: now,
            finished: now,
        }));
        137
    }

    /// Waits out the back-off before a restart and gives the next one; the first restart is at once.
    async fn rest(&self, back_off: Duration, ran: Duration, ended: &Ended) -> Duration {
        let timings = &self.room.context.timings;
        let now = if ran >= FORGIVEN_AFTER { Duration::ZERO } else { back_off };
        if now > Duration::ZERO {
            let message = format!("back-off {now:?} restarting failed container={}", self.container.name);
            self.room.handle.change(|record| {
                if let Some(unit) = record.unit(&self.container.name) {
                    unit.last = Some(ended.clone());
                    unit.state = State::Waiting { reason: "CrashLoopBackOff", message };
                }
            });
            tokio::select! {
                () = tokio::time::sleep(now) => {}
                () = self.stop.cancelled() => {}
            }
        }
        if now.is_zero() { timings.back_off_first } else { now.saturating_mul(2).min(timings.back_off_most) }
    }

    /// Waits for the image as long as the faults say.
    async fn pull(&self) {
        let faults = &self.room.context.faults;
        faults.present(&self.room.handle.node).await;
        let begun = Instant::now();
        let mut changes = faults.changes();
        loop {
            if self.fails(Failure::PullError) {
                self.wait("ImagePullBackOff", format!("Back-off pulling image \"{}\"", self.image()));
                let _closed = changes.changed().await;
                continue;
            }
            let until = begun + faults.pull_delay(&self.room.handle.pod(), self.image());
            if Instant::now() >= until {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                _closed = changes.changed() => {}
            }
        }
    }

    async fn start(&self) -> Result<(Child, Aim)> {
        let room = &self.room;
        let pod = room.handle.pod();
        let spec = pod.spec.clone().unwrap_or_default();
        let objects =
            if uses_objects(&self.container) { room.context.objects(&pod).await? } else { Objects::default() };
        let downward = Downward {
            pod: (*pod).clone(),
            pod_ip: room.pod_ip.to_string(),
            host_ip: room.context.plan.bridge_address().to_string(),
        };
        let service = room.context.plan.kubernetes_service().to_string();
        let hostname = spec.hostname.as_deref().unwrap_or(&room.handle.key.1);
        let base = BTreeMap::from([
            ("HOME".to_owned(), "/root".to_owned()),
            ("HOSTNAME".to_owned(), hostname.to_owned()),
            ("KUBERNETES_SERVICE_HOST".to_owned(), service.clone()),
            ("KUBERNETES_SERVICE_PORT".to_owned(), "443".to_owned()),
            ("KUBERNETES_SERVICE_PORT_HTTPS".to_owned(), "443".to_owned()),
            ("KUBERNETES_PORT".to_owned(), format!("tcp://{service}:443")),
        ]);
        let env = env::environment(&self.container, base, &objects, &downward)?;
        let mut argv: Vec<String> = context::command(&room.context.images, &self.container)
            .iter()
            .map(|word| env::expand(word, &env))
            .collect();
        if self.fails(Failure::CrashLoop) {
            argv = ["/bin/sh", "-c", "echo 'this container was told to fail' >&2; exit 1"].map(str::to_owned).to_vec();
        }
        std::fs::create_dir_all(&room.logs)?;
        let scratch = room.scratch.join(&self.container.name);
        std::fs::create_dir_all(&scratch)?;
        let launch = Launch {
            sandbox: room.sandbox,
            files: &room.files,
            scratch: &scratch,
            loadline: room.context.loadline.as_deref(),
            hostname,
            argv,
            env: env.clone(),
            mounts: volumes::mounts(&self.container, &room.places)?,
            directory: self.container.working_dir.as_deref(),
            log: &room.logs.join(format!("{}.log", self.container.name)),
        };
        let child = launch.spawn()?;
        let pid = child.id().unwrap_or_default();
        lock(&room.handle.pids).insert(self.container.name.clone(), pid);
        let has = |probe: &Option<Probe>| probe.is_some();
        let is_started = !has(&self.container.startup_probe);
        let is_ready = is_started && !has(&self.container.readiness_probe) && !self.fails(Failure::NeverReady);
        self.room.handle.change(|record| {
            if let Some(unit) = record.unit(&self.container.name) {
                unit.state = State::Running { since: Timestamp::now() };
                unit.is_started = is_started;
                unit.is_ready = is_ready;
            }
        });
        Ok((child, Aim { pod_ip: IpAddr::V4(room.pod_ip), pid, env, container: self.container.clone() }))
    }

    /// Watches one run of the process until it is gone.
    async fn supervise(&self, mut child: Child, aim: &Aim) -> std::io::Result<ExitStatus> {
        let (unhealthy, mut verdicts) = mpsc::channel(1);
        let mut probes = JoinSet::new();
        probes.spawn(probing(Arc::clone(&self.room), aim.clone(), unhealthy));
        if let Some(hook) = self.container.lifecycle.as_ref().and_then(|all| all.post_start.clone()) {
            let aim = aim.clone();
            probes.spawn(async move { run_hook(&hook, &aim).await });
        }
        let mut changes = self.room.context.faults.changes();
        changes.mark_changed();
        let mut is_told_to_fail = self.fails(Failure::CrashLoop);
        let event = loop {
            tokio::select! {
                status = child.wait() => break Event::Exited(status),
                () = self.stop.cancelled() => break Event::Stopped,
                Some(grace) = verdicts.recv() => break Event::Unhealthy { grace },
                Ok(()) = changes.changed() => {
                    let fails = self.fails(Failure::CrashLoop);
                    if fails && !is_told_to_fail {
                        break Event::Crash;
                    }
                    is_told_to_fail = fails;
                }
            }
        };
        let status = match event {
            Event::Exited(status) => status,
            Event::Crash => {
                signal_group(aim.pid, Signal::SIGKILL);
                child.wait().await
            }
            Event::Unhealthy { grace } => {
                let spec_grace = *self.room.grace.borrow();
                self.end(&mut child, aim, grace.unwrap_or(spec_grace)).await
            }
            Event::Stopped => {
                let grace = *self.room.grace.borrow();
                self.end(&mut child, aim, grace).await
            }
        };
        // What the container's first process left behind goes with it.
        signal_group(aim.pid, Signal::SIGKILL);
        status
    }

    /// preStop, SIGTERM, the grace period, SIGKILL.
    async fn end(&self, child: &mut Child, aim: &Aim, grace: Duration) -> std::io::Result<ExitStatus> {
        let deadline = Instant::now() + grace;
        if let Some(hook) = self.container.lifecycle.as_ref().and_then(|all| all.pre_stop.as_ref())
            && !grace.is_zero()
        {
            tokio::select! {
                status = child.wait() => return status,
                () = run_hook(hook, aim) => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
        let stop_signal = Signal::SIGTERM;
        signal_group(aim.pid, stop_signal);
        let deadline = if grace.is_zero() { deadline } else { deadline.max(Instant::now() + LEAST_GRACE) };
        if let Ok(status) = tokio::time::timeout_at(deadline, child.wait()).await {
            return status;
        }
        signal_group(aim.pid, Signal::SIGKILL);
        child.wait().await
    }
}

fn uses_objects(container: &Container) -> bool {
    container.env_from.is_some() || container.env.iter().flatten().any(|one| one.value_from.is_some())
}

fn exit_code(status: &ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(9))
}

async fn run_hook(hook: &LifecycleHandler, aim: &Aim) {
    let outcome = if let Some(exec) = &hook.exec {
        aim.run(exec).await
    } else if let Some(get) = &hook.http_get {
        aim.get(get).await
    } else {
        let seconds = hook.sleep.as_ref().map_or(0, |sleep| sleep.seconds.max(0).unsigned_abs());
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Ok(())
    };
    if let Err(error) = outcome {
        tracing::debug!(container = aim.container.name, "a lifecycle hook failed: {error:#}");
    }
}

/// All probes of one run; ends with the first failed liveness or startup verdict, which it sends.
async fn probing(room: Arc<Room>, aim: Aim, unhealthy: mpsc::Sender<Option<Duration>>) {
    let container = aim.container.clone();
    if let Some(probe) = &container.startup_probe {
        let mut count = Count::new(Pace::of(probe));
        if !repeat(&room, &aim, probe, |is_success| count.take(is_success)).await {
            let _gone = unhealthy.send(own_grace(probe)).await;
            return;
        }
        let waits = container.readiness_probe.is_some();
        room.handle.change(|record| {
            if let Some(unit) = record.unit(&container.name) {
                unit.is_started = true;
                unit.is_ready = !waits;
            }
        });
    }
    let readiness = async {
        let Some(probe) = &container.readiness_probe else { return follow_never_ready(&room, &container).await };
        let mut count = Count::new(Pace::of(probe));
        repeat(&room, &aim, probe, |is_success| {
            let fails = room.context.faults.fails(
                &room.handle.pod(),
                container.image.as_deref().unwrap_or_default(),
                Failure::NeverReady,
            );
            if let Some(is_ready) = count.take(is_success && !fails) {
                set_ready(&room, &container, is_ready);
            }
            None
        })
        .await;
    };
    let liveness = async {
        let Some(probe) = &container.liveness_probe else { return std::future::pending().await };
        let mut count = Count::new(Pace::of(probe));
        repeat(&room, &aim, probe, |is_success| if count.take(is_success) == Some(false) { Some(false) } else { None })
            .await;
        let _gone = unhealthy.send(own_grace(probe)).await;
    };
    tokio::join!(readiness, liveness);
}

/// Without a readiness probe a container is ready unless it is told not to be.
async fn follow_never_ready(room: &Room, container: &Container) {
    let mut changes = room.context.faults.changes();
    loop {
        let image = container.image.as_deref().unwrap_or_default();
        set_ready(room, container, !room.context.faults.fails(&room.handle.pod(), image, Failure::NeverReady));
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn set_ready(room: &Room, container: &Container, is_ready: bool) {
    let is_known = lock(&room.handle.record).unit(&container.name).is_some_and(|unit| unit.is_ready == is_ready);
    if !is_known {
        room.handle.change(|record| {
            if let Some(unit) = record.unit(&container.name) {
                unit.is_ready = is_ready && matches!(unit.state, State::Running { .. });
            }
        });
    }
}

fn own_grace(probe: &Probe) -> Option<Duration> {
    probe.termination_grace_period_seconds.map(|seconds| Duration::from_secs(seconds.max(0).unsigned_abs()))
}

/// Asks at every period until `verdict` says so; a lost node does not ask.
async fn repeat(room: &Room, aim: &Aim, probe: &Probe, mut verdict: impl FnMut(bool) -> Option<bool>) -> bool {
    let pace = Pace::of(probe);
    tokio::time::sleep(pace.initial_delay).await;
    let mut ticks = tokio::time::interval(pace.period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        room.context.faults.present(&room.handle.node).await;
        let answer = aim.ask(probe).await;
        if let Err(error) = &answer {
            tracing::debug!(container = aim.container.name, "probe failed: {error:#}");
        }
        if room.context.faults.is_lost(&room.handle.node) {
            continue;
        }
        if let Some(verdict) = verdict(answer.is_ok()) {
            return verdict;
        }
    }
}
