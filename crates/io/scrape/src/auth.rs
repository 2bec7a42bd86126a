//! What a target wants to see, and what it must show.

use http::header::HeaderValue;
use loadline_net::http::TlsClient;
use std::fmt;
use std::sync::Arc;

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps a text. Blanks and line ends around it are dropped: files of secrets usually end with one.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.trim().into())
    }

    /// The value of an `authorization` header, marked as sensitive.
    pub(crate) fn header(&self) -> Result<HeaderValue, &'static str> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.0))
            .map_err(|_| "the bearer token has a control character or a letter beyond ASCII in it")?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

/// How a target is asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TargetAuth {
    /// Sent as `authorization: Bearer TOKEN`. Another token is another target: its loop starts anew, at the same places in time.
    pub bearer: Option<Secret>,
    /// How its certificate is judged, where that is not by the system's root certificates.
    pub tls: Option<TlsClient>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_sent_and_never_shown() {
        let auth = TargetAuth { bearer: Some(Secret::new(" hush\n")), tls: None };
        assert!(!format!("{auth:?}").contains("hush"), "{auth:?}");
        let header = auth.bearer.as_ref().expect("there").header().expect("plain");
        assert_eq!(header.to_str().ok(), Some("Bearer hush"));
        assert!(!format!("{header:?}").contains("hush"), "{header:?}");
        let why = Secret::new("hush\nX-Other: 1").header().expect_err("two lines");
        assert!(!why.contains("hush"), "{why}");
    }
}
