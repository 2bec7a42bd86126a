//! The endpoint picker's names for what this gateway counts, in both generations (`reference/gateway.md` 3.2 and 3.3).
//!
//! The newer names are those of llm-d-router 0.9 and later, the older ones those of the Gateway API Inference Extension.

/// What a family counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    QueueSize,
    QueueBytes,
    QueueSeconds,
    Saturation,
    Outcomes,
    Requests,
    Errors,
    Running,
    RequestSeconds,
    FirstByteSeconds,
    ReadyEndpoints,
    MeanQueue,
    MeanRunning,
    EndpointInFlight,
}

/// The label set of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LabelSet {
    /// `fairness_id`, `priority`, `inference_pool`, `model_name`, `target_model_name`.
    Flow,
    /// `inference_pool` alone.
    Pool,
    /// `model_name`, `target_model_name`, `fairness_id`, `priority`.
    Request,
    /// `model_name` alone, in some older families.
    Model,
    /// `name` of the pool.
    Name,
    /// `endpoint_name`, `namespace`, `producer_name`, `fairness_id`, `priority`.
    Endpoint,
    /// `outcome`, `priority`, `inference_pool`.
    Outcome,
}

/// One name of one meaning.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) legacy: bool,
    pub(crate) meaning: Meaning,
    pub(crate) labels: LabelSet,
    pub(crate) kind: &'static str,
    pub(crate) help: &'static str,
}

const fn new(name: &'static str, meaning: Meaning, labels: LabelSet, kind: &'static str, help: &'static str) -> Family {
    Family { name, legacy: false, meaning, labels, kind, help }
}

const fn old(name: &'static str, meaning: Meaning, labels: LabelSet, kind: &'static str, help: &'static str) -> Family {
    Family { name, legacy: true, meaning, labels, kind, help }
}

/// Every family, in the order of the page.
pub(crate) const FAMILIES: &[Family] = &[
    new("llm_d_epp_flow_control_queue_size", Meaning::QueueSize, LabelSet::Flow, "gauge", "Requests held now."),
    old(
        "inference_extension_flow_control_queue_size",
        Meaning::QueueSize,
        LabelSet::Flow,
        "gauge",
        "Requests held now.",
    ),
    new("llm_d_epp_flow_control_queue_bytes", Meaning::QueueBytes, LabelSet::Flow, "gauge", "Bytes held now."),
    old(
        "inference_extension_flow_control_queue_bytes",
        Meaning::QueueBytes,
        LabelSet::Flow,
        "gauge",
        "Bytes held now.",
    ),
    new(
        "llm_d_epp_flow_control_request_queue_duration_seconds",
        Meaning::QueueSeconds,
        LabelSet::Flow,
        "histogram",
        "Time held of requests that got a slot.",
    ),
    old(
        "inference_extension_flow_control_request_queue_duration_seconds",
        Meaning::QueueSeconds,
        LabelSet::Flow,
        "histogram",
        "Time held of requests that got a slot.",
    ),
    new(
        "llm_d_epp_flow_control_pool_saturation",
        Meaning::Saturation,
        LabelSet::Pool,
        "gauge",
        "Share of the slots in use; 1 without a replica.",
    ),
    old(
        "inference_extension_flow_control_pool_saturation",
        Meaning::Saturation,
        LabelSet::Pool,
        "gauge",
        "Share of the slots in use; 1 without a replica.",
    ),
    new(
        "llm_d_epp_flow_control_requests_total",
        Meaning::Outcomes,
        LabelSet::Outcome,
        "counter",
        "Requests by what became of them in the queue.",
    ),
    new("llm_d_epp_request_total", Meaning::Requests, LabelSet::Request, "counter", "Requests read."),
    old("inference_objective_request_total", Meaning::Requests, LabelSet::Request, "counter", "Requests read."),
    new(
        "llm_d_epp_request_error_total",
        Meaning::Errors,
        LabelSet::Request,
        "counter",
        "Requests that ended with an error of the gateway.",
    ),
    old(
        "inference_objective_request_error_total",
        Meaning::Errors,
        LabelSet::Request,
        "counter",
        "Requests that ended with an error of the gateway.",
    ),
    new("llm_d_epp_request_running", Meaning::Running, LabelSet::Request, "gauge", "Requests in flight on replicas."),
    old(
        "inference_objective_running_requests",
        Meaning::Running,
        LabelSet::Model,
        "gauge",
        "Requests in flight on replicas.",
    ),
    new(
        "llm_d_epp_request_duration_seconds",
        Meaning::RequestSeconds,
        LabelSet::Request,
        "histogram",
        "Time from a request to the end of its answer.",
    ),
    old(
        "inference_objective_request_duration_seconds",
        Meaning::RequestSeconds,
        LabelSet::Request,
        "histogram",
        "Time from a request to the end of its answer.",
    ),
    new(
        "llm_d_epp_request_ttft_seconds",
        Meaning::FirstByteSeconds,
        LabelSet::Request,
        "histogram",
        "Time from a request to the head of its answer.",
    ),
    new("llm_d_epp_ready_endpoints", Meaning::ReadyEndpoints, LabelSet::Name, "gauge", "Replicas that take requests."),
    old("inference_pool_ready_pods", Meaning::ReadyEndpoints, LabelSet::Name, "gauge", "Replicas that take requests."),
    new(
        "llm_d_epp_average_queue_size",
        Meaning::MeanQueue,
        LabelSet::Name,
        "gauge",
        "Requests held per replica that takes requests.",
    ),
    old(
        "inference_pool_average_queue_size",
        Meaning::MeanQueue,
        LabelSet::Name,
        "gauge",
        "Requests held per replica that takes requests.",
    ),
    new(
        "llm_d_epp_average_running_requests",
        Meaning::MeanRunning,
        LabelSet::Name,
        "gauge",
        "Requests in flight per replica that takes requests.",
    ),
    old(
        "inference_pool_average_running_requests",
        Meaning::MeanRunning,
        LabelSet::Name,
        "gauge",
        "Requests in flight per replica that takes requests.",
    ),
    new(
        "llm_d_epp_inflight_requests",
        Meaning::EndpointInFlight,
        LabelSet::Endpoint,
        "gauge",
        "Requests in flight by replica.",
    ),
];
