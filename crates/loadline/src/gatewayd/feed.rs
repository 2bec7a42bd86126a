//! From what is seen of pods to what the gateway is told: only edges, and never against the writer.
//!
//! The gateway knows its replicas from the pods themselves, so that it serves on without a writer or an API server. The writer
//! orders beside that: what it drained or took down stays so, whatever the pod does, until the writer says otherwise; what it wants
//! up is not told while the pod is not ready or on its way out.

use loadline_base::{ModelId, ReplicaId};
use loadline_hold::protocol::GatewayOrder;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Drains of pods that are not seen yet, per model; further ones are obeyed and not remembered.
const MAX_AHEAD: usize = 4_096;

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It exists and is not ready.
    Waiting,
    /// It takes requests.
    Serving,
    /// Its deletion has begun: what it has may finish.
    Leaving,
    /// It has ended.
    Over,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodFacts {
    /// A StatefulSet's new pod has the old one's name and another uid.
    pub(crate) uid: Arc<str>,
    /// Where it is in its life.
    pub(crate) stage: Stage,
    /// Where it serves: `host:port`; none as long as it has no address or no port.
    pub(crate) address: Option<String>,
}

/// One model and its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelPods {
    /// As clients name it; under another name it is another model to the gateway.
    pub(crate) name: ModelId,
    /// Requests that each replica may have in flight.
    pub(crate) slots: u32,
    /// Its pods.
    pub(crate) pods: BTreeMap<ReplicaId, PodFacts>,
}

/// What the gateway was told of a replica last.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Nothing,
    Up { address: String, slots: u32 },
    Drain,
}

#[derive(Debug, Clone)]
struct Replica {
    uid: Arc<str>,
    stage: Stage,
    address: Option<String>,
    told: Told,
    /// The writer drained it or took it down.
    is_withheld: bool,
}

#[derive(Debug, Clone)]
struct Model {
    name: ModelId,
    slots: u32,
    replicas: BTreeMap<ReplicaId, Replica>,
    /// Drained by the writer before they were seen here.
    ahead: BTreeSet<ReplicaId>,
}

/// What was seen and told last, per model under its name on the link.
#[derive(Debug, Clone, Default)]
pub(crate) struct Feed {
    models: BTreeMap<ModelId, Model>,
}

/// Orders of one step; what adds capacity goes first, so that there is no gap where one pod takes the place of another.
#[derive(Default)]
struct Orders {
    gains: Vec<GatewayOrder>,
    losses: Vec<GatewayOrder>,
}

impl Feed {
    /// Takes what is seen now; the orders that follow, in link names. A model that is not in it is forgotten.
    pub(crate) fn seen(&mut self, seen: &BTreeMap<ModelId, ModelPods>) -> Vec<GatewayOrder> {
        self.models.retain(|model, known| seen.get(model).is_some_and(|now| now.name == known.name));
        let mut orders = Orders::default();
        for (id, now) in seen {
            let model = self.models.entry(id.clone()).or_insert_with(|| Model {
                name: now.name.clone(),
                slots: now.slots,
                replicas: BTreeMap::new(),
                ahead: BTreeSet::new(),
            });
            model.slots = now.slots;
            model.replicas.retain(|replica, known| {
                let stays = now.pods.contains_key(replica);
                if !stays && known.told != Told::Nothing {
                    orders.losses.push(down(id, replica));
                }
                stays
            });
            for (replica, facts) in &now.pods {
                let ahead = model.ahead.remove(replica);
                let known = model.replicas.entry(replica.clone()).or_insert_with(|| fresh(facts));
                known.is_withheld |= ahead;
                step((id, replica), now.slots, known, facts, &mut orders);
            }
        }
        orders.gains.extend(orders.losses);
        orders.gains
    }

    /// Takes an order of the writer, in link names; what of it is for the gateway.
    pub(crate) fn ordered(&mut self, mut order: GatewayOrder) -> Option<GatewayOrder> {
        let (GatewayOrder::ReplicaUp { model, replica, .. }
        | GatewayOrder::Drain { model, replica }
        | GatewayOrder::ReplicaDown { model, replica }) = &order
        else {
            return Some(order);
        };
        let Some(seen) = self.models.get_mut(model) else { return Some(order) };
        let Some(known) = seen.replicas.get_mut(replica) else {
            // the writer has seen a pod that is not seen here yet
            let is_drain = matches!(order, GatewayOrder::Drain { .. });
            if is_drain && seen.ahead.len() < MAX_AHEAD {
                seen.ahead.insert(replica.clone());
            } else if !is_drain {
                seen.ahead.remove(replica);
            }
            // where it serves is said by the pod itself
            return Some(order).filter(|order| !matches!(order, GatewayOrder::ReplicaUp { .. }));
        };
        let slots = seen.slots;
        match &mut order {
            GatewayOrder::ReplicaUp { address, slots: ordered, .. } => {
                // address and slots are those told from the pod, so that the two never take turns
                known.is_withheld = false;
                let (Stage::Serving, Some(own)) = (known.stage, &known.address) else {
                    return None;
                };
                address.clone_from(own);
                *ordered = slots;
                known.told = Told::Up { address: own.clone(), slots };
            }
            GatewayOrder::Drain { .. } => {
                known.is_withheld = true;
                known.told = Told::Drain;
            }
            _ => {
                known.is_withheld = true;
                known.told = Told::Nothing;
            }
        }
        Some(order)
    }

    /// Replicas the gateway was told to be up.
    pub(crate) fn up(&self, model: &ModelId) -> usize {
        let replicas = self.models.get(model).into_iter().flat_map(|model| model.replicas.values());
        replicas.filter(|replica| matches!(replica.told, Told::Up { .. })).count()
    }
}

fn down(model: &ModelId, replica: &ReplicaId) -> GatewayOrder {
    GatewayOrder::ReplicaDown { model: model.clone(), replica: replica.clone() }
}

fn fresh(facts: &PodFacts) -> Replica {
    Replica {
        uid: Arc::clone(&facts.uid),
        stage: facts.stage,
        address: facts.address.clone(),
        told: Told::Nothing,
        is_withheld: false,
    }
}

/// Brings one replica in line with its pod.
fn step((model, id): (&ModelId, &ReplicaId), slots: u32, known: &mut Replica, facts: &PodFacts, orders: &mut Orders) {
    if known.uid != facts.uid {
        if known.told != Told::Nothing {
            orders.gains.push(down(model, id));
        }
        *known = fresh(facts);
    }
    known.stage = facts.stage;
    known.address.clone_from(&facts.address);
    match (facts.stage, &facts.address) {
        (Stage::Serving, Some(address)) => {
            let wanted = Told::Up { address: address.clone(), slots };
            if !known.is_withheld && known.told != wanted {
                known.told = wanted;
                let (model, replica, address) = (model.clone(), id.clone(), address.clone());
                orders.gains.push(GatewayOrder::ReplicaUp { model, replica, address, slots });
            }
        }
        (Stage::Over, _) => {
            if known.told != Told::Nothing {
                known.told = Told::Nothing;
                orders.losses.push(down(model, id));
            }
        }
        // a probe that fails under load, or a deletion, is no reason to cut off answers that are under way
        (Stage::Serving | Stage::Waiting | Stage::Leaving, _) => {
            if matches!(known.told, Told::Up { .. }) {
                known.told = Told::Drain;
                orders.losses.push(GatewayOrder::Drain { model: model.clone(), replica: id.clone() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts(uid: &str, stage: Stage) -> PodFacts {
        PodFacts { uid: uid.into(), stage, address: Some(format!("10.0.0.1:{}", 8_000 + uid.len())) }
    }

    fn model() -> ModelId {
        "ns/m".into()
    }

    fn seen(slots: u32, pods: &[(&str, PodFacts)]) -> BTreeMap<ModelId, ModelPods> {
        let pods = pods.iter().map(|(name, facts)| (ReplicaId::from(*name), facts.clone())).collect();
        BTreeMap::from([(model(), ModelPods { name: "m".into(), slots, pods })])
    }

    fn up(pod: &str, uid: &str, slots: u32) -> GatewayOrder {
        let address = format!("10.0.0.1:{}", 8_000 + uid.len());
        GatewayOrder::ReplicaUp { model: model(), replica: pod.into(), address, slots }
    }

    fn drain(pod: &str) -> GatewayOrder {
        GatewayOrder::Drain { model: model(), replica: pod.into() }
    }

    fn gone(pod: &str) -> GatewayOrder {
        down(&model(), &pod.into())
    }

    /// What happens, and what the gateway hears of it.
    enum Does {
        Sees(Vec<(&'static str, PodFacts)>, Vec<GatewayOrder>),
        Slots(u32, Vec<(&'static str, PodFacts)>, Vec<GatewayOrder>),
        Orders(GatewayOrder, Option<GatewayOrder>),
    }
    use Does::{Orders as Writer, Sees, Slots};

    fn run(name: &str, steps: Vec<Does>) {
        let mut feed = Feed::default();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Sees(pods, expect) => assert_eq!(feed.seen(&seen(4, &pods)), expect, "{name}, step {number}"),
                Slots(slots, pods, expect) => {
                    assert_eq!(feed.seen(&seen(slots, &pods)), expect, "{name}, step {number}")
                }
                Writer(order, expect) => assert_eq!(feed.ordered(order), expect, "{name}, step {number}"),
            }
        }
    }

    #[test]
    fn a_pods_life_is_told_by_its_edges() {
        let (serving, waiting) = (facts("u", Stage::Serving), facts("u", Stage::Waiting));
        let (leaving, over) = (facts("u", Stage::Leaving), facts("u", Stage::Over));
        run(
            "from its start to its end",
            vec![
                Sees(vec![("ns/a", waiting.clone())], vec![]),
                Sees(vec![("ns/a", serving.clone())], vec![up("ns/a", "u", 4)]),
                Sees(vec![("ns/a", serving.clone())], vec![]),
                Sees(vec![("ns/a", leaving.clone())], vec![drain("ns/a")]),
                Sees(vec![("ns/a", leaving.clone())], vec![]),
                Sees(vec![], vec![gone("ns/a")]),
                Sees(vec![], vec![]),
            ],
        );
        run(
            "a probe that fails for a while",
            vec![
                Sees(vec![("ns/a", serving.clone())], vec![up("ns/a", "u", 4)]),
                Sees(vec![("ns/a", waiting.clone())], vec![drain("ns/a")]),
                Sees(vec![("ns/a", serving.clone())], vec![up("ns/a", "u", 4)]),
                Sees(vec![("ns/a", over.clone())], vec![gone("ns/a")]),
                Sees(vec![], vec![]),
            ],
        );
        run(
            "one that never served is never spoken of",
            vec![
                Sees(vec![("ns/a", waiting)], vec![]),
                Sees(vec![("ns/a", leaving)], vec![]),
                Sees(vec![("ns/a", over)], vec![]),
                Sees(vec![], vec![]),
            ],
        );
        run(
            "one that takes the place of another comes first",
            vec![
                Sees(vec![("ns/a", serving.clone())], vec![up("ns/a", "u", 4)]),
                Sees(
                    vec![("ns/a", facts("u", Stage::Leaving)), ("ns/b", facts("uu", Stage::Serving))],
                    vec![up("ns/b", "uu", 4), drain("ns/a")],
                ),
            ],
        );
        run(
            "a new pod under an old name",
            vec![
                Sees(vec![("ns/a", serving.clone())], vec![up("ns/a", "u", 4)]),
                Sees(vec![("ns/a", facts("uu", Stage::Serving))], vec![gone("ns/a"), up("ns/a", "uu", 4)]),
                Sees(vec![("ns/a", facts("uuu", Stage::Waiting))], vec![gone("ns/a")]),
            ],
        );
        run(
            "without an address there is nothing to tell",
            vec![
                Sees(vec![("ns/a", PodFacts { address: None, ..serving.clone() })], vec![]),
                Sees(vec![("ns/a", serving.clone())], vec![up("ns/a", "u", 4)]),
                Sees(vec![("ns/a", PodFacts { address: None, ..serving.clone() })], vec![drain("ns/a")]),
            ],
        );
        run(
            "other slots",
            vec![
                Sees(vec![("ns/a", serving.clone())], vec![up("ns/a", "u", 4)]),
                Slots(8, vec![("ns/a", serving)], vec![up("ns/a", "u", 8)]),
            ],
        );
    }

    #[test]
    fn the_writer_has_the_last_word_on_drains_and_the_pod_on_readiness() {
        let (serving, waiting) = (facts("u", Stage::Serving), facts("u", Stage::Waiting));
        let leaving = facts("u", Stage::Leaving);
        run(
            "its drain stays whatever the pod does",
            vec![
                Sees(vec![("ns/a", serving.clone())], vec![up("ns/a", "u", 4)]),
                Writer(drain("ns/a"), Some(drain("ns/a"))),
                Sees(vec![("ns/a", waiting.clone())], vec![]),
                Sees(vec![("ns/a", serving.clone())], vec![]),
                Slots(8, vec![("ns/a", serving.clone())], vec![]),
                Writer(up("ns/a", "other address", 4), Some(up("ns/a", "u", 8))),
                Slots(8, vec![("ns/a", serving.clone())], vec![]),
                Slots(8, vec![("ns/a", leaving.clone())], vec![drain("ns/a")]),
            ],
        );
        run(
            "what it took down stays down until it says otherwise or another pod comes",
            vec![
                Sees(vec![("ns/a", serving.clone())], vec![up("ns/a", "u", 4)]),
                Writer(gone("ns/a"), Some(gone("ns/a"))),
                Sees(vec![("ns/a", serving.clone())], vec![]),
                Sees(vec![("ns/a", leaving.clone())], vec![]),
                Sees(vec![("ns/a", facts("uu", Stage::Serving))], vec![up("ns/a", "uu", 4)]),
            ],
        );
        run(
            "its up does not reach a pod that leaves or is not ready",
            vec![
                Sees(vec![("ns/a", serving.clone())], vec![up("ns/a", "u", 4)]),
                Sees(vec![("ns/a", leaving)], vec![drain("ns/a")]),
                Writer(up("ns/a", "u", 4), None),
                Sees(vec![("ns/b", waiting)], vec![gone("ns/a")]),
                Writer(up("ns/b", "u", 4), None),
                Sees(vec![("ns/b", serving.clone())], vec![up("ns/b", "u", 4)]),
            ],
        );
        run(
            "it may know a pod first",
            vec![
                Sees(vec![], vec![]),
                Writer(up("ns/a", "u", 4), None),
                Writer(drain("ns/a"), Some(drain("ns/a"))),
                Sees(vec![("ns/a", serving.clone())], vec![]),
                Writer(up("ns/a", "u", 4), Some(up("ns/a", "u", 4))),
                Writer(drain("ns/b"), Some(drain("ns/b"))),
                Writer(gone("ns/b"), Some(gone("ns/b"))),
                Sees(vec![("ns/a", serving.clone()), ("ns/b", serving)], vec![up("ns/b", "u", 4)]),
            ],
        );
    }

    #[test]
    fn a_model_under_another_name_begins_anew() {
        let mut feed = Feed::default();
        let now = seen(4, &[("ns/a", facts("u", Stage::Serving))]);
        assert_eq!(feed.seen(&now), [up("ns/a", "u", 4)]);
        assert_eq!(feed.up(&model()), 1);
        let renamed = now.into_iter().map(|(id, pods)| (id, ModelPods { name: "n".into(), ..pods })).collect();
        assert_eq!(feed.seen(&renamed), [up("ns/a", "u", 4)]);
        assert_eq!(feed.seen(&BTreeMap::new()), []);
        assert_eq!(feed.up(&model()), 0);
    }

    fn any_stage() -> impl Strategy<Value = Option<Stage>> {
        prop_oneof![
            Just(None),
            Just(Some(Stage::Waiting)),
            Just(Some(Stage::Serving)),
            Just(Some(Stage::Leaving)),
            Just(Some(Stage::Over))
        ]
    }

    proptest! {
        /// Whatever happens, a gateway that obeys gives requests to a replica exactly if its pod serves and the writer has not
        /// withheld it; and what it hears is no more than it does not know.
        #[test]
        fn the_gateway_uses_what_serves_and_is_not_withheld(
            steps in proptest::collection::vec((any_stage(), 0..3_u8, 0..5_u8), 1..60)
        ) {
            let mut feed = Feed::default();
            let (mut used, mut withheld, mut uid, mut exists) = (false, false, 0, false);
            let obey = |used: &mut bool, order: &GatewayOrder| {
                *used = matches!(order, GatewayOrder::ReplicaUp { .. });
            };
            for (stage, change, order) in steps {
                if stage.is_none() || (exists && change == 0) {
                    (uid, withheld) = (uid + 1, false);
                }
                exists = stage.is_some();
                let pods: Vec<_> = stage.map(|stage| ("ns/a", facts(&uid.to_string(), stage))).into_iter().collect();
                for order in feed.seen(&seen(4, &pods)) {
                    obey(&mut used, &order);
                }
                prop_assert_eq!(used, stage == Some(Stage::Serving) && !withheld);
                prop_assert_eq!(feed.seen(&seen(4, &pods)), vec![]);
                let order = match order {
                    0 => up("ns/a", "0", 4),
                    1 => drain("ns/a"),
                    2 => gone("ns/a"),
                    _ => continue,
                };
                if !exists {
                    continue;
                }
                withheld = !matches!(order, GatewayOrder::ReplicaUp { .. });
                if let Some(order) = feed.ordered(order) {
                    obey(&mut used, &order);
                }
                prop_assert_eq!(used, stage == Some(Stage::Serving) && !withheld);
            }
        }
    }
}
