//! The figures of this process that exporters for Python show, read from `/proc` where there is one.

use std::fs;

/// `USER_HZ` on Linux, fixed by its ABI.
const TICKS_PER_SECOND: f64 = 100.0;
/// The page size of the kernels this runs on; used only for a figure that people look at.
const PAGE_BYTES: f64 = 4096.0;

/// Process figures; zero where the system does not tell.
#[derive(Debug, Default)]
pub(crate) struct ProcessStats {
    pub(crate) virtual_bytes: f64,
    pub(crate) resident_bytes: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) open_fds: f64,
    pub(crate) max_fds: f64,
}

impl ProcessStats {
    /// Reads them now.
    pub(crate) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The command in parentheses may hold spaces; fields are counted after it, the first being number 3.
        let fields: Vec<f64> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect())
            .unwrap_or_default();
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0.0);
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let max_fds = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|soft| soft.parse().ok());
        Self {
            virtual_bytes: field(23),
            resident_bytes: field(24) * PAGE_BYTES,
            cpu_seconds: (field(14) + field(15)) / TICKS_PER_SECOND,
            open_fds: fs::read_dir("/proc/self/fd")
                .map_or(0.0, |entries| loadline_base::num::usize_to_f64(entries.count())),
            max_fds: max_fds.unwrap_or(0.0),
        }
    }
}
