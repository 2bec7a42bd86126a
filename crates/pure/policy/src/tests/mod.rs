//! Tests of whole decisions.

mod budgets;
mod build;
mod evidence;
mod fallback;
mod foreign;
mod history;
mod laws;
mod properties;
mod scenarios;
mod supplied;
mod target;
