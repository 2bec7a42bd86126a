//! A bounded ring of points.

use loadline_base::Timestamp;
use std::collections::VecDeque;

/// One kept value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When it was scraped.
    pub at: Timestamp,
    /// The value; of cumulative series the total over restarts.
    pub total: f64,
}

#[derive(Debug, Clone)]
pub(super) struct History {
    points: VecDeque<Point>,
    capacity: usize,
}

impl History {
    pub(super) const fn new(capacity: usize) -> Self {
        Self { points: VecDeque::new(), capacity }
    }

    pub(super) fn push(&mut self, point: Point) {
        while self.points.len() >= self.capacity.max(1) {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }

    pub(super) fn points(&self) -> impl Iterator<Item = Point> {
        self.points.iter().copied()
    }
}
