//! Fetching one page: a kept connection where there is one, a fresh one where it turns out to be dead.

use crate::auth::Secret;
use crate::error::{ScrapeError, ScrapeErrorKind};
use crate::settings::ScrapeSettings;
use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, HeaderValue, LOCATION, USER_AGENT,
};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use loadline_net::http::{Connector, Stream, Target};
use std::io::Read;
use std::pin::Pin;
use std::time::Duration;

/// Nothing else: negotiation with an OpenMetrics client changes the names that some engines send.
const ACCEPT_TEXT: &str = "text/plain;version=0.0.4";

/// What is read at once, and the largest response head.
const READ_BUFFER_BYTES: usize = 16 << 10;

/// Fetches one metrics page, decompressed, over a connection of its own.
///
/// # Errors
/// A [`ScrapeError`] that names the URL; every answer but 200 is one.
pub async fn fetch_page(url: &str, settings: &ScrapeSettings) -> Result<Bytes, ScrapeError> {
    PageClient::new(url, Connector::new(), None)?.get(settings.timeout, settings.max_body_bytes).await
}

/// A connection between requests. Nothing drives it then: that it was closed shows at the next use.
struct Kept {
    sender: http1::SendRequest<Empty<Bytes>>,
    connection: Pin<Box<http1::Connection<TokioIo<Stream>, Empty<Bytes>>>>,
}

/// The client of one target.
pub(crate) struct PageClient {
    target: Target,
    connector: Connector,
    authorization: Option<HeaderValue>,
    kept: Option<Kept>,
}

/// How far an exchange came.
enum Failure {
    /// The connection ended before the response began: on a kept one, the request was most likely never read.
    NoResponse(ScrapeError),
    Other(ScrapeError),
}

impl PageClient {
    pub(crate) fn new(url: &str, connector: Connector, bearer: Option<&Secret>) -> Result<Self, ScrapeError> {
        let target = url.parse().map_err(|error: loadline_net::http::TargetError| {
            ScrapeError::new(ScrapeErrorKind::BadUrl, url, error.to_string())
        })?;
        let authorization = bearer
            .map(Secret::header)
            .transpose()
            .map_err(|why| ScrapeError::new(ScrapeErrorKind::BadUrl, url, format!("`{url}`: {why}")))?;
        Ok(Self { target, connector, authorization, kept: None })
    }

    /// Gets the page. Dropping the future closes the connection.
    pub(crate) async fn get(&mut self, timeout: Duration, max_body_bytes: usize) -> Result<Bytes, ScrapeError> {
        match tokio::time::timeout(timeout, self.get_or_retry(max_body_bytes)).await {
            Ok(result) => result,
            Err(_) => {
                let detail = format!("no complete page within {timeout:?} (`timeout`)");
                Err(ScrapeError::new(ScrapeErrorKind::Timeout, self.target.to_string(), detail))
            }
        }
    }

    async fn get_or_retry(&mut self, limit: usize) -> Result<Bytes, ScrapeError> {
        // taken, so that whatever goes wrong leaves no half-read connection behind
        if let Some(kept) = self.kept.take() {
            match self.exchange(kept, limit).await {
                Ok(page) => return Ok(page),
                Err(Failure::Other(error)) => return Err(error),
                Err(Failure::NoResponse(_)) => {}
            }
        }
        let fresh = self.connect().await?;
        self.exchange(fresh, limit).await.map_err(|(Failure::NoResponse(error) | Failure::Other(error))| error)
    }

    async fn connect(&self) -> Result<Kept, ScrapeError> {
        let stream = self.connector.connect(&self.target).await?;
        let (sender, connection) = http1::Builder::new()
            // each kept connection keeps such a buffer; left to itself it grows to a whole page, times all targets
            .read_buf_exact_size(Some(READ_BUFFER_BYTES))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(&error))?;
        Ok(Kept { sender, connection: Box::pin(connection) })
    }

    async fn exchange(&mut self, kept: Kept, limit: usize) -> Result<Bytes, Failure> {
        let Kept { mut sender, mut connection } = kept;
        let request = self.request().map_err(Failure::Other)?;
        let (result, open) = {
            let work = async {
                sender.ready().await.map_err(|error| Failure::NoResponse(self.broken(&error)))?;
                let response =
                    sender.send_request(request).await.map_err(|error| Failure::NoResponse(self.broken(&error)))?;
                self.receive(response, limit).await.map_err(Failure::Other)
            };
            tokio::pin!(work);
            let mut open = true;
            let result = loop {
                tokio::select! {
                    biased;
                    result = &mut work => break result,
                    // its error, if any, also reaches the work; what it has already delivered is still to be read
                    _ = connection.as_mut(), if open => open = false,
                }
            };
            (result, open)
        };
        if open && result.is_ok() && !sender.is_closed() {
            self.kept = Some(Kept { sender, connection });
        }
        result
    }

    fn request(&self) -> Result<http::Request<Empty<Bytes>>, ScrapeError> {
        let invalid =
            |error: http::Error| ScrapeError::new(ScrapeErrorKind::BadUrl, self.target.to_string(), error.to_string());
        let mut request = http::Request::get(self.target.path());
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request
            .header(HOST, self.target.authority())
            .header(USER_AGENT, HeaderValue::from_static(concat!("loadline/", env!("CARGO_PKG_VERSION"))))
            .header(ACCEPT, HeaderValue::from_static(ACCEPT_TEXT))
            .header(ACCEPT_ENCODING, HeaderValue::from_static("gzip"))
            .body(Empty::new())
            .map_err(invalid)
    }

    async fn receive(&self, response: http::Response<Incoming>, limit: usize) -> Result<Bytes, ScrapeError> {
        let (head, mut body) = response.into_parts();
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        if head.status != http::StatusCode::OK {
            let elsewhere = header(LOCATION).filter(|_| head.status.is_redirection());
            let detail =
                elsewhere.map(|place| format!("the page has moved to `{place}`; use that URL")).unwrap_or_default();
            return Err(ScrapeError::new(
                ScrapeErrorKind::Status(head.status.as_u16()),
                self.target.to_string(),
                detail,
            ));
        }
        let declared = header(CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok()).unwrap_or(0);
        if declared > limit {
            return Err(self.too_large(limit));
        }
        let mut whole = BytesMut::with_capacity(declared);
        while let Some(frame) = body.frame().await {
            let Ok(piece) = frame.map_err(|error| self.broken(&error))?.into_data() else { continue };
            if whole.len() + piece.len() > limit {
                return Err(self.too_large(limit));
            }
            whole.extend_from_slice(&piece);
        }
        match header(CONTENT_ENCODING).map(str::trim) {
            None | Some("" | "identity") => Ok(whole.freeze()),
            Some(coding) if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") => {
                self.unzip(&whole, limit)
            }
            Some(coding) => {
                let detail = format!("the page is encoded as `{coding}`, which was not asked for");
                Err(ScrapeError::new(ScrapeErrorKind::Broken, self.target.to_string(), detail))
            }
        }
    }

    fn unzip(&self, packed: &[u8], limit: usize) -> Result<Bytes, ScrapeError> {
        let one_more = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        let mut page = Vec::new();
        flate2::read::MultiGzDecoder::new(packed).take(one_more).read_to_end(&mut page).map_err(|error| {
            ScrapeError::new(
                ScrapeErrorKind::Broken,
                self.target.to_string(),
                format!("the gzip body is damaged: {error}"),
            )
        })?;
        if page.len() > limit { Err(self.too_large(limit)) } else { Ok(page.into()) }
    }

    fn too_large(&self, limit: usize) -> ScrapeError {
        let detail = format!("the page is larger than {limit} bytes (`max_body_bytes`)");
        ScrapeError::new(ScrapeErrorKind::TooLarge, self.target.to_string(), detail)
    }

    fn broken(&self, error: &hyper::Error) -> ScrapeError {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        let detail = format!("not a complete HTTP answer: {error}{cause}");
        ScrapeError::new(ScrapeErrorKind::Broken, self.target.to_string(), detail)
    }
}
