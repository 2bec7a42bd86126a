//! What is served, and what is not, by example.

use super::*;
use crate::dialect::{self, NamedQueries, NamedQuery};

pub(super) const NS: &str = "ai";

pub(super) fn secs(seconds: i64) -> Timestamp {
    Timestamp::from_secs(1_000_000 + seconds)
}

pub(super) fn pod(name: &str, app: &str) -> ServedPod {
    ServedPod {
        namespace: NS.to_owned(),
        name: name.to_owned(),
        labels: [("app", app), ("apps.kubernetes.io/pod-index", name)].into_iter().collect(),
        is_ready: true,
        started_at: Some(secs(-100)),
    }
}

fn served(names: &[&str]) -> Served {
    let mut served = Served::new(ServedLimits::default());
    served.set_pods(names.iter().map(|name| pod(name, "llm")).collect());
    served
}

fn put(served: &mut Served, at: i64, name: &str, text: &str) {
    served.page(&Page::new(&PageSource::new(NS, name), secs(at), text.as_bytes())).expect(text);
}

fn app(value: &str) -> Selector {
    Selector::equal([("app", value)])
}

/// Values of all pods with the label, or the reason.
fn ask(served: &Served, at: i64, metric: &str) -> Result<Vec<(String, f64)>, String> {
    let values = served.pods_metric(secs(at), NS, &app("llm"), metric, &Selector::all());
    values
        .map(|values| values.into_iter().map(|value| (value.pod.to_string(), value.value)).collect())
        .map_err(|none| none.to_string())
}

fn one(served: &Served, name: &str, metric: &str, selector: &Selector) -> Result<f64, String> {
    served.pod_metric(secs(1), NS, name, metric, selector).map(|value| value.value).map_err(|none| none.to_string())
}

#[test]
fn both_spellings_and_the_normalised_name_answer() {
    let mut served = served(&["a", "b"]);
    for (name, waiting) in [("a", 3), ("b", 4)] {
        let page =
            format!("# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{{engine=\"0\"}} {waiting}\n");
        put(&mut served, 0, name, &page);
    }
    for metric in [
        "vllm:num_requests_waiting",
        "vllm_num_requests_waiting",
        "loadline:requests_waiting",
        "loadline_requests_waiting",
    ] {
        let expect = vec![("a".to_owned(), 3.0), ("b".to_owned(), 4.0)];
        assert_eq!(ask(&served, 1, metric), Ok(expect), "{metric}");
        assert!(served.custom_names().contains(metric), "{metric}");
    }
    let sum = served.external(secs(1), NS, "vllm:num_requests_waiting", &app("llm")).expect("a sum");
    assert_eq!(
        sum,
        [ExternalValue { labels: [("app", "llm")].into_iter().collect(), value: 7.0, at: secs(0), pods: 2 }]
    );
    let reading = served.reading(secs(1), NS, "a").expect("fresh");
    assert_eq!(
        (reading.engine, reading.signals.get(&SignalName::RequestsWaiting)),
        (Some(EngineKind::Vllm), Some(&3.0))
    );
}

#[test]
fn several_series_of_a_pod_join_by_the_table() {
    let page = r#"vllm:num_requests_waiting{engine="0"} 3
vllm:num_requests_waiting{engine="1"} 4
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.75
sglang:num_queue_reqs{priority=""} 5
sglang:num_queue_reqs{priority="1"} 2
sglang:num_running_reqs{tp_rank="0"} 6
sglang:num_running_reqs{tp_rank="1"} 6
ttft_bucket{le="1"} 1
ttft_bucket{le="+Inf"} 2
ttft_sum 9
summary{quantile="0.5"} 1
summary{quantile="0.9"} 2
twice 1
other 0
twice 2
"#;
    let mut served = served(&["a"]);
    put(&mut served, 0, "a", page);
    let all = Selector::all();
    for (metric, selector, expect) in [
        ("vllm:num_requests_waiting", all.clone(), Ok(7.0)),
        ("vllm:num_requests_waiting", Selector::equal([("engine", "1")]), Ok(4.0)),
        ("vllm:kv_cache_usage_perc", all.clone(), Ok(0.75)),
        ("loadline:kv_cache_utilization", all.clone(), Ok(0.75)),
        ("sglang:num_queue_reqs", all.clone(), Ok(5.0)),
        ("sglang:num_queue_reqs", Selector::equal([("priority", "1")]), Ok(2.0)),
        ("sglang:num_running_reqs", all.clone(), Ok(6.0)),
        ("ttft_bucket", Selector::equal([("le", "1")]), Ok(1.0)),
        ("ttft_sum", all.clone(), Ok(9.0)),
        ("twice", all.clone(), Ok(2.0)),
        ("ttft_bucket", all.clone(), Err("differ in `le`")),
        ("summary", all.clone(), Err("differ in `quantile`")),
        ("ttft", all.clone(), Err("nearest: `ttft_sum`")),
        ("vllm:num_requests_waiting", Selector::equal([("engine", "7")]), Err("metric selector `engine=7`")),
        ("loadline:requests_waiting", Selector::equal([("engine", "0")]), Err("metric selector `engine=0`")),
    ] {
        match (one(&served, "a", metric, &selector), expect) {
            (Ok(value), Ok(expect)) => assert_eq!(value, expect, "{metric} {selector}"),
            (Err(reason), Err(part)) => assert!(reason.contains(part), "{metric}: {reason}"),
            (got, expect) => panic!("{metric} {selector}: {got:?} where {expect:?} was expected"),
        }
    }
}

#[test]
fn an_exporters_series_belong_to_the_pod_they_name() {
    let mut served = Served::new(ServedLimits::default());
    let exporter = ServedPod { namespace: "gpu".to_owned(), ..pod("dcgm", "exporter") };
    served.set_pods(vec![pod("a", "llm"), pod("b", "llm"), pod("c", "llm"), exporter.clone()]);
    let text = r#"DCGM_FI_DEV_GPU_UTIL{gpu="0",pod="a",namespace="ai"} 60
DCGM_FI_DEV_GPU_UTIL{gpu="1",pod="a",namespace="ai"} 90
DCGM_FI_DEV_GPU_UTIL{gpu="2",exported_pod="b",exported_namespace="ai",pod="dcgm",namespace="gpu"} 40
DCGM_FI_DEV_GPU_UTIL{gpu="3",pod="stranger",namespace="ai"} 70
DCGM_FI_DEV_GPU_UTIL{gpu="4",pod="",namespace=""} 10
up{pod="c",namespace="ai"} 1
"#;
    let source = PageSource::new("gpu", "dcgm");
    served.page(&Page::new(&source, secs(0), text.as_bytes())).expect("a page");
    put(&mut served, 0, "c", "up 5\n");
    let util = "DCGM_FI_DEV_GPU_UTIL";
    assert_eq!(ask(&served, 1, util), Ok(vec![("a".to_owned(), 90.0), ("b".to_owned(), 40.0)]));
    // what no existing pod owns stays with the exporter
    let own = served.pod_metric(secs(1), "gpu", "dcgm", util, &Selector::all()).expect("its own");
    assert_eq!(own.value, 70.0);
    assert_eq!(one(&served, "c", "up", &Selector::all()), Ok(5.0), "its own page goes before another's");
    // a restart of the pod ends what was said of its former life
    let again = ServedPod { started_at: Some(secs(0)), ..pod("a", "llm") };
    served.set_pods(vec![again, pod("b", "llm"), exporter]);
    assert_eq!(ask(&served, 1, util), Ok(vec![("b".to_owned(), 40.0)]));
    served.page(&Page::new(&source, secs(1), text.as_bytes())).expect("a page");
    assert_eq!(ask(&served, 1, util), Ok(vec![("a".to_owned(), 90.0), ("b".to_owned(), 40.0)]));
    served.set_pods(vec![pod("b", "llm")]);
    assert!(ask(&served, 1, util).is_err(), "the exporter is gone");
    assert_eq!((served.bytes(), served.shared_count(), served.claims.len()), (0, (0, 0), 0));
}

#[test]
fn a_sample_ends_after_ten_periods_with_its_pod_and_with_its_restart() {
    let mut served = served(&["a"]);
    put(&mut served, 0, "a", "x 1\n");
    let source = PageSource::new(NS, "a");
    assert_eq!(ask(&served, 10, "x"), Ok(vec![("a".to_owned(), 1.0)]));
    served.failed(secs(43), &source, "connection refused");
    served.failed(secs(5), &source, "older");
    let reason = "metric `x` has no value now: pod `a`: last scraped 43 s ago, limit 10 s: connection refused";
    assert_eq!(ask(&served, 43, "x"), Err(reason.to_owned()));
    let slow = Page { period: Duration::from_secs(15), ..Page::new(&source, secs(50), b"x 2\n") };
    served.page(&slow).expect("a page");
    assert_eq!(ask(&served, 200, "x"), Ok(vec![("a".to_owned(), 2.0)]));
    assert!(ask(&served, 201, "x").is_err());
    let not_newer = served.page(&slow).expect_err("the same page");
    assert!(not_newer.to_string().contains("not newer"), "{not_newer}");
    served.set_pods(vec![ServedPod { started_at: Some(secs(60)), ..pod("a", "llm") }]);
    assert_eq!(ask(&served, 60, "x"), Err("metric `x` has no value now: pod `a`: not scraped yet".to_owned()));
    put(&mut served, 61, "a", "x 3\n");
    served.set_pods(Vec::new());
    assert_eq!(
        ask(&served, 61, "x"),
        Err("no pod matches selector `app=llm` in namespace `ai`; 0 pods are known there".to_owned())
    );
    assert!(matches!(served.page(&Page::new(&source, secs(62), b"x 3\n")), Err(PageError::UnknownPod { .. })));
    assert_eq!(served.bytes(), 0);
}

#[test]
fn times_on_a_page_never_decide_about_age() {
    let mut served = served(&["a"]);
    // 1,000,000 s is the moment of the scrape: an hour behind, an hour ahead, a minute behind, a minute ahead
    let page = "behind 1 996400000\nahead 1 1003600000\nnear 1 999940000\nsoon 1 1000060000\nplain 1\n";
    put(&mut served, 0, "a", page);
    for (metric, at) in [("behind", 0), ("ahead", 0), ("near", -60), ("soon", 0), ("plain", 0)] {
        let value = served.pod_metric(secs(10), NS, "a", metric, &Selector::all()).expect(metric);
        assert_eq!(value.at, secs(at), "{metric}");
        assert!(served.pod_metric(secs(11), NS, "a", metric, &Selector::all()).is_err(), "{metric}");
    }
    let explained = served.explain(secs(1), NS, &app("llm"), "behind", &Selector::all());
    assert_eq!(explained.pods[0].series[0].clock_errors, 2);
}

#[test]
fn a_sum_of_survivors_is_never_given_for_a_sum() {
    let mut served = Served::new(ServedLimits::default());
    let pods = |b_ready| vec![pod("a", "llm"), ServedPod { is_ready: b_ready, ..pod("b", "llm") }, pod("w", "web")];
    served.set_pods(pods(true));
    let sum = |served: &Served, at: i64, selector: &Selector| {
        let values = served.external(secs(at), NS, "queue", selector);
        values.map(|values| values[0].value).map_err(|none| none.to_string())
    };
    let by_series = Selector::equal([("inference_pool", "y")]);
    for (name, text) in [("a", "queue{inference_pool=\"y\"} 1\nqueue{inference_pool=\"z\"} 5\n"), ("w", "up 1\n")] {
        put(&mut served, 0, name, text);
    }
    let reason = "metric `queue` is not summed: 1 of 2 ready pods have no value: pod `b`: not scraped yet";
    assert_eq!(sum(&served, 1, &app("llm")), Err(reason.to_owned()));
    assert_eq!(sum(&served, 1, &by_series), Err(reason.to_owned()));
    served.failed(secs(1), &PageSource::new(NS, "b"), "connection refused");
    assert!(
        sum(&served, 1, &app("llm"))
            .is_err_and(|why| why.ends_with("pod `b`: no page was read yet: connection refused"))
    );
    put(&mut served, 2, "b", "queue{inference_pool=\"y\"} 2\n");
    assert_eq!(sum(&served, 2, &app("llm")), Ok(8.0));
    assert_eq!(sum(&served, 2, &by_series), Ok(3.0));
    assert_eq!(sum(&served, 2, &Selector::equal([("app", "llm"), ("inference_pool", "z")])), Ok(5.0));
    assert_eq!(sum(&served, 2, &Selector::all()), Ok(8.0), "pods of another kind are not missing");
    put(&mut served, 3, "b", "queue{inference_pool=\"y\"} NaN\n");
    assert!(sum(&served, 3, &app("llm")).is_err_and(|why| why.contains("`queue{inference_pool=\"y\"}` is NaN")));
    put(&mut served, 4, "b", "up 1\n");
    assert!(sum(&served, 4, &app("llm")).is_err_and(|why| why.contains("pod `b`: the metric is not on its page")));
    served.set_pods(pods(false));
    assert_eq!(sum(&served, 4, &app("llm")), Ok(6.0), "a pod that is not ready is left out");
    assert!(sum(&served, 11, &app("llm")).is_err_and(|why| why.contains("1 of 1 ready pods")));
    assert!(sum(&served, 4, &app("nope")).is_err_and(|why| why.contains("no pod matches selector `app=nope`")));
    let none = sum(&served, 4, &Selector::equal([("inference_pool", "nope")])).expect_err("no such pool");
    assert!(none.contains("no series matches the metric selector `inference_pool=nope`"), "{none}");
}

#[test]
fn what_is_missing_is_named_with_the_nearest_name() {
    let mut served = served(&["a", "b"]);
    put(&mut served, 0, "a", "vllm:num_requests_waiting 1\n");
    assert_eq!(
        ask(&served, 1, "vllm:num_request_waiting"),
        Err("metric `vllm:num_request_waiting` is on no page of the 2 pods selected in namespace `ai` (1 without a fresh \
             page); nearest: `vllm:num_requests_waiting`"
            .to_owned())
    );
    assert_eq!(ask(&served, 1, "vllm:num_requests_waiting"), Ok(vec![("a".to_owned(), 1.0)]), "the other is left out");
    let unknown = one(&served, "z", "x", &Selector::all()).expect_err("no such pod");
    assert!(unknown.starts_with("metric `x`: pod `z`: no such pod is known"), "{unknown}");
}

#[test]
fn relabelling_renames_and_drops_once_per_series() {
    let mut served = served(&["a"]);
    let calls = std::cell::Cell::new(0);
    let rules = |name: &mut String, labels: &mut Labels| {
        calls.set(calls.get() + 1);
        if name == "secret" {
            return Keep::No;
        }
        *name = name.replace("old", "new");
        labels.insert("pool", "y");
        Keep::Yes
    };
    let source = PageSource::new(NS, "a");
    let query = NamedQuery { name: "new_x".to_owned(), matching: [("pool", "y")].into_iter().collect() };
    let named = NamedQueries::new(std::slice::from_ref(&query));
    for at in 0..3 {
        let text = format!("old_x{{a=\"b\"}} {at}\nsecret 1\nvllm:num_requests_waiting 4\n");
        let relabel = Some(Relabel { id: 7, apply: &rules });
        let page = Page { relabel, named: Some(&named), ..Page::new(&source, secs(at), text.as_bytes()) };
        let reading = served.page(&page).expect("a page");
        assert_eq!(reading.named.get(&query.key()), Some(&loadline_base::num::i64_to_f64(at)));
        assert_eq!(reading.value(SignalName::RequestsWaiting), Some(4.0));
    }
    assert_eq!(calls.get(), 3, "three series, each once");
    assert_eq!(one(&served, "a", "new_x", &Selector::equal([("pool", "y"), ("a", "b")])), Ok(2.0));
    for metric in ["old_x", "secret"] {
        assert!(one(&served, "a", metric, &Selector::all()).is_err(), "{metric}");
    }
    // without the rules the names are those of the page again
    put(&mut served, 9, "a", "old_x{a=\"b\"} 9\n");
    assert_eq!(
        one(&served, "a", "old_x", &Selector::all()),
        Err("metric `old_x` has no value now".to_owned()).or(Ok(9.0))
    );
}

#[test]
fn limits_are_reasons() {
    let limits = ServedLimits {
        max_pods: 2,
        max_endpoints_per_pod: 1,
        max_series_per_page: 2,
        max_bytes: 2_000,
        ..ServedLimits::default()
    };
    let mut served = Served::new(limits);
    assert_eq!(served.set_pods(vec![pod("a", "llm"), pod("b", "llm"), pod("c", "llm")]), 1);
    assert!(matches!(
        served.page(&Page::new(&PageSource::new(NS, "c"), secs(0), b"x 1\n")),
        Err(PageError::UnknownPod { .. })
    ));
    put(&mut served, 0, "a", "x 1\ny 2\nz 3\n");
    assert!(
        one(&served, "a", "z", &Selector::all())
            .is_err_and(|why| why.contains("1 series of it were left out (`max_series_per_page`)"))
    );
    let second = served.page(&Page::new(&PageSource::at(NS, "a", "other"), secs(0), b"x 1\n"));
    assert!(matches!(second, Err(PageError::TooManyEndpoints { limit: 1, .. })), "{second:?}");
    let before = served.bytes();
    let big = format!("x{{l=\"{}\"}} 1\n", "v".repeat(3_000));
    let refused = served.page(&Page::new(&PageSource::new(NS, "b"), secs(0), big.as_bytes()));
    assert!(matches!(refused, Err(PageError::TooManyBytes { limit: 2_000, .. })), "{refused:?}");
    assert_eq!(served.bytes(), before);
    assert!(one(&served, "b", "x", &Selector::all()).is_err_and(|why| why.contains("max_bytes")));
}

#[test]
fn what_cannot_be_read_changes_no_value() {
    let mut served = served(&["a"]);
    put(&mut served, 0, "a", "x 1\n");
    for (at, text) in [(1, "<html>"), (2, "{\"json\": 1}"), (3, "x 2\ny 3\n# EOF\n# EOF\nx"), (4, "prose only")] {
        let got = served.page(&Page::new(&PageSource::new(NS, "a"), secs(at), text.as_bytes()));
        match dialect::read(text.as_bytes(), None, &Limits::default()) {
            Err(error) => assert_eq!(got, Err(PageError::Unreadable(error)), "{text}"),
            Ok(_) => assert!(got.is_ok(), "{text}: {got:?}"),
        }
    }
    assert_eq!(ask(&served, 4, "x"), Ok(vec![("a".to_owned(), 2.0)]));
    let reason = ask(&served, 60, "x").expect_err("stale");
    assert!(reason.contains("last scraped 57 s ago, limit 10 s: line 1"), "{reason}");
    // an empty page is a page: its series are gone
    put(&mut served, 61, "a", "");
    assert_eq!(
        ask(&served, 61, "x"),
        Err("metric `x` is on no page of the 1 pod selected in namespace `ai`".to_owned())
    );
}
