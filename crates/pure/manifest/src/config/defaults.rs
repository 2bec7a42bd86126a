//! Every default of `loadline.yaml`.

use crate::defaults::{Entry, Setting, entry};
use std::time::Duration;

const fn secs(seconds: u64) -> Setting {
    Setting::Span(Duration::from_secs(seconds))
}

macro_rules! table {
    ($($(#[$doc:meta])* $name:ident = $field:literal, $value:expr, $meaning:literal, $source:literal;)*) => {
        $($(#[$doc])* pub const $name: Entry = entry($field, $value, $meaning, $source);)*
        /// Every default, in the order of the reference page.
        pub const TABLE: &[Entry] = &[$($name),*];
    };
}

table! {
    /// Where the OpenAI API listens.
    LISTEN = "listen", Setting::Text("127.0.0.1:8080"), "where the OpenAI API listens", "loopback: nothing is exposed unasked";
    /// Where metrics, health and status listen.
    ADMIN = "admin", Setting::Text("127.0.0.1:8081"), "where `/metrics`, `/healthz`, `/readyz` and status listen", "loopback: nothing is exposed unasked";
    /// GPUs over all models.
    GPU_BUDGET = "gpuBudget", Setting::Unset("no limit over all models"), "GPUs that all replicas together may take", "an operator's choice";
    /// Scrape period.
    SCRAPE_PERIOD = "scrapePeriod", secs(1), "how often each replica's metrics page is read", "queues of short requests move within seconds";
    /// Decision period.
    SYNC_PERIOD = "syncPeriod", secs(1), "the longest time between two decisions of a model", "one decision per scrape; edges decide at once";
    /// Certificate.
    TLS = "tls", Setting::Unset("plain HTTP"), "`certFile` and `keyFile` (PEM) for `listen`", "loopback needs none";
    /// Largest request body.
    MAX_BODY = "gateway.maxBodyBytes", Setting::Bytes(32 << 20), "largest request body", "room for base64 images";
    /// Largest request head.
    MAX_HEADER_BYTES = "gateway.maxHeaderBytes", Setting::Bytes(64 << 10), "largest request head", "four times nginx's 16 KiB, for long tokens";
    /// Most header fields.
    MAX_HEADERS = "gateway.maxHeaders", Setting::Count(100), "most header fields of a request", "hyper's default";
    /// Time for a request head.
    HEADER_TIMEOUT = "gateway.headerTimeout", secs(30), "how long a client may take to send a request head", "hyper's default";
    /// Time for a request body.
    BODY_TIMEOUT = "gateway.bodyTimeout", secs(60), "how long a client may take to send a request body", "nginx's `client_body_timeout`";
    /// Time of an idle connection.
    IDLE_TIMEOUT = "gateway.idleTimeout", secs(75), "how long a connection without a request is kept", "nginx's `keepalive_timeout`";
    /// Most connections.
    MAX_CONNECTIONS = "gateway.maxConnections", Setting::Count(16_384), "most open client connections", "twice the held requests, with room";
    /// Held requests per model.
    HELD_REQUESTS = "gateway.heldRequests", Setting::Count(5_000), "most requests held per model", "llm-d-router's limit per band";
    /// Held bytes per model.
    HELD_BYTES = "gateway.heldBytes", Setting::Bytes(256_000_000), "most body bytes held per model", "5,000 requests of 50 KB";
    /// Held bytes over all models.
    HELD_BYTES_TOTAL = "gateway.heldBytesTotal", Setting::Bytes(512_000_000), "most body bytes held over all models", "a quarter of 2 GB";
    /// Wait while saturated.
    SATURATED_WAIT = "gateway.saturatedWait", secs(60), "how long a request waits for a free slot while replicas serve; then 429", "llm-d-router's request TTL";
    /// Wait for a cold start.
    COLD_WAIT = "gateway.coldWait", secs(600), "how long a request waits while no replica serves; then 503", "equal to `startupTimeout`: a start that succeeds answers what it was started for";
    /// Pool label of legacy metrics.
    INFERENCE_POOL = "gateway.inferencePool", Setting::Text("loadline"), "value of the label `inference_pool` on metrics under the endpoint picker's names", "a name of its own";
    /// Controller label of legacy metrics.
    CONTROLLER = "gateway.topLevelControllerName", Setting::Text("loadline"), "value of the label `top_level_controller_name` there", "a name of its own";
    /// Legacy metrics.
    LEGACY_METRICS = "gateway.legacyMetrics", Setting::Switch(true), "also export the endpoint picker's first-generation names", "existing dashboards and rules use them";
    /// Other names.
    ALIASES = "models[].aliases", Setting::Unset("none"), "further names that clients may use", "an operator's choice";
    /// What is run.
    ENGINE_KIND = "models[].engineKind", Setting::Text("auto"), "whose metrics page it is: `auto`, `vllm`, `sglang`, `dynamo`, `llamacpp`, `tgi` or `ray-serve`", "the page names itself";
    /// Built-in profile.
    ENGINE_PROFILE = "models[].engine.profile", Setting::Unset("the engine's own default"), "a name of the built-in table of step times", "an operator's choice";
    /// Built-in dialect.
    ENGINE_DIALECT = "models[].engine.dialect", Setting::Text("vllm"), "`vllm`, `sglang` or `dynamo`", "the most used";
    /// Built-in batch size.
    ENGINE_MAX_NUM_SEQS = "models[].engine.maxNumSeqs", Setting::Count(256), "most requests of one batch", "vLLM's default on most devices";
    /// Built-in speed.
    ENGINE_SPEEDUP = "models[].engine.speedup", Setting::Number(1.0), "how many times faster than the profile it runs", "real time";
    /// Built-in start-up time.
    ENGINE_STARTUP = "models[].engine.startup", Setting::Unset("the profile's"), "how long a start takes", "measured per profile";
    /// Built-in seed.
    ENGINE_SEED = "models[].engine.seed", Setting::Count(0), "seed of drawn times and lengths; each replica adds its number", "repeatable runs";
    /// Readiness path.
    READINESS_PATH = "models[].readiness.path", Setting::Text("/health"), "answers 200 once the replica serves", "vLLM, SGLang and llama.cpp";
    /// Readiness period.
    READINESS_PERIOD = "models[].readiness.period", Setting::Span(Duration::from_millis(50)), "how often it is asked during a start", "a tenth of a second is the wake budget";
    /// Metrics path.
    METRICS_PATH = "models[].metricsPath", Setting::Text("/metrics"), "the replica's metrics page", "every engine but Triton";
    /// Slots of a command.
    SLOTS = "models[].slots", Setting::Count(32), "requests in flight per replica; with `engine`: its `maxNumSeqs`", "below every engine's default batch, so that the gateway and not the engine queues";
    /// Least count.
    MIN_REPLICAS = "models[].minReplicas", Setting::Count(0), "the least count", "idle models cost nothing";
    /// Greatest count.
    MAX_REPLICAS = "models[].maxReplicas", Setting::Count(1), "the greatest count; where `minReplicas` is larger, that", "one machine, one replica, unless asked";
    /// Share of the slots that the default metric aims at, percent.
    DEMAND_PERCENT = "models[].metrics[0].signal.target.averageValue (percent of `slots`)", Setting::Count(70), "where `metrics` is empty: one `Signal` `requests_demand` with an `AverageValue` of this share of `slots`, at least 1", "room for arrivals during a start";
    /// Downward window where no behavior is written.
    DOWN_WINDOW_SECONDS = "models[].behavior.scaleDown.stabilizationWindowSeconds", Setting::Count(300), "seconds; the rest of `behavior` as the autoscaling/v2 API fills it in", "the HPA controller's default";
    /// Idle time.
    IDLE_AFTER = "models[].idle.after", secs(300), "with `minReplicas: 0`: go to zero after this long without work", "KEDA's cooldown and the HPA's window";
    /// Start-up limit.
    STARTUP_TIMEOUT = "models[].startupTimeout", secs(600), "a replica that is not ready by then is ended and started again", "large models load for minutes";
    /// Drain limit.
    DRAIN_TIMEOUT = "models[].drainTimeout", secs(600), "how long a replica may finish its requests before it is ended", "the longest generations";
    /// SIGTERM to SIGKILL.
    TERMINATION_GRACE = "models[].terminationGrace", secs(30), "from SIGTERM to SIGKILL", "Kubernetes' `terminationGracePeriodSeconds`";
    /// First pause before a restart.
    RESTART_INITIAL = "models[].restart.initial", secs(1), "pause before the first restart; doubles with each", "a crash is often over at once";
    /// Longest pause before a restart.
    RESTART_MAX = "models[].restart.max", secs(60), "longest pause", "Kubernetes waits up to 5 min; a local file is mended sooner";
    /// When the pause is forgotten.
    RESTART_RESET = "models[].restart.resetAfter", secs(600), "a replica that ran this long starts anew with `initial`", "Kubernetes' back-off reset";
    /// Environment.
    ENV = "models[].env", Setting::Unset("Loadline's own environment only"), "variables added to the replica's environment", "an operator's choice";
    /// GPUs per replica.
    GPUS_PER_REPLICA = "models[].gpus.perReplica", Setting::Count(0), "GPUs of one replica; with `devices`: the longest of its lists", "engines without a GPU";
    /// GPU lists.
    GPU_DEVICES = "models[].gpus.devices", Setting::Unset("`CUDA_VISIBLE_DEVICES` is left as it is"), "one list per replica slot, set as `CUDA_VISIBLE_DEVICES`; slots may share a GPU", "an operator's choice";
    /// Keep-alive comments.
    KEEPALIVE_ENABLED = "models[].keepalive.enabled", Setting::Switch(true), "SSE comments to held streams", "proxies cut silent connections after 60 s";
    /// When the first comment is sent.
    KEEPALIVE_GRACE = "models[].keepalive.grace", secs(5), "a stream held longer gets its head and the first comment", "short waits keep real status codes";
    /// How often.
    KEEPALIVE_PERIOD = "models[].keepalive.period", secs(15), "between two comments", "a quarter of the usual idle limit of proxies";
    /// TTFT objective.
    SLO_TTFT = "models[].slo.ttft", Setting::Unset("not reported"), "objective for the time to first token, for reports", "an operator's choice";
    /// TPOT objective.
    SLO_TPOT = "models[].slo.tpot", Setting::Unset("not reported"), "objective for the time per output token, for reports", "an operator's choice";
    /// Per-model cold wait.
    MODEL_COLD_WAIT = "models[].coldWait", Setting::Unset("`gateway.coldWait`"), "the same for one model", "an operator's choice";
    /// Per-model saturated wait.
    MODEL_SATURATED_WAIT = "models[].saturatedWait", Setting::Unset("`gateway.saturatedWait`"), "the same for one model", "an operator's choice";
}
