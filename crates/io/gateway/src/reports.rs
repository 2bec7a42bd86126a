//! The way from the gateway to the writer.

use loadline_base::GatewayId;
use loadline_hold::protocol::GatewayReport;
use std::sync::{Mutex, PoisonError};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

/// Sends reports without waiting.
///
/// While the channel is full, levels that will be said again anyway (demand, wake) are dropped, and answers (closed,
/// replica load) are kept: the latest per model and replica, so that the backlog is bounded by what exists.
pub(crate) struct Reporter {
    gateway: GatewayId,
    channel: Sender<GatewayReport>,
    backlog: Mutex<Vec<GatewayReport>>,
}

impl Reporter {
    pub(crate) const fn new(gateway: GatewayId, channel: Sender<GatewayReport>) -> Self {
        Self { gateway, channel, backlog: Mutex::new(Vec::new()) }
    }

    pub(crate) fn gateway(&self) -> GatewayId {
        self.gateway.clone()
    }

    pub(crate) fn send(&self, report: GatewayReport) {
        if let Err(TrySendError::Full(report)) = self.channel.try_send(report)
            && let Some(subject) = subject(&report)
        {
            let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
            backlog.retain(|older| self::subject(older) != Some(subject.clone()));
            backlog.push(report);
        }
    }

    /// Sends what was kept.
    pub(crate) fn flush(&self) {
        let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(report) = backlog.first().cloned() {
            if matches!(self.channel.try_send(report), Err(TrySendError::Full(_))) {
                break;
            }
            backlog.remove(0);
        }
    }
}

/// What an answer is about; none for a level that is said again.
fn subject(report: &GatewayReport) -> Option<(String, Option<String>)> {
    match report {
        GatewayReport::Closed { model, .. } => Some((model.to_string(), None)),
        GatewayReport::ReplicaLoad { model, replica, .. } => Some((model.to_string(), Some(replica.to_string()))),
        GatewayReport::Demand(_) | GatewayReport::Wake { .. } => None,
    }
}
