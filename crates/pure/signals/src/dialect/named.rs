//! Series asked for by their own names, for metrics that are written with an engine's own spelling.

use super::EngineKind;
use super::names::{catalog, compare_folded};
use crate::exposition::{Line, WantedNames};
use loadline_base::Labels;
use std::borrow::Cow;
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
    queries: Vec<Query>,
    /// The names of the queries together with those of a declared engine, or with those of all that can be detected.
    wanted: BTreeMap<Option<EngineKind>, WantedNames>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) key: String,
    /// Folded spelling of the name.
    pub(crate) name: String,
    pub(crate) matching: Labels,
}

impl NamedQueries {
    /// Compiles queries.
    #[must_use]
    pub fn new(queries: &[NamedQuery]) -> Self {
        let queries: Vec<_> = queries
            .iter()
            .map(|query| Query {
                key: query.key(),
                name: query.name.replace(':', "_"),
                matching: query.matching.clone(),
            })
            .collect();
        let own = WantedNames::exact(queries.iter().map(|query| &query.name));
        let kinds = EngineKind::ALL.into_iter().map(Some).chain([None]);
        let union = |kind| (kind, catalog().wanted(kind).union(&own));
        let wanted = if queries.is_empty() { BTreeMap::new() } else { kinds.map(union).collect() };
        Self { queries, wanted }
    }

    pub(crate) fn queries(&self) -> &[Query] {
        &self.queries
    }

    /// What a scan must look for to answer these and the engine's own signals.
    pub(super) fn wanted(&self, engine: Option<EngineKind>) -> &WantedNames {
        self.wanted.get(&engine).unwrap_or_else(|| catalog().wanted(engine))
    }
}

/// The sums of the queries while a page is read; a key is there only if at least one series matched. Values that are not finite are left out.
#[derive(Debug)]
pub(super) struct Sums<'q, 'a> {
    queries: &'q [Query],
    pub(super) sums: BTreeMap<String, f64>,
    /// The name looked up last, and whether a query has it: the series of a family follow each other.
    last: (&'a str, bool),
}

impl<'q, 'a> Sums<'q, 'a> {
    pub(super) const fn new(named: &'q NamedQueries) -> Self {
        Self { queries: named.queries.as_slice(), sums: BTreeMap::new(), last: ("", false) }
    }

    pub(super) fn visit(&mut self, line: &Line<'a>) {
        let Line::Sample(sample) = line else { return };
        if self.queries.is_empty() || !sample.value.is_finite() {
            return;
        }
        let asks = |query: &&Query| compare_folded(&query.name, &sample.name).is_eq();
        if self.last.0 == sample.name {
            if !self.last.1 {
                return;
            }
        } else if let Cow::Borrowed(name) = sample.name {
            self.last = (name, self.queries.iter().any(|query| asks(&query)));
        }
        for query in self.queries.iter().filter(asks) {
            if query.matching.iter().all(|(label, value)| sample.labels.get(label).as_deref() == Some(value)) {
                match self.sums.get_mut(&query.key) {
                    Some(sum) => *sum += sample.value,
                    None => {
                        self.sums.insert(query.key.clone(), sample.value);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::read_with;
    use crate::exposition::Limits;

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
