//! What stands in the cluster: Deployments, autoscalers of both kinds, and the statuses of pods that no kubelet runs.

use super::pages::{Content, GAUGE, PORT, Pages};
use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Where everything measured is.
pub(crate) const NAMESPACE: &str = "bench";
/// The label of pods that are given an address here.
const OURS: &str = "loadline-bench";
/// Requests open at once.
const AT_ONCE: usize = 16;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Hosts of one third byte of an address.
const HOSTS: usize = 250;

/// A Deployment without a scheduler of its pods.
pub(crate) fn deployment(name: &str, replicas: usize, labels: &[(&str, &str)]) -> Value {
    let mut all = json!({ "app": name, OURS: "true" });
    if let Some(table) = all.as_object_mut() {
        table.extend(labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))));
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": {
                    "labels": all,
                    "annotations": { "prometheus.io/scrape": "true", "prometheus.io/port": PORT.to_string() },
                },
                "spec": {
                    "schedulerName": "none",
                    "containers": [{
                        "name": "engine", "image": "engine",
                        "ports": [{ "name": "http", "containerPort": PORT }],
                    }],
                },
            },
        },
    })
}

fn target(name: &str) -> Value {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": name })
}

/// An InferenceAutoscaler of the Deployment of its name.
pub(crate) fn autoscaler(name: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(table) = spec.as_object_mut() {
        table.insert("scaleTargetRef".to_owned(), target(name));
    }
    json!({
        "apiVersion": "loadline.dev/v1alpha1", "kind": "InferenceAutoscaler",
        "metadata": { "name": name, "namespace": NAMESPACE }, "spec": spec,
    })
}

/// An HPA of the Deployment of its name, on the scripted queue.
pub(crate) fn hpa(name: &str, per_pod: u32) -> Value {
    json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": {
            "scaleTargetRef": target(name), "minReplicas": 1, "maxReplicas": 4,
            "metrics": [{ "type": "Pods", "pods": {
                "metric": { "name": GAUGE }, "target": { "type": "AverageValue", "averageValue": per_pod.to_string() },
            }}],
        },
    })
}

fn resource(manifest: &Value) -> Result<ApiResource> {
    let text = |field: &str| manifest.get(field).and_then(Value::as_str).with_context(|| format!("no `{field}`"));
    let (version, kind) = (text("apiVersion")?, text("kind")?);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    Ok(ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind)))
}

/// Makes objects, many at once.
pub(crate) async fn create(client: &Client, manifests: Vec<Value>) -> Result<()> {
    let one = |manifest: Value| async move {
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), NAMESPACE, &resource(&manifest)?);
        let object: DynamicObject = serde_json::from_value(manifest)?;
        api.create(&PostParams::default(), &object)
            .await
            .with_context(|| format!("{} is not made", object.name_any()))?;
        anyhow::Ok(())
    };
    futures_util::stream::iter(manifests.into_iter().map(anyhow::Ok)).try_for_each_concurrent(AT_ONCE, one).await
}

/// Waits until a condition is `True` on every object of these names.
pub(crate) async fn until_condition(
    client: &Client,
    like: &Value,
    names: &[String],
    kind: &str,
    patience: Duration,
) -> Result<()> {
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), NAMESPACE, &resource(like)?);
    let deadline = Instant::now() + patience;
    let holds = |object: &DynamicObject| {
        let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().any(|one| {
            one.get("type").and_then(Value::as_str) == Some(kind)
                && one.get("status").and_then(Value::as_str) == Some("True")
        })
    };
    loop {
        let all = api.list(&ListParams::default()).await?;
        let wanted: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let missing = all.iter().find(|object| wanted.contains(&*object.name_any()) && !holds(object));
        match missing {
            None => return Ok(()),
            Some(object) => ensure!(
                Instant::now() < deadline,
                "{} is not {kind} after {patience:?}: {}",
                object.name_any(),
                object.data.pointer("/status").unwrap_or(&Value::Null)
            ),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The addresses of pods, and which pods have one.
pub(crate) struct Addresses {
    client: Client,
    pages: Arc<Pages>,
    first: Ipv4Addr,
    known: Mutex<Known>,
    count: watch::Sender<usize>,
}

#[derive(Default)]
struct Known {
    by_uid: BTreeMap<String, Ipv4Addr>,
    by_app: BTreeMap<String, Vec<Ipv4Addr>>,
}

impl Addresses {
    /// Gives every pod of ours an address and makes it run and be ready; goes on until the process ends.
    pub(crate) fn start(client: Client, pages: Arc<Pages>, first: Ipv4Addr) -> Arc<Self> {
        let (known, count) = (Mutex::default(), watch::Sender::new(0));
        let addresses = Arc::new(Self { client: client.clone(), pages, first, known, count });
        let api = Api::<Pod>::namespaced(client, NAMESPACE);
        let events = watcher::watcher(api, watcher::Config::default().labels(OURS)).default_backoff();
        let keeper = Arc::clone(&addresses);
        tokio::spawn(async move {
            let each = |event| {
                let keeper = &keeper;
                async move {
                    if let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event
                        && let Err(error) = keeper.place(pod).await
                    {
                        eprintln!("a pod was given no address: {error:#}");
                    }
                }
            };
            events.for_each_concurrent(AT_ONCE, each).await;
        });
        addresses
    }

    async fn place(&self, pod: Pod) -> Result<()> {
        let (Some(uid), None) = (pod.uid(), &pod.metadata.deletion_timestamp) else { return Ok(()) };
        if pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some()) {
            return Ok(());
        }
        let label = |name: &str| pod.labels().get(name).cloned();
        let Some(address) = self.take(uid, label("app").unwrap_or_default()) else { return Ok(()) };
        let capture = label("capture").and_then(|number| number.parse().ok());
        self.pages.set(address, capture.map_or(Content::Waiting(0), Content::Capture));
        let now =
            k8s_openapi::jiff::Timestamp::from_second(k8s_openapi::jiff::Timestamp::now().as_second())?.to_string();
        let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"]
            .map(|kind| json!({ "type": kind, "status": "True", "lastTransitionTime": now }));
        let status = json!({ "status": {
            "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }], "startTime": now, "conditions": conditions,
            "containerStatuses": [{
                "name": "engine", "image": "engine", "imageID": "engine", "ready": true, "started": true, "restartCount": 0,
                "state": { "running": { "startedAt": now } },
            }],
        }});
        let api = Api::<Pod>::namespaced(self.client.clone(), NAMESPACE);
        match api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status)).await {
            Ok(_) => self.count.send_modify(|count| *count += 1),
            // it was deleted meanwhile
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn take(&self, uid: String, app: String) -> Option<Ipv4Addr> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.by_uid.contains_key(&uid) {
            return None;
        }
        let number = known.by_uid.len();
        let [first, second, third, _] = self.first.octets();
        let third = third.checked_add(u8::try_from(number / HOSTS).ok()?)?;
        let address = Ipv4Addr::new(first, second, third, u8::try_from(number % HOSTS).ok()?.checked_add(2)?);
        known.by_uid.insert(uid, address);
        known.by_app.entry(app).or_default().push(address);
        Some(address)
    }

    /// Makes the queue of a Deployment's first pod this long.
    pub(crate) fn queue(&self, app: &str, waiting: u32) -> Result<()> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let address =
            known.by_app.get(app).and_then(|all| all.first()).with_context(|| format!("`{app}` has no pod"))?;
        self.pages.set(*address, Content::Waiting(waiting));
        Ok(())
    }

    /// Waits until so many pods were made to run.
    pub(crate) async fn until(&self, pods: usize, patience: Duration) -> Result<()> {
        let mut count = self.count.subscribe();
        let wait = count.wait_for(|count| *count >= pods);
        let ended = tokio::time::timeout(patience, wait).await.map(|found| found.map(|count| *count));
        ended.with_context(|| format!("{} of {pods} pods run after {patience:?}", *self.count.borrow()))??;
        Ok(())
    }
}

/// Replica counts as the API server tells them, each with the moment it was heard.
#[derive(Clone)]
pub(crate) struct Counts {
    seen: watch::Receiver<BTreeMap<String, (i32, Instant)>>,
}

impl Counts {
    /// Follows every Deployment until the process ends.
    pub(crate) fn start(client: Client) -> Self {
        let (tell, seen) = watch::channel(BTreeMap::new());
        let api = Api::<Deployment>::namespaced(client, NAMESPACE);
        let mut events = Box::pin(watcher::watcher(api, watcher::Config::default()).default_backoff());
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let at = Instant::now();
                if let Ok(Event::Apply(one) | Event::InitApply(one)) = event {
                    let replicas = one.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
                    tell.send_if_modified(|all: &mut BTreeMap<String, (i32, Instant)>| {
                        let is_new = all.get(&one.name_any()).is_none_or(|(known, _)| *known != replicas);
                        if is_new {
                            all.insert(one.name_any(), (replicas, at));
                        }
                        is_new
                    });
                }
            }
        });
        Self { seen }
    }

    /// Waits until a Deployment's count is another than this, and tells when that was heard.
    pub(crate) async fn other_than(&self, name: &str, count: i32, patience: Duration) -> Result<Instant> {
        let mut seen = self.seen.clone();
        let differs = |all: &BTreeMap<String, (i32, Instant)>| all.get(name).is_some_and(|(found, _)| *found != count);
        let found = tokio::time::timeout(patience, seen.wait_for(differs)).await;
        let found = found.with_context(|| format!("`{name}` still has {count} replicas after {patience:?}"))??;
        found.get(name).map(|(_, at)| *at).context("it was there a moment ago")
    }

    /// Waits until every one of these is known.
    pub(crate) async fn known(&self, names: &[String], patience: Duration) -> Result<()> {
        let mut seen = self.seen.clone();
        let all_known = |all: &BTreeMap<String, (i32, Instant)>| names.iter().all(|name| all.contains_key(name));
        tokio::time::timeout(patience, seen.wait_for(all_known))
            .await
            .context("not every Deployment is heard of")??;
        Ok(())
    }
}
