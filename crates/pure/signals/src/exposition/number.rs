//! Values and timestamps.

use loadline_base::{Timestamp, num};

/// Digits of a second that a [`Timestamp`] holds.
const NANO_DIGITS: usize = 9;

/// The powers of ten that a double holds exactly and that [`short_decimal`] divides by.
const POWERS_OF_TEN: [f64; 20] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19];

/// Whole numbers up to here are exact in a double.
const EXACT: u64 = 1 << 53;

/// Digits that always fit in 64 bits.
const SAFE_DIGITS: usize = 19;

/// A decimal float, `NaN`, or an infinity in any case; hexadecimal, octal and grouped digits are refused, as Prometheus refuses them.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    match short_decimal(text.as_bytes()) {
        Some((value, [])) => Some(value),
        _ => text.parse().ok(),
    }
}

/// Splits the next word off and reads it as a float.
pub(super) fn split_float(text: &str) -> Option<(f64, &str)> {
    if let Some((value, rest)) = short_decimal(text.as_bytes())
        && matches!(rest.first(), None | Some(b' ' | b'\t'))
    {
        return Some((value, text.get(text.len() - rest.len()..)?));
    }
    let (word, rest) = super::line::next_word(text);
    Some((word.parse().ok()?, rest))
}

/// Reads digits with at most one point among or behind them, up to the first other byte, if the result is certain to be the nearest double: both the
/// digits and the power of ten are exact in a double, so that the one division rounds correctly (Clinger, "How to read floating point numbers
/// accurately", 1990).
fn short_decimal(text: &[u8]) -> Option<(f64, &[u8])> {
    let (whole, after) = digits(0, text);
    let count = text.len() - after.len();
    if count == 0 || count > SAFE_DIGITS {
        return None;
    }
    let [b'.', fraction @ ..] = after else {
        return (whole <= EXACT).then(|| (num::u64_to_f64(whole), after));
    };
    if let [b'0', rest @ ..] = fraction
        && !rest.first().is_some_and(u8::is_ascii_digit)
    {
        return (whole <= EXACT).then(|| (num::u64_to_f64(whole), rest));
    }
    let (all, rest) = digits(whole, fraction);
    let places = fraction.len() - rest.len();
    let power = POWERS_OF_TEN.get(places)?;
    (count + places <= SAFE_DIGITS && all <= EXACT).then(|| (num::u64_to_f64(all) / power, rest))
}

/// Appends the leading digits of a text to a number; wraps where there are more than [`SAFE_DIGITS`].
fn digits(start: u64, text: &[u8]) -> (u64, &[u8]) {
    let mut number = start;
    let mut rest = text;
    while let [digit @ b'0'..=b'9', tail @ ..] = rest {
        number = number.wrapping_mul(10).wrapping_add(u64::from(*digit - b'0'));
        rest = tail;
    }
    (number, rest)
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
