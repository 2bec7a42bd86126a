//! The form of a metrics page, read from a page file, and its rendering.
//!
//! A page file has one line per header or sample, in the order of the real page; fields are separated by tabs.
//! - `% ...`: a remark.
//! - `# HELP ...`, `# TYPE ...`: printed as it is; on pages that drop empty families only if a sample follows.
//! - `series<TAB>value[<TAB>condition]`: a sample. The value is a literal, `$name` (a value by name), or `$name#count` and
//!   `$name#sum` of the histogram from source `name` in the same family.
//! - `%hist<TAB>series<TAB>source<TAB>edges<TAB>condition`: the buckets of a histogram; `%le` stands for the edge. Edges are
//!   printed as written; `1-2-5` means 1, 2, 5, 10, ... up to the context length.
//! - `%each kind<TAB>series<TAB>value`: one sample per HTTP endpoint; consecutive ones are printed endpoint by endpoint.
//!
//! Conditions: `started` (a request has been seen), `nonzero` (the value, or the histogram's count, is not 0).

use crate::http_stats::{EndpointKind, HttpStats};
use loadline_base::num;
use loadline_sim::engine::Histogram;
use std::collections::{BTreeMap, BTreeSet};

/// How numbers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NumberForm {
    /// prometheus_client for Python: always a fraction, exponent from a million up.
    Python,
    /// The Rust prometheus crate: shortest, never an exponent.
    Rust,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Always,
    Started,
    NonZero,
}

#[derive(Debug)]
enum Value {
    Literal(String),
    Named(String),
    Count(usize),
    Sum(usize),
}

#[derive(Debug)]
enum Line {
    Header(String),
    Sample { series: String, value: Value, condition: Condition },
    Buckets { before: String, after: String, edges: Vec<String>, histogram: usize, condition: Condition },
    Each { kind: EndpointKind, samples: Vec<(String, String)> },
}

/// A page ready for rendering, and its histograms.
#[derive(Debug)]
pub(crate) struct Page {
    lines: Vec<Line>,
    histograms: Vec<Histogram>,
    by_source: BTreeMap<String, Vec<usize>>,
    /// Histograms whose sum has its line.
    summed: BTreeSet<usize>,
    form: NumberForm,
    drop_empty: bool,
    size: usize,
}

/// What a page is rendered from.
pub(crate) struct Seen<'a> {
    /// Values by name.
    pub(crate) values: &'a BTreeMap<String, f64>,
    /// The HTTP server's own counts.
    pub(crate) http: &'a HttpStats,
    /// A request has been seen.
    pub(crate) started: bool,
}

impl Page {
    /// Reads a page file. `names` are replaced as `@name@`; `max_edge` ends the `1-2-5` edges.
    pub(crate) fn parse(
        text: &str,
        names: &[(&str, String)],
        max_edge: u32,
        form: NumberForm,
        drop_empty: bool,
    ) -> Self {
        let mut page = Self {
            lines: Vec::new(),
            histograms: Vec::new(),
            by_source: BTreeMap::new(),
            summed: BTreeSet::new(),
            form,
            drop_empty,
            size: 0,
        };
        for raw in text.lines() {
            let mut line = raw.to_owned();
            if line.contains('@') {
                for (name, value) in names {
                    line = line.replace(&format!("@{name}@"), value);
                }
            }
            page.parse_line(&line, max_edge);
        }
        page.size = text.len() * 2;
        page
    }

    fn parse_line(&mut self, line: &str, max_edge: u32) {
        if line.starts_with('#') {
            self.lines.push(Line::Header(line.to_owned()));
            return;
        }
        let mut fields = line.split('\t');
        let first = fields.next().unwrap_or_default();
        let mut next = || fields.next().unwrap_or_default();
        if first == "%hist" {
            let (series, source, edges, condition) = (next(), next(), next(), condition(next()));
            let edges = edge_texts(edges, max_edge);
            let (before, after) = series.split_once("%le").unwrap_or((series, ""));
            let bounds: Vec<f64> = edges.iter().filter_map(|edge| edge.parse().ok()).collect();
            let histogram = self.histograms.len();
            self.histograms.push(Histogram::new(&bounds));
            self.by_source.entry(source.to_owned()).or_default().push(histogram);
            let (before, after) = (before.to_owned(), after.to_owned());
            self.lines.push(Line::Buckets { before, after, edges, histogram, condition });
        } else if let Some(kind) = first.strip_prefix("%each ").and_then(EndpointKind::parse) {
            let sample = (next().to_owned(), next().to_owned());
            match self.lines.last_mut() {
                Some(Line::Each { kind: last, samples }) if *last == kind => samples.push(sample),
                _ => self.lines.push(Line::Each { kind, samples: vec![sample] }),
            }
        } else if !first.starts_with('%') && !first.is_empty() {
            let (value, condition) = (next(), condition(next()));
            let value = self.value(value);
            self.lines.push(Line::Sample { series: first.to_owned(), value, condition });
        }
    }

    fn value(&mut self, text: &str) -> Value {
        let Some(name) = text.strip_prefix('$') else { return Value::Literal(text.to_owned()) };
        let last = |source: &str| self.by_source.get(source).and_then(|all| all.last()).copied();
        match name.split_once('#').map(|(source, part)| (last(source), part)) {
            Some((Some(index), "count")) => Value::Count(index),
            Some((index, "sum")) => {
                // A sum that stands before its buckets (Python's multiprocess pages) belongs to the next histogram.
                let index = index.filter(|index| !self.summed.contains(index)).unwrap_or(self.histograms.len());
                self.summed.insert(index);
                Value::Sum(index)
            }
            _ => Value::Named(name.to_owned()),
        }
    }

    /// Names of values that the page reads.
    #[cfg(test)]
    pub(crate) fn named_values(&self) -> Vec<&str> {
        self.lines
            .iter()
            .filter_map(|line| match line {
                Line::Sample { value: Value::Named(name), .. } => Some(name.as_str()),
                _ => None,
            })
            .collect()
    }

    /// Counts a value in every histogram of that source; a page that has none ignores it.
    pub(crate) fn observe(&mut self, source: &str, value: f64) {
        let Some(all) = self.by_source.get(source) else { return };
        for index in all {
            if let Some(histogram) = self.histograms.get_mut(*index) {
                histogram.observe(value);
            }
        }
    }

    /// The page as text.
    pub(crate) fn render(&self, seen: &Seen<'_>) -> String {
        let mut out = String::with_capacity(self.size);
        let mut headers: Vec<&str> = Vec::new();
        for line in &self.lines {
            if let Line::Header(text) = line {
                if self.drop_empty {
                    // HELP begins a family; a TYPE without samples before it goes with it.
                    if text.starts_with("# HELP") {
                        headers.clear();
                    }
                    headers.push(text);
                } else {
                    out.push_str(text);
                    out.push('\n');
                }
                continue;
            }
            let mut body = String::new();
            self.render_line(line, seen, &mut body);
            if !body.is_empty() {
                for header in headers.drain(..) {
                    out.push_str(header);
                    out.push('\n');
                }
                out.push_str(&body);
            }
        }
        out
    }

    fn render_line(&self, line: &Line, seen: &Seen<'_>, out: &mut String) {
        let holds = |condition: Condition, value: f64| match condition {
            Condition::Always => true,
            Condition::Started => seen.started,
            Condition::NonZero => value != 0.0,
        };
        match line {
            Line::Header(_) => {}
            Line::Sample { series, value: Value::Literal(text), condition } => {
                if holds(*condition, 1.0) {
                    push(out, series, text);
                }
            }
            Line::Sample { series, value, condition } => {
                let (value, gate) = match value {
                    Value::Literal(_) => (0.0, 0.0),
                    Value::Named(name) => {
                        let value = seen.values.get(name).copied().unwrap_or(0.0);
                        (value, value)
                    }
                    Value::Count(index) => (self.count(*index), self.count(*index)),
                    Value::Sum(index) => (self.histograms.get(*index).map_or(0.0, Histogram::sum), self.count(*index)),
                };
                if holds(*condition, gate) {
                    push(out, series, &format_number(value, self.form));
                }
            }
            Line::Buckets { before, after, edges, histogram, condition } => {
                let Some(counts) = self.histograms.get(*histogram) else { return };
                if !holds(*condition, self.count(*histogram)) {
                    return;
                }
                let edges = edges.iter().map(String::as_str).chain(std::iter::once("+Inf"));
                for (edge, count) in edges.zip(counts.cumulative()) {
                    out.push_str(before);
                    out.push_str(edge);
                    push(out, after, &format_number(num::u64_to_f64(count), self.form));
                }
            }
            Line::Each { kind, samples } => {
                seen.http.each(*kind, samples, &mut |series, value| {
                    push(out, series, &format_number(value, self.form));
                });
            }
        }
    }

    fn count(&self, index: usize) -> f64 {
        self.histograms.get(index).map_or(0.0, |histogram| num::u64_to_f64(histogram.count()))
    }
}

fn push(out: &mut String, series: &str, value: &str) {
    out.push_str(series);
    out.push(' ');
    out.push_str(value);
    out.push('\n');
}

fn condition(text: &str) -> Condition {
    match text {
        "started" => Condition::Started,
        "nonzero" => Condition::NonZero,
        _ => Condition::Always,
    }
}

/// vLLM's `build_1_2_5_buckets`: 1, 2 and 5 times the powers of ten, up to the greatest value.
fn edge_texts(text: &str, max_edge: u32) -> Vec<String> {
    if text != "1-2-5" {
        return text.split(' ').map(str::to_owned).collect();
    }
    let powers = (0..9u32).map(|exponent| 10f64.powi(i32::try_from(exponent).unwrap_or(0)));
    let edges = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|mantissa| mantissa * power));
    edges.take_while(|edge| *edge <= f64::from(max_edge)).map(|edge| format_number(edge, NumberForm::Python)).collect()
}

/// A number as the real exporter writes it.
pub(crate) fn format_number(value: f64, form: NumberForm) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() };
    }
    match form {
        NumberForm::Rust => format!("{value}"),
        NumberForm::Python => python_number(value),
    }
}

/// `floatToGoString` of prometheus_client: Python's shortest form, and an exponent as soon as Go would use one.
fn python_number(value: f64) -> String {
    let shortest = format!("{value:?}");
    if let Some((mantissa, exponent)) = shortest.split_once('e') {
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    let Some((whole, fraction)) = shortest.split_once('.') else { return shortest };
    if value > 0.0 && whole.len() > 6 {
        let (first, rest) = whole.split_at_checked(1).unwrap_or((whole, ""));
        let mantissa = format!("{first}.{rest}{fraction}");
        let mantissa = mantissa.trim_end_matches(['0', '.']);
        return format!("{mantissa}e+{:0>2}", whole.len() - 1);
    }
    shortest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_look_like_those_of_the_real_exporters() {
        // From the captures, or Python's own repr.
        for (value, python, rust) in [
            (0.0, "0.0", "0"),
            (13152.0, "13152.0", "13152"),
            (1_795_398_291.215_952_6, "1.7953982912159526e+09", "1795398291.2159526"),
            (1e6, "1e+06", "1000000"),
            (4_865_294_336.0, "4.865294336e+09", "4865294336"),
            (1073741824.0, "1.073741824e+09", "1073741824"),
            (999_999.0, "999999.0", "999999"),
            (0.095_238_095_238_095_23, "0.09523809523809523", "0.09523809523809523"),
            (0.000_038_15, "3.815e-05", "0.00003815"),
            (1e16, "1e+16", "10000000000000000"),
            (-1.0, "-1.0", "-1"),
            (f64::NAN, "NaN", "NaN"),
        ] {
            assert_eq!(format_number(value, NumberForm::Python), python);
            assert_eq!(format_number(value, NumberForm::Rust), rust);
        }
    }

    #[test]
    fn edges_follow_the_context_length() {
        assert_eq!(edge_texts("1-2-5", 1024).last().map(String::as_str), Some("1000.0"));
        assert_eq!(edge_texts("1-2-5", 131_072).last().map(String::as_str), Some("100000.0"));
    }
}
