use super::*;
use crate::yaml::Limits;

const SMALL: &str = "models:\n- name: m\n  command: [serve, --port, \"{port}\", --share, 0.9]\n";

fn read(text: &str) -> Result<Loaded, crate::Faults> {
    read_config("loadline.yaml", text, &Limits::default())
}

#[test]
fn a_small_file_gets_every_default_and_reads_back() {
    let loaded = read(SMALL).expect("reads");
    let model = &loaded.config.models[0];
    assert_eq!(model.slots, 32);
    assert_eq!(model.metrics[0].spec().target.average_value_milli, Some(22_400));
    assert_eq!(
        model.launch,
        Launch::Command(["serve", "--port", "{port}", "--share", "0.9"].map(str::to_owned).to_vec())
    );
    assert_eq!(loaded.config.gateway.max_body_bytes, 32 << 20);
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let printed = print_config(&loaded.config);
    assert_eq!(read(&printed).unwrap_or_else(|faults| panic!("{faults}\n{printed}")).config, loaded.config);
    for entry in defaults::TABLE {
        let last = entry.field.split(['.', ' ']).find(|part| !part.contains('[')).unwrap_or(entry.field);
        let unset = matches!(entry.value, crate::defaults::Setting::Unset(_));
        let other_launch = entry.field.contains("engine.");
        assert!(unset || other_launch || printed.contains(last), "{} is not printed:\n{printed}", entry.field);
    }
}

#[test]
fn every_field_reads_back() {
    let text = "listen: 0.0.0.0:80\ngpuBudget: 4\nmodels:\n- name: m\n  engine: {profile: p, dialect: sglang, maxNumSeqs: 8, speedup: 5, startup: 30s, seed: 3}\n  minReplicas: 1\n  maxReplicas: 2\n  metrics:\n  - type: Signal\n    signal: {name: requests_waiting, target: {type: AverageValue, averageValue: 500m}}\n  behavior: {scaleUp: {policies: [{type: Pods, value: 1, periodSeconds: 60}], tolerance: 50m}}\n  env: {A: 1, B: \"yes\"}\n  gpus: {devices: [[0], [0, 1]]}\n  coldWait: 50s\n";
    let loaded = read(text).expect("reads");
    let model = &loaded.config.models[0];
    assert_eq!((model.slots, model.gpus_per_replica), (8, 2));
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    let again = read(&print_config(&loaded.config)).expect("reads back");
    assert_eq!(again.config, loaded.config);
    let policy = model.policy(&loaded.config);
    assert_eq!(policy.gate, loadline_policy::Gate::On);
    let pool = &policy.pools[crate::hpa::POOL];
    assert_eq!((pool.min_replicas, pool.max_replicas, pool.idle), (1, 2, None));
}

#[test]
fn mistakes_are_named_with_their_mend() {
    struct Case {
        text: &'static str,
        expect: &'static str,
    }
    for case in [
        Case { text: "scrapePeriod: 1s\n", expect: "loadline.yaml:1:1: `models`: no model is configured" },
        Case {
            text: "listen: a\nmodels:\n- name: m\n  engine: {}\n",
            expect: "loadline.yaml:1:1: `listen`: `a` is not `host:port`; write for example",
        },
        Case { text: "models:\n- name: m\n", expect: "loadline.yaml:2:3: `models[0]`: needs `command`" },
        Case {
            text: "models:\n- name: m\n  command: [x]\n",
            expect: "loadline.yaml:3:3: `models[0].command`: has no `{port}`",
        },
        Case {
            text: "models:\n- name: m\n  engine: {}\n- name: m\n  engine: {}\n",
            expect: "loadline.yaml:4:3: `models[1].name`: `m` is already the name of `models[0].name`",
        },
        Case {
            text: "models:\n- name: m\n  engine: {}\n  minReplicas: 3\n  maxReplicas: 2\n",
            expect: "loadline.yaml:5:3: `models[0].maxReplicas`: is 2, less than `minReplicas` 3",
        },
        Case {
            text: "gpuBudget: 1\nmodels:\n- name: m\n  engine: {}\n  minReplicas: 2\n  gpus: {perReplica: 1}\n",
            expect: "loadline.yaml:1:1: `gpuBudget`: is 1, and the models' `minReplicas` alone take 2 GPUs",
        },
        Case {
            text: "scrapePeriod: 5\nmodels: []\n",
            expect: "loadline.yaml:1:15: `scrapePeriod`: `5` has no unit; write for example `5s`",
        },
        Case {
            text: "models:\n- name: m\n  engine: {}\n  slot: 4\n",
            expect: "loadline.yaml:4:3: `models[0].slot`: unknown field `slot`; did you mean `slots`?",
        },
        Case {
            text: "models:\n- name: m\n  engine: {}\n  metrics: [{type: Resource, resource: {name: cpu}}]\n",
            expect: "loadline.yaml:4:14: `models[0].metrics[0].type`: cpu and memory of replicas are not measured here",
        },
        Case {
            text: "models:\n- name: m\n  engine: {}\n  metrics: [{type: Pods, pods: {metric: {name: x}, target: {type: AverageValue, averageValue: 0}}}]\n",
            expect: "loadline.yaml:4:81: `models[0].metrics[0].pods.target.averageValue`: Invalid value: \"0\": must be positive",
        },
        Case {
            text: "models:\n- name: m\n  engine: {}\n  metrics: [{type: Pod}]\n",
            expect: "loadline.yaml:4:14: `models[0].metrics[0].type`: unknown type `Pod`; did you mean `Pods`?",
        },
        Case {
            text: "models:\n- name: m\n  engine: {}\n  metrics: [{type: Signal, signal: {name: request_waiting}}]\n",
            expect: "loadline.yaml:4:37: `models[0].metrics[0].signal.name`: unknown signal `request_waiting`; did you mean `requests_waiting`?",
        },
        Case {
            text: "gateway: {maxBodyBytes: 1.5}\nmodels: []\n",
            expect: "loadline.yaml:1:25: `gateway.maxBodyBytes`: `1500m` is not a positive whole number of bytes",
        },
    ] {
        let message = read(case.text).expect_err(case.text).to_string();
        assert!(message.starts_with(case.expect), "{message}\n{}", case.expect);
    }
}

/// The metrics and behavior of the guides' manifests, pasted.
#[test]
fn metrics_of_the_guides_are_taken_as_they_are() {
    struct Case {
        name: &'static str,
        metrics: &'static str,
        expect: &'static [&'static str],
    }
    for case in [
        Case {
            name: "a contradictory target is read as an average",
            metrics: "[{type: Pods, pods: {metric: {name: 'vllm:num_requests_waiting'}, target: {type: Value, averageValue: 5}}}]",
            expect: &["PerReplica { series: \"vllm:num_requests_waiting\", labels: {} }"],
        },
        Case {
            name: "gateway names",
            metrics: "[{type: External, external: {metric: {name: igw_queue_depth, selector: {matchLabels: {a: b}}}, target: {type: Value, value: 250}}}, {type: External, external: {metric: {name: llm_d_epp_request_running}, target: {type: AverageValue, averageValue: 250}}}]",
            expect: &["GatewayHeld", "GatewayInFlight"],
        },
        Case {
            name: "a series added over replicas",
            metrics: "[{type: External, external: {metric: {name: vllm_requests_running, selector: {matchLabels: {app: x}}}, target: {type: AverageValue, averageValue: 5}}}]",
            expect: &["Total { series: \"vllm_requests_running\", labels: {\"app\": \"x\"} }"],
        },
    ] {
        let text = format!("models:\n- name: m\n  engine: {{}}\n  metrics: {}\n", case.metrics);
        let loaded = read(&text).unwrap_or_else(|faults| panic!("{}: {faults}", case.name));
        let origins: Vec<String> =
            loaded.config.models[0].metrics.iter().map(|metric| format!("{:?}", metric.origin())).collect();
        assert_eq!(origins, case.expect, "{}", case.name);
        let printed = print_config(&loaded.config);
        assert_eq!(read(&printed).unwrap_or_else(|faults| panic!("{faults}\n{printed}")).config, loaded.config);
    }
}

#[test]
fn gpus_are_a_number_or_a_mapping() {
    for (written, expect) in [
        ("1", (1, 0)),
        ("0", (0, 0)),
        ("{perReplica: 1}", (1, 0)),
        ("{ perReplica: 0, devices: [[0]] }", (0, 1)),
        ("{devices: [[0, 1]]}", (2, 1)),
        ("", (0, 0)),
    ] {
        let text = format!("models:\n- name: m\n  command: [x, \"{{port}}\"]\n  gpus: {written}\n");
        let config = read(&text).unwrap_or_else(|faults| panic!("{faults}")).config;
        let model = &config.models[0];
        assert_eq!((model.gpus_per_replica, model.gpu_devices.len()), expect, "{written}");
        let printed = print_config(&config);
        assert!(printed.contains(&format!("perReplica: {}", expect.0)), "{printed}");
        assert_eq!(read(&printed).unwrap_or_else(|faults| panic!("{faults}\n{printed}")).config, config);
    }
}

#[test]
fn devices_replace_the_placeholder_where_they_are_given() {
    let text =
        "models:\n- name: m\n  command: [x, \"{port}\", \"{gpu}\"]\n  env: {A: \"{gpu}\"}\n  gpus: {devices: [[0]]}\n";
    assert_eq!(read(text).unwrap_or_else(|faults| panic!("{faults}")).config.models[0].gpu_devices, [["0"]]);
}

#[test]
fn what_is_taken_at_the_start_stays_and_is_named() {
    let started = read(SMALL).expect("reads").config;
    let mut same = started.clone();
    assert_eq!(same.keep_from_start(&started), Vec::<&str>::new());
    let changed = format!(
        "listen: 127.0.0.1:1\nscrapePeriod: 2s\ngateway: {{maxConnections: 7, heldRequests: 7, inferencePool: x}}\n{SMALL}"
    );
    let mut changed = read(&changed).expect("reads").config;
    assert_eq!(
        changed.keep_from_start(&started),
        ["listen", "scrapePeriod", "gateway.maxConnections", "gateway.inferencePool"]
    );
    assert_eq!((&changed.listen, changed.gateway.max_connections), (&started.listen, started.gateway.max_connections));
    assert_eq!(changed.gateway.held_requests, 7);
    assert!(crate::configuration_page().contains("`scrapePeriod`, `gateway.maxBodyBytes`"));
}

#[test]
fn gpus_and_bounds_that_cannot_be_are_named() {
    struct Case {
        text: &'static str,
        expect: &'static str,
    }
    for case in [
        Case {
            text: "models:\n- name: m\n  command: [x, \"{port}\", \"--gpu={gpu}\"]\n  gpus: 1\n",
            expect: "loadline.yaml:3:26: `models[0].command[2]`: `{gpu}` needs device lists; write one per replica",
        },
        Case {
            text: "models:\n- name: m\n  engine: {}\n  env: {A: 1, GPU: \"{gpu}\"}\n",
            expect: "loadline.yaml:4:15: `models[0].env.GPU`: `{gpu}` needs device lists",
        },
        Case {
            text: "models:\n- name: m\n  engine: {}\n  gpus: -1\n",
            expect: "loadline.yaml:4:9: `models[0].gpus`: expected a number of GPUs, or `perReplica` and `devices`, found integer `-1`",
        },
        Case {
            text: "models:\n- name: m\n  engine: {}\n  gpus: {perReplicas: 1}\n",
            expect: "loadline.yaml:4:10: `models[0].gpus.perReplicas`: unknown field `perReplicas`; did you mean `perReplica`?",
        },
        Case {
            text: "gateway: {connectTimeout: 0s}\nmodels: [{name: m, engine: {}}]\n",
            expect: "loadline.yaml:1:11: `gateway.connectTimeout`: must be longer than zero",
        },
        Case {
            text: "gateway: {maxAttempts: 0}\nmodels: [{name: m, engine: {}}]\n",
            expect: "loadline.yaml:1:11: `gateway.maxAttempts`: must be at least 1",
        },
    ] {
        let message = read(case.text).expect_err(case.text).to_string();
        assert!(message.starts_with(case.expect), "{message}\n{}", case.expect);
    }
}
