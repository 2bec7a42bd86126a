//! The one task that owns all slots: it compares wishes with what runs, and starts and ends processes.

use crate::event::{ExitReason, ProcessEvent};
use crate::launch::{self, StartError};
use crate::pools::{ReplicaSnapshot, ReplicaStage, Shared, Snapshot, Wish};
use crate::replica::{Notice, Watch};
use crate::spec::{PoolSpec, Settings};
use loadline_base::{PoolId, ReplicaId, Timestamp};
use loadline_net::Clock;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Notices on their way from watches; a watch waits when it is full.
const NOTICE_QUEUE: usize = 1024;

struct Running {
    seen: ReplicaSnapshot,
    stop: CancellationToken,
    kill: CancellationToken,
}

/// One place for a replica. An empty slot that waits has a time to start at.
#[derive(Default)]
struct Slot {
    running: Option<Running>,
    start_at: Timestamp,
    failures: u32,
    port_losses: u32,
}

#[derive(Default)]
struct Pool {
    spec: Option<Arc<PoolSpec>>,
    slots: BTreeMap<u32, Slot>,
    started: u64,
}

pub(crate) struct Supervisor {
    settings: Arc<Settings>,
    clock: Clock,
    shared: Arc<Shared>,
    publish: watch::Sender<Arc<Snapshot>>,
    pools: BTreeMap<PoolId, Pool>,
    outbox: VecDeque<ProcessEvent>,
    notify: mpsc::Sender<(ReplicaId, Notice)>,
    notices: mpsc::Receiver<(ReplicaId, Notice)>,
    wake_at: Option<Timestamp>,
}

impl Supervisor {
    pub(crate) fn new(
        settings: Arc<Settings>,
        clock: Clock,
        shared: Arc<Shared>,
        publish: watch::Sender<Arc<Snapshot>>,
    ) -> Self {
        let (pools, outbox) = (BTreeMap::new(), VecDeque::new());
        let (notify, notices) = mpsc::channel(NOTICE_QUEUE);
        Self { settings, notify, clock, shared, publish, pools, outbox, notices, wake_at: None }
    }

    pub(crate) async fn run(mut self, events: mpsc::Sender<ProcessEvent>, mut gone: mpsc::Receiver<()>) {
        let (clock, shared) = (self.clock.clone(), Arc::clone(&self.shared));
        let mut abandoned = false;
        loop {
            let ended = self.reconcile(abandoned);
            self.snapshot(ended && self.outbox.is_empty());
            if ended && (self.outbox.is_empty() || abandoned) {
                return;
            }
            let wake_at = self.wake_at.unwrap_or(Timestamp::MAX);
            tokio::select! {
                biased;
                () = shared.changed.notified() => {}
                Some((replica, notice)) = self.notices.recv() => self.on_notice(&replica, notice),
                permit = events.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(event) = self.outbox.pop_front() {
                            permit.send(event);
                        }
                    }
                    Err(_) => self.outbox.clear(),
                },
                _ = gone.recv(), if !abandoned => abandoned = true,
                () = clock.sleep_until(wake_at), if self.wake_at.is_some() => {}
            }
        }
    }

    fn emit(&mut self, event: ProcessEvent) {
        if self.outbox.len() >= self.settings.limits.pending_events {
            tracing::warn!("process events are not read fast enough; dropping the oldest");
            self.outbox.pop_front();
        }
        self.outbox.push_back(event);
    }

    /// Makes one step from what runs to what is wished; returns whether all is ended for good.
    fn reconcile(&mut self, abandoned: bool) -> bool {
        let now = self.clock.now();
        let (specs, mut wishes, shutdown) = {
            let wishes = self.shared.wishes();
            (wishes.specs.clone(), wishes.pools.clone(), wishes.shutdown)
        };
        let ending = abandoned || shutdown.is_some();
        if ending {
            wishes.clear();
        }
        self.wake_at = shutdown.filter(|at| *at > now);
        for (id, spec) in &specs {
            let pool = self.pools.entry(id.clone()).or_default();
            if pool.spec.as_ref().is_some_and(|old| !Arc::ptr_eq(old, spec)) {
                // a corrected command is tried at once
                for slot in pool.slots.values_mut() {
                    (slot.start_at, slot.failures) = (now, 0);
                }
            }
            pool.spec = Some(Arc::clone(spec));
        }
        for (id, pool) in &mut self.pools {
            if !specs.contains_key(id) {
                pool.spec = None;
            }
        }
        let ids: Vec<PoolId> = self.pools.keys().cloned().collect();
        for id in ids {
            let wish = wishes.remove(&id).unwrap_or_default();
            self.settle(&id, &wish, now);
        }
        self.pools.retain(|_, pool| pool.spec.is_some() || pool.slots.values().any(|slot| slot.running.is_some()));
        let running =
            || self.pools.values().flat_map(|pool| pool.slots.values()).filter_map(|slot| slot.running.as_ref());
        if shutdown.is_some_and(|at| at <= now) {
            running().for_each(|running| running.kill.cancel());
        }
        ending && running().next().is_none()
    }

    fn settle(&mut self, id: &PoolId, wish: &Wish, now: Timestamp) {
        let limits = self.settings.limits;
        let Some(pool) = self.pools.get_mut(id) else { return };
        let is_ending = |slot: &Slot| slot.running.as_ref().is_some_and(|r| r.seen.stage == ReplicaStage::Stopping);
        let mut active: Vec<u32> = pool.slots.iter().filter(|(_, s)| !is_ending(s)).map(|(i, _)| *i).collect();
        let wished = usize::try_from(wish.count).unwrap_or(usize::MAX);
        // those named serve nothing any more, so they go even where the count has gone up again since
        active.retain(|index| {
            let running = pool.slots.get_mut(index).and_then(|slot| slot.running.as_mut());
            match running.filter(|running| wish.remove_first.contains(&running.seen.id)) {
                Some(running) => {
                    running.seen.stage = ReplicaStage::Stopping;
                    running.stop.cancel();
                    false
                }
                None => true,
            }
        });
        if active.len() > wished {
            active.sort_by_key(|index| removal_order(pool.slots.get(index)));
            for index in active.iter().take(active.len() - wished) {
                match pool.slots.get_mut(index).and_then(|slot| slot.running.as_mut()) {
                    Some(running) => {
                        running.seen.stage = ReplicaStage::Stopping;
                        running.stop.cancel();
                    }
                    None => drop(pool.slots.remove(index)),
                }
            }
        }
        let places = match pool.spec.as_ref().map(|spec| spec.devices.len()) {
            Some(devices) if devices > 0 => u32::try_from(devices).unwrap_or(u32::MAX),
            _ => limits.max_replicas_per_pool.saturating_mul(2),
        };
        let mut missing = wished.saturating_sub(active.len());
        for index in 0..places {
            if missing == 0 {
                break;
            }
            if let Entry::Vacant(free) = pool.slots.entry(index) {
                free.insert(Slot { start_at: now, ..Slot::default() });
                missing -= 1;
            }
        }
        let empty = pool.slots.iter().filter(|(_, slot)| slot.running.is_none());
        let (due, later): (Vec<_>, Vec<_>) =
            empty.map(|(index, slot)| (*index, slot.start_at)).partition(|(_, at)| *at <= now);
        for (index, _) in due {
            self.start(id, index, now);
        }
        for (_, at) in later {
            self.wake_by(at);
        }
    }

    fn wake_by(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }

    fn start(&mut self, id: &PoolId, index: u32, now: Timestamp) {
        let Some((spec, number)) = self.pools.get_mut(id).and_then(|pool| {
            pool.started += 1;
            Some((pool.spec.clone()?, pool.started))
        }) else {
            return;
        };
        match self.launch(&spec, number, index, now) {
            Ok(running) => {
                let seen = running.seen.clone();
                if let Some(slot) = self.pools.get_mut(id).and_then(|pool| pool.slots.get_mut(&index)) {
                    slot.running = Some(running);
                }
                self.emit(ProcessEvent::Started {
                    replica: seen.id,
                    pool: seen.pool,
                    address: seen.address,
                    created_at: seen.created_at,
                    keeper: seen.keeper,
                });
            }
            Err(error) => {
                let Some(slot) = self.pools.get_mut(id).and_then(|pool| pool.slots.get_mut(&index)) else { return };
                slot.failures = slot.failures.saturating_add(1);
                let retry_in = spec.restart.wait(slot.failures);
                slot.start_at = now.plus(retry_in);
                let at = slot.start_at;
                self.wake_by(at);
                self.emit(ProcessEvent::CannotStart { pool: id.clone(), error, retry_in });
            }
        }
    }

    fn launch(&self, spec: &Arc<PoolSpec>, number: u64, slot: u32, now: Timestamp) -> Result<Running, StartError> {
        let id = ReplicaId::new(format!("{}-{number}", spec.pool));
        let mut address = launch::free_address()?;
        let in_use = |port| {
            let slots = self.pools.values().flat_map(|pool| pool.slots.values());
            slots.filter_map(|slot| slot.running.as_ref()).any(|running| running.seen.address.port() == port)
        };
        for _ in 0..self.settings.limits.port_attempts {
            // a starting replica of ours may not listen on its port yet
            if in_use(address.port()) {
                address = launch::free_address()?;
            }
        }
        let token = format!("{id}.{}.{}", std::process::id(), now.as_nanos());
        let grace = self.clock.to_wall(spec.termination_grace);
        let child = launch::spawn(&self.settings.keeper, spec, (address.port(), slot), grace, &token)?;
        let seen = ReplicaSnapshot {
            id: id.clone(),
            pool: spec.pool.clone(),
            slot,
            address,
            stage: ReplicaStage::Starting,
            created_at: now,
            keeper: child.id().unwrap_or(0),
        };
        let running = Running { seen, stop: CancellationToken::new(), kill: CancellationToken::new() };
        let watch = Watch {
            id,
            spec: Arc::clone(spec),
            limits: self.settings.limits,
            clock: self.clock.clone(),
            address,
            token,
            notices: self.notify.clone(),
            stop: running.stop.clone(),
            kill: running.kill.clone(),
        };
        tokio::spawn(watch.run(child));
        Ok(running)
    }

    fn on_notice(&mut self, replica: &ReplicaId, notice: Notice) {
        let now = self.clock.now();
        let Some((pool_id, index)) = self.find(replica) else { return };
        let Some(pool) = self.pools.get_mut(&pool_id) else { return };
        let spec = pool.spec.clone();
        let Some(slot) = pool.slots.get_mut(&index) else { return };
        let Some(running) = slot.running.as_mut() else { return };
        let stopping = running.seen.stage == ReplicaStage::Stopping;
        let replica = replica.clone();
        let event = match notice {
            Notice::Ready | Notice::NotReady { .. } | Notice::StartTimedOut { .. } if stopping => return,
            Notice::Ready => {
                running.seen.stage = ReplicaStage::Ready;
                ProcessEvent::Ready { replica, at: now }
            }
            Notice::NotReady { why } => {
                running.seen.stage = ReplicaStage::NotReady;
                ProcessEvent::NotReady { replica, why }
            }
            Notice::StartTimedOut { why, last_lines } => {
                let limit = spec.map(|spec| spec.startup_timeout).unwrap_or_default();
                ProcessEvent::StartTimedOut { replica, limit, why, last_lines }
            }
            Notice::Ended { .. } if stopping => {
                pool.slots.remove(&index);
                ProcessEvent::Stopped { replica }
            }
            Notice::Ended { reason, last_lines } => {
                let created_at = running.seen.created_at;
                slot.running = None;
                let retries_port =
                    matches!(reason, ExitReason::PortTaken(_)) && slot.port_losses < self.settings.limits.port_attempts;
                slot.port_losses = if retries_port { slot.port_losses + 1 } else { 0 };
                let backoff = spec.map(|spec| spec.restart).unwrap_or_default();
                if !retries_port {
                    slot.failures = backoff.count(slot.failures, created_at, now);
                }
                let restart_in = if retries_port { std::time::Duration::ZERO } else { backoff.wait(slot.failures) };
                slot.start_at = now.plus(restart_in);
                ProcessEvent::Exited { replica, reason, last_lines, restart_in }
            }
        };
        self.emit(event);
    }

    fn find(&self, replica: &ReplicaId) -> Option<(PoolId, u32)> {
        self.pools.iter().find_map(|(id, pool)| {
            let mut slots = pool.slots.iter();
            slots
                .find(|(_, slot)| slot.running.as_ref().is_some_and(|r| r.seen.id == *replica))
                .map(|(index, _)| (id.clone(), *index))
        })
    }

    fn snapshot(&self, ended: bool) {
        let mut snapshot = Snapshot { ended, ..Snapshot::default() };
        let wishes = self.shared.wishes();
        for (id, pool) in &self.pools {
            snapshot.replicas.extend(pool.slots.values().filter_map(|slot| Some(slot.running.as_ref()?.seen.clone())));
            let is_active =
                |slot: &&Slot| slot.running.as_ref().is_some_and(|r| r.seen.stage != ReplicaStage::Stopping);
            let active = u32::try_from(pool.slots.values().filter(is_active).count()).unwrap_or(u32::MAX);
            let waiting = wishes.pools.get(id).map_or(0, |wish| wish.count.saturating_sub(active));
            if waiting > 0 {
                snapshot.waiting.insert(id.clone(), waiting);
            }
        }
        drop(wishes);
        self.publish.send_if_modified(|old| {
            let changed = **old != snapshot;
            if changed {
                *old = Arc::new(snapshot);
            }
            changed
        });
    }
}

/// The key by which slots are given up: empty ones first, then starting ones, then the newest.
fn removal_order(slot: Option<&Slot>) -> (u8, std::cmp::Reverse<Timestamp>) {
    let Some(running) = slot.and_then(|slot| slot.running.as_ref()) else {
        return (0, std::cmp::Reverse(Timestamp::MAX));
    };
    let stage = if running.seen.stage == ReplicaStage::Starting { 1 } else { 2 };
    (stage, std::cmp::Reverse(running.seen.created_at))
}
