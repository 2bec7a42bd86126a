//! Why a certificate or a bundle of them cannot be used.

use loadline_base::Timestamp;
use thiserror::Error;

/// Why a certificate, key or bundle cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TlsError {
    /// Text that is no PEM of the kind wanted.
    #[error("`{what}` is not usable: {why}")]
    Unusable {
        /// The file, field or part.
        what: String,
        /// What was wrong and what to do.
        why: String,
    },
    /// A certificate is no longer valid.
    #[error(
        "the certificate of `{name}` ended at {at} (seconds since 1970); it has to be replaced, and the clock checked"
    )]
    Expired {
        /// Its common name.
        name: String,
        /// When it ended.
        at: Timestamp,
    },
    /// A certificate is not yet valid.
    #[error("the certificate of `{name}` is valid only from {at} (seconds since 1970); check the clock")]
    NotYetValid {
        /// Its common name.
        name: String,
        /// When it begins.
        at: Timestamp,
    },
    /// A certificate could not be made.
    #[error("a certificate for `{name}` cannot be made: {why}")]
    Issue {
        /// Its common name.
        name: String,
        /// What the library said.
        why: String,
    },
}

impl TlsError {
    pub(super) fn unusable(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Unusable { what: what.into(), why: why.to_string() }
    }
}
