//! Latency distributions in microseconds of model time.

use hdrhistogram::Histogram;
use loadline_base::num;
use serde::Serialize;
use std::time::Duration;

/// The longest latency that is told apart: a day.
const MAX_MICROS: u64 = 86_400_000_000;
/// Relative error of a quantile is at most one thousandth.
const DIGITS: u8 = 3;

/// Quantiles in seconds; absent where nothing was measured.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Quantiles {
    /// Half are at most this.
    pub p50: Option<f64>,
    /// 95 of 100 are at most this.
    pub p95: Option<f64>,
    /// 99 of 100 are at most this.
    pub p99: Option<f64>,
    /// The greatest.
    pub max: Option<f64>,
    /// The mean.
    pub mean: Option<f64>,
}

/// A distribution of durations.
#[derive(Debug)]
pub(crate) struct Latencies(Option<Histogram<u64>>);

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, MAX_MICROS, DIGITS).ok())
    }

    pub(crate) fn record(&mut self, span: Duration) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(u64::try_from(span.as_micros()).unwrap_or(MAX_MICROS));
        }
    }

    pub(crate) fn quantiles(&self) -> Quantiles {
        let Some(histogram) = self.0.as_ref().filter(|histogram| !histogram.is_empty()) else {
            return Quantiles::default();
        };
        let seconds = |micros: u64| num::u64_to_f64(micros) / 1e6;
        let at = |quantile| Some(seconds(histogram.value_at_quantile(quantile)));
        Quantiles {
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            max: Some(seconds(histogram.max())),
            mean: Some(histogram.mean() / 1e6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_thousandth_and_absent_without_values() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.quantiles(), Quantiles::default());
        for millis in 1..=1000 {
            latencies.record(Duration::from_millis(millis));
        }
        let quantiles = latencies.quantiles();
        for (found, expect) in [
            (quantiles.p50, 0.5),
            (quantiles.p95, 0.95),
            (quantiles.p99, 0.99),
            (quantiles.max, 1.0),
            (quantiles.mean, 0.5005),
        ] {
            let found = found.expect("recorded");
            assert!((found / expect - 1.0).abs() < 0.002, "{found} for {expect}");
        }
        latencies.record(Duration::MAX);
        assert!(latencies.quantiles().max.expect("recorded") > 86_000.0, "saturates");
    }
}
