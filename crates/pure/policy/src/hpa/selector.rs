//! Label selectors in their text form (`status.selector` of a scale; apimachinery's `labels.Parse`).

use loadline_base::Labels;
use thiserror::Error;

/// Why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not a label selector: {problem}")]
pub struct SelectorError {
    /// The text as given.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// A parsed selector; every requirement must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector(Vec<Requirement>);

impl Selector {
    /// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k`. The empty text selects everything.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let fail = |problem| SelectorError { text: text.to_owned(), problem };
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let parts = split_outside_parentheses(text).ok_or_else(|| fail("unbalanced parentheses"))?;
        parts.iter().map(|part| requirement(part).map_err(fail)).collect::<Result<_, _>>().map(Self)
    }

    /// A selector of exact values.
    #[must_use]
    pub fn of_labels(labels: &Labels) -> Self {
        Self(labels.iter().map(|(name, value)| Requirement::In(name.to_owned(), vec![value.to_owned()])).collect())
    }

    /// Whether labels satisfy every requirement.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(name, values) => labels.get(name).is_some_and(|have| values.iter().any(|v| v == have)),
            Requirement::NotIn(name, values) => labels.get(name).is_none_or(|have| values.iter().all(|v| v != have)),
            Requirement::Exists(name) => labels.get(name).is_some(),
            Requirement::Absent(name) => labels.get(name).is_none(),
        })
    }
}

fn split_outside_parentheses(text: &str) -> Option<Vec<String>> {
    let mut parts = vec![String::new()];
    let mut inside = false;
    for c in text.chars() {
        match c {
            '(' if inside => return None,
            ')' if !inside => return None,
            ',' if !inside => {
                parts.push(String::new());
                continue;
            }
            '(' => inside = true,
            ')' => inside = false,
            _ => {}
        }
        parts.last_mut()?.push(c);
    }
    (!inside).then_some(parts)
}

fn requirement(part: &str) -> Result<Requirement, &'static str> {
    let part = part.trim();
    if let Some(name) = part.strip_prefix('!') {
        return Ok(Requirement::Absent(key(name)?));
    }
    if let Some((name, value)) = part.split_once("!=") {
        return Ok(Requirement::NotIn(key(name)?, vec![label_value(value)?]));
    }
    if let Some((name, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Requirement::In(key(name)?, vec![label_value(value)?]));
    }
    if let Some((head, tail)) = part.split_once('(') {
        let list = tail.strip_suffix(')').ok_or("text after `)`")?;
        let values: Vec<String> = list.split(',').map(label_value).collect::<Result<_, _>>()?;
        let (name, operator) = head.trim().rsplit_once(char::is_whitespace).ok_or("`(` without `in` or `notin`")?;
        return match operator {
            "in" => Ok(Requirement::In(key(name)?, values)),
            "notin" => Ok(Requirement::NotIn(key(name)?, values)),
            _ => Err("expected `in` or `notin` before `(`"),
        };
    }
    Ok(Requirement::Exists(key(part)?))
}

fn key(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let prefix_ok = prefix.is_none_or(|prefix| {
        !prefix.is_empty()
            && prefix.len() <= 253
            && prefix.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
    });
    if prefix_ok && !name.is_empty() && is_name(name) { Ok(text.to_owned()) } else { Err("a key is not a label name") }
}

fn label_value(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    if is_name(text) { Ok(text.to_owned()) } else { Err("a value is not a label value") }
}

/// At most 63 letters, digits, `-`, `_`, `.`, with a letter or digit at both ends; empty is allowed.
fn is_name(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && ends(text.chars().next())
        && ends(text.chars().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matches() {
        let labels: Labels = [("app", "llama"), ("tier", "gpu"), ("example.com/role", "prefill")].into_iter().collect();
        for (text, expect) in [
            ("", true),
            ("app=llama", true),
            ("app==llama,tier=gpu", true),
            ("app=llama,tier=cpu", false),
            ("app!=llama", false),
            ("zone!=a", true),
            ("app in (llama, qwen)", true),
            ("app notin (llama,qwen)", false),
            ("app notin (qwen),tier", true),
            ("!app", false),
            ("!zone", true),
            ("example.com/role=prefill", true),
        ] {
            assert_eq!(Selector::parse(text).map(|selector| selector.matches(&labels)), Ok(expect), "{text}");
        }
        assert!(Selector::of_labels(&labels).matches(&labels));
        assert!(!Selector::of_labels(&labels).matches(&Labels::new()));
    }

    #[test]
    fn what_is_refused() {
        for text in [
            "cheddar cheese",
            "a=b,",
            "a in b",
            "a in (b",
            "a)",
            "a of (b)",
            "=b",
            "a=b c",
            "-a=b",
            "a/b/c=d",
            "a=((b))",
        ] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }
}
