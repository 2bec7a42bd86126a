//! Containers as local processes: a network namespace per pod, a mount namespace and a root of its own per container.

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

/// Search path of a container that sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a container may write outside its volumes.
const SCRATCH_SIZE: &str = "size=1g";

/// Outside the root: an overlay over the machine's files whose writes are lost with the container.
/// `$1` scratch, `$2` pod files, `$3` the loadline binary or nothing, `$4` host name, `$5` the inner script, then what the inner one gets.
const OUTER: &str = r#"set -e
T=$1; F=$2; B=$3; H=$4; I=$5; shift 5
mount -t tmpfs -o "$SCRATCH" scratch "$T"
mkdir -p "$T/up/etc" "$T/up/usr/local/bin" "$T/up/.pod" "$T/wk" "$T/root"
cp -f "$F/etc/resolv.conf" "$F/etc/hosts" "$F/etc/hostname" "$T/up/etc/"
R="$T/root"
if ! mount -t overlay overlay -o "lowerdir=/,upperdir=$T/up,workdir=$T/wk" "$R" 2>/dev/null; then
  # In a user namespace the whole root cannot lie below an overlay; its folders can, one by one.
  for e in /*; do
    n=${e#/}
    if [ -L "$e" ]; then cp -P "$e" "$R/$n"; continue; fi
    [ -d "$e" ] || continue
    mkdir -p "$R/$n"
    case $n in
      proc|sys|dev) continue ;;
      tmp) chmod 1777 "$R/tmp"; continue ;;
    esac
    mkdir -p "$T/up/$n" "$T/wk.$n"
    if ! mount -t overlay overlay -o "lowerdir=/$n,upperdir=$T/up/$n,workdir=$T/wk.$n,userxattr" "$R/$n" 2>/dev/null; then
      if [ "$n" = etc ]; then cp -a /etc/. "$R/etc/" 2>/dev/null || :; cp -f "$T/up/etc/"* "$R/etc/"; else mount --rbind "/$n" "$R/$n"; fi
    fi
  done
  mkdir -p "$R/.pod"
fi
for d in proc sys dev; do mount --rbind "/$d" "$R/$d"; done
mount --bind "$F" "$R/.pod"
if [ -n "$B" ]; then
  rm -f "$R/usr/local/bin/loadline" "$R/loadline"; : > "$R/usr/local/bin/loadline"
  mount --bind "$B" "$R/usr/local/bin/loadline"; ln -s /usr/local/bin/loadline "$R/loadline"
fi
printf %s "$H" > /proc/sys/kernel/hostname || :
unset SCRATCH
exec chroot "$R" /bin/sh -c "$I" sh "$@"
"#;

/// Inside the root: `$1` working folder, `$2` number of mounts, then per mount source, target, `ro|rw`, then the command.
const INNER: &str = r#"set -e
W=$1; N=$2; shift 2
while [ "$N" -gt 0 ]; do
  if [ -d "$1" ]; then mkdir -p "$2"; else mkdir -p "$(dirname "$2")"; [ -e "$2" ] || : > "$2"; fi
  mount --bind "$1" "$2"
  if [ "$3" = ro ]; then mount -o remount,bind,ro "$2"; fi
  shift 3; N=$((N-1))
done
mkdir -p "$W"; cd "$W"
set +e
exec "$@"
"#;

/// A pod's network namespace, held open by one process.
#[derive(Debug)]
pub(super) struct Sandbox {
    holder: Child,
    pid: u32,
}

impl Sandbox {
    /// A namespace without any link.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) async fn open() -> Result<Self> {
        let mut holder = Command::new("unshare")
            .args(["--net", "--", "/bin/sh", "-c", "echo up; exec sleep infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start `unshare`")?;
        let pid = holder.id().context("the namespace's holder ended at once")?;
        let mut word = [0; 2];
        let mut out = holder.stdout.take().context("no standard output")?;
        out.read_exact(&mut word).await.context("`unshare --net` failed")?;
        Ok(Self { holder, pid })
    }

    /// The process whose namespaces are the pod's.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends it; links inside go with it.
    pub(super) async fn close(mut self) {
        if let Err(error) = self.holder.kill().await {
            tracing::debug!(%error, "cannot end a pod's namespace");
        }
    }
}

/// Runs `ip -batch` with these lines, in the namespace of `inside` if given.
///
/// # Errors
/// What `ip` said.
pub(super) async fn ip_batch(inside: Option<u32>, lines: &str) -> Result<()> {
    let mut command = match inside {
        Some(pid) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/proc/{pid}/ns/net")).arg("ip");
            command
        }
        None => Command::new("ip"),
    };
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start `ip`")?;
    let mut input = child.stdin.take().context("no standard input")?;
    input.write_all(lines.as_bytes()).await?;
    drop(input);
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        bail!("`ip -batch` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A bind mount inside a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Below the pod's folder, or an absolute path of the machine.
    pub(super) source: PathBuf,
    pub(super) target: String,
    pub(super) read_only: bool,
}

/// All that starts a container's process.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    /// Holder of the pod's network namespace; `None` shares the machine's.
    pub(super) sandbox: Option<u32>,
    /// The pod's folder with `etc/` and `volumes/`; seen as `/.pod` inside.
    pub(super) files: &'a Path,
    /// An empty folder of this container.
    pub(super) scratch: &'a Path,
    pub(super) loadline: Option<&'a Path>,
    pub(super) hostname: &'a str,
    pub(super) argv: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) mounts: Vec<Mount>,
    pub(super) directory: Option<&'a str>,
    pub(super) log: &'a Path,
}

impl Launch<'_> {
    /// Starts the process as leader of its own group; its pid stays the same through all preparation.
    ///
    /// # Errors
    /// If it cannot be started or its log cannot be opened.
    pub(super) fn spawn(self) -> Result<Child> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log)
            .with_context(|| format!("cannot open `{}`", self.log.display()))?;
        let mut words: Vec<String> = Vec::new();
        if let Some(pid) = self.sandbox {
            words.extend(["nsenter".to_owned(), format!("--net=/proc/{pid}/ns/net"), "--".to_owned()]);
        }
        words.extend(
            ["unshare", "--mount", "--uts", "--propagation", "private", "--", "/bin/sh", "-c", OUTER, "sh"]
                .map(str::to_owned),
        );
        words.push(self.scratch.display().to_string());
        words.push(self.files.display().to_string());
        words.push(self.loadline.map(|path| path.display().to_string()).unwrap_or_default());
        words.push(self.hostname.to_owned());
        words.push(INNER.to_owned());
        words.push(self.directory.unwrap_or("/").to_owned());
        words.push(self.mounts.len().to_string());
        for mount in &self.mounts {
            let source = match mount.source.strip_prefix(self.files) {
                Ok(below) => Path::new("/.pod").join(below),
                Err(_) => mount.source.clone(),
            };
            words.push(source.display().to_string());
            words.push(mount.target.clone());
            words.push(if mount.read_only { "ro" } else { "rw" }.to_owned());
        }
        words.extend(self.argv);
        let (program, arguments) = words.split_first().context("nothing to run")?;
        Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", DEFAULT_PATH)
            .envs(self.env)
            .env("SCRATCH", SCRATCH_SIZE)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start `{program}`"))
    }
}

/// A command inside a running container, as exec probes and hooks need it.
pub(super) fn inside(pid: u32, argv: &[String], env: &BTreeMap<String, String>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .args(["--target", &pid.to_string(), "--net", "--mount", "--uts", "--root", "--wd", "--"])
        .args(argv)
        .env_clear()
        .env("PATH", DEFAULT_PATH)
        .envs(env)
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// Signals a whole process group; one that is gone already is no error.
pub(super) fn signal_group(pid: u32, signal: Signal) {
    if let Ok(raw) = i32::try_from(pid)
        && raw > 1
    {
        let _gone = killpg(Pid::from_raw(raw), signal);
    }
}
