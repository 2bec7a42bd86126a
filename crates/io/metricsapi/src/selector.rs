//! Label selectors in query parameters: the grammar of apimachinery's `labels.Parse`, and their form in replies.

use loadline_signals::served::{Operator, Requirement, Selector};
use serde::Serialize;
use std::collections::BTreeMap;
use thiserror::Error;

/// Most requirements of one selector.
const MAX_REQUIREMENTS: usize = 256;
/// Longest label value and longest name part of a key (Kubernetes' label syntax).
const MAX_NAME: usize = 63;
/// Longest prefix of a key (a DNS subdomain).
const MAX_PREFIX: usize = 253;

/// Why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not a label selector: {problem}")]
pub struct SelectorError {
    /// As given, cut to a readable length.
    pub text: String,
    /// What is wrong, with the part in question.
    pub problem: String,
}

/// Reads `a=b,c==d,e!=f,g in (h,i),j notin (k),l,!m`; the empty text selects everything.
///
/// # Errors
/// Names the part that is wrong.
pub fn parse(text: &str) -> Result<Selector, SelectorError> {
    let fail = |problem: String| SelectorError { text: text.chars().take(200).collect(), problem };
    if text.trim().is_empty() {
        return Ok(Selector::all());
    }
    let mut requirements = Vec::new();
    for part in split(text).map_err(fail)? {
        requirements.push(requirement(part.trim()).map_err(fail)?);
        if requirements.len() > MAX_REQUIREMENTS {
            return Err(fail(format!("more than {MAX_REQUIREMENTS} requirements")));
        }
    }
    Ok(Selector { requirements })
}

/// The parts between the commas that stand outside parentheses.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut rest, mut inside, mut from) = (Vec::new(), text, false, 0);
    while let Some(at) = rest.get(from..).and_then(|tail| tail.find(['(', ')', ','])).map(|at| at + from) {
        let (head, tail) = rest.split_at(at);
        match tail.bytes().next() {
            Some(b'(') if inside => return Err("`(` inside parentheses".to_owned()),
            Some(b'(') => inside = true,
            Some(b')') if !inside => return Err("`)` without `(`".to_owned()),
            Some(b')') => inside = false,
            _ if !inside => {
                parts.push(head);
                rest = tail.strip_prefix(',').unwrap_or(tail);
                from = 0;
                continue;
            }
            _ => {}
        }
        from = at + 1;
    }
    if inside {
        return Err("`(` without `)`".to_owned());
    }
    parts.push(rest);
    Ok(parts)
}

fn requirement(part: &str) -> Result<Requirement, String> {
    if part.is_empty() {
        return Err("nothing between two commas".to_owned());
    }
    let of = |name: &str, operator, values| Ok(Requirement { key: key(name)?, operator, values });
    if let Some(name) = part.strip_prefix('!') {
        return of(name, Operator::DoesNotExist, Vec::new());
    }
    if let Some((name, list)) = part.split_once('(') {
        let list = list.strip_suffix(')').ok_or_else(|| format!("`{part}` has text after `)`"))?;
        let (name, word) = name.trim().rsplit_once(char::is_whitespace).unwrap_or(("", name.trim()));
        let operator = match word {
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            _ => return Err(format!("`{part}`: write `in` or `notin` before `(`")),
        };
        let mut values = list.split(',').map(value).collect::<Result<Vec<_>, _>>()?;
        values.sort_unstable();
        values.dedup();
        return of(name, operator, values);
    }
    if part.contains(['<', '>']) {
        return Err(format!("`{part}`: `<` and `>` are for nodes' numbers, not for metrics; use =, !=, in, notin"));
    }
    if let Some((name, wanted)) = part.split_once("!=") {
        return of(name, Operator::NotIn, vec![value(wanted)?]);
    }
    if let Some((name, wanted)) = part.split_once('=') {
        return of(name, Operator::In, vec![value(wanted.strip_prefix('=').unwrap_or(wanted))?]);
    }
    of(part, Operator::Exists, Vec::new())
}

fn key(text: &str) -> Result<String, String> {
    let text = text.trim();
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let is_prefix = |prefix: &str| {
        let is_part = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        };
        prefix.len() <= MAX_PREFIX && prefix.split('.').all(is_part)
    };
    if prefix.is_none_or(is_prefix) && !name.is_empty() && is_name(name) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not a label name: at most {MAX_NAME} of letters, digits, `-`, `_`, `.`, with an optional `domain/` before it"
        ))
    }
}

fn value(text: &str) -> Result<String, String> {
    let text = text.trim();
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not a label value: at most {MAX_NAME} of letters, digits, `-`, `_`, `.`, with a letter or digit at both ends"
        ))
    }
}

fn is_name(text: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= MAX_NAME
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && is_end(bytes.first())
        && is_end(bytes.last())
}

/// A selector as a `LabelSelector` object (apimachinery's `ParseToLabelSelector`; `!=` is written as NotIn).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LabelSelector {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    match_labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    match_expressions: Vec<Expression>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Expression {
    key: String,
    operator: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    values: Vec<String>,
}

impl LabelSelector {
    /// `None` for the selector of everything, which replies print as null.
    pub(crate) fn of(selector: &Selector) -> Option<Self> {
        if selector.is_all() {
            return None;
        }
        let mut object = Self { match_labels: BTreeMap::new(), match_expressions: Vec::new() };
        for Requirement { key, operator, values } in &selector.requirements {
            let operator = match (operator, values.as_slice()) {
                (Operator::In, [value]) if !object.match_labels.contains_key(key) => {
                    object.match_labels.insert(key.clone(), value.clone());
                    continue;
                }
                (Operator::In, _) => "In",
                (Operator::NotIn, _) => "NotIn",
                (Operator::Exists, _) => "Exists",
                (Operator::DoesNotExist, _) => "DoesNotExist",
            };
            object.match_expressions.push(Expression { key: key.clone(), operator, values: values.clone() });
        }
        Some(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_syntax_is_read() {
        for (text, canonical, object) in [
            ("", "", "null"),
            (" ", "", "null"),
            ("a=b", "a=b", r#"{"matchLabels":{"a":"b"}}"#),
            ("a==b", "a=b", r#"{"matchLabels":{"a":"b"}}"#),
            ("a=", "a=", r#"{"matchLabels":{"a":""}}"#),
            ("a!=b", "a!=b", r#"{"matchExpressions":[{"key":"a","operator":"NotIn","values":["b"]}]}"#),
            ("a in (c, b,c)", "a in (b,c)", r#"{"matchExpressions":[{"key":"a","operator":"In","values":["b","c"]}]}"#),
            (
                "a notin(b,c)",
                "a notin (b,c)",
                r#"{"matchExpressions":[{"key":"a","operator":"NotIn","values":["b","c"]}]}"#,
            ),
            ("a", "a", r#"{"matchExpressions":[{"key":"a","operator":"Exists"}]}"#),
            ("!a", "!a", r#"{"matchExpressions":[{"key":"a","operator":"DoesNotExist"}]}"#),
            ("in=notin", "in=notin", r#"{"matchLabels":{"in":"notin"}}"#),
            (
                "x.io/role = p , !b",
                "x.io/role=p,!b",
                r#"{"matchLabels":{"x.io/role":"p"},"matchExpressions":[{"key":"b","operator":"DoesNotExist"}]}"#,
            ),
        ] {
            let selector = parse(text).expect(text);
            assert_eq!(selector.to_string(), canonical, "{text}");
            assert_eq!(serde_json::to_string(&LabelSelector::of(&selector)).expect("json"), object, "{text}");
        }
    }

    #[test]
    fn faults_name_the_part() {
        for (text, part) in [
            ("model_name=org/model", "`org/model` is not a label value"),
            ("a=b,", "nothing between two commas"),
            (",", "nothing between two commas"),
            ("a in b", "`a in b` is not a label name"),
            ("a in (b", "`(` without `)`"),
            ("a)", "`)` without `(`"),
            ("a of (b)", "write `in` or `notin`"),
            ("a in (b) c", "text after `)`"),
            ("a=((b))", "`(` inside parentheses"),
            ("=b", "`` is not a label name"),
            ("-a=b", "`-a` is not a label name"),
            ("a/b/c=d", "is not a label name"),
            ("A.B/c=d", "is not a label name"),
            ("a>1", "`<` and `>`"),
            ("a=b=c", "`b=c` is not a label value"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_reads_back(text in "[a-z=!(), ./\u{e9}<>-]{0,40}") {
            if let Ok(selector) = parse(&text) {
                proptest::prop_assert_eq!(parse(&selector.to_string()), Ok(selector));
            }
        }
    }
}
