//! The engine model, the requests it serves and what is counted about them, behind one lock.

use crate::http_stats::HttpStats;
use crate::page::{NumberForm, Page, Seen};
use crate::process_stats::ProcessStats;
use crate::settings::{Dialect, EngineSettings};
use crate::stream::Slot;
use loadline_base::{Timestamp, num};
use loadline_net::Clock;
use loadline_sim::engine::{BLOCK_TOKENS, Engine, Event, Phase, Refusal, Request, RequestId, Timing};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// SGLang refreshes its throughput gauge every so many decode steps (`--decode-log-interval`).
const RATE_STEPS: u64 = 40;
/// Detokenization per output token in milliseconds (BLIS's fit).
const DETOKENIZE_MS: f64 = 0.05;
/// Prompt and output of the request that SGLang sends itself before it is ready (its 0.5.23 page).
const WARM_UP: (u32, u32) = (14, 8);

/// What the page needs to know of a request beyond the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) chat: bool,
    pub(crate) stream: bool,
    pub(crate) max_tokens: u32,
    pub(crate) input_tokens: u32,
    /// Ends for its own reasons, before `max_tokens`.
    pub(crate) stops: bool,
}

impl Kind {
    fn counter(self, what: &str) -> String {
        let endpoint = if self.chat { "chat_completions" } else { "completions" };
        format!("{what}:{endpoint}:{}", if self.stream { "stream" } else { "unary" })
    }
}

#[derive(Debug)]
struct Entry {
    slot: Arc<Slot>,
    kind: Kind,
    arrival: Timestamp,
    generated: u32,
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) engine: Engine,
    pub(crate) http: HttpStats,
    page: Page,
    entries: HashMap<RequestId, Entry>,
    counts: BTreeMap<String, f64>,
    last: Last,
    rate: Rate,
    dialect: Dialect,
    created: f64,
    prefill_steps: u64,
    decode_steps: u64,
    decode_tokens: u64,
    evicted: u64,
    /// Kept for its allocation.
    events: Vec<(Timestamp, Event)>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Last {
    input: f64,
    itl: f64,
    ttft: f64,
}

/// The throughput of the last window of decode steps.
#[derive(Debug, Default, Clone, Copy)]
struct Rate {
    began: Timestamp,
    steps: u64,
    tokens: u64,
    value: f64,
}

/// Whether clients are served.
#[derive(Debug)]
pub(crate) enum Opened {
    NotYet,
    Yes,
    /// The port could not be opened after the start-up.
    Failed(std::io::ErrorKind, String),
}

/// Everything that tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) core: Mutex<Core>,
    /// The time of the next event may have changed.
    pub(crate) changed: Notify,
    /// The start-up has ended; the port may be opened.
    pub(crate) loaded: Notify,
    /// Numbers of requests, for ids and output lengths.
    pub(crate) numbers: AtomicU64,
    /// Whether the engine is ready and its port open.
    pub(crate) opened: tokio::sync::watch::Sender<Opened>,
    pub(crate) clock: Clock,
    pub(crate) settings: EngineSettings,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic elsewhere leaves counters that are still fit to be read.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a request, never given twice.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Hands a request to the model; its tokens appear in the slot.
    pub(crate) fn submit(&self, request: Request, kind: Kind) -> Result<(RequestId, Arc<Slot>), Refusal> {
        let now = self.clock.now();
        let mut core = self.lock();
        core.advance(now);
        let id = core.engine.submit(now, request).inspect_err(|refusal| core.refused(refusal))?;
        let slot = Arc::new(Slot::default());
        core.begin(id, kind, slot.clone(), now);
        drop(core);
        self.changed.notify_one();
        Ok((id, slot))
    }

    /// The client of a request has gone.
    pub(crate) fn cancel(&self, id: RequestId) {
        let now = self.clock.now();
        let mut core = self.lock();
        core.advance(now);
        core.cancel(id, now);
        drop(core);
        self.changed.notify_one();
    }
}

impl Core {
    pub(crate) fn new(settings: &EngineSettings, engine: Engine, now: Timestamp) -> Self {
        let (text, form, drop_empty) = match settings.dialect {
            Dialect::Vllm => (include_str!("../pages/vllm-0.32.0.page"), NumberForm::Python, false),
            Dialect::Sglang => (include_str!("../pages/sglang-0.5.23.page"), NumberForm::Python, true),
            Dialect::Dynamo => (include_str!("../pages/dynamo-1.6.1-frontend.page"), NumberForm::Rust, true),
        };
        let page = Page::parse(text, &settings.page_names(), settings.config.max_model_len, form, drop_empty);
        let mut core = Self {
            engine,
            http: HttpStats::default(),
            page,
            entries: HashMap::new(),
            counts: BTreeMap::new(),
            last: Last::default(),
            rate: Rate::default(),
            dialect: settings.dialect,
            created: now.as_secs_f64(),
            prefill_steps: 0,
            decode_steps: 0,
            decode_tokens: 0,
            evicted: 0,
            events: Vec::new(),
        };
        if settings.dialect == Dialect::Sglang {
            core.warm_up(now);
        }
        core
    }

    /// The calls that SGLang makes to itself while it starts; they are on its idle page.
    fn warm_up(&mut self, now: Timestamp) {
        let seconds = now.as_secs_f64();
        for (path, method) in [("/model_info", "GET"), ("/generate", "POST"), ("/freeze_gc", "POST")] {
            if let Some(index) = self.http.begin(path, method, seconds) {
                self.http.end(index, "200", (0, 0), seconds, 0.0);
            }
        }
        for (source, value) in [("ttft_plain", 0.0), ("e2e_plain", 0.0), ("tpot_plain", 0.0)] {
            self.page.observe(source, value);
        }
        let (input, output) = (f64::from(WARM_UP.0), f64::from(WARM_UP.1));
        for source in ["prompt_tokens", "computed_tokens"] {
            self.page.observe(source, input);
        }
        self.page.observe("generation_tokens", output);
        self.count("prompt_tokens_plain", input);
        self.count("generation_tokens_plain", output);
        self.count("finished_plain", 1.0);
    }

    fn count(&mut self, name: &str, by: f64) {
        match self.counts.get_mut(name) {
            Some(value) => *value += by,
            None => {
                self.counts.insert(name.to_owned(), by);
            }
        }
    }

    pub(crate) fn observe(&mut self, source: &str, value: f64) {
        self.page.observe(source, value);
    }

    pub(crate) fn not_found(&mut self) {
        self.count("not_found", 1.0);
    }

    fn refused(&mut self, refusal: &Refusal) {
        if matches!(refusal, Refusal::QueueFull { .. }) {
            self.count("rejected", 1.0);
        }
    }

    fn begin(&mut self, id: RequestId, kind: Kind, slot: Arc<Slot>, arrival: Timestamp) {
        self.count(&kind.counter("started"), 1.0);
        self.count("started", 1.0);
        let input = f64::from(kind.input_tokens);
        self.count("prompt_tokens_started", input);
        self.page.observe("prompt_tokens_started", input);
        self.page.observe("kv_hit_rate", 0.0);
        self.page.observe("stage_process", 0.0);
        self.entries.insert(id, Entry { slot, kind, arrival, generated: 0 });
    }

    fn cancel(&mut self, id: RequestId, now: Timestamp) {
        if !self.engine.cancel(id) {
            return;
        }
        if let Some(entry) = self.entries.remove(&id) {
            self.count(&entry.kind.counter("cancelled"), 1.0);
            self.page.observe("request_duration", now.since(entry.arrival).as_secs_f64());
            entry.slot.end();
        }
    }

    /// Ends every request, as at the end of the time for a graceful stop.
    pub(crate) fn cancel_all(&mut self, now: Timestamp) {
        let ids: Vec<RequestId> = self.entries.keys().copied().collect();
        for id in ids {
            self.cancel(id, now);
        }
    }

    /// Brings the model to `now` and hands out the tokens of the steps that have ended.
    pub(crate) fn advance(&mut self, now: Timestamp) {
        let mut events = std::mem::take(&mut self.events);
        self.engine.advance(now, &mut |at, event| events.push((at, event)));
        for (at, event) in events.drain(..) {
            self.event(at, &event);
        }
        self.events = events;
        let evicted = self.engine.evicted_blocks();
        if evicted > self.evicted {
            self.evicted = evicted;
            self.page.observe("eviction_seconds", 0.0);
        }
    }

    fn event(&mut self, at: Timestamp, event: &Event) {
        match event {
            Event::Ready => self.created = at.as_secs_f64(),
            Event::Preempted { .. } => {}
            Event::FirstToken { request, timing } => self.first_token(*request, timing),
            Event::Token { request, generated, gap_nanos } => {
                let Some(entry) = self.entries.get_mut(request) else { return };
                entry.generated = *generated;
                entry.slot.produce(*generated);
                let gap = num::i64_to_f64(*gap_nanos) / 1e9;
                self.last.itl = gap;
                self.page.observe("itl", gap);
                if entry.kind.stream {
                    self.page.observe("itl_stream", gap);
                }
            }
            Event::Finished { request, timing } => {
                if let Some(entry) = self.entries.remove(request) {
                    self.finished(&entry, timing);
                    entry.slot.finish(timing.cached_tokens);
                }
            }
            Event::Step { prefill_tokens, decoding, iteration_tokens, .. } => {
                self.page.observe("iteration_tokens", f64::from(*iteration_tokens));
                self.step(at, *prefill_tokens, *decoding);
            }
        }
    }

    fn step(&mut self, at: Timestamp, prefill_tokens: u32, decoding: u32) {
        if prefill_tokens > 0 {
            self.prefill_steps += 1;
        } else {
            self.decode_steps += 1;
        }
        self.decode_tokens += u64::from(decoding);
        self.rate.tokens += u64::from(decoding);
        self.rate.steps += 1;
        if self.rate.steps >= RATE_STEPS {
            let seconds = at.since(self.rate.began).as_secs_f64();
            let value = if seconds > 0.0 { num::u64_to_f64(self.rate.tokens) / seconds } else { 0.0 };
            self.rate = Rate { began: at, steps: 0, tokens: 0, value };
        }
    }

    fn first_token(&mut self, request: RequestId, timing: &Timing) {
        let Some(entry) = self.entries.get_mut(&request) else { return };
        entry.generated = 1;
        entry.slot.produce(1);
        let by_stream = if entry.kind.stream { "ttft_stream" } else { "ttft_plain" };
        self.last.ttft = timing.ttft_seconds();
        self.last.input = f64::from(timing.input_tokens);
        for (source, value) in [
            ("ttft", timing.ttft_seconds()),
            (by_stream, timing.ttft_seconds()),
            ("prompt_tokens_first", f64::from(timing.input_tokens)),
            ("prefill_time_first", timing.prefill_seconds()),
            ("queue_time_scheduled", timing.queue_seconds()),
            ("media_items", 0.0),
        ] {
            self.page.observe(source, value);
        }
    }

    fn finished(&mut self, entry: &Entry, timing: &Timing) {
        let kind = entry.kind;
        let (e2e, tpot, suffix) =
            if kind.stream { ("e2e_stream", "tpot_stream", "stream") } else { ("e2e_plain", "tpot_plain", "plain") };
        let (input, output) = (f64::from(timing.input_tokens), f64::from(timing.generated));
        for (source, value) in [
            ("prompt_tokens", input),
            ("generation_tokens", output),
            ("max_generation_tokens", output),
            ("params_n", 1.0),
            ("params_max_tokens", f64::from(kind.max_tokens)),
            ("e2e", timing.e2e_seconds()),
            (e2e, timing.e2e_seconds()),
            ("request_duration", timing.e2e_seconds()),
            ("queue_time", timing.queue_seconds()),
            ("inference_time", timing.inference_seconds()),
            ("prefill_time", timing.prefill_seconds()),
            ("decode_time", timing.decode_seconds()),
            ("num_preemptions", f64::from(timing.preemptions)),
            ("computed_tokens", f64::from(timing.input_tokens.saturating_sub(timing.cached_tokens))),
            ("cached_tokens", f64::from(timing.cached_tokens)),
            ("detokenize_ms", DETOKENIZE_MS * output),
        ] {
            self.page.observe(source, value);
        }
        if let Some(seconds) = timing.tpot_seconds() {
            self.page.observe("tpot", seconds);
            self.page.observe(tpot, seconds);
        }
        self.count(&kind.counter("finished"), 1.0);
        self.count(if kind.stops { "finished_stop" } else { "finished_length" }, 1.0);
        self.count(&format!("prompt_tokens_{suffix}"), input);
        self.count(&format!("generation_tokens_{suffix}"), output);
        self.count(&format!("finished_{suffix}"), 1.0);
        self.count("cached_tokens_finished", f64::from(timing.cached_tokens));
    }

    /// Every value that a page may name, as of now.
    pub(crate) fn values(&self, now: Timestamp) -> BTreeMap<String, f64> {
        let mut all = self.counts.clone();
        for group in
            [&self.gauge_values()[..], &self.counter_values(), &self.request_values(), &self.process_values(now)]
        {
            all.extend(group.iter().map(|(name, value)| ((*name).to_owned(), *value)));
        }
        all
    }

    fn gauge_values(&self) -> [(&'static str, f64); 18] {
        let gauges = self.engine.gauges();
        let config = self.engine.config();
        let size = num::usize_to_f64;
        let block = f64::from(BLOCK_TOKENS);
        let available = gauges.usable_blocks.saturating_sub(gauges.used_blocks + gauges.cached_blocks);
        [
            ("running", size(gauges.running)),
            ("waiting", size(gauges.waiting())),
            ("waiting_capacity", size(gauges.waiting_capacity)),
            ("waiting_deferred", size(gauges.waiting_deferred)),
            ("kv_utilization", gauges.kv_utilization()),
            ("kv_utilization_rounded", (gauges.kv_utilization() * 100.0).round() / 100.0),
            ("kv_used_tokens", size(gauges.used_blocks) * block),
            ("kv_cached_tokens", size(gauges.cached_blocks) * block),
            ("kv_available_tokens", size(available) * block),
            ("kv_capacity_tokens", size(gauges.usable_blocks) * block),
            ("usable_blocks", size(gauges.usable_blocks)),
            ("kv_blocks", size(config.kv_blocks)),
            ("block_tokens", block),
            ("context_tokens", num::u64_to_f64(gauges.context_tokens)),
            ("max_model_len", f64::from(config.max_model_len)),
            ("max_num_seqs", size(config.max_num_seqs)),
            ("max_num_batched_tokens", f64::from(config.max_num_batched_tokens)),
            ("generation_rate", if gauges.running > 0 { self.rate.value } else { 0.0 }),
        ]
    }

    fn counter_values(&self) -> [(&'static str, f64); 16] {
        let counters = self.engine.counters();
        let wide = num::u64_to_f64;
        let queries = counters.prefix_queries;
        let computed = counters.prompt_tokens.saturating_sub(counters.prompt_tokens_cached);
        [
            ("prompt_tokens", wide(counters.prompt_tokens)),
            ("prompt_tokens_cached", wide(counters.prompt_tokens_cached)),
            ("prompt_tokens_computed", wide(computed)),
            ("prefill_computed", wide(counters.prefill_tokens_computed)),
            ("generation_tokens", wide(counters.generation_tokens)),
            ("decode_tokens", wide(self.decode_tokens)),
            ("preemptions", wide(counters.preemptions)),
            ("prefix_queries", wide(queries)),
            ("prefix_hits", wide(counters.prefix_hits)),
            ("prefix_hit_rate", if queries > 0 { wide(counters.prefix_hits) / wide(queries) } else { 0.0 }),
            ("finished", wide(counters.finished)),
            ("cancelled", wide(counters.cancelled)),
            ("evicted_tokens", wide(self.evicted) * f64::from(BLOCK_TOKENS)),
            ("prefill_steps", wide(self.prefill_steps)),
            ("decode_steps", wide(self.decode_steps)),
            ("busy_seconds", wide(counters.busy_nanos) / 1e9),
        ]
    }

    fn request_values(&self) -> [(&'static str, f64); 7] {
        let waits = |entry: &&Entry| entry.generated == 0;
        let inputs: u64 = self.entries.values().filter(waits).map(|entry| u64::from(entry.kind.input_tokens)).sum();
        let blocks = |entry: &Entry| u64::from((entry.kind.input_tokens + entry.generated).div_ceil(BLOCK_TOKENS));
        [
            ("in_flight", num::usize_to_f64(self.entries.len())),
            ("before_first_token", num::usize_to_f64(self.entries.values().filter(waits).count())),
            ("demand_blocks", num::u64_to_f64(self.entries.values().map(blocks).sum())),
            ("demand_prefill_tokens", num::u64_to_f64(inputs)),
            ("last_input_tokens", self.last.input),
            ("last_itl", self.last.itl),
            ("last_ttft", self.last.ttft),
        ]
    }

    fn process_values(&self, now: Timestamp) -> [(&'static str, f64); 10] {
        let process = ProcessStats::read();
        let began = self.engine.started().as_secs_f64();
        let uptime = now.since(self.engine.started()).as_secs_f64();
        let startup = (self.created - began).max(0.0);
        let busy = num::u64_to_f64(self.engine.counters().busy_nanos) / 1e9;
        let starting = matches!(self.engine.phase(), Phase::Starting { .. });
        [
            ("idle_seconds", if starting { 0.0 } else { (uptime - startup - busy).max(0.0) }),
            ("startup_seconds", startup),
            ("uptime_seconds", uptime),
            ("created", self.created),
            ("process_virtual_memory_bytes", process.virtual_bytes),
            ("process_resident_memory_bytes", process.resident_bytes),
            ("process_start_time_seconds", began),
            ("process_cpu_seconds", process.cpu_seconds),
            ("process_open_fds", process.open_fds),
            ("process_max_fds", process.max_fds),
        ]
    }

    /// The metrics page.
    pub(crate) fn metrics(&self, now: Timestamp) -> String {
        let values = self.values(now);
        let started = self.counts.get("started").is_some_and(|count| *count > 0.0);
        self.page.render(&Seen { values: &values, http: &self.http, started })
    }

    /// Whose page this is.
    pub(crate) const fn dialect(&self) -> Dialect {
        self.dialect
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadline_sim::profile::{DEFAULT_PROFILE, Profile};

    /// Names that exist only after the first request of their kind.
    const COUNTED: [&str; 13] = [
        "started",
        "prompt_tokens_started",
        "finished_stop",
        "finished_length",
        "prompt_tokens_plain",
        "prompt_tokens_stream",
        "generation_tokens_plain",
        "generation_tokens_stream",
        "finished_plain",
        "finished_stream",
        "cached_tokens_finished",
        "not_found",
        "rejected",
    ];

    #[test]
    fn every_value_that_a_page_names_exists() {
        let mut settings = EngineSettings::new(Profile::find(DEFAULT_PROFILE).unwrap());
        for dialect in [Dialect::Vllm, Dialect::Sglang, Dialect::Dynamo] {
            settings.dialect = dialect;
            let engine = Engine::new(settings.config.clone(), 0, Timestamp::ZERO).unwrap();
            let core = Core::new(&settings, engine, Timestamp::ZERO);
            let values = core.values(Timestamp::ZERO);
            for name in core.page.named_values() {
                let labelled = ["started:", "finished:", "cancelled:"].iter().any(|kind| name.starts_with(kind));
                assert!(values.contains_key(name) || COUNTED.contains(&name) || labelled, "{dialect:?}: `{name}`");
            }
            assert!(!core.metrics(Timestamp::ZERO).contains('@'), "{dialect:?}: a name was not replaced");
        }
    }
}
