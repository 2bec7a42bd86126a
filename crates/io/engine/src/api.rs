//! The OpenAI requests that an engine understands, and what it makes of them.
//!
//! Prompt size: a text counts one token per whitespace-separated word, over all messages of a chat, without any for the
//! chat template; a list of token ids counts its length.

use loadline_sim::engine::EngineConfig;
use serde::Deserialize;

/// Output limit of completions that name none (vLLM and OpenAI).
const DEFAULT_COMPLETION_TOKENS: u32 = 16;

/// Most prompts in one request; each is a request of its own to the engine.
const MAX_PROMPTS: usize = 1024;

/// Why a request is refused, as the client is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
    pub(crate) message: String,
}

impl ApiError {
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self { status: 400, kind: "BadRequestError", message: message.into() }
    }

    pub(crate) fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into() }
    }

    /// The body of the answer.
    pub(crate) fn body(&self) -> String {
        serde_json::json!({
            "error": { "message": self.message, "type": self.kind, "param": null, "code": self.status }
        })
        .to_string()
    }
}

#[derive(Debug, Deserialize)]
struct Wire {
    model: Option<String>,
    prompt: Option<Prompt>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    min_tokens: Option<i64>,
    #[serde(default)]
    ignore_eos: Option<bool>,
    n: Option<i64>,
    best_of: Option<i64>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    stop: Option<Stop>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Prompt {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    IdLists(Vec<Vec<u32>>),
}

#[derive(Debug, Deserialize)]
struct Message {
    role: String,
    content: Option<Content>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    text: Option<String>,
}

/// One prompt; each gets a choice of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sized {
    pub(crate) input_tokens: u32,
    pub(crate) max_tokens: u32,
    /// One hash per full prefix block.
    pub(crate) prefix: Vec<u64>,
}

/// A checked request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// At least one; a chat has one.
    pub(crate) prompts: Vec<Sized>,
    pub(crate) min_tokens: u32,
    pub(crate) ignore_eos: bool,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
}

/// Reads and checks a body.
pub(crate) fn parse(body: &[u8], chat: bool, model: &str, config: &EngineConfig) -> Result<Asked, ApiError> {
    let wire: Wire =
        serde_json::from_slice(body).map_err(|error| ApiError::bad(format!("invalid request body: {error}")))?;
    if let Some(asked) = wire.model.as_deref().filter(|asked| !asked.is_empty() && *asked != model) {
        return Err(ApiError::new(404, "NotFoundError", format!("The model `{asked}` does not exist.")));
    }
    check_ranges(&wire)?;
    let new = || PrefixHasher::new(config.prefix_block_tokens);
    let hashed = if chat { vec![chat_tokens(&wire, new())?] } else { prompt_tokens(&wire, new)? };
    let prompts: Vec<Sized> =
        hashed.into_iter().map(|prefix| size(prefix, &wire, chat, config)).collect::<Result<_, _>>()?;
    let min_tokens = u32::try_from(wire.min_tokens.unwrap_or(0)).unwrap_or(u32::MAX);
    if let Some(prompt) = prompts.iter().find(|prompt| min_tokens > prompt.max_tokens) {
        let max_tokens = prompt.max_tokens;
        return Err(ApiError::bad(format!("`min_tokens` is {min_tokens}, more than `max_tokens`, {max_tokens}")));
    }
    let include_usage = wire.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false);
    Ok(Asked {
        prompts,
        min_tokens,
        ignore_eos: wire.ignore_eos.unwrap_or(false),
        stream: wire.stream.unwrap_or(false),
        include_usage,
    })
}

/// Checks one prompt against the context length, and limits its answer.
fn size(prefix: PrefixHasher, wire: &Wire, chat: bool, config: &EngineConfig) -> Result<Sized, ApiError> {
    let (input_tokens, limit) = (prefix.tokens, config.context_limit());
    if input_tokens == 0 {
        return Err(ApiError::bad("the prompt is empty; give at least one token"));
    }
    let room = limit.saturating_sub(input_tokens);
    let asked = wire.max_completion_tokens.or(wire.max_tokens).map(|tokens| u32::try_from(tokens).unwrap_or(u32::MAX));
    let max_tokens = asked.unwrap_or(if chat { room } else { DEFAULT_COMPLETION_TOKENS.min(room.max(1)) });
    if room == 0 || max_tokens > room {
        let total = u64::from(input_tokens) + u64::from(max_tokens.max(1));
        return Err(ApiError::bad(format!(
            "This model's maximum context length is {limit} tokens, but {total} were requested: {input_tokens} in the \
             prompt and {max_tokens} for the output. Shorten the prompt or lower `max_tokens`.",
        )));
    }
    Ok(Sized { input_tokens, max_tokens, prefix: prefix.hashes })
}

fn check_ranges(wire: &Wire) -> Result<(), ApiError> {
    let integers = [
        ("max_tokens", wire.max_tokens, 1),
        ("max_completion_tokens", wire.max_completion_tokens, 1),
        ("min_tokens", wire.min_tokens, 0),
        ("n", wire.n, 1),
        ("best_of", wire.best_of, 1),
    ];
    for (name, value, least) in integers {
        if let Some(value) = value.filter(|value| *value < least) {
            return Err(ApiError::bad(format!("`{name}` is {value}; it must be at least {least}")));
        }
    }
    for (name, value) in [("n", wire.n), ("best_of", wire.best_of)] {
        if let Some(value) = value.filter(|value| *value > 1) {
            return Err(ApiError::bad(format!("`{name}` is {value}; this engine gives one answer per request")));
        }
    }
    let floats = [
        ("temperature", wire.temperature, 0.0, f64::MAX),
        ("top_p", wire.top_p, f64::MIN_POSITIVE, 1.0),
        ("presence_penalty", wire.presence_penalty, -2.0, 2.0),
        ("frequency_penalty", wire.frequency_penalty, -2.0, 2.0),
    ];
    for (name, value, least, most) in floats {
        if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
            return Err(ApiError::bad(format!("`{name}` is {value}, which is out of its range")));
        }
    }
    // Generated text never contains a stop string; only the form is checked.
    let empty_stop = match &wire.stop {
        None => false,
        Some(Stop::One(text)) => text.is_empty(),
        Some(Stop::Many(texts)) => texts.iter().any(String::is_empty),
    };
    if empty_stop {
        return Err(ApiError::bad("`stop` holds an empty string"));
    }
    if wire.stream_options.is_some() && !wire.stream.unwrap_or(false) {
        return Err(ApiError::bad("`stream_options` needs `stream`: true"));
    }
    Ok(())
}

fn chat_tokens(wire: &Wire, mut prefix: PrefixHasher) -> Result<PrefixHasher, ApiError> {
    let Some(messages) = wire.messages.as_ref().filter(|messages| !messages.is_empty()) else {
        return Err(ApiError::bad("`messages` is missing or empty"));
    };
    for message in messages {
        if message.role.is_empty() {
            return Err(ApiError::bad("a message has an empty `role`"));
        }
        match &message.content {
            None => {}
            Some(Content::Text(text)) => prefix.text(text),
            Some(Content::Parts(parts)) => {
                parts.iter().filter_map(|part| part.text.as_deref()).for_each(|t| prefix.text(t))
            }
        }
    }
    Ok(prefix)
}

fn prompt_tokens(wire: &Wire, new: impl Fn() -> PrefixHasher) -> Result<Vec<PrefixHasher>, ApiError> {
    let text = |text: &String| {
        let mut prefix = new();
        prefix.text(text);
        prefix
    };
    let ids = |ids: &Vec<u32>| {
        let mut prefix = new();
        prefix.ids(ids);
        prefix
    };
    let few = |count: usize| {
        let text = || format!("`prompt` holds {count} prompts; send at most {MAX_PROMPTS} in one request");
        if count > MAX_PROMPTS { Err(ApiError::bad(text())) } else { Ok(()) }
    };
    match &wire.prompt {
        None => Err(ApiError::bad("`prompt` is missing")),
        Some(Prompt::Text(one)) => Ok(vec![text(one)]),
        Some(Prompt::Ids(one)) => Ok(vec![ids(one)]),
        Some(Prompt::Texts(many)) => few(many.len()).map(|()| many.iter().map(text).collect()),
        Some(Prompt::IdLists(many)) => few(many.len()).map(|()| many.iter().map(ids).collect()),
    }
}

/// Counts tokens and hashes them block by block; a hash covers all tokens before it.
#[derive(Debug)]
struct PrefixHasher {
    block: u32,
    tokens: u32,
    state: u64,
    hashes: Vec<u64>,
}

impl PrefixHasher {
    const fn new(block: u32) -> Self {
        // FNV-1a, 64 bits.
        Self { block, tokens: 0, state: 0xcbf2_9ce4_8422_2325, hashes: Vec::new() }
    }

    fn token(&mut self, bytes: &[u8]) {
        self.tokens = self.tokens.saturating_add(1);
        if self.block == 0 {
            return;
        }
        for byte in bytes.iter().chain(&[0xff]) {
            self.state = (self.state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.tokens.is_multiple_of(self.block) {
            self.hashes.push(self.state);
        }
    }

    fn text(&mut self, text: &str) {
        text.split_whitespace().for_each(|word| self.token(word.as_bytes()));
    }

    fn ids(&mut self, ids: &[u32]) {
        ids.iter().for_each(|id| self.token(&id.to_le_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadline_sim::profile::{DEFAULT_PROFILE, Profile};

    fn config() -> EngineConfig {
        EngineConfig { max_model_len: 100, ..EngineConfig::from_profile(Profile::find(DEFAULT_PROFILE).unwrap()) }
    }

    #[test]
    fn requests_are_sized_and_checked() {
        struct Case {
            name: &'static str,
            chat: bool,
            body: &'static str,
            expect: Result<(u32, u32), (u16, &'static str)>,
        }
        for case in [
            Case { name: "words", chat: false, body: r#"{"prompt":"a b  c\n"}"#, expect: Ok((3, 16)) },
            Case { name: "ids", chat: false, body: r#"{"prompt":[1,2,3,4],"max_tokens":7}"#, expect: Ok((4, 7)) },
            Case { name: "one of many", chat: false, body: r#"{"prompt":[[1,2]]}"#, expect: Ok((2, 16)) },
            Case { name: "two", chat: false, body: r#"{"prompt":["a","b c"]}"#, expect: Ok((1, 16)) },
            Case { name: "no prompts", chat: false, body: r#"{"prompt":[]}"#, expect: Err((400, "empty")) },
            Case { name: "one of two empty", chat: false, body: r#"{"prompt":["a",""]}"#, expect: Err((400, "empty")) },
            Case {
                name: "what is not used is taken",
                chat: false,
                body: r#"{"prompt":"a","logprobs":null,"tools":[{"type":"function"}],"best_of":1,"repetition_penalty":1.0}"#,
                expect: Ok((1, 16)),
            },
            Case {
                name: "chat",
                chat: true,
                body: r#"{"messages":[{"role":"system","content":"x"},{"role":"user","content":[{"type":"text","text":"a b"}]}]}"#,
                expect: Ok((3, 97)),
            },
            Case {
                name: "newer limit wins",
                chat: true,
                body: r#"{"messages":[{"role":"user","content":"x"}],"max_tokens":3,"max_completion_tokens":5}"#,
                expect: Ok((1, 5)),
            },
            Case { name: "n", chat: false, body: r#"{"prompt":"a","n":2}"#, expect: Err((400, "one answer")) },
            Case { name: "model", chat: false, body: r#"{"model":"x","prompt":"a"}"#, expect: Err((404, "`x`")) },
            Case { name: "empty", chat: false, body: r#"{"prompt":" "}"#, expect: Err((400, "empty")) },
            Case { name: "none", chat: false, body: "{}", expect: Err((400, "missing")) },
            Case { name: "no messages", chat: true, body: r#"{"messages":[]}"#, expect: Err((400, "`messages`")) },
            Case {
                name: "too long",
                chat: false,
                body: r#"{"prompt":"a","max_tokens":100}"#,
                expect: Err((400, "maximum context length is 100")),
            },
            Case {
                name: "zero",
                chat: false,
                body: r#"{"prompt":"a","max_tokens":0}"#,
                expect: Err((400, "at least 1")),
            },
            Case {
                name: "min over max",
                chat: false,
                body: r#"{"prompt":"a","max_tokens":2,"min_tokens":3}"#,
                expect: Err((400, "`min_tokens`")),
            },
            Case {
                name: "temperature",
                chat: false,
                body: r#"{"prompt":"a","temperature":-1}"#,
                expect: Err((400, "`temperature`")),
            },
            Case { name: "stop is taken", chat: false, body: r#"{"prompt":"a","stop":["x"]}"#, expect: Ok((1, 16)) },
            Case { name: "not JSON", chat: false, body: "{", expect: Err((400, "invalid request body")) },
        ] {
            let got = parse(case.body.as_bytes(), case.chat, "m", &config());
            match (got, case.expect) {
                (Ok(asked), Ok(expect)) => {
                    let first = asked.prompts.first().map(|prompt| (prompt.input_tokens, prompt.max_tokens));
                    assert_eq!(first, Some(expect), "{}", case.name);
                }
                (Err(error), Err((status, part))) => {
                    assert!(error.status == status && error.message.contains(part), "{}: {error:?}", case.name);
                }
                (got, expect) => panic!("{}: {got:?}, expected {expect:?}", case.name),
            }
        }
    }

    #[test]
    fn several_prompts_are_sized_one_by_one_up_to_a_limit() {
        let sizes = |prompt: serde_json::Value| {
            let body = serde_json::json!({ "prompt": prompt }).to_string();
            let asked = parse(body.as_bytes(), false, "m", &config())?;
            Ok::<_, ApiError>(asked.prompts.iter().map(|prompt| prompt.input_tokens).collect::<Vec<_>>())
        };
        assert_eq!(sizes(serde_json::json!(["a", "b c"])), Ok(vec![1, 2]));
        assert_eq!(sizes(serde_json::json!([[1, 2, 3], [4]])), Ok(vec![3, 1]));
        assert_eq!(sizes(serde_json::json!(vec!["a"; MAX_PROMPTS])).map(|all| all.len()), Ok(MAX_PROMPTS));
        let error = sizes(serde_json::json!(vec!["a"; MAX_PROMPTS + 1])).unwrap_err();
        assert!(error.message.contains("1025 prompts; send at most 1024"), "{error}");
    }

    #[test]
    fn equal_beginnings_have_equal_hashes() {
        let config = EngineConfig { prefix_block_tokens: 16, max_model_len: 1000, ..config() };
        let hashes = |text: String| {
            let body = serde_json::json!({ "prompt": text }).to_string();
            parse(body.as_bytes(), false, "m", &config).unwrap().prompts.remove(0).prefix
        };
        let (long, short) = (hashes("a ".repeat(40)), hashes(format!("{}b", "a ".repeat(31))));
        assert_eq!((long.len(), short.len()), (2, 2));
        assert!(long[0] == short[0] && long[1] != short[1]);
    }
}
