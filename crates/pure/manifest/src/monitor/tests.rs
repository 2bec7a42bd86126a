use super::relabel::{MAX_RULES, Relabeled, Rules};
use super::*;
use loadline_base::Labels;

fn rules(yaml: &str) -> Result<Rules, String> {
    let node = crate::yaml::read_one("rules", yaml, &crate::Limits::default()).expect("YAML");
    let written: Vec<RelabelConfig> = crate::yaml::from_node("rules", &node).expect("rules");
    Rules::compile(&written).map_err(|error| error.to_string())
}

/// Labels as `name=value,...`, after the rules; `-` when dropped.
fn target(yaml: &str, labels: &str) -> String {
    let mut labels: Labels = labels.split(',').filter_map(|pair| pair.split_once('=')).collect();
    match rules(yaml).expect("compiles").target(&mut labels) {
        Relabeled::Kept => labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(","),
        Relabeled::Dropped => "-".to_owned(),
    }
}

struct Case {
    name: &'static str,
    rules: &'static str,
    labels: &'static str,
    expect: &'static str,
}

/// Names and most cases are those of the actions' documentation in Prometheus; the hash is `md5("foo")`, last eight bytes, mod 1000.
const CASES: &[Case] = &[
    Case {
        name: "replace by default",
        rules: "[{sourceLabels: [a], targetLabel: b}]",
        labels: "a=1",
        expect: "a=1,b=1",
    },
    Case {
        name: "joined",
        rules: "[{sourceLabels: [a, b], separator: '-', regex: '(.)-(.*)', replacement: '${2}x$1', targetLabel: c}]",
        labels: "a=1,b=2",
        expect: "a=1,b=2,c=2x1",
    },
    Case {
        name: "the whole must match",
        rules: "[{sourceLabels: [a], regex: b, targetLabel: c}]",
        labels: "a=abc",
        expect: "a=abc",
    },
    Case { name: "an empty result deletes", rules: "[{sourceLabels: [x], targetLabel: a}]", labels: "a=1", expect: "" },
    Case { name: "a constant", rules: "[{targetLabel: a, replacement: v}]", labels: "", expect: "a=v" },
    Case {
        name: "a target with a group",
        rules: "[{sourceLabels: [a], regex: '(?P<n>\\w+):(.*)', targetLabel: 'x_$n', replacement: '$2$$$nope'}]",
        labels: "a=p:q",
        expect: "a=p:q,x_p=q$",
    },
    Case { name: "keep", rules: "[{sourceLabels: [a], regex: 'x|y', action: Keep}]", labels: "a=y", expect: "a=y" },
    Case { name: "not kept", rules: "[{sourceLabels: [a], regex: 'x|y', action: keep}]", labels: "a=yy", expect: "-" },
    Case { name: "drop", rules: "[{sourceLabels: [a], regex: x.*, action: drop}]", labels: "a=xyz", expect: "-" },
    Case {
        name: "keepequal",
        rules: "[{sourceLabels: [a], targetLabel: b, action: keepequal}]",
        labels: "a=1,b=2",
        expect: "-",
    },
    Case {
        name: "dropequal",
        rules: "[{sourceLabels: [a], targetLabel: b, action: dropequal}]",
        labels: "a=1,b=1",
        expect: "-",
    },
    Case {
        name: "hashmod",
        rules: "[{sourceLabels: [a], targetLabel: h, modulus: 1000, action: hashmod}]",
        labels: "a=foo",
        expect: "a=foo,h=696",
    },
    Case {
        name: "labelmap",
        rules: "[{regex: '__meta_(.+)', action: labelmap}, {regex: '__meta_.*', action: labeldrop}]",
        labels: "__meta_pod=p,x=1",
        expect: "pod=p,x=1",
    },
    Case { name: "labelkeep", rules: "[{regex: 'a|b', action: labelkeep}]", labels: "a=1,c=2", expect: "a=1" },
    Case {
        name: "lowercase",
        rules: "[{sourceLabels: [a], targetLabel: a, action: lowercase}]",
        labels: "a=ABC",
        expect: "a=abc",
    },
    Case {
        name: "uppercase",
        rules: "[{sourceLabels: [a], targetLabel: b, action: uppercase}]",
        labels: "a=b",
        expect: "a=b,b=B",
    },
    Case {
        name: "classes as in Go",
        rules: "[{sourceLabels: [a], regex: '[[a]([]&&b]+)[[:digit:]\\d]', targetLabel: b}]",
        labels: "a=[&]7",
        expect: "a=[&]7,b=&]",
    },
    Case {
        name: "digits are ASCII",
        rules: "[{sourceLabels: [a], regex: '\\d', action: keep}]",
        labels: "a=٣",
        expect: "-",
    },
];

#[test]
fn every_action_does_what_prometheus_does() {
    for case in CASES {
        assert_eq!(target(case.rules, case.labels), case.expect, "{}", case.name);
    }
}

#[test]
fn series_are_renamed_and_dropped() {
    let rules = rules(
        "[{sourceLabels: [__name__], regex: 'go_.*', action: drop}, {sourceLabels: [__name__], regex: 'vllm:(.*)', targetLabel: __name__, replacement: 'engine_$1'}, {regex: engine, action: labeldrop}]",
    )
    .expect("compiles");
    for (name, expect) in [("go_goroutines", None), ("vllm:x", Some("engine_x")), ("up", Some("up"))] {
        let mut labels: Labels = [("engine", "0"), ("model", "m")].into_iter().collect();
        let mut text = name.to_owned();
        let kept = rules.series(&mut text, &mut labels);
        assert_eq!((kept == Relabeled::Kept).then_some(text.as_str()), expect, "{name}");
        if expect.is_some() {
            assert_eq!(labels.to_string(), "{model=\"m\"}");
        }
    }
    let nameless = self::rules("[{targetLabel: __name__, replacement: ''}]").expect("compiles");
    assert_eq!(nameless.series(&mut "a".to_owned(), &mut Labels::new()), Relabeled::Dropped);
}

#[test]
fn what_prometheus_refuses_is_refused_with_a_reason() {
    for (yaml, expect) in [
        ("[{action: remove}]", "relabeling 1: unknown `action` `remove`; known are replace"),
        ("[{sourceLabels: [a]}]", "`action: replace` needs `targetLabel`"),
        ("[{sourceLabels: [a], targetLabel: b, action: hashmod}]", "needs a `modulus`"),
        ("[{targetLabel: x}, {regex: '(', action: keep}]", "relabeling 2: `(` is no regular expression"),
        ("[{sourceLabels: [a], regex: b, action: labeldrop}]", "takes `regex` alone"),
        ("[{regex: '(a{1000}){1000}', action: keep}]", "is no regular expression that is taken"),
    ] {
        let error = rules(yaml).expect_err(yaml);
        assert!(error.contains(expect) && !error.contains('\n'), "{yaml}: {error}");
    }
    let long = vec![RelabelConfig { target_label: Some("a".to_owned()), ..RelabelConfig::default() }; MAX_RULES + 1];
    assert!(Rules::compile(&long).expect_err("too many").to_string().contains("at most 64"));
}

#[test]
fn monitors_of_the_operator_are_read_with_their_unknown_fields() {
    let text = "apiVersion: monitoring.coreos.com/v1\nkind: PodMonitor\nmetadata: {name: vllm, namespace: llm, labels: {release: x}}\nspec:\n  jobLabel: app\n  selector: {matchLabels: {app: vllm}}\n  namespaceSelector: {matchNames: [a, b]}\n  podTargetLabels: [model]\n  podMetricsEndpoints:\n  - port: metrics\n    portNumber: 8000\n    targetPort: http\n    path: /m\n    scheme: https\n    interval: 15s\n    enableHttp2: true\n    params: {format: [text]}\n    authorization: {type: Bearer, credentials: {name: t, key: k, optional: true}}\n    tlsConfig: {insecureSkipVerify: true, serverName: s, ca: {configMap: {name: c, key: ca.crt}}}\n    metricRelabelings: [{sourceLabels: [__name__], regex: 'go_.*', action: drop}]\n";
    let node = crate::yaml::read_one("m", text, &crate::Limits::default()).expect("YAML");
    let monitor: Monitor = crate::yaml::from_node("m", &node).expect("reads");
    let [page] = monitor.spec.pages() else { panic!("{monitor:?}") };
    assert_eq!(
        (page.port.as_deref(), page.port_number, page.path.as_deref()),
        (Some("metrics"), Some(8000), Some("/m"))
    );
    assert_eq!(page.target_port.as_ref().and_then(IntOrString::name), Some("http"));
    assert_eq!(
        page.authorization.as_ref().and_then(|header| header.credentials.as_ref()).map(|key| key.key.as_str()),
        Some("k")
    );
    let selects = |namespace| monitor.spec.namespace_selector.selects(&monitor.metadata.namespace, namespace);
    assert!(selects("a") && selects("b") && !selects("llm"));
    assert!(NamespaceSelector::default().selects("llm", "llm") && !NamespaceSelector::default().selects("llm", "a"));
}

proptest::proptest! {
    /// Whatever monitors say, compiling and applying ends, within the limits.
    #[test]
    fn nothing_panics_or_grows(
        regex in "[\\[\\]()|.*+?a-c\\\\dws:^$&~{}0-9-]{0,24}",
        replacement in "[a-c$0-9{}_]{0,12}",
        target in "[a-c$1_{}]{0,6}",
        value in "\\PC{0,12}",
        action in 0_usize..11,
    ) {
        const ACTIONS: [&str; 11] = [
            "replace", "keep", "drop", "keepequal", "dropequal", "hashmod", "labelmap", "labeldrop", "labelkeep",
            "lowercase", "uppercase",
        ];
        let is_regex_only = ACTIONS[action].starts_with("label") && ACTIONS[action] != "labelmap";
        let rule = RelabelConfig {
            source_labels: if is_regex_only { Vec::new() } else { vec!["a".to_owned(), "__name__".to_owned()] },
            target_label: (!is_regex_only).then_some(target),
            regex: Some(regex),
            replacement: Some(replacement),
            modulus: (ACTIONS[action] == "hashmod").then_some(7),
            action: Some(ACTIONS[action].to_owned()),
            ..RelabelConfig::default()
        };
        if let Ok(rules) = Rules::compile(&[rule]) {
            let mut labels: Labels = [("a", value.as_str()), ("b", "x")].into_iter().collect();
            let mut name = "vllm:x".to_owned();
            if rules.series(&mut name, &mut labels) == Relabeled::Kept {
                proptest::prop_assert!(!name.is_empty());
                proptest::prop_assert!(labels.iter().all(|(label, value)| !label.is_empty() && value.len() <= relabel::MAX_VALUE_BYTES));
            }
        }
    }
}
