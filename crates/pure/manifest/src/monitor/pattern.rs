//! Regular expressions as Prometheus reads them: Go's syntax, the whole text must match, `.` matches a line end too.

use regex_automata::meta::Regex;
use regex_automata::util::captures::Captures;
use regex_automata::util::syntax;
use thiserror::Error;

/// The longest expression, in bytes.
pub const MAX_PATTERN_BYTES: usize = 4_096;
/// The most memory of one compiled expression, in bytes.
pub const MAX_COMPILED_BYTES: usize = 1 << 20;

/// An expression that is not used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatternError {
    /// It is too long.
    #[error("the expression has {bytes} bytes and at most {MAX_PATTERN_BYTES} are taken; shorten it")]
    Long {
        /// Its length.
        bytes: usize,
    },
    /// It is none, or a larger one than is compiled.
    #[error("`{pattern}` is no regular expression that is taken: {why}")]
    Syntax {
        /// As written.
        pattern: String,
        /// What is wrong.
        why: String,
    },
}

/// A compiled expression.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    regex: Regex,
}

impl Pattern {
    pub(super) fn new(pattern: &str) -> Result<Self, PatternError> {
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(PatternError::Long { bytes: pattern.len() });
        }
        let limits = Regex::config()
            .nfa_size_limit(Some(MAX_COMPILED_BYTES))
            .onepass_size_limit(Some(MAX_COMPILED_BYTES))
            .hybrid_cache_capacity(MAX_COMPILED_BYTES);
        let regex = Regex::builder()
            .configure(limits)
            .syntax(syntax::Config::new().dot_matches_new_line(true))
            .build(&format!("^(?:{})$", from_go(pattern)))
            .map_err(|error| {
                let why = error.syntax_error().map_or_else(|| error.to_string(), ToString::to_string);
                // only the reason: the whole message repeats the expression over several lines
                let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                PatternError::Syntax { pattern: pattern.to_owned(), why }
            })?;
        Ok(Self { regex })
    }

    pub(super) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The groups of a match of the whole text.
    pub(super) fn captures(&self, text: &str) -> Option<Captures> {
        let mut captures = self.regex.create_captures();
        self.regex.captures(text, &mut captures);
        captures.is_match().then_some(captures)
    }
}

/// Go's Perl classes are ASCII, and its bracket classes neither nest nor have operators.
fn from_go(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut letters = pattern.chars().peekable();
    let mut in_class = false;
    let mut at_start = false;
    while let Some(letter) = letters.next() {
        let is_first = std::mem::take(&mut at_start);
        match letter {
            '\\' => match letters.next() {
                Some('d') => out.push_str("[0-9]"),
                Some('D') => out.push_str("[^0-9]"),
                Some('w') => out.push_str("[0-9A-Za-z_]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('s') => out.push_str("[\\t\\n\\f\\r ]"),
                Some('S') => out.push_str("[^\\t\\n\\f\\r ]"),
                Some('b') if !in_class => out.push_str("(?-u:\\b)"),
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            },
            '[' if !in_class => {
                in_class = true;
                at_start = true;
                out.push('[');
                if letters.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
            }
            '[' if letters.peek() != Some(&':') => out.push_str("\\["),
            // a POSIX class such as `[:alpha:]`
            '[' => {
                out.push('[');
                for inner in letters.by_ref() {
                    out.push(inner);
                    if inner == ']' {
                        break;
                    }
                }
            }
            ']' if in_class && is_first => out.push_str("\\]"),
            ']' => {
                in_class = false;
                out.push(']');
            }
            '&' | '~' if in_class => out.extend(['\\', letter]),
            other => out.push(other),
        }
    }
    out
}

/// Puts groups into a template as Go's `Regexp.Expand` does: `$1`, `${1}`, `$name`, `${name}`, `$$`; unknown groups are empty.
pub(super) fn expand(template: &str, text: &str, captures: &Captures, out: &mut String) {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
            continue;
        }
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let (name, tail) = match after.strip_prefix('{') {
            Some(braced) => match braced.split_once('}') {
                Some((name, tail)) if !name.is_empty() && name.chars().all(is_name) => (name, tail),
                _ => ("", after),
            },
            None => after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len())),
        };
        if name.is_empty() {
            out.push('$');
            rest = after;
            continue;
        }
        let span = match name.parse::<usize>() {
            Ok(index) => captures.get_group(index),
            Err(_) => captures.get_group_by_name(name),
        };
        out.push_str(span.and_then(|span| text.get(span.start..span.end)).unwrap_or_default());
        rest = tail;
    }
    out.push_str(rest);
}
