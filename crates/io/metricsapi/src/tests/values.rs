//! Bodies, byte for byte, and the store of latest values behind them.

use super::wire::Session;
use super::{Table, World};
use crate::selector::parse;
use crate::source::ServedSource;
use crate::{Described, MetricSource, Missing, Query, route};
use http::StatusCode;
use loadline_base::{Labels, Timestamp};
use loadline_net::Clock;
use loadline_signals::served::{Page, PageSource, Selector, Served, ServedLimits, ServedPod};
use std::sync::{Arc, RwLock};
use std::time::Duration;

#[tokio::test]
async fn bodies_of_each_version_are_exact() {
    let world = World::start(Arc::new(Table), |_| {});
    let mut session = Session::open_with(
        world.handle.local_addr(),
        &world.serving,
        Some(&world.clients.client("admin", &["system:masters"])),
        b"h2",
    )
    .await;
    for (path, expect) in [
        (
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ml/pods/o0/vllm%3Ax",
            r#"{"kind":"MetricValueList","apiVersion":"custom.metrics.k8s.io/v1beta2","metadata":{},"items":[{"describedObject":{"kind":"Pod","namespace":"ml","name":"o0","apiVersion":"/v1"},"metric":{"name":"vllm:x","selector":null},"timestamp":"2023-11-14T22:13:20Z","windowSeconds":1,"value":"850m"}]}"#,
        ),
        (
            "/apis/custom.metrics.k8s.io/v1beta1/namespaces/ml/pods/o0/vllm:x?metricLabelSelector=a%3Db%2C%21c",
            r#"{"kind":"MetricValueList","apiVersion":"custom.metrics.k8s.io/v1beta1","metadata":{},"items":[{"describedObject":{"kind":"Pod","namespace":"ml","name":"o0","apiVersion":"/v1"},"metricName":"vllm:x","timestamp":"2023-11-14T22:13:20Z","window":1,"value":"850m","selector":{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"c","operator":"DoesNotExist"}]}}]}"#,
        ),
        (
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ml/metrics/m",
            r#"{"kind":"MetricValueList","apiVersion":"custom.metrics.k8s.io/v1beta2","metadata":{},"items":[{"describedObject":{"kind":"Namespace","name":"o0","apiVersion":"/v1"},"metric":{"name":"m","selector":null},"timestamp":"2023-11-14T22:13:20Z","windowSeconds":1,"value":"850m"}]}"#,
        ),
        (
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/my-external-metric?labelSelector=foo+in+(bar)",
            r#"{"kind":"ExternalMetricValueList","apiVersion":"external.metrics.k8s.io/v1beta1","metadata":{},"items":[{"metricName":"my-external-metric","metricLabels":{"foo":"bar"},"timestamp":"2023-11-14T22:13:20Z","window":1,"value":"1500m"}]}"#,
        ),
    ] {
        let answer = session.get(path).await;
        assert_eq!(answer.text, expect, "{path}");
    }
    let answer =
        session.get("/apis/custom.metrics.k8s.io/v1beta1/namespaces/ml/pods/*/m?labelSelector=a%3Db%2Fc").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let message = answer.message();
    assert!(
        message.starts_with("parameter `labelSelector`: `a=b/c` is not a label selector: `b/c` is not a label value"),
        "{message}"
    );
    world.handle.shutdown().await;
}

const START: Timestamp = Timestamp::from_secs(1_700_000_000);

/// Three pods of one app; the third one's page was never read.
fn store(now: Timestamp) -> ServedSource {
    let mut served = Served::new(ServedLimits::default());
    let pod = |index: usize| ServedPod {
        namespace: "ml".to_owned(),
        name: format!("vllm-{index}"),
        labels: [("app", "vllm")].into_iter().collect(),
        is_ready: true,
        started_at: None,
    };
    served.set_pods((0..3).map(pod).collect());
    for (index, waiting) in [(0, 3), (1, 4)] {
        let page = format!(
            "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{{model_name=\"m\"}} {waiting}\n"
        );
        put(&mut served, now, &format!("vllm-{index}"), page.as_bytes());
    }
    served.failed(now, &PageSource::new("ml", "vllm-2"), "connection refused");
    let source = ServedSource::new(Arc::new(RwLock::new(served)));
    source.set_synced();
    source
}

fn put(served: &mut Served, now: Timestamp, pod: &str, bytes: &[u8]) {
    served.page(&Page::new(&PageSource::new("ml", pod), now, bytes)).expect("page");
}

fn read(source: &ServedSource, now: Timestamp, query: &Query<'_>) -> Result<Vec<(String, f64, Timestamp)>, Missing> {
    let name = |of: Described| match of {
        Described::Object { name, .. } => name.to_string(),
        Described::Labels(labels) => labels.to_string(),
    };
    Ok(source.read(now, query)?.into_iter().map(|value| (name(value.of), value.value, value.at)).collect())
}

#[test]
fn the_store_answers_each_kind_of_question() {
    let source = store(START);
    let all = Selector::all();
    let app = parse("app=vllm").expect("selector");
    let pods =
        |metric, selector| Query::Objects { resource: "pods", namespace: Some("ml"), selector, metric, series: &all };
    for metric in ["vllm:num_requests_waiting", "vllm_num_requests_waiting", "loadline:requests_waiting"] {
        let got = read(&source, START, &pods(metric, &app)).expect(metric);
        assert_eq!(got, [("vllm-0".to_owned(), 3.0, START), ("vllm-1".to_owned(), 4.0, START)], "{metric}");
    }
    let one = Query::Object {
        resource: "pod",
        namespace: Some("ml"),
        name: "vllm-1",
        metric: "vllm:num_requests_waiting",
        series: &all,
    };
    assert_eq!(read(&source, START, &one).expect("one"), [("vllm-1".to_owned(), 4.0, START)]);
    let other = parse("app=x").expect("selector");
    let refused: [(&str, Query<'_>, &str); 6] = [
        ("unknown metric", pods("vllm:num_requests_waitin", &app), "nearest: `vllm"),
        ("nothing selected", pods("vllm:num_requests_waiting", &other), "no pod matches"),
        (
            "never read",
            Query::Object {
                resource: "pods",
                namespace: Some("ml"),
                name: "vllm-2",
                metric: "vllm:num_requests_waiting",
                series: &all,
            },
            "connection refused",
        ),
        (
            "incomplete sum",
            Query::External { namespace: "ml", metric: "vllm:num_requests_waiting", selector: &app },
            "not summed",
        ),
        (
            "another resource",
            Query::Objects { resource: "services", namespace: Some("ml"), selector: &all, metric: "m", series: &all },
            "resource `services` is not served",
        ),
        (
            "pods without a namespace",
            Query::Objects { resource: "pods", namespace: None, selector: &all, metric: "m", series: &all },
            "pods are in namespaces",
        ),
    ];
    for (name, query, part) in refused {
        let error = read(&source, START, &query).expect_err(name).to_string();
        assert!(error.contains(part), "{name}: {error}");
    }
    let late = START.plus(Duration::from_secs(60));
    let error = read(&source, late, &pods("vllm:num_requests_waiting", &app)).expect_err("stale").to_string();
    assert!(error.contains("last scraped 60 s ago"), "{error}");
}

#[test]
fn sums_are_external_metrics_and_metrics_of_their_namespace() {
    let mut served = Served::new(ServedLimits::default());
    let labels: Labels = [("app", "vllm")].into_iter().collect();
    let pod = |name: &str| ServedPod {
        namespace: "ml".to_owned(),
        name: name.to_owned(),
        labels: labels.clone(),
        is_ready: true,
        started_at: None,
    };
    served.set_pods(vec![pod("a"), pod("b")]);
    put(&mut served, START, "a", b"q 1.5\n");
    put(&mut served, START, "b", b"q 2\n");
    let source = ServedSource::new(Arc::new(RwLock::new(served)));
    let (app, all) = (parse("app=vllm").expect("selector"), Selector::all());
    let sum = read(&source, START, &Query::External { namespace: "ml", metric: "q", selector: &app }).expect("sum");
    assert_eq!(sum, [("{app=\"vllm\"}".to_owned(), 3.5, START)]);
    let of = read(&source, START, &Query::Namespace { namespace: "ml", metric: "q", series: &all }).expect("sum");
    assert_eq!(of, [("ml".to_owned(), 3.5, START)]);
    let names = source.names();
    assert!(names.external.contains(&"q".to_owned()));
    assert!(names.custom.contains(&("pods".to_owned(), true, "q".to_owned())));
    assert!(names.custom.contains(&("namespaces".to_owned(), false, "q".to_owned())));
    assert!(!source.is_synced());
}

#[tokio::test]
async fn a_missing_metric_is_an_error_with_its_reason_on_the_wire() {
    let source = store(Clock::real().now());
    let world = World::start(Arc::new(source), |_| {});
    let mut session = world.master().await;
    let list = session.get("/apis/custom.metrics.k8s.io/v1beta2/namespaces/ml/pods/%2A/vllm%3Anum_requests_waiting?labelSelector=app%3Dvllm").await;
    assert_eq!(list.json()["items"].as_array().map(Vec::len), Some(2), "{}", list.text);
    for path in [
        "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ml/pods/*/nothing",
        "/apis/custom.metrics.k8s.io/v1beta1/namespaces/ml/deployments.apps/a/m",
        "/apis/external.metrics.k8s.io/v1beta1/namespaces/ml/vllm:num_requests_waiting",
    ] {
        let answer = session.get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}: {}", answer.text);
        assert!(answer.message().len() > 20, "{path}");
    }
    world.handle.shutdown().await;
}

proptest::proptest! {
    #[test]
    fn no_path_or_query_panics(path in "(/apis/(custom|external)[.]metrics[.]k8s[.]io/v1beta[123])?(/[a-z%0-9.*:+]{0,12}){0,8}", query in "(labelSelector=|watch=)?[a-z%0-9=&+,!()]{0,40}") {
        if let Ok(parts) = route::segments(&path) {
            let _ = route::route(&parts);
            let _ = route::attributes(&parts, query.contains("watch"));
        }
        for name in ["labelSelector", "watch"] {
            if let Ok(text) = route::parameter(Some(&query), name) {
                let _ = parse(&text);
            }
        }
    }

    #[test]
    fn a_path_of_any_bytes_is_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let _ = route::segments(text).map(|parts| (route::route(&parts), route::attributes(&parts, false)));
        }
    }
}
