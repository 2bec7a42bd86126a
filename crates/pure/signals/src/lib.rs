//! From the text of a metrics page to normalised signals: exposition formats, engine dialects, latest values to serve, history.
//!
//! Invariants
//! - Nothing here panics or grows without bound on any input; every bound is a field with a documented default.
//! - A page is read in place: names, labels and series are slices of it, and a line that nobody asked for costs no allocation.
//! - What a page does not carry is absent, never zero.
//! - No clock: times are taken as `now: Timestamp`. No hash order: every map that can be seen is ordered.
//!
//! Deliberately absent: fetching pages (`loadline-scrape`), deciding anything (`loadline-policy`).

pub mod dialect;
pub mod exposition;
pub mod openmetrics;
pub mod served;
pub mod store;
