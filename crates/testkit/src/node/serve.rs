//! The agent's own server: metrics.k8s.io as an aggregated API, and the logs that `kubectl logs` asks a node for.

use super::context::{Context, call, code_of};
use super::faults::Handle;
use super::tls;
use super::usage::{Figure, Usage};
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Connections at one time.
const MAX_CONNECTIONS: usize = 256;
/// The most of a log that is shown.
const MAX_LOG_BYTES: u64 = 4 * 1024 * 1024;
/// How long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Between two attempts to announce the API.
const RETRY: Duration = Duration::from_secs(1);

/// Starts to serve on the bridge's address and gives the port.
///
/// # Errors
/// If it cannot be listened on.
pub(super) async fn start(tasks: &mut JoinSet<()>, context: &Arc<Context>, usage: &Arc<Usage>) -> Result<u16> {
    let address = context.plan.bridge_address();
    let listener = TcpListener::bind((address, 0)).await.with_context(|| format!("cannot listen on {address}"))?;
    let port = listener.local_addr()?.port();
    let acceptor = TlsAcceptor::from(tls::self_signed_server("metrics-server.kube-system.svc")?);
    let (context, usage) = (Arc::clone(context), Arc::clone(usage));
    tasks.spawn(async move {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else { continue };
            let (acceptor, context, usage) = (acceptor.clone(), Arc::clone(&context), Arc::clone(&usage));
            connections.spawn(async move {
                let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await else {
                    return;
                };
                let answer = service_fn(move |request| {
                    let reply = answer(&context, &usage, &request);
                    async move { Ok::<_, std::convert::Infallible>(reply) }
                });
                let _ended = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
                drop(permit);
            });
            while connections.try_join_next().is_some() {}
        }
    });
    Ok(port)
}

fn answer(context: &Context, usage: &Usage, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let query = query(request.uri().query().unwrap_or_default());
    let path: Vec<&str> = request.uri().path().split('/').filter(|part| !part.is_empty()).collect();
    let reply = match path.as_slice() {
        ["containerLogs", namespace, pod, container] => {
            return logs(context, (namespace, pod, container), &query);
        }
        ["apis"] if wants_aggregated(request) => {
            return respond(StatusCode::OK, AGGREGATED, Bytes::from(aggregated().to_string()));
        }
        ["apis"] => Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group()]})),
        ["apis", "metrics.k8s.io"] => Some(group()),
        ["apis", "metrics.k8s.io", "v1beta1"] => Some(resources()),
        ["apis", "metrics.k8s.io", "v1beta1", rest @ ..] => metrics(context, usage, rest, &query),
        ["healthz" | "livez" | "readyz"] => return plain(StatusCode::OK, Bytes::from_static(b"ok")),
        _ => None,
    };
    match reply {
        Some(body) => typed(StatusCode::OK, &body),
        None => {
            let message = format!("`{}` is not found", request.uri().path());
            let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": message});
            typed(StatusCode::NOT_FOUND, &body)
        }
    }
}

/// The form of discovery that an aggregator asks for first.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn wants_aggregated(request: &Request<Incoming>) -> bool {
    let accept = request.headers().get("accept").and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.contains("v=v2;as=APIGroupDiscoveryList"))
}

fn aggregated() -> Value {
    let resource = |name: &str, kind: &str, scope: &str| {
        let of = json!({"group": "metrics.k8s.io", "version": "v1beta1", "kind": kind});
        json!({"resource": name, "responseKind": of, "scope": scope, "singularResource": "", "verbs": ["get", "list"]})
    };
    let all = [resource("nodes", "NodeMetrics", "Cluster"), resource("pods", "PodMetrics", "Namespaced")];
    let version = json!({"version": "v1beta1", "freshness": "Current", "resources": all});
    let item = json!({"metadata": {"name": "metrics.k8s.io"}, "versions": [version]});
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": [item]})
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static(kind));
    response
}

fn typed(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    respond(status, "application/json", Bytes::from(body.to_string()))
}

fn plain(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    respond(status, "text/plain", body)
}

fn group() -> Value {
    let version = json!({"groupVersion": "metrics.k8s.io/v1beta1", "version": "v1beta1"});
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": "metrics.k8s.io", "versions": [version], "preferredVersion": version})
}

fn resources() -> Value {
    let resource = |name: &str, kind: &str, is_namespaced: bool| json!({"name": name, "singularName": "", "namespaced": is_namespaced, "kind": kind, "verbs": ["get", "list"]});
    let all = [resource("nodes", "NodeMetrics", false), resource("pods", "PodMetrics", true)];
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.k8s.io/v1beta1", "resources": all})
}

fn metrics(context: &Context, usage: &Usage, path: &[&str], query: &BTreeMap<String, String>) -> Option<Value> {
    let selector = query.get("labelSelector").map_or("", String::as_str);
    let pods = context.faults.pods();
    let list = |kind: &str, items: Vec<Value>| json!({"kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items});
    let chosen = |namespace: Option<&str>| -> Vec<Value> {
        let here = pods.iter().filter(|pod| namespace.is_none_or(|wanted| wanted == pod.key.0));
        here.filter(|pod| is_selected(&pod.pod().metadata.labels.clone().unwrap_or_default(), selector))
            .filter_map(|pod| of_pod(pod, usage))
            .collect()
    };
    match path {
        ["pods"] => Some(list("PodMetricsList", chosen(None))),
        ["namespaces", namespace, "pods"] => Some(list("PodMetricsList", chosen(Some(namespace)))),
        ["namespaces", namespace, "pods", name] => {
            pods.iter().find(|pod| pod.key.0 == *namespace && pod.key.1 == *name).and_then(|pod| of_pod(pod, usage))
        }
        ["nodes"] => {
            Some(list("NodeMetricsList", context.nodes.iter().map(|node| of_node(node, &pods, usage)).collect()))
        }
        ["nodes", name] => context.nodes.iter().find(|node| node == name).map(|node| of_node(node, &pods, usage)),
        _ => None,
    }
}

fn amounts(nano_cores: u64, bytes: u64) -> Value {
    json!({"cpu": format!("{nano_cores}n"), "memory": format!("{}Ki", bytes / 1024)})
}

fn window(figures: &[&Figure]) -> (Value, Value) {
    let at = figures.iter().map(|one| one.at).min().unwrap_or_else(k8s_openapi::jiff::Timestamp::now);
    let window = figures.iter().map(|one| one.window).max().unwrap_or_default();
    (json!(super::status::second(at)), json!(format!("{:.3}s", window.as_secs_f64())))
}

/// `None` until a window is complete for a container: a pod without figures is not listed.
fn of_pod(pod: &Handle, usage: &Usage) -> Option<Value> {
    let figures = usage.of(pod);
    if figures.is_empty() {
        return None;
    }
    let (at, window) = window(&figures.values().collect::<Vec<_>>());
    let containers: Vec<Value> = figures
        .iter()
        .map(|(name, figure)| json!({"name": name, "usage": amounts(figure.nano_cores, figure.bytes)}))
        .collect();
    let labels = pod.pod().metadata.labels.clone();
    Some(json!({
        "kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": {"name": pod.key.1, "namespace": pod.key.0, "labels": labels, "creationTimestamp": at},
        "timestamp": at, "window": window, "containers": containers,
    }))
}

fn of_node(node: &str, pods: &[Arc<Handle>], usage: &Usage) -> Value {
    let of: Vec<Figure> =
        pods.iter().filter(|pod| pod.node == node).flat_map(|pod| usage.of(pod).into_values()).collect();
    let (at, window) = window(&of.iter().collect::<Vec<_>>());
    let cores = of.iter().map(|one| one.nano_cores).fold(0, u64::saturating_add);
    let bytes = of.iter().map(|one| one.bytes).fold(0, u64::saturating_add);
    json!({
        "kind": "NodeMetrics", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {"name": node, "creationTimestamp": at},
        "timestamp": at, "window": window, "usage": amounts(cores, bytes),
    })
}

/// Label selectors as the API writes them: `a=b`, `a==b`, `a!=b`, `a`, `!a`, `a in (b,c)`, `a notin (b,c)`.
fn is_selected(labels: &BTreeMap<String, String>, selector: &str) -> bool {
    let mut depth = 0_u32;
    let parts = selector.split(|c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).all(|part| holds(labels, part))
}

fn holds(labels: &BTreeMap<String, String>, part: &str) -> bool {
    let of = |key: &str| labels.get(key.trim()).map(String::as_str);
    if let Some((head, list)) = part.strip_suffix(')').and_then(|part| part.split_once('(')) {
        let among = |key: &str| of(key).is_some_and(|value| list.split(',').any(|one| one.trim() == value));
        return match head.trim().rsplit_once(' ') {
            Some((key, "in")) => among(key),
            Some((key, "notin")) => !among(key),
            _ => false,
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        of(key) != Some(value.trim())
    } else if let Some((key, value)) = part.split_once('=') {
        of(key) == Some(value.trim_start_matches('=').trim())
    } else if let Some(key) = part.strip_prefix('!') {
        of(key).is_none()
    } else {
        of(part).is_some()
    }
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (unescape(key), unescape(value))).collect()
}

fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                if let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) {
                    out.extend(u8::try_from(high * 16 + low).ok());
                }
            }
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The end of a container's log; `follow` gives what there is now.
fn logs(context: &Context, of: (&str, &str, &str), query: &BTreeMap<String, String>) -> Response<Full<Bytes>> {
    let (namespace, pod, container) = of;
    let path = context.faults.log_path(namespace, pod, container);
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(&path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MAX_LOG_BYTES)))?;
        let mut text = Vec::new();
        file.take(MAX_LOG_BYTES).read_to_end(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) => {
            let wanted = query.get("tailLines").and_then(|lines| lines.parse::<usize>().ok());
            plain(StatusCode::OK, Bytes::from(wanted.map_or(text.clone(), |lines| tail(&text, lines))))
        }
        Err(error) => plain(StatusCode::NOT_FOUND, Bytes::from(format!("no log of container `{container}`: {error}"))),
    }
}

fn tail(text: &[u8], lines: usize) -> Vec<u8> {
    let all: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().concat()
}

/// Registers metrics.k8s.io, and the Service that cluster DNS is known by; tried until it is done.
pub(super) async fn announce(context: Arc<Context>, port: u16) {
    while let Err(error) = try_announce(&context, port).await {
        tracing::debug!("metrics.k8s.io is announced later: {error:#}");
        tokio::time::sleep(RETRY).await;
    }
}

async fn try_announce(context: &Context, port: u16) -> Result<()> {
    let how = PatchParams::apply("loadline-testkit").force();
    let client = &context.client;
    let services = Api::<Service>::namespaced(client.clone(), "kube-system");
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), "kube-system");
    let bridge = context.plan.bridge_address().to_string();
    let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "kube-system"}, "spec": spec});
    let slice = |name: &str, address: &str, ports: Value| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": "kube-system", "labels": {"kubernetes.io/service-name": name}},
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}], "ports": ports})
    };
    let ports = json!([{"name": "https", "port": 443, "targetPort": port, "protocol": "TCP"}]);
    call(services.patch("metrics-server", &how, &Patch::Apply(service("metrics-server", json!({"ports": ports})))))
        .await?;
    let here = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    call(slices.patch("metrics-server", &how, &Patch::Apply(slice("metrics-server", &bridge, here.clone())))).await?;
    // the aggregator of 1.33 looks for Endpoints, later ones for slices
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "metrics-server", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": bridge}], "ports": here}]});
    call(Api::<Endpoints>::namespaced(client.clone(), "kube-system").patch(
        "metrics-server",
        &how,
        &Patch::Apply(endpoints),
    ))
    .await?;
    let api = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1beta1.metrics.k8s.io"},
        "spec": {"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true, "service": {"name": "metrics-server", "namespace": "kube-system", "port": 443}}});
    call(Api::<APIService>::all(client.clone()).patch("v1beta1.metrics.k8s.io", &how, &Patch::Apply(api))).await?;
    let dns = json!({"clusterIP": context.plan.dns().to_string(), "ports": [
        {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]});
    match call(services.patch("kube-dns", &how, &Patch::Apply(service("kube-dns", dns)))).await {
        Err(error) if code_of(&error) != Some(422) => bail!(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_choose_labels() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned()), ("tier".to_owned(), "a".to_owned())]);
        for (selector, expect) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=a", true),
            ("app=web,tier=b", false),
            ("app!=db", true),
            ("app", true),
            ("!app", false),
            ("!none", true),
            ("app in (db, web),tier", true),
            ("app notin (db,web)", false),
            ("none notin (db)", true),
            ("none in (db)", false),
        ] {
            assert_eq!(is_selected(&labels, selector), expect, "{selector}");
        }
        assert_eq!(unescape("app+in+%28a%2Cb%29%"), "app in (a,b)");
    }

    #[test]
    fn the_last_lines() {
        assert_eq!(tail(b"a\nb\nc\n", 2), b"b\nc\n");
        assert_eq!(tail(b"a", 5), b"a");
        assert_eq!(tail(b"", 5), b"");
        assert_eq!(tail(b"a\nb", 0), b"");
    }
}
