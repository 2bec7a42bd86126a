//! One HTTPS request with a client certificate, blocking: for readiness and for a look at an API without a client library.

use anyhow::{Context, Result, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// How long one step of a request may take.
const STEP: Duration = Duration::from_secs(10);

/// A client with one certificate that trusts one authority.
#[derive(Debug, Clone)]
pub struct Https {
    config: Arc<ClientConfig>,
}

impl Https {
    /// From PEM texts.
    ///
    /// # Errors
    /// If one of them is none.
    pub fn new(ca_pem: &str, certificate_pem: &str, key_pem: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).context("the authority is no PEM")?)?;
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).context("no PEM")?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).context("the key is no PEM")?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        Ok(Self { config: Arc::new(config) })
    }

    /// `GET path`: status and body, the body not decoded and at most [`crate::MAX_ANSWER_BYTES`].
    ///
    /// # Errors
    /// If no answer came within some seconds.
    pub fn get(&self, address: SocketAddr, path: &str) -> Result<(u16, String)> {
        self.get_as(address, path, "application/json")
    }

    /// As [`Self::get`], asking for a media type.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_as(&self, address: SocketAddr, path: &str, accept: &str) -> Result<(u16, String)> {
        let stream =
            TcpStream::connect_timeout(&address, STEP).with_context(|| format!("{address} does not listen"))?;
        stream.set_read_timeout(Some(STEP))?;
        stream.set_write_timeout(Some(STEP))?;
        let connection = ClientConnection::new(Arc::clone(&self.config), ServerName::from(address.ip()))?;
        let mut stream = StreamOwned::new(connection, stream);
        // HTTP/1.0: the body is neither chunked nor kept open.
        write!(stream, "GET {path} HTTP/1.0\r\nhost: {address}\r\naccept: {accept}\r\n\r\n")?;
        let mut answer = Vec::new();
        if let Err(error) = stream.take(u64::try_from(crate::MAX_ANSWER_BYTES)?).read_to_end(&mut answer)
            && answer.is_empty()
        {
            return Err(error).with_context(|| format!("{address} did not answer `{path}`"));
        }
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { bail!("{address} answered `{path}` with no HTTP") };
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok((status.with_context(|| format!("{address} answered `{path}` without a status"))?, body.to_owned()))
    }
}
