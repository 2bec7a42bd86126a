//! From the configuration to what each part is told.

use anyhow::{Context, Result};
use loadline_base::{ModelId, PoolId};
use loadline_control::{GatewayUse, MetricQuery, Mode, ModelSpec, Removal};
use loadline_gateway::{GatewaySettings, ModelSettings};
use loadline_hold::HoldSettings;
use loadline_manifest::config::{Config, EngineConfig, EngineKind, Launch, ModelConfig, ModelMetric, Origin};
use loadline_policy::Policy;
use loadline_process::{BackOff, PoolSpec, Readiness};
use loadline_signals::dialect::{self, NamedQueries, NamedQuery, SignalName};
use loadline_sim::profile::Profile;
use std::collections::BTreeMap;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::Duration;

/// What scraping a model's replicas needs beyond their addresses.
#[derive(Debug, Clone)]
pub(crate) struct ScrapeSpec {
    pub(crate) path: String,
    pub(crate) engine: Option<dialect::EngineKind>,
    pub(crate) named: Option<Arc<NamedQueries>>,
}

/// A configuration in the words of the parts.
#[derive(Debug, Clone)]
pub(crate) struct Lowered {
    pub(crate) gateway: GatewaySettings,
    pub(crate) pools: Vec<PoolSpec>,
    pub(crate) models: Vec<ModelSpec>,
    pub(crate) scrape: BTreeMap<ModelId, ScrapeSpec>,
    pub(crate) gpus: Option<u32>,
    pub(crate) scrape_period: Duration,
    /// The longest time a replica may take to finish and to end.
    pub(crate) longest_end: Duration,
}

/// Lowers a configuration; `own_engine` is how this binary is started again as an engine.
pub(crate) fn lower(config: &Config, own_engine: &[String]) -> Result<Lowered> {
    check_profiles(config)?;
    let listen = config
        .listen
        .to_socket_addrs()
        .with_context(|| format!("`listen: {}` is not an address; write for example `127.0.0.1:8080`", config.listen))?
        .next()
        .with_context(|| format!("`listen: {}` names no address", config.listen))?;
    let gateway = &config.gateway;
    let settings = GatewaySettings {
        listen,
        models: config.models.iter().map(|model| model_settings(config, model)).collect(),
        max_connections: usize::try_from(gateway.max_connections)?,
        max_header_bytes: usize::try_from(gateway.max_header_bytes)?,
        header_read_timeout: gateway.header_timeout,
        max_body_bytes: gateway.max_body_bytes,
        held_bytes: gateway.held_bytes_total,
        body_read_timeout: gateway.body_timeout,
        min_body_rate: gateway.min_body_rate,
        connect_timeout: gateway.connect_timeout,
        response_timeout: gateway.response_timeout,
        stream_idle_timeout: gateway.stream_idle_timeout,
        write_stall_timeout: gateway.write_stall_timeout,
        h2_max_streams: gateway.h2_max_streams,
        idle_connections_per_replica: usize::try_from(gateway.idle_connections_per_replica)?,
        legacy_epp_names: gateway.legacy_metrics,
        inference_pool: gateway.inference_pool.clone(),
        top_level_controller_name: gateway.top_level_controller_name.clone(),
        ..GatewaySettings::default()
    };
    let ends = config.models.iter().map(|model| model.drain_timeout.saturating_add(model.termination_grace));
    Ok(Lowered {
        gateway: settings,
        pools: config.models.iter().map(|model| pool_spec(model, own_engine)).collect(),
        models: config.models.iter().map(|model| model_spec(config, model)).collect(),
        scrape: config.models.iter().map(|model| (ModelId::new(model.name.as_str()), scrape_spec(model))).collect(),
        gpus: config.gpu_budget,
        scrape_period: config.scrape_period,
        longest_end: ends.max().unwrap_or_default(),
    })
}

/// The pool of a model bears the model's name.
fn pool_id(model: &ModelConfig) -> PoolId {
    PoolId::new(model.name.as_str())
}

fn model_settings(config: &Config, model: &ModelConfig) -> ModelSettings {
    let gateway = &config.gateway;
    let hold = HoldSettings {
        max_held: gateway.held_requests,
        max_held_bytes: gateway.held_bytes,
        max_attempts: gateway.max_attempts,
        retry_percent: gateway.retry_percent,
        retry_body_bytes: gateway.retry_body_bytes,
        early_reject: gateway.early_reject,
        ramp: gateway.ramp,
        saturated_budget: model.saturated_wait,
        cold_budget: Some(model.cold_wait),
        hold_limit: model.saturated_wait.saturating_add(model.cold_wait),
        keepalive: model.keepalive.enabled,
        keepalive_grace: model.keepalive.grace,
        keepalive_period: model.keepalive.period,
        ..HoldSettings::default()
    };
    ModelSettings { hold, ..ModelSettings::new(model.name.as_str()) }
}

fn pool_spec(model: &ModelConfig, own_engine: &[String]) -> PoolSpec {
    let command = match &model.launch {
        Launch::Command(command) => command.clone(),
        Launch::Engine(engine) => own_engine.iter().cloned().chain(engine_arguments(&model.name, engine)).collect(),
    };
    PoolSpec {
        env: model.env.clone(),
        readiness: Readiness::Http(model.readiness_path.clone()),
        startup_timeout: model.startup_timeout,
        termination_grace: model.termination_grace,
        restart: BackOff {
            first: model.restart.initial,
            max: model.restart.max,
            reset_after: model.restart.reset_after,
        },
        devices: model.gpu_devices.iter().map(|devices| devices.join(",")).collect(),
        forward_logs: true,
        ..PoolSpec::new(pool_id(model), command)
    }
}

/// How the built-in engine is told what the configuration says.
fn engine_arguments(model: &str, engine: &EngineConfig) -> Vec<String> {
    let mut arguments = vec![
        "engine".to_owned(),
        "--port={port}".to_owned(),
        format!("--model={model}"),
        format!("--dialect={}", engine.dialect.as_str()),
        format!("--max-num-seqs={}", engine.max_num_seqs),
        format!("--speedup={}", engine.speedup),
        format!("--seed={}", engine.seed),
    ];
    if let Some(profile) = &engine.profile {
        arguments.push(format!("--profile={profile}"));
    }
    if let Some(startup) = engine.startup {
        arguments.push(format!("--startup={}", loadline_base::format_duration(startup)));
    }
    arguments
}

fn model_spec(config: &Config, model: &ModelConfig) -> ModelSpec {
    let pool = pool_id(model);
    let policy = Policy {
        pools: model.policy(config).pools.into_values().map(|policy| (pool.clone(), policy)).collect(),
        ..model.policy(config)
    };
    ModelSpec {
        model: ModelId::new(model.name.as_str()),
        queries: model.metrics.iter().map(query).collect(),
        pool,
        policy,
        slots: model.slots,
        scrape_period: config.scrape_period,
        start_estimate: start_estimate(model),
        drain_timeout: model.drain_timeout,
        gateway: GatewayUse::default(),
        removal: Removal::default(),
        mode: Mode::default(),
    }
}

/// Before a start has been seen: what the built-in engine is told, else a quarter of the limit.
fn start_estimate(model: &ModelConfig) -> Duration {
    match &model.launch {
        Launch::Engine(EngineConfig { startup: Some(startup), .. }) => *startup,
        _ => model.startup_timeout / 4,
    }
}

/// Which source answers a metric on one machine.
fn query(metric: &ModelMetric) -> MetricQuery {
    match metric.origin() {
        Origin::GatewayDemand => MetricQuery::GatewayDemand,
        Origin::GatewayHeld => MetricQuery::GatewayHeld,
        Origin::GatewayInFlight => MetricQuery::GatewayInFlight,
        Origin::Engine(name) => match SignalName::from_name(name) {
            Some(signal) => MetricQuery::Engine(signal),
            None => MetricQuery::Unanswerable(format!("there is no signal `{name}`")),
        },
        Origin::PerReplica { series, labels } => MetricQuery::Series { key: named_query(series, labels).key() },
        Origin::Total { series, labels } => MetricQuery::SeriesTotal { key: named_query(series, labels).key() },
    }
}

fn named_query(series: &str, labels: &BTreeMap<String, String>) -> NamedQuery {
    NamedQuery { name: series.to_owned(), matching: labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect() }
}

fn scrape_spec(model: &ModelConfig) -> ScrapeSpec {
    let named: Vec<NamedQuery> = model
        .metrics
        .iter()
        .filter_map(|metric| match metric.origin() {
            Origin::PerReplica { series, labels } | Origin::Total { series, labels } => {
                Some(named_query(series, labels))
            }
            _ => None,
        })
        .collect();
    ScrapeSpec {
        path: model.metrics_path.clone(),
        engine: match model.engine_kind {
            EngineKind::Auto => None,
            EngineKind::Vllm => Some(dialect::EngineKind::Vllm),
            EngineKind::Sglang => Some(dialect::EngineKind::Sglang),
            EngineKind::Dynamo => Some(dialect::EngineKind::DynamoFrontend),
            EngineKind::Llamacpp => Some(dialect::EngineKind::LlamaCpp),
            EngineKind::Tgi => Some(dialect::EngineKind::Tgi),
            EngineKind::RayServe => Some(dialect::EngineKind::RayServe),
        },
        named: (!named.is_empty()).then(|| Arc::new(NamedQueries::new(&named))),
    }
}

/// The profiles that built-in engines are to have must exist.
fn check_profiles(config: &Config) -> Result<()> {
    for (index, model) in config.models.iter().enumerate() {
        if let Launch::Engine(EngineConfig { profile: Some(profile), .. }) = &model.launch {
            Profile::find(profile).with_context(|| format!("`models[{index}].engine.profile` is not known"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadline_manifest::Limits;
    use loadline_manifest::config::read_config;

    fn lowered(model: &str) -> Result<Lowered> {
        let text = format!("models:\n- name: m\n{model}");
        let loaded = read_config("loadline.yaml", &text, &Limits::default()).expect("reads");
        lower(&loaded.config, &["loadline".to_owned()])
    }

    #[test]
    fn an_unknown_profile_is_refused_with_the_nearest() {
        let error = lowered("  engine: {profile: l40s/meta-llama-3.1-8b/tp2}\n").expect_err("refused");
        let text = format!("{error:#}");
        assert!(text.contains("models[0].engine.profile") && text.contains("did you mean"), "{text}");
    }

    /// One place for each fact: what a file does not say is what the parts themselves take, but for the fields named.
    #[test]
    fn the_defaults_are_those_of_the_parts() {
        let lowered = lowered("  engine: {}\n").expect("lowers");
        let (saturated, cold) = (Duration::from_secs(60), Duration::from_secs(600));
        let hold = HoldSettings {
            // told by the configuration instead of learnt
            cold_budget: Some(cold),
            hold_limit: saturated + cold,
            // earlier than the hold's own, so that a start is seen to go on
            keepalive_grace: Duration::from_secs(5),
            ..HoldSettings::default()
        };
        let expect = GatewaySettings {
            listen: "127.0.0.1:8080".parse().expect("an address"),
            models: vec![ModelSettings { hold, ..ModelSettings::new("m") }],
            top_level_controller_name: "loadline".to_owned(),
            ..GatewaySettings::default()
        };
        assert_eq!(format!("{:#?}", lowered.gateway), format!("{expect:#?}"));
    }

    #[test]
    fn every_bound_of_the_gateway_is_carried_out() {
        let text = "gateway: {maxBodyBytes: 101, maxHeaderBytes: 102, headerTimeout: 1s, bodyTimeout: 2s, minBodyRate: 103, maxConnections: 104, \
            h2MaxStreams: 105, connectTimeout: 3s, responseTimeout: 4s, streamIdleTimeout: 5s, writeStallTimeout: 6s, \
            idleConnectionsPerReplica: 0, maxAttempts: 1, retryPercent: 7, retryBodyBytes: 106, earlyReject: true, ramp: false, \
            heldRequests: 107, heldBytes: 108, heldBytesTotal: 109, saturatedWait: 7s, coldWait: 11m}\nmodels: [{name: m, engine: {}}]\n";
        let loaded = read_config("loadline.yaml", text, &Limits::default()).expect("reads");
        let lowered = lower(&loaded.config, &[]).expect("lowers").gateway;
        let hold = &lowered.models[0].hold;
        assert_eq!(
            (lowered.max_body_bytes, lowered.max_header_bytes, lowered.min_body_rate, lowered.max_connections),
            (101, 102, 103, 104)
        );
        assert_eq!((lowered.h2_max_streams, lowered.idle_connections_per_replica, lowered.held_bytes), (105, 0, 109));
        let spans = [
            lowered.header_read_timeout,
            lowered.body_read_timeout,
            lowered.connect_timeout,
            lowered.response_timeout,
            lowered.stream_idle_timeout,
            lowered.write_stall_timeout,
            hold.saturated_budget,
            hold.hold_limit,
        ];
        assert_eq!(spans.map(|span| span.as_secs()), [1, 2, 3, 4, 5, 6, 7, 667]);
        assert_eq!((hold.max_attempts, hold.retry_percent, hold.retry_body_bytes), (1, 7, 106));
        assert_eq!((hold.max_held, hold.max_held_bytes), (107, 108));
        assert_eq!((hold.early_reject, hold.ramp, hold.cold_budget), (true, false, Some(Duration::from_secs(660))));
    }

    #[test]
    fn each_metric_has_its_source_and_what_is_scraped_for_it() {
        let text = "  engine: {maxNumSeqs: 7}\n  metrics:\n  - {type: External, external: {metric: {name: igw_queue_depth}, target: {type: Value, value: 9}}}\n  - {type: External, external: {metric: {name: 'a:b', selector: {matchLabels: {x: 'y,z'}}}, target: {type: Value, value: 9}}}\n  - {type: Pods, pods: {metric: {name: c}, target: {type: AverageValue, averageValue: 5}}}\n";
        let lowered = lowered(text).expect("lowers");
        let spec = &lowered.models[0];
        let total = NamedQuery { name: "a:b".to_owned(), matching: [("x", "y,z")].into_iter().collect() };
        assert_eq!(
            spec.queries,
            [
                MetricQuery::GatewayHeld,
                MetricQuery::SeriesTotal { key: total.key() },
                MetricQuery::Series { key: "c".to_owned() }
            ]
        );
        let c = NamedQuery { name: "c".to_owned(), matching: loadline_base::Labels::new() };
        assert_eq!(lowered.scrape[&spec.model].named.as_deref(), Some(&NamedQueries::new(&[total, c])));
        assert_eq!(spec.slots, 7);
    }
}
