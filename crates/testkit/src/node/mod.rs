//! A node agent that plays kubelet, kube-proxy, cluster DNS and metrics server inside the private namespace.
//!
//! Invariants
//! - A pod's containers are real processes in a network namespace with the pod's address; each has a root of its own whose
//!   writes are lost with it.
//! - What the API server could not be told is told later; pods go on without it.
//! - Every process group that was started is killed when the agent stops.
//!
//! Deliberately absent: images, cgroups, users and security contexts, persistent volumes, UDP Services.

mod container;
mod context;
mod dns;
mod env;
mod faults;
mod mirror;
mod nodes;
mod pod;
mod probe;
mod process;
mod proxy;
mod serve;
mod status;
mod tls;
mod usage;
mod volumes;

pub use faults::{Failure, Faults, Loss, Rule, Selector};

use crate::netns::Plan;
use anyhow::{Context as _, Result, bail};
use context::Context;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Config};
use mirror::Mirror;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

use faults::{Handle, Key};
use status::Record;

/// How long the API server may take to appear.
const API_PATIENCE: Duration = Duration::from_secs(30);
/// How long killed processes may take to be gone.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// A node to register.
#[derive(Debug, Clone)]
pub struct NodeShape {
    /// Its name, also its label `kubernetes.io/hostname`.
    pub name: String,
    /// Further labels.
    pub labels: BTreeMap<String, String>,
    /// Capacity, as a quantity.
    pub cpu: String,
    /// Capacity, as a quantity.
    pub memory: String,
    /// How many pods fit.
    pub pods: u32,
    /// `nvidia.com/gpu`; 0 lists none.
    pub gpus: u32,
}

impl NodeShape {
    /// 16 CPUs, 64 GiB, 110 pods and `gpus`.
    #[must_use]
    pub fn new(name: &str, gpus: u32) -> Self {
        Self {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            cpu: "16".to_owned(),
            memory: "64Gi".to_owned(),
            pods: 110,
            gpus,
        }
    }
}

/// Periods of the agent; the default is what kubelet does, but for quicker figures.
#[derive(Debug, Clone)]
pub struct Timings {
    /// Between renewals of a node's Lease.
    pub lease_renewal: Duration,
    /// The back-off of the second restart; it doubles from there.
    pub back_off_first: Duration,
    /// The longest back-off.
    pub back_off_most: Duration,
    /// Between two samples of cpu and memory.
    pub usage_sample: Duration,
    /// Between two looks at the objects that volumes show.
    pub volume_refresh: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            lease_renewal: Duration::from_secs(10),
            back_off_first: Duration::from_secs(10),
            back_off_most: Duration::from_secs(300),
            usage_sample: Duration::from_secs(2),
            volume_refresh: Duration::from_secs(15),
        }
    }
}

/// What an agent is started with.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// Of a user who may do everything.
    pub kubeconfig: PathBuf,
    /// Addresses, laid out already.
    pub plan: Plan,
    /// Volumes, roots and logs go below it.
    pub directory: PathBuf,
    /// At most 250.
    pub nodes: Vec<NodeShape>,
    /// The binary that `loadline` stands for; else the environment's `LOADLINE_BIN`.
    pub loadline: Option<PathBuf>,
    /// Commands of images, for containers that have none; any other image is the emulated engine.
    pub images: BTreeMap<String, Vec<String>>,
    /// Periods.
    pub timings: Timings,
}

impl NodeSettings {
    /// Two nodes with 8 GPUs each.
    #[must_use]
    pub fn new(kubeconfig: PathBuf, plan: Plan, directory: PathBuf) -> Self {
        Self {
            kubeconfig,
            plan,
            directory,
            nodes: vec![NodeShape::new("node-1", 8), NodeShape::new("node-2", 8)],
            loadline: None,
            images: BTreeMap::new(),
            timings: Timings::default(),
        }
    }
}

/// A running agent.
pub struct NodeAgent {
    context: Arc<Context>,
    tasks: JoinSet<()>,
}

impl NodeAgent {
    /// Registers the nodes, then starts everything; needs a multi-thread runtime that outlives it.
    ///
    /// # Errors
    /// If the API server does not answer within 30 s, or the private namespace is not as it should be.
    pub async fn start(settings: NodeSettings) -> Result<Self> {
        if settings.nodes.is_empty() || settings.nodes.len() > 250 {
            bail!("`nodes` must name 1 to 250 nodes");
        }
        for folder in ["pods", "roots", "logs"] {
            let path = settings.directory.join(folder);
            std::fs::create_dir_all(&path).with_context(|| format!("cannot make `{}`", path.display()))?;
        }
        let client = connect(&settings).await?;
        let loadline = settings.loadline.clone().or_else(|| std::env::var_os("LOADLINE_BIN").map(PathBuf::from));
        let loadline = loadline.map(|path| path.canonicalize().with_context(|| format!("`{}`", path.display())));
        let context = Arc::new(Context::new(client.clone(), &settings, loadline.transpose()?));
        prepare_network(settings.plan, &context.bridge_mac()).await?;
        let services = Mirror::<Service>::new();
        let slices = Mirror::<EndpointSlice>::new();
        let usage = usage::Usage::new();
        let mut tasks = JoinSet::new();
        let port = serve::start(&mut tasks, &context, &usage).await?;
        nodes::register(&mut tasks, &context, &settings.nodes, port).await?;
        tasks.spawn(Arc::clone(&services).follow(Api::all(client.clone()), watcher::Config::default()));
        tasks.spawn(Arc::clone(&slices).follow(Api::all(client.clone()), watcher::Config::default()));
        tasks.spawn(proxy::run(Arc::clone(&services), Arc::clone(&slices)));
        dns::start(&mut tasks, settings.plan.dns(), services, slices).await?;
        tasks.spawn(usage::sample(Arc::clone(&context), usage));
        tasks.spawn(serve::announce(Arc::clone(&context), port));
        tasks.spawn(pods(Arc::clone(&context)));
        Ok(Self { context, tasks })
    }

    /// The switchboard of faults; clones share it.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.context.faults.clone()
    }

    /// Kills every pod's processes and waits until they are gone.
    pub async fn stop(mut self) {
        self.kill();
        let gone = async { while self.tasks.join_next().await.is_some() {} };
        let _late = tokio::time::timeout(STOP_PATIENCE, gone).await;
    }

    fn kill(&mut self) {
        self.tasks.abort_all();
        for pod in self.context.faults.pods() {
            pod.signal(None, Signal::SIGKILL);
        }
    }
}

impl Drop for NodeAgent {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An agent with a runtime of its own, for tests that block.
pub struct NodeAgentThread {
    faults: Faults,
    // Dropped in this order: the agent's tasks are aborted before their runtime ends.
    agent: Option<NodeAgent>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl NodeAgentThread {
    /// As [`NodeAgent::start`]; not to be called inside a runtime.
    ///
    /// # Errors
    /// As [`NodeAgent::start`].
    pub fn start(settings: NodeSettings) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let agent = runtime.block_on(NodeAgent::start(settings))?;
        Ok(Self { faults: agent.faults(), agent: Some(agent), runtime: Some(runtime) })
    }

    /// The switchboard of faults.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }
}

impl Drop for NodeAgentThread {
    fn drop(&mut self) {
        drop(self.agent.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(STOP_PATIENCE);
        }
    }
}

async fn connect(settings: &NodeSettings) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(&settings.kubeconfig)
        .with_context(|| format!("cannot read `{}`", settings.kubeconfig.display()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let deadline = tokio::time::Instant::now() + API_PATIENCE;
    loop {
        match context::call(client.apiserver_version()).await {
            Ok(_) => return Ok(client),
            Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Pods route through the bridge's address, which must keep its link-layer address when links come and go.
async fn prepare_network(plan: Plan, mac: &str) -> Result<()> {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot switch forwarding on")?;
    let bridge = plan.bridge();
    for (name, value) in [("send_redirects", "0"), ("rp_filter", "0")] {
        let path = format!("/proc/sys/net/ipv4/conf/{bridge}/{name}");
        std::fs::write(&path, value).with_context(|| format!("cannot write `{path}`"))?;
    }
    process::ip_batch(None, &format!("link set {bridge} address {mac}\n")).await
}

/// Starts and feeds a task for every pod that is bound to one of the nodes.
async fn pods(context: Arc<Context>) {
    let mirror = Mirror::<Pod>::new();
    let wanted = watcher::Config::default().fields("spec.nodeName!=");
    let mut changes = mirror.changes();
    let mut known: BTreeMap<String, watch::Sender<pod::Seen>> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&mirror).follow(Api::all(context.client.clone()), wanted));
    while changes.changed().await.is_ok() {
        while tasks.try_join_next().is_some() {}
        let all = mirror.all();
        for pod in &all {
            let Some(uid) = pod.metadata.uid.clone() else { continue };
            if let Some(feed) = known.get(&uid) {
                feed.send_if_modified(|old| {
                    let is_new = old.as_ref().is_none_or(|old| !Arc::ptr_eq(old, pod));
                    *old = Some(Arc::clone(pod));
                    is_new
                });
            } else if let Some(handle) = admit(&context, pod) {
                let (feed, seen) = watch::channel(Some(Arc::clone(pod)));
                known.insert(uid, feed);
                context.faults.enter(&handle);
                tasks.spawn(pod::live(Arc::clone(&context), handle, seen));
            }
        }
        let present: std::collections::BTreeSet<&str> =
            all.iter().filter_map(|pod| pod.metadata.uid.as_deref()).collect();
        // A pod that was ended is remembered until the API has forgotten it, or it would be started again.
        known.retain(|uid, feed| {
            let is_present = present.contains(uid.as_str());
            if !is_present {
                feed.send_if_modified(|old| old.take().is_some());
            }
            is_present || !feed.is_closed()
        });
    }
}

/// A handle for a pod of ours that is not over.
fn admit(context: &Context, pod: &Arc<Pod>) -> Option<Arc<Handle>> {
    let node = pod.spec.as_ref()?.node_name.clone()?;
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let is_over = matches!(phase, Some("Succeeded" | "Failed")) && pod.metadata.deletion_timestamp.is_none();
    if is_over || !context.nodes.contains(&node) {
        return None;
    }
    let key: Key = (pod.metadata.namespace.clone()?, pod.metadata.name.clone()?);
    Some(Arc::new(Handle {
        key,
        node,
        pod: Mutex::new(Arc::clone(pod)),
        record: Mutex::new(Record::new(pod, context.plan.bridge_address().to_string(), Timestamp::now())),
        changed: watch::Sender::new(0),
        link: Mutex::new(None),
        pids: Mutex::default(),
    }))
}
