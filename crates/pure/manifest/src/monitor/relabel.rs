//! Relabeling as Prometheus does it (`model/relabel`): rules over the labels of a target, or over a series.

use super::RelabelConfig;
use super::md5;
use super::pattern::{Pattern, PatternError, expand};
use loadline_base::Labels;
use thiserror::Error;

/// The most rules of one endpoint.
pub const MAX_RULES: usize = 64;
/// The most source labels of one rule.
pub const MAX_SOURCES: usize = 64;
/// The longest replacement, target label or separator, in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 4_096;
/// The longest value a rule writes, in bytes; a rule that would write more does nothing.
pub const MAX_VALUE_BYTES: usize = 16_384;
/// The label that is a series' name.
const NAME: &str = "__name__";
const ANY: &str = "(.*)";
const WHOLE: &str = "$1";

/// Why rules are not applied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("relabeling {}: {what}", .index + 1)]
pub struct RelabelError {
    /// Which rule, counted from 0.
    pub index: usize,
    /// What is wrong and what to do.
    pub what: RelabelFault,
}

/// What is wrong with one rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RelabelFault {
    /// There are too many of something.
    #[error("there are {count} {of} and at most {most} are taken; use fewer")]
    Many {
        /// Of what.
        of: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        most: usize,
    },
    /// The action has no such name.
    #[error(
        "unknown `action` `{0}`; known are replace, keep, drop, keepequal, dropequal, hashmod, labelmap, labeldrop, labelkeep, lowercase and uppercase"
    )]
    Action(String),
    /// `targetLabel` is missing.
    #[error("`action: {0}` needs `targetLabel`")]
    Target(&'static str),
    /// `modulus` is missing.
    #[error("`action: hashmod` needs a `modulus` of at least 1")]
    Modulus,
    /// A field that the action does not look at.
    #[error("`action: {0}` takes `regex` alone; remove the other fields")]
    RegexOnly(&'static str),
    /// The expression.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// What became of a target or series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relabeled {
    /// It stays, with the labels it has now.
    Kept,
    /// A rule dropped it.
    Dropped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Replace,
    Keep,
    Drop,
    KeepEqual,
    DropEqual,
    HashMod,
    LabelMap,
    LabelDrop,
    LabelKeep,
    Lowercase,
    Uppercase,
}

const ACTIONS: [(&str, Action); 11] = [
    ("replace", Action::Replace),
    ("keep", Action::Keep),
    ("drop", Action::Drop),
    ("keepequal", Action::KeepEqual),
    ("dropequal", Action::DropEqual),
    ("hashmod", Action::HashMod),
    ("labelmap", Action::LabelMap),
    ("labeldrop", Action::LabelDrop),
    ("labelkeep", Action::LabelKeep),
    ("lowercase", Action::Lowercase),
    ("uppercase", Action::Uppercase),
];

#[derive(Debug, Clone)]
struct Rule {
    action: Action,
    sources: Vec<String>,
    separator: String,
    target: String,
    pattern: Pattern,
    modulus: u64,
    replacement: String,
}

/// Checked rules, in order.
#[derive(Debug, Clone, Default)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Checks and compiles.
    ///
    /// # Errors
    /// Names the first rule that Prometheus would refuse, or that passes a limit.
    pub fn compile(written: &[RelabelConfig]) -> Result<Self, RelabelError> {
        if written.len() > MAX_RULES {
            let what = RelabelFault::Many { of: "rules", count: written.len(), most: MAX_RULES };
            return Err(RelabelError { index: MAX_RULES, what });
        }
        let compiled =
            written.iter().enumerate().map(|(index, one)| rule(one).map_err(|what| RelabelError { index, what }));
        compiled.collect::<Result<_, _>>().map(Self)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Applies the rules to the labels of a target (`relabelings`).
    pub fn target(&self, labels: &mut Labels) -> Relabeled {
        let mut name = String::new();
        let kept = self.apply(&mut Series { name: &mut name, labels });
        // outside of series it is a label like any other
        if !name.is_empty() {
            labels.insert(NAME, name);
        }
        kept
    }

    /// Applies the rules to a series (`metricRelabelings`); its name is the label `__name__`. A series that loses its name is dropped.
    pub fn series(&self, name: &mut String, labels: &mut Labels) -> Relabeled {
        match self.apply(&mut Series { name, labels }) {
            Relabeled::Kept if name.is_empty() => Relabeled::Dropped,
            kept => kept,
        }
    }

    fn apply(&self, series: &mut Series<'_>) -> Relabeled {
        if self.0.iter().all(|rule| rule.apply(series)) { Relabeled::Kept } else { Relabeled::Dropped }
    }
}

struct Series<'a> {
    name: &'a mut String,
    labels: &'a mut Labels,
}

impl Series<'_> {
    fn get(&self, label: &str) -> &str {
        if label == NAME { self.name } else { self.labels.get(label).unwrap_or_default() }
    }

    /// An empty value is a label that is not there.
    fn set(&mut self, label: &str, value: String) {
        if label == NAME {
            *self.name = value;
        } else if value.is_empty() {
            self.labels.remove(label);
        } else {
            self.labels.insert(label, value);
        }
    }

    fn names(&self) -> Vec<String> {
        let own = (!self.name.is_empty()).then_some(NAME);
        self.labels.iter().map(|(label, _)| label).chain(own).map(str::to_owned).collect()
    }
}

fn rule(written: &RelabelConfig) -> Result<Rule, RelabelFault> {
    let action = written.action.as_deref().unwrap_or("replace").to_ascii_lowercase();
    let Some((name, action)) = ACTIONS.into_iter().find(|(name, _)| *name == action) else {
        return Err(RelabelFault::Action(action));
    };
    if written.source_labels.len() > MAX_SOURCES {
        let count = written.source_labels.len();
        return Err(RelabelFault::Many { of: "source labels", count, most: MAX_SOURCES });
    }
    let templates = [&written.replacement, &written.target_label, &written.separator];
    for template in templates.into_iter().flatten() {
        if template.len() > MAX_TEMPLATE_BYTES {
            let of = "bytes in `replacement`, `targetLabel` or `separator`";
            return Err(RelabelFault::Many { of, count: template.len(), most: MAX_TEMPLATE_BYTES });
        }
    }
    let target = written.target_label.clone().unwrap_or_default();
    let needs_target = matches!(
        action,
        Action::Replace
            | Action::HashMod
            | Action::Lowercase
            | Action::Uppercase
            | Action::KeepEqual
            | Action::DropEqual
    );
    if needs_target && target.is_empty() {
        return Err(RelabelFault::Target(name));
    }
    let modulus = written.modulus.unwrap_or_default();
    if action == Action::HashMod && modulus == 0 {
        return Err(RelabelFault::Modulus);
    }
    let has_more = !written.source_labels.is_empty() || !target.is_empty() || modulus != 0;
    if matches!(action, Action::LabelDrop | Action::LabelKeep) && has_more {
        return Err(RelabelFault::RegexOnly(name));
    }
    Ok(Rule {
        action,
        sources: written.source_labels.clone(),
        separator: written.separator.clone().unwrap_or_else(|| ";".to_owned()),
        target,
        pattern: Pattern::new(written.regex.as_deref().unwrap_or(ANY))?,
        modulus,
        replacement: written.replacement.clone().unwrap_or_else(|| WHOLE.to_owned()),
    })
}

impl Rule {
    /// Whether the series stays.
    fn apply(&self, series: &mut Series<'_>) -> bool {
        let joined = self.joined(series);
        match self.action {
            Action::Keep => return self.pattern.is_match(&joined),
            Action::Drop => return !self.pattern.is_match(&joined),
            Action::KeepEqual => return series.get(&self.target) == joined,
            Action::DropEqual => return series.get(&self.target) != joined,
            Action::Replace => self.replace(series, &joined),
            Action::Lowercase => series.set(&self.target, joined.to_lowercase()),
            Action::Uppercase => series.set(&self.target, joined.to_uppercase()),
            Action::HashMod => {
                let [.., a, b, c, d, e, f, g, h] = md5::digest(joined.as_bytes());
                let hash = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
                series.set(&self.target, (hash % self.modulus).to_string());
            }
            Action::LabelMap => self.map(series),
            Action::LabelDrop | Action::LabelKeep => {
                for name in series.names() {
                    if self.pattern.is_match(&name) == (self.action == Action::LabelDrop) {
                        series.set(&name, String::new());
                    }
                }
            }
        }
        true
    }

    fn joined(&self, series: &Series<'_>) -> String {
        let mut joined = String::new();
        for (index, source) in self.sources.iter().enumerate() {
            if index > 0 {
                joined.push_str(&self.separator);
            }
            joined.push_str(series.get(source));
        }
        joined
    }

    fn replace(&self, series: &mut Series<'_>, joined: &str) {
        let Some(captures) = self.pattern.captures(joined) else { return };
        let (mut target, mut value) = (String::new(), String::new());
        expand(&self.target, joined, &captures, &mut target);
        expand(&self.replacement, joined, &captures, &mut value);
        if !target.is_empty() && target.len() <= MAX_VALUE_BYTES && value.len() <= MAX_VALUE_BYTES {
            series.set(&target, value);
        }
    }

    fn map(&self, series: &mut Series<'_>) {
        for name in series.names() {
            if let Some(captures) = self.pattern.captures(&name) {
                let mut target = String::new();
                expand(&self.replacement, &name, &captures, &mut target);
                if !target.is_empty() && target.len() <= MAX_VALUE_BYTES {
                    let value = series.get(&name).to_owned();
                    series.set(&target, value);
                }
            }
        }
    }
}
