//! From what the watches see of a pool's pods to what the control loop is told: only differences are said.

use loadline_base::{PoolId, ReplicaId, Timestamp};
use loadline_cluster::PodSeen;
use loadline_control::{Event, ReplicaEvent};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the loop was last told of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    uid: Arc<str>,
    created_at: Timestamp,
    address: String,
    stage: Stage,
}

/// A pod's stage as the loop knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Starting,
    Unplaced(Arc<str>),
    Ready,
    NotReady,
    Failed(Arc<str>),
    /// It is being deleted: it finishes what it has.
    Leaving,
}

/// What the loop was last told of the pods of one pool.
#[derive(Debug, Clone, Default)]
pub(crate) struct PoolFeed {
    told: BTreeMap<ReplicaId, Told>,
}

/// What a pod's containers wait for that starts nothing by waiting longer.
const PULL_FAILURES: [&str; 4] = ["ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError"];

/// The stage of a pod that has not ended.
fn stage_of(pod: &PodSeen, before: Option<&Stage>) -> Stage {
    if pod.deletion.is_some() {
        return Stage::Leaving;
    }
    if pod.serves() {
        return Stage::Ready;
    }
    let waits_for = |reasons: &[&str]| {
        pod.waiting.as_ref().filter(|why| reasons.iter().any(|reason| why.starts_with(reason))).cloned()
    };
    if let Some(why) = pod.unschedulable.clone().or_else(|| waits_for(&PULL_FAILURES)) {
        return Stage::Unplaced(why);
    }
    if let Some(why) = waits_for(&["CrashLoopBackOff"]) {
        return Stage::Failed(why);
    }
    match before {
        // between two tries of a crash loop it is no better than in its pauses
        Some(Stage::Failed(why)) => Stage::Failed(Arc::clone(why)),
        Some(Stage::Ready | Stage::NotReady) => Stage::NotReady,
        _ => Stage::Starting,
    }
}

/// The name of a pod's replica.
pub(crate) fn replica_of(pod: &PodSeen) -> ReplicaId {
    ReplicaId::new(pod.key.to_string())
}

impl PoolFeed {
    /// What changed since the last call: `pods` are all pods of the pool, `port` is where one serves.
    pub(crate) fn update<'a>(
        &mut self,
        pool: &PoolId,
        pods: impl Iterator<Item = &'a PodSeen>,
        port: impl Fn(&PodSeen) -> Option<u16>,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        let mut gone = std::mem::take(&mut self.told);
        for pod in pods.filter(|pod| !pod.is_over()) {
            let replica = replica_of(pod);
            let mut say = |event: ReplicaEvent| events.push(Event::Replica { replica: replica.clone(), event });
            let address = port(pod).and_then(|port| pod.address(port)).unwrap_or_default();
            let before = gone.remove(&replica);
            let is_same = before.as_ref().is_some_and(|told| told.uid == pod.uid);
            if before.is_some() && !is_same {
                // a StatefulSet's new pod has the name of the old one
                say(ReplicaEvent::Stopped);
            }
            let before = before.filter(|_| is_same);
            if before.as_ref().is_none_or(|told| told.address != address) {
                say(ReplicaEvent::Started { pool: pool.clone(), address: address.clone(), created_at: pod.created_at });
            }
            // another address is another start, of which the stage is not known yet
            let known = before.filter(|told| told.address == address).map(|told| told.stage);
            let stage = stage_of(pod, known.as_ref());
            if known.as_ref() != Some(&stage) {
                tell(&stage, known.as_ref(), &mut say);
            }
            self.told.insert(replica, Told { uid: Arc::clone(&pod.uid), created_at: pod.created_at, address, stage });
        }
        for replica in gone.into_keys() {
            events.push(Event::Replica { replica, event: ReplicaEvent::Stopped });
        }
        events
    }
}

/// Says what a stage means after the one before it.
fn tell(stage: &Stage, before: Option<&Stage>, say: &mut impl FnMut(ReplicaEvent)) {
    if matches!(before, Some(Stage::Unplaced(_))) && !matches!(stage, Stage::Unplaced(_) | Stage::Ready) {
        say(ReplicaEvent::Scheduled);
    }
    match stage {
        Stage::Ready => say(ReplicaEvent::Ready),
        Stage::NotReady => say(ReplicaEvent::NotReady),
        Stage::Leaving => say(ReplicaEvent::Ending),
        Stage::Unplaced(why) => say(ReplicaEvent::Unschedulable { why: why.to_string() }),
        Stage::Failed(why) => say(ReplicaEvent::Failed { why: why.to_string() }),
        Stage::Starting => {}
    }
}
