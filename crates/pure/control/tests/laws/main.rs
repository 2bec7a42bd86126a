//! Random and awkward sequences of events against what must always hold: a truthful but chaotic world of two models, two gateways and
//! replicas that start, break, flap and end in any order.

#![expect(clippy::expect_used, reason = "a test stops at the first surprise")]

use loadline_base::{GatewayId, ModelId, PoolId, ReplicaId, Timestamp};
use loadline_control::{
    Control, ControlSettings, Effect, Event, GatewayUse, MetricQuery, Mode, ModelSpec, Removal, ReplicaEvent,
    ScaleEvent,
};
use loadline_hold::protocol::{Demand, GatewayOrder, GatewayReport};
use loadline_policy::hpa::{HpaRule, MetricSource, MetricSpec, MetricTarget};
use loadline_policy::{Action, Budgets, Idle, Policy, PoolPolicy, Rule};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

mod cases;

const MAX: u32 = 3;
const BUDGET: u32 = 4;
const PERIOD: Duration = Duration::from_secs(1);

fn spec(model: &str, min: u32) -> ModelSpec {
    let rule = HpaRule {
        metrics: vec![MetricSpec {
            source: MetricSource::Signal { name: "requests_demand".into() },
            target: MetricTarget::average_value(2_000),
        }],
        behavior: None,
        ..HpaRule::default()
    };
    let pool = PoolId::from(model);
    let policy = PoolPolicy {
        min_replicas: min,
        max_replicas: MAX,
        rule: Rule::Hpa(rule),
        idle: Some(Idle { after: Duration::from_secs(20) }),
        fallback: None,
        gpus_per_replica: 1,
        scrape_period: PERIOD,
    };
    ModelSpec {
        model: model.into(),
        pool: pool.clone(),
        policy: Policy { pools: BTreeMap::from([(pool, policy)]), ..Policy::default() },
        queries: vec![MetricQuery::GatewayDemand],
        slots: 2,
        scrape_period: PERIOD,
        start_estimate: Duration::from_secs(5),
        drain_timeout: Duration::from_secs(30),
        gateway: GatewayUse::default(),
        removal: Removal::default(),
        mode: Mode::default(),
    }
}

fn settings(gpus: Option<u32>) -> ControlSettings {
    ControlSettings { decision_period: PERIOD, budgets: Budgets { gpus } }
}

/// One model at one gateway, counted truthfully.
#[derive(Default)]
struct Lane {
    held: u32,
    /// Requests per replica this gateway was told of; `true` while it may take new ones.
    at: BTreeMap<ReplicaId, (u32, bool)>,
    sequence: u64,
    epoch: u64,
    is_closed: bool,
    idle_since: Option<Timestamp>,
}

impl Lane {
    fn in_flight(&self) -> u32 {
        self.at.values().map(|(count, _)| *count).sum()
    }
}

struct Process {
    model: ModelId,
    created: Timestamp,
    is_ready: bool,
    is_ending: bool,
}

/// Supervisor, gateways and clients.
struct World {
    now: Timestamp,
    control: Control,
    lanes: BTreeMap<(GatewayId, ModelId), Lane>,
    processes: BTreeMap<ReplicaId, Process>,
    wanted: BTreeMap<ModelId, u32>,
    serial: u32,
    lost: u32,
    drain_alarms: u32,
    scaled: Vec<ScaleEvent>,
    budget: Option<u32>,
}

impl World {
    fn new(control: Control, gateways: &[&str], models: &[&str], budget: Option<u32>) -> Self {
        let now = Timestamp::from_secs(1_000_000);
        let lanes = gateways.iter().flat_map(|gateway| {
            models.iter().map(|model| {
                ((GatewayId::from(*gateway), ModelId::from(*model)), Lane { idle_since: Some(now), ..Lane::default() })
            })
        });
        let lanes = lanes.collect();
        Self {
            now,
            control,
            lanes,
            processes: BTreeMap::new(),
            wanted: BTreeMap::new(),
            serial: 0,
            lost: 0,
            drain_alarms: 0,
            scaled: Vec::new(),
            budget,
        }
    }

    fn feed(&mut self, event: Event) {
        let mut queue = VecDeque::from([event]);
        let mut steps = 0;
        while let Some(event) = queue.pop_front() {
            steps += 1;
            assert!(steps < 1_000, "an endless exchange without time passing");
            let mut effects = Vec::new();
            self.control.apply(self.now, event, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Act(Action::SetReplicas { pool, to, remove_first, .. }) => {
                        self.set_replicas(&ModelId::from(pool.as_str()), to, &remove_first, &mut queue);
                    }
                    Effect::Gateway(order) => self.order(&order, &mut queue),
                    Effect::Alarm { text, .. } => {
                        self.drain_alarms += u32::from(text.contains("drain time"));
                        assert!(!text.contains("law broken") && !text.contains("someone else"), "{text}");
                    }
                    Effect::Scaled(event) => self.scaled.push(event),
                    Effect::Act(other) => unreachable!("no order for a scale target: {other:?}"),
                    Effect::TargetsChanged | Effect::Decided { .. } => {}
                }
            }
            self.check();
        }
    }

    /// What always holds.
    fn check(&self) {
        for status in self.control.status(self.now) {
            assert!(status.desired <= MAX, "{} wanted", status.desired);
        }
        let next = self.control.next_deadline();
        assert!(self.wanted.is_empty() || next.is_none_or(|at| at > self.now), "due in the past for ever: a busy loop");
        if let Some(budget) = self.budget {
            let ordered = |model: &ModelId| {
                let alive = self.processes.values().filter(|p| p.model == *model && !p.is_ending).count();
                self.wanted.get(model).copied().unwrap_or(0).max(u32::try_from(alive).expect("few"))
            };
            let ending = self.processes.values().filter(|process| process.is_ending).count();
            let models: std::collections::BTreeSet<&ModelId> = self.lanes.keys().map(|(_, model)| model).collect();
            let taken: u32 = models.into_iter().map(ordered).sum::<u32>() + u32::try_from(ending).expect("few");
            assert!(taken <= budget, "{taken} devices of {budget} taken");
        }
    }

    fn end(&mut self, id: &ReplicaId) {
        for lane in self.lanes.values_mut() {
            if let Some((count, _)) = lane.at.remove(id) {
                self.lost += count;
            }
        }
        if let Some(process) = self.processes.get_mut(id) {
            process.is_ending = true;
            process.is_ready = false;
        }
    }

    fn set_replicas(&mut self, model: &ModelId, to: u32, remove_first: &[ReplicaId], queue: &mut VecDeque<Event>) {
        self.wanted.insert(model.clone(), to);
        for id in remove_first {
            self.end(id);
        }
        let mut alive: Vec<(bool, ReplicaId)> = self
            .processes
            .iter()
            .filter(|(_, process)| process.model == *model && !process.is_ending)
            .map(|(id, process)| (process.is_ready, id.clone()))
            .collect();
        alive.sort();
        let to = to as usize;
        for (_, id) in alive.iter().take(alive.len().saturating_sub(to)) {
            self.end(id);
        }
        for _ in alive.len()..to {
            self.serial += 1;
            let id = ReplicaId::new(format!("{model}-{}", self.serial));
            let process = Process { model: model.clone(), created: self.now, is_ready: false, is_ending: false };
            self.processes.insert(id.clone(), process);
            queue.push_back(self.started(&id));
        }
    }

    fn started(&self, id: &ReplicaId) -> Event {
        let process = self.processes.get(id).expect("known");
        let event = ReplicaEvent::Started {
            pool: PoolId::from(process.model.as_str()),
            address: format!("127.0.0.1:{id}"),
            created_at: process.created,
        };
        Event::Replica { replica: id.clone(), event }
    }

    fn order(&mut self, order: &GatewayOrder, queue: &mut VecDeque<Event>) {
        let now = self.now;
        for ((gateway, model), lane) in &mut self.lanes {
            let mut load = |replica: &ReplicaId, in_flight| {
                let (gateway, model, replica) = (gateway.clone(), model.clone(), replica.clone());
                queue.push_back(Event::Gateway(GatewayReport::ReplicaLoad { gateway, model, replica, in_flight }));
            };
            match order {
                GatewayOrder::Close { model: of, epoch } if of == model => {
                    let accepted = lane.held == 0 && lane.in_flight() == 0 && *epoch > lane.epoch;
                    lane.epoch = lane.epoch.max(*epoch);
                    lane.is_closed |= accepted;
                    let (gateway, model, epoch) = (gateway.clone(), model.clone(), *epoch);
                    queue.push_back(Event::Gateway(GatewayReport::Closed { gateway, model, epoch, accepted }));
                }
                GatewayOrder::ReplicaUp { model: of, replica, .. } if of == model => {
                    lane.is_closed = false;
                    lane.at.entry(replica.clone()).or_default().1 = true;
                }
                GatewayOrder::Drain { model: of, replica } if of == model => {
                    let entry = lane.at.get_mut(replica);
                    load(
                        replica,
                        entry.map_or(0, |entry| {
                            entry.1 = false;
                            entry.0
                        }),
                    );
                }
                GatewayOrder::ReplicaDown { model: of, replica } if of == model => {
                    if let Some((count, _)) = lane.at.remove(replica) {
                        lane.held += count;
                    }
                }
                _ => {}
            }
        }
        for key in self.lanes.keys().cloned().collect::<Vec<_>>() {
            self.dispatch(&key);
        }
        let _ = now;
    }

    fn dispatch(&mut self, key: &(GatewayId, ModelId)) {
        let now = self.now;
        let Some(lane) = self.lanes.get_mut(key) else { return };
        while lane.held > 0 && !lane.is_closed {
            let Some(entry) = lane.at.values_mut().find(|(count, open)| *open && *count < 2) else { break };
            entry.0 += 1;
            lane.held -= 1;
        }
        let is_idle = lane.held == 0 && lane.in_flight() == 0;
        lane.idle_since = if is_idle { lane.idle_since.or(Some(now)) } else { None };
    }

    fn demand(&mut self, key: &(GatewayId, ModelId)) {
        let now = self.now;
        let Some(lane) = self.lanes.get_mut(key) else { return };
        lane.sequence += 1;
        let demand = Demand {
            gateway: key.0.clone(),
            model: key.1.clone(),
            sequence: lane.sequence,
            held: lane.held,
            in_flight: lane.in_flight(),
            peak: lane.held + lane.in_flight(),
            arrivals_total: 0,
            idle_since: lane.idle_since,
            at: now,
        };
        self.feed(Event::Gateway(GatewayReport::Demand(demand)));
    }

    fn arrive(&mut self, key: &(GatewayId, ModelId)) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        lane.held += 1;
        lane.idle_since = None;
        self.dispatch(key);
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if lane.held > 0 && lane.at.is_empty() || lane.is_closed {
            if lane.is_closed {
                lane.is_closed = false;
                lane.epoch += 1;
            }
            let (gateway, model) = key.clone();
            let wake = GatewayReport::Wake { gateway, model, epoch: lane.epoch, held: lane.held };
            self.feed(Event::Gateway(wake));
        }
        self.demand(key);
    }

    fn finish(&mut self, key: &(GatewayId, ModelId), pick: usize) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let busy: Vec<ReplicaId> =
            lane.at.iter().filter(|(_, (count, _))| *count > 0).map(|(id, _)| id.clone()).collect();
        let Some(id) = (!busy.is_empty()).then(|| busy.get(pick % busy.len())).flatten() else { return };
        let Some(entry) = lane.at.get_mut(id) else { return };
        entry.0 -= 1;
        let (in_flight, is_open) = *entry;
        self.dispatch(key);
        if !is_open {
            let (gateway, model) = key.clone();
            let report = GatewayReport::ReplicaLoad { gateway, model, replica: id.clone(), in_flight };
            self.feed(Event::Gateway(report));
        }
        self.demand(key);
    }

    /// Time passes in quarters of a second: gateways report, replicas start and end.
    fn pass(&mut self, quarters: u32) {
        for quarter in 0..quarters {
            self.now = self.now.plus(PERIOD / 4);
            let ids: Vec<ReplicaId> = self.processes.keys().cloned().collect();
            for id in ids {
                let Some(process) = self.processes.get_mut(&id) else { continue };
                let age = self.now.since(process.created);
                if process.is_ending {
                    if quarter % 4 == 3 {
                        self.processes.remove(&id);
                        self.feed(Event::Replica { replica: id, event: ReplicaEvent::Stopped });
                    }
                } else if !process.is_ready && age >= Duration::from_secs(3) {
                    process.is_ready = true;
                    self.feed(Event::Replica { replica: id, event: ReplicaEvent::Ready });
                }
            }
            for key in self.lanes.keys().cloned().collect::<Vec<_>>() {
                if quarter % 2 == 0 {
                    self.demand(&key);
                }
            }
            self.feed(Event::Tick);
        }
    }

    /// Replica `pick` breaks: what it had is lost through no fault of the loop.
    fn break_one(&mut self, pick: usize) {
        let alive: Vec<ReplicaId> =
            self.processes.iter().filter(|(_, process)| !process.is_ending).map(|(id, _)| id.clone()).collect();
        let Some(id) = (!alive.is_empty()).then(|| alive.get(pick % alive.len())).flatten().cloned() else { return };
        let Some(process) = self.processes.remove(&id) else { return };
        self.feed(Event::Replica { replica: id.clone(), event: ReplicaEvent::Failed { why: "broke".to_owned() } });
        self.feed(Event::Replica { replica: id.clone(), event: ReplicaEvent::Stopped });
        // the supervisor starts another in its place
        let mut queue = VecDeque::new();
        let wanted = self.wanted.get(&process.model).copied().unwrap_or(0);
        self.set_replicas(&process.model, wanted, &[], &mut queue);
        for event in queue {
            self.feed(event);
        }
    }

    /// Replica `pick` fails a probe and passes the next one.
    fn flap(&mut self, pick: usize) {
        let ready: Vec<ReplicaId> =
            self.processes.iter().filter(|(_, process)| process.is_ready).map(|(id, _)| id.clone()).collect();
        let Some(id) = (!ready.is_empty()).then(|| ready.get(pick % ready.len())).flatten().cloned() else { return };
        if let Some(process) = self.processes.get_mut(&id) {
            process.is_ready = false;
        }
        self.feed(Event::Replica { replica: id, event: ReplicaEvent::NotReady });
    }

    fn say_again(&mut self, pick: usize) {
        let ids: Vec<ReplicaId> = self.processes.keys().cloned().collect();
        let Some(id) = (!ids.is_empty()).then(|| ids.get(pick % ids.len())).flatten().cloned() else { return };
        let started = self.started(&id);
        let is_ready = self.processes.get(&id).is_some_and(|process| process.is_ready);
        self.feed(started);
        if is_ready {
            self.feed(Event::Replica { replica: id, event: ReplicaEvent::Ready });
        }
    }

    fn restart_gateway(&mut self, key: &(GatewayId, ModelId)) {
        let now = self.now;
        if let Some(lane) = self.lanes.get_mut(key) {
            // its clients lose their connections; that is law L5's one exception
            *lane = Lane { idle_since: Some(now), ..Lane::default() };
        }
        self.now = self.now.plus(Duration::from_millis(1));
        self.demand(key);
    }
}

#[derive(Debug, Clone)]
enum Move {
    Arrive(usize),
    Finish(usize, usize),
    Pass(u32),
    Break(usize),
    Flap(usize),
    Again(usize),
    Restart(usize),
    Configure(u32, bool),
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        6 => (0_usize..4).prop_map(Move::Arrive),
        6 => ((0_usize..4), (0_usize..8)).prop_map(|(lane, pick)| Move::Finish(lane, pick)),
        4 => (1_u32..12).prop_map(Move::Pass),
        2 => (80_u32..200).prop_map(Move::Pass),
        1 => (0_usize..8).prop_map(Move::Break),
        1 => (0_usize..8).prop_map(Move::Flap),
        1 => (0_usize..8).prop_map(Move::Again),
        1 => (0_usize..4).prop_map(Move::Restart),
        1 => ((0_u32..2), any::<bool>()).prop_map(|(min, both)| Move::Configure(min, both)),
    ]
}

fn configure(min: u32, both: bool) -> Event {
    let mut specs = vec![spec("a", min)];
    if both {
        specs.push(spec("b", 0));
    }
    Event::Configure(specs)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_is_lost_and_everything_is_bounded(moves in proptest::collection::vec(moves(), 1..80)) {
        let mut world = World::new(Control::new(settings(Some(BUDGET))), &["g", "h"], &["a", "b"], Some(BUDGET));
        world.feed(configure(0, true));
        let keys: Vec<_> = world.lanes.keys().cloned().collect();
        for made in moves {
            match made {
                Move::Arrive(lane) => world.arrive(keys.get(lane).expect("four lanes")),
                Move::Finish(lane, pick) => world.finish(keys.get(lane).expect("four lanes"), pick),
                Move::Pass(quarters) => world.pass(quarters),
                Move::Break(pick) => world.break_one(pick),
                Move::Flap(pick) => world.flap(pick),
                Move::Again(pick) => world.say_again(pick),
                Move::Restart(lane) => world.restart_gateway(keys.get(lane).expect("four lanes")),
                Move::Configure(min, both) => world.feed(configure(min, both)),
            }
        }
        // a drain that ran out of time gives up what was left, and says so; nothing else ends a request
        prop_assert!(world.lost == 0 || world.drain_alarms > 0, "{} lost", world.lost);
        prop_assert_eq!(world.control.laws().total(), 0);
        // the end of all: everything is answered, every drain ends, the pools come to rest
        world.feed(configure(0, true));
        for _ in 0..120 {
            for key in &keys {
                for pick in 0..4 {
                    world.finish(key, pick);
                }
            }
            world.pass(4);
        }
        for key in &keys {
            let lane = world.lanes.get(key).expect("a lane");
            prop_assert_eq!((lane.held, lane.in_flight()), (0, 0), "held or running for ever at {:?}", key);
        }
        for status in world.control.status(world.now) {
            prop_assert_eq!((status.desired, status.draining, status.replicas.len()), (0, 0, 0), "{}", status.model);
        }
        prop_assert_eq!(world.processes.len(), 0);
    }
}
