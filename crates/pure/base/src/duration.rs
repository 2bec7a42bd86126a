//! Durations as people write them: Go's form (`5m0s`, `1.5h`, `300ms`) and Prometheus's (`1h30m`, `1d`, `2w`).

use std::time::Duration;
use thiserror::Error;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DurationError {
    /// Nothing was written.
    #[error("a duration is empty; write for example `30s`, `5m` or `1h30m`")]
    Empty,
    /// A number without a unit, or a unit that does not exist.
    #[error(
        "`{text}` is not a duration: a number needs one of the units ns, us, ms, s, m, h, d, w, y (for example `30s`)"
    )]
    Unit {
        /// The text as given.
        text: String,
    },
    /// A part that is no number.
    #[error("`{text}` is not a duration: expected a number at byte {offset} (for example `30s`)")]
    Number {
        /// The text as given.
        text: String,
        /// Where the number was expected.
        offset: usize,
    },
    /// Too long to represent.
    #[error("`{text}` is longer than can be represented")]
    TooLong {
        /// The text as given.
        text: String,
    },
}

/// Nanoseconds in each unit; longer names first where one is the prefix of another.
const UNITS: [(&str, f64); 10] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3_600e9),
    ("d", 86_400e9),
    ("w", 604_800e9),
    ("y", 31_536_000e9),
];

/// Reads a non-negative duration in Go's or Prometheus's form; a bare `0` is allowed, as in both.
///
/// # Errors
/// Says which part is wrong and shows a right one.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(DurationError::Empty);
    }
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = trimmed;
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let value: f64 = number
            .parse()
            .map_err(|_| DurationError::Number { text: text.to_owned(), offset: trimmed.len() - rest.len() })?;
        let (unit, scale) = UNITS
            .iter()
            .find(|(unit, _)| tail.strip_prefix(unit).is_some_and(|after| !after.starts_with(char::is_alphabetic)))
            .ok_or_else(|| DurationError::Unit { text: text.to_owned() })?;
        nanos += value * scale;
        rest = tail.strip_prefix(unit).unwrap_or("");
    }
    if nanos >= crate::num::u64_to_f64(u64::MAX) {
        return Err(DurationError::TooLong { text: text.to_owned() });
    }
    Ok(Duration::from_nanos(crate::num::f64_to_u64_trunc(nanos.round())))
}

/// Writes a duration in the shortest form that [`parse_duration`] reads back to the same value: `1h30m`, `1.5s`, `250ms`, `0s`.
#[must_use]
pub fn format_duration(span: Duration) -> String {
    let mut nanos = span.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, size) in [("d", 86_400_000_000_000_u128), ("h", 3_600_000_000_000), ("m", 60_000_000_000)] {
        if nanos >= size {
            out.push_str(&format!("{}{unit}", nanos / size));
            nanos %= size;
        }
    }
    if nanos == 0 {
        return out;
    }
    let (unit, size) = if nanos >= 1_000_000_000 || !out.is_empty() {
        ("s", 1_000_000_000_u128)
    } else if nanos >= 1_000_000 {
        ("ms", 1_000_000)
    } else if nanos >= 1_000 {
        ("us", 1_000)
    } else {
        ("ns", 1)
    };
    out.push_str(&(nanos / size).to_string());
    let fraction = nanos % size;
    if fraction > 0 {
        let width = size.to_string().len() - 1;
        out.push('.');
        out.push_str(format!("{fraction:0width$}").trim_end_matches('0'));
    }
    out.push_str(unit);
    out
}

/// Serde form for fields that are written as text durations: `#[serde(with = "loadline_base::duration::text")]`.
pub mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::time::Duration;

    /// Writes the duration in its shortest form.
    ///
    /// # Errors
    /// Only those of the serializer.
    pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_duration(*span))
    }

    /// Reads a duration in Go's or Prometheus's form.
    ///
    /// # Errors
    /// When the text is no duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        super::parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_grammars_are_read() {
        for (text, expect) in [
            ("5m0s", Duration::from_secs(300)),
            ("1h30m", Duration::from_secs(5_400)),
            ("1.5s", Duration::from_millis(1_500)),
            ("300ms", Duration::from_millis(300)),
            ("1d", Duration::from_secs(86_400)),
            ("0", Duration::ZERO),
            ("10us", Duration::from_micros(10)),
        ] {
            assert_eq!(parse_duration(text), Ok(expect), "{text}");
        }
    }

    #[test]
    fn wrong_texts_say_what_to_write() {
        for text in ["", "5", "5x", "m", "-5s", "5s5", "1.2.3s", "999999999999y"] {
            let error = parse_duration(text).expect_err(text).to_string();
            assert!(error.contains("example") || error.contains("longer"), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn writing_and_reading_is_the_identity(nanos in 0_u64..4_000_000_000_000_000) {
            let span = Duration::from_nanos(nanos);
            let back = parse_duration(&format_duration(span)).expect("own form");
            // doubles carry 53 bits: exact for every span written here up to 4e15 ns
            proptest::prop_assert_eq!(back, span);
        }
    }
}
