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
    LISTEN = "listen", Setting::Text("127.0.0.1:8080"), "where the OpenAI API, `/metrics`, `/healthz`, `/readyz` and `/status` listen", "loopback: nothing is exposed unasked";
    /// GPUs over all models.
    GPU_BUDGET = "gpuBudget", Setting::Unset("no limit over all models"), "GPUs that all replicas together may take", "an operator's choice";
    /// Scrape period.
    SCRAPE_PERIOD = "scrapePeriod", secs(1), "how often each replica's metrics page is read", "queues of short requests move within seconds";
    /// Largest request body.
    MAX_BODY = "gateway.maxBodyBytes", Setting::Bytes(32 << 20), "largest request body", "room for base64 images";
    /// Largest request head.
    MAX_HEADER_BYTES = "gateway.maxHeaderBytes", Setting::Bytes(64 << 10), "largest request head", "four times nginx's 16 KiB, for long tokens";
    /// Time for a request head.
    HEADER_TIMEOUT = "gateway.headerTimeout", secs(30), "how long a client may take to send a request head, from the start of the connection or the end of the answer before; a connection idle for so long is closed", "hyper's default";
    /// Longest silence in a request body.
    BODY_TIMEOUT = "gateway.bodyTimeout", secs(60), "longest silence while a request body is sent, and longest wait for room to read it; a whole body may take longer", "nginx's `client_body_timeout`";
    /// Least rate of a request body.
    MIN_BODY_RATE = "gateway.minBodyRate", Setting::Bytes(16 << 10), "least bytes per second of a request body on average, once `bodyTimeout` has passed", "slower clients only occupy room for held bodies";
    /// Most connections.
    MAX_CONNECTIONS = "gateway.maxConnections", Setting::Count(16_384), "most open client connections", "twice the held requests, with room";
    /// HTTP/2 streams per connection.
    H2_MAX_STREAMS = "gateway.h2MaxStreams", Setting::Count(256), "most HTTP/2 requests at once on one client connection", "above the 100 that RFC 9113 (6.5.2) asks for at least";
    /// Time to connect to a replica.
    CONNECT_TIMEOUT = "gateway.connectTimeout", secs(2), "how long a connection to a replica may take; then the request goes to another", "a replica on this machine accepts within milliseconds";
    /// Time to the head of an answer.
    RESPONSE_TIMEOUT = "gateway.responseTimeout", secs(600), "longest time from a request sent to the head of its answer; answers that do not stream come whole", "the OpenAI clients' own limit";
    /// Longest silence in an answer.
    STREAM_IDLE_TIMEOUT = "gateway.streamIdleTimeout", secs(600), "longest silence of a replica within its answer", "equal to `responseTimeout`";
    /// Longest stall of a client.
    WRITE_STALL_TIMEOUT = "gateway.writeStallTimeout", secs(60), "how long a client may take no byte of what is ready for it; then its connection is closed and its slot is free", "nginx's `send_timeout`";
    /// Idle connections to a replica.
    IDLE_CONNECTIONS = "gateway.idleConnectionsPerReplica", Setting::Count(256), "idle connections kept to each replica", "a full batch of the engines without new connections";
    /// Times a request is given to a replica.
    MAX_ATTEMPTS = "gateway.maxAttempts", Setting::Count(3), "times a request may be given to a replica, as long as none answered; 1: never again", "two replicas may fail at once, not many";
    /// Share of retries.
    RETRY_PERCENT = "gateway.retryPercent", Setting::Count(20), "retries allowed per hundred requests", "Envoy's retry budget: 20 %";
    /// Largest body sent again.
    RETRY_BODY_BYTES = "gateway.retryBodyBytes", Setting::Bytes(8 << 20), "larger bodies are not sent a second time", "most requests; copies of larger ones cost memory";
    /// Refusal on arrival.
    EARLY_REJECT = "gateway.earlyReject", Setting::Switch(false), "refuse a request on arrival whose expected wait exceeds `saturatedWait`, or `coldWait` while no replica serves", "an estimate; waiting is what was asked for";
    /// Slow start of a replica.
    RAMP = "gateway.ramp", Setting::Switch(true), "give a new replica 1, then 4, then 16, ... requests instead of all its slots at once", "first requests compile and fill caches";
    /// Held requests per model.
    HELD_REQUESTS = "gateway.heldRequests", Setting::Count(5_000), "most requests held per model", "llm-d-router's limit per band";
    /// Held bytes per model.
    HELD_BYTES = "gateway.heldBytes", Setting::Bytes(256 << 20), "most body bytes held per model", "5,000 requests of 50 KB";
    /// Held bytes over all models.
    HELD_BYTES_TOTAL = "gateway.heldBytesTotal", Setting::Bytes(512 << 20), "most body bytes held over all models", "a quarter of 2 GiB";
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
    ENGINE_SEED = "models[].engine.seed", Setting::Count(0), "seed of drawn times and lengths, the same for every replica", "repeatable runs";
    /// Readiness path.
    READINESS_PATH = "models[].readiness.path", Setting::Text("/health"), "answers 200 once the replica serves", "vLLM, SGLang and llama.cpp";
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
    ENV = "models[].env", Setting::Unset("Loadline's own environment only"), "variables added to the replica's environment; `{port}`, `{slot}` and `{gpu}` in the values are replaced as in `command`", "an operator's choice";
    /// GPUs per replica.
    GPUS_PER_REPLICA = "models[].gpus.perReplica", Setting::Count(0), "GPUs of one replica; with `devices`: the longest of its lists; `gpus: 1` is short for `gpus: {perReplica: 1}`", "engines without a GPU";
    /// GPU lists.
    GPU_DEVICES = "models[].gpus.devices", Setting::Unset("`CUDA_VISIBLE_DEVICES` is left as it is"), "one list per replica slot, set as `CUDA_VISIBLE_DEVICES` and put in the place of `{gpu}`; slots may share a GPU", "an operator's choice";
    /// Keep-alive comments.
    KEEPALIVE_ENABLED = "models[].keepalive.enabled", Setting::Switch(true), "SSE comments to held streams", "proxies cut silent connections after 60 s";
    /// When the first comment is sent.
    KEEPALIVE_GRACE = "models[].keepalive.grace", secs(5), "a stream held longer gets its head and the first comment", "short waits keep real status codes";
    /// How often.
    KEEPALIVE_PERIOD = "models[].keepalive.period", secs(15), "between two comments", "a quarter of the usual idle limit of proxies";
    /// Per-model cold wait.
    MODEL_COLD_WAIT = "models[].coldWait", Setting::Unset("`gateway.coldWait`"), "the same for one model", "an operator's choice";
    /// Per-model saturated wait.
    MODEL_SATURATED_WAIT = "models[].saturatedWait", Setting::Unset("`gateway.saturatedWait`"), "the same for one model", "an operator's choice";
}
