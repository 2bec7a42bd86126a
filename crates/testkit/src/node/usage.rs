//! What pods use of cpu and memory, from the processes of their groups.

use super::context::Context;
use super::faults::{Handle, lock};
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Kernel clock ticks per second in `/proc`.
const TICKS_PER_SECOND: u64 = 100;
/// Bytes of a page.
const PAGE_BYTES: u64 = 4096;
/// A log that grew beyond this is emptied.
const MAX_LOG_BYTES: u64 = 64 * 1024 * 1024;

/// Folders of logs that are kept; beyond, those of pods that are gone are removed, oldest first.
const MAX_LOG_FOLDERS: usize = 1000;
/// Samples between two looks at the number of folders.
const PRUNE_EVERY: u32 = 30;

/// One process as `/proc/PID/stat` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    group: u32,
    ticks: u64,
    bytes: u64,
}

/// Reads a line of `/proc/PID/stat`; the program's name may hold spaces and brackets.
fn parse(stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Counted from the state, which is field 3 of proc(5): pgrp 5, utime 14, stime 15, cutime 16, cstime 17, rss 24.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = [14, 15, 16, 17].into_iter().map(field).sum::<Option<u64>>()?;
    Some(Process { group: u32::try_from(field(5)?).ok()?, ticks, bytes: field(24)?.saturating_mul(PAGE_BYTES) })
}

/// Ticks and bytes by process group.
fn groups() -> BTreeMap<u32, (u64, u64)> {
    let mut groups: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else { return groups };
    for entry in entries.flatten() {
        if !entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit) {
            continue;
        }
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some(process) = parse(&stat) {
            let sum = groups.entry(process.group).or_default();
            sum.0 = sum.0.saturating_add(process.ticks);
            sum.1 = sum.1.saturating_add(process.bytes);
        }
    }
    groups
}

/// What one container used over one window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Figure {
    pub(super) at: Timestamp,
    pub(super) window: Duration,
    pub(super) nano_cores: u64,
    pub(super) bytes: u64,
}

/// A pod's name, container and leading process: a restarted container starts anew.
type Subject = (String, String, u32);

/// The newest figures of every container.
#[derive(Debug, Default)]
pub(super) struct Usage {
    seen: Mutex<BTreeMap<Subject, (Instant, u64)>>,
    figures: Mutex<BTreeMap<(String, String), BTreeMap<String, Figure>>>,
}

impl Usage {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The containers of a pod with their figures, once a window is complete.
    pub(super) fn of(&self, pod: &Handle) -> BTreeMap<String, Figure> {
        lock(&self.figures).get(&pod.key).cloned().unwrap_or_default()
    }

    fn take(&self, pods: &[Arc<Handle>], groups: &BTreeMap<u32, (u64, u64)>) {
        let (now, at) = (Instant::now(), Timestamp::now());
        let mut fresh = BTreeMap::new();
        let mut figures: BTreeMap<(String, String), BTreeMap<String, Figure>> = BTreeMap::new();
        let old = std::mem::take(&mut *lock(&self.seen));
        for pod in pods {
            let pids = lock(&pod.pids).clone();
            for (container, pid) in pids {
                let Some((ticks, bytes)) = groups.get(&pid).copied() else { continue };
                let uid = pod.pod().metadata.uid.clone().unwrap_or_default();
                let subject = (uid, container.clone(), pid);
                if let Some((then, before)) = old.get(&subject) {
                    let window = now.duration_since(*then);
                    let nanos = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX).max(1);
                    let used = u128::from(ticks.saturating_sub(*before)) * 1_000_000_000 / u128::from(TICKS_PER_SECOND);
                    let cores = used * 1_000_000_000 / u128::from(nanos);
                    let nano_cores = u64::try_from(cores).unwrap_or(u64::MAX);
                    let figure = Figure { at, window, nano_cores, bytes };
                    figures.entry(pod.key.clone()).or_default().insert(container, figure);
                }
                fresh.insert(subject, (now, ticks));
            }
        }
        *lock(&self.seen) = fresh;
        *lock(&self.figures) = figures;
    }
}

/// Samples for ever, and keeps logs within bounds.
pub(super) async fn sample(context: Arc<Context>, usage: Arc<Usage>) {
    let mut ticks = tokio::time::interval(context.timings.usage_sample);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut round = 0_u32;
    loop {
        ticks.tick().await;
        let pods = context.faults.pods();
        round = round.wrapping_add(1);
        if round.is_multiple_of(PRUNE_EVERY) {
            prune(&context.directory.join("logs"), &pods);
        }
        let Ok(groups) = tokio::task::spawn_blocking(groups).await else { return };
        usage.take(&pods, &groups);
        for pod in &pods {
            for name in lock(&pod.pids).keys() {
                let path = context.faults.log_path(&pod.key.0, &pod.key.1, name);
                if std::fs::metadata(&path).is_ok_and(|log| log.len() > MAX_LOG_BYTES) {
                    let _kept = std::fs::OpenOptions::new().write(true).truncate(true).open(&path);
                }
            }
        }
    }
}

fn prune(logs: &Path, pods: &[Arc<Handle>]) {
    let Ok(entries) = std::fs::read_dir(logs) else { return };
    let mut folders: Vec<_> =
        entries.flatten().filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    let excess = folders.len().saturating_sub(MAX_LOG_FOLDERS);
    folders.sort();
    let is_alive = |path: &Path| {
        pods.iter().any(|pod| path.file_name().is_some_and(|name| *name == *format!("{}_{}", pod.key.0, pod.key.1)))
    };
    for (_, path) in folders.iter().filter(|(_, path)| !is_alive(path)).take(excess) {
        let _gone = std::fs::remove_dir_all(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let line =
            "77 (a b) c) S 1 77 77 0 -1 4194560 100 200 0 0 11 22 3 4 20 0 9 0 500 1000000 25 18446744073709551615";
        assert_eq!(parse(line), Some(Process { group: 77, ticks: 40, bytes: 25 * 4096 }));
        assert_eq!(parse("77 (a) S 1"), None);
        assert_eq!(parse(""), None);
        let own = groups();
        let group = u32::try_from(nix::unistd::getpgrp().as_raw()).unwrap();
        assert!(own.get(&group).is_some_and(|(_, bytes)| *bytes > 100_000));
    }
}
