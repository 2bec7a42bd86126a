//! One pod's life on its node: sandbox, volumes, containers, reports, deletion.

use super::container::{Restart, Room, Run};
use super::context::{Context, call, code_of, mac};
use super::env::Downward;
use super::faults::{Handle, lock};
use super::process::{Sandbox, ip_batch};
use super::status::State;
use super::volumes::{self, Filling, Tokens};
use anyhow::{Context as _, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, PodSpec, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Between two attempts at the API server.
const RETRY: Duration = Duration::from_millis(500);
/// Between two looks at whether a sidecar has started.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// Tokens are renewed when this share of their life is over, in hundredths.
const RENEW_AT_PERCENT: i64 = 80;

/// The newest that is known of a pod; `None` once it is gone from the API.
pub(super) type Seen = Option<Arc<Pod>>;

/// Lives as long as the pod: from its binding to its removal.
pub(super) async fn live(context: Arc<Context>, handle: Arc<Handle>, mut seen: watch::Receiver<Seen>) {
    let stop = CancellationToken::new();
    let _guard: DropGuard = stop.clone().drop_guard();
    let (grace_in, grace) = watch::channel(grace_of(&handle.pod()));
    let mut tasks = JoinSet::new();
    tasks.spawn(report(Arc::clone(&context), Arc::clone(&handle)));
    let work = run(Arc::clone(&context), Arc::clone(&handle), stop.clone(), grace);
    tokio::pin!(work);
    let mut is_done = false;
    let ending = ending(&handle, &mut seen);
    tokio::pin!(ending);
    let is_gone = loop {
        tokio::select! {
            () = &mut work, if !is_done => is_done = true,
            is_gone = &mut ending => break is_gone,
        }
    };
    context.faults.present(&handle.node).await;
    // A pod that was removed by force gets the least of grace.
    grace_in.send_replace(if is_gone { Duration::ZERO } else { grace_of(&handle.pod()) });
    stop.cancel();
    if !is_done {
        work.await;
    }
    drop(tasks);
    if !is_gone {
        remove(&context, &handle).await;
    }
    context.faults.leave(&handle);
}

/// Follows the API until the pod is to end; true if it is gone already.
async fn ending(handle: &Handle, seen: &mut watch::Receiver<Seen>) -> bool {
    loop {
        let newest = seen.borrow_and_update().clone();
        let Some(pod) = newest else { return true };
        let is_deleted = pod.metadata.deletion_timestamp.is_some();
        *lock(&handle.pod) = pod;
        if is_deleted {
            return false;
        }
        if seen.changed().await.is_err() {
            return true;
        }
    }
}

fn grace_of(pod: &Pod) -> Duration {
    let asked = pod.metadata.deletion_grace_period_seconds;
    let asked = asked.or_else(|| pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds));
    asked.map_or(DEFAULT_GRACE, |seconds| Duration::from_secs(seconds.max(0).unsigned_abs()))
}

/// Runs the pod until all its containers have ended for good or `stop`.
async fn run(context: Arc<Context>, handle: Arc<Handle>, stop: CancellationToken, grace: watch::Receiver<Duration>) {
    let mut house = House::default();
    let built = async {
        loop {
            match build(&context, &handle, &mut house).await {
                Ok(ready) => break ready,
                Err(error) => {
                    let text = format!("{error:#}");
                    handle.change(|record| {
                        for unit in record.main.iter_mut().chain(&mut record.init) {
                            unit.state = State::Waiting { reason: "ContainerCreating", message: text.clone() };
                        }
                    });
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    };
    let built = tokio::select! {
        built = built => Some(built),
        () = stop.cancelled() => None,
    };
    if let Some((places, pod_ip)) = built {
        let uid = handle.pod().metadata.uid.clone().unwrap_or_default();
        let (namespace, name) = &handle.key;
        let room = Arc::new(Room {
            files: house.files.clone(),
            scratch: context.directory.join("roots").join(&uid),
            logs: context.directory.join("logs").join(format!("{namespace}_{name}")),
            places,
            sandbox: house.sandbox.as_ref().map(Sandbox::pid),
            pod_ip,
            stop,
            grace,
            context: Arc::clone(&context),
            handle: Arc::clone(&handle),
        });
        let refresh = refresh(&room);
        let containers = containers(Arc::clone(&room));
        tokio::select! {
            () = refresh => {}
            () = containers => {}
        }
        if let Err(error) = std::fs::remove_dir_all(&room.scratch) {
            tracing::debug!(%error, "a container's root is left over");
        }
    }
    handle.change(|record| record.is_over = true);
    house.leave(&context, &handle).await;
}

/// What was built for a pod so far.
#[derive(Default)]
struct House {
    files: PathBuf,
    sandbox: Option<Sandbox>,
    address: Option<(u8, u8)>,
}

impl House {
    async fn leave(self, context: &Context, handle: &Handle) {
        *lock(&handle.link) = None;
        if let Some(sandbox) = self.sandbox {
            sandbox.close().await;
        }
        if let Some(address) = self.address {
            let ip = context.address(address);
            let bridge = context.plan.bridge();
            if let Err(error) = ip_batch(None, &format!("neigh del {ip} dev {bridge}\n")).await {
                tracing::debug!("{error:#}");
            }
            context.free_address(address);
        }
        if !self.files.as_os_str().is_empty() {
            let _gone = std::fs::remove_dir_all(&self.files);
        }
    }
}

/// Network, files and volumes; safe to repeat after a failure.
async fn build(context: &Context, handle: &Handle, house: &mut House) -> Result<(BTreeMap<String, PathBuf>, Ipv4Addr)> {
    context.faults.present(&handle.node).await;
    let pod = handle.pod();
    let spec = pod.spec.as_ref().context("the pod has no spec")?;
    let uid = pod.metadata.uid.as_deref().context("the pod has no uid")?;
    house.files = context.directory.join("pods").join(uid);
    let pod_ip = if spec.host_network == Some(true) {
        context.plan.bridge_address()
    } else {
        plug(context, handle, house).await?
    };
    write_etc(context, &handle.key.0, spec, &house.files, (pod_ip, &handle.key.1))?;
    let places = furnish(context, &pod, &house.files, pod_ip).await?;
    handle.change(|record| record.pod_ip = Some(pod_ip.to_string()));
    Ok((places, pod_ip))
}

/// A namespace with an address of its own, joined to the bridge.
async fn plug(context: &Context, handle: &Handle, house: &mut House) -> Result<Ipv4Addr> {
    let address = match house.address {
        Some(address) => address,
        None => *house.address.insert(context.take_address(&handle.node)?),
    };
    let ip = context.address(address);
    if lock(&handle.link).is_some() {
        return Ok(ip);
    }
    // A holder of an attempt that failed goes, and its half-made link with it.
    if let Some(old) = house.sandbox.take() {
        old.close().await;
    }
    let sandbox = house.sandbox.insert(Sandbox::open().await?);
    let pid = sandbox.pid();
    let (node, host) = address;
    let link = format!("v{}-{node}-{host}", context.plan.index());
    let (bridge, gateway) = (context.plan.bridge(), context.plan.bridge_address());
    let (own, other) = (mac(ip), context.bridge_mac());
    let outside = format!(
        "link add {link} type veth peer name eth0 address {own} netns {pid}\n\
         link set {link} master {bridge} up\nneigh replace {ip} lladdr {own} dev {bridge} nud permanent\n"
    );
    ip_batch(None, &outside).await?;
    let inside = format!(
        "link set lo up\naddr add {ip}/32 dev eth0\nlink set eth0 up\nroute add {gateway} dev eth0 scope link\n\
         neigh replace {gateway} lladdr {other} dev eth0 nud permanent\nroute add default via {gateway} src {ip}\n"
    );
    ip_batch(Some(pid), &inside).await?;
    *lock(&handle.link) = Some(link);
    Ok(ip)
}

fn write_etc(context: &Context, namespace: &str, spec: &PodSpec, files: &Path, me: (Ipv4Addr, &str)) -> Result<()> {
    let etc = files.join("etc");
    std::fs::create_dir_all(&etc)?;
    let (ip, name) = me;
    let hostname = spec.hostname.as_deref().unwrap_or(name);
    std::fs::write(etc.join("resolv.conf"), resolv_conf(context, namespace, spec))?;
    let mut hosts = format!("127.0.0.1\tlocalhost\n{ip}\t");
    if let Some(subdomain) = &spec.subdomain {
        hosts.push_str(&format!("{hostname}.{subdomain}.{namespace}.svc.cluster.local\t"));
    }
    hosts.push_str(hostname);
    hosts.push('\n');
    for alias in spec.host_aliases.iter().flatten() {
        hosts.push_str(&format!(
            "{}\t{}\n",
            alias.ip,
            alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t")
        ));
    }
    std::fs::write(etc.join("hosts"), hosts)?;
    std::fs::write(etc.join("hostname"), format!("{hostname}\n"))?;
    Ok(())
}

fn resolv_conf(context: &Context, namespace: &str, spec: &PodSpec) -> String {
    let own = spec.dns_config.as_ref();
    let is_cluster = spec.dns_policy.as_deref() != Some("None");
    let mut servers: Vec<String> = if is_cluster { vec![context.plan.dns().to_string()] } else { Vec::new() };
    servers.extend(own.and_then(|own| own.nameservers.clone()).into_iter().flatten());
    let mut searches: Vec<String> = Vec::new();
    let mut options: Vec<String> = Vec::new();
    if is_cluster {
        searches.extend([
            format!("{namespace}.svc.cluster.local"),
            "svc.cluster.local".to_owned(),
            "cluster.local".to_owned(),
        ]);
        options.push("ndots:5".to_owned());
    }
    searches.extend(own.and_then(|own| own.searches.clone()).into_iter().flatten());
    for option in own.and_then(|own| own.options.as_ref()).into_iter().flatten() {
        let name = option.name.clone().unwrap_or_default();
        options.push(option.value.as_ref().map_or(name.clone(), |value| format!("{name}:{value}")));
    }
    let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    text.push_str(&format!("search {}\noptions {}\n", searches.join(" "), options.join(" ")));
    text
}

/// Fills the volumes from what the API server holds now.
async fn furnish(context: &Context, pod: &Pod, files: &Path, pod_ip: Ipv4Addr) -> Result<BTreeMap<String, PathBuf>> {
    let spec = pod.spec.as_ref().context("the pod has no spec")?;
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let is_fed = volumes.iter().any(|one| one.config_map.is_some() || one.secret.is_some() || one.projected.is_some());
    let filling = Filling {
        objects: if is_fed { context.objects(pod).await? } else { Default::default() },
        downward: Downward {
            pod: pod.clone(),
            pod_ip: pod_ip.to_string(),
            host_ip: context.plan.bridge_address().to_string(),
        },
        tokens: tokens(context, pod, spec).await?,
    };
    volumes::fill(files, volumes, &filling)
}

async fn tokens(context: &Context, pod: &Pod, spec: &PodSpec) -> Result<Tokens> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let account = spec.service_account_name.as_deref().unwrap_or("default");
    let accounts = Api::<ServiceAccount>::namespaced(context.client.clone(), namespace);
    let mut tokens = Tokens::new();
    for (audience, seconds) in volumes::audiences(spec.volumes.as_deref().unwrap_or_default()) {
        let audiences = if audience.is_empty() { Vec::new() } else { vec![audience.clone()] };
        let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": pod.metadata.name, "uid": pod.metadata.uid});
        let spec = TokenRequestSpec {
            audiences,
            bound_object_ref: Some(serde_json::from_value(bound)?),
            expiration_seconds: Some(seconds),
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = call(accounts.create_token_request(account, &PostParams::default(), &request)).await?;
        tokens.insert(audience, answer.status.context("the token request has no answer")?.token);
    }
    Ok(tokens)
}

/// Keeps volumes as their objects are and renews tokens; never ends.
async fn refresh(room: &Room) {
    let pod = room.handle.pod();
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.clone()).unwrap_or_default();
    let shortest = volumes::audiences(&volumes).into_iter().map(|(_, seconds)| seconds).min();
    let life = shortest.map(|seconds| Duration::from_secs((seconds * RENEW_AT_PERCENT / 100).max(1).unsigned_abs()));
    let is_fed = volumes.iter().any(|one| one.config_map.is_some() || one.secret.is_some() || one.projected.is_some());
    if !is_fed {
        return std::future::pending().await;
    }
    let period = room.context.timings.volume_refresh.min(life.unwrap_or(Duration::MAX));
    loop {
        tokio::time::sleep(period).await;
        room.context.faults.present(&room.handle.node).await;
        if let Err(error) = furnish(&room.context, &room.handle.pod(), &room.files, room.pod_ip).await {
            tracing::debug!("volumes stay as they are: {error:#}");
        }
    }
}

/// Init containers one after the other, sidecars beside them, then all the others; sidecars end last.
async fn containers(room: Arc<Room>) {
    let pod = room.handle.pod();
    let Some(spec) = pod.spec.clone() else { return };
    let policy = Restart::of(spec.restart_policy.as_deref());
    let after = CancellationToken::new();
    let mut sidecars = JoinSet::new();
    let mut is_initialized = true;
    for container in spec.init_containers.into_iter().flatten() {
        let name = container.name.clone();
        if container.restart_policy.as_deref() == Some("Always") {
            let run = Run { room: Arc::clone(&room), container, restart: Restart::Always, stop: after.clone() };
            sidecars.spawn(run.last());
            started(&room, &name).await;
            continue;
        }
        let restart = if policy == Restart::Never { Restart::Never } else { Restart::OnFailure };
        let run = Run { room: Arc::clone(&room), container, restart, stop: room.stop.clone() };
        if run.last().await != 0 || room.stop.is_cancelled() {
            is_initialized = false;
            break;
        }
    }
    if is_initialized {
        let mut main = JoinSet::new();
        for container in spec.containers {
            main.spawn(Run { room: Arc::clone(&room), container, restart: policy, stop: room.stop.clone() }.last());
        }
        while main.join_next().await.is_some() {}
    }
    after.cancel();
    while sidecars.join_next().await.is_some() {}
}

/// Waits until a sidecar has started or the pod is stopped.
async fn started(room: &Room, name: &str) {
    let mut changes = room.handle.changed.subscribe();
    loop {
        if lock(&room.handle.record).unit(name).is_some_and(|unit| unit.is_started) {
            return;
        }
        tokio::select! {
            _closed = changes.changed() => {}
            () = room.stop.cancelled() => return,
        }
    }
}

/// Writes the pod's status whenever it changed; what could not be written is written later.
async fn report(context: Arc<Context>, handle: Arc<Handle>) {
    let mut changes = handle.changed.subscribe();
    changes.mark_changed();
    let mut last = Value::Null;
    while changes.changed().await.is_ok() {
        loop {
            context.faults.present(&handle.node).await;
            changes.mark_unchanged();
            match send(&context, &handle, &mut last).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::debug!(pod = handle.key.1, "status is sent again later: {error:#}");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

async fn send(context: &Context, handle: &Handle, last: &mut Value) -> Result<()> {
    let pod = handle.pod();
    let status = lock(&handle.record).json(&pod, Timestamp::now());
    if status == *last {
        return Ok(());
    }
    let (namespace, name) = &handle.key;
    let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
    let pods = Api::<Pod>::namespaced(context.client.clone(), namespace);
    call(pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))).await?;
    *last = status;
    Ok(())
}

/// Whether the API has no such pod any more, or another one of that name.
fn is_replaced(error: &anyhow::Error) -> bool {
    match code_of(error) {
        Some(404) => true,
        // A conflict of writers is tried again; one of identities is not.
        Some(409 | 422) => error.to_string().to_ascii_lowercase().contains("uid"),
        _ => false,
    }
}

/// The last report, then the deletion that only a node may do.
async fn remove(context: &Context, handle: &Handle) {
    let (namespace, name) = &handle.key;
    let pods = Api::<Pod>::namespaced(context.client.clone(), namespace);
    let uid = handle.pod().metadata.uid.clone();
    let how = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid, resource_version: None }),
        ..DeleteParams::default()
    };
    loop {
        context.faults.present(&handle.node).await;
        let done = async {
            send(context, handle, &mut Value::Null).await?;
            call(pods.delete(name, &how)).await.map(drop)
        };
        match done.await {
            Ok(()) => return,
            Err(error) if is_replaced(&error) => return,
            Err(error) => tracing::debug!(pod = name, "deletion is tried again: {error:#}"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
