//! The process tree, as `/proc/PID/stat` shows it (proc_pid_stat(5)).

use std::collections::BTreeSet;
use std::fs;

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) session: i32,
    /// Ended, but not yet waited for.
    pub(crate) zombie: bool,
    /// In clock ticks since the machine started.
    pub(crate) started: u64,
}

/// Every process that can be seen now.
pub(crate) fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).filter_map(one).collect()
}

/// One process, if it exists.
pub(crate) fn one(pid: i32) -> Option<Process> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(pid: i32, stat: &str) -> Option<Process> {
    // the name may hold spaces and parentheses: the fields begin after the last one
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    // the fields counted from 1 in the manual: 6 is behind us, 22 is wanted
    let started = fields.nth(15)?.parse().ok()?;
    Some(Process { pid, parent, session, zombie: matches!(state, "Z" | "X"), started })
}

/// The processes below one, at any depth, without it, from `/proc/PID/task/TID/children` (proc_pid_task_children(5)):
/// quick, but a process that is just re-parented may be missed, and kernels may lack the file.
pub(crate) fn below_by_children(root: i32) -> Vec<i32> {
    let mut found: Vec<i32> = Vec::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            for child in children.split_ascii_whitespace().filter_map(|text| text.parse().ok()) {
                if !found.contains(&child) {
                    found.push(child);
                    open.push(child);
                }
            }
        }
    }
    found
}

/// The processes above one, its parent first.
pub(crate) fn above(all: &[Process], pid: i32) -> impl Iterator<Item = i32> {
    let parent_of = |pid: i32| all.iter().find(|process| process.pid == pid).map(|process| process.parent);
    std::iter::successors(parent_of(pid), move |pid| parent_of(*pid)).take(all.len())
}

/// The processes below those in `roots`, at any depth, without the roots.
pub(crate) fn below(all: &[Process], roots: &BTreeSet<i32>) -> Vec<Process> {
    let mut found: BTreeSet<i32> = roots.clone();
    let mut members: Vec<Process> = Vec::new();
    loop {
        let before = members.len();
        for process in all {
            if found.contains(&process.parent) && found.insert(process.pid) {
                members.push(*process);
            }
        }
        if members.len() == before {
            return members;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_do_not_shift_the_fields() {
        let rest = "S 7 70 71 0 -1 4194304 172 0 1 0 0 0 0 0 20 0 1 0 157559 2990080 411";
        for name in ["sleep", "a b", ") S 1 (", ""] {
            let process = parse(5, &format!("5 ({name}) {rest}"));
            assert_eq!(
                process,
                Some(Process { pid: 5, parent: 7, session: 71, zombie: false, started: 157_559 }),
                "{name}"
            );
        }
        for broken in ["", "5 (x", "5 (x) S", "5 (x) S 7 70", "5 (x) S a b c"] {
            assert_eq!(parse(5, broken), None, "{broken}");
        }
    }

    #[test]
    fn descendants_are_found_at_any_depth_and_in_any_order() {
        let p = |pid, parent| Process { pid, parent, session: 0, zombie: false, started: 0 };
        let all = [p(4, 3), p(3, 2), p(2, 1), p(9, 8), p(1, 0)];
        let found: Vec<i32> = below(&all, &BTreeSet::from([2])).iter().map(|p| p.pid).collect();
        assert_eq!(found, [3, 4]);
        assert!(below(&all, &BTreeSet::from([77])).is_empty());
    }

    #[test]
    fn this_process_is_among_all() {
        let own = i32::try_from(std::process::id()).expect("pid");
        assert!(all().iter().any(|p| p.pid == own && p.started > 0 && !p.zombie));
    }
}
