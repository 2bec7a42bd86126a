//! Values and timestamps.

use loadline_base::{Timestamp, num};

/// Digits of a second that a [`Timestamp`] holds.
const NANO_DIGITS: usize = 9;

/// A decimal float, `NaN`, or an infinity in any case; hexadecimal, octal and grouped digits are refused, as Prometheus refuses them.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    match text {
        "0.0" | "0" => Some(0.0),
        "1.0" | "1" => Some(1.0),
        _ => text.parse().ok(),
    }
}

/// Integer milliseconds, as the text format has them.
pub(crate) fn parse_millis(text: &str) -> Option<Timestamp> {
    let millis: i64 = text.parse().ok()?;
    Some(Timestamp::from_nanos(millis.saturating_mul(1_000_000)))
}

/// Seconds with a fraction, as OpenMetrics has them: exact to the nanosecond in plain notation, to a double's precision in exponent form.
pub(crate) fn parse_seconds(text: &str) -> Option<Timestamp> {
    let seconds: f64 = text.parse().ok().filter(|value: &f64| value.is_finite())?;
    Some(exact_seconds(text).unwrap_or_else(|| Timestamp::from_nanos(num::f64_to_i64_trunc((seconds * 1e9).round()))))
}

fn exact_seconds(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let whole = whole.strip_prefix(['+', '-']).unwrap_or(whole);
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) || !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut nanos: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    for digit in fraction.bytes().chain(std::iter::repeat(b'0')).take(NANO_DIGITS) {
        nanos = nanos.checked_mul(10)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(Timestamp::from_nanos(if negative { -nanos } else { nanos }))
}
