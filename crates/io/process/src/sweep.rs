//! Ending what a killed keeper has left: its orphans come to Loadline, which is subreaper too.

use crate::launch::TOKEN_VARIABLE;
use crate::tree;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);

/// Kills and reaps every process of the keeper's session, every process that carries its token, and all below them.
///
/// Blocking. Not found: a process that left the session, cleared its environment and outlived its parent.
pub(crate) fn sweep(keeper: i32, token: &str) {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mark = format!("{TOKEN_VARIABLE}={token}");
    let deadline = Instant::now() + TIMEOUT;
    let mut killed = BTreeSet::new();
    loop {
        let all = tree::all();
        let marked = |p: &tree::Process| {
            p.session == keeper
                || fs::read(format!("/proc/{}/environ", p.pid))
                    .is_ok_and(|environ| environ.split(|b| *b == 0).any(|entry| entry == mark.as_bytes()))
        };
        let roots: BTreeSet<i32> = all.iter().filter(|p| p.pid != own && marked(p)).map(|p| p.pid).collect();
        let below = tree::below(&all, &roots);
        killed.extend(roots.iter().copied().chain(below.iter().map(|p| p.pid)));
        let mut left = false;
        for process in all.iter().filter(|p| killed.contains(&p.pid)) {
            left |= !process.zombie || process.parent == own;
            let pid = Pid::from_raw(process.pid);
            let _ = kill(pid, Signal::SIGKILL);
            if process.parent == own {
                let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            }
        }
        if !left || Instant::now() >= deadline {
            return;
        }
        thread::sleep(POLL);
    }
}
