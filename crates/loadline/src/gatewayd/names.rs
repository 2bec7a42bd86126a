//! A model's two names: on the link `namespace/autoscaler`, to clients what `spec.model` says.

use loadline_base::ModelId;
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use std::collections::BTreeMap;

/// The one place where the names are mapped, both ways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    to_client: BTreeMap<ModelId, ModelId>,
    to_link: BTreeMap<ModelId, ModelId>,
}

impl Names {
    /// Takes pairs of link name and client name; each must stand once.
    pub(crate) fn new(pairs: impl IntoIterator<Item = (ModelId, ModelId)>) -> Self {
        let mut names = Self::default();
        for (link, client) in pairs {
            names.to_client.insert(link.clone(), client.clone());
            names.to_link.insert(client, link);
        }
        names
    }

    /// Names on the link.
    pub(crate) fn links(&self) -> impl Iterator<Item = ModelId> + '_ {
        self.to_client.keys().cloned()
    }

    /// A report of the gateway for the writer; none if its model is not served any more.
    pub(crate) fn outward(&self, mut report: GatewayReport) -> Option<GatewayReport> {
        let model = match &mut report {
            GatewayReport::Demand(demand) => &mut demand.model,
            GatewayReport::Wake { model, .. }
            | GatewayReport::Closed { model, .. }
            | GatewayReport::ReplicaLoad { model, .. } => model,
        };
        *model = self.to_link.get(model)?.clone();
        Some(report)
    }

    /// An order in link names for the gateway; none if its model is not served any more.
    pub(crate) fn inward(&self, mut order: GatewayOrder) -> Option<GatewayOrder> {
        let model = match &mut order {
            GatewayOrder::Ack { model, .. }
            | GatewayOrder::Close { model, .. }
            | GatewayOrder::ReplicaUp { model, .. }
            | GatewayOrder::Drain { model, .. }
            | GatewayOrder::ReplicaDown { model, .. }
            | GatewayOrder::Outlook { model, .. } => model,
        };
        *model = self.to_client.get(model)?.clone();
        Some(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadline_base::GatewayId;

    #[test]
    fn names_are_mapped_both_ways_and_strange_ones_are_dropped() {
        let names = Names::new([("ns/a".into(), "llama".into()), ("ns/b".into(), "ns/a".into())]);
        let close = |model: &str| GatewayOrder::Close { model: model.into(), epoch: 1 };
        let wake = |model: &str| GatewayReport::Wake {
            gateway: GatewayId::from("ns/g"),
            model: model.into(),
            epoch: 1,
            held: 1,
        };
        for (link, client) in [("ns/a", "llama"), ("ns/b", "ns/a")] {
            assert_eq!(names.inward(close(link)), Some(close(client)));
            assert_eq!(names.outward(wake(client)), Some(wake(link)));
        }
        assert_eq!((names.inward(close("llama")), names.outward(wake("ns/b"))), (None, None));
        assert_eq!(names.links().collect::<Vec<_>>(), ["ns/a".into(), "ns/b".into()]);
    }
}
