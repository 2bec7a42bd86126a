//! What a pod is seen as: container states, phase and conditions, as kubelet reports them.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) code: i32,
    pub(super) reason: String,
    pub(super) started: Timestamp,
    pub(super) finished: Timestamp,
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Waiting { reason: &'static str, message: String },
    Running { since: Timestamp },
    Ended(Ended),
}

/// One container as seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) state: State,
    pub(super) last: Option<Ended>,
    pub(super) restarts: u32,
    pub(super) is_started: bool,
    pub(super) is_ready: bool,
    /// A sidecar: an init container that goes on.
    pub(super) goes_on: bool,
}

impl Unit {
    pub(super) fn new(name: &str, image: &str, goes_on: bool) -> Self {
        let state = State::Waiting { reason: "PodInitializing", message: String::new() };
        Self {
            name: name.to_owned(),
            image: image.to_owned(),
            state,
            last: None,
            restarts: 0,
            is_started: false,
            is_ready: false,
            goes_on,
        }
    }

    fn ended(&self) -> Option<&Ended> {
        if let State::Ended(ended) = &self.state { Some(ended) } else { None }
    }

    fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    fn json(&self, is_init: bool) -> Value {
        let ended = |ended: &Ended| {
            json!({"terminated": {"exitCode": ended.code, "reason": ended.reason,
                "startedAt": second(ended.started), "finishedAt": second(ended.finished), "containerID": self.id()}})
        };
        let state = match &self.state {
            State::Waiting { reason, message } if message.is_empty() => json!({"waiting": {"reason": reason}}),
            State::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
            State::Running { since } => json!({"running": {"startedAt": second(*since)}}),
            State::Ended(how) => ended(how),
        };
        let is_done = is_init && !self.goes_on && self.ended().is_some_and(|how| how.code == 0);
        json!({
            "name": self.name, "image": self.image, "imageID": self.image, "containerID": self.id(),
            "state": state, "lastState": self.last.as_ref().map_or(json!({}), ended),
            "restartCount": self.restarts, "started": self.is_started, "ready": self.is_ready || is_done,
        })
    }

    fn id(&self) -> String {
        if matches!(self.state, State::Waiting { .. }) && self.last.is_none() {
            return String::new();
        }
        format!("process://{}/{}", self.name, self.restarts)
    }
}

/// A pod as its node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) started: Timestamp,
    pub(super) host_ip: String,
    pub(super) pod_ip: Option<String>,
    pub(super) init: Vec<Unit>,
    pub(super) main: Vec<Unit>,
    /// Every container has ended for good; the phase may be a final one.
    pub(super) is_over: bool,
    /// When each condition last changed, and to what.
    pub(super) turned: BTreeMap<&'static str, (bool, Timestamp)>,
}

impl Record {
    /// A pod that has just been given to its node.
    pub(super) fn new(pod: &Pod, host_ip: String, now: Timestamp) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let image = |one: &k8s_openapi::api::core::v1::Container| one.image.clone().unwrap_or_default();
        let init = spec.init_containers.iter().flatten();
        let init = init.map(|one| Unit::new(&one.name, &image(one), one.restart_policy.as_deref() == Some("Always")));
        let init: Vec<Unit> = init.collect();
        let mut main: Vec<Unit> = spec.containers.iter().map(|one| Unit::new(&one.name, &image(one), false)).collect();
        if init.is_empty() {
            for unit in &mut main {
                unit.state = State::Waiting { reason: "ContainerCreating", message: String::new() };
            }
        }
        Self { started: now, host_ip, pod_ip: None, init, main, is_over: false, turned: BTreeMap::new() }
    }

    /// The unit of a container by name.
    pub(super) fn unit(&mut self, name: &str) -> Option<&mut Unit> {
        self.main.iter_mut().chain(self.init.iter_mut()).find(|unit| unit.name == name)
    }

    fn is_initialized(&self) -> bool {
        self.init.iter().all(|unit| match &unit.state {
            State::Ended(ended) => ended.code == 0,
            _ => unit.goes_on && unit.is_started,
        })
    }

    fn are_containers_ready(&self) -> bool {
        !self.is_over
            && self.main.iter().all(|unit| unit.is_ready)
            && self.init.iter().filter(|unit| unit.goes_on).all(|unit| unit.is_ready)
    }

    /// Pending, Running, Succeeded or Failed.
    pub(super) fn phase(&self) -> &'static str {
        if self.is_over {
            let is_failed = |unit: &Unit| unit.ended().is_none_or(|ended| ended.code != 0);
            let init_failed = self.init.iter().any(|unit| !unit.goes_on && is_failed(unit));
            return if init_failed || self.main.iter().any(is_failed) { "Failed" } else { "Succeeded" };
        }
        let has_run = |unit: &Unit| unit.is_running() || unit.last.is_some() || unit.ended().is_some();
        if self.is_initialized() && self.main.iter().all(has_run) { "Running" } else { "Pending" }
    }

    /// The status object; conditions keep the time of their last change.
    pub(super) fn json(&mut self, pod: &Pod, now: Timestamp) -> Value {
        let is_initialized = self.is_initialized();
        let is_ready = self.are_containers_ready();
        let phase = self.phase();
        let not_ready: Vec<&str> =
            self.main.iter().filter(|unit| !unit.is_ready).map(|unit| unit.name.as_str()).collect();
        let message = format!("containers with unready status: [{}]", not_ready.join(" "));
        let why = match phase {
            "Succeeded" => ("PodCompleted", String::new()),
            "Failed" => ("PodFailed", String::new()),
            _ => ("ContainersNotReady", message),
        };
        let has_gates =
            pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_ref()).is_some_and(|all| !all.is_empty());
        let is_pod_ready = is_ready && (!has_gates || gates_hold(pod));
        let mut conditions = vec![
            self.condition("PodReadyToStartContainers", self.pod_ip.is_some() && !self.is_over, now, None),
            self.condition(
                "Initialized",
                is_initialized || phase == "Succeeded",
                now,
                Some(("ContainersNotInitialized", String::new())),
            ),
            self.condition("Ready", is_pod_ready, now, Some(why.clone())),
            self.condition("ContainersReady", is_ready, now, Some(why)),
        ];
        let scheduled = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        if !scheduled.into_iter().flatten().any(|one| one.type_ == "PodScheduled") {
            conditions.push(self.condition("PodScheduled", true, now, None));
        }
        let mut status = json!({
            "phase": phase,
            "hostIP": self.host_ip, "hostIPs": [{"ip": self.host_ip}],
            "startTime": second(self.started),
            "conditions": conditions,
            "containerStatuses": self.main.iter().map(|unit| unit.json(false)).collect::<Vec<_>>(),
            "qosClass": pod.status.as_ref().and_then(|status| status.qos_class.clone()),
        });
        if let Some(table) = status.as_object_mut() {
            if !self.init.is_empty() {
                let init: Vec<Value> = self.init.iter().map(|unit| unit.json(true)).collect();
                table.insert("initContainerStatuses".to_owned(), json!(init));
            }
            if let Some(ip) = &self.pod_ip {
                table.insert("podIP".to_owned(), json!(ip));
                table.insert("podIPs".to_owned(), json!([{"ip": ip}]));
            }
        }
        status
    }

    fn condition(&mut self, kind: &'static str, is_true: bool, now: Timestamp, why: Option<(&str, String)>) -> Value {
        let turned = self.turned.entry(kind).or_insert((is_true, now));
        if turned.0 != is_true {
            *turned = (is_true, now);
        }
        let at = second(turned.1);
        let status = if is_true { "True" } else { "False" };
        let (reason, message) = match why {
            Some((reason, message)) if !is_true => (json!(reason), json!(message)),
            _ => (Value::Null, Value::Null),
        };
        json!({"type": kind, "status": status, "lastTransitionTime": at, "lastProbeTime": null, "reason": reason, "message": message})
    }
}

fn gates_hold(pod: &Pod) -> bool {
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_ref());
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    gates.into_iter().flatten().all(|gate| {
        conditions.into_iter().flatten().any(|one| one.type_ == gate.condition_type && one.status == "True")
    })
}

/// The instant in whole seconds, as the API keeps them.
pub(super) fn second(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}, {"name": "b"}]}
        }))
        .unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn ended(code: i32) -> State {
        State::Ended(Ended { code, reason: "Error".to_owned(), started: at(1), finished: at(2) })
    }

    fn all_run(record: &mut Record) {
        record.unit("i").unwrap().state = ended(0);
        for name in ["s", "a", "b"] {
            let unit = record.unit(name).unwrap();
            unit.state = State::Running { since: at(1) };
            unit.is_started = true;
            unit.is_ready = true;
        }
    }

    #[test]
    fn phases_follow_the_containers() {
        struct Case {
            name: &'static str,
            set: fn(&mut Record),
            expect: (&'static str, bool, bool),
        }
        let run = |record: &mut Record, name: &str| {
            let unit = record.unit(name).unwrap();
            unit.state = State::Running { since: at(1) };
            unit.is_started = true;
            unit.is_ready = true;
        };
        let mut probe = Record::new(&pod(), "10.244.0.1".to_owned(), at(0));
        run(&mut probe, "a");
        assert_eq!(probe.phase(), "Pending");
        for case in [
            Case { name: "new", set: |_| {}, expect: ("Pending", false, false) },
            Case {
                name: "init failed once",
                set: |r| r.unit("i").unwrap().state = ended(1),
                expect: ("Pending", false, false),
            },
            Case { name: "all run", set: all_run, expect: ("Running", true, true) },
            Case {
                name: "one is not ready",
                set: |r| {
                    all_run(r);
                    r.unit("b").unwrap().is_ready = false;
                },
                expect: ("Running", true, false),
            },
            Case {
                name: "sidecar not ready",
                set: |r| {
                    all_run(r);
                    r.unit("s").unwrap().is_ready = false;
                },
                expect: ("Running", true, false),
            },
            Case {
                name: "crashed once",
                set: |r| {
                    all_run(r);
                    let u = r.unit("b").unwrap();
                    u.is_ready = false;
                    u.last = Some(Ended { code: 1, reason: String::new(), started: at(1), finished: at(2) });
                    u.state = State::Waiting { reason: "CrashLoopBackOff", message: String::new() };
                },
                expect: ("Running", true, false),
            },
            Case {
                name: "succeeded",
                set: |r| {
                    all_run(r);
                    r.unit("a").unwrap().state = ended(0);
                    r.unit("b").unwrap().state = ended(0);
                    r.is_over = true;
                },
                expect: ("Succeeded", true, false),
            },
            Case {
                name: "failed",
                set: |r| {
                    all_run(r);
                    r.unit("a").unwrap().state = ended(0);
                    r.unit("b").unwrap().state = ended(3);
                    r.is_over = true;
                },
                expect: ("Failed", true, false),
            },
        ] {
            let mut record = Record::new(&pod(), "10.244.0.1".to_owned(), at(0));
            (case.set)(&mut record);
            let got = (record.phase(), record.is_initialized(), record.are_containers_ready());
            assert_eq!(got, case.expect, "{}", case.name);
        }
    }

    #[test]
    fn conditions_keep_their_time() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}}))
                .unwrap();
        let mut record = Record::new(&pod, "10.244.0.1".to_owned(), at(100));
        let ready = |status: &Value| {
            let all = status["conditions"].as_array().unwrap().clone();
            all.into_iter().find(|one| one["type"] == "Ready").unwrap()
        };
        assert_eq!(ready(&record.json(&pod, at(100)))["lastTransitionTime"], "1970-01-01T00:01:40Z");
        assert_eq!(ready(&record.json(&pod, at(105)))["lastTransitionTime"], "1970-01-01T00:01:40Z");
        let unit = record.unit("a").unwrap();
        unit.state = State::Running { since: at(106) };
        unit.is_ready = true;
        let status = record.json(&pod, at(107));
        assert_eq!(ready(&status)["status"], "True");
        assert_eq!(ready(&status)["lastTransitionTime"], "1970-01-01T00:01:47Z");
        assert_eq!(status["phase"], "Running");
    }
}
