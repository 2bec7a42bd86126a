//! What every part of the agent shares: client, addresses, folders, switches.

use super::faults::Faults;
use super::{NodeSettings, Timings};
use crate::netns::Plan;
use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};
use kube::{Api, Client};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use super::env::{Objects, Values};
use super::faults::lock;

/// The longest one call to the API server may take.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Addresses of one node's pods: hosts from 2 on.
const HOSTS: std::ops::RangeInclusive<u8> = 2..=254;

/// Runs one call under [`CALL_LIMIT`].
///
/// # Errors
/// What the server answered, or that it did not.
pub(super) async fn call<T>(future: impl Future<Output = kube::Result<T>>) -> Result<T> {
    match tokio::time::timeout(CALL_LIMIT, future).await {
        Ok(answer) => Ok(answer?),
        Err(_) => bail!("the API server did not answer within {CALL_LIMIT:?}"),
    }
}

/// The status code of a refused call.
pub(super) fn code_of(error: &anyhow::Error) -> Option<u16> {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

/// Shared by all tasks of one agent.
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) plan: Plan,
    pub(super) directory: PathBuf,
    pub(super) loadline: Option<PathBuf>,
    pub(super) images: BTreeMap<String, Vec<String>>,
    pub(super) timings: Timings,
    pub(super) faults: Faults,
    pub(super) nodes: Vec<String>,
    addresses: Mutex<Addresses>,
}

/// Hosts in use by node, and the last one given out.
#[derive(Default)]
struct Addresses {
    taken: BTreeSet<(u8, u8)>,
    last: BTreeMap<u8, u8>,
}

impl Addresses {
    /// The next free host of a node; freed ones come again as late as possible.
    fn take(&mut self, node: u8) -> Option<u8> {
        let last = self.last.get(&node).copied().unwrap_or(*HOSTS.start() - 1);
        let mut order = HOSTS.filter(|host| *host > last).chain(HOSTS.filter(|host| *host <= last));
        let host = order.find(|host| !self.taken.contains(&(node, *host)))?;
        self.taken.insert((node, host));
        self.last.insert(node, host);
        Some(host)
    }
}

impl Context {
    pub(super) fn new(client: Client, settings: &NodeSettings, loadline: Option<PathBuf>) -> Self {
        let nodes: Vec<String> = settings.nodes.iter().map(|node| node.name.clone()).collect();
        Self {
            client,
            plan: settings.plan,
            directory: settings.directory.clone(),
            loadline,
            images: settings.images.clone(),
            timings: settings.timings.clone(),
            faults: Faults::new(nodes.clone(), settings.directory.join("logs")),
            nodes,
            addresses: Mutex::default(),
        }
    }

    /// Takes a free address of a node; freed ones are used again as late as possible.
    ///
    /// # Errors
    /// For an unknown node, or if all its addresses are taken.
    pub(super) fn take_address(&self, node: &str) -> Result<(u8, u8)> {
        let position =
            self.nodes.iter().position(|known| known == node).with_context(|| format!("no node `{node}`"))?;
        let number = u8::try_from(position + 1).context("too many nodes")?;
        let host = lock(&self.addresses).take(number);
        Ok((number, host.with_context(|| format!("all pod addresses of node `{node}` are taken"))?))
    }

    pub(super) fn free_address(&self, address: (u8, u8)) {
        lock(&self.addresses).taken.remove(&address);
    }

    pub(super) fn address(&self, (node, host): (u8, u8)) -> Ipv4Addr {
        self.plan.pod_address(node, host)
    }

    pub(super) fn bridge_mac(&self) -> String {
        mac(self.plan.bridge_address())
    }

    /// Reads the ConfigMaps and Secrets that a pod names; those that do not exist are left out.
    ///
    /// # Errors
    /// If the API server cannot be asked.
    pub(super) async fn objects(&self, pod: &Pod) -> Result<Objects> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let (map_names, secret_names) = named_objects(pod);
        let mut objects = Objects::default();
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        for name in map_names {
            if let Some(map) = call(maps.get_opt(&name)).await? {
                let mut values: Values = BTreeMap::new();
                values.extend(map.data.into_iter().flatten().map(|(key, text)| (key, text.into_bytes())));
                values.extend(map.binary_data.into_iter().flatten().map(|(key, bytes)| (key, bytes.0)));
                objects.config_maps.insert(name, values);
            }
        }
        let secrets = Api::<Secret>::namespaced(self.client.clone(), namespace);
        for name in secret_names {
            if let Some(secret) = call(secrets.get_opt(&name)).await? {
                let values = secret.data.into_iter().flatten().map(|(key, bytes)| (key, bytes.0));
                objects.secrets.insert(name, values.collect());
            }
        }
        Ok(objects)
    }
}

/// The command of a container, before expansion: its own, or its image's, or the emulated engine's.
pub(super) fn command(images: &BTreeMap<String, Vec<String>>, container: &Container) -> Vec<String> {
    let arguments = container.args.iter().flatten().cloned();
    if let Some(command) = container.command.as_ref().filter(|command| !command.is_empty()) {
        return command.iter().cloned().chain(arguments).collect();
    }
    let image = container.image.as_deref().unwrap_or_default();
    let known = images.get(image).or_else(|| images.get(untagged(image)));
    if let Some(command) = known {
        return command.iter().cloned().chain(arguments).collect();
    }
    let arguments: Vec<String> = arguments.collect();
    let base = untagged(image).rsplit('/').next().unwrap_or_default();
    // The image of Loadline has the binary as its entry point: arguments are a subcommand and its options.
    if base == "loadline" && arguments.first().is_some_and(|first| !first.starts_with('-')) {
        return std::iter::once("loadline".to_owned()).chain(arguments).collect();
    }
    let port = container.ports.iter().flatten().next().map_or(8000, |port| port.container_port);
    let mut words: Vec<String> = ["loadline", "engine", "--host", "0.0.0.0"].map(str::to_owned).to_vec();
    if !arguments.iter().any(|word| word == "--port" || word.starts_with("--port=")) {
        words.extend(["--port".to_owned(), port.to_string()]);
    }
    words.extend(arguments);
    words
}

fn untagged(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    }
}

/// A link-layer address made from a network address: the same one every time.
pub(super) fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:4c:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Names of the ConfigMaps and Secrets that a pod's environment and volumes use.
fn named_objects(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    let Some(spec) = &pod.spec else { return (maps, secrets) };
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        for source in container.env_from.iter().flatten() {
            maps.extend(source.config_map_ref.iter().map(|one| one.name.clone()));
            secrets.extend(source.secret_ref.iter().map(|one| one.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|one| one.value_from.as_ref()) {
            maps.extend(source.config_map_key_ref.iter().map(|one| one.name.clone()));
            secrets.extend(source.secret_key_ref.iter().map(|one| one.name.clone()));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        maps.extend(volume.config_map.iter().map(|one| one.name.clone()));
        secrets.extend(volume.secret.iter().filter_map(|one| one.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|one| one.sources.iter().flatten()) {
            maps.extend(source.config_map.iter().map(|one| one.name.clone()));
            secrets.extend(source.secret.iter().map(|one| one.name.clone()));
        }
    }
    (maps, secrets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn commands_come_from_the_container_its_image_or_the_engine() {
        struct Case {
            name: &'static str,
            container: serde_json::Value,
            expect: &'static str,
        }
        let images = BTreeMap::from([("exporter".to_owned(), vec!["/bin/exporter".to_owned()])]);
        for case in [
            Case { name: "own", container: json!({"image": "x", "command": ["a"], "args": ["b"]}), expect: "a b" },
            Case {
                name: "image",
                container: json!({"image": "exporter:v2", "args": ["b"]}),
                expect: "/bin/exporter b",
            },
            Case {
                name: "engine",
                container: json!({"image": "r.example:5000/vllm@sha256:0", "args": ["--seed", "1"], "ports": [{"containerPort": 9000}]}),
                expect: "loadline engine --host 0.0.0.0 --port 9000 --seed 1",
            },
            Case {
                name: "no port",
                container: json!({"image": "y"}),
                expect: "loadline engine --host 0.0.0.0 --port 8000",
            },
            Case {
                name: "port given",
                container: json!({"image": "y", "args": ["--port=81"]}),
                expect: "loadline engine --host 0.0.0.0 --port=81",
            },
            Case {
                name: "our image",
                container: json!({"image": "x/loadline:1", "args": ["serve", "-v"]}),
                expect: "loadline serve -v",
            },
        ] {
            let mut value = case.container;
            value["name"] = json!("c");
            let container: Container = serde_json::from_value(value).unwrap();
            assert_eq!(command(&images, &container).join(" "), case.expect, "{}", case.name);
        }
    }

    #[test]
    fn addresses_are_reused_late() {
        let mut addresses = Addresses::default();
        assert_eq!((addresses.take(1), addresses.take(1), addresses.take(2)), (Some(2), Some(3), Some(2)));
        addresses.taken.remove(&(1, 2));
        assert_eq!(addresses.take(1), Some(4));
        for host in 5..=254 {
            assert_eq!(addresses.take(1), Some(host));
        }
        assert_eq!((addresses.take(1), addresses.take(1)), (Some(2), None));
        assert_eq!(mac(Ipv4Addr::new(10, 244, 0, 1)), "02:4c:0a:f4:00:01");
    }
}
