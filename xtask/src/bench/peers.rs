//! The servers of the gateway benchmark: one upstream, and proxies in front of it, each with one thread on one core.
//!
//! Each peer is configured by its own documentation for a kept-alive upstream, with access logs off and everything else at
//! its defaults. nginx and haproxy do not read the body's JSON: they are the floor. sglang-router does, and is the class.

use super::replica::ANSWER;
use super::rig::{self, LOAD_CORE, PROXY_CORE, Running, pinned};
use super::{http, wrk};
use anyhow::{Context, Result, bail};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The router and its version.
const ROUTER: &str = "sglang-router==0.3.2";
/// What the upstream serves as its metrics: a page of vLLM under load.
const METRICS_PAGE: &str = "vllm-0.32.0-load.prom";
/// Connections that any of them may hold.
const CONNECTIONS: u32 = 4096;

/// A proxy, and where it listens.
pub(super) struct Proxy {
    pub(super) process: Running,
    pub(super) address: SocketAddr,
}

impl Proxy {
    fn start(name: &str, command: &mut Command, folder: &Path, port: u16) -> Result<Self> {
        let mut process = Running::start(name, command, folder)?;
        let address = rig::local(port);
        let request = http::post(wrk::PATH, &http::completion_body("m", false));
        process.wait_until(|| http::answers(address, &request))?;
        Ok(Self { process, address })
    }
}

/// What all nginx configurations begin with: one process, in the foreground, no files outside its folder.
fn nginx_base(folder: &Path, name: &str) -> String {
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path {folder}/{name}.tmp;\n"))
        .collect();
    format!(
        "daemon off;\nmaster_process off;\npid {folder}/{name}.pid;\nerror_log stderr crit;\n\
         events {{ worker_connections {CONNECTIONS}; }}\nhttp {{\n  access_log off;\n  keepalive_requests 1000000000;\n{temporary}"
    )
}

/// A script that replaces itself by an upstream on the port it is given: a fixed answer to everything, and a real metrics page.
pub(super) fn upstream_script(folder: &Path) -> Result<PathBuf> {
    let page = crate::root().join("testdata/metrics").join(METRICS_PAGE);
    let page = page.canonicalize().with_context(|| format!("cannot find `{}`", page.display()))?;
    let config = format!(
        "{}  server {{\n    listen 127.0.0.1:PORT;\n    default_type application/json;\n    \
         location = /metrics {{ default_type text/plain; alias {}; }}\n    \
         location / {{ return 200 '{ANSWER}'; }}\n  }}\n}}\n",
        nginx_base(folder, "upstream-PORT"),
        page.display()
    );
    fs::write(folder.join("upstream.conf"), config)?;
    let script = folder.join("upstream.sh");
    let text = format!(
        "cd '{}' && sed \"s/PORT/$1/g\" upstream.conf > \"upstream-$1.conf\" &&\n\
         exec taskset -c {LOAD_CORE} nginx -e stderr -c \"$PWD/upstream-$1.conf\"\n",
        folder.display()
    );
    fs::write(&script, text)?;
    Ok(script)
}

/// The upstream itself, reached without a proxy.
pub(super) fn upstream(folder: &Path, script: &Path) -> Result<Proxy> {
    let port = rig::free_port()?;
    Proxy::start("upstream", Command::new("sh").arg(script).arg(port.to_string()), folder, port)
}

/// nginx as a proxy.
pub(super) fn nginx(folder: &Path, upstream: SocketAddr) -> Result<Proxy> {
    let port = rig::free_port()?;
    let config = format!(
        "{}  upstream replica {{ server {upstream}; keepalive 64; keepalive_requests 1000000000; }}\n  server {{\n    listen 127.0.0.1:{port};\n    location / {{\n      proxy_pass http://replica;\n      proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      proxy_buffering off;\n    }}\n  }}\n}}\n",
        nginx_base(folder, "nginx")
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config)?;
    Proxy::start("nginx", pinned(PROXY_CORE, "nginx").args(["-e", "stderr", "-c"]).arg(&file), folder, port)
}

/// haproxy.
pub(super) fn haproxy(folder: &Path, upstream: SocketAddr) -> Result<Proxy> {
    let port = rig::free_port()?;
    let config = format!(
        "global\n  nbthread 1\n  maxconn {CONNECTIONS}\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  http-reuse always\nfrontend clients\n  bind 127.0.0.1:{port}\n  default_backend replicas\nbackend replicas\n  server replica {upstream}\n"
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, config)?;
    Proxy::start("haproxy", pinned(PROXY_CORE, "haproxy").args(["-db", "-f"]).arg(&file), folder, port)
}

/// sglang-router.
pub(super) fn router(folder: &Path, upstream: SocketAddr) -> Result<Proxy> {
    let program = install_router()?;
    let (port, metrics) = (rig::free_port()?, rig::free_port()?);
    let mut command = pinned(PROXY_CORE, program);
    command
        .env("TOKIO_WORKER_THREADS", "1")
        .args(["launch", "--host", "127.0.0.1", "--port", &port.to_string(), "--policy", "round_robin"])
        .args(["--prometheus-host", "127.0.0.1", "--prometheus-port", &metrics.to_string(), "--log-level", "warn"])
        .args(["--worker-urls", &format!("http://{upstream}")]);
    Proxy::start("sglang-router", &mut command, folder, port)
}

/// The router's program, from a virtual environment of our own that is made once.
fn install_router() -> Result<PathBuf> {
    let environment = rig::target().join("bench/python");
    let program = environment.join("bin/sglang-router");
    if program.exists() {
        return Ok(program.canonicalize()?);
    }
    eprintln!("installing {ROUTER}");
    let run = |command: &mut Command| command.stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    let done = run(Command::new("python3").args(["-m", "venv"]).arg(&environment))
        && run(Command::new(environment.join("bin/pip")).args(["install", "--quiet", ROUTER]));
    if !done || !program.exists() {
        bail!("missing: {ROUTER}; `python3 -m venv` and `pip install` must work for `{}`", environment.display());
    }
    Ok(program.canonicalize()?)
}
