//! The spec. A comment on a field is its description in the API.

use super::{IntOrString, QuantityText};
use crate::config::{EngineKind, Span};
use crate::hpa::{
    Behavior, ContainerResourceSource, CrossVersionObjectReference, ExternalSource, MetricTarget, ObjectMeta,
    ObjectSource, PodsSource, ResourceSource,
};
use loadline_base::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An autoscaler of one model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceAutoscaler {
    /// `loadline.dev/v1alpha1`.
    pub api_version: String,
    /// `InferenceAutoscaler`.
    pub kind: String,
    /// Name and namespace.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: InferenceAutoscalerSpec,
    /// What Loadline last wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<super::InferenceAutoscalerStatus>,
}

/// What is wanted: one scale target with its limits (or several as `pools`), what is measured, and how fast to go.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceAutoscalerSpec {
    /// The model as clients name it in requests to the gateway; the name of this object where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What is scaled: an object of this namespace with a scale subresource, such as a Deployment, a StatefulSet or a LeaderWorkerSet. Either this or `pools`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_target_ref: Option<CrossVersionObjectReference>,
    /// The least number of replicas. 0 needs `idle`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<u32>,
    /// The greatest number of replicas. Needed with `scaleTargetRef`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<u32>,
    /// Several targets that serve one model, such as prefill and decode, each with limits of its own. Every metric is looked at per pool, over the pods of that pool. Instead of `scaleTargetRef`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolSpec>,
    /// `Active` writes to the scale target. `Advisory` decides and reports in status, and never writes; it may stand beside a HorizontalPodAutoscaler.
    pub mode: Mode,
    /// How the pods' metrics pages are read. Where unset: from a PodMonitor or ServiceMonitor that selects the pods, else from the annotations `loadline.dev/*` or `prometheus.io/*`, else from the first named port of `metrics`, `http-metrics`, `http` at `/metrics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrape: Option<ScrapeSpec>,
    /// The Loadline gateway in front of the model, which holds requests while no replica serves. Its counts are the demand, and the proof of idleness.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayRef>,
    /// Latency to keep, instead of `metrics`. Not carried out yet: the condition `ScalingActive` says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<Objective>,
    /// What is measured and what it should be; the largest proposal holds. Where empty: with `gateway` the signal `requests_demand` at 70 percent of `gateway.slots` per replica, without one the signal `requests_waiting` at 3 per replica.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<MetricSpec>,
    /// How fast to go, as in autoscaling/v2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behavior: Option<Behavior>,
    /// When to go to zero; needed with `minReplicas: 0`, without effect else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdleSpec>,
    /// Times of the week with a higher least number of replicas; where several hold, the highest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<Schedule>,
    /// What to run when nothing can be measured. Where unset, the number of replicas is left as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// GPUs that one replica takes from the budget of all autoscalers; 0 where unset: this one is not in the budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus_per_replica: Option<u32>,
    /// How long a start is expected to take until one has been seen; 2m where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Span>,
    /// How long a replica may finish the requests it has before it is removed, where a gateway is in front; 10m where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_timeout: Option<Span>,
}

/// One of several targets.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolSpec {
    /// Name of the pool, all different within one autoscaler.
    pub name: String,
    /// What its replicas do, for people: `prefill`, `decode`, or any other word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// What is scaled, an object of this namespace with a scale subresource.
    pub scale_target_ref: CrossVersionObjectReference,
    /// The least number of replicas; 1 where unset. 0 needs `idle`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<u32>,
    /// The greatest number of replicas.
    pub max_replicas: u32,
    /// What one replica costs, in any unit that is the same for all pools. Noted, and not weighed yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<QuantityText>")]
    pub cost: Option<Quantity>,
}

/// Whether decisions are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// They are.
    #[default]
    Active,
    /// They are reported only.
    Advisory,
}

/// How a metrics page is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// In the clear.
    #[default]
    Http,
    /// Over TLS.
    Https,
}

/// How the pods' metrics pages are read; wins over monitors and annotations.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ScrapeSpec {
    /// Port of the page, by number or by the name of a container port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<IntOrString>,
    /// Path of the page; `/metrics` where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `http` or `https`; `http` where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// Whose names the page has; `auto` where unset: the page says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineKind>,
    /// How often each page is read; the period of `loadline serve` (1s) where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// Secret of this namespace with a bearer token. Loadline must have been allowed to read it (`scrape.tokenNamespaces` of the chart).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearer_token_secret: Option<KeyRef>,
    /// How the page's certificate is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ScrapeTls>,
}

/// One key of a Secret or ConfigMap of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KeyRef {
    /// Name of the object.
    pub name: String,
    /// The key within it.
    pub key: String,
}

/// How a page's certificate is checked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ScrapeTls {
    /// Certificates of the authorities that are trusted; those of the image where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<CaRef>,
    /// Take any certificate. The page, and a bearer token sent with the request, are then not safe from others on the network.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_verify: bool,
    /// The name that the certificate must have; the pod's address where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// Where the certificates of authorities stand, in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CaRef {
    /// In a Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<KeyRef>,
    /// In a ConfigMap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map: Option<KeyRef>,
}

/// The gateway in front of the model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayRef {
    /// Name of the gateway of this namespace (`loadline gateway --name`).
    pub name: String,
    /// Requests that one replica has in flight at most; further ones are held at the gateway. 32 where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// How long a request is held while no replica serves; the gateway's own setting where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold_wait: Option<Span>,
    /// How long a request is held for a free slot; the gateway's own setting where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saturated_wait: Option<Span>,
    /// Whether held streams get SSE comments, so that proxies do not cut them; `true` where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<bool>,
    /// The replicas' serving port, by number or by the name of a container port; where unset the port named `http`, else the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<IntOrString>,
}

/// Latency to keep.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Objective {
    /// Time to the first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft: Option<Span>,
    /// Time per output token after the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpot: Option<Span>,
    /// Of all requests, the percentage whose latency counts, such as 95.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percentile: Option<u32>,
    /// The fraction of requests that keep the objective, such as `0.99`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<QuantityText>")]
    pub attainment: Option<Quantity>,
}

/// One metric: the source that `type` names, as in autoscaling/v2, or `Signal`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricSpec {
    /// Which source: `Signal`, `Pods`, `External`, `Resource`, `ContainerResource` or `Object`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A signal that has the same name for every engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<SignalSource>,
    /// A series of the pods' own pages, averaged over pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodsSource>,
    /// A count of the gateway by its name, or a metric of external.metrics.k8s.io.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalSource>,
    /// Usage of cpu or memory by whole pods, from metrics.k8s.io.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceSource>,
    /// Usage of cpu or memory by one container of each pod, from metrics.k8s.io.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_resource: Option<ContainerResourceSource>,
    /// A metric of one other object. Not carried out: the condition `ScalingActive` says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectSource>,
}

/// A signal and its target.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SignalSource {
    /// `requests_demand` or `requests_held` (of the gateway), `requests_running`, `requests_waiting` or `kv_cache_utilization` (of the engines).
    pub name: String,
    /// What one replica should carry: `type: AverageValue` with `averageValue`.
    pub target: MetricTarget,
}

/// When to go to zero.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IdleSpec {
    /// After this long without work: proven by the gateway, or, where none is configured, reported by every replica. 5m where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Span>,
}

/// Day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "days of the week")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// A time of the week with a higher least number of replicas.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Schedule {
    /// Name, all different within one autoscaler.
    pub name: String,
    /// Days on which it begins; every day where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Day>,
    /// When it begins, `HH:MM`.
    pub from: String,
    /// When it ends, `HH:MM`; a time at or before `from` is one of the next day.
    pub to: String,
    /// Time zone by its IANA name; `UTC` where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// The least number of replicas in that time, of every pool; `maxReplicas` still holds.
    pub min_replicas: u32,
}

/// What to run when nothing can be measured.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Fallback {
    /// At least so many replicas; more that run already stay.
    pub replicas: u32,
    /// After this long without any measurement; 3m where unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Span>,
}
