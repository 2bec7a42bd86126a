use super::*;
use crate::yaml::Limits;

fn read(text: &str) -> Result<ServeConfig, crate::Faults> {
    read_serve("serve.yaml", text, &Limits::default())
}

#[test]
fn an_empty_file_has_every_default() {
    let config = read("").expect("reads");
    assert_eq!(config, read("{}").expect("reads"));
    assert_eq!(config, read("# nothing\n").expect("reads"));
    assert_eq!(config.scrape.period, Duration::from_secs(1));
    assert_eq!(config.lease.duration, Duration::from_secs(15));
    assert_eq!(config.link_listen, "0.0.0.0:8443");
    assert!(config.discovery.hpas && !config.scrape.respect_monitor_interval && config.metrics_api.external);
    assert_eq!(
        config.metrics_api.certificate_names("llm"),
        ["loadline.llm.svc", "loadline.llm.svc.cluster.local"].map(str::to_owned)
    );
}

/// Written as a file, the table of defaults reads back to the defaults: no entry names a field that does not exist, and none
/// differs from what the reader fills in.
#[test]
fn the_table_of_defaults_is_what_the_reader_fills_in() {
    use crate::defaults::Setting;
    let mut written = std::collections::BTreeMap::<&str, Vec<String>>::new();
    for entry in defaults::TABLE.iter().filter(|entry| !matches!(entry.value, Setting::Unset(_))) {
        let (section, field) = entry.field.split_once('.').expect("every set default stands in a section");
        let quoted = matches!(entry.value, Setting::Text(_));
        let shown = if quoted { format!("\"{}\"", entry.shown()) } else { entry.shown() };
        written.entry(section).or_default().push(format!("  {field}: {shown}"));
    }
    let text: String = written.iter().map(|(section, fields)| format!("{section}:\n{}\n", fields.join("\n"))).collect();
    assert_eq!(read(&text).unwrap_or_else(|faults| panic!("{faults}\n{text}")), read("").expect("reads"));
}

#[test]
fn mistakes_are_named_with_their_mend() {
    struct Case {
        text: &'static str,
        expect: &'static str,
    }
    for case in [
        Case { text: "scrap: {}\n", expect: "serve.yaml:1:1: `scrap`: unknown field `scrap`; did you mean `scrape`?" },
        Case { text: "scrape:\n  period: 0\n", expect: "serve.yaml:2:3: `scrape.period`: must be longer than zero" },
        Case { text: "scrape: {period: 5}\n", expect: "`5` has no unit; write for example `5s`" },
        Case { text: "namespace: Team\n", expect: "serve.yaml:1:1: `namespace`: `Team` is no namespace" },
        Case { text: "namespaces: [team]\n", expect: "unknown field `namespaces`; did you mean `namespace`?" },
        Case {
            text: "lease: {duration: 10s}\n",
            expect: "`lease.duration`: is 10s, not longer than `lease.renewDeadline` 10s",
        },
        Case { text: "lease: {duration: 15500ms}\n", expect: "whole number of seconds" },
        Case { text: "lease: {retryPeriod: 10s}\n", expect: "`lease.renewDeadline`: is 10s, not longer" },
        Case { text: "kubernetes: {timeout: 10s}\n", expect: "`kubernetes.timeout`: is 10s, not shorter" },
        Case { text: "metricsApi: {listen: x}\n", expect: "`x` is not `host:port`; write for example `0.0.0.0:6443`" },
        Case { text: "metricsApi: {names: [A]}\n", expect: "`metricsApi.names[0]`: `A` is no host name" },
        Case { text: "tls: {validity: 5m}\n", expect: "is 5m; must be at least 1h" },
        Case { text: "limits: {pods: 0}\n", expect: "`limits.pods`: must be at least 1" },
        Case { text: "tls: {secret: \"\"}\n", expect: "`tls.secret`: `` is no object name" },
    ] {
        let faults = read(case.text).expect_err(case.text).to_string();
        assert!(faults.contains(case.expect), "{}: {faults}", case.text);
    }
}
