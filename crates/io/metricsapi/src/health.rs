//! `/healthz`, `/livez` and `/readyz` in the form of Kubernetes' API servers: `?verbose`, `?exclude=CHECK`, one check per sub path.

use crate::route::parameter;
use crate::status::{Reply, failure, text};
use http::StatusCode;
use std::fmt::Write;

/// One check with its outcome: why it failed, or nothing.
pub(crate) type Check = (&'static str, Result<(), &'static str>);

/// The reply of one probe.
pub(crate) fn reply(probe: &str, check: Option<&str>, query: Option<&str>, checks: &[Check]) -> Reply {
    if let Some(wanted) = check {
        return match checks.iter().find(|(name, _)| *name == wanted) {
            Some((_, Ok(()))) => text(StatusCode::OK, "ok".to_owned()),
            Some((name, Err(why))) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{name} failed: {why}\n")),
            None => {
                let known: Vec<&str> = checks.iter().map(|(name, _)| *name).collect();
                failure(
                    StatusCode::NOT_FOUND,
                    &format!("`/{probe}` has no check `{wanted}`; it has {}", known.join(", ")),
                )
            }
        };
    }
    let excluded = parameter(query, "exclude").unwrap_or_default();
    let mut lines = String::new();
    let mut failed = false;
    for (name, outcome) in checks {
        // writing to a String cannot fail
        let _ = match outcome {
            _ if *name == excluded => writeln!(lines, "[+]{name} excluded: ok"),
            Ok(()) => writeln!(lines, "[+]{name} ok"),
            Err(why) => {
                failed = true;
                writeln!(lines, "[-]{name} failed: {why}")
            }
        };
    }
    if failed {
        return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{probe} check failed\n"));
    }
    let is_verbose =
        query.is_some_and(|query| query.split('&').any(|part| part == "verbose" || part.starts_with("verbose=")));
    text(StatusCode::OK, if is_verbose { format!("{lines}{probe} check passed\n") } else { "ok".to_owned() })
}
