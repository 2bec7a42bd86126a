//! A histogram with fixed edges, as exposition pages show them.

use loadline_base::num;

/// Edges of vLLM's `iteration_tokens_total` (vLLM 0.32 page).
pub const ITERATION_TOKEN_EDGES: [f64; 13] =
    [1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];

/// Counts per bucket, the last one without an upper edge, and the sum of all observations.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    edges: Vec<f64>,
    counts: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    /// An empty one; `edges` are upper bounds, inclusive and ascending, without infinity.
    #[must_use]
    pub fn new(edges: &[f64]) -> Self {
        Self { edges: edges.to_vec(), counts: vec![0; edges.len() + 1], count: 0, sum: 0.0 }
    }

    /// Counts one value.
    pub fn observe(&mut self, value: f64) {
        self.observe_times(value, 1);
    }

    /// Counts one value several times.
    pub fn observe_times(&mut self, value: f64, times: u64) {
        let bucket = self.edges.partition_point(|edge| *edge < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += times;
        }
        self.count += times;
        self.sum += value * num::u64_to_f64(times);
    }

    /// The upper bounds.
    #[must_use]
    pub fn edges(&self) -> &[f64] {
        &self.edges
    }

    /// Observations at or below each edge, and at last all of them.
    pub fn cumulative(&self) -> impl Iterator<Item = u64> + '_ {
        self.counts.iter().scan(0, |total, count| {
            *total += count;
            Some(*total)
        })
    }

    /// Number of observations.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Sum of the observations.
    #[must_use]
    pub const fn sum(&self) -> f64 {
        self.sum
    }
}
