//! Client certificates: asked for in every handshake, judged per request against the authorities of that moment.

use super::authorities::{Authorities, RequestHeader};
use super::subject::{Subject, subject_of};
use loadline_base::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Asks every client for a certificate and accepts whatever it shows, or nothing: the handshake proves only that the
/// client holds the key. Whether the certificate means anything is decided per request, so that a change of the
/// authorities reaches open connections without dropping them.
#[derive(Debug)]
pub(crate) struct AnyCertificate(Arc<CryptoProvider>);

impl AnyCertificate {
    pub(crate) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self(provider)
    }
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // no hints: the authorities may change while the listener stays, and an empty list invites every certificate
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What a certificate is worth to one authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Worth {
    /// No certificate was shown, or there is no such authority.
    Nothing,
    /// It is believed.
    Trusted(Arc<Subject>),
    /// It is not, and why.
    Refused(Arc<str>),
}

/// The verdict about one connection's certificate.
#[derive(Debug, Clone)]
pub(crate) struct Judged {
    generation: u64,
    at: Timestamp,
    /// To the front proxy's authority, its common name included.
    pub(crate) as_proxy: Worth,
    /// To the clients' authority.
    pub(crate) as_client: Worth,
}

/// The far end of one connection.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    /// The client's certificate, then its intermediates; empty if it showed none.
    chain: Vec<CertificateDer<'static>>,
    judged: Mutex<Option<Judged>>,
    /// Requests begun, and how many of them are answered.
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Peer {
    pub(crate) fn new(chain: Vec<CertificateDer<'static>>) -> Self {
        Self { chain, ..Self::default() }
    }

    /// A request begins; it ends when what is returned is dropped.
    pub(crate) fn begin(&self) -> Open<'_> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Open(self)
    }

    /// How many requests there were, if none is open.
    pub(crate) fn at_rest(&self) -> Option<u64> {
        let ended = self.ended.load(Ordering::Acquire);
        (self.begun.load(Ordering::Acquire) == ended).then_some(ended)
    }

    /// What its certificate is worth now. A verdict is reused until the authorities change or `recheck` has passed
    /// (certificates expire while connections stay open).
    pub(crate) fn judge(&self, authorities: &Authorities, now: Timestamp, recheck: Duration) -> Judged {
        let mut slot = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(judged) = slot.as_ref()
            && judged.generation == authorities.generation
            && now.since(judged.at) < recheck
        {
            return judged.clone();
        }
        let judged = Judged {
            generation: authorities.generation,
            at: now,
            as_proxy: authorities.request_header.as_ref().map_or(Worth::Nothing, |header| self.as_proxy(header, now)),
            as_client: authorities
                .client
                .as_ref()
                .map_or(Worth::Nothing, |verifier| self.worth(verifier.as_ref(), now)),
        };
        *slot = Some(judged.clone());
        judged
    }

    fn as_proxy(&self, header: &RequestHeader, now: Timestamp) -> Worth {
        match self.worth(header.verifier.as_ref(), now) {
            Worth::Trusted(subject) if !header.allowed.is_empty() && !header.allowed.contains(&subject.common_name) => {
                let name = &subject.common_name;
                Worth::Refused(format!("common name `{name}` is not in `requestheader-allowed-names`").into())
            }
            worth => worth,
        }
    }

    fn worth(&self, verifier: &dyn ClientCertVerifier, now: Timestamp) -> Worth {
        let Some((own, intermediates)) = self.chain.split_first() else { return Worth::Nothing };
        let since_epoch = now.since(Timestamp::ZERO);
        match verifier.verify_client_cert(own, intermediates, UnixTime::since_unix_epoch(since_epoch)) {
            Ok(_) => subject_of(own).map_or_else(
                || Worth::Refused("its subject cannot be read".into()),
                |subject| Worth::Trusted(Arc::new(subject)),
            ),
            Err(error) => Worth::Refused(error.to_string().into()),
        }
    }
}

/// One open request of a [`Peer`].
pub(crate) struct Open<'a>(&'a Peer);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Release);
    }
}
