//! One HTTP request in the server's own counts, from its head to the end of its answer.

use crate::core::Shared;
use crate::settings::Dialect;
use loadline_base::Timestamp;
use std::sync::Arc;

/// Paths that vLLM's instrumentation leaves out.
const VLLM_UNCOUNTED: [&str; 5] = ["/metrics", "/health", "/load", "/ping", "/version"];

/// Counts the end when it is dropped.
#[derive(Debug)]
pub(crate) struct HttpGuard {
    shared: Arc<Shared>,
    endpoint: Option<usize>,
    began: Timestamp,
    pub(crate) status: u16,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
}

impl HttpGuard {
    /// A request has begun; `known` says whether the server has such a path.
    pub(crate) fn begin(shared: &Arc<Shared>, path: &str, method: &str, known: bool) -> Self {
        let began = shared.clock.now();
        let mut core = shared.lock();
        let endpoint = match core.dialect() {
            Dialect::Vllm if VLLM_UNCOUNTED.contains(&path) => None,
            Dialect::Vllm if !known => core.http.begin("none", method, began.as_secs_f64()),
            Dialect::Vllm | Dialect::Sglang => core.http.begin(path, method, began.as_secs_f64()),
            Dialect::Dynamo => None,
        };
        drop(core);
        Self { shared: shared.clone(), endpoint, began, status: 200, request_bytes: 0, response_bytes: 0 }
    }

    /// The answer has ended.
    pub(crate) fn end(&mut self) {
        let Some(endpoint) = self.endpoint.take() else { return };
        let now = self.shared.clock.now();
        let seconds = now.since(self.began).as_secs_f64();
        let mut core = self.shared.lock();
        let status = match core.dialect() {
            Dialect::Vllm => format!("{}xx", self.status / 100),
            Dialect::Sglang | Dialect::Dynamo => self.status.to_string(),
        };
        let sizes = (self.request_bytes, self.response_bytes);
        core.http.end(endpoint, &status, sizes, now.as_secs_f64(), seconds);
        core.observe("http_duration", seconds);
    }
}

impl Drop for HttpGuard {
    fn drop(&mut self) {
        self.end();
    }
}
