//! What is going on, for people and programs.

use crate::control::Control;
use crate::event::Mode;
use crate::observe;
use loadline_base::{ModelId, ReplicaId, Timestamp};
use loadline_policy::{GatewayObservation, PoolDecision, PoolObservation, ReplicaState};
use serde::Serialize;

/// One model now.
#[derive(Debug, Clone, Serialize)]
pub struct ModelStatus {
    /// The model.
    pub model: ModelId,
    /// Wanted replicas.
    pub desired: u32,
    /// The count the scale target was last told to have, or was found with: those that still drain are in it.
    pub ordered: u32,
    /// Whether decisions are carried out.
    pub mode: Mode,
    /// Since when the scale target could not be written, and why.
    pub unwritten: Option<(Timestamp, String)>,
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
    /// Why nothing can run it, if that is so.
    pub unschedulable: Option<String>,
    /// Why its page cannot be read, if it cannot.
    pub scrape_error: Option<String>,
}

impl Control {
    /// What a decision for one model would see now.
    #[must_use]
    pub fn observation(&self, now: Timestamp, model: &ModelId) -> Option<PoolObservation> {
        let model = self.models().get(model)?;
        observe::observe(now, model).pools.remove(&model.spec.pool)
    }

    /// The last decision for one model.
    #[must_use]
    pub fn decision(&self, model: &ModelId) -> Option<&PoolDecision> {
        self.models().get(model)?.last_decision.as_ref()
    }

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
                        unschedulable: replica.unschedulable.as_ref().map(|(_, why)| why.clone()),
                        scrape_error: replica.scrape_error.clone(),
                    })
                    .collect();
                ModelStatus {
                    model: name.clone(),
                    desired: model.serving(),
                    ordered: model.ordered(),
                    mode: model.spec.mode,
                    unwritten: model.unwritten.clone(),
                    ready: model.replicas.count(ReplicaState::Ready),
                    starting: model.replicas.count(ReplicaState::Starting),
                    draining: model.replicas.count(ReplicaState::Draining),
                    gateway: model.gateway(now),
                    replicas,
                    decision: model.last_decision.clone(),
                }
            })
            .collect()
    }
}
