//! What is going on, for the gateway's pages.

use loadline_gateway::{ProcessPages, Readiness};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Families on `/metrics`: name, type, help.
const LINK_UP: (&str, &str, &str) =
    ("loadline_gateway_link_up", "gauge", "1 while the writer of replica counts is connected.");
const LINKS: (&str, &str, &str) =
    ("loadline_gateway_link_connections_total", "counter", "Connections to a writer that came about.");
const WATCH_STALE: (&str, &str, &str) = (
    "loadline_gateway_watch_stale",
    "gauge",
    "1 while the API server does not answer and the pods are those seen last.",
);
const PROBLEMS: (&str, &str, &str) =
    ("loadline_gateway_problems", "gauge", "Autoscalers that are not served as they are written; /status names them.");
const REPLICAS: (&str, &str, &str) = (
    "loadline_gateway_replicas_known",
    "gauge",
    "Pods of the model, and those of them that were told to take requests.",
);

/// One model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ModelPicture {
    /// As clients name it.
    pub(crate) model: String,
    /// `namespace/autoscaler`.
    pub(crate) autoscaler: String,
    /// Pods seen.
    pub(crate) pods: usize,
    /// Of these, told to take requests.
    pub(crate) up: usize,
}

/// The state behind the pages.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    /// Where the connected writer listens.
    pub(crate) writer: Option<String>,
    /// Connections that came about.
    pub(crate) links: u64,
    /// Why the gateway is not ready, until it is.
    pub(crate) missing: Option<String>,
    /// The watches do not follow the cluster.
    pub(crate) is_stale: bool,
    /// Models.
    pub(crate) models: Vec<ModelPicture>,
    /// What is not served as it is written.
    pub(crate) problems: Vec<String>,
}

/// The same, shared with the pages.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedPicture(Arc<Mutex<Picture>>);

impl SharedPicture {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Picture> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `/status`, and more families on `/metrics`.
    pub(crate) fn pages(&self) -> ProcessPages {
        let shared = self.clone();
        ProcessPages(Arc::new(move |path| match path {
            "/metrics" => Some(("text/plain", shared.lock().metrics())),
            "/status" => Some(("application/json", shared.lock().status())),
            _ => None,
        }))
    }

    /// Ready once the watches have been synced; what happens later changes nothing.
    pub(crate) fn readiness(&self) -> Readiness {
        let shared = self.clone();
        Readiness(Arc::new(move || shared.lock().missing.clone()))
    }
}

impl Picture {
    fn status(&self) -> String {
        let models: Vec<_> = self
            .models
            .iter()
            .map(|m| serde_json::json!({"model": m.model, "autoscaler": m.autoscaler, "pods": m.pods, "up": m.up}))
            .collect();
        serde_json::json!({
            "writer": self.writer, "ready": self.missing.is_none(), "watchStale": self.is_stale, "models": models,
            "problems": self.problems,
        })
        .to_string()
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        let mut family = |(name, kind, help): (&str, &str, &str), samples: &[(String, String)]| {
            // writing to a string cannot fail
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let one = |value: String| [(String::new(), value)];
        family(LINK_UP, &one(u8::from(self.writer.is_some()).to_string()));
        family(LINKS, &one(self.links.to_string()));
        family(WATCH_STALE, &one(u8::from(self.is_stale).to_string()));
        family(PROBLEMS, &one(self.problems.len().to_string()));
        let replicas: Vec<_> = self
            .models
            .iter()
            .flat_map(|model| {
                let name = model.model.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                [("seen", model.pods), ("up", model.up)]
                    .map(|(state, count)| (format!("{{model=\"{name}\",state=\"{state}\"}}"), count.to_string()))
            })
            .collect();
        family(REPLICAS, &replicas);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_can_be_read() {
        let shared = SharedPicture::default();
        {
            let mut picture = shared.lock();
            picture.writer = Some("10.0.0.1:9".to_owned());
            picture.models =
                vec![ModelPicture { model: "a\"b".to_owned(), autoscaler: "ns/a".to_owned(), pods: 2, up: 1 }];
            picture.problems = vec!["x".to_owned()];
        }
        let pages = shared.pages();
        let text = (pages.0)("/metrics").expect("there").1;
        let options = loadline_signals::exposition::Options::default();
        let wanted = loadline_signals::exposition::WantedNames::all();
        let mut samples = 0;
        let summary = loadline_signals::exposition::scan(text.as_bytes(), &wanted, &options, |line| {
            samples += usize::from(matches!(line, loadline_signals::exposition::Line::Sample(_)));
        })
        .expect("a page");
        assert_eq!((summary.bad_lines, samples), (0, 6));
        let status: serde_json::Value = serde_json::from_str(&(pages.0)("/status").expect("there").1).expect("json");
        assert_eq!((&status["models"][0]["up"], &status["writer"]), (&1.into(), &"10.0.0.1:9".into()));
        assert!((pages.0)("/other").is_none());
    }
}
