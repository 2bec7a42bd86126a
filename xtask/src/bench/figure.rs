//! A measured figure and its goal.

use std::process::ExitCode;

/// What a figure must satisfy.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// Shown for comparison only.
    Shown,
}

/// One measured figure.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    /// What was measured, with its unit: `parse, 20 wanted names, MB/s`.
    pub(crate) name: String,
    /// The value seen.
    pub(crate) value: f64,
    /// What it must be.
    pub(crate) goal: Goal,
}

impl Figure {
    /// A figure with a goal.
    pub(crate) fn new(name: impl Into<String>, value: f64, goal: Goal) -> Self {
        Self { name: name.into(), value, goal }
    }

    fn is_met(&self) -> bool {
        match self.goal {
            Goal::AtMost(limit) => self.value <= limit,
            Goal::AtLeast(limit) => self.value >= limit,
            Goal::Shown => true,
        }
    }
}

/// Prints every figure with its goal; exit code 1 if one is missed.
pub(crate) fn report(figures: &[Figure]) -> ExitCode {
    println!("{:<64} {:>14} {:>16}", "figure", "seen", "goal");
    for figure in figures {
        let (goal, verdict) = match figure.goal {
            Goal::AtMost(limit) => (format!("<= {limit}"), if figure.is_met() { "met" } else { "missed" }),
            Goal::AtLeast(limit) => (format!(">= {limit}"), if figure.is_met() { "met" } else { "missed" }),
            Goal::Shown => (String::new(), ""),
        };
        println!("{:<64} {:>14.3} {:>16} {verdict}", figure.name, figure.value, goal);
    }
    if figures.iter().all(Figure::is_met) { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
