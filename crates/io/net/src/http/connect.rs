//! Connections to targets: TCP without Nagle's delay, and TLS where the scheme asks for it.

use super::fetch::{FetchError, FetchErrorKind};
use super::limits::MAX_ROOTS_BYTES;
use super::target::{Scheme, Target};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Where systems keep their root certificates; the first file that exists is read. The environment variable
/// `SSL_CERT_FILE` goes before them, as in OpenSSL.
const ROOTS_FILES: &[&str] = &[
    // Debian, Ubuntu, Alpine, Arch
    "/etc/ssl/certs/ca-certificates.crt",
    // Fedora, Red Hat
    "/etc/pki/tls/certs/ca-bundle.crt",
    // openSUSE
    "/etc/ssl/ca-bundle.pem",
    // BSD, macOS
    "/etc/ssl/cert.pem",
];

/// A connection to a target.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// How servers are trusted, where that is not by the system's root certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TlsClient {
    /// Certificates of authorities, as PEM: only what they signed is trusted. Absent: the system's.
    pub ca_pem: Option<Arc<str>>,
    /// Trusts whatever certificate is shown, to whomever it belongs. Still nobody else can read along, but nobody knows who is at the other end.
    pub insecure: bool,
    /// The name that the certificate must have, and that is asked for, in place of the host of the URL.
    pub server_name: Option<Arc<str>>,
}

/// Makes connections. Root certificates are read on the first use of TLS and kept; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Connector {
    roots_file: Option<Arc<Path>>,
    trust: Arc<TlsClient>,
    tls: Arc<OnceLock<Result<Arc<rustls::ClientConfig>, String>>>,
}

impl Connector {
    /// Trusts the system's root certificates.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts only the certificates of one PEM file.
    #[must_use]
    pub fn with_roots_file(path: impl Into<PathBuf>) -> Self {
        Self { roots_file: Some(Arc::from(path.into())), ..Self::default() }
    }

    /// Trusts servers as told.
    #[must_use]
    pub fn with_tls(trust: TlsClient) -> Self {
        Self { trust: Arc::new(trust), ..Self::default() }
    }

    /// Connects; the caller sets the deadline.
    ///
    /// # Errors
    /// Kinds `Resolve`, `Refused`, `Connect` and `Tls`.
    pub async fn connect(&self, target: &Target) -> Result<Stream, FetchError> {
        let tcp = TcpStream::connect((target.host(), target.port())).await.map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::ConnectionRefused => FetchErrorKind::Refused,
                // a failed look-up carries no error number; a failed connect always does
                _ if error.raw_os_error().is_none() => FetchErrorKind::Resolve,
                _ => FetchErrorKind::Connect,
            };
            FetchError::new(kind, target, error.to_string())
        })?;
        tcp.set_nodelay(true).map_err(|error| FetchError::new(FetchErrorKind::Connect, target, error.to_string()))?;
        match target.scheme() {
            Scheme::Http => Ok(Stream::Plain(tcp)),
            Scheme::Https => {
                let tls_error = |detail| FetchError::new(FetchErrorKind::Tls, target, detail);
                let config = self
                    .tls
                    .get_or_init(|| client_config(self.roots_file.as_deref(), &self.trust))
                    .as_ref()
                    .map_err(|detail| tls_error(detail.clone()))?;
                let name = self.trust.server_name.as_deref().unwrap_or_else(|| target.host()).to_owned();
                let name = ServerName::try_from(name).map_err(|error| tls_error(error.to_string()))?;
                let stream = tokio_rustls::TlsConnector::from(Arc::clone(config))
                    .connect(name, tcp)
                    .await
                    .map_err(|error| tls_error(error.to_string()))?;
                Ok(Stream::Tls(Box::new(stream)))
            }
        }
    }
}

fn client_config(roots_file: Option<&Path>, trust: &TlsClient) -> Result<Arc<rustls::ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = if trust.insecure {
        let verifier = Arc::new(AnyCertificate(provider));
        builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
    } else {
        let roots = match &trust.ca_pem {
            Some(pem) => certificates(pem.as_bytes()).ok_or("`ca` holds no certificate: give it as PEM")?,
            None => roots(roots_file)?,
        };
        builder.with_root_certificates(roots).with_no_client_auth()
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn roots(roots_file: Option<&Path>) -> Result<rustls::RootCertStore, String> {
    let path = roots_file
        .map(Path::to_path_buf)
        .or_else(|| std::env::var_os("SSL_CERT_FILE").filter(|v| !v.is_empty()).map(PathBuf::from))
        .or_else(|| ROOTS_FILES.iter().map(PathBuf::from).find(|path| path.is_file()))
        .ok_or_else(|| {
            format!(
                "no root certificates were found (looked for `SSL_CERT_FILE` and {}): install the package \
                 `ca-certificates` or set `SSL_CERT_FILE`",
                ROOTS_FILES.join(", ")
            )
        })?;
    let unreadable = |error: &dyn std::fmt::Display| {
        format!("cannot read root certificates from `{}`: {error}; set `SSL_CERT_FILE` to a PEM file", path.display())
    };
    let mut pem = Vec::new();
    std::fs::File::open(&path)
        .and_then(|file| file.take(MAX_ROOTS_BYTES).read_to_end(&mut pem))
        .map_err(|error| unreadable(&error))?;
    certificates(&pem).ok_or_else(|| unreadable(&"it holds no certificate"))
}

fn certificates(pem: &[u8]) -> Option<rustls::RootCertStore> {
    let mut store = rustls::RootCertStore::empty();
    // a bundle may hold certificates that the verifier does not take; the others still count
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).filter_map(Result::ok));
    (!store.is_empty()).then_some(store)
}

/// Takes every certificate; that the server has its key is still proved.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
