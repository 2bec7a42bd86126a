//! `loadline serve`: watches, scrapes, decides, writes `/scale`, reports, and serves the metrics APIs.
//!
//! Every process watches, scrapes and answers; the one that holds the lease also decides and writes.

mod certificates;
mod driver;
mod feed;
mod lease;
mod pages;
mod pools;
mod report;
mod schedule;
mod scraping;
mod start;
mod store;
mod supply;
#[cfg(test)]
mod tests;
mod writer;
mod writes;

pub(crate) use start::{ServeOptions, run};
