//! `loadline serve`: the autoscaler of a cluster.

use crate::serve::{ServeOptions, run as serve};
use anyhow::{Context, Result};
use loadline_manifest::serve::read_serve;
use loadline_manifest::yaml::Limits;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Run in Kubernetes: scale InferenceAutoscalers and serve the metrics APIs to HorizontalPodAutoscalers.
///
/// Several replicas may run: each answers, one writes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The configuration; every default where unset.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A kubeconfig file; else `KUBECONFIG`, `~/.kube/config`, or the pod's own service account.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The namespace with Loadline's own Lease, Secrets and ConfigMaps.
    #[arg(long, env = "POD_NAMESPACE", default_value = "loadline", value_name = "NAMESPACE")]
    namespace: String,
    /// The name of this process in the lease, all different.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,
    /// The address at which gateways reach this process.
    #[arg(long, env = "POD_IP", default_value = "127.0.0.1", value_name = "ADDRESS")]
    address: IpAddr,
}

/// Runs until SIGTERM or Ctrl-C.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let limits = Limits::default();
    let (name, text) = match &args.config {
        Some(file) => (file.display().to_string(), super::read_bounded(file, limits.bytes)?),
        None => ("the defaults".to_owned(), String::new()),
    };
    let config = read_serve(&name, &text, &limits).map_err(|faults| anyhow::anyhow!("{faults}"))?;
    super::log_to_stderr();
    loadline_load::raise_descriptor_limit();
    let options = ServeOptions {
        config,
        kubeconfig: args.kubeconfig,
        context: args.context,
        namespace: args.namespace,
        identity: args.identity.unwrap_or_else(|| format!("loadline-{}", std::process::id())),
        address: args.address,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stopped.cancel();
        });
        serve(options, stop).await
    })?;
    Ok(ExitCode::SUCCESS)
}
