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
        let Some(subject) = subject(&report) else {
            // A level that finds the channel full or closed is said again or no longer wanted.
            let _ = self.channel.try_send(report);
            return;
        };
        // Locked while sending: an older answer about the same must not come after this one.
        let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        backlog.retain(|older| self::subject(older).as_ref() != Some(&subject));
        if let Err(TrySendError::Full(report)) = self.channel.try_send(report) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use loadline_base::{ModelId, ReplicaId};

    #[test]
    fn a_newer_answer_takes_the_place_of_one_that_was_kept() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let reporter = Reporter::new(GatewayId::from("g"), sender);
        let load = |in_flight| GatewayReport::ReplicaLoad {
            gateway: GatewayId::from("g"),
            model: ModelId::from("m"),
            replica: ReplicaId::from("r"),
            in_flight,
        };
        let wake = GatewayReport::Wake { gateway: GatewayId::from("g"), model: ModelId::from("m"), epoch: 1, held: 1 };
        reporter.send(wake.clone());
        reporter.send(load(1));
        assert_eq!(receiver.try_recv().ok(), Some(wake));
        reporter.send(load(0));
        assert_eq!(receiver.try_recv().ok(), Some(load(0)));
        reporter.flush();
        assert!(receiver.try_recv().is_err(), "the older load must not follow the newer one");
    }
}
