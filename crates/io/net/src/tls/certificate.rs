//! What a certificate says.

use super::TlsError;
use super::der::{BOOLEAN, OCTETS, OID, Reader, SEQUENCE, SET};
use loadline_base::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// Largest PEM text taken.
pub(super) const MAX_PEM_BYTES: usize = 256 * 1024;
/// Most certificates in one PEM text.
const MAX_CERTIFICATES: usize = 64;

/// Object identifiers (RFC 5280 4.2.1, X.520), as they are encoded.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 0x0e];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];
/// Context-specific tags of a general name and of the optional parts of a certificate.
const DNS_NAME: u8 = 0x82;
const ADDRESS: u8 = 0x87;
const KEY_ID: u8 = 0x80;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

/// What a certificate says, as far as we act on it. It proves nothing: that its signature is good is the verifier's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The first common name of its subject.
    pub common_name: Option<String>,
    /// DNS names it is for.
    pub dns: BTreeSet<String>,
    /// Addresses it is for.
    pub addresses: BTreeSet<IpAddr>,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// Whether it may issue certificates.
    pub is_authority: bool,
    /// The id of its key.
    pub key_id: Option<Vec<u8>>,
    /// The id of the key that signed it.
    pub issuer_key_id: Option<Vec<u8>>,
}

impl CertificateFacts {
    /// When it should be replaced: two thirds into its life, so that a third is left to find out why it was not.
    #[must_use]
    pub fn rotate_at(&self) -> Timestamp {
        let life = self.not_after.since(self.not_before);
        self.not_before.plus(life / 3 * 2)
    }

    /// How long it may still be used before it should be replaced; zero when that time has come.
    #[must_use]
    pub fn time_to_rotate(&self, now: Timestamp) -> Duration {
        self.rotate_at().since(now)
    }

    /// Whether it is valid at `now`.
    ///
    /// # Errors
    /// [`TlsError::Expired`] and [`TlsError::NotYetValid`].
    pub fn check(&self, now: Timestamp) -> Result<(), TlsError> {
        let name = || self.common_name.clone().unwrap_or_default();
        if now > self.not_after {
            return Err(TlsError::Expired { name: name(), at: self.not_after });
        }
        if now < self.not_before {
            return Err(TlsError::NotYetValid { name: name(), at: self.not_before });
        }
        Ok(())
    }
}

/// The certificates of a PEM text of at most 256 KiB; other blocks are passed over.
///
/// # Errors
/// When the text is too long, is no PEM, or holds no certificate.
pub fn certificates(what: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    if pem.len() > MAX_PEM_BYTES {
        return Err(TlsError::unusable(what, format!("it is longer than {MAX_PEM_BYTES} bytes")));
    }
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).take(MAX_CERTIFICATES + 1).collect();
    let all = all.map_err(|error| TlsError::unusable(what, error))?;
    if all.is_empty() {
        return Err(TlsError::unusable(what, "it holds no certificate in PEM form"));
    }
    if all.len() > MAX_CERTIFICATES {
        return Err(TlsError::unusable(what, format!("it holds more than {MAX_CERTIFICATES} certificates")));
    }
    Ok(all)
}

/// Reads what a certificate says.
///
/// # Errors
/// When the bytes are no X.509 certificate.
pub fn facts(certificate: &[u8]) -> Result<CertificateFacts, TlsError> {
    read(certificate).ok_or_else(|| TlsError::unusable("certificate", "the bytes are not an X.509 certificate"))
}

fn read(der: &[u8]) -> Option<CertificateFacts> {
    let mut body = Reader(der).enter(SEQUENCE)?.enter(SEQUENCE)?;
    let mut ahead = body;
    if ahead.next()?.0 == VERSION {
        body = ahead;
    }
    // serial number, signature algorithm, issuer
    for _ in 0..3 {
        body.next()?;
    }
    let mut validity = body.enter(SEQUENCE)?;
    let mut found = CertificateFacts {
        not_before: validity.time()?,
        not_after: validity.time()?,
        common_name: None,
        dns: BTreeSet::new(),
        addresses: BTreeSet::new(),
        is_authority: false,
        key_id: None,
        issuer_key_id: None,
    };
    found.common_name = common_name(body.enter(SEQUENCE)?);
    // the key
    body.expect(SEQUENCE)?;
    while let Some((tag, content)) = body.next() {
        if tag == EXTENSIONS {
            let mut extensions = Reader(content).enter(SEQUENCE)?;
            while let Some(extension) = extensions.enter(SEQUENCE) {
                take_extension(&mut found, extension)?;
            }
        }
    }
    Some(found)
}

fn common_name(mut subject: Reader<'_>) -> Option<String> {
    while let Some(mut names) = subject.enter(SET) {
        while let Some(mut name) = names.enter(SEQUENCE) {
            if name.expect(OID)? == COMMON_NAME {
                return String::from_utf8(name.next()?.1.to_vec()).ok();
            }
        }
    }
    None
}

fn take_extension(found: &mut CertificateFacts, mut extension: Reader<'_>) -> Option<()> {
    let id = extension.expect(OID)?;
    let (mut tag, mut content) = extension.next()?;
    if tag == BOOLEAN {
        (tag, content) = extension.next()?;
    }
    if tag != OCTETS {
        return None;
    }
    let mut value = Reader(content);
    match id {
        SUBJECT_KEY_ID => found.key_id = value.expect(OCTETS).map(<[u8]>::to_vec),
        AUTHORITY_KEY_ID => {
            let mut parts = value.enter(SEQUENCE)?;
            found.issuer_key_id = parts.expect(KEY_ID).map(<[u8]>::to_vec);
        }
        BASIC_CONSTRAINTS => {
            found.is_authority = value.enter(SEQUENCE)?.expect(BOOLEAN).is_some_and(|value| value != [0]);
        }
        ALTERNATIVE_NAMES => {
            let mut names = value.enter(SEQUENCE)?;
            while let Some((tag, content)) = names.next() {
                match (tag, content.len()) {
                    (DNS_NAME, _) => {
                        found.dns.insert(String::from_utf8(content.to_vec()).ok()?);
                    }
                    (ADDRESS, 4) => {
                        found.addresses.insert(IpAddr::from(<[u8; 4]>::try_from(content).ok()?));
                    }
                    (ADDRESS, 16) => {
                        found.addresses.insert(IpAddr::from(<[u8; 16]>::try_from(content).ok()?));
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    Some(())
}
