//! Services: a listener per address and port, each connection carried to one ready endpoint.

use super::faults::Key;
use super::mirror::Mirror;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

/// The most connections that are carried at one time; more wait in the listeners' queues.
const MAX_CONNECTIONS: usize = 16_384;
/// Bytes under way per direction.
const BUFFER_BYTES: usize = 32 * 1024;
/// How long an endpoint may take to accept.
const CONNECT_LIMIT: Duration = Duration::from_secs(120);
/// Before a port that could not be listened on is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// Accepts of one listener that wait for the kernel.
const BACKLOG: u32 = 1024;

/// Where each Service address leads.
pub(super) type Routes = BTreeMap<SocketAddr, Vec<SocketAddr>>;

/// The slices of each Service, by namespace and Service name.
pub(super) fn by_service(slices: &[Arc<EndpointSlice>]) -> BTreeMap<Key, Vec<&EndpointSlice>> {
    let mut found: BTreeMap<Key, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        let labels = slice.metadata.labels.as_ref();
        if let Some(service) = labels.and_then(|labels| labels.get("kubernetes.io/service-name")) {
            let key = (slice.metadata.namespace.clone().unwrap_or_default(), service.clone());
            found.entry(key).or_default().push(slice);
        }
    }
    found
}

/// The addresses behind one port of a Service: ready ones, or if there is none those that still serve while they end.
fn behind(slices: &[&EndpointSlice], port_name: &str) -> Vec<SocketAddr> {
    let (mut ready, mut serving) = (Vec::new(), Vec::new());
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let port =
            ports.filter(|port| port.name.as_deref().unwrap_or_default() == port_name).find_map(|port| port.port);
        let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else { continue };
        for endpoint in &slice.endpoints {
            let Some(ip) = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok()) else { continue };
            let conditions = endpoint.conditions.as_ref();
            if conditions.is_none_or(|all| all.ready != Some(false)) {
                ready.push(SocketAddr::new(ip, port));
            } else if conditions.is_some_and(|all| all.serving == Some(true) && all.terminating == Some(true)) {
                serving.push(SocketAddr::new(ip, port));
            }
        }
    }
    let mut chosen = if ready.is_empty() { serving } else { ready };
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// The routes of all Services with an address; one without endpoints has none, so that connections are refused.
pub(super) fn routes(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Routes {
    let by_service = by_service(slices);
    let mut routes = Routes::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok()) else { continue };
        let key =
            (service.metadata.namespace.clone().unwrap_or_default(), service.metadata.name.clone().unwrap_or_default());
        let Some(slices) = by_service.get(&key) else { continue };
        for port in spec.ports.iter().flatten().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP") {
            let Ok(number) = u16::try_from(port.port) else { continue };
            let endpoints = behind(slices, port.name.as_deref().unwrap_or_default());
            if !endpoints.is_empty() {
                routes.insert(SocketAddr::new(ip, number), endpoints);
            }
        }
    }
    routes
}

/// Keeps the listeners as the Services are; never ends.
pub(super) async fn run(services: Arc<Mirror<Service>>, slices: Arc<Mirror<EndpointSlice>>) {
    let (mut one, mut two) = (services.changes(), slices.changes());
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tasks = JoinSet::new();
    let mut open: BTreeMap<SocketAddr, (watch::Sender<Vec<SocketAddr>>, AbortHandle)> = BTreeMap::new();
    loop {
        let routes = routes(&services.all(), &slices.all());
        open.retain(|address, (_, task)| {
            let stays = routes.contains_key(address);
            if !stays {
                task.abort();
            }
            stays
        });
        for (address, endpoints) in routes {
            match open.get(&address) {
                Some((feed, _)) => drop(feed.send_replace(endpoints)),
                None => {
                    let (feed, targets) = watch::channel(endpoints);
                    let task = tasks.spawn(listen(address, targets, Arc::clone(&permits)));
                    open.insert(address, (feed, task));
                }
            }
        }
        while tasks.try_join_next().is_some() {}
        let alive = tokio::select! {
            changed = one.changed() => changed.is_ok(),
            changed = two.changed() => changed.is_ok(),
        };
        if !alive {
            return;
        }
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Carries the connections of one listener; those that were accepted go on when it ends.
async fn listen(address: SocketAddr, targets: watch::Receiver<Vec<SocketAddr>>, permits: Arc<Semaphore>) {
    let listener = loop {
        match bind(address) {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::warn!(%address, %error, "a Service cannot be listened for");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    let turn = AtomicUsize::new(0);
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::debug!(%address, %error, "cannot accept");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let target = {
            let targets = targets.borrow();
            let position = turn.fetch_add(1, Ordering::Relaxed) % targets.len().max(1);
            targets.get(position).copied()
        };
        // On its own, for a Service that loses its last endpoint keeps the connections that it has.
        tokio::spawn(async move {
            if let Some(target) = target {
                carry(client, target).await;
            }
            drop(permit);
        });
    }
}

/// Copies both ways until both ends have closed; an error on either side resets the other.
pub(super) async fn carry(mut client: TcpStream, target: SocketAddr) {
    let mut server = match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(target)).await {
        Ok(Ok(server)) => server,
        Ok(Err(_)) | Err(_) => return reset(&client),
    };
    let _best_effort = (client.set_nodelay(true), server.set_nodelay(true));
    let copied = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_BYTES, BUFFER_BYTES).await;
    if copied.is_err() {
        reset(&client);
        reset(&server);
    }
}

fn reset(stream: &TcpStream) {
    let _best_effort = stream.set_zero_linger();
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn service(name: &str, ip: &str) -> Arc<Service> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "n"},
                "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}
            }))
            .unwrap(),
        )
    }

    fn slice(service: &str, endpoints: serde_json::Value) -> Arc<EndpointSlice> {
        Arc::new(
            serde_json::from_value(json!({
                "addressType": "IPv4",
                "metadata": {"name": format!("{service}-x"), "namespace": "n", "labels": {"kubernetes.io/service-name": service}},
                "ports": [{"name": "http", "port": 8000}, {"name": "dns", "port": 53}], "endpoints": endpoints
            }))
            .unwrap(),
        )
    }

    #[test]
    fn routes_lead_to_ready_endpoints() {
        struct Case {
            name: &'static str,
            endpoints: serde_json::Value,
            expect: &'static [&'static str],
        }
        let ready =
            |ip: &str| json!({"addresses": [ip], "conditions": {"ready": true, "serving": true, "terminating": false}});
        let ends =
            |ip: &str| json!({"addresses": [ip], "conditions": {"ready": false, "serving": true, "terminating": true}});
        let not = |ip: &str| json!({"addresses": [ip], "conditions": {"ready": false, "serving": false, "terminating": false}});
        for case in [
            Case {
                name: "one ready",
                endpoints: json!([ready("10.244.1.2"), not("10.244.1.3")]),
                expect: &["10.244.1.2:8000"],
            },
            Case {
                name: "ready before ending",
                endpoints: json!([ready("10.244.1.2"), ends("10.244.1.3")]),
                expect: &["10.244.1.2:8000"],
            },
            Case {
                name: "only ending",
                endpoints: json!([ends("10.244.1.3"), not("10.244.1.4")]),
                expect: &["10.244.1.3:8000"],
            },
            Case { name: "none", endpoints: json!([not("10.244.1.4")]), expect: &[] },
            Case {
                name: "no conditions",
                endpoints: json!([{"addresses": ["10.244.1.9"]}]),
                expect: &["10.244.1.9:8000"],
            },
        ] {
            let routes = routes(
                &[service("a", "10.96.0.5")],
                &[slice("a", case.endpoints), slice("b", json!([ready("10.244.9.9")]))],
            );
            let got: Vec<String> = routes.values().flatten().map(ToString::to_string).collect();
            assert_eq!(got, case.expect, "{}", case.name);
        }
        assert!(routes(&[service("a", "None")], &[slice("a", json!([ready("10.244.1.2")]))]).is_empty());
    }

    #[tokio::test]
    async fn half_closed_connections_are_answered() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (target, address) = (server.local_addr().unwrap(), front.local_addr().unwrap());
        let answer = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            stream.write_all(format!("{} bytes", all.len()).as_bytes()).await.unwrap();
        });
        let carried = tokio::spawn(async move { carry(front.accept().await.unwrap().0, target).await });
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(&vec![7; 300_000]).await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "300000 bytes");
        answer.await.unwrap();
        carried.await.unwrap();
    }

    #[tokio::test]
    async fn a_dead_endpoint_resets_the_client() {
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let carried = tokio::spawn(async move { carry(front.accept().await.unwrap().0, closed).await });
        let mut client = TcpStream::connect(address).await.unwrap();
        let error = client.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        carried.await.unwrap();
    }
}
