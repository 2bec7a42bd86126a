//! Single requests, each with a deadline and a name for people.

use crate::error::ClusterError;
use http::{Method, Request};
use kube::Client;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::Instant;

/// Requests of one client.
#[derive(Clone)]
pub(crate) struct Rest {
    client: Client,
    timeout: Duration,
}

impl Rest {
    pub(crate) const fn new(client: Client, timeout: Duration) -> Self {
        Self { client, timeout }
    }

    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, what: &str, path: &str) -> Result<T, ClusterError> {
        self.send(what, Method::GET, path, None, Vec::new()).await
    }

    /// As [`Self::get`], with `None` for 404.
    pub(crate) async fn find<T: DeserializeOwned>(&self, what: &str, path: &str) -> Result<Option<T>, ClusterError> {
        match self.get(what, path).await {
            Ok(found) => Ok(Some(found)),
            Err(ClusterError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        what: &str,
        path: &str,
        body: &B,
    ) -> Result<T, ClusterError> {
        self.send(what, Method::PUT, path, Some("application/json"), encode(what, body)?).await
    }

    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        what: &str,
        path: &str,
        body: &B,
    ) -> Result<T, ClusterError> {
        self.send(what, Method::POST, path, Some("application/json"), encode(what, body)?).await
    }

    /// A merge patch (RFC 7396).
    pub(crate) async fn patch<B: Serialize, T: DeserializeOwned>(
        &self,
        what: &str,
        path: &str,
        body: &B,
    ) -> Result<T, ClusterError> {
        let content = "application/merge-patch+json";
        self.send(what, Method::PATCH, path, Some(content), encode(what, body)?).await
    }

    pub(crate) async fn delete(&self, what: &str, path: &str) -> Result<(), ClusterError> {
        let gone: Result<serde_json::Value, _> = self.send(what, Method::DELETE, path, None, Vec::new()).await;
        match gone {
            Ok(_) | Err(ClusterError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn send<T: DeserializeOwned>(
        &self,
        what: &str,
        method: Method,
        path: &str,
        content: Option<&str>,
        body: Vec<u8>,
    ) -> Result<T, ClusterError> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(content) = content {
            request = request.header(http::header::CONTENT_TYPE, content);
        }
        let request = request
            .body(body)
            .map_err(|why| ClusterError::Malformed { what: what.to_owned(), why: why.to_string() })?;
        match tokio::time::timeout(self.timeout, self.client.request::<T>(request)).await {
            Ok(answer) => answer.map_err(|error| ClusterError::of(what, &error)),
            Err(_) => Err(ClusterError::Deadline { what: what.to_owned(), after: self.timeout }),
        }
    }
}

/// Ends `work` at `deadline`.
pub(crate) async fn by<T>(
    what: &str,
    deadline: Instant,
    work: impl Future<Output = Result<T, ClusterError>>,
) -> Result<T, ClusterError> {
    let started = Instant::now();
    match tokio::time::timeout_at(deadline, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ClusterError::Deadline { what: what.to_owned(), after: started.elapsed() }),
    }
}

fn encode<B: Serialize>(what: &str, body: &B) -> Result<Vec<u8>, ClusterError> {
    serde_json::to_vec(body).map_err(|why| ClusterError::Malformed { what: what.to_owned(), why: why.to_string() })
}
