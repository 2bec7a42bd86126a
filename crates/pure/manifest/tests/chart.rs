//! The chart's files against the types and tables that they are written for. Rendering is `cargo xtask codegen`'s.

#![expect(clippy::expect_used, reason = "a test")]

use loadline_manifest::autoscaler::{InferenceAutoscalerSpec, crd, lower};
use loadline_manifest::serve::read_serve;
use loadline_manifest::yaml::{Node, Value, from_node, read_one, to_text};
use loadline_manifest::{Limits, yaml};
use std::path::PathBuf;
use std::time::Duration;

#[expect(clippy::disallowed_methods, reason = "a test reads the chart")]
fn chart(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../../../charts/loadline", name].iter().collect();
    std::fs::read_to_string(&path).expect(name)
}

fn values(name: &str) -> Node {
    read_one(name, &chart(name), &Limits::default()).expect(name)
}

fn keys(node: &Node) -> Vec<&str> {
    match &node.value {
        Value::Map(pairs) => pairs.iter().map(|(key, _)| key.name.as_str()).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn the_definition_is_the_types_own() {
    let written = chart("crds/inferenceautoscalers.loadline.dev.yaml");
    let text = to_text(&crd()).expect("writes");
    assert!(written.ends_with(&text), "run `cargo xtask codegen`");
}

/// What each profile promises, at an autoscaler that says nothing but its target.
#[test]
fn profiles_have_their_bounds() {
    struct Case {
        profile: &'static str,
        bounds: (u32, u32),
        idle: Option<u64>,
        window: i32,
    }
    for case in [
        Case { profile: "production", bounds: (2, 8), idle: None, window: 600 },
        Case { profile: "staging", bounds: (1, 3), idle: None, window: 300 },
        Case { profile: "development", bounds: (0, 2), idle: Some(120), window: 120 },
    ] {
        let file = format!("values-{}.yaml", case.profile);
        let profile = values(&file);
        let written = profile.get("autoscalerDefaults").unwrap_or_else(|| panic!("{file} has no autoscalerDefaults"));
        let mut spec: InferenceAutoscalerSpec = from_node(&file, written).unwrap_or_else(|fault| panic!("{fault}"));
        spec.scale_target_ref = Some(loadline_manifest::autoscaler::CrossVersionObjectReference {
            api_version: "apps/v1".to_owned(),
            kind: "Deployment".to_owned(),
            name: "chat".to_owned(),
        });
        let pools = lower("default", "chat", &spec, Duration::from_secs(1)).expect(case.profile);
        let policy = pools[0].policy.pools.values().next().expect("one pool");
        assert_eq!((policy.min_replicas, policy.max_replicas), case.bounds, "{}", case.profile);
        assert_eq!(policy.idle.map(|idle| idle.after.as_secs()), case.idle, "{}", case.profile);
        let loadline_policy::Rule::Hpa(rule) = &policy.rule;
        let down = &rule.behavior.as_ref().expect("filled in").scale_down;
        assert_eq!(down.stabilization_window_seconds, Some(case.window), "{}", case.profile);
        // staging goes to zero with one field more
        if case.profile == "staging" {
            spec.min_replicas = Some(0);
            assert!(lower("default", "chat", &spec, Duration::from_secs(1)).is_ok());
        }
    }
}

/// Every value has a schema and every schema a value, so that a misspelt value is refused and none goes undescribed.
#[test]
fn values_and_their_schema_agree() {
    let schema = values("values.schema.json");
    let known = schema.get("properties").expect("properties");
    let written = values("values.yaml");
    let mut expected = keys(known);
    expected.retain(|key| *key != "global");
    expected.sort_unstable();
    let mut found = keys(&written);
    found.sort_unstable();
    assert_eq!(found, expected);
    for key in found {
        let (value, about) = (written.get(key).expect("there"), known.get(key).expect("there"));
        if let Some(inner) = about.get("properties") {
            let (mut value, mut about) = (keys(value), keys(inner));
            value.sort_unstable();
            about.sort_unstable();
            assert_eq!(value, about, "{key}");
        }
    }
    for profile in ["production", "staging", "development"] {
        for key in keys(&values(&format!("values-{profile}.yaml"))) {
            assert!(written.get(key).is_some(), "{profile}: {key} is no value");
        }
    }
}

#[test]
fn no_role_has_a_star_and_only_what_is_listed_is_written() {
    const WRITES: [&str; 9] = [
        "resources: [pods], verbs: [patch]",
        "/scale], verbs: [get, update]",
        "resources: [inferenceautoscalers/status], verbs: [patch]",
        "resources: [events], verbs: [create, patch]",
        "resources: [tokenreviews], verbs: [create]",
        "resources: [subjectaccessreviews], verbs: [create]",
        "resources: [leases]",
        "resources: [configmaps], verbs: [get, list, create, update, delete]",
        "resources: [secrets]",
    ];
    let mut rules = 0_usize;
    for file in ["templates/rbac.yaml", "templates/gateways.yaml"] {
        for line in chart(file).lines().filter(|line| line.contains("apiGroups:") || line.contains("verbs:")) {
            rules += 1;
            assert!(!line.contains('*'), "{file}: {line}");
            let writes = ["create", "update", "patch", "delete"].iter().any(|verb| line.contains(verb));
            let is_own_certificate = line.trim() == "verbs: [get, patch]";
            assert!(!writes || is_own_certificate || WRITES.iter().any(|known| line.contains(known)), "{file}: {line}");
        }
    }
    assert!(rules > 20, "{rules}");
}

/// The chart decides four names; they and an empty `config` are a file that `loadline serve` takes.
#[test]
fn what_the_chart_writes_into_serve_yaml_is_read() {
    let text = "metricsApi: {service: loadline, custom: true, external: false}\nlease: {name: loadline}\n";
    let config = read_serve("serve.yaml", text, &Limits::default()).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(config.metrics_api.custom && !config.metrics_api.external);
    assert_eq!(keys(&values("values.yaml").get("config").cloned().expect("there")), Vec::<&str>::new());
    assert!(chart("templates/serve.yaml").contains("args: [serve, --config, /etc/loadline/serve.yaml]"));
    assert!(yaml::read_documents("Chart.yaml", &chart("Chart.yaml"), &Limits::default()).is_ok());
}
