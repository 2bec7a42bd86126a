//! What the HTTP server counts about itself, per endpoint, in the order in which endpoints were first seen.

use loadline_base::num;
use loadline_sim::engine::Histogram;

/// Endpoints that get series of their own; later ones are not counted.
const MAX_ENDPOINTS: usize = 64;
/// Edges of vLLM's `http_request_duration_seconds` (its FastAPI instrumentation).
const ENDPOINT_EDGES: [f64; 3] = [0.1, 0.5, 1.0];

/// Which labels a family splits by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndpointKind {
    /// Endpoint and method.
    Endpoint,
    /// Endpoint, method and status.
    Status,
    /// Endpoint alone.
    Handler,
}

impl EndpointKind {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "endpoint" => Some(Self::Endpoint),
            "status" => Some(Self::Status),
            "handler" => Some(Self::Handler),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Endpoint {
    path: String,
    method: String,
    requests: u64,
    active: u64,
    request_bytes: u64,
    response_bytes: u64,
    durations: Histogram,
    created: f64,
}

#[derive(Debug)]
struct Status {
    endpoint: usize,
    status: String,
    responses: u64,
    created: f64,
}

/// Counts per endpoint.
#[derive(Debug, Default)]
pub(crate) struct HttpStats {
    endpoints: Vec<Endpoint>,
    statuses: Vec<Status>,
}

impl HttpStats {
    /// A request has begun; `now` is in seconds since the epoch. `None` if there are too many endpoints.
    pub(crate) fn begin(&mut self, path: &str, method: &str, now: f64) -> Option<usize> {
        let known = self.endpoints.iter().position(|one| one.path == path && one.method == method);
        let index = known.unwrap_or(self.endpoints.len());
        if known.is_none() {
            if index >= MAX_ENDPOINTS {
                return None;
            }
            self.endpoints.push(Endpoint {
                path: path.to_owned(),
                method: method.to_owned(),
                requests: 0,
                active: 0,
                request_bytes: 0,
                response_bytes: 0,
                durations: Histogram::new(&ENDPOINT_EDGES),
                created: now,
            });
        }
        let endpoint = self.endpoints.get_mut(index)?;
        endpoint.requests += 1;
        endpoint.active += 1;
        Some(index)
    }

    /// A response has ended.
    pub(crate) fn end(&mut self, index: usize, status: &str, sizes: (u64, u64), now: f64, seconds: f64) {
        let Some(endpoint) = self.endpoints.get_mut(index) else { return };
        endpoint.active = endpoint.active.saturating_sub(1);
        endpoint.request_bytes += sizes.0;
        endpoint.response_bytes += sizes.1;
        endpoint.durations.observe(seconds);
        let room = self.statuses.len() < MAX_ENDPOINTS * 8;
        match self.statuses.iter_mut().find(|one| one.endpoint == index && one.status == status) {
            Some(known) => known.responses += 1,
            None if room => {
                self.statuses.push(Status { endpoint: index, status: status.to_owned(), responses: 1, created: now });
            }
            None => {}
        }
    }

    /// Prints `samples` (series form, value name) for every endpoint; nothing for those that have not answered yet where
    /// the family counts answers.
    pub(crate) fn each(&self, kind: EndpointKind, samples: &[(String, String)], print: &mut impl FnMut(&str, f64)) {
        match kind {
            EndpointKind::Status => {
                for one in &self.statuses {
                    let Some(endpoint) = self.endpoints.get(one.endpoint) else { continue };
                    for (form, value) in samples {
                        let series = fill(form, endpoint, &one.status);
                        let value = if value == "created" { one.created } else { num::u64_to_f64(one.responses) };
                        print(&series, value);
                    }
                }
            }
            EndpointKind::Endpoint => {
                // Families with buckets come from an instrumentation that counts answers only.
                let answers_only = samples.iter().any(|(_, value)| value == "bucket" || value == "created");
                for endpoint in &self.endpoints {
                    if answers_only && endpoint.durations.count() == 0 {
                        continue;
                    }
                    print_endpoint(endpoint, samples, print);
                }
            }
            EndpointKind::Handler => {
                for (index, endpoint) in self.endpoints.iter().enumerate() {
                    if endpoint.durations.count() == 0 {
                        continue;
                    }
                    let same = |other: &&Endpoint| other.path == endpoint.path;
                    if self.endpoints.iter().take(index).any(|other| other.path == endpoint.path) {
                        continue;
                    }
                    for (form, value) in samples {
                        let all = self.endpoints.iter().filter(same);
                        let sum: u64 = match value.as_str() {
                            "requests" => all.map(|one| one.durations.count()).sum(),
                            "request_bytes" => all.map(|one| one.request_bytes).sum(),
                            _ => all.map(|one| one.response_bytes).sum(),
                        };
                        let value = if value == "created" { endpoint.created } else { num::u64_to_f64(sum) };
                        print(&fill(form, endpoint, ""), value);
                    }
                }
            }
        }
    }
}

fn print_endpoint(endpoint: &Endpoint, samples: &[(String, String)], print: &mut impl FnMut(&str, f64)) {
    for (form, value) in samples {
        let series = fill(form, endpoint, "");
        let value = match value.as_str() {
            "bucket" => {
                let edges = ["0.1", "0.5", "1.0", "+Inf"];
                for (edge, count) in edges.iter().zip(endpoint.durations.cumulative()) {
                    print(&series.replace("%le", edge), num::u64_to_f64(count));
                }
                continue;
            }
            "created" => endpoint.created,
            "seconds" => endpoint.durations.sum(),
            "active" => num::u64_to_f64(endpoint.active),
            _ => num::u64_to_f64(endpoint.requests),
        };
        print(&series, value);
    }
}

fn fill(form: &str, endpoint: &Endpoint, status: &str) -> String {
    let path: String = endpoint.path.chars().filter(|c| !matches!(c, '"' | '\\' | '\n')).collect();
    form.replace("%h", &path).replace("%m", &endpoint.method).replace("%s", status)
}
