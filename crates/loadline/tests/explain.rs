//! The real binary on every example, against golden files in `testdata/explain/`. `UPDATE_GOLDEN=1` writes them anew.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn explain(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadline"))
        .current_dir(root())
        .arg("explain")
        .args(arguments)
        .output()
        .expect("the binary runs")
}

struct Case {
    name: &'static str,
    manifest: &'static str,
    current: u64,
    desired: u64,
}

/// Counts worked out by hand from the HPA algorithm.
const CASES: &[Case] = &[
    // ceil(12/5 * 1) = 3
    Case { name: "scale-up-on-waiting", manifest: "vllm-waiting-statefulset-hpa", current: 1, desired: 3 },
    // average 5.2 of 5 is within 10 %
    Case { name: "queue-within-tolerance", manifest: "sglang-queue-statefulset-hpa", current: 2, desired: 2 },
    // 9/5 over one reporting pod; the silent and the loading pod count as 0: (9+0+0)/3 = 3 of 5, the other side of 1, so it stays
    Case { name: "missing-pods", manifest: "vllm-waiting-deployment-hpa", current: 3, desired: 3 },
    // ceil(98/80 * 2) = 3
    Case { name: "gpu-pinned", manifest: "dcgm-utilization-hpa", current: 2, desired: 3 },
    // ceil(600/250 * 1) = 3, but 100 % of 1 in 15 s allows 2
    Case { name: "external-queue", manifest: "igw-dual-hpa", current: 1, desired: 2 },
    // ceil(5/5) = 1, but 5 was recommended two minutes ago
    Case { name: "stabilised-scale-down", manifest: "vllm-running-external-hpa", current: 5, desired: 5 },
    Case { name: "failed-metric", manifest: "igw-dual-hpa", current: 3, desired: 3 },
    // 100 % of 0 is 0
    Case { name: "from-zero", manifest: "igw-dual-zero-hpa", current: 0, desired: 0 },
];

#[test]
fn every_example_is_explained_as_in_its_golden_file() {
    for case in CASES {
        let manifest = format!("examples/explain/{}.yaml", case.manifest);
        let observed = format!("examples/explain/{}.observed.yaml", case.name);
        let text = explain(&["-f", &manifest, "--observed", &observed]);
        assert!(text.status.success(), "{}: {}", case.name, String::from_utf8_lossy(&text.stderr));
        let json = explain(&["-f", &manifest, "--observed", &observed, "-o", "json"]);
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
fn the_reference_page_is_the_tables() {
    golden_page("docs/reference/defaults.md", &loadline_manifest::reference_page());
}

fn golden_page(path: &str, got: &str) {
    let path = root().join(path);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, got).expect("written");
    }
    assert_eq!(got, std::fs::read_to_string(&path).expect("page"), "run `cargo xtask codegen`");
}
