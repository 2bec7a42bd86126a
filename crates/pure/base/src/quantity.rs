//! Kubernetes resource quantities, exactly (`resource.Quantity` of apimachinery).

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

const NANO: i128 = 1_000_000_000;

/// Which suffix family a quantity is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum QuantityFormat {
    /// `n u m "" k M G T P E`.
    #[default]
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`.
    BinarySi,
    /// `1e3`.
    DecimalExponent,
}

/// An exact number of nano-units with the suffix family it was written in.
///
/// Values finer than a nano-unit are rounded away from zero on reading, as apimachinery does. Values whose magnitude
/// exceeds 2^63-1 whole units are capped there, as apimachinery does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Quantity {
    nanos: i128,
    format: QuantityFormat,
}

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// The text does not match the grammar.
    #[error("`{text}` is not a quantity: write a number with an optional suffix such as `500m`, `2`, `1k` or `16Gi`")]
    Syntax {
        /// The text as given.
        text: String,
    },
}

impl Quantity {
    /// A quantity from milli-units, written in decimal form.
    #[must_use]
    pub const fn from_milli(milli: i64) -> Self {
        Self { nanos: milli as i128 * 1_000_000, format: QuantityFormat::DecimalSi }
    }

    /// The same value in another suffix family.
    #[must_use]
    pub const fn with_format(self, format: QuantityFormat) -> Self {
        Self { nanos: self.nanos, format }
    }

    /// The suffix family it was written in.
    #[must_use]
    pub const fn format(self) -> QuantityFormat {
        self.format
    }

    /// Exact nano-units.
    #[must_use]
    pub const fn nanos(self) -> i128 {
        self.nanos
    }

    /// Milli-units, rounded away from zero (`MilliValue`), saturating at the ends of the range.
    #[must_use]
    pub fn milli_value(self) -> i64 {
        let (quotient, remainder) = (self.nanos / 1_000_000, self.nanos % 1_000_000);
        let rounded = quotient + remainder.signum();
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }

    /// The nearest double (`AsApproximateFloat64`).
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "the contract is the nearest double")]
    pub fn approximate_f64(self) -> f64 {
        let (whole, part) = (self.nanos / NANO, self.nanos % NANO);
        if part == 0 { whole as f64 } else { self.nanos as f64 / NANO as f64 }
    }

    /// Whether the value is zero.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    #[must_use]
    pub const fn signum(self) -> i128 {
        self.nanos.signum()
    }
}

/// The scale of a suffix: a power of ten, or of two.
fn suffix_scale(suffix: &str) -> Option<(QuantityFormat, i32, u32)> {
    use QuantityFormat::{BinarySi, DecimalExponent, DecimalSi};
    Some(match suffix {
        "n" => (DecimalSi, -9, 0),
        "u" => (DecimalSi, -6, 0),
        "m" => (DecimalSi, -3, 0),
        "" => (DecimalSi, 0, 0),
        "k" => (DecimalSi, 3, 0),
        "M" => (DecimalSi, 6, 0),
        "G" => (DecimalSi, 9, 0),
        "T" => (DecimalSi, 12, 0),
        "P" => (DecimalSi, 15, 0),
        "E" => (DecimalSi, 18, 0),
        "Ki" => (BinarySi, 0, 10),
        "Mi" => (BinarySi, 0, 20),
        "Gi" => (BinarySi, 0, 30),
        "Ti" => (BinarySi, 0, 40),
        "Pi" => (BinarySi, 0, 50),
        "Ei" => (BinarySi, 0, 60),
        other => {
            let exponent = other.strip_prefix(['e', 'E'])?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            (DecimalExponent, exponent.parse::<i32>().ok()?.clamp(-40, 40), 0)
        }
    })
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let syntax = || QuantityError::Syntax { text: text.to_owned() };
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let negative = text.starts_with('-');
        let number_end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(syntax());
        }
        let (format, ten, two) = suffix_scale(suffix).ok_or_else(syntax)?;
        // cap: apimachinery holds at most 2^63-1 whole units
        let cap = i128::from(i64::MAX) * NANO;
        // digits beyond these cannot matter: 2^63 has 19 digits, nano has 9, suffixes add at most 19
        let mut mantissa: i128 = 0;
        let mut scale = 9 + ten;
        let mut inexact = false;
        let mut dropped: i32 = 0;
        for (digit, in_fraction) in whole.bytes().map(|d| (d, false)).chain(fraction.bytes().map(|d| (d, true))) {
            if mantissa > 10_i128.pow(28) {
                inexact |= digit != b'0';
                dropped = dropped.saturating_add(i32::from(!in_fraction));
            } else {
                mantissa = mantissa * 10 + i128::from(digit - b'0');
                scale -= i32::from(in_fraction);
            }
        }
        scale = scale.saturating_add(dropped);
        let mut nanos = mantissa.checked_mul(1_i128 << two).unwrap_or(cap);
        if scale >= 0 {
            nanos = 10_i128.checked_pow(scale.unsigned_abs()).and_then(|p| nanos.checked_mul(p)).unwrap_or(cap);
            if mantissa == 0 {
                nanos = 0;
            }
        } else {
            let divisor = 10_i128.checked_pow(scale.unsigned_abs()).unwrap_or(i128::MAX);
            inexact |= nanos % divisor != 0;
            nanos /= divisor;
        }
        nanos = (nanos + i128::from(inexact)).min(cap);
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: the largest suffix that leaves no fraction; binary suffixes only for whole numbers of at least 1024.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos / NANO;
        if self.format == QuantityFormat::BinarySi && self.nanos % NANO == 0 && whole.abs() >= 1024 {
            let mut value = whole;
            let mut suffix = "";
            for next in ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"] {
                if value % 1024 != 0 {
                    break;
                }
                value /= 1024;
                suffix = next;
            }
            return write!(f, "{value}{suffix}");
        }
        let mut value = self.nanos;
        let mut exponent = -9;
        while value % 1000 == 0 && exponent < 18 {
            value /= 1000;
            exponent += 3;
        }
        if self.format == QuantityFormat::DecimalExponent {
            return if exponent == 0 { write!(f, "{value}") } else { write!(f, "{value}e{exponent}") };
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        };
        write!(f, "{value}{suffix}")
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    /// Accepts text, and the bare numbers that YAML authors write.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity such as `500m`, `2` or `16Gi`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Quantity, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Quantity, E> {
                self.visit_str(&value.to_string())
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Quantity, E> {
                self.visit_str(&value.to_string())
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Quantity, E> {
                self.visit_str(&value.to_string())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_canonically() {
        for (text, canonical, milli) in [
            ("0", "0", 0),
            ("1", "1", 1_000),
            ("1.5", "1500m", 1_500),
            ("500m", "500m", 500),
            ("100u", "100u", 1),
            ("-100u", "-100u", -1),
            ("1500m", "1500m", 1_500),
            ("2000m", "2", 2_000),
            ("1k", "1k", 1_000_000),
            ("1Ki", "1Ki", 1_024_000),
            ("1.5Gi", "1536Mi", 1_610_612_736_000),
            ("512", "512", 512_000),
            ("1e3", "1e3", 1_000_000),
            ("1E3", "1e3", 1_000_000),
            ("0.1n", "1n", 1),
            (".5", "500m", 500),
            ("5.", "5", 5_000),
            ("9223372036854775808", "9223372036854775807", i64::MAX),
            ("100000000000000000000000000000000000", "9223372036854775807", i64::MAX),
        ] {
            let quantity: Quantity = text.parse().expect(text);
            assert_eq!(quantity.to_string(), canonical, "{text}");
            assert_eq!(quantity.milli_value(), milli, "{text}");
        }
    }

    #[test]
    fn refuses_what_kubernetes_refuses() {
        for text in ["", "m", "1 ", " 1", "1x", "1.2.3", "--1", "1e", "1e+", "0x10", "1kk", "NaN"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_canonical_form_reads_back_to_the_same_value(milli in proptest::num::i64::ANY) {
            let quantity = Quantity::from_milli(milli / 1000);
            proptest::prop_assert_eq!(quantity.to_string().parse::<Quantity>().expect("canonical"), quantity);
        }

        #[test]
        fn nothing_panics(text in "[-+]?[0-9.eEkKMGTPinum]{0,60}") {
            let _ = text.parse::<Quantity>();
        }
    }
}
