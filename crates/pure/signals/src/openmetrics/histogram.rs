//! The rules of one histogram at one time.

use super::rule;
use crate::exposition::LineProblem;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HistogramCheck {
    last_edge: Option<f64>,
    last_value: f64,
    has_negative_edge: bool,
    count: Option<f64>,
    has_sum: bool,
    gauge_sum: Option<f64>,
}

impl HistogramCheck {
    pub(super) fn sample(
        &mut self,
        line: &str,
        suffix: &str,
        edge: Option<f64>,
        value: f64,
    ) -> Result<(), LineProblem> {
        match (suffix, edge) {
            ("_bucket", Some(edge)) => {
                if self.last_edge.is_some_and(|last| edge <= last) {
                    return Err(rule(line, "buckets must stand in increasing order of `le`"));
                }
                if value < self.last_value {
                    return Err(rule(line, "buckets are cumulative: a value is smaller than the one before"));
                }
                self.has_negative_edge |= edge < 0.0;
                self.last_edge = Some(edge);
                self.last_value = value;
            }
            ("_count" | "_gcount", _) => self.count = Some(value),
            ("_sum", _) => self.has_sum = true,
            ("_gsum", _) => self.gauge_sum = Some(value),
            _ => {}
        }
        Ok(())
    }

    #[expect(clippy::float_cmp, reason = "counts are whole numbers that must agree exactly")]
    pub(super) fn finish(self, line: &str) -> Result<(), LineProblem> {
        let any_sum = self.has_sum || self.gauge_sum.is_some();
        let broken = if self.last_edge != Some(f64::INFINITY) {
            "the histogram before this line lacks its `+Inf` bucket"
        } else if self.count.is_some_and(|count| count != self.last_value) {
            "the count of the histogram before this line differs from its `+Inf` bucket"
        } else if any_sum != self.count.is_some() {
            "the histogram before this line has a sum without a count, or a count without a sum"
        } else if self.has_negative_edge && self.has_sum {
            "the histogram before this line has negative buckets and therefore cannot have a sum"
        } else if !self.has_negative_edge && self.gauge_sum.is_some_and(|sum| sum < 0.0) {
            "the histogram before this line has a negative sum without negative buckets"
        } else {
            return Ok(());
        };
        Err(rule(line, broken))
    }
}
