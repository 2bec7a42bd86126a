//! Which model is due when, so that an event costs what it touches and not what there is.

use loadline_base::{ModelId, Timestamp};
use std::collections::BTreeSet;

/// Models by the time at which something is due for them, the earliest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Due {
    queue: BTreeSet<(Timestamp, ModelId)>,
}

impl Due {
    /// Moves a model from the time it was entered with to another; `None` is not entered.
    pub(crate) fn set(&mut self, model: &ModelId, entered: &mut Option<Timestamp>, at: Option<Timestamp>) {
        if *entered == at {
            return;
        }
        if let Some(old) = std::mem::replace(entered, at) {
            self.queue.remove(&(old, model.clone()));
        }
        if let Some(at) = at {
            self.queue.insert((at, model.clone()));
        }
    }

    /// The earliest time.
    pub(crate) fn first(&self) -> Option<Timestamp> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Models that are due, at most `limit`, the longest due first.
    pub(crate) fn by(&self, now: Timestamp, limit: usize) -> Vec<ModelId> {
        self.queue.iter().take_while(|(at, _)| *at <= now).take(limit).map(|(_, model)| model.clone()).collect()
    }
}
