//! A cluster in miniature: a scale target that makes and ends pods as a Deployment or a StatefulSet does, engines whose pages are read
//! every second, and gateways, if there are any.

use loadline_base::{Labels, PoolId, ReplicaId, Timestamp};
use loadline_control::{
    Control, ControlSettings, Effect, Event, GatewayUse, MetricQuery, Mode, ModelSpec, Removal, ReplicaEvent,
    ScaleEvent,
};
use loadline_hold::protocol::{Demand, GatewayOrder, GatewayReport};
use loadline_policy::hpa::{HpaRule, MetricSource, MetricSpec, MetricTarget};
use loadline_policy::{Action, Budgets, Idle, Policy, PoolDecision, PoolPolicy, Rule};
use loadline_signals::dialect::{NamedQueries, NamedQuery, SignalName, read_with};
use loadline_signals::exposition::Limits;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// Requests that a replica should run.
pub(crate) const TARGET: f64 = 4.0;

pub(crate) struct Pod {
    pub created: Timestamp,
    pub is_ready: bool,
    pub ends: Option<Timestamp>,
    /// No node has room.
    pub is_homeless: bool,
    /// Its page cannot be read.
    pub is_silent: bool,
    /// Instead of its share of the load.
    pub running: Option<f64>,
}

pub(crate) struct World {
    pub now: Timestamp,
    pub control: Control,
    pub spec: ModelSpec,
    pub pods: BTreeMap<ReplicaId, Pod>,
    /// `spec.replicas` of the target.
    pub target: u32,
    pub start: Duration,
    /// How much time passes in one step.
    pub stride: Duration,
    pub grace: Duration,
    /// Requests in the system.
    pub load: f64,
    /// Pods that find a node; more stay pending.
    pub room: usize,
    pub gateway_speaks: bool,
    pub idle_since: Option<Timestamp>,
    pub is_scraping: bool,
    /// Requests a draining replica has at the gateway.
    pub busy: BTreeMap<ReplicaId, u32>,
    /// Replicas that the gateways give nothing new.
    closed: BTreeSet<ReplicaId>,
    /// Pages that were read before, by their number of requests.
    pages: BTreeMap<u64, Arc<loadline_signals::dialect::Reading>>,
    pub acts: Vec<(u32, u32, Vec<ReplicaId>)>,
    pub orders: Vec<GatewayOrder>,
    pub scaled: Vec<ScaleEvent>,
    pub alarms: Vec<String>,
    pub decided: Option<PoolDecision>,
    serial: u32,
    sequence: u64,
    costs: BTreeSet<ReplicaId>,
}

/// Running requests at [`TARGET`] per replica, 1 to 10 replicas.
pub(crate) fn policy(change: impl FnOnce(&mut PoolPolicy)) -> Policy {
    let metric = MetricSpec {
        source: MetricSource::Signal { name: "requests_running".into() },
        target: MetricTarget::average_value(4_000),
    };
    let mut pool = PoolPolicy {
        min_replicas: 1,
        max_replicas: 10,
        rule: Rule::Hpa(HpaRule { metrics: vec![metric], ..HpaRule::default() }),
        idle: Some(Idle { after: Duration::from_secs(60) }),
        fallback: None,
        gpus_per_replica: 0,
        scrape_period: SECOND,
    };
    change(&mut pool);
    Policy { pools: BTreeMap::from([(PoolId::from("m"), pool)]), ..Policy::default() }
}

pub(crate) fn spec(gateway: GatewayUse, policy: Policy) -> ModelSpec {
    ModelSpec {
        model: "m".into(),
        pool: "m".into(),
        policy,
        queries: vec![MetricQuery::Engine(SignalName::RequestsRunning)],
        slots: 8,
        scrape_period: SECOND,
        start_estimate: Duration::from_secs(20),
        drain_timeout: Duration::from_secs(30),
        gateway,
        removal: Removal::Named,
        mode: Mode::Active,
    }
}

impl World {
    /// A target with `count` pods that have served for long, found by a loop without memory.
    pub(crate) fn new(spec: ModelSpec, count: u32) -> Self {
        let now = Timestamp::from_secs(1_000_000);
        let settings = ControlSettings { decision_period: SECOND, budgets: Budgets::default() };
        let mut world = Self {
            now,
            control: Control::restore(settings, loadline_control::Checkpoint::default()),
            spec,
            pods: BTreeMap::new(),
            target: count,
            start: Duration::from_secs(20),
            stride: SECOND,
            grace: Duration::from_secs(2),
            load: f64::from(count) * TARGET,
            room: 1_000,
            gateway_speaks: true,
            idle_since: None,
            is_scraping: true,
            busy: BTreeMap::new(),
            closed: BTreeSet::new(),
            pages: BTreeMap::new(),
            acts: Vec::new(),
            orders: Vec::new(),
            scaled: Vec::new(),
            alarms: Vec::new(),
            decided: None,
            serial: 0,
            sequence: 0,
            costs: BTreeSet::new(),
        };
        for _ in 0..count {
            let id = world.free_name();
            let created = now.minus(Duration::from_secs(3_600));
            let pod = Pod { created, is_ready: true, ends: None, is_homeless: false, is_silent: false, running: None };
            world.pods.insert(id, pod);
        }
        world.introduce();
        world
    }

    /// What a process that has just become the writer is told.
    pub(crate) fn introduce(&mut self) {
        self.feed(Event::Configure(vec![self.spec.clone()]));
        for id in self.pods.keys().cloned().collect::<Vec<_>>() {
            self.feed(self.started(&id));
            if self.pods.get(&id).is_some_and(|pod| pod.is_ready) {
                self.say(&id, ReplicaEvent::Ready);
            }
        }
        self.feed(Event::Counted { pool: "m".into(), replicas: self.target });
    }

    /// Another process takes over with what the last checkpoint said.
    pub(crate) fn take_over(&mut self, checkpoint: loadline_control::Checkpoint) {
        let text = serde_json::to_string(&checkpoint).expect("serialisable");
        let settings = ControlSettings { decision_period: SECOND, budgets: Budgets::default() };
        self.control = Control::restore(settings, serde_json::from_str(&text).expect("the same"));
        self.introduce();
    }

    fn started(&self, id: &ReplicaId) -> Event {
        let created_at = self.pods.get(id).map_or(self.now, |pod| pod.created);
        let event = ReplicaEvent::Started { pool: "m".into(), address: format!("{id}:8000"), created_at };
        Event::Replica { replica: id.clone(), event }
    }

    pub(crate) fn say(&mut self, id: &ReplicaId, event: ReplicaEvent) {
        self.feed(Event::Replica { replica: id.clone(), event });
    }

    pub(crate) fn feed(&mut self, event: Event) {
        let mut queue = VecDeque::from([event]);
        while let Some(event) = queue.pop_front() {
            let mut effects = Vec::new();
            self.control.apply(self.now, event, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Act(Action::SetReplicas { from, to, remove_first, .. }) => {
                        self.target = to;
                        self.costs = remove_first.iter().cloned().collect();
                        self.acts.push((from, to, remove_first));
                    }
                    Effect::Act(other) => panic!("no order for a scale target: {other:?}"),
                    Effect::Gateway(order) => {
                        match &order {
                            GatewayOrder::Drain { replica, .. } | GatewayOrder::ReplicaDown { replica, .. } => {
                                self.closed.insert(replica.clone());
                            }
                            GatewayOrder::ReplicaUp { replica, .. } => {
                                self.closed.remove(replica);
                            }
                            _ => {}
                        }
                        self.gateway(&order, &mut queue);
                        self.orders.push(order);
                    }
                    Effect::Scaled(event) => self.scaled.push(event),
                    Effect::Alarm { text, .. } => self.alarms.push(text),
                    Effect::Decided { decision, .. } => self.decided = Some(*decision),
                    Effect::TargetsChanged => {}
                }
            }
        }
    }

    fn gateway(&self, order: &GatewayOrder, queue: &mut VecDeque<Event>) {
        let (gateway, model) = ("g".into(), "m".into());
        match order {
            GatewayOrder::Drain { replica, .. } => {
                let in_flight = self.busy.get(replica).copied().unwrap_or(0);
                let replica = replica.clone();
                queue.push_back(Event::Gateway(GatewayReport::ReplicaLoad { gateway, model, replica, in_flight }));
            }
            GatewayOrder::Close { epoch, .. } => {
                let accepted = self.load == 0.0;
                let epoch = *epoch;
                queue.push_back(Event::Gateway(GatewayReport::Closed { gateway, model, epoch, accepted }));
            }
            _ => {}
        }
    }

    /// The draining replica has nothing left at the gateway.
    pub(crate) fn drained(&mut self, id: &ReplicaId) {
        self.busy.remove(id);
        let (gateway, model, replica) = ("g".into(), "m".into(), id.clone());
        self.feed(Event::Gateway(GatewayReport::ReplicaLoad { gateway, model, replica, in_flight: 0 }));
    }

    pub(crate) fn demand(&mut self) {
        if self.spec.gateway == GatewayUse::Absent || !self.gateway_speaks {
            return;
        }
        self.sequence += 1;
        let load = self.load as u32;
        self.idle_since = if load == 0 { self.idle_since.or(Some(self.now)) } else { None };
        let serves = self.pods.values().any(|pod| pod.is_ready);
        self.feed(Event::Gateway(GatewayReport::Demand(Demand {
            gateway: "g".into(),
            model: "m".into(),
            sequence: self.sequence,
            held: if serves { 0 } else { load },
            in_flight: if serves { load } else { 0 },
            peak: load,
            arrivals_total: 0,
            idle_since: self.idle_since,
            at: self.now,
        })));
    }

    fn free_name(&mut self) -> ReplicaId {
        if self.spec.removal == Removal::HighestOrdinal {
            let free = (0..1_000).map(|n| ReplicaId::new(format!("ns/m-{n}"))).find(|id| !self.pods.contains_key(id));
            return free.expect("some ordinal is free");
        }
        self.serial += 1;
        // names whose order is not that of their age
        ReplicaId::new(format!("ns/m-x{}", (self.serial * 7) % 1_000))
    }

    /// What the target's controller does.
    fn reconcile(&mut self) {
        let alive: Vec<ReplicaId> =
            self.pods.iter().filter(|(_, pod)| pod.ends.is_none()).map(|(id, _)| id.clone()).collect();
        let target = self.target as usize;
        // a name is free once its pod is gone
        let taken = if self.spec.removal == Removal::HighestOrdinal { self.pods.len() } else { alive.len() };
        for _ in taken..target {
            let id = self.free_name();
            let is_homeless = self.pods.values().filter(|pod| !pod.is_homeless).count() >= self.room;
            let pod =
                Pod { created: self.now, is_ready: false, ends: None, is_homeless, is_silent: false, running: None };
            self.pods.insert(id.clone(), pod);
            self.feed(self.started(&id));
            if is_homeless {
                let why = "0/4 nodes are available: 4 Insufficient nvidia.com/gpu".to_owned();
                self.say(&id, ReplicaEvent::Unschedulable { why });
            }
        }
        let mut victims = alive.clone();
        match self.spec.removal {
            Removal::HighestOrdinal => victims.reverse(),
            Removal::Named => victims.sort_by_key(|id| {
                let is_ready = self.pods.get(id).is_some_and(|pod| pod.is_ready);
                (!self.costs.contains(id), is_ready, id.clone())
            }),
            Removal::Unknown => {}
        }
        for id in victims.into_iter().take(alive.len().saturating_sub(target)) {
            self.end(&id);
        }
        let is_at_rest = self.pods.len() == target && self.pods.values().all(|pod| pod.ends.is_none());
        if is_at_rest {
            self.feed(Event::Settled { pool: "m".into(), replicas: self.target });
        }
    }

    /// Pods as they are when `count` were asked for long ago, without anybody being told.
    pub(crate) fn reconcile_quietly(&mut self, count: u32) {
        while self.pods.len() < count as usize {
            let id = self.free_name();
            let created = self.now.minus(SECOND * 600);
            let pod = Pod { created, is_ready: true, ends: None, is_homeless: false, is_silent: false, running: None };
            self.pods.insert(id, pod);
        }
    }

    /// A pod is deleted.
    pub(crate) fn end(&mut self, id: &ReplicaId) {
        if let Some(pod) = self.pods.get_mut(id) {
            pod.ends = Some(self.now.plus(self.grace));
            pod.is_ready = false;
        }
        self.say(id, ReplicaEvent::Ending);
    }

    pub(crate) fn step(&mut self) {
        self.now = self.now.plus(self.stride);
        for id in self.pods.keys().cloned().collect::<Vec<_>>() {
            let Some(pod) = self.pods.get_mut(&id) else { continue };
            if pod.ends.is_some_and(|at| at <= self.now) {
                self.pods.remove(&id);
                self.say(&id, ReplicaEvent::Stopped);
            } else if !pod.is_ready
                && !pod.is_homeless
                && pod.ends.is_none()
                && self.now.since(pod.created) >= self.start
            {
                pod.is_ready = true;
                self.say(&id, ReplicaEvent::Ready);
            }
        }
        self.reconcile();
        self.demand();
        if self.is_scraping {
            self.scrape();
        }
        if self.control.next_deadline().is_some_and(|at| at <= self.now) {
            self.feed(Event::Tick);
        }
    }

    pub(crate) fn scrape(&mut self) {
        let ids: Vec<ReplicaId> = self.control.scrape_targets().map(|(_, id, _)| id.clone()).collect();
        let ready = self.pods.iter().filter(|(id, pod)| pod.is_ready && !self.closed.contains(*id)).count();
        let share = if ready == 0 { 0.0 } else { self.load / ready as f64 };
        for id in ids {
            let Some(pod) = self.pods.get(&id) else { continue };
            let outcome = if pod.is_silent {
                Err("connection refused".to_owned())
            } else {
                let takes = pod.is_ready && !self.closed.contains(&id);
                let own = if takes { share } else { f64::from(self.busy.get(&id).copied().unwrap_or(0)) };
                let running = pod.running.unwrap_or(own);
                Ok(Arc::clone(self.pages.entry(running.to_bits()).or_insert_with(|| page(running))))
            };
            self.feed(Event::Scraped { replica: id, at: self.now, outcome });
        }
    }

    pub(crate) fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.step();
        }
    }

    /// Hours in which nothing is read anyway.
    pub(crate) fn run_hours(&mut self, hours: u64) {
        self.stride = SECOND * 20;
        self.run(hours * 180);
        self.stride = SECOND;
    }

    pub(crate) fn ids(&self) -> Vec<ReplicaId> {
        self.pods.keys().cloned().collect()
    }

    /// Everything a person was told, now and in steps.
    pub(crate) fn said(&self) -> String {
        let steps = self.decided.iter().flat_map(|decided| &decided.steps).map(ToString::to_string);
        self.alarms.iter().cloned().chain(steps).collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn assert_lawful(&self) {
        assert_eq!(self.control.laws().total(), 0, "{:?} {:#?}", self.control.laws(), self.alarms);
        assert!(self.scaled.iter().all(|event| !event.reason.is_empty()), "law L8: {:#?}", self.scaled);
    }
}

/// A page of vLLM with this many running requests.
pub(crate) fn page(running: f64) -> Arc<loadline_signals::dialect::Reading> {
    let named = NamedQueries::new(&[NamedQuery { name: "queue".into(), matching: Labels::new() }]);
    let text = format!(
        "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{{model_name=\"m\"}} {running}\n\
         # TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{{model_name=\"m\"}} 0.0\nqueue {running}\n"
    );
    Arc::new(read_with(text.as_bytes(), None, &named, &Limits::default()).expect("a page"))
}
