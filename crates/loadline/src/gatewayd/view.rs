//! From the watches' snapshot to what a gateway looks at.

use super::feed::{PodFacts, Stage};
use super::roster::AutoscalerFacts;
use loadline_base::ReplicaId;
use loadline_cluster::{AutoscalerSeen, Key, PodSeen, PortRef, Snapshot};
use loadline_manifest::autoscaler::{GatewayRef, InferenceAutoscalerSpec, IntOrString, defaults};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The name of a port that serves, where nothing else says which one does.
const SERVING_PORT: &str = "http";

/// What a gateway reads in snapshots. An autoscaler that cannot be read any more is taken as it was last.
#[derive(Debug, Default)]
pub(crate) struct View {
    last: BTreeMap<Key, Arc<InferenceAutoscalerSpec>>,
}

impl View {
    /// The autoscalers of the namespace that name this gateway, and what of them cannot be served, for people.
    pub(crate) fn read(
        &mut self,
        snapshot: &Snapshot,
        namespace: &str,
        gateway: &str,
    ) -> (Vec<AutoscalerFacts>, Vec<String>) {
        let (mut facts, mut problems) = (Vec::new(), Vec::new());
        let mut last = std::mem::take(&mut self.last);
        for seen in snapshot.autoscalers.values().filter(|seen| &*seen.key.namespace == namespace) {
            let spec = match (&seen.spec, last.remove(&seen.key)) {
                (Ok(spec), _) => Arc::clone(spec),
                (Err(why), Some(spec)) => {
                    problems
                        .push(format!("autoscaler `{}` cannot be read and is served as it was: {why}", seen.key.name));
                    spec
                }
                (Err(_), None) => continue,
            };
            if let Some(own) = spec.gateway.as_ref().filter(|wanted| wanted.name == gateway) {
                match one(snapshot, seen, &spec, own) {
                    Ok(one) => facts.push(one),
                    Err(problem) => problems.push(problem),
                }
            }
            self.last.insert(seen.key.clone(), spec);
        }
        (facts, problems)
    }
}

fn one(
    snapshot: &Snapshot,
    seen: &AutoscalerSeen,
    spec: &InferenceAutoscalerSpec,
    gateway: &GatewayRef,
) -> Result<AutoscalerFacts, String> {
    let name = seen.key.name.to_string();
    let [target] = seen.targets.as_slice() else {
        let count = seen.targets.len();
        return Err(format!("autoscaler `{name}` has {count} pools and is not served: a gateway serves exactly one"));
    };
    let port =
        gateway.port.as_ref().or(spec.scrape.as_ref().and_then(|scrape| scrape.port.as_ref())).and_then(port_ref);
    let pods = snapshot.pods_of(&target.target);
    Ok(AutoscalerFacts {
        created_at: seen.created_at,
        model: spec.model.clone().unwrap_or_else(|| name.clone()),
        slots: gateway.slots.unwrap_or_else(|| defaults::SLOTS.count_u32()).max(1),
        cold_wait: gateway.cold_wait.map(|span| span.0),
        saturated_wait: gateway.saturated_wait.map(|span| span.0),
        keepalive: gateway.keepalive,
        pods: pods.map(|pod| (ReplicaId::new(pod.key.to_string()), pod_facts(pod, port.as_ref()))).collect(),
        name,
    })
}

/// A port as it is written; none for a number that no port has.
fn port_ref(port: &IntOrString) -> Option<PortRef> {
    match port {
        IntOrString::Int(number) => Some(PortRef::Number(*number)),
        IntOrString::Text(text) => match text.parse::<u64>() {
            Ok(number) => u16::try_from(number).ok().map(PortRef::Number),
            Err(_) => Some(PortRef::Name(text.as_str().into())),
        },
    }
}

fn pod_facts(pod: &PodSeen, port: Option<&PortRef>) -> PodFacts {
    let stage = if pod.is_over() {
        Stage::Over
    } else if pod.deletion.is_some() {
        Stage::Leaving
    } else if pod.serves() {
        Stage::Serving
    } else {
        Stage::Waiting
    };
    let port = match port {
        Some(port) => pod.port(port),
        None => pod.port(&PortRef::Name(SERVING_PORT.into())).or_else(|| pod.ports.first().map(|port| port.port)),
    };
    PodFacts { uid: Arc::clone(&pod.uid), stage, address: port.and_then(|port| pod.address(port)) }
}
