//! What is wrong with an input, and where.

use super::Position;
use std::fmt;

/// One thing wrong in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file as the caller names it.
    pub file: String,
    /// Where.
    pub at: Position,
    /// The field, as `models[0].slots`; empty for the file as a whole.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Fault {
    /// Makes one.
    #[must_use]
    pub fn new(file: &str, at: Position, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), at, path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.at.line, self.at.column)?;
        if !self.path.is_empty() {
            write!(f, "`{}`: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

/// Everything wrong in one file, in the order found; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Makes `Err` of faults, or `Ok` where there are none.
    ///
    /// # Errors
    /// When there is at least one.
    pub fn check(faults: Vec<Fault>) -> Result<(), Self> {
        if faults.is_empty() { Ok(()) } else { Err(Self(faults)) }
    }

    /// Every fault.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// The parser's own complaint, with its position moved to where all of ours stand.
pub(super) fn of_yaml(file: &str, error: &serde_saphyr::Error) -> Fault {
    use serde_saphyr::Error;
    let error = error.without_snippet();
    let at = error.location().map_or(Position::START, Position::of);
    let message = match error {
        Error::DuplicateMappingKey { key, .. } => {
            let name = key.clone().unwrap_or_default();
            format!("`{name}` is written twice in the same mapping; keep one")
        }
        Error::Budget { breach, .. } => {
            format!("the file passes a limit of the reader ({breach:?}); make it smaller or split it")
        }
        other => {
            let text = other.to_string();
            let first = text.lines().next().unwrap_or_default();
            let bare = first.split(" at line ").next().unwrap_or(first).trim_end_matches([' ', ',', ':']);
            let bare = bare.strip_prefix("error: ").unwrap_or(bare);
            format!("this is not YAML: {bare}; check indentation, quotes and colons near here")
        }
    };
    Fault::new(file, at, "", message)
}
