//! When the writer must hear how much there is, and what it hears.

use crate::machine::Hold;
use crate::protocol::Demand;
use loadline_base::{GatewayId, ModelId, Timestamp};
use std::time::Duration;

/// The least time between two reports, apart from the first one after idleness was reported.
const LEAST_GAP: Duration = Duration::from_millis(100);
/// The longest time between two reports.
const LONGEST_GAP: Duration = Duration::from_secs(1);

/// The pace of reports of demand.
///
/// The edge from nothing to something is reported at once whenever the last report said "nothing". While a report that
/// says "something" stands, further edges wait for the next regular report, so that quick single requests do not make
/// thousands of reports a second.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    arrivals: u64,
    peak: u32,
    idle_since: Option<Timestamp>,
    sequence: u64,
    reported_at: Timestamp,
    reported: (u32, u32, u64),
}

impl Load {
    pub(crate) const fn new(now: Timestamp) -> Self {
        Self { arrivals: 0, peak: 0, idle_since: Some(now), sequence: 0, reported_at: now, reported: (0, 0, 0) }
    }

    /// A request was read.
    pub(crate) fn arrived(&mut self, now: Timestamp) {
        self.arrivals += 1;
        self.idle_since = self.idle_since.map(|_| now);
    }

    /// When the next report is due.
    pub(crate) fn due(&self, held: u32, in_flight: u32) -> Timestamp {
        let changed = self.reported != (held, in_flight, self.arrivals);
        self.reported_at.plus(if changed { LEAST_GAP } else { LONGEST_GAP })
    }

    /// Takes the counts after an event; true if a report is due now.
    pub(crate) fn follow(&mut self, now: Timestamp, held: u32, in_flight: u32) -> bool {
        let total = held.saturating_add(in_flight);
        self.peak = self.peak.max(total);
        if total > 0 {
            self.idle_since = None;
        } else if self.idle_since.is_none() {
            self.idle_since = Some(now);
        }
        let said_nothing = self.reported.0 == 0 && self.reported.1 == 0;
        (total > 0 && said_nothing) || now >= self.due(held, in_flight)
    }
}

impl Hold {
    /// The report that is due; starts the time to the next one.
    pub fn demand(&mut self, now: Timestamp, gateway: &GatewayId, model: &ModelId) -> Demand {
        let (held, in_flight) = (self.held(), self.replicas.in_flight());
        let load = &mut self.load;
        load.sequence += 1;
        load.reported_at = now;
        load.reported = (held, in_flight, load.arrivals);
        let peak = std::mem::replace(&mut load.peak, held.saturating_add(in_flight));
        Demand {
            gateway: gateway.clone(),
            model: model.clone(),
            sequence: load.sequence,
            held,
            in_flight,
            peak: peak.max(held.saturating_add(in_flight)),
            arrivals_total: load.arrivals,
            idle_since: load.idle_since,
            at: now,
        }
    }

    /// Requests read since the start, refused ones included.
    #[must_use]
    pub fn arrivals_total(&self) -> u64 {
        self.load.arrivals
    }
}
