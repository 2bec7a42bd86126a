//! Tables of single situations; random sequences are in [`model`].

mod close;
mod model;
mod situations;

use crate::{Arrival, Effect, Hold, HoldSettings, RequestKey};
use loadline_base::{ReplicaId, Timestamp};
use std::time::Duration;

const ARRIVAL: Arrival = Arrival { bytes: 10, streamed: false, ttl: None };
const STREAM: Arrival = Arrival { bytes: 10, streamed: true, ttl: None };

fn at(seconds: f64) -> Timestamp {
    Timestamp::ZERO.plus(Duration::from_secs_f64(seconds))
}

fn replica(name: &str) -> ReplicaId {
    ReplicaId::from(name)
}

/// A hold under test that forgets reports of demand.
struct Bench {
    hold: Hold,
    effects: Vec<Effect>,
}

impl Bench {
    fn new(settings: HoldSettings) -> Self {
        Self { hold: Hold::new(settings, 7, Timestamp::ZERO), effects: Vec::new() }
    }

    fn plain() -> Self {
        Self::new(HoldSettings { ramp: false, ..HoldSettings::default() })
    }

    fn take(&mut self) -> Vec<Effect> {
        self.effects.drain(..).filter(|effect| *effect != Effect::Demand).collect()
    }

    fn up(&mut self, now: f64, name: &str, slots: u32) -> Vec<Effect> {
        self.hold.replica_up(at(now), &replica(name), "127.0.0.1:1", slots, &mut self.effects);
        self.take()
    }

    fn arrive(&mut self, now: f64) -> (RequestKey, Vec<Effect>) {
        let key = self.hold.arrive(at(now), ARRIVAL, &mut self.effects).expect("admitted");
        (key, self.take())
    }

    fn tick(&mut self, now: f64) -> Vec<Effect> {
        self.hold.tick(at(now), &mut self.effects);
        self.take()
    }

    fn finish(&mut self, now: f64, key: RequestKey) -> Vec<Effect> {
        self.hold.finished(at(now), key, &mut self.effects);
        self.take()
    }
}

fn granted(effects: &[Effect]) -> Vec<RequestKey> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Grant { request, .. } => Some(*request),
            _ => None,
        })
        .collect()
}
