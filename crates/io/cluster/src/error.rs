//! What can go wrong between us and the API server, and whether trying again can help.

use std::time::Duration;
use thiserror::Error;

/// A request that did not succeed. `what` names the request for people: `write scale of Deployment ml/vllm`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClusterError {
    /// No usable configuration.
    #[error(
        "cannot configure a connection to the cluster: {why}; give a kubeconfig or run inside a pod with a service account"
    )]
    Configuration {
        /// What is wrong.
        why: String,
    },
    /// The server did not answer in time; whether it acted is unknown.
    #[error("{what}: no answer within {after:?}; check that the API server is reachable")]
    Deadline {
        /// The request.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// The connection failed; whether the server acted is unknown.
    #[error("{what}: the API server cannot be reached: {why}")]
    Unreachable {
        /// The request.
        what: String,
        /// The transport's words.
        why: String,
    },
    /// 401 or 403.
    #[error(
        "{what}: refused: {why}; grant this verb to loadline's service account (the chart's `rbac` values list every rule)"
    )]
    Forbidden {
        /// The request.
        what: String,
        /// The server's words; they name user, verb and resource.
        why: String,
    },
    /// 404.
    #[error("{what}: not found: {why}; create it, or correct the name that refers to it")]
    NotFound {
        /// The request.
        what: String,
        /// The server's words.
        why: String,
    },
    /// 409: somebody else wrote first.
    #[error("{what}: somebody else changed the object at the same time: {why}")]
    Conflict {
        /// The request.
        what: String,
        /// The server's words.
        why: String,
    },
    /// 400 or 422.
    #[error("{what}: refused as invalid: {why}; correct the field it names")]
    Invalid {
        /// The request.
        what: String,
        /// The server's words.
        why: String,
    },
    /// 429 or 5xx.
    #[error("{what}: the API server is not able to serve it now ({code}): {why}")]
    Unavailable {
        /// The request.
        what: String,
        /// The status.
        code: u16,
        /// The server's words.
        why: String,
    },
    /// An answer that does not have the form it must have.
    #[error("{what}: the answer cannot be read: {why}")]
    Malformed {
        /// The request.
        what: String,
        /// Where it breaks.
        why: String,
    },
    /// More than a limit of ours.
    #[error("{what}: {size} bytes are more than the limit of {limit}")]
    TooLarge {
        /// The thing.
        what: String,
        /// Its size.
        size: usize,
        /// Our limit.
        limit: usize,
    },
}

impl ClusterError {
    /// Whether the same request can succeed later without anybody changing a rule or an object.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Deadline { .. } | Self::Unreachable { .. } | Self::Unavailable { .. } | Self::Conflict { .. }
        )
    }

    /// Whether the server may have acted although no answer came.
    #[must_use]
    pub const fn is_unknown_outcome(&self) -> bool {
        matches!(self, Self::Deadline { .. } | Self::Unreachable { .. })
    }

    /// Sorts a client error.
    pub(crate) fn of(what: &str, error: &kube::Error) -> Self {
        let what = what.to_owned();
        match error {
            kube::Error::Api(status) => Self::of_status(what, status.code, &status.message),
            kube::Error::SerdeError(why) => Self::Malformed { what, why: why.to_string() },
            kube::Error::BuildRequest(why) => Self::Malformed { what, why: why.to_string() },
            other => Self::Unreachable { what, why: sources(other) },
        }
    }

    fn of_status(what: String, code: u16, message: &str) -> Self {
        let why = if message.is_empty() { format!("status {code}") } else { message.to_owned() };
        match code {
            401 | 403 => Self::Forbidden { what, why },
            404 | 410 => Self::NotFound { what, why },
            409 => Self::Conflict { what, why },
            400 | 405 | 413 | 415 | 422 => Self::Invalid { what, why },
            _ => Self::Unavailable { what, code, why },
        }
    }
}

/// An error with its causes, each said once.
pub(crate) fn sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_sort_into_what_to_do() {
        for (code, transient, phrase) in [
            (403, false, "grant this verb"),
            (404, false, "create it"),
            (409, true, "same time"),
            (422, false, "correct the field"),
            (429, true, "(429)"),
            (503, true, "(503)"),
        ] {
            let error = ClusterError::of_status("read `x`".to_owned(), code, "words");
            assert_eq!(error.is_transient(), transient, "{code}");
            assert!(error.to_string().contains(phrase) && error.to_string().contains("words"), "{error}");
        }
    }
}
