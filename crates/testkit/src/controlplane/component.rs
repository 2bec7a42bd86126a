//! The processes of a control plane: their flags, their logs, their start and end.

use super::pki::{FRONT_PROXY_CLIENT, Pki};
use super::{ETCD_PEER_PORT, ETCD_PORT, Options, SECURE_PORT, tools};
use crate::netns::Plan;
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to end after SIGTERM before it is killed.
const END: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(10);
/// How much of a log an error carries, in lines and bytes.
const TAIL_LINES: usize = 12;
const TAIL_BYTES: usize = 16 * 1024;

/// One process of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The store.
    Etcd,
    /// kube-apiserver.
    ApiServer,
    /// kube-controller-manager, with the stock HPA controller.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
}

impl Component {
    /// All of them, in order of start.
    pub const ALL: [Self; 4] = [Self::Etcd, Self::ApiServer, Self::ControllerManager, Self::Scheduler];

    /// The name of its program.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }

    pub(super) fn program(self, options: &Options) -> Result<PathBuf> {
        match self {
            Self::Etcd => tools::ETCD.program(self.name()),
            _ => options.minor.tool().program(self.name()),
        }
    }

    /// Its flags; the same at every start.
    pub(super) fn flags(self, plan: Plan, pki: &Pki, folder: &Path, options: &Options) -> Vec<String> {
        let file = |name: &str| pki.path(name).display().to_string();
        let mut flags = match self {
            Self::Etcd => etcd(plan, &folder.join("etcd")),
            Self::ApiServer => apiserver(plan, &file),
            Self::ControllerManager => {
                let mut flags = client(self, plan, &file);
                flags.push(format!("--service-account-private-key-file={}", file("service-accounts.key")));
                flags.push(format!("--root-ca-file={}", file("ca.crt")));
                flags.push("--use-service-account-credentials=true".to_owned());
                // Its own limits (20 and 30) make the start 4 s longer; where it is measured, `extra` sets them back: the last wins.
                flags.extend(["--kube-api-qps=200".to_owned(), "--kube-api-burst=400".to_owned()]);
                for (name, value) in [
                    ("sync-period", options.hpa_sync_period),
                    ("downscale-stabilization", options.downscale_stabilization),
                ] {
                    if let Some(value) = value {
                        flags.push(format!("--horizontal-pod-autoscaler-{name}={}ms", value.as_millis()));
                    }
                }
                flags
            }
            Self::Scheduler => client(self, plan, &file),
        };
        if self != Self::Etcd && !options.feature_gates.is_empty() {
            let gates: Vec<String> = options.feature_gates.iter().map(|(name, on)| format!("{name}={on}")).collect();
            flags.push(format!("--feature-gates={}", gates.join(",")));
        }
        flags.extend(options.extra.iter().filter(|(component, _)| *component == self).map(|(_, flag)| flag.clone()));
        flags
    }
}

fn etcd(plan: Plan, folder: &Path) -> Vec<String> {
    let client = format!("http://{}:{ETCD_PORT}", plan.loopback());
    let peer = format!("http://{}:{ETCD_PEER_PORT}", plan.loopback());
    vec![
        "--name=etcd".to_owned(),
        format!("--data-dir={}", folder.display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=etcd={peer}"),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

fn apiserver(plan: Plan, file: &dyn Fn(&str) -> String) -> Vec<String> {
    let address = plan.bridge_address();
    vec![
        format!("--etcd-servers=http://{}:{ETCD_PORT}", plan.loopback()),
        format!("--bind-address={address}"),
        format!("--advertise-address={address}"),
        format!("--secure-port={SECURE_PORT}"),
        format!("--service-cluster-ip-range={}", plan.service_cidr()),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--tls-cert-file={}", file("apiserver.crt")),
        format!("--tls-private-key-file={}", file("apiserver.key")),
        format!("--kubelet-client-certificate={}", file("kube-apiserver-kubelet-client.crt")),
        format!("--kubelet-client-key={}", file("kube-apiserver-kubelet-client.key")),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--service-account-key-file={}", file("service-accounts.pub")),
        format!("--service-account-signing-key-file={}", file("service-accounts.key")),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
        format!("--requestheader-client-ca-file={}", file("front-proxy-ca.crt")),
        format!("--requestheader-allowed-names={FRONT_PROXY_CLIENT}"),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        format!("--proxy-client-cert-file={}", file(&format!("{FRONT_PROXY_CLIENT}.crt"))),
        format!("--proxy-client-key-file={}", file(&format!("{FRONT_PROXY_CLIENT}.key"))),
        // It dials the endpoints of an APIService itself.
        "--enable-aggregator-routing=true".to_owned(),
        "--profiling=false".to_owned(),
    ]
}

fn client(component: Component, plan: Plan, file: &dyn Fn(&str) -> String) -> Vec<String> {
    let name = component.name();
    let kubeconfig = file(&format!("{name}-client.kubeconfig"));
    let mut flags: Vec<String> = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
        .map(|flag| format!("--{flag}={kubeconfig}"))
        .into();
    flags.extend([
        format!("--bind-address={}", plan.loopback()),
        format!("--tls-cert-file={}", file(&format!("{name}.crt"))),
        format!("--tls-private-key-file={}", file(&format!("{name}.key"))),
        "--leader-elect=false".to_owned(),
        "--profiling=false".to_owned(),
    ]);
    flags
}

/// A started process; killed when dropped.
pub(super) struct Running {
    component: Component,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it; output is appended to its log.
    pub(super) fn start(component: Component, program: &Path, flags: &[String], log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log);
        let out = out.with_context(|| format!("{} cannot be written", log.display()))?;
        let child = Command::new(program)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("{} could not be started", program.display()))?;
        Ok(Self { component, child, log: log.to_owned() })
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// If it ended, with the end of its log.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}); its log ends with\n{}", self.component.name(), tail(&self.log)),
        }
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        match kill(Pid::from_raw(i32::try_from(self.child.id())?), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => bail!("{} could not be sent {signal}: {error}", self.component.name()),
        }
    }

    /// Sends the signal and waits for the end; kills what does not end.
    pub(super) fn end(mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        let deadline = Instant::now() + END;
        while self.child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                return Ok(self.child.kill()?);
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already, and the namespace ends what is left.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a log.
pub(super) fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text =
        String::from_utf8_lossy(bytes.get(bytes.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_last_lines() {
        let path = std::env::temp_dir().join(format!("loadline-tail-{}", std::process::id()));
        let lines: Vec<String> = (0..5000).map(|line| format!("line {line}")).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        let tail = tail(&path);
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.starts_with("line 4988\n") && tail.ends_with("line 4999"), "{tail}");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(super::tail(&path), "");
    }

    #[test]
    fn an_ended_process_is_reported_with_its_log() {
        let log = std::env::temp_dir().join(format!("loadline-ended-{}", std::process::id()));
        let flags = ["-c".to_owned(), "echo no port; exit 3".to_owned()];
        let mut running = Running::start(Component::Etcd, Path::new("/bin/sh"), &flags, &log).unwrap();
        running.child.wait().unwrap();
        let error = running.check().unwrap_err().to_string();
        assert!(error.contains("etcd ended") && error.contains("no port"), "{error}");
        std::fs::remove_file(&log).unwrap();
    }
}
