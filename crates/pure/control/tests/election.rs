//! Elections against a store that loses, delays and reorders what it is asked, and processes that stop, pause and come back.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use loadline_base::Timestamp;
use loadline_control::election::{Election, ElectionSettings, ElectionStep, LeaseRecord, SettingsError};
use proptest::prelude::*;
use std::time::Duration;

const STEP_MS: i64 = 100;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_nanos(ms * 1_000_000)
}

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        i64::try_from((bits ^ (bits >> 31)) % u64::try_from(limit.max(1)).expect("positive")).expect("small")
    }

    fn one_in(&mut self, n: i64) -> bool {
        self.below(n) == 0
    }
}

enum Asked {
    Read,
    Write(LeaseRecord),
}

enum Answer {
    Record(Option<LeaseRecord>),
    Stored(LeaseRecord),
    Refused,
}

struct Pending {
    id: u64,
    started: Timestamp,
    give_up: Timestamp,
    is_write: bool,
}

struct Process {
    election: Election,
    /// This process's clock is ahead of the world by this much.
    ahead_ms: i64,
    pending: Option<Pending>,
    is_dead: bool,
    paused_until: i64,
}

struct World {
    now: i64,
    chance: Chance,
    faults: bool,
    record: Option<LeaseRecord>,
    version: u64,
    to_store: Vec<(i64, usize, u64, Asked)>,
    to_process: Vec<(i64, usize, u64, Answer)>,
    processes: Vec<Process>,
    serial: u64,
}

impl World {
    fn new(seed: u64, count: usize, faults: bool) -> Self {
        let mut chance = Chance(seed);
        let processes = (0..count).map(|index| Process {
            election: Election::new(ElectionSettings::new(format!("p{index}"), seed ^ index as u64)).expect("defaults"),
            ahead_ms: chance.below(7_200_000) - 3_600_000,
            pending: None,
            is_dead: false,
            paused_until: 0,
        });
        let processes = processes.collect();
        Self {
            now: 10_000_000,
            chance,
            faults,
            record: None,
            version: 0,
            to_store: Vec::new(),
            to_process: Vec::new(),
            processes,
            serial: 0,
        }
    }

    fn delay(&mut self) -> i64 {
        if self.faults && self.chance.one_in(6) { self.chance.below(25_000) } else { self.chance.below(200) }
    }

    fn is_lost(&mut self) -> bool {
        self.faults && self.chance.one_in(8)
    }

    fn store(&mut self) {
        let (due, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.to_store).into_iter().partition(|(when, ..)| *when <= self.now);
        self.to_store = rest;
        for (_, process, id, asked) in due {
            let answer = match asked {
                Asked::Read => Answer::Record(self.record.clone()),
                Asked::Write(mut record) => {
                    let stored = self.record.as_ref().and_then(|record| record.resource_version.clone());
                    if record.resource_version == stored {
                        self.version += 1;
                        record.resource_version = Some(self.version.to_string());
                        self.record = Some(record.clone());
                        Answer::Stored(record)
                    } else {
                        Answer::Refused
                    }
                }
            };
            if !self.is_lost() {
                let when = self.now + self.delay();
                self.to_process.push((when, process, id, answer));
            }
        }
    }

    fn answer(&mut self) {
        let (due, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.to_process).into_iter().partition(|(when, ..)| *when <= self.now);
        self.to_process = rest;
        for (_, index, id, answer) in due {
            let process = &mut self.processes[index];
            if process.is_dead || process.pending.as_ref().is_none_or(|pending| pending.id != id) {
                continue;
            }
            let pending = process.pending.take().expect("checked");
            let now = at(self.now + process.ahead_ms);
            match answer {
                Answer::Record(record) => process.election.observe(now, record),
                Answer::Stored(record) => process.election.wrote(pending.started, now, Ok(record)),
                Answer::Refused => process.election.wrote(pending.started, now, Err("conflict".to_owned())),
            }
        }
    }

    fn run_process(&mut self, index: usize) {
        let process = &mut self.processes[index];
        if process.is_dead || process.paused_until > self.now {
            return;
        }
        let now = at(self.now + process.ahead_ms);
        if let Some(pending) = process.pending.take_if(|pending| pending.give_up <= now) {
            if pending.is_write {
                process.election.wrote(pending.started, now, Err("timed out".to_owned()));
            } else {
                process.election.read_failed(now, "timed out".to_owned());
            }
        }
        if process.pending.is_some() {
            return;
        }
        let step = process.election.next(now);
        assert_eq!(step, process.election.next(now), "asking twice gives the same");
        let asked = match step {
            ElectionStep::Wait(until) => {
                assert!(until > now, "a wait is in the future");
                return;
            }
            ElectionStep::Read => Asked::Read,
            ElectionStep::Write(record) => Asked::Write(record),
        };
        self.serial += 1;
        let is_write = matches!(asked, Asked::Write(_));
        let give_up = process.election.give_up_at(now);
        process.pending = Some(Pending { id: self.serial, started: now, give_up, is_write });
        if !self.is_lost() {
            let when = self.now + self.delay();
            self.to_store.push((when, index, self.serial, asked));
        }
    }

    fn writers(&self) -> Vec<usize> {
        let is_writer = |process: &Process| process.election.is_writer(at(self.now + process.ahead_ms));
        (0..self.processes.len()).filter(|index| is_writer(&self.processes[*index])).collect()
    }

    fn step(&mut self) {
        self.now += STEP_MS;
        self.store();
        self.answer();
        for index in 0..self.processes.len() {
            self.run_process(index);
        }
        // a dead or paused process counts: what it has sent may still be on its way until its deadline
        let writers = self.writers();
        assert!(writers.len() <= 1, "{writers:?} write at {}", self.now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn at_most_one_writes_whatever_is_lost_or_late(seed in any::<u64>(), count in 1_usize..6) {
        let mut world = World::new(seed, count, true);
        let mut served = 0;
        for _ in 0..3_000 {
            world.step();
            served += world.writers().len();
            let index = usize::try_from(world.chance.below(i64::try_from(count).expect("few"))).expect("few");
            if world.chance.one_in(150) {
                let span = world.chance.below(60_000);
                world.processes[index].paused_until = world.now + span;
            } else if world.chance.one_in(400) {
                // killed, and started again under a new name
                let name = format!("p{index}-{}", world.now);
                world.processes[index].election = Election::new(ElectionSettings::new(name, seed)).expect("defaults");
                world.processes[index].pending = None;
            } else if world.chance.one_in(400) {
                let now = at(world.now + world.processes[index].ahead_ms);
                if let Some(record) = world.processes[index].election.release(now) {
                    let when = world.now + world.delay();
                    world.to_store.push((when, index, u64::MAX, Asked::Write(record)));
                }
                let name = format!("p{index}+{}", world.now);
                world.processes[index].election = Election::new(ElectionSettings::new(name, seed)).expect("defaults");
                world.processes[index].pending = None;
            }
        }
        // the end of all faults: somebody writes again
        world.faults = false;
        world.processes.iter_mut().for_each(|process| process.paused_until = 0);
        for _ in 0..600 {
            world.step();
        }
        prop_assert_eq!(world.writers().len(), 1, "{} steps with a writer before", served);
    }

    #[test]
    fn a_dead_holder_is_replaced_in_time(seed in any::<u64>(), count in 2_usize..6) {
        let mut world = World::new(seed, count, false);
        for _ in 0..100 + world.chance.below(100) {
            world.step();
        }
        let [holder] = world.writers()[..] else { panic!("nobody writes without any fault") };
        world.processes[holder].is_dead = true;
        let died = world.now;
        while world.writers().is_empty() || world.writers() == [holder] {
            world.step();
            // duration, twice the retry period, and the way of two requests
            prop_assert!(world.now - died <= 15_000 + 2 * 2_000 + 1_000, "nobody took over");
        }
    }
}

#[test]
fn a_release_lets_the_next_one_in_at_once() {
    let mut world = World::new(7, 2, false);
    for _ in 0..100 {
        world.step();
    }
    let [holder] = world.writers()[..] else { panic!("nobody writes") };
    let now = at(world.now + world.processes[holder].ahead_ms);
    let record = world.processes[holder].election.release(now).expect("it held it");
    assert!(record.holder.is_empty() && !world.processes[holder].election.is_writer(now));
    assert_eq!(world.processes[holder].election.next(now), ElectionStep::Wait(Timestamp::MAX));
    world.to_store.push((world.now, holder, u64::MAX, Asked::Write(record)));
    for _ in 0..30 {
        world.step();
    }
    assert_eq!(world.writers(), [1 - holder], "within a retry period");
}

fn held_by(holder: &str, renew: i64, version: &str) -> LeaseRecord {
    LeaseRecord {
        holder: holder.to_owned(),
        duration: Duration::from_secs(15),
        acquire_time: at(0),
        renew_time: at(renew),
        transitions: 3,
        resource_version: Some(version.to_owned()),
    }
}

#[test]
fn only_a_change_seen_here_counts() {
    let mut me = Election::new(ElectionSettings::new("me", 1)).expect("defaults");
    // its own times are a day old by this clock, and say nothing
    me.observe(at(100_000), Some(held_by("other", -86_400_000, "5")));
    assert!(matches!(me.next(at(100_000)), ElectionStep::Wait(_)));
    // another version of the same words (an annotation) is no renewal
    me.observe(at(108_000), Some(held_by("other", -86_400_000, "6")));
    me.observe(at(114_999), Some(held_by("other", -86_400_000, "6")));
    assert_eq!(me.next(at(114_999)), ElectionStep::Wait(at(115_000)));
    assert_eq!(me.next(at(115_000)), ElectionStep::Read);
    me.observe(at(115_000), Some(held_by("other", -86_400_000, "6")));
    let ElectionStep::Write(record) = me.next(at(115_000)) else { panic!("expired") };
    assert_eq!((record.holder.as_str(), record.transitions), ("me", 4));
    assert_eq!(record.resource_version.as_deref(), Some("6"));
    // a renewal at the last moment starts the wait again
    me.wrote(at(115_000), at(115_010), Err("conflict".to_owned()));
    assert_eq!(me.last_error(), Some("conflict"));
    me.observe(at(118_000), Some(held_by("other", -86_300_000, "7")));
    assert!(matches!(me.next(at(132_000)), ElectionStep::Read));
    me.observe(at(132_000), Some(held_by("other", -86_300_000, "7")));
    assert!(matches!(me.next(at(132_000)), ElectionStep::Wait(_)));
    assert!(!me.is_writer(at(132_000)) && me.holder() == Some("other"));
}

#[test]
fn losing_needs_no_event_and_a_new_hold_is_another_term() {
    let mut me = Election::new(ElectionSettings::new("me", 1)).expect("defaults");
    me.observe(at(0), None);
    let ElectionStep::Write(record) = me.next(at(0)) else { panic!("nobody holds it") };
    assert_eq!(record.resource_version, None, "to be created");
    // the answer took 3 s: the deadline counts from the start
    me.wrote(at(0), at(3_000), Ok(LeaseRecord { resource_version: Some("1".to_owned()), ..record }));
    assert_eq!((me.write_deadline(), me.writer_term(at(9_999))), (Some(at(10_000)), Some(1)));
    assert_eq!(me.writer_term(at(10_000)), None);
    let ElectionStep::Write(record) = me.next(at(11_000)) else { panic!("still its own record") };
    me.wrote(at(11_000), at(11_100), Ok(LeaseRecord { resource_version: Some("2".to_owned()), ..record }));
    assert_eq!(me.writer_term(at(11_100)), Some(2));
    // somebody else has it: over at once
    me.observe(at(12_000), Some(held_by("other", 1, "3")));
    assert!(!me.is_writer(at(12_000)) && me.write_deadline().is_none());
}

#[test]
fn a_deleted_record_does_not_make_its_holder_stop() {
    let mut me = Election::new(ElectionSettings::new("me", 1)).expect("defaults");
    me.observe(at(0), Some(held_by("other", 1, "3")));
    me.observe(at(2_000), None);
    assert!(matches!(me.next(at(2_000)), ElectionStep::Wait(_)));
    me.observe(at(16_999), None);
    assert!(matches!(me.next(at(16_999)), ElectionStep::Wait(_)));
    me.observe(at(17_000), None);
    assert!(matches!(me.next(at(17_000)), ElectionStep::Write(_)));
}

#[test]
fn settings_that_could_let_two_write_are_refused() {
    let good = ElectionSettings::new("me", 1);
    let seconds = Duration::from_secs;
    let order = |lease, renew, retry| ElectionSettings {
        lease_duration: seconds(lease),
        renew_deadline: seconds(renew),
        retry_period: seconds(retry),
        ..good.clone()
    };
    for wrong in [order(10, 10, 2), order(15, 16, 2), order(15, 4, 2), order(15, 10, 0)] {
        assert!(matches!(Election::new(wrong), Err(SettingsError::Order { .. })));
    }
    let fraction = ElectionSettings { lease_duration: Duration::from_millis(15_500), ..good.clone() };
    assert!(matches!(Election::new(fraction), Err(SettingsError::NotWholeSeconds(_))));
    assert!(matches!(Election::new(ElectionSettings::new("", 1)), Err(SettingsError::NoIdentity)));
    assert!(Election::new(good).is_ok());
}
