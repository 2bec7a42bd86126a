//! What all connections of a gateway share.

use crate::metrics::Metrics;
use crate::model::Model;
use crate::reports::Reporter;
use crate::settings::GatewaySettings;
use loadline_base::{ModelId, Timestamp};
use loadline_net::Clock;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::{Notify, Semaphore};

/// The configured models.
pub(crate) type ModelTable = BTreeMap<ModelId, Arc<Model>>;

/// Bytes that one permit of the held-bytes semaphore stands for.
pub(crate) const PERMIT_BYTES: u64 = 1024;

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) settings: GatewaySettings,
    pub(crate) clock: Clock,
    pub(crate) reporter: Reporter,
    pub(crate) metrics: Metrics,
    pub(crate) room: Arc<Semaphore>,
    pub(crate) room_total: u32,
    /// Shutdown has begun.
    pub(crate) draining: AtomicBool,
    /// Every stream must end now.
    pub(crate) aborting: AtomicBool,
    models: RwLock<Arc<ModelTable>>,
    version: AtomicU64,
    ids: AtomicU64,
    timer: Notify,
    timer_target: AtomicI64,
}

impl Shared {
    pub(crate) fn new(settings: GatewaySettings, clock: Clock, reporter: Reporter) -> Self {
        let room_total = u32::try_from(settings.held_bytes / PERMIT_BYTES).unwrap_or(u32::MAX).max(1);
        let permits = usize::try_from(room_total).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self {
            reporter,
            metrics: Metrics::default(),
            room: Arc::new(Semaphore::new(permits)),
            room_total,
            draining: AtomicBool::new(false),
            aborting: AtomicBool::new(false),
            models: RwLock::new(Arc::new(ModelTable::new())),
            version: AtomicU64::new(1),
            ids: AtomicU64::new(0),
            timer: Notify::new(),
            timer_target: AtomicI64::new(i64::MIN),
            settings,
            clock,
        }
    }

    /// The models as configured now.
    pub(crate) fn models(&self) -> Arc<ModelTable> {
        Arc::clone(&self.models.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Grows with each change of the models.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn replace_models(&self, table: ModelTable) {
        *self.models.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        self.version.fetch_add(1, Ordering::AcqRel);
        self.timer.notify_one();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// A model must be ticked at `nanos`, which is earlier than before.
    pub(crate) fn timer_earlier(&self, nanos: i64) {
        if nanos < self.timer_target.load(Ordering::Acquire) {
            self.timer.notify_one();
        }
    }

    /// Ticks models when they are due; runs as long as the gateway.
    pub(crate) async fn run_timer(self: Arc<Self>) {
        loop {
            let models = self.models();
            let next = models.values().map(|model| model.armed()).min().unwrap_or(Timestamp::MAX);
            self.timer_target.store(next.as_nanos(), Ordering::Release);
            // A deadline set between the reading and the storing is seen here.
            let again = models.values().map(|model| model.armed()).min().unwrap_or(Timestamp::MAX);
            let next = next.min(again);
            if next > self.clock.now() {
                tokio::select! {
                    () = self.clock.sleep_until(next) => {}
                    () = self.timer.notified() => {}
                }
            } else {
                tokio::task::yield_now().await;
            }
            let now = self.clock.now();
            for model in models.values().filter(|model| model.armed() <= now) {
                model.tick(&self);
            }
            self.reporter.flush();
        }
    }
}
