//! The real binary on every example, against golden files in `testdata/explain/`. `UPDATE_GOLDEN=1` writes them anew.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadline")).current_dir(root()).args(arguments).output().expect("the binary runs")
}

fn explain(arguments: &[&str]) -> Output {
    run(&[&["explain"], arguments].concat())
}

struct Case {
    name: &'static str,
    manifest: &'static str,
    model: Option<&'static str>,
    current: u64,
    desired: u64,
}

const LOCAL: &str = "local-two-models";

/// Counts worked out by hand from the HPA algorithm.
const CASES: &[Case] = &[
    // ceil(12/5 * 1) = 3
    Case { name: "scale-up-on-waiting", manifest: "vllm-waiting-statefulset-hpa", model: None, current: 1, desired: 3 },
    // average 5.2 of 5 is within 10 %
    Case {
        name: "queue-within-tolerance",
        manifest: "sglang-queue-statefulset-hpa",
        model: None,
        current: 2,
        desired: 2,
    },
    // 9/5 over one reporting pod; the silent and the loading pod count as 0: (9+0+0)/3 = 3 of 5, the other side of 1, so it stays
    Case { name: "missing-pods", manifest: "vllm-waiting-deployment-hpa", model: None, current: 3, desired: 3 },
    // ceil(98/80 * 2) = 3
    Case { name: "gpu-pinned", manifest: "dcgm-utilization-hpa", model: None, current: 2, desired: 3 },
    // ceil(600/250 * 1) = 3, but 100 % of 1 in 15 s allows 2
    Case { name: "external-queue", manifest: "igw-dual-hpa", model: None, current: 1, desired: 2 },
    // ceil(5/5) = 1, but 5 was recommended two minutes ago
    Case { name: "stabilised-scale-down", manifest: "vllm-running-external-hpa", model: None, current: 5, desired: 5 },
    Case { name: "failed-metric", manifest: "igw-dual-hpa", model: None, current: 3, desired: 3 },
    // 100 % of 0 is 0
    Case { name: "from-zero", manifest: "igw-dual-zero-hpa", model: None, current: 0, desired: 0 },
    // ceil(72/11) = 7, but maxReplicas is 6
    Case { name: "local-burst", manifest: LOCAL, model: Some("chat"), current: 3, desired: 6 },
    // the replicas together ask for ceil(3/12) = 1; with a silent gateway nothing is lowered
    Case { name: "local-held-by-evidence", manifest: LOCAL, model: Some("code"), current: 4, desired: 4 },
    Case { name: "local-idle", manifest: LOCAL, model: Some("chat"), current: 1, desired: 0 },
    // ceil(8/11) = 1, and the silent replica counts as full beside it
    Case { name: "local-silent-replica", manifest: LOCAL, model: Some("chat"), current: 3, desired: 2 },
];

#[test]
fn every_example_is_explained_as_in_its_golden_file() {
    for case in CASES {
        let manifest = format!("examples/explain/{}.yaml", case.manifest);
        let observed = format!("examples/explain/{}.observed.yaml", case.name);
        let mut arguments = vec!["-f", &manifest, "--observed", &observed];
        arguments.extend(case.model.iter().flat_map(|model| ["--model", model]));
        let text = explain(&arguments);
        assert!(text.status.success(), "{}: {}", case.name, String::from_utf8_lossy(&text.stderr));
        arguments.extend(["-o", "json"]);
        let json = explain(&arguments);
        let report: serde_json::Value = serde_json::from_slice(&json.stdout).expect("one object");
        assert_eq!(
            (report["current"].as_u64(), report["desired"].as_u64()),
            (Some(case.current), Some(case.desired)),
            "{}: {report:#}",
            case.name
        );
        assert!(report["steps"].as_array().is_some_and(|steps| !steps.is_empty()), "{}", case.name);
        for (kind, output) in [("txt", text.stdout), ("json", json.stdout)] {
            golden(&format!("{}.{kind}", case.name), &String::from_utf8(output).expect("text"));
        }
    }
}

fn golden(name: &str, got: &str) {
    let path = root().join("testdata/explain").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, got).expect("written");
    }
    let want = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(got, want, "{name} differs; look at it, then run with UPDATE_GOLDEN=1");
}

#[test]
fn every_observed_example_has_a_case() {
    for entry in std::fs::read_dir(root().join("examples/explain")).expect("examples") {
        let file = entry.expect("entry").file_name().into_string().expect("utf-8");
        let known = match file.strip_suffix(".observed.yaml") {
            Some(name) => CASES.iter().any(|case| case.name == name),
            None => CASES.iter().any(|case| file == format!("{}.yaml", case.manifest)),
        };
        assert!(known, "{file} is not tested");
    }
}

#[test]
fn unreadable_input_exits_2_and_names_file_line_and_field() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let bad = folder.join("explain-bad.yaml");
    std::fs::write(&bad, "replicas: 1\nmetrcs: []\n").expect("written");
    let bad = bad.to_str().expect("utf-8");
    let hpa = "examples/explain/igw-dual-hpa.yaml";
    for (arguments, expect) in [
        (
            ["-f", hpa, "--observed", bad],
            "explain-bad.yaml:2:1: `metrcs`: unknown field `metrcs`; did you mean `metrics`?",
        ),
        (["-f", bad, "--observed", bad], "explain-bad.yaml:1:1: `kind`: `kind` is missing"),
        (["-f", "examples/explain/none.yaml", "--observed", bad], "`examples/explain/none.yaml` cannot be opened"),
    ] {
        let output = explain(&arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expect), "{message}\n{expect}");
    }
}

#[test]
fn every_configuration_in_examples_reads_without_a_warning() {
    let mut read = 0;
    for entry in std::fs::read_dir(root().join("examples")).expect("examples") {
        let path = entry.expect("entry").path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("text");
        let file = path.display().to_string();
        let limits = loadline_manifest::Limits::default();
        let loaded =
            loadline_manifest::config::read_config(&file, &text, &limits).unwrap_or_else(|faults| panic!("{faults}"));
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        let printed = loadline_manifest::config::print_config(&loaded.config);
        let again = loadline_manifest::config::read_config(&file, &printed, &limits)
            .unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(again.config, loaded.config);
        read += 1;
    }
    assert!(read >= 3);
}

#[test]
fn the_held_decision_names_what_is_not_known() {
    let manifest = format!("examples/explain/{LOCAL}.yaml");
    let observed = "examples/explain/local-held-by-evidence.observed.yaml";
    let output = explain(&["-f", &manifest, "--observed", observed, "--model", "code", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one object");
    let reason = report["reason"].as_str().expect("a reason");
    assert_eq!(reason, "4 kept rather than 1, too little is known: engine signals are live and the gateway is silent");
}

#[test]
fn the_model_and_the_kind_of_file_must_fit() {
    let local = format!("examples/explain/{LOCAL}.yaml");
    let (hpa, pods) = ("examples/explain/igw-dual-hpa.yaml", "examples/explain/missing-pods.observed.yaml");
    let burst = "examples/explain/local-burst.observed.yaml";
    for (arguments, expect) in [
        (vec!["-f", &local, "--observed", burst], "choose with `--model` one of chat, code"),
        (vec!["-f", &local, "--observed", burst, "--model", "x"], "has no model `x`; it has chat, code"),
        (vec!["-f", &local, "--observed", pods, "--model", "chat"], "`pods` is for a HorizontalPodAutoscaler"),
        (vec!["-f", hpa, "--observed", burst], "`replicaStates` and `gateway` are for a `loadline.yaml`"),
        (vec!["-f", hpa, "--observed", burst, "--model", "x"], "choose with `--name`"),
    ] {
        let output = explain(&arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expect), "{message}\n{expect}");
    }
}

#[test]
fn the_reference_pages_are_the_tables_and_the_commands() {
    golden_page("docs/reference/configuration.md", &loadline_manifest::configuration_page());
    golden_page("docs/reference/hpa-defaults.md", &loadline_manifest::hpa_defaults_page());
    let page = run(&["help-markdown"]);
    golden_page("docs/reference/cli.md", &String::from_utf8(page.stdout).expect("text"));
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        let script = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success() && script.contains("loadline") && script.contains("explain"), "{shell}");
    }
}

fn golden_page(path: &str, got: &str) {
    let path = root().join(path);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, got).expect("written");
    }
    assert_eq!(got, std::fs::read_to_string(&path).expect("page"), "run `cargo xtask codegen`");
}
