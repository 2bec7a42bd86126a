//! A private namespace for everything that needs addresses of its own: network, mounts and processes.
//!
//! The binary executes itself again under `unshare` (with a user namespace where it is not root). Its first process there is a
//! small init of ours that passes signals on by ending and collects orphans; the kernel ends everything inside with it, so
//! nothing survives a test, however it ended.

mod plan;

pub use plan::{Claim, MAX_PLANS, PREFIX, Plan};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Says to a re-executed binary which of the stages it is.
const STAGE: &str = "LOADLINE_NETNS";
const INIT: &str = "init";
const INSIDE: &str = "inside";

/// What is separated in either way; `--kill-child` ends the inside if `unshare` is killed.
const SEPARATED: [&str; 6] = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
const AS_USER: [&str; 2] = ["--user", "--map-root-user"];

/// When the namespace ends beside the end of its main process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// With the process that started this one (best effort without root: the kernel forgets it with the user namespace).
    WithParent,
    /// Not before it is told to.
    Detached,
}

/// Whether this process runs in a namespace of [`enter`]; children of such a process do too.
#[must_use]
pub fn is_inside() -> bool {
    std::env::var_os(STAGE).is_some_and(|stage| stage == INSIDE)
}

/// Goes on in a private namespace: returns inside it only. Call it first in `main`, before there are threads; build and fetch
/// before it, there is no other network in there.
///
/// # Errors
/// If the machine does not allow namespaces, with what would.
pub fn enter(life: Life) -> Result<()> {
    match std::env::var(STAGE).as_deref() {
        Ok(INSIDE) => Ok(()),
        Ok(INIT) => match init()? {},
        _ => match leave_for(life)? {},
    }
}

/// A folder on a file system in memory that ends with the namespace.
///
/// # Errors
/// Outside of a namespace of [`enter`], or if it cannot be made.
pub fn scratch(name: &str) -> Result<PathBuf> {
    if !is_inside() {
        bail!("`{name}` was asked for outside the private namespace; call `netns::enter` first");
    }
    let folder = scratch_root()?.join(name);
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    Ok(folder)
}

fn scratch_root() -> Result<PathBuf> {
    Ok(crate::controlplane::tools::cache()?.join("run"))
}

/// Makes the bridge and the Service range of a plan.
///
/// # Errors
/// Outside the namespace, or if `ip` refuses (the plan is taken already).
pub fn lay_out(plan: Plan) -> Result<()> {
    if !is_inside() {
        bail!("a bridge is only made in the private namespace; call `netns::enter` first");
    }
    let bridge = plan.bridge();
    ip(&["link", "add", &bridge, "type", "bridge"])?;
    ip(&["addr", "add", &format!("{}/{PREFIX}", plan.bridge_address()), "dev", &bridge])?;
    ip(&["link", "set", &bridge, "up"])?;
    ip(&["route", "add", "local", &plan.service_cidr(), "dev", "lo"])
}

/// Takes away what [`lay_out`] made.
///
/// # Errors
/// If `ip` refuses.
pub fn clear(plan: Plan) -> Result<()> {
    ip(&["route", "del", "local", &plan.service_cidr(), "dev", "lo"])?;
    ip(&["link", "del", &plan.bridge()])
}

/// Makes the processes of this namespace ask a plan's cluster DNS for names, as pods of the Kubernetes namespace `default` do.
///
/// # Errors
/// Outside the namespace, or if this machine has no `/etc/resolv.conf`.
pub fn ask_dns_of(plan: Plan) -> Result<()> {
    let path = scratch("dns")?.join("resolv.conf");
    let text = format!(
        "nameserver {}\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n",
        plan.dns()
    );
    std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    quietly(Command::new("mount").arg("--bind").arg(path).arg("/etc/resolv.conf"))
}

/// Runs `ip` of iproute2.
///
/// # Errors
/// If it is missing or fails, with what it wrote.
pub fn ip(args: &[&str]) -> Result<()> {
    quietly(Command::new("ip").args(args))
}

fn quietly(command: &mut Command) -> Result<()> {
    let name = format!("{command:?}").replace('"', "");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("`{name}` could not be run"))?;
    if !output.status.success() {
        bail!("`{name}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The flags that work on this machine.
fn flags() -> Result<Vec<&'static str>> {
    let as_user: Vec<&str> = AS_USER.into_iter().chain(SEPARATED).collect();
    let mut ways = vec![as_user];
    if rustix::process::geteuid().is_root() {
        ways.insert(0, SEPARATED.to_vec());
    }
    let mut why = None;
    for way in ways {
        match quietly(Command::new("unshare").args(&way).args(["--", "true"])) {
            Ok(()) => return Ok(way),
            Err(error) => why = Some(error),
        }
    }
    Err(why.unwrap_or_else(|| anyhow::anyhow!("no way was tried")).context(
        "a private namespace is refused here: run as root with CAP_SYS_ADMIN, or allow user namespaces \
         (kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)",
    ))
}

fn own_path() -> Result<PathBuf> {
    std::env::current_exe().context("the path of this program is unknown")
}

fn leave_for(life: Life) -> Result<Infallible> {
    let flags = flags()?;
    let scratch = scratch_root()?;
    std::fs::create_dir_all(&scratch).with_context(|| format!("{} cannot be made", scratch.display()))?;
    if life == Life::WithParent {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .context("the end of the parent cannot be watched")?;
    }
    let error = Command::new("unshare")
        .args(flags)
        .arg("--")
        .arg(own_path()?)
        .args(std::env::args_os().skip(1))
        .env(STAGE, INIT)
        .exec();
    Err(error).context("`unshare` of util-linux could not be run")
}

/// The first process of the namespace: sets it up, starts the program proper, collects orphans, ends with it.
fn init() -> Result<Infallible> {
    if std::process::id() != 1 {
        bail!("`{STAGE}={INIT}` is set outside of a new process namespace; unset it");
    }
    ip(&["link", "set", "lo", "up"])?;
    let scratch = scratch_root()?;
    quietly(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=0755", "tmpfs"]).arg(scratch))?;
    let program = Command::new(own_path()?)
        .args(std::env::args_os().skip(1))
        .env(STAGE, INSIDE)
        .spawn()
        .context("this program could not be started again in the namespace")?;
    // Blocked only now: a child would inherit it.
    let mut asked = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        asked.add(signal);
    }
    asked.thread_block()?;
    std::thread::spawn(move || {
        if let Ok(signal) = asked.wait() {
            std::process::exit(128 + signal as i32);
        }
    });
    let program = Pid::from_raw(i32::try_from(program.id())?);
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == program => std::process::exit(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => std::process::exit(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => bail!("the program in the namespace was lost: {error}"),
        }
    }
}
