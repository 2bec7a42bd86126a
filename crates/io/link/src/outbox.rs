//! Levels that wait to be sent: a newer one takes the place of an older one about the same.

use loadline_base::{ModelId, ReplicaId};
use loadline_hold::protocol::{Demand, GatewayOrder, GatewayReport};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Something of which only the latest matters.
pub(crate) trait Level: Clone + std::fmt::Debug {
    /// What it is about.
    type Subject: Ord + Clone + std::fmt::Debug;
    /// What this one is about.
    fn subject(&self) -> Self::Subject;
    /// Other subjects that this one makes void.
    fn voids(&self) -> Vec<Self::Subject>;
    /// Takes up what an older one about the same said that must not be lost.
    fn after(&mut self, older: &Self);
    /// Whether it may be dropped when there is no room: it will be said again.
    fn is_droppable(&self) -> bool;
}

/// What a report is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ReportSubject {
    Demand(ModelId),
    Wake(ModelId),
    Closed(ModelId),
    Load(ModelId, ReplicaId),
}

impl Level for GatewayReport {
    type Subject = ReportSubject;

    fn subject(&self) -> ReportSubject {
        match self {
            Self::Demand(demand) => ReportSubject::Demand(demand.model.clone()),
            Self::Wake { model, .. } => ReportSubject::Wake(model.clone()),
            Self::Closed { model, .. } => ReportSubject::Closed(model.clone()),
            Self::ReplicaLoad { model, replica, .. } => ReportSubject::Load(model.clone(), replica.clone()),
        }
    }

    fn voids(&self) -> Vec<ReportSubject> {
        Vec::new()
    }

    fn after(&mut self, older: &Self) {
        if let (Self::Demand(newer), Self::Demand(older)) = (self, older) {
            newer.peak = newer.peak.max(older.peak);
        }
    }

    fn is_droppable(&self) -> bool {
        matches!(self, Self::Demand(_) | Self::ReplicaLoad { .. })
    }
}

/// What an order is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum OrderSubject {
    Ack(ModelId),
    Close(ModelId),
    Outlook(ModelId),
    Up(ModelId, ReplicaId),
    Drain(ModelId, ReplicaId),
    Down(ModelId, ReplicaId),
}

impl Level for GatewayOrder {
    type Subject = OrderSubject;

    fn subject(&self) -> OrderSubject {
        match self {
            Self::Ack { model, .. } => OrderSubject::Ack(model.clone()),
            Self::Close { model, .. } => OrderSubject::Close(model.clone()),
            Self::Outlook { model, .. } => OrderSubject::Outlook(model.clone()),
            Self::ReplicaUp { model, replica, .. } => OrderSubject::Up(model.clone(), replica.clone()),
            Self::Drain { model, replica } => OrderSubject::Drain(model.clone(), replica.clone()),
            Self::ReplicaDown { model, replica } => OrderSubject::Down(model.clone(), replica.clone()),
        }
    }

    fn voids(&self) -> Vec<OrderSubject> {
        match self {
            Self::ReplicaUp { model, replica, .. } => vec![OrderSubject::Drain(model.clone(), replica.clone())],
            Self::ReplicaDown { model, replica } => vec![
                OrderSubject::Up(model.clone(), replica.clone()),
                OrderSubject::Drain(model.clone(), replica.clone()),
            ],
            _ => Vec::new(),
        }
    }

    fn after(&mut self, _older: &Self) {}

    fn is_droppable(&self) -> bool {
        false
    }
}

/// The model an order is for.
pub(crate) fn model_of_order(order: &GatewayOrder) -> &ModelId {
    match order {
        GatewayOrder::Ack { model, .. }
        | GatewayOrder::Close { model, .. }
        | GatewayOrder::ReplicaUp { model, .. }
        | GatewayOrder::Drain { model, .. }
        | GatewayOrder::ReplicaDown { model, .. }
        | GatewayOrder::Outlook { model, .. } => model,
    }
}

/// The model a report is about.
pub(crate) fn model_of_report(report: &GatewayReport) -> &ModelId {
    match report {
        GatewayReport::Demand(Demand { model, .. })
        | GatewayReport::Wake { model, .. }
        | GatewayReport::Closed { model, .. }
        | GatewayReport::ReplicaLoad { model, .. } => model,
    }
}

/// The levels themselves, in the order of their last change.
#[derive(Debug)]
pub(crate) struct Levels<T: Level> {
    entries: BTreeMap<u64, T>,
    places: BTreeMap<T::Subject, u64>,
    next: u64,
}

impl<T: Level> Default for Levels<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), places: BTreeMap::new(), next: 0 }
    }
}

impl<T: Level> Levels<T> {
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn forget(&mut self, subject: &T::Subject) -> Option<T> {
        self.places.remove(subject).and_then(|place| self.entries.remove(&place))
    }

    /// Puts a level at the end; false if there is no room and nothing to drop for it.
    pub(crate) fn push(&mut self, mut level: T, most: usize) -> bool {
        let subject = level.subject();
        if let Some(older) = self.forget(&subject) {
            level.after(&older);
        }
        for void in level.voids() {
            self.forget(&void);
        }
        if self.entries.len() >= most {
            let droppable = self.entries.values().find(|older| older.is_droppable()).map(Level::subject);
            match droppable {
                Some(droppable) => drop(self.forget(&droppable)),
                None => return false,
            }
        }
        self.next += 1;
        self.places.insert(subject, self.next);
        self.entries.insert(self.next, level);
        true
    }

    /// Whether something about this waits.
    pub(crate) fn holds(&self, subject: &T::Subject) -> bool {
        self.places.contains_key(subject)
    }

    /// Takes the oldest.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let (_, level) = self.entries.pop_first()?;
        self.places.remove(&level.subject());
        Some(level)
    }
}

/// Levels behind a lock, with a bell.
#[derive(Debug)]
pub(crate) struct Outbox<T: Level> {
    levels: Mutex<Levels<T>>,
    bell: Notify,
    most: usize,
}

impl<T: Level> Outbox<T> {
    pub(crate) fn new(most: usize) -> Self {
        Self { levels: Mutex::default(), bell: Notify::new(), most }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Levels<T>> {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a level; false if there is no room.
    pub(crate) fn push(&self, level: T) -> bool {
        let fits = self.lock().push(level, self.most);
        self.bell.notify_one();
        fits
    }

    /// Takes the oldest.
    pub(crate) fn pop(&self) -> Option<T> {
        self.lock().pop()
    }

    /// Completes after the next change, or at once if there was one since it last completed.
    pub(crate) async fn changed(&self) {
        self.bell.notified().await;
    }

    /// Rings without a change.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }
}

/// Reports that were written to a connection and may be lost with it.
#[derive(Debug, Default)]
pub(crate) struct Unacknowledged {
    entries: BTreeMap<u64, GatewayReport>,
    sent: u64,
}

impl Unacknowledged {
    /// A report was written.
    pub(crate) fn sent(&mut self, report: GatewayReport) {
        self.sent += 1;
        self.entries.insert(self.sent, report);
    }

    /// The peer has taken in so many of this connection's reports.
    pub(crate) fn received(&mut self, count: u64) {
        self.entries = self.entries.split_off(&count.saturating_add(1));
    }

    /// How many wait for an acknowledgement.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The connection is lost: what may be lost with it goes back, before what is newer.
    pub(crate) fn give_back(self, outbox: &Outbox<GatewayReport>) {
        let mut levels = outbox.lock();
        let newer = std::mem::take(&mut *levels);
        let most = outbox.most;
        for report in self.entries.into_values().chain(newer.entries.into_values()) {
            // what finds no room can be dropped, or an older one about another model was in its place
            levels.push(report, most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadline_base::{GatewayId, Timestamp};
    use proptest::prelude::*;

    fn demand(model: &str, sequence: u64, peak: u32) -> GatewayReport {
        GatewayReport::Demand(Demand {
            gateway: GatewayId::from("ns/g"),
            model: ModelId::from(model),
            sequence,
            held: 0,
            in_flight: 0,
            peak,
            arrivals_total: 0,
            idle_since: None,
            at: Timestamp::ZERO,
        })
    }

    fn wake(model: &str, epoch: u64) -> GatewayReport {
        GatewayReport::Wake { gateway: GatewayId::from("ns/g"), model: ModelId::from(model), epoch, held: 1 }
    }

    fn closed(model: &str, epoch: u64) -> GatewayReport {
        GatewayReport::Closed { gateway: GatewayId::from("ns/g"), model: ModelId::from(model), epoch, accepted: true }
    }

    fn load(replica: &str, in_flight: u32) -> GatewayReport {
        let (gateway, model) = (GatewayId::from("ns/g"), ModelId::from("ns/m"));
        GatewayReport::ReplicaLoad { gateway, model, replica: ReplicaId::from(replica), in_flight }
    }

    fn drained<T: Level>(outbox: &Outbox<T>) -> Vec<T> {
        std::iter::from_fn(|| outbox.pop()).collect()
    }

    #[test]
    fn demand_keeps_its_greatest_peak_and_goes_behind_what_was_said_between() {
        let outbox = Outbox::new(10);
        for report in [demand("ns/a", 1, 9), wake("ns/a", 1), demand("ns/b", 2, 1), demand("ns/a", 3, 4)] {
            assert!(outbox.push(report));
        }
        assert_eq!(drained(&outbox), [wake("ns/a", 1), demand("ns/b", 2, 1), demand("ns/a", 3, 9)]);
    }

    #[test]
    fn what_is_lost_with_a_connection_goes_back_unless_something_newer_is_there() {
        let outbox = Outbox::new(10);
        let mut unacknowledged = Unacknowledged::default();
        for report in [closed("ns/a", 1), load("r", 3), wake("ns/b", 1), demand("ns/a", 1, 7)] {
            unacknowledged.sent(report);
        }
        unacknowledged.received(1);
        assert!(outbox.push(load("r", 0)) && outbox.push(demand("ns/a", 2, 1)));
        assert_eq!(unacknowledged.len(), 3);
        unacknowledged.give_back(&outbox);
        assert_eq!(drained(&outbox), [wake("ns/b", 1), load("r", 0), demand("ns/a", 2, 7)]);
    }

    #[test]
    fn orders_about_a_replica_void_older_ones_that_say_the_opposite() {
        let (model, replica) = (ModelId::from("ns/m"), ReplicaId::from("ns/p"));
        let up = GatewayOrder::ReplicaUp {
            model: model.clone(),
            replica: replica.clone(),
            address: "127.0.0.1:1".to_owned(),
            slots: 1,
        };
        let drain = GatewayOrder::Drain { model: model.clone(), replica: replica.clone() };
        let down = GatewayOrder::ReplicaDown { model, replica };
        for (pushed, expect) in [
            (vec![&up, &drain], vec![&up, &drain]),
            (vec![&drain, &up], vec![&up]),
            (vec![&up, &drain, &up], vec![&up]),
            (vec![&up, &drain, &down], vec![&down]),
            (vec![&down, &up], vec![&down, &up]),
            (vec![&down, &up, &down], vec![&down]),
        ] {
            let outbox = Outbox::new(10);
            assert!(pushed.iter().all(|order| outbox.push((*order).clone())));
            assert_eq!(drained(&outbox).iter().collect::<Vec<_>>(), expect, "{pushed:?}");
        }
    }

    #[test]
    fn without_room_for_an_order_it_says_so() {
        let outbox = Outbox::new(1);
        let close = |model: &str| GatewayOrder::Close { model: ModelId::from(model), epoch: 1 };
        assert!(outbox.push(close("ns/a")) && outbox.push(close("ns/a")) && !outbox.push(close("ns/b")));
    }

    fn any_report() -> impl Strategy<Value = GatewayReport> {
        (0..4_u8, 0..3_u8, 0..100_u32).prop_map(|(kind, model, number)| {
            let model = format!("ns/{model}");
            match kind {
                0 => demand(&model, u64::from(number), number),
                1 => wake(&model, u64::from(number)),
                2 => closed(&model, u64::from(number)),
                _ => load(&number.to_string(), 1),
            }
        })
    }

    proptest! {
        /// However little room there is, the last wake and answer of each model come through, and the queue is bounded.
        #[test]
        fn wakes_and_answers_are_never_dropped(reports in proptest::collection::vec(any_report(), 0..200)) {
            let outbox = Outbox::new(6);
            let mut expect = BTreeMap::new();
            for report in reports {
                if !report.is_droppable() {
                    expect.insert(report.subject(), report.clone());
                }
                let fits = outbox.push(report.clone());
                prop_assert!(fits || report.is_droppable());
                prop_assert!(outbox.lock().len() <= 6);
            }
            let sent: BTreeMap<_, _> =
                drained(&outbox).into_iter().filter(|r| !r.is_droppable()).map(|r| (r.subject(), r)).collect();
            prop_assert_eq!(sent, expect);
        }
    }
}
