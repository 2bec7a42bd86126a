//! Series asked for by their own names, for metrics that are written with an engine's own spelling.

use super::{EngineKind, Limits, Reading, read};
use crate::exposition::{BadLines, ExpositionError, Format, Line, Options, WantedNames, scan};
use loadline_base::Labels;
use std::collections::BTreeMap;

/// One sum of series that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedQuery {
    /// The name of the samples; `:` and `_` are equal, so that a name that went through an adapter finds its origin.
    pub name: String,
    /// Labels a series must carry with exactly these values.
    pub matching: Labels,
}

impl NamedQuery {
    /// Under which key [`Reading::named`] has the sum: the name with its matchers.
    #[must_use]
    pub fn key(&self) -> String {
        if self.matching.is_empty() { self.name.clone() } else { format!("{}{}", self.name, self.matching) }
    }
}

/// A compiled set of queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedQueries {
    wanted: WantedNames,
    queries: Vec<(String, String, Labels)>,
}

impl NamedQueries {
    /// Compiles queries; without any, a page is read once only.
    #[must_use]
    pub fn new(queries: &[NamedQuery]) -> Self {
        let queries: Vec<_> =
            queries.iter().map(|query| (query.key(), plain(&query.name), query.matching.clone())).collect();
        Self { wanted: WantedNames::families(queries.iter().map(|(_, name, _)| name)), queries }
    }

    /// Adds up what a page carries; a key is there only if at least one series matched. Values that are not finite are left out.
    fn sums(&self, page: &[u8], limits: &Limits) -> Result<BTreeMap<String, f64>, ExpositionError> {
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        if self.queries.is_empty() {
            return Ok(sums);
        }
        let options = Options { format: Format::Detect, bad_lines: BadLines::Skip, limits: *limits };
        scan(page, &self.wanted, &options, |line| {
            let Line::Sample(sample) = line else { return };
            if !sample.value.is_finite() {
                return;
            }
            let name = plain(&sample.name);
            for (key, _, _) in self.queries.iter().filter(|(_, wanted, matching)| {
                *wanted == name
                    && matching.iter().all(|(label, value)| sample.labels.get(label).as_deref() == Some(value))
            }) {
                *sums.entry(key.clone()).or_default() += sample.value;
            }
        })?;
        Ok(sums)
    }
}

fn plain(name: &str) -> String {
    name.replace(':', "_")
}

/// [`read`], and the sums of the named series beside it.
///
/// # Errors
/// As [`read`].
pub fn read_with(
    page: &[u8],
    engine: Option<EngineKind>,
    named: &NamedQueries,
    limits: &Limits,
) -> Result<Reading, ExpositionError> {
    let mut reading = read(page, engine, limits)?;
    reading.named = named.sums(page, limits)?;
    Ok(reading)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &[u8] = b"# TYPE vllm:num_requests_waiting gauge\n\
        vllm:num_requests_waiting{engine=\"0\",model_name=\"a\"} 3\n\
        vllm:num_requests_waiting{engine=\"1\",model_name=\"a\"} 4\n\
        vllm:num_requests_waiting_by_reason{engine=\"1\",reason=\"capacity\"} 9\n\
        other NaN\n";

    #[test]
    fn both_spellings_find_the_series_and_matchers_select() {
        let query = |name: &str, matching: Labels| NamedQuery { name: name.to_owned(), matching };
        let queries = [
            query("vllm_num_requests_waiting", Labels::new()),
            query("vllm:num_requests_waiting", [("engine", "1")].into_iter().collect()),
            query("vllm:num_requests_waiting", [("engine", "7")].into_iter().collect()),
            query("other", Labels::new()),
        ];
        let reading = read_with(PAGE, None, &NamedQueries::new(&queries), &Limits::default()).expect("a page");
        let expect = BTreeMap::from([(queries[0].key(), 7.0), (queries[1].key(), 4.0)]);
        assert_eq!(reading.named, expect);
    }
}
