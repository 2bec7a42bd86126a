//! The handle: wishes in, snapshots out.

use crate::event::ProcessEvent;
use crate::spec::{self, PoolSpec, Settings, SpecError};
use crate::supervisor::Supervisor;
use loadline_base::{PoolId, ReplicaId, Timestamp};
use loadline_net::Clock;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

/// Where the supervisor is started.
#[derive(Debug, Clone, Copy)]
pub struct ProcessPools;

/// How far a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaStage {
    /// Not ready yet.
    Starting,
    /// Its last probes succeeded.
    Ready,
    /// It was ready, and is not now.
    NotReady,
    /// It was asked to end.
    Stopping,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaSnapshot {
    /// Its name.
    pub id: ReplicaId,
    /// Its pool.
    pub pool: PoolId,
    /// Its slot.
    pub slot: u32,
    /// Where it listens.
    pub address: SocketAddr,
    /// How far it is.
    pub stage: ReplicaStage,
    /// When it was started.
    pub created_at: Timestamp,
    /// The process id of its keeper.
    pub keeper: u32,
}

/// Every process, and what is still to be started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// In pool and slot order.
    pub replicas: Vec<ReplicaSnapshot>,
    /// Per pool, replicas that are wished for and wait for their back-off or for a slot; zeros are left out.
    pub waiting: BTreeMap<PoolId, u32>,
    /// Whether the supervisor has ended.
    pub ended: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    pub(crate) count: u32,
    pub(crate) remove_first: Vec<ReplicaId>,
}

#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) specs: BTreeMap<PoolId, Arc<PoolSpec>>,
    pub(crate) pools: BTreeMap<PoolId, Wish>,
    pub(crate) shutdown: Option<Timestamp>,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    wishes: Mutex<Wishes>,
    pub(crate) changed: Notify,
}

impl Shared {
    pub(crate) fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives wishes to the supervisor; clones give them to the same one. When the last clone is dropped all replicas are
/// terminated.
#[derive(Debug, Clone)]
pub struct ProcessHandle {
    shared: Arc<Shared>,
    settings: Arc<Settings>,
    clock: Clock,
    seen: watch::Receiver<Arc<Snapshot>>,
    _alive: mpsc::Sender<()>,
}

impl ProcessPools {
    /// Starts the supervisor on the current runtime, and makes this process subreaper of its replicas.
    ///
    /// # Errors
    /// If the system does not let this process be a subreaper.
    pub fn start(
        settings: Settings,
        clock: Clock,
        events: mpsc::Sender<ProcessEvent>,
    ) -> std::io::Result<ProcessHandle> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let (settings, shared) = (Arc::new(settings), Arc::new(Shared::default()));
        let (publish, seen) = watch::channel(Arc::default());
        let (alive, gone) = mpsc::channel(1);
        let supervisor = Supervisor::new(Arc::clone(&settings), clock.clone(), Arc::clone(&shared), publish);
        tokio::spawn(supervisor.run(events, gone));
        Ok(ProcessHandle { shared, settings, clock, seen, _alive: alive })
    }
}

impl ProcessHandle {
    /// Sets all pools. Pools no longer named are ended; a changed specification counts for replicas started from now on
    /// and ends a back-off.
    ///
    /// # Errors
    /// A [`SpecError`]; then nothing changes.
    pub fn configure(&self, pools: Vec<PoolSpec>) -> Result<(), SpecError> {
        spec::check(&pools, &self.settings.limits)?;
        let mut wishes = self.shared.wishes();
        let old = std::mem::take(&mut wishes.specs);
        wishes.specs = pools
            .into_iter()
            .map(|spec| {
                let kept = old.get(&spec.pool).filter(|known| ***known == spec).cloned();
                (spec.pool.clone(), kept.unwrap_or_else(|| Arc::new(spec)))
            })
            .collect();
        let wishes = &mut *wishes;
        wishes.pools.retain(|pool, _| wishes.specs.contains_key(pool));
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Sets how many replicas a pool has, none of `remove_first` among them; never waits. Those named go in any case: an
    /// order that named them may have been overtaken by one with a greater count. Where more must go, those waiting to be
    /// started again go first, then starting ones, then the newest. Capped by the limit per pool; a pool that is
    /// not configured has none.
    pub fn set_replicas(&self, pool: &PoolId, count: u32, mut remove_first: Vec<ReplicaId>) {
        let limit = self.settings.limits.max_replicas_per_pool;
        remove_first.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let mut wishes = self.shared.wishes();
        if wishes.specs.contains_key(pool) {
            wishes.pools.insert(pool.clone(), Wish { count: count.min(limit), remove_first });
            self.shared.changed.notify_one();
        }
    }

    /// What runs now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.seen.borrow())
    }

    /// Terminates all replicas, kills those left after `within` of model time, and returns when all are gone.
    pub async fn shutdown(&self, within: Duration) {
        self.shared.wishes().shutdown = Some(self.clock.now().plus(within));
        self.shared.changed.notify_one();
        // an error means that the supervisor is gone, which is what was asked for
        let _ = self.seen.clone().wait_for(|snapshot| snapshot.ended).await;
    }
}
