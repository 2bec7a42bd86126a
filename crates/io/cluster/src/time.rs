//! Times as the API writes them.

use loadline_base::Timestamp;

/// RFC 3339 in whole seconds, the precision of `metav1.Time`.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    write(at, "%Y-%m-%dT%H:%M:%SZ")
}

/// RFC 3339 with exactly six digits after the second, as `metav1.MicroTime` wants it.
pub(crate) fn rfc3339_micro(at: Timestamp) -> String {
    write(at, "%Y-%m-%dT%H:%M:%S.%6fZ")
}

fn write(at: Timestamp, format: &str) -> String {
    let at = jiff::Timestamp::from_nanosecond(i128::from(at.as_nanos())).unwrap_or_default();
    at.strftime(format).to_string()
}

/// Reads either form; `None` for what is no time.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let at: jiff::Timestamp = text.parse().ok()?;
    i64::try_from(at.as_nanosecond()).ok().map(Timestamp::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_read_back() {
        let at = Timestamp::from_nanos(1_795_576_518_123_456_000);
        assert_eq!(parse_rfc3339(&rfc3339_micro(at)), Some(at));
        assert_eq!(rfc3339_micro(at), "2026-11-25T03:15:18.123456Z");
        assert_eq!(rfc3339(at), "2026-11-25T03:15:18Z");
        assert_eq!(rfc3339_micro(Timestamp::from_secs(1)), "1970-01-01T00:00:01.000000Z");
        assert_eq!(parse_rfc3339("yesterday"), None);
    }
}
