//! From text to a usable configuration.

use super::raw::{RawConfig, RawEngine, RawGateway, RawGpus, RawMetric, RawModel, Size, Span, Word};
use super::{
    Config, Dialect, EngineConfig, EngineKind, GatewayConfig, Keepalive, Launch, ModelConfig, ModelMetric, Restart,
    SignalMetric, defaults,
};
use crate::defaults::Entry;
use crate::hpa::{
    Behavior, Direction, MetricIdentifier, MetricSpec, default_rules, validate_behavior, validate_metric,
};
use crate::yaml::{self, Fault, Faults, Limits, Node, Value, did_you_mean};
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

/// Whether a file is a `loadline.yaml` rather than Kubernetes objects: one mapping with `models` and without `kind`.
#[must_use]
pub fn is_config(file: &str, text: &str, limits: &Limits) -> bool {
    yaml::read_one(file, text, limits).is_ok_and(|node| {
        matches!(node.value, Value::Map(_)) && node.get("models").is_some() && node.get("kind").is_none()
    })
}

pub(crate) fn span(written: Option<Span>, default: &Entry) -> Duration {
    written.map_or(default.span(), |span| span.0)
}

pub(crate) fn size(written: Option<Size>, default: &Entry) -> u64 {
    written.map_or(default.count(), |size| size.0)
}

pub(crate) fn count(written: Option<u32>, default: &Entry) -> u32 {
    written.unwrap_or(default.count_u32())
}

pub(crate) fn text(written: Option<String>, default: &Entry) -> String {
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
            listen: self.address(text(raw.listen, &defaults::LISTEN)),
            gpu_budget: raw.gpu_budget,
            scrape_period: self.positive("scrapePeriod", span(raw.scrape_period, &defaults::SCRAPE_PERIOD)),
            gateway,
            models,
        }
    }

    fn address(&mut self, value: String) -> String {
        let is_right = value
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok());
        if !is_right {
            let message = format!("`{value}` is not `host:port`; write for example `127.0.0.1:8080`");
            self.wrong("listen", message);
        }
        value
    }

    fn gateway(&mut self, raw: RawGateway) -> GatewayConfig {
        let gateway = GatewayConfig {
            max_body_bytes: size(raw.max_body_bytes, &defaults::MAX_BODY),
            max_header_bytes: size(raw.max_header_bytes, &defaults::MAX_HEADER_BYTES),
            header_timeout: span(raw.header_timeout, &defaults::HEADER_TIMEOUT),
            body_timeout: span(raw.body_timeout, &defaults::BODY_TIMEOUT),
            min_body_rate: size(raw.min_body_rate, &defaults::MIN_BODY_RATE),
            max_connections: count(raw.max_connections, &defaults::MAX_CONNECTIONS),
            h2_max_streams: count(raw.h2_max_streams, &defaults::H2_MAX_STREAMS),
            connect_timeout: span(raw.connect_timeout, &defaults::CONNECT_TIMEOUT),
            response_timeout: span(raw.response_timeout, &defaults::RESPONSE_TIMEOUT),
            stream_idle_timeout: span(raw.stream_idle_timeout, &defaults::STREAM_IDLE_TIMEOUT),
            write_stall_timeout: span(raw.write_stall_timeout, &defaults::WRITE_STALL_TIMEOUT),
            idle_connections_per_replica: count(raw.idle_connections_per_replica, &defaults::IDLE_CONNECTIONS),
            max_attempts: count(raw.max_attempts, &defaults::MAX_ATTEMPTS),
            retry_percent: count(raw.retry_percent, &defaults::RETRY_PERCENT),
            retry_body_bytes: size(raw.retry_body_bytes, &defaults::RETRY_BODY_BYTES),
            early_reject: raw.early_reject.unwrap_or(defaults::EARLY_REJECT.switch()),
            ramp: raw.ramp.unwrap_or(defaults::RAMP.switch()),
            held_requests: count(raw.held_requests, &defaults::HELD_REQUESTS),
            held_bytes: size(raw.held_bytes, &defaults::HELD_BYTES),
            held_bytes_total: size(raw.held_bytes_total, &defaults::HELD_BYTES_TOTAL),
            saturated_wait: span(raw.saturated_wait, &defaults::SATURATED_WAIT),
            cold_wait: span(raw.cold_wait, &defaults::COLD_WAIT),
            inference_pool: text(raw.inference_pool, &defaults::INFERENCE_POOL),
            top_level_controller_name: text(raw.top_level_controller_name, &defaults::CONTROLLER),
            legacy_metrics: raw.legacy_metrics.unwrap_or(defaults::LEGACY_METRICS.switch()),
        };
        for (entry, value) in [
            (&defaults::MAX_CONNECTIONS, gateway.max_connections),
            (&defaults::H2_MAX_STREAMS, gateway.h2_max_streams),
            (&defaults::MAX_ATTEMPTS, gateway.max_attempts),
            (&defaults::HELD_REQUESTS, gateway.held_requests),
        ] {
            if value == 0 {
                self.wrong(entry.field, "must be at least 1");
            }
        }
        for (entry, value) in [
            (&defaults::HEADER_TIMEOUT, gateway.header_timeout),
            (&defaults::BODY_TIMEOUT, gateway.body_timeout),
            (&defaults::CONNECT_TIMEOUT, gateway.connect_timeout),
            (&defaults::RESPONSE_TIMEOUT, gateway.response_timeout),
            (&defaults::STREAM_IDLE_TIMEOUT, gateway.stream_idle_timeout),
            (&defaults::WRITE_STALL_TIMEOUT, gateway.write_stall_timeout),
        ] {
            self.positive(entry.field, value);
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
        let (gpus_per_replica, gpu_devices) = self.gpus(raw.gpus.unwrap_or_default().0, max_replicas, path);
        let env: BTreeMap<String, String> =
            raw.env.unwrap_or_default().into_iter().map(|(name, value)| (name, value.0)).collect();
        if gpu_devices.is_empty() {
            self.devices_to_replace(&launch, &env, path);
        }
        let readiness = raw.readiness.unwrap_or_default();
        let restart = raw.restart.unwrap_or_default();
        let keepalive = raw.keepalive.unwrap_or_default();
        ModelConfig {
            metrics: self.metrics(raw.metrics.unwrap_or_default(), slots, path),
            behavior: self.behavior(raw.behavior, path),
            name,
            launch,
            engine_kind: raw.engine_kind.unwrap_or(EngineKind::Auto),
            readiness_path: self
                .url_path(text(readiness.path, &defaults::READINESS_PATH), &format!("{path}.readiness.path")),
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
            env,
            gpus_per_replica,
            gpu_devices,
            keepalive: Keepalive {
                enabled: keepalive.enabled.unwrap_or(defaults::KEEPALIVE_ENABLED.switch()),
                grace: span(keepalive.grace, &defaults::KEEPALIVE_GRACE),
                period: self
                    .positive(&format!("{path}.keepalive.period"), span(keepalive.period, &defaults::KEEPALIVE_PERIOD)),
            },
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

    /// Where there are no device lists, nothing could stand in the place of `{gpu}`.
    fn devices_to_replace(&mut self, launch: &Launch, env: &BTreeMap<String, String>, path: &str) {
        let command: &[String] = match launch {
            Launch::Command(command) => command,
            Launch::Engine(_) => &[],
        };
        let words = command.iter().enumerate().map(|(index, word)| (format!("{path}.command[{index}]"), word));
        let variables = env.iter().map(|(name, value)| (format!("{path}.env.{name}"), value));
        for (place, _) in words.chain(variables).filter(|(_, text)| text.contains("{gpu}")) {
            let message = "`{gpu}` needs device lists; write one per replica, for example `gpus: {devices: [[0], [1]]}`, or remove `{gpu}`";
            self.wrong(&place, message);
        }
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

    fn metrics(&mut self, raw: Vec<RawMetric>, slots: u32, path: &str) -> Vec<ModelMetric> {
        if raw.is_empty() {
            let milli = i64::from(slots).saturating_mul(1_000) / 100
                * i64::try_from(defaults::DEMAND_PERCENT.count()).unwrap_or(100);
            let average_value = Quantity::from_milli(milli.max(1_000));
            return vec![ModelMetric::Signal(SignalMetric { name: REQUESTS_DEMAND.to_owned(), average_value })];
        }
        raw.into_iter()
            .enumerate()
            .filter_map(|(index, metric)| self.metric(metric, &format!("{path}.metrics[{index}]")))
            .collect()
    }

    fn metric(&mut self, raw: RawMetric, path: &str) -> Option<ModelMetric> {
        match raw.kind.as_str() {
            "Signal" => {
                let others = [
                    ("pods", raw.pods.is_some()),
                    ("external", raw.external.is_some()),
                    ("resource", raw.resource.is_some()),
                    ("containerResource", raw.container_resource.is_some()),
                    ("object", raw.object.is_some()),
                ];
                for (name, _) in others.into_iter().filter(|(_, is_there)| *is_there) {
                    self.wrong(&format!("{path}.{name}"), "does not belong to `type: Signal`; remove it");
                }
                self.signal(raw, path).map(ModelMetric::Signal)
            }
            "Pods" | "External" => self.series(raw, path),
            "Resource" | "ContainerResource" => {
                let message = "cpu and memory of replicas are not measured here; write `type: Signal` with `requests_demand` or `kv_cache_utilization`, or `type: Pods` with a series of the replica's page";
                self.wrong(&format!("{path}.type"), message);
                None
            }
            "Object" => {
                let message = "there are no Kubernetes objects on one machine; write `type: External` with the same metric name, or `type: Signal`";
                self.wrong(&format!("{path}.type"), message);
                None
            }
            other => {
                let near = did_you_mean(other, &["Signal", "Pods", "External"]);
                let near = near.map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
                let message = format!("unknown type `{other}`; {near}known are `Signal`, `Pods` and `External`");
                self.wrong(&format!("{path}.type"), message);
                None
            }
        }
    }

    /// A metric that autoscaling/v2 has too: its validation, and what only an API server can do refused.
    fn series(&mut self, raw: RawMetric, path: &str) -> Option<ModelMetric> {
        let before = self.faults.len();
        if raw.signal.is_some() {
            self.wrong(&format!("{path}.signal"), format!("does not belong to `type: {}`; remove it", raw.kind));
        }
        let spec = MetricSpec {
            kind: raw.kind,
            resource: raw.resource,
            container_resource: raw.container_resource,
            pods: raw.pods,
            object: raw.object,
            external: raw.external,
        };
        for error in validate_metric(&spec, path) {
            self.wrong(&error.path, error.message);
        }
        for (name, metric) in [
            ("pods", spec.pods.as_ref().map(|source| &source.metric)),
            ("external", spec.external.as_ref().map(|source| &source.metric)),
        ] {
            let expressions = |metric: &MetricIdentifier| {
                metric.selector.as_ref().is_some_and(|selector| !selector.match_expressions.is_empty())
            };
            if metric.is_some_and(expressions) {
                let message = "only `matchLabels` select series here; write the labels there";
                self.wrong(&format!("{path}.{name}.metric.selector.matchExpressions"), message);
            }
        }
        if self.faults.len() > before {
            return None;
        }
        if spec.kind == "Pods" { spec.pods.map(ModelMetric::Pods) } else { spec.external.map(ModelMetric::External) }
    }

    fn signal(&mut self, raw: RawMetric, path: &str) -> Option<SignalMetric> {
        let names: Vec<&str> = SIGNALS.iter().map(|entry| entry.name).collect();
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
        let mut names: BTreeMap<&str, String> = BTreeMap::new();
        let mut needed: u64 = 0;
        for (index, model) in config.models.iter().enumerate() {
            let path = format!("models[{index}]");
            let (name, place) = (model.name.as_str(), format!("{path}.name"));
            if let Some(first) = names.insert(name, place.clone()) {
                self.wrong(&place, format!("`{name}` is already the name of `{first}`; names must all differ"));
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
