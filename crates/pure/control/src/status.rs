//! What is going on, for people and programs.

use crate::control::Control;
use loadline_base::{ModelId, ReplicaId, Timestamp};
use loadline_policy::{GatewayObservation, PoolDecision, ReplicaState};
use serde::Serialize;

/// One model now.
#[derive(Debug, Clone, Serialize)]
pub struct ModelStatus {
    /// The model.
    pub model: ModelId,
    /// Wanted replicas.
    pub desired: u32,
    /// Replicas that serve.
    pub ready: u32,
    /// Replicas on their way.
    pub starting: u32,
    /// Replicas that finish what they have.
    pub draining: u32,
    /// What the gateways say.
    pub gateway: GatewayObservation,
    /// Every replica.
    pub replicas: Vec<ReplicaStatus>,
    /// The last decision with its steps.
    pub decision: Option<PoolDecision>,
}

/// One replica now.
#[derive(Debug, Clone, Serialize)]
pub struct ReplicaStatus {
    /// Its name.
    pub replica: ReplicaId,
    /// Its life stage.
    pub state: ReplicaState,
    /// When it entered that stage.
    pub since: Timestamp,
    /// Where it listens, or will.
    pub address: String,
    /// Why its page cannot be read, if it cannot.
    pub scrape_error: Option<String>,
}

impl Control {
    /// Every model as it is now, in name order.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> Vec<ModelStatus> {
        self.models()
            .iter()
            .map(|(name, model)| {
                let replicas = model
                    .replicas
                    .table
                    .iter()
                    .map(|(id, replica)| ReplicaStatus {
                        replica: id.clone(),
                        state: replica.state,
                        since: replica.since,
                        address: replica.address.clone(),
                        scrape_error: replica.scrape_error.clone(),
                    })
                    .collect();
                ModelStatus {
                    model: name.clone(),
                    desired: model.serving(),
                    ready: model.replicas.count(ReplicaState::Ready),
                    starting: model.replicas.count(ReplicaState::Starting),
                    draining: model.replicas.count(ReplicaState::Draining),
                    gateway: model.gateways.observe(now),
                    replicas,
                    decision: model.last_decision.clone(),
                }
            })
            .collect()
    }
}
