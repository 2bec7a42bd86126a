//! Reads the few top-level members of a JSON body that routing needs, in one pass, without a tree and without copying.
//!
//! The whole body is checked against RFC 8259, so that what is not JSON is refused here with the offset of the fault.
//! Where a member is repeated the last one counts, as in Python's and most other parsers.

use std::borrow::Cow;
use thiserror::Error;

/// Deepest nesting of arrays and objects.
pub const MAX_DEPTH: u32 = 127;

/// What routing needs of a body. A member of another type than expected counts as absent, except `model`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Classified<'a> {
    /// `model`, with its escapes resolved; borrowed from the body where it has none.
    pub model: Option<Cow<'a, str>>,
    /// `stream`.
    pub stream: Option<bool>,
    /// `max_tokens`.
    pub max_tokens: Option<u64>,
    /// `max_completion_tokens`.
    pub max_completion_tokens: Option<u64>,
}

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClassifyError {
    /// Not JSON.
    #[error("the body is not JSON: {expected} was expected at byte {offset}")]
    Syntax {
        /// Where, from the start of the body.
        offset: usize,
        /// What could have stood there.
        expected: &'static str,
    },
    /// Not UTF-8.
    #[error("the body is not UTF-8 at byte {offset}")]
    Encoding {
        /// Where, from the start of the body.
        offset: usize,
    },
    /// Nested too deep.
    #[error("the body is nested deeper than {MAX_DEPTH} at byte {offset}")]
    Depth {
        /// Where, from the start of the body.
        offset: usize,
    },
    /// JSON, but no object.
    #[error("the body is JSON but not an object; send an object with a `model`")]
    NotAnObject,
    /// A model that is no text.
    #[error("`model` at byte {offset} is not a string")]
    Model {
        /// Where its value starts.
        offset: usize,
    },
}

impl ClassifyError {
    /// Where the fault is, if it is in one place.
    #[must_use]
    pub const fn offset(&self) -> Option<usize> {
        match self {
            Self::Syntax { offset, .. }
            | Self::Encoding { offset }
            | Self::Depth { offset }
            | Self::Model { offset } => Some(*offset),
            Self::NotAnObject => None,
        }
    }
}

/// Reads a body.
///
/// # Errors
/// When the body is not a JSON object in UTF-8, is nested too deep, or its `model` is no string.
pub fn classify(body: &[u8]) -> Result<Classified<'_>, ClassifyError> {
    let text = std::str::from_utf8(body).map_err(|error| ClassifyError::Encoding { offset: error.valid_up_to() })?;
    Scanner { text, bytes: body, at: 0, open: Nesting::default() }.run()
}

/// The open brackets: one bit each, set for an object.
#[derive(Default)]
struct Nesting {
    objects: u128,
    depth: u32,
}

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    open: Nesting,
}

/// The members that are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Member {
    Model,
    Stream,
    MaxTokens,
    MaxCompletionTokens,
    Other,
}

impl<'a> Scanner<'a> {
    fn run(mut self) -> Result<Classified<'a>, ClassifyError> {
        let mut found = Classified::default();
        self.space();
        if self.peek() != Some(b'{') {
            self.value()?;
            self.end()?;
            return Err(ClassifyError::NotAnObject);
        }
        self.at += 1;
        self.open.depth = 1;
        self.open.objects = 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            self.end()?;
            return Ok(found);
        }
        loop {
            self.space();
            let name = self.string("a member name")?;
            let member = member_of(&unescape(name));
            self.colon()?;
            self.space();
            self.member(member, &mut found)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.fault("`,` or `}`")),
            }
        }
        self.at += 1;
        self.end()?;
        Ok(found)
    }

    /// Reads the value of a top-level member.
    fn member(&mut self, member: Member, found: &mut Classified<'a>) -> Result<(), ClassifyError> {
        let start = self.at;
        if member == Member::Model {
            found.model = match self.peek() {
                Some(b'"') => Some(unescape(self.string("a string")?)),
                Some(b'n') => {
                    self.value()?;
                    None
                }
                _ => {
                    self.value()?;
                    return Err(ClassifyError::Model { offset: start });
                }
            };
            return Ok(());
        }
        self.value()?;
        let text = self.text.get(start..self.at).unwrap_or_default();
        match member {
            Member::Stream => found.stream = text.parse().ok(),
            Member::MaxTokens => found.max_tokens = text.parse().ok(),
            Member::MaxCompletionTokens => found.max_completion_tokens = text.parse().ok(),
            Member::Model | Member::Other => {}
        }
        Ok(())
    }

    /// Skips one value of any kind, without recursion.
    fn value(&mut self) -> Result<(), ClassifyError> {
        let floor = self.open.depth;
        loop {
            self.space();
            let opened = match self.peek() {
                Some(b'{') => self.push(true)?,
                Some(b'[') => self.push(false)?,
                _ => {
                    self.scalar()?;
                    false
                }
            };
            if !(opened && self.enter()?) && self.leave(floor)? {
                return Ok(());
            }
        }
    }

    /// After an opening bracket: true if a value follows, false if the bracket was closed at once.
    fn enter(&mut self) -> Result<bool, ClassifyError> {
        self.space();
        let object = self.open.objects & 1 == 1;
        if self.peek() == Some(if object { b'}' } else { b']' }) {
            self.at += 1;
            self.pop();
            return Ok(false);
        }
        if object {
            self.string("a member name or `}`")?;
            self.colon()?;
        }
        Ok(true)
    }

    /// After a value: closes what ends here; true once the nesting is back at `floor`, false if another value follows.
    fn leave(&mut self, floor: u32) -> Result<bool, ClassifyError> {
        while self.open.depth > floor {
            self.space();
            let object = self.open.objects & 1 == 1;
            match (self.peek(), object) {
                (Some(b','), _) => {
                    self.at += 1;
                    if object {
                        self.space();
                        self.string("a member name")?;
                        self.colon()?;
                    }
                    return Ok(false);
                }
                (Some(b'}'), true) | (Some(b']'), false) => {
                    self.at += 1;
                    self.pop();
                }
                (_, true) => return Err(self.fault("`,` or `}`")),
                (_, false) => return Err(self.fault("`,` or `]`")),
            }
        }
        Ok(true)
    }

    fn push(&mut self, object: bool) -> Result<bool, ClassifyError> {
        if self.open.depth >= MAX_DEPTH {
            return Err(ClassifyError::Depth { offset: self.at });
        }
        self.at += 1;
        self.open.depth += 1;
        self.open.objects = (self.open.objects << 1) | u128::from(object);
        Ok(true)
    }

    const fn pop(&mut self) {
        self.open.depth -= 1;
        self.open.objects >>= 1;
    }

    fn scalar(&mut self) -> Result<(), ClassifyError> {
        match self.peek() {
            Some(b'"') => self.string("a string").map(|_| ()),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.fault("a value")),
        }
    }

    fn word(&mut self, word: &'static str) -> Result<(), ClassifyError> {
        for expected in word.bytes() {
            if self.peek() != Some(expected) {
                return Err(self.fault(word));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), ClassifyError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), ClassifyError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.fault("a digit")) } else { Ok(()) }
    }

    /// Reads a string; gives what stands between its quotes.
    fn string(&mut self, expected: &'static str) -> Result<&'a str, ClassifyError> {
        if self.peek() != Some(b'"') {
            return Err(self.fault(expected));
        }
        self.at += 1;
        let start = self.at;
        loop {
            self.at += plain_run(self.bytes.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    let inner = self.text.get(start..self.at).unwrap_or_default();
                    self.at += 1;
                    return Ok(inner);
                }
                Some(b'\\') => self.escape()?,
                _ => return Err(self.fault("a character of a string or its closing quote")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), ClassifyError> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return Err(self.fault("a hexadecimal digit"));
                    }
                    self.at += 1;
                }
                Ok(())
            }
            _ => Err(self.fault("an escape character")),
        }
    }

    fn colon(&mut self) -> Result<(), ClassifyError> {
        self.space();
        if self.peek() != Some(b':') {
            return Err(self.fault("`:`"));
        }
        self.at += 1;
        Ok(())
    }

    fn end(&mut self) -> Result<(), ClassifyError> {
        self.space();
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.fault("the end of the body")) }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    const fn fault(&self, expected: &'static str) -> ClassifyError {
        ClassifyError::Syntax { offset: self.at, expected }
    }
}

fn member_of(name: &str) -> Member {
    match name {
        "model" => Member::Model,
        "stream" => Member::Stream,
        "max_tokens" => Member::MaxTokens,
        "max_completion_tokens" => Member::MaxCompletionTokens,
        _ => Member::Other,
    }
}

/// Bytes up to the first quote, backslash or control character; eight at a time, as prompts are long.
fn plain_run(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // Sets the high bit of each byte that is zero (and perhaps of one after it; the exact place is found below).
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let mut run = 0;
    for chunk in bytes.chunks_exact(8) {
        let word = u64::from_le_bytes(<[u8; 8]>::try_from(chunk).unwrap_or_default());
        let quote = zeros(word ^ (ONES * u64::from(b'"')));
        let backslash = zeros(word ^ (ONES * u64::from(b'\\')));
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        if quote | backslash | control != 0 {
            break;
        }
        run += 8;
    }
    let tail = bytes.get(run..).unwrap_or_default();
    run + tail.iter().position(|&byte| byte == b'"' || byte == b'\\' || byte < 0x20).unwrap_or(tail.len())
}

/// Resolves the escapes of a checked string; a half of a surrogate pair becomes U+FFFD.
fn unescape(raw: &str) -> Cow<'_, str> {
    if !raw.contains('\\') {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut chars = escaped.chars();
        let kind = chars.next();
        rest = chars.as_str();
        out.push(match kind {
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let (first, after) = code_unit(rest);
                rest = after;
                let pair = rest
                    .strip_prefix("\\u")
                    .map(code_unit)
                    .filter(|(low, _)| (0xd800..0xdc00).contains(&first) && (0xdc00..0xe000).contains(low));
                match pair {
                    Some((low, after)) => {
                        rest = after;
                        char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (low - 0xdc00)).unwrap_or('\u{fffd}')
                    }
                    None => char::from_u32(first).unwrap_or('\u{fffd}'),
                }
            }
            other => other.unwrap_or('\\'),
        });
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The four hexadecimal digits at the start of `text`, and what follows.
fn code_unit(text: &str) -> (u32, &str) {
    let (digits, rest) = text.split_at_checked(4).unwrap_or((text, ""));
    (u32::from_str_radix(digits, 16).unwrap_or(0xfffd), rest)
}

#[cfg(test)]
mod tests;
