use super::{BadLines, Format, Limits, Line, MetricKind, Options, Problem, Sample, WantedNames, scan};

fn samples(page: &str) -> Vec<Sample<'_>> {
    let mut seen = Vec::new();
    let options = Options { bad_lines: BadLines::Fail, ..Options::default() };
    scan(page.as_bytes(), &WantedNames::all(), &options, |line| {
        if let Line::Sample(sample) = line {
            seen.push(sample);
        }
    })
    .unwrap_or_else(|error| panic!("{page}: {error}"));
    seen
}

#[test]
fn reads_every_pitfall_of_real_pages() {
    for (line, name, labels, value) in [
        ("vllm:x{model_name=\"m\"} 2.0", "vllm:x", &[("model_name", "m")][..], 2.0),
        ("llamacpp:n 3", "llamacpp:n", &[], 3.0),
        ("a{le=\"0.0000025\"} 1", "a", &[("le", "0.0000025")], 1.0),
        (
            "a{p=\"\",q=\"[]{},/\"} 1.7953982912159526e+09",
            "a",
            &[("p", ""), ("q", "[]{},/")],
            1.795_398_291_215_952_6e9,
        ),
        ("a NaN", "a", &[], f64::NAN),
        ("a{} +Inf", "a", &[], f64::INFINITY),
        ("a -inf", "a", &[], f64::NEG_INFINITY),
        ("a 18446744073709551615", "a", &[], 18_446_744_073_709_551_615.0),
        ("a{v=\"q\\\"b\\\\n\\nz\\z\"} 1", "a", &[("v", "q\"b\\n\nz\\z")], 1.0),
        (" \ta { b = \"1\" , c=\"2\", } \t 1 \t", "a", &[("b", "1"), ("c", "2")], 1.0),
        ("{\"my.metric\",\"my.label\"=\"1\"} 1", "my.metric", &[("my.label", "1")], 1.0),
        ("{\"my \\\"m\\\"\"} 1", "my \"m\"", &[], 1.0),
        ("a{v=\"☃\"} 1", "a", &[("v", "☃")], 1.0),
    ] {
        for end in ["", "\n", "\r\n", "\n\n"] {
            let page = format!("{line}{end}");
            let seen = samples(&page);
            assert_eq!(seen.len(), 1, "{line}");
            assert_eq!(seen[0].name, name, "{line}");
            assert_eq!(seen[0].value.to_bits() & !(1 << 63), value.to_bits() & !(1 << 63), "{line}");
            let found: Vec<_> =
                seen[0].labels.iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
            let want: Vec<_> = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(found, want, "{line}");
        }
    }
}

#[test]
fn timestamps_and_exemplars_follow_the_format() {
    let nanos = |page: &str| samples(page)[0].timestamp.map(loadline_base::Timestamp::as_nanos);
    assert_eq!(nanos("a 1 1500"), Some(1_500_000_000));
    assert_eq!(nanos("a 1 1500.25\n# EOF\n"), Some(1_500_250_000_000));
    assert_eq!(nanos("a 1 -0.5\n# EOF"), Some(-500_000_000));
    assert_eq!(nanos("a 1 1.5e3\n# EOF"), Some(1_500_000_000_000));
    let page = "a_total{x=\"} # \"} 1 # {id=\"7 # \"} 0.5 12\n# EOF\n";
    let exemplar = samples(page)[0].exemplar.expect("exemplar");
    assert_eq!(exemplar.labels.get("id").as_deref(), Some("7 # "));
    assert_eq!((exemplar.value, exemplar.timestamp.expect("time").as_nanos()), (0.5, 12_000_000_000));
}

#[test]
fn lines_behind_the_end_of_an_open_metrics_page_are_told() {
    for (page, bad) in [
        ("a 1\n# EOF\nb 2\n# EOF\n", 1),
        ("a 1\n# EOF\nb 2\n# EOF\n\n", 1),
        ("a 1\n# EOF\n\n", 0),
        ("a 1\n# EOF\nb 2\n", 0),
        ("a 1\n# EOF of what\nb 2\n# EOF\n", 0),
    ] {
        for wanted in [WantedNames::all(), WantedNames::exact(["a", "b"]), WantedNames::exact(["none"])] {
            let summary = scan(page.as_bytes(), &wanted, &Options::default(), |_| {}).expect(page);
            assert_eq!(summary.bad_lines, bad, "{page}");
            assert!(summary.errors.iter().all(|error| (error.line, error.offset) == (2, 4)), "{page}");
        }
    }
}

#[test]
fn metadata_is_read() {
    let mut seen = Vec::new();
    let page = "# HELP a b \"c\"; d=\\\\e\\nf\n# TYPE a untyped\n# UNIT a \n#comment\n# TYPE b histogram \n\n";
    scan(page.as_bytes(), &WantedNames::all(), &Options::default(), |line| seen.push(line)).expect("page");
    assert_eq!(
        seen,
        [
            Line::Help { name: "a".into(), text: "b \"c\"; d=\\e\nf".into() },
            Line::Type { name: "a".into(), kind: MetricKind::Unknown },
            Line::Unit { name: "a".into(), unit: "" },
            Line::Type { name: "b".into(), kind: MetricKind::Histogram },
        ]
    );
}

#[test]
fn bad_lines_end_a_strict_scan_and_are_counted_by_a_tolerant_one() {
    for (line, offset) in [
        ("b{", 4 + 2),
        ("b{x} 1", 4 + 3),
        ("b{x=1} 1", 4 + 4),
        ("b{x=\"1\"y=\"2\"} 1", 4 + 7),
        ("b", 4 + 1),
        ("b 0x1p-3", 4 + 2),
        ("b 1_0", 4 + 2),
        ("b 1 1.5", 4 + 4),
        ("b 1 2 3", 4 + 6),
        ("7b 1", 4),
        ("b{x=\"1} 1", 4 + 9),
    ] {
        let page = format!("a 1\n{line}\nc 3\n");
        let strict = Options { bad_lines: BadLines::Fail, ..Options::default() };
        let error = scan(page.as_bytes(), &WantedNames::all(), &strict, |_| {}).expect_err(line);
        assert_eq!((error.line, error.offset), (2, offset), "{line}: {error}");
        let summary = scan(page.as_bytes(), &WantedNames::all(), &Options::default(), |_| {}).expect(line);
        assert_eq!((summary.samples, summary.bad_lines, summary.errors), (2, 1, vec![error]), "{line}");
    }
}

#[test]
fn what_is_no_metrics_page_is_one_clear_error() {
    for (page, what) in [
        ("<!doctype html>\n<html></html>", "HTML"),
        ("{\"requests\": 1}", "JSON"),
        ("[1, 2]\n", "JSON"),
        ("404 page not found\n", "text without a single metric line"),
        ("\u{1}\u{2}a", "binary"),
    ] {
        let error = scan(page.as_bytes(), &WantedNames::exact(["x"]), &Options::default(), |_| {}).expect_err(page);
        assert!(
            matches!(error.problem, Problem::NotMetrics { what: found } if found.contains(what)),
            "{page}: {error}"
        );
    }
    assert_eq!(scan(b"", &WantedNames::all(), &Options::default(), |_| {}).expect("empty").samples, 0);
    let open = Options { format: Format::OpenMetrics, ..Options::default() };
    let error = scan(b"a 1\n", &WantedNames::all(), &open, |_| {}).expect_err("cut off");
    assert_eq!(error.problem, Problem::Truncated);
}

#[test]
fn hostile_pages_meet_a_bound() {
    let limits = Limits { max_page_bytes: 200 << 20, ..Limits::default() };
    let scan_with = |page: &str, limits| {
        let options = Options { limits, ..Options::default() };
        scan(page.as_bytes(), &WantedNames::all(), &options, |_| {})
    };
    let error = scan_with(&"a 1\n".repeat(25 << 20), Limits::default()).expect_err("100 MB");
    assert!(matches!(error.problem, Problem::PageTooLarge { .. }));
    let error = scan_with(&"a 1\n".repeat(200_001), limits).expect_err("samples");
    assert_eq!(error.problem, Problem::TooManySamples { limit: 200_000 });
    let long = format!("a 1\na{{x=\"{}\"}} 1\nb 1\n", "\\\\".repeat(1 << 20));
    let summary = scan_with(&long, limits).expect("page");
    assert_eq!((summary.samples, summary.bad_lines), (2, 1));
    let many = format!("a 1\na{{{}}} 1\n", "x=\"1\",".repeat(1_000));
    let summary = scan_with(&many, limits).expect("page");
    assert_eq!(summary.errors[0].problem, Problem::TooManyLabels { limit: 64 });
    let summary = scan_with(&format!("a 1\n{}", "?\n".repeat(100_000)), limits).expect("page");
    assert_eq!((summary.bad_lines, summary.errors.len()), (100_000, 8));
}

#[test]
fn wanted_names_match_every_spelling() {
    let wanted = WantedNames::families(["vllm:prompt_tokens_total", "vllm:ttft"]);
    for name in [
        "vllm:prompt_tokens_total",
        "vllm_prompt_tokens",
        "ray_vllm_prompt_tokens_total",
        "vllm_ttft_bucket",
        "vllm:ttft_created",
    ] {
        assert!(wanted.wants(name), "{name}");
    }
    for name in ["vllm:ttft2", "vllm:ttf", "prompt_tokens_total", "", "vllm.ttft"] {
        assert!(!wanted.wants(name), "{name}");
    }
    assert!(!WantedNames::exact(["a"]).wants("a_total"));
}
