//! `loadline gateway`: hold, queue and route requests in front of the replicas of a namespace.

use crate::gatewayd::{Daemon, Inputs, Settings, TlsSource};
use anyhow::{Context, Result, bail};
use loadline_base::GatewayId;
use loadline_cluster::{Cluster, ClusterSettings, LeaseSeen, Part, WatchScope};
use loadline_hold::HoldSettings;
use loadline_link::LinkLimits;
use loadline_manifest::config::defaults;
use loadline_net::Clock;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where a pod finds its namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// Longest namespace, from RFC 1123.
const MAX_NAMESPACE_BYTES: usize = 63;
/// What a gateway looks at; it needs no right for anything else.
const WATCHED: [Part; 3] = [Part::Pods, Part::Autoscalers, Part::Targets];
/// How often the certificate is read again.
const TLS_PERIOD: Duration = Duration::from_secs(10);

/// Hold, queue and route requests in front of the replicas of a namespace, in Kubernetes.
///
/// Serves the models of all InferenceAutoscalers of its namespace whose `spec.gateway.name` is its name, and tells the writer among
/// `loadline serve` how much is asked for, so that it scales from zero and back without losing a request.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The name by which autoscalers choose this gateway.
    #[arg(long, default_value = "gateway", value_name = "NAME")]
    name: String,
    /// The namespace it serves [default: `POD_NAMESPACE`, else that of the pod's service account].
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The name of this process among the gateways [default: `POD_NAME`, else `HOSTNAME`].
    #[arg(long, value_name = "NAME")]
    pod_name: Option<String>,
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The namespace of `loadline serve`, where its Lease is [default: the namespace it serves].
    #[arg(long, value_name = "NAMESPACE")]
    install_namespace: Option<String>,
    /// The name of the Lease of `loadline serve`.
    #[arg(long, default_value = loadline_cluster::LEASE_NAME, value_name = "NAME")]
    lease_name: String,
    /// The Secret of that namespace with `ca.crt`, `tls.crt` and `tls.key` for the connection to the writer, which `loadline serve`
    /// makes; a changed one is taken while running.
    #[arg(long, value_name = "NAME", conflicts_with = "tls_dir")]
    tls_secret: Option<String>,
    /// A directory with these three files instead.
    #[arg(long, value_name = "DIRECTORY")]
    tls_dir: Option<PathBuf>,
    /// The writer's address instead of the one in its Lease.
    #[arg(long, value_name = "HOST:PORT", hide = true)]
    writer: Option<String>,
    /// A kubeconfig file, outside a cluster.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig file.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// How long a request may wait while no replica serves, where its autoscaler does not say [default: learnt from start times].
    #[arg(long, value_parser = loadline_base::parse_duration, value_name = "DURATION")]
    cold_wait: Option<Duration>,
    /// How long a request may wait for a free slot, where its autoscaler does not say.
    #[arg(long, default_value = "60s", value_parser = loadline_base::parse_duration, value_name = "DURATION")]
    saturated_wait: Duration,
    /// The label `top_level_controller_name` of metrics under the endpoint picker's names.
    #[arg(long, default_value = "loadline", value_name = "NAME")]
    top_level_controller_name: String,
    /// How long it still accepts connections after SIGTERM, until no proxy sends any.
    #[arg(long, default_value = "5s", value_parser = loadline_base::parse_duration, value_name = "DURATION")]
    drain_delay: Duration,
    /// How long held and running requests may still take after SIGTERM; the pod's grace period must be longer.
    #[arg(long, default_value = "10m", value_parser = loadline_base::parse_duration, value_name = "DURATION")]
    shutdown_timeout: Duration,
}

/// Runs until SIGTERM or Ctrl-C.
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    super::log_to_stderr();
    loadline_load::raise_descriptor_limit();
    let variable = |name: &str| std::env::var(name).ok();
    let (namespace, pod_name) = whoami(&args, variable, Path::new(NAMESPACE_FILE))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(serve(args, namespace, pod_name))
}

/// Namespace and pod name, from flags, environment and files.
fn whoami(args: &Args, variable: impl Fn(&str) -> Option<String>, file: &Path) -> Result<(String, String)> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let namespace = match args.namespace.clone().or_else(|| set("POD_NAMESPACE")) {
        Some(namespace) => namespace,
        None => super::read_bounded(file, MAX_NAMESPACE_BYTES)
            .context("the namespace is not known; name it with `--namespace`, or set `POD_NAMESPACE` in the pod")?,
    };
    let pod_name = args
        .pod_name
        .clone()
        .or_else(|| set("POD_NAME"))
        .or_else(|| set("HOSTNAME"))
        .context("the name of this process is not known; set `POD_NAME` in the pod, or give `--pod-name`")?;
    let namespace = namespace.trim().to_owned();
    for (what, name) in [("namespace", &namespace), ("pod name", &pod_name)] {
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        anyhow::ensure!(
            !name.is_empty() && name.chars().all(is_name),
            "the {what} `{name}` is none: write lowercase letters, digits, `-` and `.`"
        );
    }
    Ok((namespace, pod_name))
}

fn settings(args: &Args, namespace: &str, pod_name: &str, tls: TlsSource) -> Settings {
    Settings {
        id: GatewayId::new(format!("{namespace}/{pod_name}")),
        namespace: namespace.to_owned(),
        name: args.name.clone(),
        listen: args.listen,
        tls,
        tls_period: TLS_PERIOD,
        hold: HoldSettings {
            cold_budget: args.cold_wait,
            saturated_budget: args.saturated_wait,
            keepalive_grace: defaults::KEEPALIVE_GRACE.span(),
            keepalive_period: defaults::KEEPALIVE_PERIOD.span(),
            ..HoldSettings::default()
        },
        link: LinkLimits::default(),
        drain_delay: args.drain_delay,
        top_level_controller_name: args.top_level_controller_name.clone(),
    }
}

async fn serve(args: Args, namespace: String, pod_name: String) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let clock = Clock::real();
    let install_namespace = args.install_namespace.clone().unwrap_or_else(|| namespace.clone());
    let cluster_settings = ClusterSettings {
        kubeconfig: args.kubeconfig.clone(),
        context: args.context.clone(),
        scope: WatchScope::Namespace(namespace.clone()),
        parts: WATCHED.into(),
        lease_name: args.lease_name.clone(),
        ..ClusterSettings::new(install_namespace, pod_name.clone())
    };
    let cluster =
        Cluster::connect(cluster_settings, clock.clone())
            .await
            .map_err(|error| anyhow::anyhow!("{error}"))
            .context("the cluster's address and credentials are not known; outside a cluster give `--kubeconfig`")?;
    let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
    let writer = match &args.writer {
        Some(address) => watch::channel(Some(address.clone())).1,
        None => follow_lease(cluster.lease().watch(&tasks, &cancel), &tasks),
    };
    let inputs = Inputs { snapshots: cluster.watch(&tasks, &cancel), writer };
    let tls = match (&args.tls_secret, &args.tls_dir) {
        (Some(name), _) => TlsSource::Secret { store: cluster.secrets(), name: name.clone() },
        (None, Some(directory)) => TlsSource::Directory(directory.clone()),
        (None, None) => TlsSource::None,
    };
    let daemon = Daemon::start(settings(&args, &namespace, &pod_name, tls), clock, inputs)?;
    super::print(&format!(
        "loadline gateway `{}` of namespace `{namespace}` listens on http://{}\n",
        args.name,
        daemon.address()
    ))?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = daemon.ended() => bail!("the gateway's loop ended on its own, so it would learn of no replica any more; this is a defect of Loadline: please report it"),
    }
    tracing::info!("ending: held and running requests finish first; a second signal ends at once");
    let outcome = tokio::select! {
        () = daemon.shutdown(args.shutdown_timeout) => Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => Err(anyhow::anyhow!("ended at once by a second SIGTERM")),
        _ = interrupt.recv() => Err(anyhow::anyhow!("ended at once by a second Ctrl-C")),
    };
    cancel.cancel();
    outcome
}

/// The writer's address in the Lease; the last one known stays while there is none.
fn follow_lease(
    mut lease: watch::Receiver<Option<Arc<LeaseSeen>>>,
    tasks: &TaskTracker,
) -> watch::Receiver<Option<String>> {
    let (tell, address) = watch::channel(None);
    tasks.spawn(async move {
        loop {
            let seen =
                lease.borrow_and_update().as_ref().and_then(|seen| seen.writer_address.as_deref().map(str::to_owned));
            if let Some(seen) = seen {
                tell.send_if_modified(|known| {
                    let is_new = known.as_ref() != Some(&seen);
                    *known = Some(seen);
                    is_new
                });
            }
            if lease.changed().await.is_err() {
                return;
            }
        }
    });
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn who_it_is_comes_from_flags_then_environment_then_file() {
        let file = std::env::temp_dir().join(format!("loadline-namespace-{}", std::process::id()));
        std::fs::write(&file, "from-file\n").expect("written");
        struct Case {
            flags: &'static [&'static str],
            env: &'static [(&'static str, &'static str)],
            file: bool,
            expect: Result<(&'static str, &'static str), &'static str>,
        }
        for case in [
            Case { flags: &[], env: &[("HOSTNAME", "h")], file: true, expect: Ok(("from-file", "h")) },
            Case {
                flags: &[],
                env: &[("POD_NAMESPACE", "n"), ("POD_NAME", "p"), ("HOSTNAME", "h")],
                file: true,
                expect: Ok(("n", "p")),
            },
            Case {
                flags: &["--namespace=f", "--pod-name=q"],
                env: &[("POD_NAMESPACE", "n"), ("POD_NAME", "p")],
                file: true,
                expect: Ok(("f", "q")),
            },
            Case { flags: &[], env: &[("POD_NAME", "p")], file: false, expect: Err("--namespace") },
            Case { flags: &["--namespace=n"], env: &[], file: true, expect: Err("POD_NAME") },
            Case { flags: &["--namespace=a/b"], env: &[("POD_NAME", "p")], file: true, expect: Err("`a/b`") },
        ] {
            let args = Cli::parse_from(["x"].iter().chain(case.flags)).args;
            let path = if case.file { file.clone() } else { file.with_extension("missing") };
            let variable =
                |name: &str| case.env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            match (whoami(&args, variable, &path), case.expect) {
                (Ok((namespace, pod)), Ok(expect)) => assert_eq!((namespace.as_str(), pod.as_str()), expect),
                (Err(error), Err(expect)) => assert!(format!("{error:#}").contains(expect), "{error:#}"),
                (got, expect) => panic!("{got:?} instead of {expect:?}"),
            }
        }
        std::fs::remove_file(&file).expect("removed");
    }

    /// One place for each fact: what no flag says is what the parts themselves take, but for the fields named.
    #[test]
    fn the_defaults_are_those_of_the_parts() {
        let args = Cli::parse_from(["x"]).args;
        let settings = settings(&args, "ns", "pod", TlsSource::None);
        let hold = HoldSettings { keepalive_grace: Duration::from_secs(5), ..HoldSettings::default() };
        assert_eq!((settings.hold, settings.link), (hold, LinkLimits::default()));
        assert!(settings.listen.ip().is_loopback());
    }
}
