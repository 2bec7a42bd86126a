use super::*;
use loadline_policy::hpa::{Answer, Controller};

#[test]
fn answers_follow_the_order_of_the_manifest_and_missing_is_not_zero() {
    let manifest = "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: a}\nspec:\n  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: a}\n  maxReplicas: 9\n  metrics:\n  - {type: External, external: {metric: {name: q}, target: {type: AverageValue, averageValue: 1}}}\n  - {type: Pods, pods: {metric: {name: w}, target: {type: AverageValue, averageValue: 1}}}\n  - {type: External, external: {metric: {name: z}, target: {type: AverageValue, averageValue: 1}}}\n";
    let hpas = crate::hpa::read_hpas("m", manifest, &Limits::default()).expect("reads");
    let policy = crate::hpa::lower(&hpas[0].hpa, &Controller::default()).expect("lowers");
    let text = "replicas: 2\nmetrics:\n- {name: w, pods: {pod-0: 1500m}}\n- {name: q, values: [1, 2]}\nhistory: {recommendations: [{replicas: 3, age: 1m}]}\n";
    let observed = read_observed("o", text, &Limits::default()).expect("reads");
    let (seen, memory) = lower(&observed, &policy);
    let pool = &seen.pools[crate::hpa::POOL];
    assert_eq!((pool.spec_replicas, pool.status_replicas), (2, 2));
    let hpa = pool.hpa.as_ref().expect("kubernetes");
    assert_eq!(hpa.pods.len(), 2);
    assert_eq!(hpa.answers[0], Answer::External { values_milli: vec![1_000, 2_000] });
    assert!(matches!(&hpa.answers[1], Answer::Pods { pods } if pods.len() == 1 && pods[0].value_milli == 1_500));
    assert!(matches!(&hpa.answers[2], Answer::Failed { error } if error.contains("`z`")));
    let log = memory.pools[crate::hpa::POOL].hpa.recommendations.as_ref().expect("log");
    assert_eq!((log[0].at, log[0].replicas), (NOW.minus(Duration::from_secs(60)), 3));
}

#[test]
fn mistakes_are_named() {
    for (text, expect) in [
        ("replicas: 1\nmetrics:\n- {name: a}\n", "o:3:3: `metrics[0]`: has no answer"),
        ("metrics:\n- {name: a, value: 1, missing: true}\n", "o:2:3: `metrics[0]`: has several answers"),
        ("metrics:\n- {value: 1}\n", "o:2:3: `metrics[0]`: needs `name`"),
        ("replica: 1\n", "o:1:1: `replica`: unknown field `replica`; did you mean `replicas`?"),
        ("pods:\n- {name: a, age: 5}\n", "o:2:18: `pods[0].age`: expected text, found integer `5`"),
        (
            "pods:\n- {name: a, phase: Runing}\n",
            "o:2:20: `pods[0].phase`: unknown value `Runing`; did you mean `Running`?",
        ),
    ] {
        let message = read_observed("o", text, &Limits::default()).expect_err(text).to_string();
        assert!(message.starts_with(expect), "{message}\n{expect}");
    }
}
