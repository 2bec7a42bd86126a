//! TLS configurations that are replaced while serving.

use super::bundle::Leaf;
use super::certificate::{certificates, facts};
use super::{TlsError, Usage};
use arc_swap::ArcSwap;
use loadline_base::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Which clients a server lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clients {
    /// All; none is asked for a certificate.
    Any,
    /// All; one that shows a certificate must have it from these authorities.
    Known {
        /// The authorities.
        ca_pem: String,
    },
    /// Only those with a certificate of these authorities.
    Required {
        /// The authorities.
        ca_pem: String,
    },
}

/// What a server shows and wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// Its certificate and key.
    pub identity: Leaf,
    /// Whom it lets in.
    pub clients: Clients,
    /// Protocols it offers, the preferred one first; empty where there is only one.
    pub alpn: Vec<Vec<u8>>,
}

/// What a client shows and wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    /// The authorities a server's certificate must be of.
    pub ca_pem: String,
    /// Its certificate and key, where it has one.
    pub identity: Option<Leaf>,
    /// Protocols it offers; empty where there is only one.
    pub alpn: Vec<Vec<u8>>,
}

/// A server's configuration. Each new connection gets the newest; those that exist are not touched.
pub struct ReloadableServer {
    current: ArcSwap<ServerConfig>,
    time: Arc<dyn TimeProvider>,
}

impl ReloadableServer {
    /// Checks and takes a first configuration.
    ///
    /// # Errors
    /// Names the part that cannot be used.
    pub fn new(tls: &ServerTls) -> Result<Self, TlsError> {
        Self::with_time(tls, Arc::new(DefaultTimeProvider))
    }

    /// The same, with the time by which clients' certificates are checked.
    ///
    /// # Errors
    /// Names the part that cannot be used.
    pub fn with_time(tls: &ServerTls, time: Arc<dyn TimeProvider>) -> Result<Self, TlsError> {
        Ok(Self { current: ArcSwap::from(server_config(tls, &time)?), time })
    }

    /// Takes another configuration into force for new connections.
    ///
    /// # Errors
    /// Names the part that cannot be used; what was in force then stays.
    pub fn replace(&self, tls: &ServerTls) -> Result<(), TlsError> {
        self.current.store(server_config(tls, &self.time)?);
        Ok(())
    }

    /// The configuration in force, to be asked for at every connection.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// What accepts one connection.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config())
    }
}

/// A client's configuration. Each new connection gets the newest; those that exist are not touched.
pub struct ReloadableClient {
    current: ArcSwap<ClientConfig>,
    time: Arc<dyn TimeProvider>,
}

impl ReloadableClient {
    /// Checks and takes a first configuration.
    ///
    /// # Errors
    /// Names the part that cannot be used.
    pub fn new(tls: &ClientTls) -> Result<Self, TlsError> {
        Self::with_time(tls, Arc::new(DefaultTimeProvider))
    }

    /// The same, with the time by which servers' certificates are checked.
    ///
    /// # Errors
    /// Names the part that cannot be used.
    pub fn with_time(tls: &ClientTls, time: Arc<dyn TimeProvider>) -> Result<Self, TlsError> {
        Ok(Self { current: ArcSwap::from(client_config(tls, &time)?), time })
    }

    /// Takes another configuration into force for new connections.
    ///
    /// # Errors
    /// Names the part that cannot be used; what was in force then stays.
    pub fn replace(&self, tls: ClientTls) -> Result<(), TlsError> {
        self.current.store(client_config(&tls, &self.time)?);
        Ok(())
    }

    /// The configuration in force, to be asked for at every connection.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        self.current.load_full()
    }

    /// What makes one connection.
    #[must_use]
    pub fn connector(&self) -> TlsConnector {
        TlsConnector::from(self.config())
    }
}

impl fmt::Debug for ReloadableServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReloadableServer")
    }
}

impl fmt::Debug for ReloadableClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReloadableClient")
    }
}

/// Whether a leaf is of these authorities, for this usage, and valid at `now`, as a peer would find.
///
/// # Errors
/// What a peer would object to.
pub fn issued_by(leaf: &Leaf, ca_pem: &str, usage: Usage, now: Timestamp) -> Result<(), TlsError> {
    let chain = certificates("certificate", &leaf.certificate_pem)?;
    let Some((first, between)) = chain.split_first() else { return Ok(()) };
    facts(first)?.check(now)?;
    certified_key(leaf)?;
    let roots = roots(ca_pem)?;
    let at = UnixTime::since_unix_epoch(Duration::from_nanos(u64::try_from(now.as_nanos()).unwrap_or(0)));
    let objection = |error: &dyn fmt::Display| TlsError::unusable("certificate", error);
    match usage {
        Usage::Client => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .build()
                .map_err(|error| objection(&error))?;
            verifier.verify_client_cert(first, between, at).map_err(|error| objection(&error))?;
        }
        Usage::Server => {
            let parsed = ParsedCertificate::try_from(first).map_err(|error| objection(&error))?;
            let algorithms = provider().signature_verification_algorithms.all;
            rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, &roots, between, at, algorithms)
                .map_err(|error| objection(&error))?;
        }
    }
    Ok(())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(ca_pem: &str) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates("ca.crt", ca_pem)? {
        store.add(certificate).map_err(|error| TlsError::unusable("ca.crt", error))?;
    }
    Ok(store)
}

fn certified_key(leaf: &Leaf) -> Result<CertifiedKey, TlsError> {
    let chain = certificates("tls.crt", &leaf.certificate_pem)?;
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.expose().as_bytes())
        .map_err(|error| TlsError::unusable("tls.key", error))?;
    CertifiedKey::from_der(chain, key, &provider())
        .map_err(|error| TlsError::unusable("tls.key", format!("{error}; it must be the key of `tls.crt`")))
}

fn server_config(tls: &ServerTls, time: &Arc<dyn TimeProvider>) -> Result<Arc<ServerConfig>, TlsError> {
    let identity = certified_key(&tls.identity)?;
    let verifier = |ca_pem: &str| {
        Ok::<_, TlsError>(WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca_pem)?), provider()))
    };
    let unusable = |error: rustls::server::VerifierBuilderError| TlsError::unusable("ca.crt", error);
    let verifier = match &tls.clients {
        Clients::Any => WebPkiClientVerifier::no_client_auth(),
        Clients::Known { ca_pem } => verifier(ca_pem)?.allow_unauthenticated().build().map_err(unusable)?,
        Clients::Required { ca_pem } => verifier(ca_pem)?.build().map_err(unusable)?,
    };
    let mut config = ServerConfig::builder_with_details(provider(), Arc::clone(time))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::unusable("tls", error))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    config.alpn_protocols.clone_from(&tls.alpn);
    Ok(Arc::new(config))
}

fn client_config(tls: &ClientTls, time: &Arc<dyn TimeProvider>) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_details(provider(), Arc::clone(time))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::unusable("tls", error))?
        .with_root_certificates(roots(&tls.ca_pem)?);
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some(leaf) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified_key(leaf)?))),
    };
    config.alpn_protocols.clone_from(&tls.alpn);
    Ok(Arc::new(config))
}
