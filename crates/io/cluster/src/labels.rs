//! Label sets whose strings are shared, and selectors over them.

use loadline_base::Labels;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Shares equal strings; two thousand pods of one Deployment then hold their label values once.
#[derive(Debug, Default)]
pub(crate) struct Interner(BTreeSet<Arc<str>>);

/// Strings kept at most before those that nobody uses are let go.
const INTERNER_LIMIT: usize = 65_536;

impl Interner {
    pub(crate) fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(shared) = self.0.get(text) {
            return Arc::clone(shared);
        }
        if self.0.len() >= INTERNER_LIMIT {
            self.0.retain(|shared| Arc::strong_count(shared) > 1);
        }
        let shared: Arc<str> = text.into();
        if self.0.len() < INTERNER_LIMIT {
            self.0.insert(Arc::clone(&shared));
        }
        shared
    }

    pub(crate) fn set(&mut self, pairs: Option<BTreeMap<String, String>>) -> LabelSet {
        let pairs = pairs.unwrap_or_default();
        LabelSet(pairs.iter().map(|(name, value)| (self.get(name), self.get(value))).collect())
    }
}

/// Names and values in name order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSet(Arc<[(Arc<str>, Arc<str>)]>);

impl LabelSet {
    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let index = self.0.binary_search_by(|(have, _)| (**have).cmp(name)).ok()?;
        self.0.get(index).map(|(_, value)| &**value)
    }

    /// Names and values in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same as the type the pure crates use.
    #[must_use]
    pub fn to_labels(&self) -> Labels {
        self.iter().collect()
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for LabelSet {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let sorted: BTreeMap<Arc<str>, Arc<str>> =
            pairs.into_iter().map(|(name, value)| (name.as_ref().into(), value.as_ref().into())).collect();
        Self(sorted.into_iter().collect())
    }
}

/// A label selector (`metav1.LabelSelector`), all of whose requirements must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Exists(String),
    Absent(String),
}

/// A selector as manifests have it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RawSelector {
    pub(crate) match_labels: BTreeMap<String, String>,
    pub(crate) match_expressions: Vec<RawExpression>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RawExpression {
    pub(crate) key: String,
    pub(crate) operator: String,
    #[serde(default)]
    pub(crate) values: Vec<String>,
}

/// Requirements of one selector that are read.
const MAX_REQUIREMENTS: usize = 256;

impl Selector {
    /// Reads the text form of `scale.status.selector`: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    ///
    /// # Errors
    /// Names the part that is no requirement.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            requirements.push(parse_requirement(part).ok_or_else(|| {
                format!("`{part}` in selector `{text}` is no requirement; write `key=value`, `key in (a,b)`, `key` or `!key`")
            })?);
            if requirements.len() > MAX_REQUIREMENTS {
                return Err(format!("selector has more than {MAX_REQUIREMENTS} requirements"));
            }
        }
        Ok(Self(requirements))
    }

    pub(crate) fn from_raw(raw: &RawSelector) -> Result<Self, String> {
        if raw.match_labels.len() + raw.match_expressions.len() > MAX_REQUIREMENTS {
            return Err(format!("selector has more than {MAX_REQUIREMENTS} requirements"));
        }
        let mut requirements: Vec<Requirement> = raw
            .match_labels
            .iter()
            .map(|(key, value)| Requirement::In(key.clone(), BTreeSet::from([value.clone()])))
            .collect();
        for expression in &raw.match_expressions {
            let (key, values) = (expression.key.clone(), expression.values.iter().cloned().collect::<BTreeSet<_>>());
            requirements.push(match (expression.operator.as_str(), values.is_empty()) {
                ("In", false) => Requirement::In(key, values),
                ("NotIn", false) => Requirement::NotIn(key, values),
                ("Exists", true) => Requirement::Exists(key),
                ("DoesNotExist", true) => Requirement::Absent(key),
                (operator, _) => {
                    return Err(format!(
                        "operator `{operator}` of key `{key}` with {} values is not allowed; `In` and `NotIn` need values, `Exists` and `DoesNotExist` take none",
                        expression.values.len()
                    ));
                }
            });
        }
        Ok(Self(requirements))
    }

    /// Whether there is no requirement: then it selects everything, and a scale without selector selects nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all requirements hold.
    #[must_use]
    pub fn matches(&self, labels: &LabelSet) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists(key) => labels.get(key).is_some(),
            Requirement::Absent(key) => labels.get(key).is_none(),
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let list = |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join(",");
            match requirement {
                Requirement::In(key, values) if values.len() == 1 => write!(f, "{key}={}", list(values))?,
                Requirement::In(key, values) => write!(f, "{key} in ({})", list(values))?,
                Requirement::NotIn(key, values) if values.len() == 1 => write!(f, "{key}!={}", list(values))?,
                Requirement::NotIn(key, values) => write!(f, "{key} notin ({})", list(values))?,
                Requirement::Exists(key) => write!(f, "{key}")?,
                Requirement::Absent(key) => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    text.split(|c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

fn parse_requirement(part: &str) -> Option<Requirement> {
    if let Some(key) = part.strip_prefix('!') {
        return key_of(key).map(Requirement::Absent);
    }
    if let Some(list) = part.strip_suffix(')') {
        let (head, values) = list.split_once('(')?;
        let values: BTreeSet<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
        let (key, operator) = head.trim().split_once(char::is_whitespace)?;
        let key = key_of(key)?;
        return match operator.trim() {
            "in" => Some(Requirement::In(key, values)),
            "notin" => Some(Requirement::NotIn(key, values)),
            _ => None,
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return key_of(key).map(|key| Requirement::NotIn(key, BTreeSet::from([value.trim().to_owned()])));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return key_of(key).map(|key| Requirement::In(key, BTreeSet::from([value.trim().to_owned()])));
    }
    key_of(part).map(Requirement::Exists)
}

fn key_of(text: &str) -> Option<String> {
    let key = text.trim();
    let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
    is_key.then(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_select_what_kubernetes_selects() {
        let labels: LabelSet = [("app", "vllm"), ("tier", "gpu")].into_iter().collect();
        for (text, expect) in [
            ("app=vllm", true),
            ("app==vllm,tier=gpu", true),
            ("app=sglang", false),
            ("app!=sglang", true),
            ("zone!=a", true),
            ("app in (vllm,sglang)", true),
            ("app in (a, b),tier", false),
            ("app notin (a,b),tier,!zone", true),
            ("zone", false),
            ("!app", false),
        ] {
            let selector = Selector::parse(text).expect(text);
            assert_eq!(selector.matches(&labels), expect, "{text}");
            assert_eq!(Selector::parse(&selector.to_string()).expect(text), selector, "{text}");
        }
        for text in ["a in b", "=b", "a within (b)", "a b"] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn expressions_follow_their_operators() {
        let labels: LabelSet = [("app", "vllm")].into_iter().collect();
        for (operator, values, expect) in [
            ("In", vec!["vllm"], Some(true)),
            ("NotIn", vec!["vllm"], Some(false)),
            ("Exists", vec![], Some(true)),
            ("DoesNotExist", vec![], Some(false)),
            ("In", vec![], None),
            ("Exists", vec!["x"], None),
            ("Gt", vec!["1"], None),
        ] {
            let expression = RawExpression {
                key: "app".to_owned(),
                operator: operator.to_owned(),
                values: values.into_iter().map(str::to_owned).collect(),
            };
            let raw = RawSelector { match_expressions: vec![expression], ..RawSelector::default() };
            assert_eq!(Selector::from_raw(&raw).ok().map(|selector| selector.matches(&labels)), expect, "{operator}");
        }
    }
}
