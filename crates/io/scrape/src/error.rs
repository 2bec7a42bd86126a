//! Why a scrape gave no reading.

use loadline_net::http::{FetchError, FetchErrorKind};
use loadline_signals::exposition::{ExpositionError, Problem};
use std::fmt;
use thiserror::Error;

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScrapeErrorKind {
    /// The URL is none.
    BadUrl,
    /// The host name has no address.
    Resolve,
    /// Nothing listens: starting, or dead; never idle.
    Refused,
    /// No connection, no trusted TLS session, or the connection broke.
    Broken,
    /// No whole page in time: busy, or hung.
    Timeout,
    /// An answer with another status than 200. SGLang answers 404 without `--enable-metrics`.
    Status(u16),
    /// The page is over the limit, as sent or decompressed.
    TooLarge,
    /// A body that is no metrics page, or one that cannot be read as a whole; with the place.
    NotMetrics(ExpositionError),
}

impl ScrapeErrorKind {
    /// A stable word for metrics and machine-readable output.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::BadUrl => "bad_url",
            Self::Resolve => "resolve",
            Self::Refused => "refused",
            Self::Broken => "broken",
            Self::Timeout => "timeout",
            Self::Status(_) => "status",
            Self::TooLarge => "too_large",
            Self::NotMetrics(_) => "not_metrics",
        }
    }
}

/// Why a scrape gave no reading; the text names the URL.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct ScrapeError {
    /// What went wrong.
    pub kind: ScrapeErrorKind,
    /// Where.
    pub url: String,
    /// What the layer below said; may be empty.
    pub detail: String,
}

impl fmt::Display for ScrapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, url, detail } = self;
        match kind {
            ScrapeErrorKind::Refused => {
                write!(
                    f,
                    "`{url}`: connection refused; nothing listens there, check that the engine runs, and its port"
                )
            }
            ScrapeErrorKind::Status(404) => write!(
                f,
                "`{url}`: status 404; check the path, and that the engine's metrics are switched on (`--enable-metrics` of SGLang, `--metrics` of llama.cpp)"
            ),
            ScrapeErrorKind::Status(status @ (401 | 403)) => {
                write!(f, "`{url}`: status {status}; the page wants a bearer token that may read it")
            }
            ScrapeErrorKind::Status(status) if detail.is_empty() => {
                write!(f, "`{url}`: status {status} where 200 was expected")
            }
            ScrapeErrorKind::Status(status) => write!(f, "`{url}`: status {status}: {detail}"),
            ScrapeErrorKind::NotMetrics(error) => write!(f, "`{url}`: {error}"),
            // these begin with the URL already
            ScrapeErrorKind::BadUrl | ScrapeErrorKind::Resolve => f.write_str(detail),
            ScrapeErrorKind::Broken | ScrapeErrorKind::Timeout | ScrapeErrorKind::TooLarge => {
                write!(f, "`{url}`: {detail}")
            }
        }
    }
}

impl ScrapeError {
    pub(crate) fn new(kind: ScrapeErrorKind, url: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { kind, url: url.into(), detail: detail.into() }
    }

    /// A page that could not be read.
    pub(crate) fn unreadable(url: impl Into<String>, error: ExpositionError) -> Self {
        let kind = match error.problem {
            Problem::PageTooLarge { .. } => ScrapeErrorKind::TooLarge,
            _ => ScrapeErrorKind::NotMetrics(error.clone()),
        };
        Self::new(kind, url, error.to_string())
    }
}

impl From<FetchError> for ScrapeError {
    fn from(error: FetchError) -> Self {
        let kind = match error.kind {
            FetchErrorKind::Resolve => ScrapeErrorKind::Resolve,
            FetchErrorKind::Refused => ScrapeErrorKind::Refused,
            FetchErrorKind::ConnectTimeout | FetchErrorKind::Timeout => ScrapeErrorKind::Timeout,
            FetchErrorKind::TooLarge => ScrapeErrorKind::TooLarge,
            FetchErrorKind::Request => ScrapeErrorKind::BadUrl,
            FetchErrorKind::Connect | FetchErrorKind::Tls | FetchErrorKind::Broken => ScrapeErrorKind::Broken,
        };
        let detail = match kind {
            ScrapeErrorKind::Resolve | ScrapeErrorKind::BadUrl => error.to_string(),
            _ => error.detail,
        };
        Self::new(kind, error.target, detail)
    }
}
