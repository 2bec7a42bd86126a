//! What a histogram counted between two scrapes, and quantiles of it.

use thiserror::Error;

/// Why two scrapes of a histogram cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HistogramError {
    /// The bucket edges differ.
    #[error("the two scrapes have different bucket edges")]
    Edges,
    /// A bucket went down: give totals that ignore restarts.
    #[error("a bucket went down between the two scrapes: its process restarted")]
    Reset,
}

/// Cumulative counts of what happened between two scrapes.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramDelta {
    /// Upper edge and observations at or below it, edges ascending.
    pub buckets: Vec<(f64, f64)>,
}

impl HistogramDelta {
    /// Subtracts an earlier scrape from a later one, both as cumulative `(edge, count)` in ascending order.
    ///
    /// # Errors
    /// When the edges differ or a bucket went down.
    pub fn between(earlier: &[(f64, f64)], later: &[(f64, f64)]) -> Result<Self, HistogramError> {
        let aligned =
            earlier.len() == later.len() && earlier.iter().zip(later).all(|(one, two)| one.0.total_cmp(&two.0).is_eq());
        if !aligned {
            return Err(HistogramError::Edges);
        }
        if earlier.iter().zip(later).any(|(one, two)| two.1 < one.1) {
            return Err(HistogramError::Reset);
        }
        Ok(Self { buckets: earlier.iter().zip(later).map(|(one, two)| (two.0, two.1 - one.1)).collect() })
    }

    /// Observations between the scrapes.
    #[must_use]
    pub fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |bucket| bucket.1)
    }

    /// See [`quantile`].
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        quantile(&self.buckets, q)
    }
}

/// Estimates a quantile of cumulative buckets by linear interpolation inside its bucket, as Prometheus' `histogram_quantile` does: the lowest bucket
/// begins at zero if its edge is positive, and a quantile in the infinite bucket is the highest finite edge.
///
/// `None` without observations, without an infinite bucket, with fewer than two buckets, or for `q` outside 0 to 1.
#[must_use]
pub fn quantile(buckets: &[(f64, f64)], q: f64) -> Option<f64> {
    let (last, finite) = buckets.split_last()?;
    let (highest, _) = finite.last()?;
    if !(0.0..=1.0).contains(&q) || last.0 != f64::INFINITY || last.1.is_nan() || last.1 <= 0.0 {
        return None;
    }
    let rank = q * last.1;
    let Some(at) = finite.iter().position(|(_, count)| *count >= rank) else {
        return Some(*highest);
    };
    let (upper, count) = *finite.get(at)?;
    let (lower, below) = match at.checked_sub(1).and_then(|before| finite.get(before)) {
        Some(before) => *before,
        None if upper <= 0.0 => return Some(upper),
        None => (0.0, 0.0),
    };
    let inside = count - below;
    Some(if inside > 0.0 { lower + (upper - lower) * ((rank - below) / inside) } else { lower })
}
