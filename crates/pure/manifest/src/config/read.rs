//! From text to a usable configuration.

use super::raw::{RawConfig, RawEngine, RawGateway, RawGpus, RawMetric, RawModel, Size, Span, Word};
use super::{
    Config, Dialect, EngineConfig, EngineKind, GatewayConfig, Keepalive, Launch, ModelConfig, Restart, SignalMetric,
    Tls, defaults,
};
use crate::defaults::Entry;
use crate::hpa::{Behavior, Direction, default_rules, validate_behavior};
use crate::yaml::{self, Fault, Faults, Limits, Node, did_you_mean};
use loadline_base::{Quantity, format_duration};
use loadline_policy::signal::{REQUESTS_DEMAND, SIGNALS, lookup};
use std::collections::BTreeMap;
use std::time::Duration;

/// A configuration, and what is odd about it without being wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What the operator may want to know.
    pub warnings: Vec<Fault>,
}

/// Reads `loadline.yaml`.
///
/// # Errors
/// Everything wrong in it, each with its place.
pub fn read_config(file: &str, text: &str, limits: &Limits) -> Result<Loaded, Faults> {
    let node = yaml::read_one(file, text, limits)?;
    let raw: RawConfig = yaml::from_node(file, &node)?;
    let mut reader = Reader { file, node: &node, faults: Vec::new(), warnings: Vec::new() };
    let config = reader.config(raw);
    reader.cross_checks(&config);
    Faults::check(reader.faults)?;
    Ok(Loaded { config, warnings: reader.warnings })
}

fn span(written: Option<Span>, default: &Entry) -> Duration {
    written.map_or(default.span(), |span| span.0)
}

fn size(written: Option<Size>, default: &Entry) -> u64 {
    written.map_or(default.count(), |size| size.0)
}

fn text(written: Option<String>, default: &Entry) -> String {
    written.unwrap_or_else(|| default.text().to_owned())
}

fn plain(words: Vec<Word>) -> Vec<String> {
    words.into_iter().map(|word| word.0).collect()
}

struct Reader<'a> {
    file: &'a str,
    node: &'a Node,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

impl Reader<'_> {
    fn at(&self, path: &str, message: String) -> Fault {
        Fault::new(self.file, self.node.locate(path), path, message)
    }

    fn wrong(&mut self, path: &str, message: impl Into<String>) {
        let fault = self.at(path, message.into());
        self.faults.push(fault);
    }

    fn odd(&mut self, path: &str, message: impl Into<String>) {
        let fault = self.at(path, message.into());
        self.warnings.push(fault);
    }

    fn positive(&mut self, path: &str, value: Duration) -> Duration {
        if value.is_zero() {
            self.wrong(path, "must be longer than zero; write for example `1s`");
        }
        value
    }

    fn config(&mut self, raw: RawConfig) -> Config {
        let gateway = self.gateway(raw.gateway.unwrap_or_default());
        let tls = raw.tls.and_then(|tls| match (tls.cert_file, tls.key_file) {
            (Some(cert_file), Some(key_file)) => Some(Tls { cert_file, key_file }),
            _ => {
                self.wrong("tls", "needs both `certFile` and `keyFile`; add the missing one or remove `tls`");
                None
            }
        });
        let raw_models = raw.models.unwrap_or_default();
        if raw_models.is_empty() {
            self.wrong("models", "no model is configured; add one with `name` and either `command` or `engine`");
        }
        let models = raw_models
            .into_iter()
            .enumerate()
            .map(|(index, model)| self.model(model, &format!("models[{index}]"), &gateway))
            .collect();
        Config {
            listen: text(raw.listen, &defaults::LISTEN),
            admin: text(raw.admin, &defaults::ADMIN),
            gpu_budget: raw.gpu_budget,
            scrape_period: self.positive("scrapePeriod", span(raw.scrape_period, &defaults::SCRAPE_PERIOD)),
            sync_period: self.positive("syncPeriod", span(raw.sync_period, &defaults::SYNC_PERIOD)),
            tls,
            gateway,
            models,
        }
    }

    fn gateway(&mut self, raw: RawGateway) -> GatewayConfig {
        let gateway = GatewayConfig {
            max_body_bytes: size(raw.max_body_bytes, &defaults::MAX_BODY),
            max_header_bytes: size(raw.max_header_bytes, &defaults::MAX_HEADER_BYTES),
            max_headers: raw.max_headers.unwrap_or(defaults::MAX_HEADERS.count_u32()),
            header_timeout: span(raw.header_timeout, &defaults::HEADER_TIMEOUT),
            body_timeout: span(raw.body_timeout, &defaults::BODY_TIMEOUT),
            idle_timeout: span(raw.idle_timeout, &defaults::IDLE_TIMEOUT),
            max_connections: raw.max_connections.unwrap_or(defaults::MAX_CONNECTIONS.count_u32()),
            held_requests: raw.held_requests.unwrap_or(defaults::HELD_REQUESTS.count_u32()),
            held_bytes: size(raw.held_bytes, &defaults::HELD_BYTES),
            held_bytes_total: size(raw.held_bytes_total, &defaults::HELD_BYTES_TOTAL),
            saturated_wait: span(raw.saturated_wait, &defaults::SATURATED_WAIT),
            cold_wait: span(raw.cold_wait, &defaults::COLD_WAIT),
            inference_pool: text(raw.inference_pool, &defaults::INFERENCE_POOL),
            top_level_controller_name: text(raw.top_level_controller_name, &defaults::CONTROLLER),
            legacy_metrics: raw.legacy_metrics.unwrap_or(defaults::LEGACY_METRICS.switch()),
        };
        for (field, value) in [
            ("maxHeaders", gateway.max_headers),
            ("maxConnections", gateway.max_connections),
            ("heldRequests", gateway.held_requests),
        ] {
            if value == 0 {
                self.wrong(&format!("gateway.{field}"), "must be at least 1");
            }
        }
        if gateway.max_body_bytes > gateway.held_bytes {
            let message = format!(
                "one body may have {} bytes, more than all held bodies together ({}); lower it or raise `gateway.heldBytes`",
                gateway.max_body_bytes, gateway.held_bytes
            );
            self.wrong("gateway.maxBodyBytes", message);
        }
        gateway
    }

    fn model(&mut self, raw: RawModel, path: &str, gateway: &GatewayConfig) -> ModelConfig {
        let name = raw.name.unwrap_or_default();
        if name.is_empty() {
            self.wrong(&format!("{path}.name"), "a model needs a name; write what clients send as `model`");
        }
        let launch = self.launch(raw.command, raw.engine, path);
        let natural_slots = match &launch {
            Launch::Engine(engine) => engine.max_num_seqs,
            Launch::Command(_) => defaults::SLOTS.count_u32(),
        };
        let slots = raw.slots.unwrap_or(natural_slots);
        if slots == 0 {
            self.wrong(&format!("{path}.slots"), "must be at least 1: a replica without slots serves nothing");
        }
        let max_replicas =
            raw.max_replicas.unwrap_or(defaults::MAX_REPLICAS.count_u32().max(raw.min_replicas.unwrap_or(0)));
        let (gpus_per_replica, gpu_devices) = self.gpus(raw.gpus.unwrap_or_default(), max_replicas, path);
        let readiness = raw.readiness.unwrap_or_default();
        let restart = raw.restart.unwrap_or_default();
        let keepalive = raw.keepalive.unwrap_or_default();
        let slo = raw.slo.unwrap_or_default();
        ModelConfig {
            metrics: self.metrics(raw.metrics.unwrap_or_default(), slots, path),
            behavior: self.behavior(raw.behavior, path),
            name,
            aliases: raw.aliases.unwrap_or_default(),
            launch,
            engine_kind: raw.engine_kind.unwrap_or(EngineKind::Auto),
            readiness_path: self
                .url_path(text(readiness.path, &defaults::READINESS_PATH), &format!("{path}.readiness.path")),
            readiness_period: self
                .positive(&format!("{path}.readiness.period"), span(readiness.period, &defaults::READINESS_PERIOD)),
            metrics_path: self
                .url_path(text(raw.metrics_path, &defaults::METRICS_PATH), &format!("{path}.metricsPath")),
            slots,
            min_replicas: raw.min_replicas.unwrap_or(defaults::MIN_REPLICAS.count_u32()),
            max_replicas,
            idle_after: span(raw.idle.and_then(|idle| idle.after), &defaults::IDLE_AFTER),
            startup_timeout: self
                .positive(&format!("{path}.startupTimeout"), span(raw.startup_timeout, &defaults::STARTUP_TIMEOUT)),
            drain_timeout: span(raw.drain_timeout, &defaults::DRAIN_TIMEOUT),
            termination_grace: span(raw.termination_grace, &defaults::TERMINATION_GRACE),
            restart: Restart {
                initial: span(restart.initial, &defaults::RESTART_INITIAL),
                max: span(restart.max, &defaults::RESTART_MAX),
                reset_after: span(restart.reset_after, &defaults::RESTART_RESET),
            },
            env: raw.env.unwrap_or_default().into_iter().map(|(name, value)| (name, value.0)).collect(),
            gpus_per_replica,
            gpu_devices,
            keepalive: Keepalive {
                enabled: keepalive.enabled.unwrap_or(defaults::KEEPALIVE_ENABLED.switch()),
                grace: span(keepalive.grace, &defaults::KEEPALIVE_GRACE),
                period: self
                    .positive(&format!("{path}.keepalive.period"), span(keepalive.period, &defaults::KEEPALIVE_PERIOD)),
            },
            slo_ttft: slo.ttft.map(|span| span.0),
            slo_tpot: slo.tpot.map(|span| span.0),
            cold_wait: raw.cold_wait.map_or(gateway.cold_wait, |span| span.0),
            saturated_wait: raw.saturated_wait.map_or(gateway.saturated_wait, |span| span.0),
        }
    }

    fn url_path(&mut self, value: String, path: &str) -> String {
        if !value.starts_with('/') {
            self.wrong(path, format!("`{value}` is not a path; begin it with `/`"));
        }
        value
    }

    fn launch(&mut self, command: Option<Vec<Word>>, engine: Option<RawEngine>, path: &str) -> Launch {
        match (command, engine) {
            (Some(command), None) => {
                let command = plain(command);
                if command.is_empty() {
                    self.wrong(&format!("{path}.command"), "is empty; write the program and its arguments as a list");
                } else if !command.iter().any(|word| word.contains("{port}")) {
                    let message = "has no `{port}`: each replica gets a port of its own; put `{port}` where the engine takes it, for example `--port`, `{port}`";
                    self.wrong(&format!("{path}.command"), message);
                }
                Launch::Command(command)
            }
            (None, Some(engine)) => Launch::Engine(self.engine(engine, path)),
            (Some(_), Some(_)) => {
                self.wrong(&format!("{path}.engine"), "`command` and `engine` are both written; keep one");
                Launch::Command(Vec::new())
            }
            (None, None) => {
                self.wrong(path, "needs `command` (a program with `{port}`) or `engine: {}` (the built-in engine)");
                Launch::Command(Vec::new())
            }
        }
    }

    fn engine(&mut self, raw: RawEngine, path: &str) -> EngineConfig {
        let speedup = raw.speedup.unwrap_or(defaults::ENGINE_SPEEDUP.number());
        if !(speedup.is_finite() && speedup > 0.0) {
            self.wrong(&format!("{path}.engine.speedup"), format!("`{speedup}` is not a positive number"));
        }
        let max_num_seqs = raw.max_num_seqs.unwrap_or(defaults::ENGINE_MAX_NUM_SEQS.count_u32());
        if max_num_seqs == 0 {
            self.wrong(&format!("{path}.engine.maxNumSeqs"), "must be at least 1");
        }
        EngineConfig {
            profile: raw.profile,
            dialect: raw.dialect.unwrap_or(Dialect::Vllm),
            max_num_seqs,
            speedup,
            startup: raw.startup.map(|span| span.0),
            seed: raw.seed.unwrap_or(defaults::ENGINE_SEED.count()),
        }
    }

    fn gpus(&mut self, raw: RawGpus, max_replicas: u32, path: &str) -> (u32, Vec<Vec<String>>) {
        let devices: Vec<Vec<String>> = raw.devices.unwrap_or_default().into_iter().map(plain).collect();
        let lists = u32::try_from(devices.len()).unwrap_or(u32::MAX);
        if lists > 0 && lists < max_replicas {
            let message = format!(
                "has {lists} lists for {max_replicas} replicas; write one list per replica (the same GPU may stand in several)"
            );
            self.wrong(&format!("{path}.gpus.devices"), message);
        }
        let longest = devices.iter().map(Vec::len).max().unwrap_or(0);
        let longest = u32::try_from(longest).unwrap_or(u32::MAX);
        (raw.per_replica.unwrap_or(longest.max(defaults::GPUS_PER_REPLICA.count_u32())), devices)
    }

    fn behavior(&mut self, written: Option<Behavior>, path: &str) -> Behavior {
        let mut behavior = written.unwrap_or_default();
        let mut down = default_rules(Direction::Down, behavior.scale_down.take());
        down.stabilization_window_seconds.get_or_insert(defaults::DOWN_WINDOW_SECONDS.count_i32());
        let filled =
            Behavior { scale_up: Some(default_rules(Direction::Up, behavior.scale_up.take())), scale_down: Some(down) };
        for error in validate_behavior(&filled, &format!("{path}.behavior"), true) {
            self.wrong(&error.path, error.message);
        }
        filled
    }

    fn metrics(&mut self, raw: Vec<RawMetric>, slots: u32, path: &str) -> Vec<SignalMetric> {
        if raw.is_empty() {
            let milli = i64::from(slots).saturating_mul(1_000) / 100
                * i64::try_from(defaults::DEMAND_PERCENT.count()).unwrap_or(100);
            let average_value = Quantity::from_milli(milli.max(1_000));
            return vec![SignalMetric { name: REQUESTS_DEMAND.to_owned(), average_value }];
        }
        raw.into_iter()
            .enumerate()
            .filter_map(|(index, metric)| self.metric(metric, &format!("{path}.metrics[{index}]")))
            .collect()
    }

    fn metric(&mut self, raw: RawMetric, path: &str) -> Option<SignalMetric> {
        let names: Vec<&str> = SIGNALS.iter().map(|entry| entry.name).collect();
        if raw.kind != "Signal" {
            let message = match raw.kind.as_str() {
                "Resource" | "ContainerResource" | "Pods" | "Object" | "External" => format!(
                    "`{}` needs a Kubernetes metrics API, which one machine does not have; write `type: Signal` with one of {}",
                    raw.kind,
                    names.join(", ")
                ),
                other => format!("unknown type `{other}`; write `type: Signal`"),
            };
            self.wrong(&format!("{path}.type"), message);
            return None;
        }
        let Some(signal) = raw.signal else {
            self.wrong(path, "`type: Signal` needs `signal: {name, target}`");
            return None;
        };
        let name = signal.name.unwrap_or_default();
        if lookup(&name).is_none() {
            let near = did_you_mean(&name, &names).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
            let message = format!("unknown signal `{name}`; {near}known are {}", names.join(", "));
            self.wrong(&format!("{path}.signal.name"), message);
            return None;
        }
        let target = signal.target.unwrap_or_default();
        let target_path = format!("{path}.signal.target");
        if target.kind != "AverageValue" || target.value.is_some() || target.average_utilization.is_some() {
            let message = "a signal has a target per replica; write `target: {type: AverageValue, averageValue: N}`";
            self.wrong(&target_path, message);
            return None;
        }
        match target.average_value.filter(|value| value.signum() == 1) {
            Some(average_value) => Some(SignalMetric { name, average_value }),
            None => {
                self.wrong(
                    &format!("{target_path}.averageValue"),
                    "must be positive; write what one replica should carry",
                );
                None
            }
        }
    }

    fn cross_checks(&mut self, config: &Config) {
        if config.listen == config.admin {
            self.wrong("admin", format!("`{}` is also `listen`; give one of them another port", config.admin));
        }
        let mut names: BTreeMap<&str, String> = BTreeMap::new();
        let mut needed: u64 = 0;
        for (index, model) in config.models.iter().enumerate() {
            let path = format!("models[{index}]");
            let aliases = model.aliases.iter().enumerate().map(|(at, alias)| (alias, format!("{path}.aliases[{at}]")));
            for (name, place) in std::iter::once((&model.name, format!("{path}.name"))).chain(aliases) {
                if let Some(first) = names.insert(name, place.clone()) {
                    self.wrong(
                        &place,
                        format!("`{name}` is already the name of `{first}`; names and aliases must all differ"),
                    );
                }
            }
            self.model_checks(model, &path);
            let gpus = u64::from(model.gpus_per_replica);
            needed = needed.saturating_add(gpus.saturating_mul(u64::from(model.min_replicas)));
            if config.gpu_budget.is_some_and(|budget| gpus > u64::from(budget)) {
                let message = format!("one replica takes {gpus} GPUs and `gpuBudget` is less; it could never start");
                self.wrong(&format!("{path}.gpus"), message);
            }
        }
        if let Some(budget) = config.gpu_budget.filter(|budget| u64::from(*budget) < needed) {
            let message = format!(
                "is {budget}, and the models' `minReplicas` alone take {needed} GPUs; raise it or lower a `minReplicas`"
            );
            self.wrong("gpuBudget", message);
        }
    }

    fn model_checks(&mut self, model: &ModelConfig, path: &str) {
        if model.max_replicas < 1 {
            self.wrong(&format!("{path}.maxReplicas"), "must be at least 1");
        }
        if model.max_replicas < model.min_replicas {
            let message =
                format!("is {}, less than `minReplicas` {}; raise it", model.max_replicas, model.min_replicas);
            self.wrong(&format!("{path}.maxReplicas"), message);
        }
        if model.restart.max < model.restart.initial {
            self.wrong(&format!("{path}.restart.max"), "is shorter than `restart.initial`; raise it");
        }
        if model.cold_wait < model.startup_timeout {
            let message = format!(
                "requests wait {} for a start that may take {} (`startupTimeout`); those that wait longer get 503",
                format_duration(model.cold_wait),
                format_duration(model.startup_timeout)
            );
            self.odd(&format!("{path}.coldWait"), message);
        }
        if let Launch::Engine(EngineConfig { startup: Some(startup), .. }) = &model.launch
            && *startup >= model.startup_timeout
        {
            self.wrong(
                &format!("{path}.startupTimeout"),
                "is not longer than `engine.startup`; no replica would become ready",
            );
        }
    }
}
