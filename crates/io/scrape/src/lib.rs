//! Scrape loops: metrics pages of replicas that come and go, read into signals.
//!
//! Invariants
//! - One target has at most one scrape under way; a slow target costs only its own turns.
//! - Every wait and every body has a limit, gzip or not; the number of scrapes under way at once is bounded; reports wait for the
//!   receiver instead of piling up.
//! - An outcome is what was seen: refused, timed out and unreadable are told apart, and none of them is a value.
//! - A token is in no message, no log and no `Debug` text.
//! - No task outlives [`Scraper::stop`], the drop of the [`Scraper`], or the receiver of the reports.
//!
//! Deliberately absent: what an outcome means for scaling (`loadline-policy`), and history (the sample store).

mod auth;
mod error;
mod page;
mod schedule;
mod scraper;
mod settings;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_access;

pub use auth::{Secret, TargetAuth};
pub use error::{ScrapeError, ScrapeErrorKind};
pub use loadline_net::http::TlsClient;
pub use page::fetch_page;
pub use scraper::{DirectPages, ScrapeReport, Scraper, Target};
pub use settings::{PageUse, ScrapeSettings};
