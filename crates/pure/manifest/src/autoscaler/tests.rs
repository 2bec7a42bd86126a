use super::*;
use serde_json::Value;

/// Every schema below, with its path.
fn walk(path: &str, schema: &Value, seen: &mut Vec<(String, Value)>) {
    seen.push((path.to_owned(), schema.clone()));
    for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        walk(&format!("{path}.{name}"), field, seen);
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(keyword) {
            walk(&format!("{path}[]"), inner, seen);
        }
    }
}

fn schemas() -> Vec<(String, Value)> {
    let crd = crd();
    let root = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut seen = Vec::new();
    walk("", root, &mut seen);
    seen
}

#[test]
fn the_schema_is_structural_bounded_and_described() {
    const KNOWN: [&str; 23] = [
        "type",
        "format",
        "description",
        "properties",
        "items",
        "additionalProperties",
        "required",
        "default",
        "enum",
        "pattern",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "maxProperties",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-validations",
        "x-kubernetes-map-type",
        "x-kubernetes-preserve-unknown-fields",
    ];
    let all = schemas();
    assert!(all.len() > 100, "{}", all.len());
    for (path, schema) in all {
        let object = schema.as_object().unwrap_or_else(|| panic!("{path} is no schema: {schema}"));
        for keyword in object.keys() {
            assert!(KNOWN.contains(&keyword.as_str()), "{path}: {keyword}");
        }
        let has = |keyword: &str| object.contains_key(keyword);
        let own_metadata = [".apiVersion", ".kind", ".metadata"].contains(&path.as_str());
        match object.get("type").and_then(Value::as_str) {
            None => assert!(has("x-kubernetes-int-or-string") && has("maxLength"), "{path} has no type"),
            Some("string") => {
                let bounded = has("maxLength") || has("enum") || object.get("format") == Some(&"date-time".into());
                assert!(bounded || own_metadata, "{path} is text without a bound");
            }
            Some("array") => assert!(has("maxItems") && has("x-kubernetes-list-type"), "{path} is an unbounded list"),
            Some("object") if has("additionalProperties") => {
                assert!(has("maxProperties"), "{path} is an unbounded map")
            }
            Some("integer" | "boolean" | "object") => {}
            Some(other) => panic!("{path} has the type {other}"),
        }
        let described = object.get("description").and_then(Value::as_str).is_some_and(|text| text.len() > 4);
        assert!(described || path.ends_with("[]") || path == ".metadata", "{path} has no description");
        for field in object.get("required").and_then(Value::as_array).into_iter().flatten() {
            let name = field.as_str().expect("text");
            assert!(schema["properties"].get(name).is_some(), "{path} requires {name}, which it does not have");
        }
    }
}

/// An overlay that names a field which does not exist would add it, without a type.
#[test]
fn the_overlay_names_existing_fields_only() {
    for (path, schema) in schemas() {
        let typed = schema.get("type").is_some() || schema.get("x-kubernetes-int-or-string").is_some();
        assert!(typed, "{path}: {schema}");
    }
}

const PERIOD: std::time::Duration = std::time::Duration::from_secs(1);

fn spec(yaml: &str) -> InferenceAutoscalerSpec {
    let node = crate::yaml::read_one("spec", yaml, &crate::Limits::default()).unwrap_or_else(|fault| panic!("{fault}"));
    crate::yaml::from_node("spec", &node).unwrap_or_else(|fault| panic!("{fault}\n{yaml}"))
}

/// `@` stands for a target.
fn lowered(yaml: &str) -> Result<Vec<LoweredPool>, String> {
    let yaml = yaml.replace('@', "{apiVersion: apps/v1, kind: Deployment, name: a}");
    lower("ns", "ia", &spec(&yaml), PERIOD)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn one(yaml: &str) -> LoweredPool {
    let [pool] = <[_; 1]>::try_from(lowered(yaml).expect(yaml)).expect("one pool");
    pool
}

fn pool_policy(pool: &LoweredPool) -> &loadline_policy::PoolPolicy {
    pool.policy.pools.values().next().expect("one pool")
}

#[test]
fn defaults_are_filled_in() {
    let pool = one("{scaleTargetRef: @, maxReplicas: 4}");
    let policy = pool_policy(&pool);
    assert_eq!((pool.model.as_str(), pool.served_as.as_str()), ("ns/ia", "ia"));
    assert_eq!(pool.policy.pools.keys().next().expect("one").as_str(), "ns/ia");
    assert_eq!((policy.min_replicas, policy.max_replicas, policy.idle, policy.fallback), (1, 4, None, None));
    assert_eq!((pool.slots, pool.mode, policy.scrape_period), (32, Mode::Active, PERIOD));
    assert_eq!(pool.metrics[0].origin, MetricOrigin::Engine("requests_waiting".to_owned()));
    assert_eq!(pool.metrics[0].target.map(|target| target.to_string()).as_deref(), Some("3"));
    let loadline_policy::Rule::Hpa(rule) = &policy.rule;
    let behavior = rule.behavior.as_ref().expect("filled in");
    assert_eq!(behavior.scale_down.stabilization_window_seconds, Some(300));
    assert_eq!(behavior.scale_up.policies.len(), 2);

    let text = "{scaleTargetRef: @, minReplicas: 0, maxReplicas: 4, idle: {}, model: m, gateway: {name: g, slots: 10}, fallback: {replicas: 2}, scrape: {interval: 5s}}";
    let pool = one(text);
    let policy = pool_policy(&pool);
    assert_eq!(pool.metrics[0].origin, MetricOrigin::GatewayDemand);
    assert_eq!(pool.metrics[0].spec.target.average_value_milli, Some(7_000));
    assert_eq!(policy.idle.expect("idle").after.as_secs(), 300);
    assert_eq!(policy.fallback.expect("fallback").after.as_secs(), 180);
    assert_eq!((pool.served_as.as_str(), policy.scrape_period.as_secs()), ("m", 5));
}

#[test]
fn each_metric_has_its_origin() {
    let target = "target: {type: AverageValue, averageValue: 5}";
    let origin = |gateway: &str, metric: &str| {
        let text = format!("{{scaleTargetRef: @, maxReplicas: 4, {gateway} metrics: [{metric}]}}");
        one(&text).metrics.remove(0).origin
    };
    let held = format!("{{type: External, external: {{metric: {{name: igw_queue_depth}}, {target}}}}}");
    assert_eq!(origin("gateway: {name: g},", &held), MetricOrigin::GatewayHeld);
    // without a gateway of ours, the name is somebody else's
    let elsewhere = MetricOrigin::External { name: "igw_queue_depth".to_owned(), selector: None };
    assert_eq!(origin("", &held), elsewhere);
    let pods = format!(
        "{{type: Pods, pods: {{metric: {{name: 'vllm:x', selector: {{matchLabels: {{model: m}}}}}}, {target}}}}}"
    );
    let labels = [("model".to_owned(), "m".to_owned())].into();
    assert_eq!(origin("", &pods), MetricOrigin::PerReplica { series: "vllm:x".to_owned(), labels });
    let cpu = "{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}";
    let expect = MetricOrigin::Resource { name: "cpu".to_owned(), container: None, of_request: true };
    assert_eq!(origin("", cpu), expect);
    let memory = format!("{{type: ContainerResource, containerResource: {{name: memory, container: c, {target}}}}}");
    let expect =
        MetricOrigin::Resource { name: "memory".to_owned(), container: Some("c".to_owned()), of_request: false };
    assert_eq!(origin("", &memory), expect);
    let object = format!(
        "{{type: Object, object: {{describedObject: {{kind: Service, name: s}}, metric: {{name: r}}, {target}}}}}"
    );
    assert!(matches!(origin("", &object), MetricOrigin::Unsupported(text) if text.contains("`r` of Service `s`")));
    // the contradictory form that the HPA accepts
    let odd = "{type: External, external: {metric: {name: q}, target: {type: Value, averageValue: 2}}}";
    assert!(matches!(origin("", odd), MetricOrigin::External { .. }));
}

#[test]
fn several_pools_have_names_of_their_own_and_floors_keep_to_the_limits() {
    let mut pools = lowered(
        "{minReplicas: 1, pools: [{name: p, scaleTargetRef: @, maxReplicas: 3}, {name: d, scaleTargetRef: {apiVersion: a/v1, kind: K, name: a}, minReplicas: 2, maxReplicas: 9}]}",
    )
    .expect("lowers");
    assert_eq!(pools.iter().map(|pool| pool.model.as_str()).collect::<Vec<_>>(), ["ns/ia/p", "ns/ia/d"]);
    for pool in &mut pools {
        pool.raise_floor(5);
    }
    assert_eq!(pools.iter().map(|pool| pool_policy(pool).min_replicas).collect::<Vec<_>>(), [3, 5]);
    assert_eq!(one("{pools: [{name: p, scaleTargetRef: @, maxReplicas: 3}]}").model.as_str(), "ns/ia");
}

#[test]
fn problems_name_the_field_and_the_mend() {
    for (yaml, expect) in [
        ("{maxReplicas: 1}", "`spec.scaleTargetRef`: is missing"),
        ("{scaleTargetRef: @}", "`spec.maxReplicas`: is missing"),
        ("{scaleTargetRef: @, minReplicas: 3, maxReplicas: 2}", "is 2, less than `minReplicas` 3"),
        ("{scaleTargetRef: @, minReplicas: 0, maxReplicas: 2}", "`spec.minReplicas`: is 0, and nothing says when"),
        (
            "{scaleTargetRef: @, maxReplicas: 2, objective: {ttft: 1s}}",
            "`spec.objective`: objective is not carried out yet",
        ),
        ("{scaleTargetRef: @, maxReplicas: 2, fallback: {replicas: 3}}", "`spec.fallback.replicas`: is 3, more than"),
        ("{scaleTargetRef: @, maxReplicas: 2, startTime: 0s}", "`spec.startTime`: must be longer than zero"),
        (
            "{scaleTargetRef: {kind: Deployment, name: a}, maxReplicas: 2}",
            "`spec.scaleTargetRef.apiVersion`: must name",
        ),
        (
            "{scaleTargetRef: @, maxReplicas: 2, schedules: [{name: a, from: '08:00', to: '09:00', minReplicas: 3}]}",
            "`spec.schedules[0].minReplicas`: is 3, more than any",
        ),
        (
            "{pools: [{name: a, scaleTargetRef: @, maxReplicas: 2}, {name: a, scaleTargetRef: @, maxReplicas: 2}]}",
            "`spec.pools[1].scaleTargetRef`: Deployment `a` is the target of another pool too",
        ),
        (
            "{scaleTargetRef: @, maxReplicas: 2, metrics: [{type: Signal, signal: {name: requests_demand, target: {type: AverageValue, averageValue: 2}}}]}",
            "`spec.metrics[0].signal.name`: `requests_demand` is counted at the gateway",
        ),
        (
            "{scaleTargetRef: @, maxReplicas: 2, metrics: [{type: Pods, pods: {metric: {name: a}, target: {type: Value, value: 2}}}]}",
            "`spec.metrics[0].pods.target.averageValue`: Required value",
        ),
        ("{scaleTargetRef: @, maxReplicas: 2, metrics: [{type: Nope}]}", "unknown type `Nope`; known are `Signal`"),
        (
            "{scaleTargetRef: @, maxReplicas: 2, behavior: {scaleUp: {stabilizationWindowSeconds: 4000}}}",
            "`spec.behavior.scaleUp.stabilizationWindowSeconds`",
        ),
        (
            "{gateway: {name: g}, pools: [{name: a, scaleTargetRef: @, maxReplicas: 2}, {name: b, scaleTargetRef: {apiVersion: a/v1, kind: K, name: a}, maxReplicas: 2}]}",
            "`spec.gateway`: serves one pool",
        ),
    ] {
        let problems = lowered(yaml).expect_err(yaml);
        assert!(problems.contains(expect), "{yaml}: {problems}");
    }
}

fn root() -> std::path::PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../..").into()
}

/// What each example becomes, against a golden text.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test reads the examples")]
fn every_example_lowers() {
    let folder = root().join("examples/kubernetes");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("examples")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    let mut golden = String::new();
    for path in files {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let text = std::fs::read_to_string(&path).expect("readable");
        let found =
            read_autoscalers(&name, &text, &crate::Limits::default()).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        for object in found {
            let pools = lower("default", &object.metadata.name, &object.spec, PERIOD)
                .unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
            for pool in pools {
                golden.push_str(&line(&name, &pool));
            }
        }
    }
    insta::assert_snapshot!(golden);
}

fn line(file: &str, pool: &LoweredPool) -> String {
    let policy = pool_policy(pool);
    let metrics: Vec<String> = pool
        .metrics
        .iter()
        .map(|metric| {
            format!("{:?} at {}", metric.origin, metric.target.map(|target| target.to_string()).unwrap_or_default())
        })
        .collect();
    format!(
        "{file}: {} serves {} on {} {}, {}..{}, idle {:?}, fallback {:?}, gateway {:?}, {:?}\n    {}\n",
        pool.model,
        pool.served_as,
        pool.target.kind,
        pool.target.name,
        policy.min_replicas,
        policy.max_replicas,
        policy.idle.map(|idle| idle.after),
        policy.fallback.map(|fallback| fallback.replicas),
        pool.gateway.as_ref().map(|gateway| gateway.name.as_str()),
        pool.mode,
        metrics.join("\n    ")
    )
}

/// Every text that the definition's pattern lets through can be read, so that no stored object can stop a watch.
#[test]
fn what_the_patterns_allow_can_be_read() {
    use regex_automata::meta::Regex;
    let duration = Regex::new(DURATION_PATTERN).expect("pattern");
    let quantity = Regex::new(QUANTITY_PATTERN).expect("pattern");
    for text in ["9999.999d99999.999h999999.999m", "99999999.999s999999999ms", "1h30m", "5m0s", "300ms", "0s"] {
        assert!(duration.is_match(text) && loadline_base::parse_duration(text).is_ok(), "{text}");
    }
    for text in ["5", "5x", "-5s", "5s5m", "12345d", "1w"] {
        assert!(!duration.is_match(text), "{text}");
    }
    for text in ["1", "1.5", ".5", "5.", "500m", "16Gi", "1e3", "1E-999", "00"] {
        assert!(quantity.is_match(text) && text.parse::<loadline_base::Quantity>().is_ok(), "{text}");
    }
    for text in ["", "-1", ".", "1x", "1e"] {
        assert!(!quantity.is_match(text), "{text}");
    }
}
