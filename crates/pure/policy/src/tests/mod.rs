//! Tests of whole decisions.

mod budgets;
mod build;
mod evidence;
mod history;
mod laws;
mod properties;
mod scenarios;
