//! Which models a gateway serves, from the autoscalers that name it.

use super::feed::{ModelPods, PodFacts};
use super::names::Names;
use loadline_base::{ModelId, ReplicaId, Timestamp};
use loadline_gateway::ModelSettings;
use loadline_hold::HoldSettings;
use std::collections::BTreeMap;
use std::time::Duration;

/// One autoscaler that names this gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AutoscalerFacts {
    /// Its name without the namespace.
    pub(crate) name: String,
    /// When it was created; of two for one model the older one holds.
    pub(crate) created_at: Timestamp,
    /// The model as clients name it.
    pub(crate) model: String,
    /// Requests that each replica may have in flight.
    pub(crate) slots: u32,
    /// How long a request may wait while no replica serves, where it says so.
    pub(crate) cold_wait: Option<Duration>,
    /// How long a request may wait for a free slot, where it says so.
    pub(crate) saturated_wait: Option<Duration>,
    /// Whether held streams get comments, where it says so.
    pub(crate) keepalive: Option<bool>,
    /// Its pods.
    pub(crate) pods: BTreeMap<ReplicaId, PodFacts>,
}

/// What follows for the gateway.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Roster {
    /// The models, in link order.
    pub(crate) models: Vec<ModelSettings>,
    /// Their two names.
    pub(crate) names: Names,
    /// Their pods, by link name.
    pub(crate) pods: BTreeMap<ModelId, ModelPods>,
    /// What is not served, and why, for people.
    pub(crate) problems: Vec<String>,
}

/// The name of an autoscaler's model on the link.
pub(crate) fn link_name(namespace: &str, autoscaler: &str) -> ModelId {
    ModelId::new(format!("{namespace}/{autoscaler}"))
}

/// Makes a roster; `own` is what holds where an autoscaler says nothing.
pub(crate) fn roster(namespace: &str, mut autoscalers: Vec<AutoscalerFacts>, own: &HoldSettings) -> Roster {
    autoscalers.sort_by(|a, b| (a.created_at, &a.name).cmp(&(b.created_at, &b.name)));
    let mut holders: BTreeMap<String, String> = BTreeMap::new();
    let mut roster = Roster::default();
    let mut pairs = Vec::new();
    for autoscaler in autoscalers {
        let AutoscalerFacts { name, model, slots, pods, .. } = &autoscaler;
        if let Some(holder) = holders.get(model) {
            roster.problems.push(format!(
                "autoscaler `{name}` is for model `{model}`, which the older `{holder}` has here already; give one of them another `spec.model` or `spec.gateway.name`"
            ));
            continue;
        }
        let link = link_name(namespace, name);
        let client = ModelId::new(model.as_str());
        roster.models.push(ModelSettings {
            hold: hold(&autoscaler, own),
            inference_pool: Some(name.clone()),
            ..ModelSettings::new(model.as_str())
        });
        pairs.push((link.clone(), client.clone()));
        roster.pods.insert(link, ModelPods { name: client, slots: *slots, pods: pods.clone() });
        holders.insert(model.clone(), name.clone());
    }
    roster.names = Names::new(pairs);
    roster
}

fn hold(autoscaler: &AutoscalerFacts, own: &HoldSettings) -> HoldSettings {
    let saturated_budget = autoscaler.saturated_wait.unwrap_or(own.saturated_budget);
    let cold_budget = autoscaler.cold_wait.or(own.cold_budget);
    let longest_cold = cold_budget.unwrap_or(own.cold_budget_max);
    HoldSettings {
        saturated_budget,
        cold_budget,
        hold_limit: saturated_budget.saturating_add(longest_cold),
        keepalive: autoscaler.keepalive.unwrap_or(own.keepalive),
        ..own.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(name: &str, created: i64, model: &str) -> AutoscalerFacts {
        AutoscalerFacts {
            name: name.to_owned(),
            created_at: Timestamp::from_secs(created),
            model: model.to_owned(),
            slots: 8,
            cold_wait: None,
            saturated_wait: None,
            keepalive: None,
            pods: BTreeMap::new(),
        }
    }

    #[test]
    fn the_older_of_two_for_one_model_holds() {
        let made =
            roster("ns", vec![facts("c", 3, "m"), facts("b", 1, "m"), facts("a", 2, "n")], &HoldSettings::default());
        assert_eq!(made.names, Names::new([("ns/b".into(), "m".into()), ("ns/a".into(), "n".into())]));
        let pools: Vec<_> = made.models.iter().map(|m| (m.model.as_str(), m.inference_pool.as_deref())).collect();
        assert_eq!(pools, [("m", Some("b")), ("n", Some("a"))]);
        assert_eq!(made.problems.len(), 1);
        assert!(made.problems[0].contains("`c`") && made.problems[0].contains("`b`"), "{}", made.problems[0]);
        assert_eq!(made.pods.keys().map(ModelId::as_str).collect::<Vec<_>>(), ["ns/a", "ns/b"]);
    }

    #[test]
    fn what_an_autoscaler_does_not_say_is_the_gateways_own() {
        let secs = Duration::from_secs;
        let own = HoldSettings { keepalive_grace: secs(5), ..HoldSettings::default() };
        struct Case {
            cold: Option<Duration>,
            saturated: Option<Duration>,
            keepalive: Option<bool>,
            expect: (Option<Duration>, Duration, Duration, bool),
        }
        for Case { cold, saturated, keepalive, expect } in [
            Case { cold: None, saturated: None, keepalive: None, expect: (None, secs(60), secs(960), true) },
            Case {
                cold: Some(secs(30)),
                saturated: Some(secs(5)),
                keepalive: Some(false),
                expect: (Some(secs(30)), secs(5), secs(35), false),
            },
        ] {
            let facts = AutoscalerFacts { cold_wait: cold, saturated_wait: saturated, keepalive, ..facts("a", 1, "m") };
            let made = roster("ns", vec![facts], &own);
            let hold = &made.models[0].hold;
            assert_eq!((hold.cold_budget, hold.saturated_budget, hold.hold_limit, hold.keepalive), expect);
            assert_eq!(hold.keepalive_grace, secs(5));
        }
    }
}
