//! Whole scenarios without sockets, processes or sleeping: the real loop, the real hold and the real policy; only the world is played.

#![expect(
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "a test stops at the first surprise, and its counts are small"
)]

use loadline_base::{GatewayId, ModelId, PoolId, ReplicaId, Timestamp};
use loadline_control::{
    Control, ControlSettings, Effect, Event, GatewayUse, MetricQuery, Mode, ModelSpec, Removal, ReplicaEvent,
    ScaleEvent,
};
use loadline_hold::protocol::{GatewayOrder, GatewayReport};
use loadline_hold::{Arrival, Effect as HoldEffect, Hold, HoldSettings, RequestKey};
use loadline_policy::hpa::{HpaRule, MetricSource, MetricSpec, MetricTarget};
use loadline_policy::{Action, Budgets, Idle, Policy, PoolPolicy, Rule};
use loadline_signals::dialect;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

const STEP: Duration = Duration::from_millis(20);
const MODEL: &str = "m";

/// How the played replicas behave.
#[derive(Clone, Copy)]
struct Plan {
    start: Duration,
    service: Duration,
    slots: u32,
    idle_after: Duration,
    max: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(30),
            service: Duration::from_secs(4),
            slots: 4,
            idle_after: Duration::from_secs(60),
            max: 6,
        }
    }
}

struct Served {
    request: RequestKey,
    replica: ReplicaId,
    ends: Timestamp,
}

struct World {
    plan: Plan,
    now: Timestamp,
    control: Control,
    hold: Hold,
    gateway: GatewayId,
    replicas: BTreeMap<ReplicaId, (Timestamp, bool)>,
    serial: u32,
    ordered: u32,
    serving: Vec<Served>,
    next_scrape: Timestamp,
    is_scraping: bool,
    arrived: u32,
    answered: u32,
    rejected: u32,
    lost: u32,
    scaled: Vec<ScaleEvent>,
    alarms: Vec<String>,
    most: u32,
}

impl World {
    fn new(plan: Plan) -> Self {
        let start = Timestamp::from_secs(1_000_000);
        let rule = HpaRule {
            metrics: vec![MetricSpec {
                source: MetricSource::Signal { name: "requests_demand".into() },
                target: MetricTarget::average_value(i64::from(plan.slots) * 700),
            }],
            ..HpaRule::default()
        };
        let pool = PoolId::from(MODEL);
        let policy = PoolPolicy {
            min_replicas: 0,
            max_replicas: plan.max,
            rule: Rule::Hpa(rule),
            idle: Some(Idle { after: plan.idle_after }),
            fallback: None,
            gpus_per_replica: 0,
            scrape_period: Duration::from_secs(1),
        };
        let spec = ModelSpec {
            model: MODEL.into(),
            pool: pool.clone(),
            policy: Policy { pools: BTreeMap::from([(pool, policy)]), ..Policy::default() },
            queries: vec![MetricQuery::GatewayDemand],
            slots: plan.slots,
            scrape_period: Duration::from_secs(1),
            start_estimate: plan.start,
            drain_timeout: Duration::from_secs(60),
            gateway: GatewayUse::default(),
            removal: Removal::default(),
            mode: Mode::default(),
        };
        let settings = ControlSettings { decision_period: Duration::from_secs(1), budgets: Budgets::default() };
        let mut world = Self {
            plan,
            now: start,
            control: Control::new(settings),
            hold: Hold::new(HoldSettings::default(), 1, start),
            gateway: "g".into(),
            replicas: BTreeMap::new(),
            serial: 0,
            ordered: 0,
            serving: Vec::new(),
            next_scrape: start,
            is_scraping: true,
            arrived: 0,
            answered: 0,
            rejected: 0,
            lost: 0,
            scaled: Vec::new(),
            alarms: Vec::new(),
            most: 0,
        };
        world.feed(Event::Configure(vec![spec]));
        world.report_demand();
        world
    }

    /// Gives an event to the loop and plays its effects, and theirs, to the end.
    fn feed(&mut self, event: Event) {
        let mut queue = VecDeque::from([event]);
        while let Some(event) = queue.pop_front() {
            let mut effects = Vec::new();
            self.control.apply(self.now, event, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Act(Action::SetReplicas { to, remove_first, .. }) => {
                        self.set_replicas(to, &remove_first, &mut queue)
                    }
                    Effect::Act(other) => unreachable!("no order for a scale target: {other:?}"),
                    Effect::Gateway(order) => self.order(order, &mut queue),
                    Effect::Scaled(event) => self.scaled.push(event),
                    Effect::Alarm { text, .. } => self.alarms.push(text),
                    Effect::TargetsChanged | Effect::Decided { .. } => {}
                }
            }
        }
    }

    fn set_replicas(&mut self, to: u32, remove_first: &[ReplicaId], queue: &mut VecDeque<Event>) {
        self.ordered = to;
        self.most = self.most.max(to);
        let to = to as usize;
        // those named go in any case
        let mut victims: Vec<ReplicaId> = remove_first.to_vec();
        let named = victims.len();
        victims.extend(self.replicas.iter().filter(|(_, (_, ready))| !ready).map(|(id, _)| id.clone()));
        victims.extend(self.replicas.keys().rev().cloned());
        for (at, id) in victims.into_iter().enumerate() {
            if at >= named && self.replicas.len() <= to {
                break;
            }
            if self.replicas.remove(&id).is_some() {
                let before = self.serving.len();
                self.serving.retain(|served| served.replica != id);
                self.lost += (before - self.serving.len()) as u32;
                queue.push_back(Event::Replica { replica: id, event: ReplicaEvent::Stopped });
            }
        }
        while self.replicas.len() < to {
            self.serial += 1;
            let id = ReplicaId::new(format!("r{:04}", self.serial));
            self.replicas.insert(id.clone(), (self.now, false));
            let event = ReplicaEvent::Started {
                pool: MODEL.into(),
                address: format!("127.0.0.1:{}", self.serial),
                created_at: self.now,
            };
            queue.push_back(Event::Replica { replica: id, event });
        }
    }

    fn order(&mut self, order: GatewayOrder, queue: &mut VecDeque<Event>) {
        let mut effects = Vec::new();
        match order {
            GatewayOrder::Ack { epoch, expected, .. } => self.hold.acknowledge(self.now, epoch, expected),
            GatewayOrder::Close { epoch, .. } => self.hold.close(self.now, epoch, &mut effects),
            GatewayOrder::ReplicaUp { replica, address, slots, .. } => {
                self.hold.replica_up(self.now, &replica, &address, slots, &mut effects);
            }
            GatewayOrder::Drain { replica, .. } => self.hold.drain(self.now, &replica, &mut effects),
            GatewayOrder::ReplicaDown { replica, .. } => self.hold.replica_down(self.now, &replica, &mut effects),
            GatewayOrder::Outlook { starting, expected, .. } => self.hold.outlook(self.now, starting, expected),
        }
        self.held(effects, queue);
    }

    /// Plays what the hold asks for.
    fn held(&mut self, effects: Vec<HoldEffect>, queue: &mut VecDeque<Event>) {
        let (gateway, model) = (self.gateway.clone(), ModelId::from(MODEL));
        for effect in effects {
            match effect {
                HoldEffect::Grant { request, replica, .. } => {
                    let replica = self
                        .hold
                        .replicas()
                        .find(|view| view.key == replica)
                        .map(|view| view.id.clone())
                        .expect("a granted replica exists");
                    assert!(
                        self.replicas.get(&replica).is_some_and(|(_, ready)| *ready),
                        "granted on {replica}, which is not ready"
                    );
                    self.serving.push(Served { request, replica, ends: self.now.plus(self.plan.service) });
                }
                HoldEffect::Reject { .. } => self.rejected += 1,
                HoldEffect::AbortStream { .. } => self.lost += 1,
                HoldEffect::KeepAlive { .. } | HoldEffect::Requeued { .. } => {}
                HoldEffect::Wake { epoch, held } => {
                    queue.push_back(Event::Gateway(GatewayReport::Wake {
                        gateway: gateway.clone(),
                        model: model.clone(),
                        epoch,
                        held,
                    }));
                }
                HoldEffect::Closed { epoch, accepted } => {
                    queue.push_back(Event::Gateway(GatewayReport::Closed {
                        gateway: gateway.clone(),
                        model: model.clone(),
                        epoch,
                        accepted,
                    }));
                }
                HoldEffect::ReplicaLoad { replica, in_flight } => {
                    queue.push_back(Event::Gateway(GatewayReport::ReplicaLoad {
                        gateway: gateway.clone(),
                        model: model.clone(),
                        replica,
                        in_flight,
                    }));
                }
                HoldEffect::Demand => {
                    let demand = self.hold.demand(self.now, &gateway, &model);
                    queue.push_back(Event::Gateway(GatewayReport::Demand(demand)));
                }
            }
        }
    }

    fn play(&mut self, effects: Vec<HoldEffect>) {
        let mut queue = VecDeque::new();
        self.held(effects, &mut queue);
        for event in queue {
            self.feed(event);
        }
    }

    fn report_demand(&mut self) {
        let demand = self.hold.demand(self.now, &self.gateway, &ModelId::from(MODEL));
        self.feed(Event::Gateway(GatewayReport::Demand(demand)));
    }

    fn arrive(&mut self) {
        self.arrived += 1;
        let mut effects = Vec::new();
        let arrival = Arrival { bytes: 1_000, streamed: false, ttl: None };
        if self.hold.arrive(self.now, arrival, &mut effects).is_err() {
            self.rejected += 1;
        }
        self.play(effects);
    }

    /// One step of time.
    fn step(&mut self) {
        self.now = self.now.plus(STEP);
        let ready: Vec<ReplicaId> = self
            .replicas
            .iter()
            .filter(|(_, (since, ready))| !ready && self.now.since(*since) >= self.plan.start)
            .map(|(id, _)| id.clone())
            .collect();
        for id in ready {
            if let Some(replica) = self.replicas.get_mut(&id) {
                replica.1 = true;
            }
            self.feed(Event::Replica { replica: id, event: ReplicaEvent::Ready });
        }
        let (done, rest): (Vec<Served>, Vec<Served>) =
            std::mem::take(&mut self.serving).into_iter().partition(|served| served.ends <= self.now);
        self.serving = rest;
        for served in done {
            self.answered += 1;
            let mut effects = Vec::new();
            self.hold.first_byte(self.now, served.request, &mut effects);
            self.hold.finished(self.now, served.request, &mut effects);
            self.play(effects);
        }
        if self.now >= self.next_scrape && self.is_scraping {
            self.next_scrape = self.now.plus(Duration::from_secs(1));
            self.scrape();
        }
        let mut effects = Vec::new();
        if self.hold.next_deadline() <= self.now {
            self.hold.tick(self.now, &mut effects);
        }
        self.play(effects);
        if self.control.next_deadline().is_some_and(|at| at <= self.now) {
            self.feed(Event::Tick);
        }
    }

    fn scrape(&mut self) {
        let ids: Vec<ReplicaId> = self.control.scrape_targets().map(|(_, id, _)| id.clone()).collect();
        for id in ids {
            let running = self.serving.iter().filter(|served| served.replica == id).count();
            let page = format!(
                "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{{engine=\"0\",model_name=\"m\"}} {running}.0\n\
                 # TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{{engine=\"0\",model_name=\"m\"}} 0.0\n"
            );
            let reading =
                dialect::read(page.as_bytes(), None, &loadline_signals::exposition::Limits::default()).expect("a page");
            self.feed(Event::Scraped { replica: id, at: self.now, outcome: Ok(Arc::new(reading)) });
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now.plus(span);
        while self.now < end {
            self.step();
        }
    }

    fn run_until(&mut self, limit: Duration, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = self.now.plus(limit);
        while !condition(self) {
            assert!(self.now < end, "not within {limit:?}: {what}; scaled {:#?}", self.scaled);
            self.step();
        }
    }

    fn assert_lawful(&self) {
        assert_eq!(self.control.laws().total(), 0, "{:?} {:?}", self.control.laws(), self.alarms);
        assert_eq!((self.lost, self.rejected), (0, 0), "lost, rejected");
    }
}

#[test]
fn a_wake_starts_a_replica_at_once_and_the_held_request_is_answered() {
    let mut world = World::new(Plan::default());
    world.run(Duration::from_secs(5));
    assert_eq!(world.ordered, 0);
    world.arrive();
    assert_eq!(world.ordered, 1, "decided on the edge, without waiting for a period");
    world.run_until(Duration::from_secs(40), "answered", |world| world.answered == 1);
    world.assert_lawful();
}

#[test]
fn a_burst_scales_out_and_idleness_scales_to_zero() {
    let mut world = World::new(Plan::default());
    for _ in 0..14 {
        world.arrive();
    }
    assert!(world.ordered >= 1);
    world.run(Duration::from_secs(3));
    assert_eq!(world.ordered, 5, "14 requests at 2.8 per replica: {:#?}", world.scaled);
    world.run_until(Duration::from_secs(60), "all answered", |world| world.answered == 14);
    world.run_until(Duration::from_secs(900), "zero", |world| world.ordered == 0 && world.replicas.is_empty());
    world.run(Duration::from_secs(400));
    assert_eq!(world.ordered, 0, "without work it stays at zero: {:#?}", world.scaled);
    assert!(world.scaled.iter().all(|event| !event.reason.is_empty()), "law L8");
    world.assert_lawful();
}

#[test]
fn nothing_is_lost_over_a_hundred_cycles_with_arrivals_on_the_edge_to_zero() {
    for start in [30, 120] {
        let plan = Plan { start: Duration::from_secs(start), idle_after: Duration::from_secs(20), ..Plan::default() };
        let mut world = World::new(plan);
        for cycle in 0..100_u32 {
            world.arrive();
            world.run_until(Duration::from_secs(start + 20), "answered", |world| world.answered == world.arrived);
            // arrivals walk over the edge: from just before the close to just after the end of the process
            world.run_until(Duration::from_secs(400), "about to close", |world| {
                world.scaled.last().is_some_and(|event| event.to == 0) || world.ordered == 0
            });
            for _ in 0..cycle % 4 {
                world.step();
            }
            if cycle % 2 == 0 {
                world.arrive();
                world.run_until(Duration::from_secs(start + 20), "answered", |world| world.answered == world.arrived);
                world.run_until(Duration::from_secs(400), "zero", |world| world.ordered == 0);
            }
        }
        assert_eq!(world.answered, world.arrived);
        world.assert_lawful();
    }
}

#[test]
fn going_down_drains_first_and_returning_demand_takes_the_drain_back() {
    let mut world = World::new(Plan { service: Duration::from_secs(200), ..Plan::default() });
    for _ in 0..6 {
        world.arrive();
    }
    world.run(Duration::from_secs(60));
    assert_eq!(world.ordered, 3, "{:#?}", world.scaled);
    // the long requests end together; afterwards one stays, so that the pool shrinks to one replica
    world.run_until(Duration::from_secs(300), "answered", |world| world.answered == 6);
    world.arrive();
    world.run_until(Duration::from_secs(400), "shrinking", |world| {
        world.scaled.last().is_some_and(|event| event.to < event.from)
    });
    world.run(Duration::from_secs(400));
    assert_eq!(world.answered, 7);
    world.assert_lawful();
}

#[test]
fn silent_engines_forbid_going_down_but_not_up() {
    let mut world = World::new(Plan { service: Duration::from_secs(100), ..Plan::default() });
    for _ in 0..4 {
        world.arrive();
    }
    world.run(Duration::from_secs(50));
    assert_eq!(world.ordered, 2);
    world.is_scraping = false;
    world.run(Duration::from_secs(20));
    for _ in 0..5 {
        world.arrive();
    }
    world.run(Duration::from_secs(5));
    let grown = world.ordered;
    assert!(grown >= 4, "may go up from arrivals: {:#?}", world.scaled);
    world.run(Duration::from_secs(500));
    assert!(
        [0, grown].contains(&world.ordered),
        "only a proven idle pool may shrink, and only to zero: {:#?}",
        world.scaled
    );
    assert!(world.scaled.iter().all(|event| event.to == 0 || event.to >= event.from), "{:#?}", world.scaled);
    world.assert_lawful();
}

#[test]
fn the_same_events_give_the_same_effects() {
    let play = || {
        let mut world = World::new(Plan::default());
        for _ in 0..9 {
            world.arrive();
            world.run(Duration::from_millis(700));
        }
        world.run(Duration::from_secs(500));
        (world.scaled, world.answered)
    };
    assert_eq!(play(), play());
}
