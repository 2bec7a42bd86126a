//! Label selectors with the meaning of Kubernetes, over pod labels and over series labels.

use loadline_base::Labels;
use std::fmt;

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// The label is there and its value is one of the values.
    In,
    /// The label is absent, or its value is none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// The label's name.
    pub key: String,
    /// How it compares.
    pub operator: Operator,
    /// The values of [`Operator::In`] and [`Operator::NotIn`].
    pub values: Vec<String>,
}

impl Requirement {
    /// `key = value`.
    #[must_use]
    pub fn equal(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), operator: Operator::In, values: vec![value.into()] }
    }

    /// Whether the value of the label, or its absence, fits.
    #[must_use]
    pub fn matches(&self, value: Option<&str>) -> bool {
        let is_listed = value.is_some_and(|value| self.values.iter().any(|listed| listed == value));
        match self.operator {
            Operator::In => is_listed,
            Operator::NotIn => !is_listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, operator, values } = self;
        match (operator, values.as_slice()) {
            (Operator::In, [value]) => write!(f, "{key}={value}"),
            (Operator::NotIn, [value]) => write!(f, "{key}!={value}"),
            (Operator::In, _) => write!(f, "{key} in ({})", values.join(",")),
            (Operator::NotIn, _) => write!(f, "{key} notin ({})", values.join(",")),
            (Operator::Exists, _) => f.write_str(key),
            (Operator::DoesNotExist, _) => write!(f, "!{key}"),
        }
    }
}

/// Conditions that must all hold; without any, everything matches. The meaning of each is that of
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Selector {
    /// The conditions.
    pub requirements: Vec<Requirement>,
}

/// A [`Selector`] that is meant for pod labels.
pub type PodSelector = Selector;

impl Selector {
    /// What matches everything.
    #[must_use]
    pub const fn all() -> Self {
        Self { requirements: Vec::new() }
    }

    /// Each of these labels with exactly its value.
    #[must_use]
    pub fn equal<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        Self { requirements: pairs.into_iter().map(|(key, value)| Requirement::equal(key, value)).collect() }
    }

    /// Whether there is no condition.
    #[must_use]
    pub const fn is_all(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether every condition holds for these labels.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels.get(&requirement.key)))
    }

    /// Whether some condition is about this label.
    #[must_use]
    pub fn names(&self, key: &str) -> bool {
        self.requirements.iter().any(|requirement| requirement.key == key)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operator_means_what_kubernetes_means() {
        let of = |operator, values: &[&str]| Requirement {
            key: "app".to_owned(),
            operator,
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        };
        for (requirement, a, b, absent, text) in [
            (of(Operator::In, &["a"]), true, false, false, "app=a"),
            (of(Operator::In, &["a", "b"]), true, true, false, "app in (a,b)"),
            (of(Operator::NotIn, &["a"]), false, true, true, "app!=a"),
            (of(Operator::NotIn, &["a", "b"]), false, false, true, "app notin (a,b)"),
            (of(Operator::Exists, &[]), true, true, false, "app"),
            (of(Operator::DoesNotExist, &[]), false, false, true, "!app"),
        ] {
            let got = [Some("a"), Some("b"), None].map(|value| requirement.matches(value));
            assert_eq!(got, [a, b, absent], "{requirement}");
            assert_eq!(requirement.to_string(), text);
        }
        let both = Selector::equal([("app", "a"), ("tier", "x")]);
        assert!(both.matches(&[("app", "a"), ("tier", "x"), ("more", "y")].into_iter().collect()));
        assert!(!both.matches(&[("app", "a")].into_iter().collect()));
        assert!(Selector::all().matches(&Labels::new()));
        assert_eq!(both.to_string(), "app=a,tier=x");
    }
}
