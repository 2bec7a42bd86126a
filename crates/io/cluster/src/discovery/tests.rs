use super::{EndpointSource, NotScraped, Rules, RulesInput, Scheme, scrape_of};
use crate::key::{Key, TargetKey};
use crate::labels::Selector;
use crate::snapshot::{
    AutoscalerSeen, HpaSeen, PodPhase, PodPort, PodSeen, PoolTarget, ServicePort, ServiceSeen, Snapshot, TargetSeen,
};
use loadline_base::Timestamp;
use loadline_manifest::monitor::MonitorSpec;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Default)]
struct World {
    view: Snapshot,
    pod_monitors: BTreeMap<Key, Result<MonitorSpec, Arc<str>>>,
    service_monitors: BTreeMap<Key, Result<MonitorSpec, Arc<str>>>,
    respect: bool,
}

impl World {
    fn target(mut self) -> Self {
        let key = TargetKey::new("ml", "apps/v1", "Deployment", "vllm");
        let seen = TargetSeen {
            key: key.clone(),
            uid: None,
            spec_replicas: 1,
            status_replicas: 1,
            selector_text: "app=vllm".into(),
            selector: Some(Arc::new(Selector::parse("app=vllm").expect("selector"))),
            resource_version: "1".into(),
            at: Timestamp::ZERO,
            error: None,
        };
        self.view.targets = Arc::new([(key, Arc::new(seen))].into());
        self
    }

    fn autoscaler(self, scrape: Value) -> Self {
        let mut world = self.target();
        let key = Key::new("ml", "ia");
        let mut spec = json!({ "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "vllm" } });
        if !scrape.is_null() {
            spec["scrape"] = scrape;
        }
        let seen = AutoscalerSeen {
            key: key.clone(),
            uid: "u".into(),
            generation: 1,
            resource_version: "1".into(),
            created_at: Timestamp::ZERO,
            deleting: false,
            spec: Ok(Arc::new(serde_json::from_value(spec).expect("spec"))),
            status: None,
            targets: vec![PoolTarget {
                pool: "".into(),
                target: TargetKey::new("ml", "apps/v1", "Deployment", "vllm"),
                api_version: "apps/v1".into(),
            }],
        };
        world.view.autoscalers = Arc::new([(key, Arc::new(seen))].into());
        world
    }

    fn hpa(self, pods_metrics: &[&str]) -> Self {
        let mut world = self.target();
        let key = Key::new("ml", "hpa");
        let seen = HpaSeen {
            key: key.clone(),
            target: TargetKey::new("ml", "apps/v1", "Deployment", "vllm"),
            api_version: "apps/v1".into(),
            pods_metrics: pods_metrics.iter().map(|name| (*name).into()).collect(),
            object_metrics: Vec::new(),
            external_metrics: Vec::new(),
            min_replicas: 1,
            max_replicas: 2,
            scaling_active: None,
            owned_by_scaled_object: false,
        };
        world.view.hpas = Arc::new([(key, Arc::new(seen))].into());
        world
    }

    fn pod_monitor(mut self, namespace: &str, spec: Value) -> Self {
        let spec = serde_json::from_value(spec).expect("spec");
        self.pod_monitors.insert(Key::new(namespace, "pm"), Ok(spec));
        self
    }

    fn service_monitor(mut self, spec: Value) -> Self {
        let key = Key::new("ml", "svc");
        let service = ServiceSeen {
            key: key.clone(),
            labels: [("app", "vllm")].into_iter().collect(),
            selector: Some(Arc::new(Selector::parse("app=vllm").expect("selector"))),
            ports: vec![ServicePort {
                name: Some("web".into()),
                port: 80,
                target: super::PortRef::Name("http".into()),
            }],
        };
        self.view.services = Arc::new([(key, Arc::new(service))].into());
        self.service_monitors.insert(Key::new("ml", "sm"), Ok(serde_json::from_value(spec).expect("spec")));
        self
    }

    fn pages(&self, pod: &PodSeen) -> super::PodScrape {
        let rules = Rules::new(&RulesInput {
            view: &self.view,
            pod_monitors: &self.pod_monitors,
            service_monitors: &self.service_monitors,
            respect_monitor_interval: self.respect,
        });
        scrape_of(&rules, pod)
    }
}

fn pod(annotations: &[(&str, &str)]) -> PodSeen {
    let port = |name: &str, port| PodPort { name: Some(name.into()), port };
    PodSeen {
        key: Key::new("ml", "vllm-0"),
        uid: "u0".into(),
        labels: [("app", "vllm"), ("team", "a")].into_iter().collect(),
        annotations: annotations.iter().copied().collect(),
        ip: Some([10, 1, 0, 1].into()),
        phase: PodPhase::Running,
        ready: true,
        ready_changed: None,
        created_at: Timestamp::ZERO,
        started_at: None,
        node: None,
        deletion: None,
        unschedulable: None,
        waiting: None,
        ports: Arc::from([port("grpc", 9000), port("http", 8000)]),
        containers: Arc::from([]),
        restarts: 0,
        owner: None,
    }
}

fn pm(endpoint: Value) -> Value {
    json!({ "selector": { "matchLabels": { "app": "vllm" } }, "podMetricsEndpoints": [endpoint] })
}

fn urls(world: &World, pod: &PodSeen) -> Vec<String> {
    let pages = world.pages(pod).endpoints;
    let scheme = |scheme| if scheme == Scheme::Https { "https" } else { "http" };
    pages.iter().map(|page| format!("{}://{}{}", scheme(page.scheme), page.address, page.path)).collect()
}

type PageCase = (&'static str, World, PodSeen, Vec<&'static str>);

fn check(cases: Vec<PageCase>) {
    for (name, world, pod, expect) in cases {
        assert_eq!(urls(&world, &pod), expect, "{name}: {:?}", world.pages(&pod).reasons);
    }
}

#[test]
fn each_source_finds_its_page() {
    let plain = pod(&[]);
    let new = World::default;
    let sm = |endpoint: Value| json!({ "selector": { "matchLabels": { "app": "vllm" } }, "endpoints": [endpoint] });
    let cases: Vec<PageCase> = vec![
        ("nobody", new(), plain.clone(), vec![]),
        (
            "spec",
            new().autoscaler(json!({ "port": 9000, "path": "/m", "scheme": "https" })),
            plain.clone(),
            vec!["https://10.1.0.1:9000/m"],
        ),
        ("spec without a port", new().autoscaler(json!({})), plain.clone(), vec!["http://10.1.0.1:8000/metrics"]),
        (
            "default of an autoscaler",
            new().autoscaler(Value::Null),
            plain.clone(),
            vec!["http://10.1.0.1:8000/metrics"],
        ),
        (
            "default of an HPA",
            new().hpa(&["vllm:num_requests_waiting"]),
            plain.clone(),
            vec!["http://10.1.0.1:8000/metrics"],
        ),
        ("an HPA on cpu only", new().hpa(&[]), plain.clone(), vec![]),
        (
            "PodMonitor",
            new().pod_monitor("ml", pm(json!({ "port": "http" }))),
            plain.clone(),
            vec!["http://10.1.0.1:8000/metrics"],
        ),
        (
            "PodMonitor by number",
            new().pod_monitor("ml", pm(json!({ "portNumber": 8123, "path": "/x" }))),
            plain.clone(),
            vec!["http://10.1.0.1:8123/x"],
        ),
        ("PodMonitor elsewhere", new().pod_monitor("ops", pm(json!({ "port": "http" }))), plain.clone(), vec![]),
        (
            "ServiceMonitor",
            new().service_monitor(sm(json!({ "port": "web" }))),
            plain.clone(),
            vec!["http://10.1.0.1:8000/metrics"],
        ),
        (
            "ServiceMonitor targetPort",
            new().service_monitor(sm(json!({ "targetPort": 9000 }))),
            plain.clone(),
            vec!["http://10.1.0.1:9000/metrics"],
        ),
        (
            "params",
            new().pod_monitor("ml", pm(json!({ "port": "http", "params": { "name[]": ["a b"] } }))),
            plain.clone(),
            vec!["http://10.1.0.1:8000/metrics?name%5B%5D=a%20b"],
        ),
    ];
    check(cases);
}

#[test]
fn annotations_and_specs_find_their_page_beside_monitors() {
    let plain = pod(&[]);
    let new = World::default;
    let cases: Vec<PageCase> = vec![
        (
            "our annotations",
            new(),
            pod(&[("loadline.dev/port", "http"), ("loadline.dev/path", "m"), ("prometheus.io/port", "1")]),
            vec!["http://10.1.0.1:8000/m"],
        ),
        (
            "prometheus annotations",
            new(),
            pod(&[("prometheus.io/scrape", "true"), ("prometheus.io/port", "9000")]),
            vec!["http://10.1.0.1:9000/metrics"],
        ),
        ("prometheus off", new(), pod(&[("prometheus.io/scrape", "false"), ("prometheus.io/port", "9000")]), vec![]),
        (
            "monitors before annotations",
            new().pod_monitor("ml", pm(json!({ "port": "http" }))),
            pod(&[("loadline.dev/port", "9000")]),
            vec!["http://10.1.0.1:8000/metrics"],
        ),
        ("opted out", new().autoscaler(json!({})), pod(&[("loadline.dev/scrape", "false")]), vec![]),
        (
            "spec beside a monitor of another port",
            new().autoscaler(json!({ "port": "http" })).pod_monitor("ml", pm(json!({ "port": "grpc" }))),
            plain.clone(),
            vec!["http://10.1.0.1:8000/metrics", "http://10.1.0.1:9000/metrics"],
        ),
    ];
    check(cases);
}

#[test]
fn every_pod_that_is_not_read_says_why() {
    let monitor = |endpoint: Value| World::default().pod_monitor("ml", pm(endpoint));
    let mut pending = pod(&[]);
    pending.phase = PodPhase::Pending;
    let mut bare = pod(&[]);
    bare.ports = Arc::from([]);
    let drop_all = json!({ "sourceLabels": ["__meta_kubernetes_pod_label_team"], "regex": "a", "action": "drop" });
    let cases: Vec<(&str, World, PodSeen, &str)> = vec![
        ("nobody", World::default(), pod(&[]), "nothing selects it"),
        ("opted out", World::default(), pod(&[("loadline.dev/scrape", "false")]), "is `false`"),
        ("not running", monitor(json!({ "port": "http" })), pending, "does not run"),
        ("no such port", monitor(json!({ "port": "metrics" })), pod(&[]), "declares `grpc=9000`, `http=8000`"),
        ("no port at all", World::default().autoscaler(json!({})), bare, "declares no port"),
        ("dropped", monitor(json!({ "port": "http", "relabelings": [drop_all] })), pod(&[]), "drops it"),
        (
            "bad regex",
            monitor(json!({ "port": "http", "metricRelabelings": [{ "regex": "(", "action": "drop" }] })),
            pod(&[]),
            "`metricRelabelings`",
        ),
        (
            "token file",
            monitor(json!({ "port": "http", "bearerTokenFile": "/t" })),
            pod(&[]),
            "put the token into a Secret",
        ),
        ("scheme", World::default(), pod(&[("loadline.dev/scheme", "ftp")]), "write `http` or `https`"),
    ];
    for (name, world, pod, expect) in cases {
        let pages = world.pages(&pod);
        let reasons: Vec<String> = pages.reasons.iter().map(ToString::to_string).collect();
        assert!(
            pages.endpoints.is_empty() && reasons.iter().any(|reason| reason.contains(expect)),
            "{name}: {reasons:?}"
        );
    }
}

#[test]
fn one_page_named_twice_is_read_once_and_the_stronger_source_wins() {
    let world = World::default()
        .autoscaler(json!({ "port": 8000 }))
        .pod_monitor("ml", pm(json!({ "port": "http", "interval": "15s" })));
    let pages = world.pages(&pod(&[]));
    assert_eq!(pages.endpoints.len(), 1);
    assert_eq!(pages.endpoints[0].source, EndpointSource::Autoscaler(Key::new("ml", "ia")));
    let covered =
        |reason: &NotScraped| matches!(reason, NotScraped::Covered { source: EndpointSource::PodMonitor(_), .. });
    assert!(pages.reasons.iter().any(covered), "{:?}", pages.reasons);
}

#[test]
fn a_monitors_interval_counts_only_if_asked_for_and_its_secrets_are_its_own_namespaces() {
    let endpoint = json!({ "port": "http", "interval": "15s", "scheme": "HTTPS",
        "authorization": { "credentials": { "name": "tok", "key": "t" } },
        "tlsConfig": { "ca": { "configMap": { "name": "ca", "key": "ca.crt" } }, "serverName": "engine" } });
    let spec = json!({ "selector": {}, "namespaceSelector": { "any": true }, "podMetricsEndpoints": [endpoint] });
    let mut world = World::default().pod_monitor("ops", spec);
    let page = |world: &World| world.pages(&pod(&[])).endpoints.remove(0);
    assert_eq!(page(&world).period, None);
    world.respect = true;
    let page = page(&world);
    assert_eq!(page.period, Some(std::time::Duration::from_secs(15)));
    assert_eq!(page.bearer.map(|bearer| bearer.object), Some(Key::new("ops", "tok")));
    assert_eq!(page.tls.ca.map(|ca| ca.object), Some(Key::new("ops", "ca")));
    assert_eq!((page.scheme, page.tls.server_name.as_deref()), (Scheme::Https, Some("engine")));
    assert_eq!(page.labels.get("namespace"), Some("ml"));
}

#[test]
fn relabelings_may_move_a_page_within_its_pod_only() {
    let to = |replacement: &str| {
        pm(json!({ "port": "http", "relabelings": [
            { "targetLabel": "__metrics_path__", "replacement": "/stats" },
            { "sourceLabels": ["__address__"], "targetLabel": "__address__", "regex": "(.+):.+", "replacement": replacement },
        ] }))
    };
    let world = World::default().pod_monitor("ml", to("$1:9000"));
    assert_eq!(urls(&world, &pod(&[])), ["http://10.1.0.1:9000/stats"]);
    let world = World::default().pod_monitor("ml", to("169.254.169.254:80"));
    let pages = world.pages(&pod(&[]));
    assert!(pages.endpoints.is_empty() && pages.reasons[0].to_string().contains("not this pod"), "{:?}", pages.reasons);
}
