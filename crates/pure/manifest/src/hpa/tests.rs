use super::*;
use crate::yaml::Limits;
use loadline_policy::hpa::{Controller, Gates, MetricSource};

const MANIFEST: &str = "apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: llm
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: StatefulSet, name: engine}
  maxReplicas: 3
  metrics:
  - type: External
    external:
      metric:
        name: queue
        selector: {matchLabels: {app: engine}}
      target: {type: AverageValue, averageValue: 5}
  behavior:
    scaleDown:
      stabilizationWindowSeconds: 300
---
apiVersion: v1
kind: Service
metadata: {name: other}
---
apiVersion: autoscaling/v1
kind: HorizontalPodAutoscaler
metadata: {name: old}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  maxReplicas: 2
  targetCPUUtilizationPercentage: 60
";

#[test]
fn a_file_of_several_kinds_is_read_and_lowered() {
    let documents = read_hpas("m.yaml", MANIFEST, &Limits::default()).expect("reads");
    assert_eq!(documents.iter().map(|d| d.hpa.metadata.name.as_str()).collect::<Vec<_>>(), ["llm", "old"]);
    for document in &documents {
        document.check(&Gates::default()).expect("valid");
    }
    let policy = lower(&documents[0].hpa, &Controller::default()).expect("lowers");
    let pool = &policy.pools[POOL];
    let loadline_policy::Rule::Hpa(rule) = &pool.rule;
    assert_eq!((pool.min_replicas, pool.max_replicas), (1, 3));
    assert_eq!(rule.metrics[0].target.average_value_milli, Some(5_000));
    let MetricSource::External { selector, .. } = &rule.metrics[0].source else { panic!("external") };
    let shown =
        "&LabelSelector{MatchLabels:map[string]string{app: engine,},MatchExpressions:[]LabelSelectorRequirement{},}";
    assert_eq!(selector.as_deref(), Some(shown));
    let behavior = rule.behavior.as_ref().expect("behavior");
    assert_eq!(behavior.scale_up, loadline_policy::hpa::Behavior::api_default().scale_up);
    assert_eq!(behavior.scale_down.stabilization_window_seconds, Some(300));
}

#[test]
fn the_table_agrees_with_the_policys_own_idea_of_the_defaults() {
    assert_eq!(behavior_of(Behavior::default()), loadline_policy::hpa::Behavior::api_default());
}

#[test]
fn faults_have_places() {
    struct Case {
        from: &'static str,
        to: &'static str,
        expect: &'static str,
    }
    for case in [
        Case {
            from: "  maxReplicas: 3",
            to: "  maxReplica: 3",
            expect: "m.yaml:7:3: `spec.maxReplica`: unknown field `maxReplica`; did you mean `maxReplicas`?",
        },
        Case {
            from: "autoscaling/v2",
            to: "autoscaling/v2beta2",
            expect: "m.yaml:1:1: `apiVersion`: `autoscaling/v2beta2` is not read; write `autoscaling/v2`",
        },
        Case {
            from: "HorizontalPodAutoscaler",
            to: "HorizontalPodAutoscalar",
            expect: "m.yaml:2:1: `kind`: unknown kind `HorizontalPodAutoscalar`; did you mean `HorizontalPodAutoscaler`?",
        },
        Case {
            from: "averageValue: 5",
            to: "averageValue: five",
            expect: "m.yaml:14:50: `spec.metrics[0].external.target.averageValue`: `five` is not a quantity",
        },
        Case {
            from: "stabilizationWindowSeconds: 300",
            to: "stabilizationWindowSeconds: 4000",
            expect: "m.yaml:17:7: `spec.behavior.scaleDown.stabilizationWindowSeconds`: Invalid value: 4000: must be less than or equal to 3600",
        },
        Case {
            from: "averageValue: 5",
            to: "averageValue: 0",
            expect: "m.yaml:14:36: `spec.metrics[0].external.target.averageValue`: Invalid value: \"0\": must be positive",
        },
    ] {
        let text = MANIFEST.replacen(case.from, case.to, 1);
        let message = match read_hpas("m.yaml", &text, &Limits::default()) {
            Err(fault) => fault.to_string(),
            Ok(documents) => documents[0].check(&Gates::default()).expect_err(case.to).to_string(),
        };
        assert!(message.starts_with(case.expect), "{message}\n{}", case.expect);
    }
}

#[test]
fn zero_needs_a_metric_that_can_wake() {
    let mut documents = read_hpas("m.yaml", MANIFEST, &Limits::default()).expect("reads");
    let mut hpa = documents.remove(0).hpa;
    hpa.spec.min_replicas = Some(0);
    assert_eq!(validate(&hpa, &Gates::default(), Operation::Create).len(), 1, "{:?}", hpa.spec.behavior);
    apply_defaults(&mut hpa);
    assert!(validate(&hpa, &Gates::default(), Operation::Create).is_empty());
    let off = Gates { scale_to_zero: false, ..Gates::default() };
    assert_eq!(validate(&hpa, &off, Operation::Create).len(), 1);
    assert!(validate(&hpa, &off, Operation::Update { old: &hpa }).is_empty());
    hpa.spec.metrics.clear();
    hpa.spec.min_replicas = None;
    apply_defaults(&mut hpa);
    hpa.spec.min_replicas = Some(0);
    let errors = validate(&hpa, &Gates::default(), Operation::Create);
    assert_eq!(errors.first().map(|error| error.path.as_str()), Some("spec.metrics"));
}

#[test]
fn memory_is_shown_in_binary_form() {
    for (resource, milli, text) in
        [("memory", 1_000, "1"), ("memory", 1_000_000, "1k"), ("memory", 1_024_000, "1Ki"), ("x", 200, "200m")]
    {
        assert_eq!(status_quantity(resource, milli).to_string(), text, "{resource} {milli}");
    }
}
