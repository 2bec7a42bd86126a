//! Where requests go, and what is put into them.

use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;
use thiserror::Error;

/// Which of the two OpenAI endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
}

impl Endpoint {
    const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Completions => "/completions",
        }
    }
}

/// How a prompt of so many tokens is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PromptForm {
    /// Words with blanks between them.
    Words {
        /// Tokens that the engine's tokenizer makes of one word; the emulated engine counts one.
        tokens_per_word: f64,
    },
    /// A list of token ids (`/v1/completions` only): exact with any tokenizer whose vocabulary has 10,000 entries.
    TokenIds,
}

impl Default for PromptForm {
    fn default() -> Self {
        Self::Words { tokens_per_word: 1.0 }
    }
}

/// Why a target cannot be used.
#[derive(Debug, Error)]
pub enum TargetError {
    /// No URL.
    #[error(transparent)]
    Url(#[from] loadline_net::http::TargetError),
    /// No header.
    #[error("`{name}` cannot be sent as a header: names are letters, digits and `-`, values have no line breaks")]
    Header {
        /// The name; values may be secret and are not shown.
        name: String,
    },
}

/// Why nobody was found at a target.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The connection failed.
    #[error(transparent)]
    Connect(loadline_net::http::FetchError),
    /// It took too long.
    #[error("no connection to `{url}` within {seconds} s")]
    Timeout {
        /// The URL.
        url: String,
        /// The limit in force.
        seconds: f64,
    },
}

/// Where requests go.
#[derive(Debug, Clone)]
pub struct Target {
    pub(crate) address: loadline_net::http::Target,
    pub(crate) headers: HeaderMap,
    /// The `model` field.
    pub model: String,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// How prompts are written.
    pub prompt: PromptForm,
    /// Whether usage is asked for at the end of the stream (`stream_options.include_usage`); without it each chunk with content counts as
    /// one token.
    pub usage: bool,
    /// Makes connections.
    pub connector: loadline_net::http::Connector,
}

impl Target {
    /// A target from a base URL: with or without `/v1`, or the endpoint itself.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(url: &str, model: &str, endpoint: Endpoint) -> Result<Self, TargetError> {
        let base: loadline_net::http::Target = url.parse()?;
        let path = base.path().trim_end_matches('/').to_owned();
        let path = if path.ends_with("/completions") {
            path
        } else if path.ends_with("/v1") {
            format!("{path}{}", endpoint.path())
        } else {
            format!("{path}/v1{}", endpoint.path())
        };
        let address = base.with_path(&path);
        let mut target = Self {
            address,
            headers: HeaderMap::new(),
            model: model.to_owned(),
            endpoint,
            prompt: PromptForm::default(),
            usage: true,
            connector: loadline_net::http::Connector::new(),
        };
        let authority = target.address.authority();
        target.header("host", &authority)?;
        target.header("content-type", "application/json")?;
        target.header("accept", "text/event-stream")?;
        target.header("user-agent", concat!("loadline/", env!("CARGO_PKG_VERSION")))?;
        Ok(target)
    }

    /// Sets a header of every request.
    ///
    /// # Errors
    /// When name or value cannot stand in a header.
    pub fn header(&mut self, name: &str, value: &str) -> Result<(), TargetError> {
        let wrong = || TargetError::Header { name: name.to_owned() };
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
        value.set_sensitive(key == http::header::AUTHORIZATION);
        self.headers.insert(key, value);
        Ok(())
    }

    /// Makes one connection and closes it: whether anybody is there.
    ///
    /// # Errors
    /// When there is no connection within `timeout` of wall time; the message names the URL.
    pub async fn probe(&self, timeout: Duration) -> Result<(), ProbeError> {
        match tokio::time::timeout(timeout, self.connector.connect(&self.address)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(ProbeError::Connect(error)),
            Err(_) => Err(ProbeError::Timeout { url: self.url(), seconds: timeout.as_secs_f64() }),
        }
    }

    /// The URL that requests are sent to.
    #[must_use]
    pub fn url(&self) -> String {
        self.address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_found_from_any_usual_base() {
        for (url, endpoint, expect) in [
            ("http://h:1", Endpoint::Chat, "http://h:1/v1/chat/completions"),
            ("http://h:1/", Endpoint::Completions, "http://h:1/v1/completions"),
            ("http://h:1/v1/", Endpoint::Chat, "http://h:1/v1/chat/completions"),
            ("https://h/proxy/v1", Endpoint::Completions, "https://h/proxy/v1/completions"),
            ("http://h/models/m", Endpoint::Chat, "http://h/models/m/v1/chat/completions"),
            ("http://h/v1/chat/completions", Endpoint::Completions, "http://h/v1/chat/completions"),
        ] {
            assert_eq!(Target::new(url, "m", endpoint).expect(url).url(), expect);
        }
        assert!(Target::new("h:1", "m", Endpoint::Chat).expect_err("no scheme").to_string().contains("http://"));
    }

    #[test]
    fn a_key_is_never_shown() {
        let mut target = Target::new("http://h", "m", Endpoint::Chat).expect("a URL");
        target.header("authorization", "Bearer secret").expect("a header");
        assert!(!format!("{target:?}").contains("secret"));
        let error = target.header("x-key", "secret\n").expect_err("a line break").to_string();
        assert!(error.contains("x-key") && !error.contains("secret"), "{error}");
    }
}
