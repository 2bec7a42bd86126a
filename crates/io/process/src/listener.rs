//! Whose socket listens on a port: a replica that takes a minute to load may find its port taken by a stranger that
//! even answers its probes.

use crate::tree;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;

/// Whether a process outside the tree below `keeper` listens on `port` that is older than `keeper` or stands below another keeper.
///
/// Any other stranger may well be the replica's own server (a container's proxy); what cannot be seen counts as fine.
pub(crate) fn is_strangers(port: u16, keeper: i32) -> bool {
    let sockets = listening(port);
    if sockets.is_empty() {
        return false;
    }
    // nearly always the answer, and far cheaper than a look at every process of the machine
    if tree::below_by_children(keeper).into_iter().any(|pid| holds(pid, &sockets)) {
        return false;
    }
    let all = tree::all();
    let Some(keeper_started) = all.iter().find(|p| p.pid == keeper).map(|p| p.started) else { return false };
    let own: BTreeSet<i32> = tree::below(&all, &BTreeSet::from([keeper])).iter().map(|p| p.pid).collect();
    if own.iter().any(|pid| holds(*pid, &sockets)) {
        return false;
    }
    let program = program_of(keeper);
    let is_anothers = |pid: i32| program.is_some() && tree::above(&all, pid).any(|above| program_of(above) == program);
    all.iter()
        .filter(|p| !own.contains(&p.pid) && holds(p.pid, &sockets))
        .any(|p| p.started < keeper_started || is_anothers(p.pid))
}

/// The file a process runs, by device and inode: keepers of one binary, even a deleted one, have it in common.
fn program_of(pid: i32) -> Option<(u64, u64)> {
    let file = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    Some((file.dev(), file.ino()))
}

/// The inodes of the sockets that listen on a port (proc_net_tcp: state 0A is LISTEN, the inode is the tenth field; those
/// that listen come before all others, of which there may be very many).
fn listening(port: u16) -> BTreeSet<String> {
    let suffix = format!(":{port:04X}");
    let mut inodes = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(table) = File::open(table) else { continue };
        for line in BufReader::new(table).lines().map_while(Result::ok).skip(1) {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let (local, state) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
            if state != "0A" {
                break;
            }
            if local.ends_with(&suffix) {
                inodes.extend(fields.nth(5).map(|inode| format!("socket:[{inode}]")));
            }
        }
    }
    inodes
}

fn holds(pid: i32, sockets: &BTreeSet<String>) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|link| link.to_str().is_some_and(|name| sockets.contains(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let sockets = listening(socket.local_addr().expect("address").port());
        assert_eq!(sockets.len(), 1);
        assert!(holds(i32::try_from(std::process::id()).expect("pid"), &sockets));
    }
}
