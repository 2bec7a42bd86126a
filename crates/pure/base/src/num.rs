//! Conversions between number types with their rounding and saturation in the name.

/// The nearest double; exact up to 2^53 in magnitude.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "the contract is the nearest double")]
pub const fn i64_to_f64(value: i64) -> f64 {
    value as f64
}

/// The nearest double; exact up to 2^53.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "the contract is the nearest double")]
pub const fn u64_to_f64(value: u64) -> f64 {
    value as f64
}

/// The nearest double; exact up to 2^53.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "the contract is the nearest double")]
pub const fn usize_to_f64(value: usize) -> f64 {
    value as f64
}

/// Truncates toward zero; NaN gives 0, values outside the range give its ends.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "saturating truncation is the contract of a float cast")]
pub const fn f64_to_i64_trunc(value: f64) -> i64 {
    value as i64
}

/// Truncates toward zero; NaN and negative values give 0, values above the range give its end.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturating truncation is the contract of a float cast"
)]
pub const fn f64_to_u64_trunc(value: f64) -> u64 {
    value as u64
}

/// Truncates toward zero; NaN and negative values give 0, values above the range give its end.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturating truncation is the contract of a float cast"
)]
pub const fn f64_to_u32_trunc(value: f64) -> u32 {
    value as u32
}

/// Seconds as a duration: NaN and negative values give zero, values above the range give its end.
#[must_use]
pub fn duration_from_secs(seconds: f64) -> std::time::Duration {
    std::time::Duration::try_from_secs_f64(if seconds > 0.0 { seconds } else { 0.0 })
        .unwrap_or(std::time::Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_values_saturate() {
        for (value, signed, unsigned) in [
            (f64::NAN, 0, 0),
            (f64::INFINITY, i64::MAX, u64::MAX),
            (f64::NEG_INFINITY, i64::MIN, 0),
            (-1.9, -1, 0),
            (1.9, 1, 1),
        ] {
            assert_eq!(f64_to_i64_trunc(value), signed);
            assert_eq!(f64_to_u64_trunc(value), unsigned);
        }
        assert_eq!(duration_from_secs(f64::NAN), std::time::Duration::ZERO);
        assert_eq!(duration_from_secs(1.5), std::time::Duration::from_millis(1500));
        assert_eq!(duration_from_secs(f64::INFINITY), std::time::Duration::MAX);
    }
}
