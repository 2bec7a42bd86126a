//! The gateways that are connected, and what has to outlive their connections.

use crate::outbox::{Outbox, model_of_order};
use loadline_base::{GatewayId, ModelId, Timestamp};
use loadline_hold::protocol::GatewayOrder;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// A gateway whose connection lives.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) outbox: Outbox<GatewayOrder>,
    pub(crate) models: Mutex<BTreeSet<ModelId>>,
    /// Ends the connection.
    pub(crate) stop: CancellationToken,
    /// The connection has ended, and that was told.
    pub(crate) ended: CancellationToken,
}

impl Connected {
    pub(crate) fn models(&self) -> MutexGuard<'_, BTreeSet<ModelId>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an order if the gateway serves its model. A gateway that takes nothing is disconnected, so that it starts anew.
    fn order(&self, order: GatewayOrder) -> bool {
        if !self.models().contains(model_of_order(&order)) {
            return false;
        }
        let fits = self.outbox.push(order);
        if !fits {
            self.stop.cancel();
        }
        fits
    }
}

/// All gateways.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    connected: Mutex<BTreeMap<GatewayId, Arc<Connected>>>,
    /// The latest time each gateway has reported from; kept over reconnects, the oldest are dropped.
    last: Mutex<BTreeMap<GatewayId, Timestamp>>,
}

impl Registry {
    fn connected(&self) -> MutexGuard<'_, BTreeMap<GatewayId, Arc<Connected>>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a gateway. An older connection of the same one is ended first, and its end told.
    pub(crate) async fn enter(&self, gateway: &GatewayId, models: BTreeSet<ModelId>, most: usize) -> Arc<Connected> {
        let entry = Arc::new(Connected {
            outbox: Outbox::new(most),
            models: Mutex::new(models),
            stop: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        loop {
            let older = {
                let mut connected = self.connected();
                match connected.get(gateway) {
                    Some(older) => Arc::clone(older),
                    None => {
                        connected.insert(gateway.clone(), Arc::clone(&entry));
                        return entry;
                    }
                }
            };
            older.stop.cancel();
            older.ended.cancelled().await;
        }
    }

    /// Its connection has ended.
    pub(crate) fn leave(&self, gateway: &GatewayId, entry: &Arc<Connected>) {
        let mut connected = self.connected();
        if connected.get(gateway).is_some_and(|present| Arc::ptr_eq(present, entry)) {
            connected.remove(gateway);
        }
    }

    pub(crate) fn order(&self, gateway: &GatewayId, order: GatewayOrder) -> bool {
        self.connected().get(gateway).cloned().is_some_and(|entry| entry.order(order))
    }

    pub(crate) fn order_all(&self, order: &GatewayOrder) -> usize {
        self.connected().values().filter(|entry| entry.order(order.clone())).count()
    }

    pub(crate) fn list(&self) -> Vec<(GatewayId, Vec<ModelId>)> {
        self.connected().iter().map(|(id, entry)| (id.clone(), entry.models().iter().cloned().collect())).collect()
    }

    /// `at`, or just after the last time of this gateway if that is later.
    pub(crate) fn forwards(&self, gateway: &GatewayId, at: Timestamp, most: usize) -> Timestamp {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let at = last.get(gateway).map_or(at, |last| at.max(Timestamp::from_nanos(last.as_nanos().saturating_add(1))));
        last.insert(gateway.clone(), at);
        if last.len() > most
            && let Some(oldest) = last.iter().min_by_key(|(_, at)| **at).map(|(id, _)| id.clone())
        {
            last.remove(&oldest);
        }
        at
    }
}
