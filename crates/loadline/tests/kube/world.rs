//! What the tests stand on: the shared control plane with its nodes, control planes of a test's own, namespaces.

use anyhow::{Result, anyhow};
use loadline_testkit::controlplane::{ControlPlane, Minor, Options};
use loadline_testkit::netns::{self, Plan};
use loadline_testkit::node::{Faults, NodeAgentThread, NodeSettings};
use std::sync::OnceLock;
use std::time::Duration;

/// The environment variable that names the Kubernetes minor.
const MINOR: &str = "LOADLINE_KUBE_MINOR";
/// The HPA controller's period in tests; its default of 15 s is for figures that are compared.
const HPA_SYNC_PERIOD: Duration = Duration::from_secs(2);
/// The HPA controller's default window of scale-down in tests, instead of 5 min.
const DOWNSCALE_STABILIZATION: Duration = Duration::from_secs(10);

/// A control plane with its nodes.
pub(crate) struct World {
    // Before the control plane, so that it ends first.
    agent: NodeAgentThread,
    pub(crate) plane: ControlPlane,
}

/// The minor asked for.
pub(crate) fn minor() -> Result<Minor> {
    std::env::var(MINOR).map_or(Ok(Minor::default()), |text| Minor::parse(&text))
}

/// The usual options of a test.
pub(crate) fn options() -> Result<Options> {
    Ok(Options {
        minor: minor()?,
        hpa_sync_period: Some(HPA_SYNC_PERIOD),
        downscale_stabilization: Some(DOWNSCALE_STABILIZATION),
        feature_gates: gates(minor()?),
        ..Options::default()
    })
}

/// Scaling to zero by the stock HPA is on by default from 1.37 on.
fn gates(minor: Minor) -> Vec<(String, bool)> {
    match minor {
        Minor::V1_33 => vec![("HPAScaleToZero".to_owned(), true)],
        Minor::V1_37 => Vec::new(),
    }
}

/// The one that tests share; started by the first that asks.
pub(crate) fn shared() -> Result<&'static World> {
    static SHARED: OnceLock<Result<World, String>> = OnceLock::new();
    let world = SHARED.get_or_init(|| {
        let start = || {
            let world = World::with_nodes(ControlPlane::start(Plan::new(0)?, options()?)?)?;
            netns::ask_dns_of(world.plane.plan())?;
            Ok::<_, anyhow::Error>(world)
        };
        start().map_err(|error| format!("{error:#}"))
    });
    world.as_ref().map_err(|error| anyhow!("the shared control plane did not start: {error}"))
}

impl World {
    /// Adds nodes to a control plane.
    pub(crate) fn with_nodes(plane: ControlPlane) -> Result<Self> {
        let directory = plane.directory().join("node");
        let mut settings = NodeSettings::new(plane.agent_kubeconfig().to_owned(), plane.plan(), directory);
        settings.loadline = Some(env!("CARGO_BIN_EXE_loadline").into());
        Ok(Self { agent: NodeAgentThread::start(settings)?, plane })
    }

    /// Faults of its nodes.
    pub(crate) fn faults(&self) -> Faults {
        self.agent.faults()
    }

    /// A namespace for one test; it is deleted in the background when the value is dropped.
    pub(crate) fn namespace(&self, name: &'static str) -> Result<Namespace<'_>> {
        self.plane.kubectl(&["create", "namespace", name])?;
        Ok(Namespace { plane: &self.plane, name })
    }
}

/// A test's namespace.
pub(crate) struct Namespace<'world> {
    plane: &'world ControlPlane,
    name: &'static str,
}

impl Namespace<'_> {
    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Its control plane.
    pub(crate) fn plane(&self) -> &ControlPlane {
        self.plane
    }

    /// Runs kubectl in it.
    pub(crate) fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.plane.kubectl(&[&["--namespace", self.name], words].concat())
    }

    /// Applies a manifest in it.
    pub(crate) fn apply(&self, manifest: &str) -> Result<String> {
        self.plane.kubectl_with(&["--namespace", self.name, "apply", "--filename", "-"], manifest)
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        // All ends with the private namespace; this only frees the nodes for the tests that follow.
        let _ = self.plane.kubectl(&["delete", "namespace", self.name, "--wait=false"]);
    }
}
