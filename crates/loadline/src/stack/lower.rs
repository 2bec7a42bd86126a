//! From the configuration to what each part is told.

use anyhow::{Context, Result};
use loadline_base::{ModelId, PoolId};
use loadline_control::{MetricQuery, ModelSpec};
use loadline_gateway::{GatewaySettings, ModelSettings};
use loadline_hold::HoldSettings;
use loadline_manifest::config::{Config, EngineConfig, EngineKind, Launch, ModelConfig};
use loadline_policy::hpa::MetricSource;
use loadline_policy::{Policy, Rule, signal};
use loadline_process::{BackOff, PoolSpec, Readiness};
use loadline_signals::dialect::{self, NamedQueries, NamedQuery, SignalName};
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
        scrape: config
            .models
            .iter()
            .map(|model| (ModelId::new(model.name.as_str()), scrape_spec(config, model)))
            .collect(),
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
    let hold = HoldSettings {
        max_held: config.gateway.held_requests,
        max_held_bytes: config.gateway.held_bytes,
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
    let queries = policy.pools.values().flat_map(|pool| match &pool.rule {
        Rule::Hpa(rule) => rule.metrics.iter().map(|metric| query(&metric.source)),
    });
    ModelSpec {
        model: ModelId::new(model.name.as_str()),
        queries: queries.collect(),
        pool,
        policy,
        slots: model.slots,
        scrape_period: config.scrape_period,
        start_estimate: start_estimate(model),
        drain_timeout: model.drain_timeout,
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
fn query(source: &MetricSource) -> MetricQuery {
    match source {
        MetricSource::Signal { name } if name == signal::REQUESTS_DEMAND => MetricQuery::GatewayDemand,
        MetricSource::Signal { name } if name == signal::REQUESTS_HELD => MetricQuery::GatewayHeld,
        MetricSource::Signal { name } => match SignalName::from_name(name) {
            Some(signal) => MetricQuery::Engine(signal),
            None => MetricQuery::Unanswerable(format!("there is no signal `{name}`")),
        },
        MetricSource::Pods { metric, selector } | MetricSource::External { metric, selector } => {
            MetricQuery::Series { key: named_query(metric, selector.as_deref()).key() }
        }
        MetricSource::Resource { .. } | MetricSource::ContainerResource { .. } => MetricQuery::Unanswerable(
            "cpu and memory of local processes are not measured; use a `Signal` or `Pods` metric".to_owned(),
        ),
        MetricSource::Object { .. } => MetricQuery::Unanswerable(
            "there are no Kubernetes objects on one machine; use a `Signal` metric".to_owned(),
        ),
        MetricSource::Unknown { kind } => MetricQuery::Unanswerable(format!("there is no metric type `{kind}`")),
    }
}

fn named_query(metric: &str, selector: Option<&str>) -> NamedQuery {
    let pairs = selector.unwrap_or_default().split(',').filter_map(|pair| pair.split_once('='));
    NamedQuery { name: metric.to_owned(), matching: pairs.collect() }
}

fn scrape_spec(config: &Config, model: &ModelConfig) -> ScrapeSpec {
    let policy = model.policy(config);
    let named: Vec<NamedQuery> = policy
        .pools
        .values()
        .flat_map(|pool| match &pool.rule {
            Rule::Hpa(rule) => rule.metrics.iter(),
        })
        .filter_map(|metric| match &metric.source {
            MetricSource::Pods { metric, selector } | MetricSource::External { metric, selector } => {
                Some(named_query(metric, selector.as_deref()))
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
