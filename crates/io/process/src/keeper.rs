//! The keeper: the small parent of one replica, which outlives Loadline just long enough to end that replica.
//!
//! The binary re-executes itself as `PREFIX --grace-ms N -- PROGRAM ARG...`, with a pipe on standard input whose other
//! end only Loadline holds. The keeper
//! - leads a session of its own, so that no terminal signal reaches it or the replica, and is subreaper: whatever the
//!   replica starts, however detached, is re-parented to the keeper (`PR_SET_CHILD_SUBREAPER`, prctl(2));
//! - starts the program in a process group of its own, with no signal blocked and no standard input; output is passed on
//!   untouched;
//! - when the pipe closes, or on SIGTERM, SIGINT or SIGHUP, sends SIGTERM to that group, and SIGKILL to every descendant
//!   after N milliseconds; a byte `t` on the pipe does the same, a byte `k` sends SIGKILL at once;
//! - when the program has ended, kills whatever it left behind, and exits with the program's code, or 128 + n if
//!   signal n ended it. 126 and 127 say that the program could not be run or found, 125 that the keeper itself failed.
//!
//! A parent-death signal would not do: it is sent when the *thread* that started the child ends.
//! All signals are blocked and waited for, so there is no handler, and one thread decides everything.

use crate::tree;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, setsid};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// On the keeper's standard input: end the replica at once.
pub const KILL_NOW: u8 = b'k';
/// On the keeper's standard input: the same as closing it, but a kill can still follow.
pub const TERMINATE: u8 = b't';
/// The keeper itself failed.
pub const CODE_FAILED: u8 = 125;
/// The program exists and cannot be run.
pub const CODE_NOT_RUNNABLE: u8 = 126;
/// The program does not exist.
pub const CODE_NOT_FOUND: u8 = 127;

/// How long killed processes may take to disappear before the keeper leaves them: only one in an uninterruptible
/// system call stays that long.
const VANISH_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at the process tree while killed processes disappear.
const VANISH_POLL: Duration = Duration::from_millis(2);

/// The pipe closed, or the byte for a kill came.
const PIPE_CLOSED: Signal = Signal::SIGUSR1;
/// The grace is over, or a kill was asked for.
const GRACE_OVER: Signal = Signal::SIGUSR2;

/// The arguments in front of the program, for a given grace.
#[must_use]
pub fn arguments(grace: Duration) -> [OsString; 3] {
    [OsString::from("--grace-ms"), OsString::from(grace.as_millis().to_string()), OsString::from("--")]
}

/// Runs the keeper with the arguments after its prefix; returns when the replica and all it started are gone.
///
/// Call it first thing in `main`, before any thread or runtime is started.
#[must_use]
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match keep(args) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("loadline keeper: {error}");
            ExitCode::from(CODE_FAILED)
        }
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<(Duration, OsString, Vec<OsString>), String> {
    let usage = || "usage: keeper --grace-ms N -- PROGRAM ARG... (started by loadline itself)".to_owned();
    let mut args = args.into_iter();
    if args.next().as_deref() != Some(OsStr::new("--grace-ms")) {
        return Err(usage());
    }
    let grace = args.next().and_then(|text| text.to_str()?.parse().ok()).ok_or_else(usage)?;
    if args.next().as_deref() != Some(OsStr::new("--")) {
        return Err(usage());
    }
    let program = args.next().ok_or_else(usage)?;
    Ok((Duration::from_millis(grace), program, args.collect()))
}

fn keep(args: impl IntoIterator<Item = OsString>) -> Result<u8, String> {
    let (grace, program, args) = parse(args)?;
    let failed = |what: &'static str| move |error: Errno| format!("{what}: {error}");
    let mut signals = SigSet::empty();
    for signal in
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD, Signal::SIGPIPE, PIPE_CLOSED, GRACE_OVER]
    {
        signals.add(signal);
    }
    // threads started later inherit the mask
    signals.thread_block().map_err(failed("cannot block signals"))?;
    // fails only where it leads a session or group already, which serves as well
    let _ = setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| format!("cannot become subreaper: {error}"))?;
    // The program inherits the mask too, and would never see a SIGTERM: none is blocked while it is started. A signal to
    // the keeper just then kills it, which Loadline handles as any killed keeper.
    SigSet::empty().thread_set_mask().map_err(failed("cannot unblock signals"))?;
    let child = Command::new(&program).args(args).stdin(Stdio::null()).process_group(0).spawn();
    let child = match child {
        Ok(child) => child,
        Err(error) => {
            eprintln!("loadline keeper: cannot start `{}`: {error}", program.display());
            return Ok(if error.kind() == io::ErrorKind::NotFound { CODE_NOT_FOUND } else { CODE_NOT_RUNNABLE });
        }
    };
    if let Err(error) = signals.thread_block() {
        kill_descendants();
        return Err(format!("cannot block signals: {error}"));
    }
    let group = Pid::from_raw(i32::try_from(child.id()).map_err(|error| error.to_string())?);
    // if it cannot be started the pipe goes unwatched: rather no replica than one that may be orphaned
    if let Err(error) = thread::Builder::new().stack_size(64 * 1024).spawn(watch_pipe) {
        kill_descendants();
        return Err(format!("cannot start a thread: {error}"));
    }
    let code = wait_for(&signals, group, grace).map_err(failed("cannot wait for signals"));
    kill_descendants();
    code
}

/// Turns what happens on the pipe into signals to this process.
fn watch_pipe() {
    let mut byte = [0_u8];
    loop {
        match io::stdin().read(&mut byte) {
            Ok(1) if byte == [KILL_NOW] => {
                let _ = kill(getpid(), GRACE_OVER);
            }
            Ok(1) if byte == [TERMINATE] => {
                let _ = kill(getpid(), PIPE_CLOSED);
            }
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
        }
    }
    let _ = kill(getpid(), PIPE_CLOSED);
}

/// Handles signals until the program has ended; returns its code.
fn wait_for(signals: &SigSet, group: Pid, grace: Duration) -> Result<u8, Errno> {
    let mut terminating = false;
    // it may have ended while SIGCHLD was not blocked, and so left no signal
    if let Some(code) = reap(Some(group)) {
        return Ok(code);
    }
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => {
                if let Some(code) = reap(Some(group)) {
                    return Ok(code);
                }
            }
            GRACE_OVER => kill_descendants_but_reap_later(),
            Signal::SIGPIPE => {}
            _ if terminating => {}
            _ => {
                terminating = true;
                // not yet reaped, so the number is still its own
                let _ = killpg(group, Signal::SIGTERM);
                // a stopped process acts on SIGTERM only once it continues
                let _ = killpg(group, Signal::SIGCONT);
                let timer = thread::Builder::new().stack_size(64 * 1024).spawn(move || {
                    thread::sleep(grace);
                    let _ = kill(getpid(), GRACE_OVER);
                });
                if timer.is_err() {
                    kill_descendants_but_reap_later();
                }
            }
        }
    }
}

/// Takes the status of every ended child; returns the code of `program` if it is among them.
fn reap(program: Option<Pid>) -> Option<u8> {
    let mut found = None;
    loop {
        let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, u8::try_from(code & 0xff).unwrap_or(CODE_FAILED)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, u8::try_from(signal as i32 + 128).unwrap_or(CODE_FAILED)),
            Ok(WaitStatus::StillAlive) => return found,
            Ok(_) => continue,
            Err(Errno::EINTR) => continue,
            // a signal that nix has no name for (the real-time ones)
            Err(Errno::EINVAL) => continue,
            // nothing is left, so the program ended in a way that could not be read
            Err(_) => return found.or(program.map(|_| CODE_FAILED)),
        };
        if Some(pid) == program {
            found = Some(code);
        }
    }
}

fn living_descendants() -> Vec<Pid> {
    let roots = BTreeSet::from([getpid().as_raw()]);
    tree::below(&tree::all(), &roots).iter().filter(|p| !p.zombie).map(|p| Pid::from_raw(p.pid)).collect()
}

fn kill_descendants_but_reap_later() {
    for pid in living_descendants() {
        let _ = kill(pid, Signal::SIGKILL);
    }
}

/// Kills and reaps until nothing is left: processes may be forking while they are killed.
fn kill_descendants() {
    let deadline = Instant::now() + VANISH_TIMEOUT;
    loop {
        reap(None);
        let living = living_descendants();
        if living.is_empty() || Instant::now() >= deadline {
            break;
        }
        for pid in living {
            let _ = kill(pid, Signal::SIGKILL);
        }
        thread::sleep(VANISH_POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_it_is_given_are_the_ones_it_reads() {
        let grace = Duration::from_millis(1500);
        let args = arguments(grace).into_iter().chain(["sh".into(), "--grace-ms".into()]);
        assert_eq!(parse(args), Ok((grace, "sh".into(), vec!["--grace-ms".into()])));
        let cases: [&[&str]; 5] = [
            &[],
            &["--grace-ms"],
            &["--grace-ms", "x", "--", "sh"],
            &["--grace-ms", "1", "sh"],
            &["--grace-ms", "1", "--"],
        ];
        for args in cases {
            assert!(parse(args.iter().map(OsString::from)).expect_err("usage").contains("PROGRAM"), "{args:?}");
        }
    }
}
