//! The bounds of scraping.

use loadline_signals::exposition::Limits;
use std::time::Duration;

/// How to scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrapeSettings {
    /// From one scrape of a target to the next, in model time; at least 1 ms.
    pub period: Duration,
    /// For one whole scrape, connecting included, in wall time: networks do not run faster with a scaled clock.
    pub timeout: Duration,
    /// The largest page, in bytes, both as sent and decompressed. Ray's pages, the largest known, have 0.6 MB.
    pub max_body_bytes: usize,
    /// Scrapes under way at once, over all targets; a silent target takes one place for the whole `timeout`.
    pub max_concurrent: usize,
    /// The bounds of reading a page; its own page limit counts beside `max_body_bytes`.
    pub limits: Limits,
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
        }
    }
}
