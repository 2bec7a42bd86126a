//! Pages that a pod's own annotations name.

use super::{Asked, EndpointSource, EngineKind, NotScraped, PortRef, Scheme};
use crate::snapshot::PodSeen;

/// Our own annotations; they win over Prometheus's.
const OURS: &str = "loadline.dev/";
/// Those that Prometheus's usual configurations read.
const PROMETHEUS: &str = "prometheus.io/";

pub(super) fn opted_out(pod: &PodSeen) -> bool {
    pod.annotations.get("loadline.dev/scrape") == Some("false")
}

/// `loadline.dev/engine`, where it names one.
pub(super) fn engine(pod: &PodSeen) -> EngineKind {
    let named = pod.annotations.get("loadline.dev/engine").or_else(|| pod.labels.get("loadline.dev/engine"));
    named.and_then(|name| read_engine(name).ok()).unwrap_or_default()
}

fn read_engine(name: &str) -> Result<EngineKind, String> {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).map_err(|why| why.to_string())
}

/// What the annotations ask for: `loadline.dev/scrape: "true"` or any other of ours; else `prometheus.io/scrape: "true"`.
pub(super) fn asked(pod: &PodSeen, asked: &mut Vec<Asked>, reasons: &mut Vec<NotScraped>) {
    let ours =
        ["scrape", "port", "path", "scheme"].iter().any(|name| pod.annotations.get(&format!("{OURS}{name}")).is_some());
    let (source, prefixes): (_, &[&str]) = if ours {
        (EndpointSource::Annotations, &[OURS, PROMETHEUS])
    } else if pod.annotations.get("prometheus.io/scrape") == Some("true") {
        (EndpointSource::PrometheusAnnotations, &[PROMETHEUS])
    } else {
        return;
    };
    let get = |name: &str| prefixes.iter().find_map(|prefix| pod.annotations.get(&format!("{prefix}{name}")));
    let mut page = Asked { engine: engine(pod), ..Asked::plain(source.clone()) };
    if let Some(name) = pod.annotations.get("loadline.dev/engine")
        && let Err(why) = read_engine(name)
    {
        let why = format!("annotation `loadline.dev/engine`: {why}");
        return reasons.push(NotScraped::Invalid { source, why });
    }
    if let Some(port) = get("port") {
        page.port = match port.parse::<u16>() {
            Ok(0) => {
                let why = "annotation `port` is `0`; write a port from 1 to 65535 or its name".to_owned();
                return reasons.push(NotScraped::Invalid { source, why });
            }
            Ok(number) => Some(PortRef::Number(number)),
            Err(_) => Some(PortRef::Name(port.into())),
        };
    }
    if let Some(path) = get("path") {
        page.path = if path.starts_with('/') { path.into() } else { format!("/{path}").into() };
    }
    match get("scheme").map(str::to_ascii_lowercase).as_deref() {
        None | Some("http") => {}
        Some("https") => page.scheme = Scheme::Https,
        Some(other) => {
            let why = format!("annotation `scheme` is `{other}`; write `http` or `https`");
            return reasons.push(NotScraped::Invalid { source, why });
        }
    }
    asked.push(page);
}
