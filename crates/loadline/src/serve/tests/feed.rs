use super::super::feed::PoolFeed;
use super::{pod, serving};
use loadline_base::{PoolId, Timestamp};
use loadline_cluster::{PodPhase, PodSeen};
use loadline_control::{Event, ReplicaEvent};

/// What a feed says of the states of one pod, one line per state.
fn said(states: &[Option<PodSeen>]) -> Vec<String> {
    let (mut feed, pool) = (PoolFeed::default(), PoolId::new("ml/chat"));
    states.iter().map(|state| words(feed.update(&pool, state.iter(), |_| Some(8_000)))).collect()
}

fn words(events: Vec<Event>) -> String {
    let word = |event: Event| match event {
        Event::Replica { replica, event } => {
            assert_eq!(replica.as_str(), "ml/chat-0");
            match event {
                ReplicaEvent::Started { address, .. } => format!("started {address}").trim_end().to_owned(),
                ReplicaEvent::Unschedulable { why } => format!("unschedulable {why}"),
                ReplicaEvent::Failed { why } => format!("failed {why}"),
                other => format!("{other:?}").to_lowercase(),
            }
        }
        other => panic!("{other:?}"),
    };
    events.into_iter().map(word).collect::<Vec<_>>().join(", ")
}

#[test]
fn only_differences_are_said() {
    let pending = pod("chat-0");
    let here = PodSeen { ip: Some([10, 244, 0, 7].into()), phase: PodPhase::Running, ..pending.clone() };
    let ready = serving("chat-0");
    let full = PodSeen { unschedulable: Some("0/2 nodes are available".into()), ..pending.clone() };
    let no_image = PodSeen { waiting: Some("ImagePullBackOff: no such image".into()), ..pending.clone() };
    let crashes = PodSeen { waiting: Some("CrashLoopBackOff: back-off 10s".into()), ..here.clone() };
    let leaves = PodSeen { deletion: Some(Timestamp::ZERO), ..ready.clone() };
    let ended = PodSeen { phase: PodPhase::Failed, ready: false, ..ready.clone() };
    let next = PodSeen { uid: "uid-2".into(), ..pending.clone() };
    struct Case {
        name: &'static str,
        states: Vec<Option<PodSeen>>,
        expect: &'static [&'static str],
    }
    let case = |name, states: &[Option<&PodSeen>], expect| Case {
        name,
        states: states.iter().map(|state| state.cloned()).collect(),
        expect,
    };
    for case in [
        case("nothing is said twice", &[Some(&ready), Some(&ready)], &["started 10.244.0.7:8000, ready", ""]),
        case(
            "an address that comes later is another start",
            &[Some(&pending), Some(&here), Some(&ready)],
            &["started", "started 10.244.0.7:8000", "ready"],
        ),
        case(
            "readiness comes and goes",
            &[Some(&ready), Some(&here), Some(&ready)],
            &["started 10.244.0.7:8000, ready", "notready", "ready"],
        ),
        case(
            "room is found",
            &[Some(&full), Some(&pending)],
            &["started, unschedulable 0/2 nodes are available", "scheduled"],
        ),
        case(
            "an image that cannot be pulled is no start",
            &[Some(&no_image)],
            &["started, unschedulable ImagePullBackOff: no such image"],
        ),
        case(
            "a crash loop stays one between its tries",
            &[Some(&crashes), Some(&here), Some(&ready)],
            &["started 10.244.0.7:8000, failed CrashLoopBackOff: back-off 10s", "", "ready"],
        ),
        case(
            "a pod on its way out ends",
            &[Some(&ready), Some(&leaves), None],
            &["started 10.244.0.7:8000, ready", "ending", "stopped"],
        ),
        case(
            "a pod that has ended is gone",
            &[Some(&ready), Some(&ended)],
            &["started 10.244.0.7:8000, ready", "stopped"],
        ),
        case(
            "a new pod under an old name",
            &[Some(&ready), Some(&next)],
            &["started 10.244.0.7:8000, ready", "stopped, started"],
        ),
    ] {
        assert_eq!(said(&case.states), case.expect, "{}", case.name);
    }
}
