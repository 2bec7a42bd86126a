//! `/metrics`, `/status`, `/healthz`, `/livez` and `/readyz` of `loadline serve`.

use super::certificates::{OURS, Registrations};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use loadline_base::{GatewayId, ModelId, Timestamp};
use loadline_control::ModelStatus;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use tokio::sync::watch;

/// What is going on, renewed often.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Picture {
    /// When it was taken.
    pub(crate) at: Timestamp,
    /// Whether this process writes.
    pub(crate) is_writer: bool,
    /// Who does.
    pub(crate) holder: Option<String>,
    /// Why the lease cannot be read or written.
    pub(crate) lease_error: Option<String>,
    /// Whether the watches have seen everything once.
    pub(crate) is_synced: bool,
    /// Since when the watches no longer follow the cluster.
    pub(crate) stale_since: Option<Timestamp>,
    /// Pods known.
    pub(crate) pods: usize,
    /// Pages read.
    pub(crate) endpoints: usize,
    /// Readings so far.
    pub(crate) pages_read: u64,
    /// Of them failed.
    pub(crate) scrape_errors: u64,
    /// Decisions made in this term as the writer.
    pub(crate) decisions: u64,
    /// Gateways connected, with what they serve.
    pub(crate) gateways: Vec<(GatewayId, Vec<ModelId>)>,
    /// Autoscalers that cannot be carried out, and why.
    pub(crate) refused: BTreeMap<String, String>,
    /// Scale changes by autoscaler.
    pub(crate) scaled: BTreeMap<String, u64>,
    /// Every model as the writer sees it; empty elsewhere.
    pub(crate) models: Vec<ModelStatus>,
    /// Broken laws, by id.
    pub(crate) laws: BTreeMap<String, u64>,
}

/// Laws the loop counts; gateways count their own (L5, L6, L7).
const LAWS: [&str; 5] = ["L1", "L2", "L3", "L4", "L8"];

#[derive(Clone)]
struct Pages {
    picture: watch::Receiver<Arc<Picture>>,
    registrations: watch::Receiver<Registrations>,
    api: Arc<dyn Fn() -> String + Send + Sync>,
}

/// What `/status` shows.
#[derive(Serialize)]
struct Status<'a> {
    #[serde(flatten)]
    picture: &'a Picture,
    /// What became of each registration of the metrics APIs, as the writer last saw it; empty elsewhere.
    api_services: &'a Registrations,
}

/// The routes; `api` is the text of the metrics APIs' own metrics.
pub(crate) fn router(
    picture: watch::Receiver<Arc<Picture>>,
    registrations: watch::Receiver<Registrations>,
    api: Arc<dyn Fn() -> String + Send + Sync>,
) -> Router {
    let alive = || async { "ok\n" };
    Router::new()
        .route("/healthz", get(alive))
        .route("/livez", get(alive))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .with_state(Pages { picture, registrations, api })
}

async fn ready(State(pages): State<Pages>) -> Response {
    if pages.picture.borrow().is_synced {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the watches have not seen every pod, autoscaler and target yet\n")
            .into_response()
    }
}

async fn status(State(pages): State<Pages>) -> Response {
    let picture = Arc::clone(&pages.picture.borrow());
    let api_services = pages.registrations.borrow().clone();
    match serde_json::to_string(&Status { picture: &picture, api_services: &api_services }) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn metrics(State(pages): State<Pages>) -> Response {
    let picture = Arc::clone(&pages.picture.borrow());
    let registered = registered(&pages.registrations.borrow());
    let text = exposition(&picture) + &registered + &(pages.api)();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// The text of `/metrics`, without that of the metrics APIs.
pub(super) fn exposition(picture: &Picture) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, String)>| {
        // writing to a string cannot fail
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let one = |value: u64| vec![(String::new(), value.to_string())];
    let count = |value: usize| one(u64::try_from(value).unwrap_or(u64::MAX));
    family(
        "loadline_writer",
        "gauge",
        "1 in the process that writes replica counts.",
        one(u64::from(picture.is_writer)),
    );
    let is_stale = u64::from(picture.stale_since.is_some());
    family("loadline_watch_stale", "gauge", "1 while the watches do not follow the cluster.", one(is_stale));
    family("loadline_pods", "gauge", "Pods known.", count(picture.pods));
    family("loadline_scrape_endpoints", "gauge", "Metrics pages that are read.", count(picture.endpoints));
    family("loadline_scrapes_total", "counter", "Metrics pages read, failures included.", one(picture.pages_read));
    family(
        "loadline_scrape_errors_total",
        "counter",
        "Metrics pages that could not be read.",
        one(picture.scrape_errors),
    );
    family("loadline_decisions_total", "counter", "Decisions of this process as the writer.", one(picture.decisions));
    family("loadline_gateways", "gauge", "Gateways connected to this process.", count(picture.gateways.len()));
    family(
        "loadline_autoscalers_refused",
        "gauge",
        "Autoscalers that cannot be carried out.",
        count(picture.refused.len()),
    );
    let each = |value: fn(&ModelStatus) -> u32| {
        picture
            .models
            .iter()
            .map(|model| (label("autoscaler", model.model.as_str()), value(model).to_string()))
            .collect()
    };
    family("loadline_replicas_desired", "gauge", "Replicas wanted.", each(|model| model.desired));
    family("loadline_replicas_ready", "gauge", "Replicas that serve.", each(|model| model.ready));
    family("loadline_replicas_starting", "gauge", "Replicas on their way.", each(|model| model.starting));
    family("loadline_replicas_draining", "gauge", "Replicas finishing what they have.", each(|model| model.draining));
    let blocked =
        |model: &ModelStatus| u32::from(model.decision.as_ref().is_some_and(|decision| !decision.alarms.is_empty()));
    family("loadline_cannot_act", "gauge", "1 while an autoscaler cannot decide freely (law L8).", each(blocked));
    let scaled = picture.scaled.iter().map(|(key, count)| (label("autoscaler", key), count.to_string())).collect();
    family("loadline_scale_events_total", "counter", "Replica counts written.", scaled);
    let broken = |law: &str| picture.laws.get(law).copied().unwrap_or(0).to_string();
    let laws = LAWS.iter().map(|law| (label("law", law), broken(law))).collect();
    family(
        "loadline_law_violations_total",
        "counter",
        "Broken laws of the control loop; anything but 0 is a defect.",
        laws,
    );
    text
}

/// Another provider behind a registration is a reason why HPAs do not see what is scraped here.
fn registered(registrations: &Registrations) -> String {
    let mut text = String::from(
        "# HELP loadline_api_service_registered 1 while a registration of the metrics APIs leads here, as the writer sees it.\n\
         # TYPE loadline_api_service_registered gauge\n",
    );
    for (name, said) in registrations {
        let labels = label("api_service", name);
        // writing to a string cannot fail
        let _ = writeln!(text, "loadline_api_service_registered{labels} {}", u8::from(said == OURS));
    }
    text
}

fn label(name: &str, value: &str) -> String {
    format!("{{{name}=\"{}\"}}", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
