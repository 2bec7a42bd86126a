//! The bounds of scraping.

use loadline_signals::exposition::Limits;
use std::time::Duration;

/// What is done with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PageUse {
    /// It is read into signals, and dropped.
    #[default]
    Read,
    /// It is handed on as it is in [`crate::ScrapeReport::page`], unread: who takes it reads it, once
    /// (`loadline_signals::served::Served::page` reads values and signals in one pass). The reading of the report is empty then.
    Keep,
}

/// How to scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrapeSettings {
    /// From one scrape of a target to the next, in model time, where the target has no period of its own; at least 1 ms.
    pub period: Duration,
    /// For one whole scrape, connecting included, in wall time, where the target has no limit of its own: networks do not run faster with a scaled
    /// clock.
    pub timeout: Duration,
    /// The largest page, in bytes, both as sent and decompressed. Ray's pages, the largest known, have 0.6 MB.
    pub max_body_bytes: usize,
    /// Scrapes under way at once, over all targets, until their report is in the channel; a silent target takes one place for the whole `timeout`.
    pub max_concurrent: usize,
    /// The bounds of reading a page; its own page limit counts beside `max_body_bytes`.
    pub limits: Limits,
    /// What is done with a page.
    pub pages: PageUse,
}

impl Default for ScrapeSettings {
    /// 1 s, 2 s, 8 MiB, 256 at once.
    fn default() -> Self {
        Self {
            period: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            max_body_bytes: 8 << 20,
            max_concurrent: 256,
            limits: Limits::default(),
            pages: PageUse::Read,
        }
    }
}
