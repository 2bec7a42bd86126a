//! The stack's own pages, served by the gateway: metrics of the loop, and its state as JSON at `/status`.

use super::driver::Snapshot;
use loadline_gateway::ProcessPages;
use std::fmt::Write;
use std::sync::Arc;
use tokio::sync::watch;

/// Laws the loop counts; the gateway counts its own (L5, L6, L7).
const LAWS: [&str; 5] = ["L1", "L2", "L3", "L4", "L8"];

/// Pages that show the newest snapshot.
pub(crate) fn pages(snapshots: watch::Receiver<Arc<Snapshot>>) -> ProcessPages {
    ProcessPages(Arc::new(move |path| {
        let snapshot = Arc::clone(&snapshots.borrow());
        match path {
            "/metrics" => Some(("text/plain", metrics(&snapshot))),
            "/status" => Some(("application/json", status(&snapshot))),
            _ => None,
        }
    }))
}

/// The state of every model with its last decision; an empty object cannot happen but would be valid.
fn status(snapshot: &Snapshot) -> String {
    serde_json::to_string(&serde_json::json!({ "models": snapshot.models, "scaled": snapshot.scaled }))
        .unwrap_or_else(|_| "{}".to_owned())
}

fn metrics(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, String)>| {
        // writing to a string cannot fail
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let each = |value: fn(&loadline_control::ModelStatus) -> u32| {
        snapshot.models.iter().map(|model| (label("model", model.model.as_str()), value(model).to_string())).collect()
    };
    family("loadline_replicas_desired", "gauge", "Replicas wanted.", each(|model| model.desired));
    family("loadline_replicas_ready", "gauge", "Replicas that serve.", each(|model| model.ready));
    family("loadline_replicas_starting", "gauge", "Replicas on their way.", each(|model| model.starting));
    family("loadline_replicas_draining", "gauge", "Replicas finishing what they have.", each(|model| model.draining));
    let blocked = |model: &loadline_control::ModelStatus| {
        u32::from(model.decision.as_ref().is_some_and(|decision| !decision.alarms.is_empty()))
    };
    family("loadline_cannot_act", "gauge", "1 while the autoscaler cannot decide freely (law L8).", each(blocked));
    let seconds = vec![(String::new(), snapshot.replica_time.as_secs_f64().to_string())];
    family("loadline_replica_seconds_total", "counter", "Time replicas existed, from creation to end.", seconds);
    let changes = vec![(String::new(), snapshot.scaled_total.to_string())];
    family("loadline_scale_events_total", "counter", "Changes of the wanted number of replicas.", changes);
    let count = |law: &str| snapshot.violations.get(law).copied().unwrap_or(0).to_string();
    let laws = LAWS.iter().map(|law| (label("law", law), count(law))).collect();
    family(
        "loadline_law_violations_total",
        "counter",
        "Broken laws of the control loop; anything but 0 is a defect.",
        laws,
    );
    text
}

fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{{{name}=\"{value}\"}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_can_be_read_and_shows_every_law_at_zero() {
        let text = metrics(&Snapshot::default());
        let mut laws = 0;
        let options = loadline_signals::exposition::Options::default();
        let wanted = loadline_signals::exposition::WantedNames::all();
        let summary = loadline_signals::exposition::scan(text.as_bytes(), &wanted, &options, |line| {
            if let loadline_signals::exposition::Line::Sample(sample) = line {
                laws += usize::from(sample.series.starts_with("loadline_law_violations_total"));
            }
        })
        .expect("a page");
        assert_eq!((summary.bad_lines, laws), (0, LAWS.len()));
    }

    #[test]
    fn the_status_is_json() {
        let value: serde_json::Value = serde_json::from_str(&status(&Snapshot::default())).expect("json");
        assert!(value["models"].is_array());
    }
}
