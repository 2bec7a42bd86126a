//! A real Kubernetes control plane: etcd, kube-apiserver, kube-controller-manager (the stock HPA controller inside) and
//! kube-scheduler as child processes, with TLS, RBAC and the aggregation layer.
//!
//! Invariants
//! - It runs inside a namespace of [`crate::netns`] only and ends with it; several stand side by side, each on a [`Plan`] of its own.
//! - Every wait has a deadline; its error carries the end of the log.
//!
//! Deliberately absent: nodes and pods (the node agent's), high availability, and any policy of what a cluster should contain.

mod component;
mod https;
mod pki;
pub mod tools;

pub use component::Component;
pub use https::Https;
pub use pki::FRONT_PROXY_CLIENT;
pub use tools::Minor;

use crate::netns::{self, Claim, Plan};
use anyhow::{Context, Result, bail};
use component::Running;
use nix::sys::signal::Signal;
use pki::Pki;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where the API server listens, on the bridge's address.
pub const SECURE_PORT: u16 = 6443;
/// Where etcd listens, on the plan's loopback address.
pub const ETCD_PORT: u16 = 2379;
const ETCD_PEER_PORT: u16 = 2380;
const CONTROLLER_MANAGER_PORT: u16 = 10257;
const SCHEDULER_PORT: u16 = 10259;
/// How long one component may take to become ready; a busy machine is slow.
const READY: Duration = Duration::from_secs(120);
/// Between two looks at readiness.
const LOOK: Duration = Duration::from_millis(50);
/// How long one call of kubectl or helm may take.
const CALL: Duration = Duration::from_secs(120);

/// How a control plane is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Which Kubernetes.
    pub minor: Minor,
    /// The HPA controller's period; Kubernetes' default is 15 s.
    pub hpa_sync_period: Option<Duration>,
    /// The HPA controller's default window of scale-down; Kubernetes' default is 5 min.
    pub downscale_stabilization: Option<Duration>,
    /// Feature gates of all components.
    pub feature_gates: Vec<(String, bool)>,
    /// Further flags of one component, as `--name=value`.
    pub extra: Vec<(Component, String)>,
}

/// A running control plane; its processes end when it is dropped.
pub struct ControlPlane {
    plan: Plan,
    options: Options,
    folder: PathBuf,
    pki: Pki,
    admin: Https,
    kubeconfig: PathBuf,
    agent_kubeconfig: PathBuf,
    running: Mutex<BTreeMap<Component, Running>>,
    /// Last, so that the plan is given back after everything else.
    claim: Option<Claim>,
}

impl ControlPlane {
    /// Starts one and waits until it serves, schedules and has its default service account.
    ///
    /// # Errors
    /// Outside the namespace, if a tool is not built, or if a component does not become ready in time.
    pub fn start(plan: Plan, options: Options) -> Result<Self> {
        netns::lay_out(plan)?;
        let folder = netns::scratch(&format!("plane{}", plan.index()))?;
        let pki = Pki::make(&folder.join("pki"), plan, SECURE_PORT)?;
        let plane = Self {
            plan,
            admin: pki.https("admin")?,
            kubeconfig: pki.path("admin.kubeconfig"),
            agent_kubeconfig: pki.path("agent.kubeconfig"),
            options,
            folder,
            pki,
            running: Mutex::default(),
            claim: None,
        };
        // The other two read their configuration from the API server and end if its own roles are not there yet.
        for wave in [[Component::Etcd, Component::ApiServer], [Component::ControllerManager, Component::Scheduler]] {
            wave.into_iter().try_for_each(|component| plane.spawn(component))?;
            wave.into_iter().try_for_each(|component| plane.ready(component))?;
        }
        plane.until("the default service account", Component::ControllerManager, || {
            plane.is_ok("/api/v1/namespaces/default/serviceaccounts/default")
        })?;
        Ok(plane)
    }

    /// Starts one on a plan of its own, beside those that run.
    ///
    /// # Errors
    /// As [`Self::start`], and if no plan is free.
    pub fn beside(options: Options) -> Result<Self> {
        let claim = Claim::new()?;
        let mut plane = Self::start(claim.plan(), options)?;
        plane.claim = Some(claim);
        Ok(plane)
    }

    /// Its addresses.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// How it was started.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Its run files: certificates, logs, etcd's data.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.folder
    }

    /// The administrator's kubeconfig (group `system:masters`).
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The node agent's kubeconfig (group `system:masters`).
    #[must_use]
    pub fn agent_kubeconfig(&self) -> &Path {
        &self.agent_kubeconfig
    }

    /// The authority that signs the API server's certificate and its clients'.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.pki.ca_pem()
    }

    /// Where the API server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((self.plan.bridge_address(), SECURE_PORT))
    }

    /// A kubeconfig for another user: `name` is the file's name, the rest goes into a new client certificate.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn kubeconfig_for(&self, name: &str, user: &str, groups: &[&str]) -> Result<PathBuf> {
        self.pki.kubeconfig(name, user, groups)
    }

    /// `GET path` as administrator: status and body.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        self.admin.get(self.address(), path)
    }

    /// As [`Self::get`], asking for a media type, as clients do that want a discovery document in its aggregated form.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub fn get_as(&self, path: &str, accept: &str) -> Result<(u16, String)> {
        self.admin.get_as(self.address(), path, accept)
    }

    /// kubectl as administrator, without a run: for a caller that wants its own pipes. The version is the control plane's.
    ///
    /// # Errors
    /// If it is not built.
    pub fn kubectl_command(&self) -> Result<Command> {
        self.client(self.options.minor.tool().program("kubectl")?)
    }

    /// Runs kubectl; its standard output.
    ///
    /// # Errors
    /// If it fails or does not end in time, with what it wrote.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        finished(self.kubectl_command()?.args(args), "")
    }

    /// Runs kubectl with `input` as its standard input, as for `apply -f -`.
    ///
    /// # Errors
    /// As [`Self::kubectl`].
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String> {
        finished(self.kubectl_command()?.args(args), input)
    }

    /// Runs helm; its standard output.
    ///
    /// # Errors
    /// As [`Self::kubectl`].
    pub fn helm(&self, args: &[&str]) -> Result<String> {
        finished(self.client(tools::HELM.program("helm")?)?.args(args), "")
    }

    /// Environment variables with which kubectl and helm of a shell find this cluster.
    ///
    /// # Errors
    /// If a tool is not built.
    pub fn environment(&self) -> Result<Vec<(&'static str, String)>> {
        let home = self.folder.join("home");
        std::fs::create_dir_all(&home).with_context(|| format!("{} cannot be made", home.display()))?;
        let folders = [self.options.minor.tool().folder()?, tools::HELM.folder()?];
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&path)))?;
        let home = home.display().to_string();
        Ok(vec![
            ("KUBECONFIG", self.kubeconfig.display().to_string()),
            ("KUBECACHEDIR", home.clone()),
            ("HELM_CACHE_HOME", home.clone()),
            ("HELM_CONFIG_HOME", home.clone()),
            ("HELM_DATA_HOME", home),
            ("PATH", path.to_string_lossy().into_owned()),
        ])
    }

    /// Ends a component and keeps what it stored. `SIGKILL` is a crash; `SIGTERM` lets it end its requests.
    ///
    /// # Errors
    /// If it does not run.
    pub fn stop(&self, component: Component, signal: Signal) -> Result<()> {
        let running = self.lock().remove(&component);
        running.with_context(|| format!("{} does not run", component.name()))?.end(signal)
    }

    /// Starts a stopped component with the flags it had, and waits until it is ready.
    ///
    /// # Errors
    /// If it runs already or does not become ready in time.
    pub fn resume(&self, component: Component) -> Result<()> {
        self.spawn(component)?;
        self.ready(component)
    }

    /// Sends a signal to a component: `SIGSTOP` and `SIGCONT` make it hang and go on.
    ///
    /// # Errors
    /// If it does not run.
    pub fn signal(&self, component: Component, signal: Signal) -> Result<()> {
        self.lock().get(&component).with_context(|| format!("{} does not run", component.name()))?.signal(signal)
    }

    /// Compacts etcd up to now; the revision. A watch from before gets 410 Gone once the API server's own cache is gone too:
    /// stop and resume the API server after it.
    ///
    /// # Errors
    /// If etcd does not answer as expected.
    pub fn compact(&self) -> Result<i64> {
        let found = self.etcd("/v3/kv/range", &serde_json::json!({"key": "AA==", "count_only": true}))?;
        let revision = found.pointer("/header/revision").and_then(|revision| revision.as_str()?.parse::<i64>().ok());
        let revision = revision.with_context(|| format!("etcd named no revision: {found}"))?;
        self.etcd("/v3/kv/compaction", &serde_json::json!({"revision": revision.to_string(), "physical": true}))?;
        Ok(revision)
    }

    /// The end of a component's log.
    #[must_use]
    pub fn log_tail(&self, component: Component) -> String {
        component::tail(&self.log(component))
    }

    /// Resident memory of each running component, in kilobytes.
    #[must_use]
    pub fn resident_kilobytes(&self) -> BTreeMap<Component, u64> {
        let of = |id: u32| {
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok())
        };
        self.lock().iter().filter_map(|(&component, running)| Some((component, of(running.id())?))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Component, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, component: Component) -> PathBuf {
        self.folder.join(format!("{}.log", component.name()))
    }

    fn client(&self, program: PathBuf) -> Result<Command> {
        let mut command = Command::new(program);
        command.envs(self.environment()?);
        Ok(command)
    }

    fn spawn(&self, component: Component) -> Result<()> {
        let mut running = self.lock();
        if running.contains_key(&component) {
            bail!("{} runs already", component.name());
        }
        let flags = component.flags(self.plan, &self.pki, &self.folder, &self.options);
        let program = component.program(&self.options)?;
        running.insert(component, Running::start(component, &program, &flags, &self.log(component))?);
        Ok(())
    }

    fn ready(&self, component: Component) -> Result<()> {
        let local = |port: u16| SocketAddr::from((self.plan.loopback(), port));
        self.until(component.name(), component, || match component {
            Component::Etcd => TcpStream::connect(local(ETCD_PORT)).is_ok(),
            Component::ApiServer => self.is_ok("/readyz"),
            Component::ControllerManager => self.is_healthy(local(CONTROLLER_MANAGER_PORT)),
            Component::Scheduler => self.is_healthy(local(SCHEDULER_PORT)),
        })
    }

    fn is_ok(&self, path: &str) -> bool {
        self.get(path).is_ok_and(|(status, _)| status == 200)
    }

    fn is_healthy(&self, address: SocketAddr) -> bool {
        self.admin.get(address, "/healthz").is_ok_and(|(status, _)| status == 200)
    }

    /// Waits for `is_so`, and fails at once when the component that would bring it about has ended.
    fn until(&self, what: &str, component: Component, is_so: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + READY;
        while !is_so() {
            if let Some(running) = self.lock().get_mut(&component) {
                running.check()?;
            }
            if Instant::now() >= deadline {
                let tail = self.log_tail(component);
                bail!("waited {READY:?} in vain for {what}; the log of {} ends with\n{tail}", component.name());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn etcd(&self, path: &str, body: &serde_json::Value) -> Result<serde_json::Value> {
        let address = SocketAddr::from((self.plan.loopback(), ETCD_PORT));
        let mut stream = TcpStream::connect_timeout(&address, CALL).context("etcd does not listen")?;
        stream.set_read_timeout(Some(CALL))?;
        let body = body.to_string();
        write!(stream, "POST {path} HTTP/1.0\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
        let mut answer = String::new();
        stream.take(u64::try_from(crate::MAX_ANSWER_BYTES)?).read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("etcd answered with no HTTP")?;
        if head.split(' ').nth(1) != Some("200") {
            bail!("etcd refused `{path}`: {head} {body}");
        }
        Ok(serde_json::from_str(body)?)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // In reverse, so that no log fills with the absence of another component; the namespace ends what stays.
        let mut running = std::mem::take(&mut *self.lock());
        while let Some((_, process)) = running.pop_last() {
            drop(process);
        }
        let _ = netns::clear(self.plan);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Runs a command to its end, within [`CALL`]; its standard output.
fn finished(command: &mut Command, input: &str) -> Result<String> {
    let name = command.get_program().to_string_lossy().rsplit('/').next().unwrap_or_default().to_owned();
    let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let name = format!("{name} {}", words.join(" "));
    let output = bounded(command, input).with_context(|| format!("`{name}`"))?;
    if !output.status.success() {
        bail!("`{name}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn bounded(command: &mut Command, input: &str) -> Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let id = i32::try_from(child.id())?;
    let stdin = child.stdin.take();
    std::thread::scope(|scope| {
        let (ended, end) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            if end.recv_timeout(CALL) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                // Not yet waited for, so the number is still its own.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), Signal::SIGKILL);
            }
        });
        scope.spawn(move || {
            if let Some(mut stdin) = stdin {
                // A client that does not read its input says so itself.
                let _ = stdin.write_all(input.as_bytes());
            }
        });
        let output = child.wait_with_output();
        drop(ended);
        Ok(output?)
    })
}
