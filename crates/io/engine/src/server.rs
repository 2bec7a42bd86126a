//! Listening, routing, and the answers.

use crate::api::{self, ApiError, Asked, Sized};
use crate::core::{Kind, Shared};
use crate::http_guard::HttpGuard;
use crate::settings::Dialect;
use crate::stream::{Answer, CancelOnDrop, Choice, Chunks, Slot, TOKEN_TEXT, TokenStream};
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use loadline_base::num;
use loadline_sim::engine::{Phase, Refusal};
use std::sync::Arc;

const JSON: &str = "application/json";

type Reply = Response<Answer>;

fn reply(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(Answer::Whole(Some(body.into())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn failure(error: &ApiError) -> Reply {
    reply(error.status, JSON, error.body())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Chat,
    Completions,
    Models,
    Health,
    Ready,
    Version,
    Load,
    Loads,
    Metrics,
}

impl Route {
    fn of(dialect: Dialect, path: &str) -> Option<Self> {
        match (path, dialect) {
            ("/v1/chat/completions", _) => Some(Self::Chat),
            ("/v1/completions", _) => Some(Self::Completions),
            ("/v1/models", _) => Some(Self::Models),
            ("/health" | "/ping", _) => Some(Self::Health),
            ("/ready", _) => Some(Self::Ready),
            ("/version", _) => Some(Self::Version),
            ("/load", _) => Some(Self::Load),
            ("/v1/loads", Dialect::Sglang) => Some(Self::Loads),
            ("/metrics", _) | ("/metrics/", Dialect::Vllm | Dialect::Sglang) => Some(Self::Metrics),
            _ => None,
        }
    }

    const fn method(self) -> &'static str {
        match self {
            Self::Chat | Self::Completions => "POST",
            _ => "GET",
        }
    }
}

/// Answers one HTTP request.
pub(crate) async fn serve(shared: Arc<Shared>, request: Request<Incoming>) -> Reply {
    let path = request.uri().path();
    let route = Route::of(shared.settings.dialect, path);
    let mut guard = HttpGuard::begin(&shared, path, request.method().as_str(), route.is_some());
    let response = match route {
        None => failure(&ApiError::new(404, "NotFoundError", format!("there is no `{path}` here"))),
        Some(route) if request.method() != route.method() => {
            let allowed = route.method();
            let text = format!("`{path}` takes {allowed}, not {}", request.method());
            let mut response = failure(&ApiError::new(405, "MethodNotAllowedError", text));
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            response
        }
        Some(route @ (Route::Chat | Route::Completions)) => {
            return match generate(&shared, request, route == Route::Chat, guard).await {
                Ok(response) => response,
                Err((error, mut guard)) => {
                    guard.status = error.status;
                    guard.end();
                    if error.status == 404 {
                        shared.lock().not_found();
                    }
                    failure(&error)
                }
            };
        }
        Some(route) => simple(&shared, route),
    };
    guard.status = response.status().as_u16();
    if let Answer::Whole(Some(body)) = response.body() {
        guard.response_bytes = u64::try_from(body.len()).unwrap_or(u64::MAX);
    }
    response
}

fn simple(shared: &Shared, route: Route) -> Reply {
    let now = shared.clock.now();
    let mut core = shared.lock();
    core.advance(now);
    let ready = core.engine.phase() == Phase::Ready;
    let dialect = shared.settings.dialect;
    match route {
        Route::Metrics => {
            let content_type = match dialect {
                Dialect::Vllm => "text/plain; version=1.0.0; charset=utf-8",
                Dialect::Sglang => "text/plain; version=0.0.4; charset=utf-8",
                Dialect::Dynamo => "text/plain; charset=utf-8",
            };
            reply(200, content_type, core.metrics(now))
        }
        Route::Health | Route::Ready => reply(if ready { 200 } else { 503 }, JSON, ""),
        Route::Version => {
            let version = match dialect {
                Dialect::Vllm => "0.32.0",
                Dialect::Sglang => "0.5.23",
                Dialect::Dynamo => "1.6.1",
            };
            reply(200, JSON, serde_json::json!({ "version": version }).to_string())
        }
        Route::Load => reply(200, JSON, serde_json::json!({ "server_load": core.engine.live() }).to_string()),
        Route::Loads => {
            let gauges = core.engine.gauges();
            core.observe("get_loads", 0.0);
            let load = serde_json::json!({
                "dp_rank": 0,
                "num_running_reqs": gauges.running,
                "num_waiting_reqs": gauges.waiting(),
                "token_usage": gauges.kv_utilization(),
            });
            reply(200, JSON, serde_json::json!({ "timestamp": now.as_secs_f64(), "loads": [load] }).to_string())
        }
        _ => {
            let model = serde_json::json!({
                "id": shared.settings.model,
                "object": "model",
                "created": now.as_nanos() / 1_000_000_000,
                "owned_by": match dialect { Dialect::Vllm => "vllm", Dialect::Sglang => "sglang", Dialect::Dynamo => "nvidia" },
                "root": shared.settings.model,
                "parent": null,
                "max_model_len": shared.settings.config.max_model_len,
            });
            let list = if ready { vec![model] } else { Vec::new() };
            reply(200, JSON, serde_json::json!({ "object": "list", "data": list }).to_string())
        }
    }
}

type Failed = (ApiError, HttpGuard);

async fn generate(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    chat: bool,
    mut guard: HttpGuard,
) -> Result<Reply, Failed> {
    debug_assert_eq!(request.method(), Method::POST);
    let limit = shared.settings.max_body_bytes;
    let body = match Limited::new(request.into_body(), limit).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            let error = if error.is::<LengthLimitError>() {
                ApiError::new(413, "BadRequestError", format!("the body is larger than {limit} bytes"))
            } else {
                ApiError::bad(format!("the body could not be read: {error}"))
            };
            return Err((error, guard));
        }
    };
    guard.request_bytes = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let settings = &shared.settings;
    let asked = match api::parse(&body, chat, &settings.model, &settings.config) {
        Ok(asked) => asked,
        Err(error) => return Err((error, guard)),
    };
    drop(body);
    let number = shared.next_number();
    let mut parts = Vec::with_capacity(asked.prompts.len());
    for (index, prompt) in asked.prompts.iter().enumerate() {
        let number = if index == 0 { number } else { shared.next_number() };
        match submit(shared, &asked, prompt, chat, number) {
            Ok(part) => parts.push(part),
            // those before it are cancelled as they are dropped
            Err(refusal) => return Err((refused(&refusal), guard)),
        }
    }
    let text = Text::new(shared, chat, number);
    if asked.stream {
        let closing = if asked.include_usage { text.usage_event(&parts) } else { String::new() };
        let choices = parts.into_iter().enumerate().map(|(index, part)| part.streamed(&text, index)).collect();
        let stream = TokenStream { choices, closing, done: false, guard };
        let mut response = Response::new(Answer::Stream(Box::new(stream)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        return Ok(response);
    }
    for part in &mut parts {
        let produced = part.slot.ended().await;
        part.cancel.id = None;
        if produced < part.output_tokens {
            return Err((
                ApiError::new(503, "ServiceUnavailableError", "the engine stopped before the answer was complete"),
                guard,
            ));
        }
    }
    let body = text.whole(&parts);
    guard.response_bytes = u64::try_from(body.len()).unwrap_or(u64::MAX);
    guard.end();
    Ok(reply(200, JSON, body))
}

/// One prompt in the engine, and what becomes of it.
struct Part {
    slot: Arc<Slot>,
    input_tokens: u32,
    output_tokens: u32,
    reason: &'static str,
    cancel: CancelOnDrop,
}

impl Part {
    fn streamed(self, text: &Text, index: usize) -> Choice {
        let chunks = text.chunks(index, self.reason);
        let Self { slot, output_tokens, cancel, .. } = self;
        Choice { slot, chunks, output_tokens, sent: 0, done: false, cancel }
    }
}

fn submit(shared: &Arc<Shared>, asked: &Asked, prompt: &Sized, chat: bool, number: u64) -> Result<Part, Refusal> {
    let settings = &shared.settings;
    let (output_tokens, stops) = output_length(asked, prompt, (settings.seed, number), settings.mean_output_tokens);
    let &Sized { input_tokens, max_tokens, ref prefix } = prompt;
    let kind = Kind { chat, stream: asked.stream, max_tokens, input_tokens, stops };
    let wanted = loadline_sim::engine::Request { input_tokens, output_tokens, prefix: prefix.as_slice().into() };
    let (id, slot) = shared.submit(wanted, kind)?;
    let cancel = CancelOnDrop { shared: shared.clone(), id: Some(id) };
    Ok(Part { slot, input_tokens, output_tokens, reason: if stops { "stop" } else { "length" }, cancel })
}

fn refused(refusal: &Refusal) -> ApiError {
    match refusal {
        Refusal::TooLong { .. } | Refusal::Empty => ApiError::bad(refusal.to_string()),
        Refusal::QueueFull { .. } => {
            ApiError::new(503, "ServiceUnavailableError", format!("{refusal}; try again later"))
        }
        Refusal::Starting | Refusal::Draining | Refusal::Gone => {
            ApiError::new(503, "ServiceUnavailableError", format!("{refusal}; try another replica"))
        }
    }
}

/// How many tokens the answer will have, and whether it ends by itself. With `ignore_eos` all that were allowed; else
/// exponentially distributed, by seed and request number, from `min_tokens` (at least 1) up to `max_tokens`.
fn output_length(asked: &Asked, prompt: &Sized, (seed, number): (u64, u64), mean: u32) -> (u32, bool) {
    if asked.ignore_eos {
        return (prompt.max_tokens, false);
    }
    // SplitMix64 of (seed, number): independent of the order in which requests are answered.
    let mut bits = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    let unit = (num::u64_to_f64(bits >> 11) + 0.5) / 9_007_199_254_740_992.0;
    let drawn = num::f64_to_u32_trunc(-unit.ln() * f64::from(mean)).saturating_add(1).max(asked.min_tokens);
    if drawn <= prompt.max_tokens { (drawn, true) } else { (prompt.max_tokens, false) }
}

/// The constant parts of one answer.
struct Text {
    chat: bool,
    id: String,
    created: i64,
    model: String,
}

impl Text {
    fn new(shared: &Shared, chat: bool, number: u64) -> Self {
        let settings = &shared.settings;
        let unique = settings.seed.rotate_left(32) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let prefix = if chat { "chatcmpl" } else { "cmpl" };
        Self {
            chat,
            id: format!("{prefix}-{unique:016x}"),
            created: shared.clock.now().as_nanos() / 1_000_000_000,
            model: serde_json::Value::from(settings.model.as_str()).to_string(),
        }
    }

    fn event(&self, choices: &str, usage: &str) -> String {
        let object = if self.chat { "chat.completion.chunk" } else { "text_completion" };
        let Self { id, created, model, .. } = self;
        format!(
            "data: {{\"id\":\"{id}\",\"object\":\"{object}\",\"created\":{created},\"model\":{model},\
             \"choices\":[{choices}]{usage}}}\n\n"
        )
    }

    fn choice(&self, index: usize, delta: &str, reason: Option<&str>) -> String {
        let reason = reason.map_or("null".to_owned(), |reason| format!("\"{reason}\""));
        if self.chat {
            format!("{{\"index\":{index},\"delta\":{{{delta}}},\"logprobs\":null,\"finish_reason\":{reason}}}")
        } else {
            format!(
                "{{\"index\":{index},\"text\":\"{TOKEN_TEXT}\",\"logprobs\":null,\"finish_reason\":{reason},\"stop_reason\":null}}"
            )
        }
    }

    fn usage_event(&self, parts: &[Part]) -> String {
        self.event("", &format!(",\"usage\":{}", usage(parts, false)))
    }

    fn chunks(&self, index: usize, reason: &str) -> Chunks {
        let content = format!("\"content\":\"{TOKEN_TEXT}\"");
        let opening = if self.chat {
            self.event(&self.choice(index, "\"role\":\"assistant\",\"content\":\"\"", None), "")
        } else {
            String::new()
        };
        Chunks {
            opening,
            token: self.event(&self.choice(index, &content, None), ""),
            last: self.event(&self.choice(index, &content, Some(reason)), ""),
        }
    }

    fn whole(&self, parts: &[Part]) -> String {
        let choice = |(index, part): (usize, &Part)| {
            let text = TOKEN_TEXT.repeat(usize::try_from(part.output_tokens).unwrap_or(0));
            let content = if self.chat {
                format!("\"message\":{{\"role\":\"assistant\",\"content\":\"{text}\"}}")
            } else {
                format!("\"text\":\"{text}\"")
            };
            let reason = part.reason;
            format!(
                "{{\"index\":{index},{content},\"logprobs\":null,\"finish_reason\":\"{reason}\",\"stop_reason\":null}}"
            )
        };
        let choices = parts.iter().enumerate().map(choice).collect::<Vec<_>>().join(",");
        let object = if self.chat { "chat.completion" } else { "text_completion" };
        let Self { id, created, model, .. } = self;
        let usage = usage(parts, true);
        format!(
            "{{\"id\":\"{id}\",\"object\":\"{object}\",\"created\":{created},\"model\":{model},\
             \"choices\":[{choices}],\"usage\":{usage}}}"
        )
    }
}

/// The sums over all choices; what came from the prefix cache is known at the end only.
fn usage(parts: &[Part], ended: bool) -> String {
    let sum = |of: fn(&Part) -> u32| parts.iter().map(|part| u64::from(of(part))).sum::<u64>();
    let (input, output) = (sum(|part| part.input_tokens), sum(|part| part.output_tokens));
    let cached = Some(sum(|part| part.slot.cached_tokens())).filter(|cached| ended && *cached > 0);
    let details = cached.map_or("null".to_owned(), |cached| format!("{{\"cached_tokens\":{cached}}}"));
    let total = input + output;
    format!(
        "{{\"prompt_tokens\":{input},\"total_tokens\":{total},\"completion_tokens\":{output},\
         \"prompt_tokens_details\":{details}}}"
    )
}
