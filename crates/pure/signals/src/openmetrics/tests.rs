use super::validate;
use std::path::PathBuf;

/// Pages in which `|` stands for a line end; `# EOF` is added.
fn judge(page: &str) -> Result<(), String> {
    let page = format!("{}\n# EOF\n", page.replace('|', "\n"));
    validate(page.as_bytes()).map_err(|error| error.to_string())
}

#[test]
fn accepts_what_the_specification_allows() {
    for page in [
        "a 1",
        "a{} 1",
        "a +Inf|b -Inf|c NaN|d inf|e .5|f 5.",
        "# HELP a he\0lp|a 1",
        "# TYPE a summary|a_count 1|a_sum 2|a{quantile=\"0.5\"} 0.1|a{quantile=\"1\"} 0.2|a_created 1",
        "# TYPE a histogram|a_bucket{le=\"-1\"} 1|a_bucket{le=\"+Inf\"} 2",
        "# TYPE a gaugehistogram|a_bucket{le=\"-1\"} 1|a_bucket{le=\"+Inf\"} 2|a_gcount 2|a_gsum -5",
        "# TYPE a histogram|a_bucket{le=\"+Inf\",x=\"1\"} 2|a_bucket{x=\"2\",le=\"+Inf\"} 1",
        "# TYPE a histogram|a_bucket{le=\"+Inf\"} 1 1|a_count 1 1|a_sum 1 1|a_bucket{le=\"+Inf\"} 2 2|a_count 2 2|a_sum 3 2",
        "# TYPE a histogram",
        "# TYPE a stateset|a{a=\"x\"} 1|a{a=\"y\"} 0",
        "# TYPE a info|a_info{v=\"1\"} 1",
        "# TYPE a counter|a_total 1 -1.5|a_total 2 -1.4",
        "# TYPE a counter|a_total 1 1e3|a_total 2 1000.5",
        "# TYPE a counter|a_total 1 1600000000.000000001|a_total 2 1600000000.000000002",
        "# TYPE a counter|a_total 1 # {} -1 12.5",
        "# UNIT a_seconds seconds|# TYPE a_seconds gauge|a_seconds 1",
        "# TYPE a_total gauge|a_total 1",
        "# HELP a  two blanks|a 1",
    ] {
        assert_eq!(judge(page), Ok(()), "{page}");
    }
}

#[test]
fn refuses_with_the_place_and_the_rule() {
    for (page, want) in [
        ("a 1||b 1", "line 2, byte 4: blank lines"),
        ("a 1|# EOF|", "line 3, byte 10: blank lines|line 3, byte 10: nothing may follow"),
        ("# EOFx", "line 1, byte 0: expected `# HELP"),
        (" a 1", "line 1, byte 0: expected a metric name"),
        ("0a 1", "expected a metric name"),
        ("a-b 1", "expected one space"),
        ("a", "expected one space"),
        ("a  1", "expected a number"),
        ("a 1 ", "expected a timestamp"),
        ("a 1\r", "expected a number"),
        ("a +nan", "expected a number"),
        ("a 1_2", "expected a number"),
        ("a 1 1.1.1", "expected a timestamp"),
        ("a 1 2 3", "` # {`"),
        ("a{a=1} 1", "line 1, byte 3: expected `=\"`"),
        ("a{a=\"1\", b=\"2\"} 1", "label name"),
        ("a{:=\"1\"} 1", "label name"),
        ("a{__name__=\"1\"} 1", "reserved"),
        ("{\"a\"} 1", "metric name"),
        ("a 1|a 2", "repeated without a timestamp"),
        ("a{x=\"1\",y=\"2\"} 1|a{y=\"2\",x=\"1\"} 2", "repeated without a timestamp"),
        ("a 1|b 1|a 2", "line 4, byte 12: the family"),
        ("a{x=\"1\"} 1|a{x=\"2\"} 1|a{x=\"1\"} 1", "stand together"),
        ("a 0|a 0 0", "either all or no"),
        ("a 0 1600000000.000000002|a 0 1600000000.000000001", "backwards"),
        ("# TYPE a gauge|a 1|# HELP a x", "before the samples"),
        ("# TYPE a counter|# TYPE a counter", "at most one TYPE"),
        ("# HELP a |# HELP a ", "at most one HELP"),
        ("# UNIT a_s s|# UNIT a_s s", "at most one UNIT"),
        ("# TYPE a counter|a 1", "earlier family"),
        ("# TYPE a_created gauge|# TYPE a counter", "earlier family"),
        ("# TYPE a info|# TYPE b info|# TYPE a counter", "earlier family"),
        ("# UNIT a seconds", "does not end in its unit"),
        ("# UNIT seconds seconds", "does not end in its unit"),
        ("# TYPE a_s info|# UNIT a_s s", "takes no unit"),
        ("# TYPE a counter|a_created 1 # {a=\"b\"} 0.5", "exemplars"),
        ("# TYPE a histogram|a_sum 1 # {a=\"b\"} 0.5", "exemplars"),
        ("# TYPE a histogram|a_bucket{le=\"+Inf\"} 1# {} 1", "number"),
        ("# TYPE a histogram|a_bucket{le=\"+Inf\"} 1 #", "` # {`"),
        ("# TYPE a histogram|a_bucket{le=\"+Inf\"} 1 # {} 1 ", "timestamp"),
        ("# TYPE a histogram|a_bucket{le=\"+Inf\"} 1 # {} 1 1 ", "timestamp"),
        ("# TYPE a histogram|a_bucket{le=\"Inf\"} 1", "`le`"),
        ("# TYPE a histogram|a_bucket{le=\"NaN\"} 1", "`le`"),
        ("# TYPE a histogram|a_bucket{le=\"+Inf\"} 1.5", "whole"),
        ("# TYPE a histogram|a_sum{a=\"1\"} 0|a_sum{a=\"2\"} 0", "`+Inf`"),
        ("# TYPE a gaugehistogram|a_gsum 1", "`+Inf`"),
        ("# TYPE a gaugehistogram|a_bucket{le=\"+Inf\"} 0|a_gcount 1|a_gsum 0", "differs"),
        ("# TYPE a summary|a{quantile=\"NaN\"} 0", "from 0 to 1"),
        ("# TYPE a summary|a 0", "from 0 to 1"),
        ("# TYPE a stateset|a{a=\"x\"} 0.5", "0 or 1"),
        ("# TYPE a info|a_info 0", "is 1"),
    ] {
        let error = judge(page).expect_err(page);
        assert!(want.split('|').any(|want| error.contains(want)), "{page}: {error}");
    }
    assert!(validate(b"").expect_err("no EOF").to_string().contains("cut off"));
    assert!(validate(b"a 1\n").expect_err("no EOF").to_string().contains("line 1, byte 4"));
    assert!(
        validate(b"a 1\nb \xFF 1\n# EOF\n")
            .expect_err("utf-8")
            .to_string()
            .starts_with("line 2, byte 6: the line is not UTF-8")
    );
    assert!(validate(&vec![b' '; 9 << 20]).expect_err("size").to_string().contains("max_page_bytes"));
}

#[test]
#[expect(clippy::disallowed_methods, clippy::disallowed_macros, reason = "the cases are files outside the repository")]
fn decides_the_shared_cases() {
    let shared = std::env::var("LOADLINE_SHARED")
        .map_or_else(|_| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../../shared")), PathBuf::from);
    let Ok(folders) = std::fs::read_dir(shared.join("openmetrics")) else {
        eprintln!("skipped: `{}` has no `openmetrics` folder", shared.display());
        return;
    };
    let mut seen = 0;
    for folder in folders {
        let folder = folder.expect("folder").path();
        let (Ok(page), Ok(test)) = (std::fs::read(folder.join("metrics")), std::fs::read(folder.join("test.json")))
        else {
            continue;
        };
        let test: serde_json::Value = serde_json::from_slice(&test).expect("JSON");
        let should_parse = test.get("shouldParse").and_then(serde_json::Value::as_bool).expect("shouldParse");
        let verdict = validate(&page);
        assert_eq!(verdict.is_ok(), should_parse, "{}: {verdict:?}", folder.display());
        seen += 1;
    }
    assert!(seen > 0, "the folder has no case");
}

proptest::proptest! {
    #[test]
    fn never_panics(page in "([a-c#{}=\", \\\\\n0-9.]|# TYPE|_total|# EOF\n|histogram|le){0,80}") {
        let _ = validate(page.as_bytes());
    }
}
