use super::super::report::{AutoscalerReport, status, time_text};
use super::at;
use loadline_base::Timestamp;
use loadline_manifest::autoscaler::Condition;

fn condition(report: &AutoscalerReport, kind: &str) -> Condition {
    let all = status(report).conditions;
    all.iter().find(|condition| condition.kind == kind).cloned().unwrap_or_else(|| panic!("no {kind} in {all:?}"))
}

#[test]
fn what_cannot_be_carried_out_says_so() {
    let refused = Some(("NotCarriedOut".to_owned(), "`spec.objective`: write `metrics`".to_owned()));
    let report = AutoscalerReport { generation: 7, refused, ..AutoscalerReport::default() };
    let found = condition(&report, "ScalingActive");
    assert_eq!((found.status.as_str(), found.reason.as_str()), ("False", "NotCarriedOut"));
    assert_eq!((found.observed_generation, status(&report).observed_generation), (Some(7), Some(7)));
    assert_eq!(status(&report).desired_replicas, None, "nothing is wanted where nothing is decided");
}

#[test]
fn another_autoscaler_of_the_same_target_is_named() {
    let alone = AutoscalerReport::default();
    assert_eq!(condition(&alone, "Conflict").status, "False");
    let who = "HorizontalPodAutoscaler ml/chat also scales Deployment ml/chat";
    let report = AutoscalerReport { conflicts: vec![who.to_owned()], ..AutoscalerReport::default() };
    assert!(condition(&report, "Conflict").message.contains(who));
    let able = condition(&report, "AbleToScale");
    assert!(able.status == "False" && able.message.contains(who), "{able:?}");
}

#[test]
fn advice_says_that_nothing_is_written() {
    let report = AutoscalerReport { is_advisory: true, ..AutoscalerReport::default() };
    let able = condition(&report, "AbleToScale");
    assert_eq!((able.status.as_str(), able.reason.as_str()), ("False", "Advisory"));
}

#[test]
fn alarms_are_a_condition_of_their_own_and_texts_have_a_bound() {
    assert_eq!(condition(&AutoscalerReport::default(), "Degraded").status, "False");
    let alarms = vec!["two replicas give no value".to_owned(), "\u{e9}".repeat(10_000)];
    let degraded = condition(&AutoscalerReport { alarms, ..AutoscalerReport::default() }, "Degraded");
    assert!(degraded.status == "True" && degraded.message.starts_with("two replicas give no value; "));
    let length = degraded.message.chars().count();
    assert!(length <= loadline_manifest::autoscaler::MAX_TEXT, "{length}");
}

#[test]
fn times_have_whole_seconds() {
    assert_eq!(time_text(Timestamp::from_nanos(1_795_600_000_900_000_000)), "2026-11-25T09:46:40Z");
    let report = AutoscalerReport { last_scale: Some(at(3)), ..AutoscalerReport::default() };
    assert_eq!(status(&report).last_scale_time.as_deref(), Some("2001-09-09T01:46:43Z"));
}
