//! Whose socket listens on a port: a replica that takes a minute to load may find its port taken by a stranger that
//! even answers its probes.

use crate::tree;
use std::collections::BTreeSet;
use std::fs;

/// Whether a process outside the tree below `keeper`, older than `keeper`, listens on `port`.
///
/// A younger stranger may well be the replica's own server (a container's proxy); what cannot be seen counts as fine.
pub(crate) fn is_strangers(port: u16, keeper: i32) -> bool {
    let sockets = listening(port);
    if sockets.is_empty() {
        return false;
    }
    let all = tree::all();
    let Some(keeper_started) = all.iter().find(|p| p.pid == keeper).map(|p| p.started) else { return false };
    let own: BTreeSet<i32> = tree::below(&all, &BTreeSet::from([keeper])).iter().map(|p| p.pid).collect();
    if own.iter().any(|pid| holds(*pid, &sockets)) {
        return false;
    }
    all.iter().filter(|p| p.started < keeper_started && !own.contains(&p.pid)).any(|p| holds(p.pid, &sockets))
}

/// The inodes of the sockets that listen on a port (proc_net_tcp: state 0A is LISTEN, the inode is the tenth field).
fn listening(port: u16) -> BTreeSet<String> {
    let suffix = format!(":{port:04X}");
    let mut inodes = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(text) = fs::read_to_string(table) else { continue };
        for line in text.lines().skip(1) {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let (local, state) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
            if local.ends_with(&suffix) && state == "0A" {
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
