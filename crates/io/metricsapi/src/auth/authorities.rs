//! What the cluster says about whose certificates and headers to believe, in the layout of the ConfigMap
//! `kube-system/extension-apiserver-authentication` (apiserver's `RequestHeader` and `ClientCA` options).

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use thiserror::Error;

/// The keys of the ConfigMap.
pub(crate) mod key {
    pub(crate) const CLIENT_CA: &str = "client-ca-file";
    pub(crate) const HEADER_CA: &str = "requestheader-client-ca-file";
    pub(crate) const HEADER_NAMES: &str = "requestheader-allowed-names";
    pub(crate) const HEADER_USER: &str = "requestheader-username-headers";
    pub(crate) const HEADER_UID: &str = "requestheader-uid-headers";
    pub(crate) const HEADER_GROUP: &str = "requestheader-group-headers";
    pub(crate) const HEADER_EXTRA: &str = "requestheader-extra-headers-prefix";
}

/// Most certificates read from one bundle.
const MAX_BUNDLE: usize = 1024;

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("key `{key}`: {problem}")]
pub struct AuthorityError {
    /// The key.
    pub key: &'static str,
    /// What is wrong with its value.
    pub problem: String,
}

/// Who may speak for others, and in which headers.
#[derive(Debug)]
pub(crate) struct RequestHeader {
    pub(crate) verifier: Arc<dyn ClientCertVerifier>,
    /// Common names that are believed; empty for any.
    pub(crate) allowed: Vec<String>,
    pub(crate) user: Vec<String>,
    pub(crate) uid: Vec<String>,
    pub(crate) group: Vec<String>,
    /// Lower case.
    pub(crate) extra: Vec<String>,
}

/// One state of the authorities.
#[derive(Debug, Default)]
pub(crate) struct Authorities {
    /// Counts the changes, so that verdicts about connections know when they are out of date.
    pub(crate) generation: u64,
    /// The front proxy, if one is configured.
    pub(crate) request_header: Option<RequestHeader>,
    /// Client certificates, if an authority is configured.
    pub(crate) client: Option<Arc<dyn ClientCertVerifier>>,
}

impl Authorities {
    /// Reads the keys; absent ones turn their way of authenticating off.
    ///
    /// # Errors
    /// Names the key that cannot be used.
    pub(crate) fn read(keys: &BTreeMap<String, String>) -> Result<Self, AuthorityError> {
        let verifier =
            |name| keys.get(name).filter(|pem| !pem.trim().is_empty()).map(|pem| bundle(name, pem)).transpose();
        let header_verifier = verifier(key::HEADER_CA)?;
        let list = |name| names(keys, name);
        let (user, extra) = (list(key::HEADER_USER)?, list(key::HEADER_EXTRA)?);
        let request_header = match header_verifier {
            Some(verifier) if !user.is_empty() => Some(RequestHeader {
                verifier,
                allowed: list(key::HEADER_NAMES)?,
                user,
                uid: list(key::HEADER_UID)?,
                group: list(key::HEADER_GROUP)?,
                extra: extra.iter().map(|prefix| prefix.to_ascii_lowercase()).collect(),
            }),
            _ => None,
        };
        Ok(Self { generation: 0, request_header, client: verifier(key::CLIENT_CA)? })
    }

    /// Whether anybody can be authenticated by a certificate.
    pub(crate) fn is_loaded(&self) -> bool {
        self.request_header.is_some() || self.client.is_some()
    }
}

fn bundle(key: &'static str, pem: &str) -> Result<Arc<dyn ClientCertVerifier>, AuthorityError> {
    let fault = |problem| AuthorityError { key, problem };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()).take(MAX_BUNDLE) {
        let certificate = certificate.map_err(|error| fault(format!("not PEM: {error}")))?;
        roots.add(certificate).map_err(|error| fault(format!("a certificate cannot be used: {error}")))?;
    }
    if roots.is_empty() {
        return Err(fault("holds no certificate".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    verifier.map_err(|error| fault(error.to_string()))
}

fn names(keys: &BTreeMap<String, String>, key: &'static str) -> Result<Vec<String>, AuthorityError> {
    let Some(text) = keys.get(key).filter(|text| !text.trim().is_empty()) else { return Ok(Vec::new()) };
    serde_json::from_str(text)
        .map_err(|error| AuthorityError { key, problem: format!("not a JSON list of strings: {error}") })
}

/// The present authorities, replaced while connections are open.
#[derive(Debug, Clone, Default)]
pub(crate) struct CurrentAuthorities(Arc<RwLock<Arc<Authorities>>>);

impl CurrentAuthorities {
    /// The state now.
    pub(crate) fn get(&self) -> Arc<Authorities> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the state; the generation moves on by one.
    pub(crate) fn replace(&self, mut next: Authorities) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        next.generation = current.generation.saturating_add(1);
        *current = Arc::new(next);
    }
}
