//! The authority and what it has issued, as plain values.

use super::TlsError;
use super::certificate::{MAX_PEM_BYTES, facts};
use super::certificates;
use std::collections::BTreeMap;
use std::fmt;

/// Names of the parts in a Secret. A leaf is at `NAME.crt` and `NAME.key`.
const AUTHORITY: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const NEXT_AUTHORITY_KEY: &str = "next-ca.key";
const CERTIFICATE_SUFFIX: &str = ".crt";
const KEY_SUFFIX: &str = ".key";
/// Most leaves of one authority.
const MAX_LEAVES: usize = 256;

/// A private key as PEM. It is in no `Debug` text.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKeyPem(String);

impl PrivateKeyPem {
    /// Wraps PEM text.
    #[must_use]
    pub const fn new(pem: String) -> Self {
        Self(pem)
    }

    /// The text, for a Secret or a TLS configuration and nothing else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PrivateKeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKeyPem(..)")
    }
}

/// A certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The certificate, and after it those between it and the authority, if there are any.
    pub certificate_pem: String,
    /// Its key.
    pub key_pem: PrivateKeyPem,
}

/// An authority and what it has issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityBundle {
    /// Certificates to trust. The first one signs; others are the next one, known to everybody before it signs, or the
    /// one before, trusted until everybody has certificates of the new one.
    pub ca_pem: String,
    /// The key of the first certificate.
    pub ca_key_pem: PrivateKeyPem,
    /// The key of the last certificate, while that is the next authority.
    pub next_ca_key_pem: Option<PrivateKeyPem>,
    /// What was issued, by the name it was asked for.
    pub leaves: BTreeMap<String, Leaf>,
}

impl AuthorityBundle {
    /// The entries of a Secret.
    #[must_use]
    pub fn to_secret(&self) -> BTreeMap<String, Vec<u8>> {
        let mut entries = BTreeMap::from([
            (AUTHORITY.to_owned(), self.ca_pem.clone().into_bytes()),
            (AUTHORITY_KEY.to_owned(), self.ca_key_pem.0.clone().into_bytes()),
        ]);
        if let Some(next) = &self.next_ca_key_pem {
            entries.insert(NEXT_AUTHORITY_KEY.to_owned(), next.0.clone().into_bytes());
        }
        for (name, leaf) in &self.leaves {
            entries.insert(format!("{name}{CERTIFICATE_SUFFIX}"), leaf.certificate_pem.clone().into_bytes());
            entries.insert(format!("{name}{KEY_SUFFIX}"), leaf.key_pem.0.clone().into_bytes());
        }
        entries
    }

    /// Reads the entries of a Secret; none if they hold no authority. Half a leaf is left out, and so made anew by
    /// [`super::ensure`].
    ///
    /// # Errors
    /// When an entry is no text, or longer than 256 KiB.
    pub fn from_secret(entries: &BTreeMap<String, Vec<u8>>) -> Result<Option<Self>, TlsError> {
        let text = |name: &str| match entries.get(name) {
            None => Ok(None),
            Some(bytes) if bytes.len() > MAX_PEM_BYTES => {
                Err(TlsError::unusable(name, format!("it is longer than {MAX_PEM_BYTES} bytes")))
            }
            Some(bytes) => {
                let text = String::from_utf8(bytes.clone());
                text.map(Some).map_err(|_| TlsError::unusable(name, "it is not text in PEM form"))
            }
        };
        let (Some(ca_pem), Some(ca_key)) = (text(AUTHORITY)?, text(AUTHORITY_KEY)?) else { return Ok(None) };
        let mut leaves = BTreeMap::new();
        let names = entries.keys().filter_map(|key| key.strip_suffix(CERTIFICATE_SUFFIX));
        for name in names.filter(|name| format!("{name}{CERTIFICATE_SUFFIX}") != AUTHORITY).take(MAX_LEAVES) {
            let certificate = text(&format!("{name}{CERTIFICATE_SUFFIX}"))?;
            if let (Some(certificate_pem), Some(key)) = (certificate, text(&format!("{name}{KEY_SUFFIX}"))?) {
                leaves.insert(name.to_owned(), Leaf { certificate_pem, key_pem: PrivateKeyPem(key) });
            }
        }
        let next_ca_key_pem = text(NEXT_AUTHORITY_KEY)?.map(PrivateKeyPem);
        Ok(Some(Self { ca_pem, ca_key_pem: PrivateKeyPem(ca_key), next_ca_key_pem, leaves }))
    }

    /// The entries of a Secret of type `kubernetes.io/tls` for whoever is to use one leaf: `ca.crt`, `tls.crt`, `tls.key`,
    /// and no key of the authority.
    #[must_use]
    pub fn leaf_secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let leaf = self.leaves.get(name)?;
        let [authority, certificate, key] = super::FILES;
        Some(BTreeMap::from([
            (authority.to_owned(), self.ca_pem.clone().into_bytes()),
            (certificate.to_owned(), leaf.certificate_pem.clone().into_bytes()),
            (key.to_owned(), leaf.key_pem.0.clone().into_bytes()),
        ]))
    }

    /// What the certificate of a leaf says.
    #[must_use]
    pub fn leaf_facts(&self, name: &str) -> Option<super::CertificateFacts> {
        let leaf = self.leaves.get(name)?;
        let first = certificates(name, &leaf.certificate_pem).ok()?.into_iter().next()?;
        facts(&first).ok()
    }
}
