//! The control plane with the chart installed, and `loadline serve` beside it as a process with the chart's rights.

use super::objects::{Addresses, Counts, NAMESPACE};
use super::pages::Pages;
use super::process::Running;
use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use loadline_testkit::controlplane::{ControlPlane, Options};
use loadline_testkit::netns::{self, Plan};
use loadline_testkit::{binary, client};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where Loadline is installed, and its release.
const INSTALLED: &str = "loadline";
/// The chart.
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/loadline");
/// `serve`'s own pages.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Where its metrics APIs listen, on the bridge's address: the API server asks endpoints, not Services.
const API_PORT: u16 = 7443;
/// How long a process may take to be ready.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// How long one small request may take.
const ANSWER: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);
/// The pods' third byte of the address starts here: below are the bridge and the nodes.
const FIRST_THIRD: u8 = 128;

/// Everything a measurement stands on.
pub(crate) struct Stage {
    pub(crate) plane: ControlPlane,
    pub(crate) client: Client,
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) counts: Counts,
    pub(crate) folder: PathBuf,
    /// Where the metrics APIs listen.
    pub(crate) api: SocketAddr,
}

impl Stage {
    /// Starts a control plane, installs the chart, and makes every pod address of ours answer.
    pub(crate) async fn start(options: Options) -> Result<Self> {
        let plan = Plan::new(0)?;
        let plane = ControlPlane::start(plan, options)?;
        let range = format!("{}/17", plan.pod_address(FIRST_THIRD, 0));
        netns::ip(&["route", "replace", "local", &range, "dev", "lo"])?;
        let folder = netns::scratch("kube-bench")?;
        plane.kubectl(&["create", "namespace", NAMESPACE])?;
        let gateways = format!(r#"gateways=[{{"name": "main", "namespace": "{NAMESPACE}"}}]"#);
        plane.helm(&[
            "install",
            INSTALLED,
            CHART,
            "--namespace",
            INSTALLED,
            "--create-namespace",
            "--set-json",
            &gateways,
        ])?;
        let api = reachable(&plane, INSTALLED, INSTALLED, ("api", API_PORT))?;
        let client = Client::try_from(config(plane.kubeconfig()).await?)?;
        let pages = Pages::start().await?;
        let addresses = Addresses::start(client.clone(), pages, plan.pod_address(FIRST_THIRD, 0));
        let counts = Counts::start(client.clone());
        Ok(Self { plane, client, addresses, counts, folder, api })
    }

    /// The kubeconfig of a service account.
    pub(crate) fn account(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let user = format!("system:serviceaccount:{namespace}:{name}");
        let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")];
        self.plane.kubeconfig_for(name, &user, &groups)
    }

    /// Starts `loadline serve` and waits until it writes.
    pub(crate) async fn serve(&self) -> Result<Serve> {
        let file = self.folder.join("serve.yaml");
        let text = format!("metricsApi: {{ listen: \"{}\", service: {INSTALLED} }}\n", self.api);
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = Command::new(binary::path()?);
        command.args(["serve", "--identity", "measured", "--address", "127.0.0.1", "--namespace", INSTALLED]);
        command.arg("--config").arg(file).arg("--kubeconfig").arg(self.account(INSTALLED, INSTALLED)?);
        let mut serve = Serve { process: Running::start("serve", &mut command, &self.folder)? };
        let deadline = Instant::now() + PATIENCE;
        loop {
            serve.process.check()?;
            if serve.metric("loadline_writer").is_ok_and(|value| value > 0.0) {
                break;
            }
            anyhow::ensure!(Instant::now() < deadline, "`loadline serve` does not write:\n{}", serve.process.tail());
            tokio::time::sleep(LOOK).await;
        }
        self.until_served("v1beta2", "pods/").await?;
        Ok(serve)
    }

    /// Waits until the aggregator passes requests of custom.metrics.k8s.io on.
    pub(crate) async fn until_served(&self, version: &str, contains: &str) -> Result<()> {
        let (deadline, path) = (Instant::now() + PATIENCE, format!("/apis/custom.metrics.k8s.io/{version}"));
        loop {
            let (status, body) = self.plane.get(&path)?;
            if status == 200 && body.contains(contains) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let name = format!("{version}.custom.metrics.k8s.io");
                let why =
                    self.plane.kubectl(&["get", "apiservice", &name, "--output=jsonpath={.status.conditions}"])?;
                anyhow::bail!("`{path}` has no `{contains}`: {status} {body:.2000}; {name}: {why}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The certificate with which a gateway talks to the writer, in a folder.
    pub(crate) fn gateway_certificate(&self) -> Result<PathBuf> {
        let folder = self.folder.join("gateway-tls");
        std::fs::create_dir_all(&folder)?;
        for name in ["ca.crt", "tls.crt", "tls.key"] {
            let template = format!("--output=go-template={{{{index .data \"{name}\" | base64decode}}}}");
            let words = ["get", "secret", "loadline-tls-client", "--namespace", INSTALLED, &template];
            std::fs::write(folder.join(name), self.plane.kubectl(&words)?)?;
        }
        Ok(folder)
    }
}

/// The client configuration of a kubeconfig.
pub(crate) async fn config(file: &Path) -> Result<Config> {
    let kubeconfig = Kubeconfig::read_from(file)?;
    Ok(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}

/// Makes a process here the only endpoint of a Service: where it has to listen.
pub(crate) fn reachable(plane: &ControlPlane, namespace: &str, service: &str, port: (&str, u16)) -> Result<SocketAddr> {
    let address = plane.plan().bridge_address();
    let (name, number) = port;
    let slice = serde_json::json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": format!("{service}-process"), "namespace": namespace,
            "labels": { "kubernetes.io/service-name": service } },
        "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
        "ports": [{ "name": name, "port": number }],
    });
    plane.kubectl_with(&["apply", "--filename", "-"], &slice.to_string())?;
    Ok(SocketAddr::new(address.into(), number))
}

/// A running `loadline serve`.
pub(crate) struct Serve {
    pub(crate) process: Running,
}

impl Serve {
    /// A metric of its own, without labels.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        let (_, page) = client::request(ADMIN, "GET", "/metrics", &[], b"", ANSWER)?;
        let page = String::from_utf8(page)?;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("there is no metric `{name}`"))?.trim().parse()?)
    }
}
