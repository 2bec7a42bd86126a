//! `loadline up`, the real release binary, with a configuration of the benchmark.

use super::http;
use super::rig::{self, Running};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// A running `loadline up`.
pub(super) struct Up {
    pub(super) process: Running,
    /// Where the OpenAI API listens; the gateway's own pages are there too.
    pub(super) address: SocketAddr,
}

impl Up {
    /// Starts it with these models and waits until it answers. `core`: pinned there, with one worker thread.
    pub(super) fn start(binary: &Path, folder: &Path, models: &[Value], core: Option<&str>) -> Result<Self> {
        let listen = rig::free_port()?;
        let config = json!({
            "listen": rig::local(listen).to_string(),
            // The bench for held requests needs more than the default.
            "gateway": { "heldRequests": 20_000 },
            "models": models,
        });
        let file = folder.join("loadline.yaml");
        // JSON is YAML.
        std::fs::write(&file, format!("{config:#}\n")).with_context(|| format!("cannot write `{}`", file.display()))?;
        let mut command = match core {
            Some(core) => rig::pinned(core, binary),
            None => Command::new(binary),
        };
        if core.is_some() {
            command.env("TOKIO_WORKER_THREADS", "1");
        }
        command.arg("up").arg("-f").arg(&file);
        let process = Running::start("loadline", &mut command, folder)?;
        let mut up = Self { process, address: rig::local(listen) };
        let address = up.address;
        up.process.wait_until(|| http::get(address, "/healthz").is_ok_and(|page| page.starts_with("HTTP/1.1 200")))?;
        Ok(up)
    }

    /// Requests held now, from its metrics page.
    pub(super) fn held(&self) -> Result<f64> {
        let page = http::get(self.address, "/metrics")?;
        Ok(page
            .lines()
            .filter(|line| line.starts_with("loadline_gateway_queue_depth{"))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum())
    }
}
