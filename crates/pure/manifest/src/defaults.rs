//! The form of every table of defaults. The tables themselves stand by theme: [`crate::hpa::defaults`],
//! [`crate::config::defaults`]; both are rendered into the reference page.

use loadline_base::format_duration;
use std::fmt::Write;
use std::time::Duration;

/// The value of a default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Setting {
    /// A number of things.
    Count(u64),
    /// A number of bytes.
    Bytes(u64),
    /// A factor or fraction.
    Number(f64),
    /// A span of time.
    Span(Duration),
    /// On or off.
    Switch(bool),
    /// Text.
    Text(&'static str),
    /// Nothing is set; the text says what holds then.
    Unset(&'static str),
}

/// One default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    /// The field it fills.
    pub field: &'static str,
    /// Its value.
    pub value: Setting,
    /// What it means.
    pub meaning: &'static str,
    /// Why this value.
    pub source: &'static str,
}

/// Makes an entry.
#[must_use]
pub const fn entry(field: &'static str, value: Setting, meaning: &'static str, source: &'static str) -> Entry {
    Entry { field, value, meaning, source }
}

impl Entry {
    /// The number of things or bytes; 0 for other values.
    #[must_use]
    pub const fn count(&self) -> u64 {
        match self.value {
            Setting::Count(count) | Setting::Bytes(count) => count,
            _ => 0,
        }
    }

    /// [`Self::count`] as the integers of the API.
    #[must_use]
    pub fn count_i32(&self) -> i32 {
        i32::try_from(self.count()).unwrap_or(i32::MAX)
    }

    /// [`Self::count`] as a replica count.
    #[must_use]
    pub fn count_u32(&self) -> u32 {
        u32::try_from(self.count()).unwrap_or(u32::MAX)
    }

    /// The factor; 0 for other values.
    #[must_use]
    pub const fn number(&self) -> f64 {
        match self.value {
            Setting::Number(number) => number,
            _ => 0.0,
        }
    }

    /// The span; zero for other values.
    #[must_use]
    pub const fn span(&self) -> Duration {
        match self.value {
            Setting::Span(span) => span,
            _ => Duration::ZERO,
        }
    }

    /// The switch; off for other values.
    #[must_use]
    pub const fn switch(&self) -> bool {
        matches!(self.value, Setting::Switch(true))
    }

    /// The text; empty for other values.
    #[must_use]
    pub const fn text(&self) -> &'static str {
        match self.value {
            Setting::Text(text) => text,
            _ => "",
        }
    }

    /// The value as a file would have it.
    #[must_use]
    pub fn shown(&self) -> String {
        match self.value {
            Setting::Count(count) => count.to_string(),
            Setting::Bytes(bytes) => bytes_text(bytes),
            Setting::Number(number) => number.to_string(),
            Setting::Span(span) => format_duration(span),
            Setting::Switch(on) => on.to_string(),
            Setting::Text(text) => text.to_owned(),
            Setting::Unset(text) => format!("unset: {text}"),
        }
    }
}

/// Bytes with the largest suffix that leaves no fraction; binary suffixes first.
#[must_use]
pub fn bytes_text(bytes: u64) -> String {
    for (suffix, size) in
        [("Gi", 1_u64 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10), ("G", 1_000_000_000), ("M", 1_000_000)]
    {
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{}{suffix}", bytes / size);
        }
    }
    bytes.to_string()
}

/// A table as Markdown.
#[must_use]
pub fn markdown_table(table: &[Entry]) -> String {
    let mut out = "| field | default | meaning | source |\n| --- | --- | --- | --- |\n".to_owned();
    for one in table {
        let (field, meaning, source) = (one.field, one.meaning, one.source);
        let value = match one.value {
            Setting::Unset(_) => one.shown(),
            _ => format!("`{}`", one.shown()),
        };
        let cells =
            [format!("`{field}`"), value, meaning.to_owned(), source.to_owned()].map(|cell| cell.replace('|', "\\|"));
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    out
}
