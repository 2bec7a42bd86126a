//! From a request that a gateway holds for a model at zero to the replica count that the API server tells.

use super::objects::{self, NAMESPACE};
use super::process::Running;
use super::stage::{PATIENCE, Stage};
use anyhow::{Context, Result, ensure};
use loadline_testkit::{binary, client};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

/// Where the gateway listens.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);
/// How long one wake may take.
const WAKE: Duration = Duration::from_secs(30);
/// Between two wakes: what one makes the cluster do shall not be in the next.
const PAUSE: Duration = Duration::from_millis(150);
const LOOK: Duration = Duration::from_millis(100);

/// Wakes each once, one after the other; milliseconds from the request to the count.
pub(crate) async fn run(stage: &Stage, names: &[String]) -> Result<Vec<f64>> {
    let manifests: Vec<_> = names
        .iter()
        .map(|name| {
            let gateway = json!({ "name": "main", "slots": 8 });
            let spec = json!({ "minReplicas": 0, "maxReplicas": 2, "model": name, "gateway": gateway, "idle": { "after": "10m" } });
            objects::autoscaler(name, &spec)
        })
        .collect();
    objects::create(&stage.client, manifests).await?;
    let mut command = Command::new(binary::path()?);
    command.args(["gateway", "--name", "main", "--namespace", NAMESPACE, "--pod-name", "gateway-0"]);
    command.args(["--install-namespace", "loadline", "--listen", &LISTEN.to_string()]);
    command.arg("--tls-dir").arg(stage.gateway_certificate()?);
    command.arg("--kubeconfig").arg(stage.account(NAMESPACE, "loadline-gateway-main")?);
    let mut gateway = Running::start("gateway", &mut command, &stage.folder)?;
    serves(&mut gateway, names).await?;
    let mut millis = Vec::with_capacity(names.len());
    for name in names {
        tokio::time::sleep(PAUSE).await;
        let body = json!({ "model": name, "messages": [{ "role": "user", "content": "hello" }] }).to_string();
        // the connection stands before the clock starts, and ends only after the wake
        let mut held = client::Connection::open(LISTEN, WAKE)?;
        let sent = Instant::now();
        held.send("POST", "/v1/chat/completions", &[("content-type", "application/json")], body.as_bytes())?;
        let heard = stage.counts.other_than(name, 0, WAKE).await;
        let heard = heard.with_context(|| format!("the gateway says:\n{}", gateway.tail()))?;
        millis.push(heard.saturating_duration_since(sent).as_secs_f64() * 1e3);
    }
    Ok(millis)
}

/// Waits until the gateway is ready and lists every model.
async fn serves(gateway: &mut Running, names: &[String]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let get = |path: &str| -> Result<(u16, String)> {
        let (head, body) = client::request(LISTEN, "GET", path, &[], b"", WAKE)?;
        Ok((head.status, String::from_utf8_lossy(&body).into_owned()))
    };
    loop {
        gateway.check()?;
        let is_ready = get("/readyz").is_ok_and(|(status, _)| status == 200);
        if is_ready {
            let (_, models) = get("/v1/models")?;
            if names.iter().all(|name| models.contains(&format!("\"{name}\""))) {
                return Ok(());
            }
        }
        ensure!(Instant::now() < deadline, "the gateway does not serve every model:\n{}", gateway.tail());
        tokio::time::sleep(LOOK).await;
    }
}
