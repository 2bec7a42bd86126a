//! Every default in force, as a file that reads back to the same configuration.

use super::raw::{
    Gpus, RawConfig, RawEngine, RawGateway, RawGpus, RawIdle, RawKeepalive, RawMetric, RawModel, RawReadiness,
    RawRestart, RawSignal, Size, Span, Word,
};
use super::{Config, EngineConfig, GatewayConfig, Launch, ModelConfig, ModelMetric};
use crate::hpa::MetricTarget;

/// Writes the configuration as YAML with every value in force.
#[must_use]
pub fn print_config(config: &Config) -> String {
    let raw = RawConfig {
        listen: Some(config.listen.clone()),
        gpu_budget: config.gpu_budget,
        scrape_period: Some(Span(config.scrape_period)),
        gateway: Some(gateway(&config.gateway)),
        models: Some(config.models.iter().map(model).collect()),
    };
    // only text, numbers, lists and maps with text keys: the writer has nothing to refuse
    serde_saphyr::to_string(&raw).unwrap_or_default()
}

fn gateway(gateway: &GatewayConfig) -> RawGateway {
    RawGateway {
        max_body_bytes: Some(Size(gateway.max_body_bytes)),
        max_header_bytes: Some(Size(gateway.max_header_bytes)),
        header_timeout: Some(Span(gateway.header_timeout)),
        body_timeout: Some(Span(gateway.body_timeout)),
        min_body_rate: Some(Size(gateway.min_body_rate)),
        max_connections: Some(gateway.max_connections),
        h2_max_streams: Some(gateway.h2_max_streams),
        connect_timeout: Some(Span(gateway.connect_timeout)),
        response_timeout: Some(Span(gateway.response_timeout)),
        stream_idle_timeout: Some(Span(gateway.stream_idle_timeout)),
        write_stall_timeout: Some(Span(gateway.write_stall_timeout)),
        idle_connections_per_replica: Some(gateway.idle_connections_per_replica),
        max_attempts: Some(gateway.max_attempts),
        retry_percent: Some(gateway.retry_percent),
        retry_body_bytes: Some(Size(gateway.retry_body_bytes)),
        early_reject: Some(gateway.early_reject),
        ramp: Some(gateway.ramp),
        held_requests: Some(gateway.held_requests),
        held_bytes: Some(Size(gateway.held_bytes)),
        held_bytes_total: Some(Size(gateway.held_bytes_total)),
        saturated_wait: Some(Span(gateway.saturated_wait)),
        cold_wait: Some(Span(gateway.cold_wait)),
        inference_pool: Some(gateway.inference_pool.clone()),
        top_level_controller_name: Some(gateway.top_level_controller_name.clone()),
        legacy_metrics: Some(gateway.legacy_metrics),
    }
}

fn words(texts: &[String]) -> Vec<Word> {
    texts.iter().cloned().map(Word).collect()
}

fn engine(engine: &EngineConfig) -> RawEngine {
    RawEngine {
        profile: engine.profile.clone(),
        dialect: Some(engine.dialect),
        max_num_seqs: Some(engine.max_num_seqs),
        speedup: Some(engine.speedup),
        startup: engine.startup.map(Span),
        seed: Some(engine.seed),
    }
}

fn metric(metric: &ModelMetric) -> RawMetric {
    let kind = |kind: &str| RawMetric { kind: kind.to_owned(), ..RawMetric::default() };
    match metric {
        ModelMetric::Signal(signal) => {
            let target = MetricTarget {
                kind: "AverageValue".to_owned(),
                average_value: Some(signal.average_value),
                ..MetricTarget::default()
            };
            RawMetric {
                signal: Some(RawSignal { name: Some(signal.name.clone()), target: Some(target) }),
                ..kind("Signal")
            }
        }
        ModelMetric::Pods(source) => RawMetric { pods: Some(source.clone()), ..kind("Pods") },
        ModelMetric::External(source) => RawMetric { external: Some(source.clone()), ..kind("External") },
    }
}

fn model(model: &ModelConfig) -> RawModel {
    let (command, built_in) = match &model.launch {
        Launch::Command(command) => (Some(words(command)), None),
        Launch::Engine(settings) => (None, Some(engine(settings))),
    };
    RawModel {
        name: Some(model.name.clone()),
        command,
        engine: built_in,
        engine_kind: Some(model.engine_kind),
        readiness: Some(RawReadiness { path: Some(model.readiness_path.clone()) }),
        metrics_path: Some(model.metrics_path.clone()),
        slots: Some(model.slots),
        min_replicas: Some(model.min_replicas),
        max_replicas: Some(model.max_replicas),
        metrics: Some(model.metrics.iter().map(metric).collect()),
        behavior: Some(model.behavior.clone()),
        idle: Some(RawIdle { after: Some(Span(model.idle_after)) }),
        startup_timeout: Some(Span(model.startup_timeout)),
        drain_timeout: Some(Span(model.drain_timeout)),
        termination_grace: Some(Span(model.termination_grace)),
        restart: Some(RawRestart {
            initial: Some(Span(model.restart.initial)),
            max: Some(Span(model.restart.max)),
            reset_after: Some(Span(model.restart.reset_after)),
        }),
        env: Some(model.env.iter().map(|(name, value)| (name.clone(), Word(value.clone()))).collect()),
        gpus: Some(Gpus(RawGpus {
            per_replica: Some(model.gpus_per_replica),
            devices: Some(model.gpu_devices.iter().map(|list| words(list)).collect()),
        })),
        keepalive: Some(RawKeepalive {
            enabled: Some(model.keepalive.enabled),
            grace: Some(Span(model.keepalive.grace)),
            period: Some(Span(model.keepalive.period)),
        }),
        cold_wait: Some(Span(model.cold_wait)),
        saturated_wait: Some(Span(model.saturated_wait)),
    }
}
