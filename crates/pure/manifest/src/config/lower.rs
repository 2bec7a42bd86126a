//! From a model to a policy, with the evidence gate on.

use super::{Config, ModelConfig};
use loadline_base::PoolId;
use loadline_policy::hpa::{Controller, HpaRule};
use loadline_policy::{Gate, Idle, Policy, PoolPolicy, Rule};
use std::collections::BTreeMap;

impl ModelConfig {
    /// The policy of this model; its one pool is [`crate::hpa::POOL`].
    #[must_use]
    pub fn policy(&self, config: &Config) -> Policy {
        let rule = HpaRule {
            metrics: self.metrics.iter().map(super::ModelMetric::spec).collect(),
            behavior: Some(crate::hpa::behavior_of(self.behavior.clone())),
            controller: Controller::default(),
        };
        let pool = PoolPolicy {
            min_replicas: self.min_replicas,
            max_replicas: self.max_replicas,
            rule: Rule::Hpa(rule),
            idle: (self.min_replicas == 0).then_some(Idle { after: self.idle_after }),
            fallback: None,
            gpus_per_replica: self.gpus_per_replica,
            scrape_period: config.scrape_period,
        };
        Policy { pools: BTreeMap::from([(PoolId::new(crate::hpa::POOL), pool)]), gate: Gate::On }
    }
}
