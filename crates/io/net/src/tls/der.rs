//! The few parts of DER (ITU-T X.690) that a certificate's facts are written in.

use loadline_base::Timestamp;

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// Lengths of more bytes than this are those of no certificate.
const MAX_LENGTH_BYTES: usize = 3;

/// The values of a constructed one, or of a file, one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next value's tag and content; none at the end, or where the bytes are no DER.
    pub(super) fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let length = if first < 0x80 {
            usize::from(first)
        } else {
            let count = usize::from(first & 0x7f);
            if count == 0 || count > MAX_LENGTH_BYTES {
                return None;
            }
            let (bytes, after) = rest.split_at_checked(count)?;
            rest = after;
            bytes.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte))
        };
        let (content, after) = rest.split_at_checked(length)?;
        self.0 = after;
        Some((tag, content))
    }

    /// The content of the next value, which must have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// The same, to be read on.
    pub(super) fn enter(&mut self, tag: u8) -> Option<Self> {
        self.expect(tag).map(Reader)
    }

    /// A UTCTime or GeneralizedTime as RFC 5280 4.1.2.5 allows them: to the second, in UTC.
    pub(super) fn time(&mut self) -> Option<Timestamp> {
        let (tag, text) = self.next()?;
        let digits = text.strip_suffix(b"Z")?;
        let (century_digits, rest) = match tag {
            UTC_TIME => (0, digits),
            GENERALIZED_TIME => (2, digits),
            _ => return None,
        };
        if rest.len() != century_digits + 12 || !rest.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let mut pairs =
            rest.chunks_exact(2).map(|pair| pair.iter().fold(0_i64, |sum, d| sum * 10 + i64::from(d - b'0')));
        let mut pair = || pairs.next();
        let year = if century_digits == 2 {
            pair()? * 100 + pair()?
        } else {
            // years 50 to 99 are of the twentieth century
            let year = pair()?;
            if year < 50 { 2000 + year } else { 1900 + year }
        };
        let (month, day, hour, minute, second) = (pair()?, pair()?, pair()?, pair()?, pair()?);
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        Some(Timestamp::from_secs(days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second))
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, counted in eras of 400 years that begin in March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_to_the_second() {
        let time = |tag: u8, text: &str| {
            let mut bytes = vec![tag, u8::try_from(text.len()).expect("short")];
            bytes.extend_from_slice(text.as_bytes());
            Reader(&bytes).time().map(|at| at.as_nanos() / 1_000_000_000)
        };
        for (tag, text, expect) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "261125030518Z", Some(1_795_575_918)),
            (UTC_TIME, "000229235959Z", Some(951_868_799)),
            (GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000)),
            (UTC_TIME, "261325030518Z", None),
            (UTC_TIME, "26112503051Z", None),
            (UTC_TIME, "2611250305xxZ", None),
            (UTC_TIME, "261125030518", None),
            (OCTETS, "261125030518Z", None),
        ] {
            assert_eq!(time(tag, text), expect, "{text}");
        }
    }

    #[test]
    fn lengths_beyond_the_input_are_refused() {
        for bytes in [&[0x30_u8][..], &[0x30, 5, 1], &[0x30, 0x84, 0, 0, 0, 1, 0], &[0x30, 0x80], &[0x30, 0x82, 1]] {
            assert_eq!(Reader(bytes).next(), None, "{bytes:?}");
        }
        assert_eq!(Reader(&[0x30, 0x81, 1, 7]).next(), Some((SEQUENCE, &[7_u8][..])));
    }
}
