//! What gateways and the writer of replica counts say to each other (DESIGN section 8).
//!
//! In one process these values travel over a channel; between processes they will travel over a stream. All of them are
//! levels or carry an epoch, so that saying one twice does no harm.

use loadline_base::{GatewayId, ModelId, ReplicaId, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// From a gateway to the writer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub enum GatewayReport {
    /// Counts of one model; sent on every 0 -> 1 edge of `held + in_flight`, else at most ten times a second, and at
    /// least once a second while the gateway lives.
    Demand(Demand),
    /// Requests are held and no replica exists. Repeated after 1, 2, 5, 5, ... seconds until acknowledged.
    Wake {
        /// Who asks.
        gateway: GatewayId,
        /// For which model.
        model: ModelId,
        /// The epoch the gateway is in; a close of an older or equal epoch is thereby refused.
        epoch: u64,
        /// Requests held now.
        held: u32,
    },
    /// The answer to [`GatewayOrder::Close`].
    Closed {
        /// Who answers.
        gateway: GatewayId,
        /// For which model.
        model: ModelId,
        /// The epoch of the order.
        epoch: u64,
        /// True only if nothing was held or in flight; new arrivals then wait and ask for a wake.
        accepted: bool,
    },
    /// Requests in flight on a draining replica; sent at once when it reaches zero, and after every change of drain state.
    ReplicaLoad {
        /// Who reports.
        gateway: GatewayId,
        /// For which model.
        model: ModelId,
        /// Which replica.
        replica: ReplicaId,
        /// Requests this gateway has in flight there.
        in_flight: u32,
    },
}

/// Counts of one model at one gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Demand {
    /// Who counts.
    pub gateway: GatewayId,
    /// Which model.
    pub model: ModelId,
    /// Grows by one with each report of this gateway.
    pub sequence: u64,
    /// Requests held.
    pub held: u32,
    /// Requests given to replicas and not finished.
    pub in_flight: u32,
    /// The largest `held + in_flight` since the previous report.
    pub peak: u32,
    /// Requests accepted for reading since the gateway started.
    pub arrivals_total: u64,
    /// Since when held and in-flight have been zero and nothing has arrived, if that is so now.
    pub idle_since: Option<Timestamp>,
    /// When this was counted.
    pub at: Timestamp,
}

/// From the writer to a gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum GatewayOrder {
    /// A wake was heard.
    Ack {
        /// For which model.
        model: ModelId,
        /// The epoch of the wake.
        epoch: u64,
        /// How long until a replica is expected to serve, for `Retry-After` and comments.
        expected: Option<Duration>,
    },
    /// The writer wants to go to zero. Answered by [`GatewayReport::Closed`].
    Close {
        /// For which model.
        model: ModelId,
        /// Larger than any epoch used before.
        epoch: u64,
    },
    /// A replica can take requests; said again after a drain it undoes the drain.
    ReplicaUp {
        /// For which model.
        model: ModelId,
        /// Which replica.
        replica: ReplicaId,
        /// Where it listens: `host:port`.
        address: String,
        /// How many requests it may have in flight over all gateways.
        slots: u32,
    },
    /// Give it nothing new; let what it has finish. Answered by [`GatewayReport::ReplicaLoad`].
    Drain {
        /// For which model.
        model: ModelId,
        /// Which replica.
        replica: ReplicaId,
    },
    /// It is gone. What it had and has sent no byte for is held again; the rest ends with an error in its stream.
    ReplicaDown {
        /// For which model.
        model: ModelId,
        /// Which replica.
        replica: ReplicaId,
    },
    /// How many replicas are on their way and when the next is expected; for `Retry-After` and the fresh-replica ramp.
    Outlook {
        /// For which model.
        model: ModelId,
        /// Replicas starting now.
        starting: u32,
        /// How long until the next is expected to serve.
        expected: Option<Duration>,
    },
}
