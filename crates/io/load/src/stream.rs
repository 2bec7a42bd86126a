//! Reads an OpenAI event stream as it comes, without parsing the JSON of ordinary chunks.
//!
//! A line is a comment, a `data:` payload, or passed over (`event:`, `id:`, `retry:`). A payload carries a token when it has a non-empty
//! `content`, `reasoning_content`, `reasoning` or `text`; those names cannot occur unescaped inside the text itself. Only payloads that speak
//! of usage or of an error are parsed. Engines write each payload on one line; a JSON text over several `data:` lines is not put together.

use memchr::memmem::Finder;
use serde::Deserialize;
use std::sync::LazyLock;
use thiserror::Error;

/// The longest line that is kept while its end has not come.
const MAX_LINE_BYTES: usize = 1 << 20;

static CONTENT: LazyLock<[Finder<'static>; 3]> =
    LazyLock::new(|| [Finder::new("content\":"), Finder::new("\"text\":"), Finder::new("\"reasoning\":")]);
static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"usage\":"));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"error\""));

/// What ends a stream early.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StreamError {
    /// The server reported an error inside the stream.
    #[error("{message}")]
    InBand {
        /// The server's words, shortened.
        message: String,
    },
    /// A line without an end.
    #[error("a line of the stream is longer than {MAX_LINE_BYTES} bytes")]
    LineTooLong,
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: Option<u64>,
    prompt_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Payload {
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
    object: Option<String>,
    message: Option<String>,
}

/// The state of one stream.
#[derive(Debug, Default)]
pub struct Scanner {
    carry: Vec<u8>,
    chunks: u64,
    payloads: u64,
    comments: u64,
    completion_tokens: Option<u64>,
    prompt_tokens: Option<u64>,
    done: bool,
}

impl Scanner {
    /// Takes the next bytes; returns how many chunks with content ended in them.
    ///
    /// # Errors
    /// An error that the server reported in the stream, or a line beyond all bounds.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<u64, StreamError> {
        let before = self.chunks;
        let mut rest = bytes;
        if !self.carry.is_empty() {
            let Some(end) = memchr::memchr(b'\n', rest) else { return self.keep(rest).map(|()| 0) };
            let (part, after) = rest.split_at(end);
            self.keep(part)?;
            let line = std::mem::take(&mut self.carry);
            let outcome = self.line(&line);
            self.carry = line;
            self.carry.clear();
            outcome?;
            rest = after.get(1..).unwrap_or_default();
        }
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end);
            self.line(line)?;
            rest = after.get(1..).unwrap_or_default();
        }
        self.keep(rest)?;
        Ok(self.chunks - before)
    }

    /// Takes the last line, where the stream ended without a line end.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub fn finish(&mut self) -> Result<u64, StreamError> {
        if self.carry.is_empty() { Ok(0) } else { self.feed(b"\n") }
    }

    /// Whether `[DONE]` was read.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.done
    }

    /// Chunks with content so far.
    #[must_use]
    pub const fn chunks(&self) -> u64 {
        self.chunks
    }

    /// `data:` payloads so far, with content or without.
    #[must_use]
    pub const fn payloads(&self) -> u64 {
        self.payloads
    }

    /// Comment lines so far: keep-alives while a gateway holds the request.
    #[must_use]
    pub const fn comments(&self) -> u64 {
        self.comments
    }

    /// Answer tokens: as the engine reports them, else one per chunk with content.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.completion_tokens.unwrap_or(self.chunks)
    }

    /// Prompt tokens as the engine reports them.
    #[must_use]
    pub const fn prompt_tokens(&self) -> Option<u64> {
        self.prompt_tokens
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), StreamError> {
        if self.carry.len() + part.len() > MAX_LINE_BYTES {
            return Err(StreamError::LineTooLong);
        }
        self.carry.extend_from_slice(part);
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), StreamError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Ok(());
        }
        let Some(payload) = line.strip_prefix(b"data:") else {
            self.comments += u64::from(line.first() == Some(&b':'));
            return Ok(());
        };
        let payload = payload.strip_prefix(b" ").unwrap_or(payload);
        self.payloads += 1;
        if payload == b"[DONE]" {
            self.done = true;
            return Ok(());
        }
        let has_content = CONTENT.iter().any(|name| has_text(name, payload));
        self.chunks += u64::from(has_content);
        let has_usage =
            USAGE.find(payload).is_some_and(|at| value_at(payload, at + b"\"usage\":".len()) == Some(&b'{'));
        if has_usage || (!has_content && ERROR.find(payload).is_some()) {
            self.parse(payload)?;
        }
        Ok(())
    }

    fn parse(&mut self, payload: &[u8]) -> Result<(), StreamError> {
        let Ok(parsed) = serde_json::from_slice::<Payload>(payload) else { return Ok(()) };
        if let Some(error) = parsed.error {
            return Err(StreamError::InBand { message: error_text(&error) });
        }
        if parsed.object.as_deref() == Some("error") {
            let message = parsed.message.unwrap_or_else(|| "the stream reports an error without a message".to_owned());
            return Err(StreamError::InBand { message: shorten(&message) });
        }
        if let Some(usage) = parsed.usage {
            self.completion_tokens = usage.completion_tokens.or(self.completion_tokens);
            self.prompt_tokens = usage.prompt_tokens.or(self.prompt_tokens);
        }
        Ok(())
    }
}

/// The message of an OpenAI error object, or the object itself.
pub(crate) fn error_text(error: &serde_json::Value) -> String {
    let message = error.get("message").and_then(serde_json::Value::as_str).or_else(|| error.as_str());
    message.map_or_else(|| shorten(&error.to_string()), shorten)
}

/// At most this many characters of a server's words are kept.
const SHOWN_CHARS: usize = 300;

pub(crate) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_CHARS).collect();
    if short.len() < text.len() {
        short.push_str("..");
    }
    short
}

/// Whether some value of this name is a text that is not empty.
fn has_text(name: &Finder<'_>, payload: &[u8]) -> bool {
    let length = name.needle().len();
    name.find_iter(payload).any(|at| {
        let value = payload.get(at + length..).unwrap_or_default().trim_ascii_start();
        value.first() == Some(&b'"') && value.get(1).is_some_and(|&byte| byte != b'"')
    })
}

fn value_at(payload: &[u8], at: usize) -> Option<&u8> {
    payload.get(at..)?.trim_ascii_start().first()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: &str = concat!(
        ": held 3 s\n\n",
        "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"a \\\"content\\\":\\\"\"}}],\"usage\":null}\r\n\r\n",
        "event: message\ndata: {\"choices\": [{\"delta\": {\"content\": \"b\\n\\n\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":null,\"reasoning_content\":\"c\"}}]}\n\n",
        "data:{\"choices\":[{\"delta\":{\"content\":\"\"},\"finish_reason\":\"stop\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4,\"total_tokens\":13}}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn chunks_are_counted_the_same_however_the_bytes_are_cut() {
        for size in 1..=CHAT.len() {
            let mut scanner = Scanner::default();
            let mut fed = 0;
            for part in CHAT.as_bytes().chunks(size) {
                fed += scanner.feed(part).expect("no error");
            }
            assert_eq!((fed, scanner.chunks(), scanner.payloads(), scanner.comments()), (3, 3, 7, 1), "{size}");
            assert_eq!((scanner.tokens(), scanner.prompt_tokens(), scanner.is_done()), (4, Some(9), true), "{size}");
        }
    }

    #[test]
    fn payloads_are_told_apart() {
        struct Case {
            payload: &'static str,
            chunks: u64,
            error: Option<&'static str>,
        }
        for case in [
            Case { payload: "{\"choices\":[{\"text\":\" hi\"}]}", chunks: 1, error: None },
            Case { payload: "{\"choices\":[{\"text\":\"\"}]}", chunks: 0, error: None },
            Case { payload: "{\"choices\":[{\"text\":\"say \\\"error\\\": no\"}]}", chunks: 1, error: None },
            Case {
                payload: "{\"error\":{\"message\":\"replica lost\",\"type\":\"server_error\"}}",
                chunks: 0,
                error: Some("replica lost"),
            },
            Case { payload: "{\"error\": \"plain\"}", chunks: 0, error: Some("plain") },
            Case { payload: "{\"error\":{\"code\":7}}", chunks: 0, error: Some("{\"code\":7}") },
            Case { payload: "{\"object\":\"error\",\"message\":\"old form\"}", chunks: 0, error: Some("old form") },
            Case { payload: "{\"choices\":[],\"error\":null}", chunks: 0, error: None },
            Case { payload: "not json \"error\"", chunks: 0, error: None },
            Case {
                payload: "{\"choices\":[{\"text\":\"x\"}],\"usage\":{\"completion_tokens\":1}}",
                chunks: 1,
                error: None,
            },
        ] {
            let mut scanner = Scanner::default();
            let outcome = scanner.feed(format!("data: {}\n\n", case.payload).as_bytes());
            let expect =
                case.error.map_or(Ok(case.chunks), |message| Err(StreamError::InBand { message: message.to_owned() }));
            assert_eq!(outcome, expect, "{}", case.payload);
        }
    }

    #[test]
    fn a_last_line_without_an_end_counts_and_an_endless_one_is_refused() {
        let mut scanner = Scanner::default();
        scanner.feed(b"data: [DONE]").expect("no error");
        assert!(!scanner.is_done());
        scanner.finish().expect("no error");
        assert!(scanner.is_done());
        let mut scanner = Scanner::default();
        let block = vec![b'x'; MAX_LINE_BYTES / 2];
        assert_eq!(scanner.feed(&block), Ok(0));
        assert_eq!(scanner.feed(&block), Ok(0));
        assert_eq!(scanner.feed(b"x"), Err(StreamError::LineTooLong));
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), cut in 0_usize..200) {
            let mut scanner = Scanner::default();
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let _ = scanner.feed(first).and_then(|_| scanner.feed(second)).and_then(|_| scanner.finish());
        }
    }
}
