//! `loadline.yaml` as written: every field optional, unknown ones refused.

use crate::hpa::{
    Behavior, ContainerResourceSource, ExternalSource, MetricTarget, ObjectSource, PodsSource, ResourceSource,
};
use loadline_base::{Quantity, format_duration, parse_duration};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A span of time, written as text with a unit (`30s`, `5m`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(self.0))
    }
}

struct SpanVisitor;

impl Visitor<'_> for SpanVisitor {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration with a unit, such as `30s` or `5m`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
        parse_duration(text).map(Span).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Span, E> {
        match value {
            0 => Ok(Span(Duration::ZERO)),
            _ => Err(E::custom(format!("`{value}` has no unit; write for example `{value}s`"))),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SpanVisitor)
    }
}

/// A number of bytes as a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&crate::defaults::bytes_text(self.0))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let quantity = Quantity::deserialize(deserializer)?;
        let whole = quantity.nanos() / NANO_OF_ONE;
        match u64::try_from(whole) {
            Ok(bytes) if bytes > 0 && quantity.nanos() % NANO_OF_ONE == 0 => Ok(Self(bytes)),
            _ => Err(D::Error::custom(format!(
                "`{quantity}` is not a positive whole number of bytes; write for example `32Mi`"
            ))),
        }
    }
}

const NANO_OF_ONE: i128 = 1_000_000_000;

/// Text where a bare number or switch may also be written: arguments, variables, device numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Word(pub(super) String);

struct WordVisitor;

impl Visitor<'_> for WordVisitor {
    type Value = Word;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Word, E> {
        Ok(Word(text.to_owned()))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Word, E> {
        Ok(Word(value.to_string()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Word, E> {
        Ok(Word(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Word, E> {
        Ok(Word(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Word, E> {
        Ok(Word(value.to_string()))
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordVisitor)
    }
}

macro_rules! raw {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        pub(super) struct $name {
            $(#[serde(skip_serializing_if = "Option::is_none")] pub(super) $field: Option<$kind>,)*
        }
    };
}

raw!(RawConfig {
    listen: String, gpu_budget: u32, scrape_period: Span, gateway: RawGateway, models: Vec<RawModel>,
});
raw!(RawGateway {
    max_body_bytes: Size,
    max_header_bytes: Size,
    header_timeout: Span,
    body_timeout: Span,
    min_body_rate: Size,
    max_connections: u32,
    h2_max_streams: u32,
    connect_timeout: Span,
    response_timeout: Span,
    stream_idle_timeout: Span,
    write_stall_timeout: Span,
    idle_connections_per_replica: u32,
    max_attempts: u32,
    retry_percent: u32,
    retry_body_bytes: Size,
    early_reject: bool,
    ramp: bool,
    held_requests: u32,
    held_bytes: Size,
    held_bytes_total: Size,
    saturated_wait: Span,
    cold_wait: Span,
    inference_pool: String,
    top_level_controller_name: String,
    legacy_metrics: bool,
});
raw!(RawModel {
    name: String, command: Vec<Word>, engine: RawEngine, engine_kind: super::EngineKind,
    readiness: RawReadiness, metrics_path: String, slots: u32, min_replicas: u32, max_replicas: u32,
    metrics: Vec<RawMetric>, behavior: Behavior, idle: RawIdle, startup_timeout: Span, drain_timeout: Span,
    termination_grace: Span, restart: RawRestart, env: BTreeMap<String, Word>, gpus: Gpus, keepalive: RawKeepalive,
    cold_wait: Span, saturated_wait: Span,
});
raw!(RawEngine { profile: String, dialect: super::Dialect, max_num_seqs: u32, speedup: f64, startup: Span, seed: u64 });
raw!(RawReadiness { path: String });
raw!(RawIdle { after: Span });
raw!(RawRestart { initial: Span, max: Span, reset_after: Span });
raw!(RawGpus { per_replica: u32, devices: Vec<Vec<Word>>, });

/// GPUs of a replica: a mapping, or only their number.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Gpus(pub(super) RawGpus);

struct GpusVisitor;

impl<'de> Visitor<'de> for GpusVisitor {
    type Value = Gpus;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of GPUs, or `perReplica` and `devices`")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Gpus, E> {
        match u32::try_from(value) {
            Ok(count) => Ok(Gpus(RawGpus { per_replica: Some(count), devices: None })),
            Err(_) => Err(E::invalid_value(Unexpected::Unsigned(value), &self)),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Gpus, E> {
        match u64::try_from(value) {
            Ok(count) => self.visit_u64(count),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(value), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Gpus, A::Error> {
        RawGpus::deserialize(MapAccessDeserializer::new(map)).map(Gpus)
    }
}

impl<'de> Deserialize<'de> for Gpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(GpusVisitor)
    }
}

raw!(RawKeepalive { enabled: bool, grace: Span, period: Span });
raw!(RawSignal { name: String, target: MetricTarget });

/// One metric: `Signal`, or as autoscaling/v2 has it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RawMetric {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) signal: Option<RawSignal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) resource: Option<ResourceSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) container_resource: Option<ContainerResourceSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pods: Option<PodsSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) object: Option<ObjectSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) external: Option<ExternalSource>,
}
