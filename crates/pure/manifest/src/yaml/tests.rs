use super::*;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Deserialize, PartialEq, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Outer {
    max_replicas: u32,
    metrics: Vec<Inner>,
    labels: BTreeMap<String, String>,
    mode: Option<Mode>,
}

#[derive(Debug, Deserialize, PartialEq, Default)]
#[serde(deny_unknown_fields, default)]
struct Inner {
    name: String,
    value: Option<loadline_base::Quantity>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Active,
    Advisory,
}

fn read(text: &str) -> Result<Outer, Fault> {
    let node = read_one("f.yaml", text, &Limits::default())?;
    from_node("f.yaml", &node)
}

#[test]
fn reads_values_nulls_and_anchors() {
    let text = "maxReplicas: 3\nmetrics: &m\n- {name: a, value: 5}\n- {name: b, value: \"500m\"}\nlabels: {x: \"1\"}\nmode: advisory\n";
    let outer = read(text).expect("reads");
    assert_eq!(outer.max_replicas, 3);
    assert_eq!(outer.metrics.len(), 2);
    assert_eq!(outer.metrics[1].value.map(|q| q.milli_value()), Some(500));
    assert_eq!(outer.mode, Some(Mode::Advisory));
    assert_eq!(read("maxReplicas: null\nmetrics: ~\nlabels:\n").expect("nulls are left out"), Outer::default());
}

#[test]
fn faults_name_place_field_and_what_to_do() {
    struct Case {
        text: &'static str,
        expect: &'static str,
    }
    for case in [
        Case {
            text: "maxReplicas: 3\nmaxReplica: 4\n",
            expect: "f.yaml:2:1: `maxReplica`: unknown field `maxReplica`; did you mean `maxReplicas`? (known are `maxReplicas`, `metrics`, `labels`, `mode`)",
        },
        Case {
            text: "metrics:\n- name: a\n- nmae: b\n",
            expect: "f.yaml:3:3: `metrics[1].nmae`: unknown field `nmae`; did you mean `name`? (known are `name`, `value`)",
        },
        Case {
            text: "metrics:\n- name: 7\n",
            expect: "f.yaml:2:9: `metrics[0].name`: expected text, found integer `7`; put it in quotes",
        },
        Case { text: "maxReplicas: -1\n", expect: "f.yaml:1:14: `maxReplicas`: expected u32, found integer `-1`" },
        Case {
            text: "metrics:\n- value: 1x\n",
            expect: "f.yaml:2:10: `metrics[0].value`: `1x` is not a quantity: write a number with an optional suffix such as `500m`, `2`, `1k` or `16Gi`",
        },
        Case {
            text: "mode: advisry\n",
            expect: "f.yaml:1:7: `mode`: unknown value `advisry`; did you mean `advisory`? (known are `active`, `advisory`)",
        },
        Case {
            text: "a: 1\n---\nb: 2\n",
            expect: "f.yaml:3:1: a second document starts here and only one is read; remove it or put it into a file of its own",
        },
        Case { text: "# nothing\n", expect: "f.yaml:1:1: the file is empty; write at least one field" },
    ] {
        let fault = read(case.text).expect_err(case.text);
        assert_eq!(fault.to_string(), case.expect);
    }
}

#[test]
fn duplicate_keys_broken_text_and_floods_are_refused_with_their_place() {
    let duplicate = read("maxReplicas: 1\nmetrics: []\nmaxReplicas: 2\n").expect_err("duplicate");
    assert_eq!((duplicate.at.line, duplicate.message.contains("twice")), (3, true), "{duplicate}");
    let broken = read("maxReplicas: [1\nmetrics: 3\n").expect_err("broken");
    assert!(broken.message.contains("not YAML"), "{broken}");
    let deep = "[".repeat(1_000);
    assert!(read(&deep).is_err());
    let flood = format!("a: &a [{}]\nb: &b [{}]\nc: &c [{}]\n", "1,".repeat(99), "*a,".repeat(99), "*b,".repeat(99));
    assert!(read_documents("f", &flood, &Limits::default()).is_err());
    let large = "x".repeat(MAX_BYTES + 1);
    assert!(read(&large).expect_err("large").message.contains("at most"));
}

#[test]
fn paths_are_located() {
    let node = read_one("f", "spec:\n  metrics:\n  - type: A\n  - type: B\n", &Limits::default()).expect("reads");
    for (path, line, column) in [
        ("spec", 1, 1),
        ("spec.metrics[1].type", 4, 5),
        ("spec.metrics[1].target", 4, 5),
        ("spec.metrics[7]", 2, 3),
        ("x", 1, 1),
    ] {
        assert_eq!(node.locate(path), Position { line, column }, "{path}");
    }
}

proptest::proptest! {
    #[test]
    fn nothing_panics(text in "[ -~\n]{0,200}") {
        let _ = read_documents("f", &text, &Limits::default());
    }
}
