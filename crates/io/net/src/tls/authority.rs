//! Making an authority, issuing from it, and bringing a bundle up to date.
//!
//! An authority is replaced in three steps, so that at no moment two peers disagree: first the next one is added to what is
//! trusted; when everybody has read that ([`Lifetimes::settle`]), it signs everything anew; when everybody has read that too, the
//! one before is no longer trusted. Keys are those of the P-256 curve; a certificate's key is made anew with it.

use super::bundle::{AuthorityBundle, Leaf, PrivateKeyPem};
use super::certificate::{CertificateFacts, certificates, facts};
use super::{TlsError, issued_by};
use loadline_base::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);
/// Common names of authorities begin with it; the time they were made follows, so that no two are the same.
const AUTHORITY_NAME: &str = "Loadline authority";

/// How long certificates live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// The authority. Default 3,650 days.
    pub authority: Duration,
    /// What it issues. Default 90 days.
    pub leaf: Duration,
    /// How long everybody may take to read a changed bundle. Default 1 day.
    pub settle: Duration,
    /// How far back a certificate's life begins, for peers whose clocks are behind. Default 5 minutes.
    pub backdate: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { authority: DAY * 3_650, leaf: DAY * 90, settle: DAY, backdate: Duration::from_secs(300) }
    }
}

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// To be connected to.
    Server,
    /// To connect.
    Client,
}

/// What a certificate is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafSpec {
    /// What it may be used for.
    pub usage: Usage,
    /// Its common name, at most 64 characters.
    pub common_name: String,
    /// DNS names.
    pub dns: BTreeSet<String>,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
}

impl LeafSpec {
    /// A certificate to be connected to under these DNS names, the first of which is its common name.
    #[must_use]
    pub fn server<'a>(dns: impl IntoIterator<Item = &'a str>) -> Self {
        let dns: Vec<String> = dns.into_iter().map(str::to_owned).collect();
        let common_name = dns.first().cloned().unwrap_or_default();
        Self { usage: Usage::Server, common_name, dns: dns.into_iter().collect(), addresses: BTreeSet::new() }
    }

    /// A certificate to connect with.
    #[must_use]
    pub fn client(common_name: impl Into<String>) -> Self {
        let common_name = common_name.into();
        Self { usage: Usage::Client, common_name, dns: BTreeSet::new(), addresses: BTreeSet::new() }
    }
}

/// What [`ensure`] changed, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// What of the authority, and why.
    pub authority: Option<String>,
    /// The leaves that were issued or dropped, and why.
    pub leaves: BTreeMap<String, String>,
}

impl Changed {
    /// Whether the bundle must be written.
    #[must_use]
    pub fn any(&self) -> bool {
        self.authority.is_some() || !self.leaves.is_empty()
    }
}

/// The bundle that should be there now: what is good is kept, what is missing, wrong, or two thirds into its life is made anew,
/// and leaves that are not wanted are dropped. To be asked at least a few times within `settle` and within a third of a leaf's life.
///
/// # Errors
/// When a certificate cannot be made, for example because a name has characters that none may have.
pub fn ensure(
    bundle: Option<AuthorityBundle>,
    now: Timestamp,
    wanted: &BTreeMap<String, LeafSpec>,
    lifetimes: &Lifetimes,
) -> Result<(AuthorityBundle, Changed), TlsError> {
    let mut changed = Changed::default();
    let found = match bundle {
        None => Err("there was none".to_owned()),
        Some(bundle) => Authorities::read(&bundle, now).map(|authorities| (authorities, bundle.leaves)),
    };
    let (mut authorities, present) = match found {
        Ok(found) => found,
        Err(why) => {
            changed.authority = Some(format!("made a new authority: {why}"));
            (Authorities::new(now, lifetimes)?, BTreeMap::new())
        }
    };
    if let Some(what) = authorities.advance(now, lifetimes)? {
        changed.authority = Some(what);
    }
    let mut leaves = BTreeMap::new();
    for (name, spec) in wanted {
        let (leaf, why) = match present.get(name).ok_or_else(|| "it was missing".to_owned()).and_then(|leaf| {
            authorities.signer.accepts(leaf, spec, now)?;
            Ok(leaf)
        }) {
            Ok(leaf) => (leaf.clone(), None),
            Err(why) => (authorities.signer.issue(spec, now, lifetimes)?, Some(why)),
        };
        if let Some(why) = why {
            changed.leaves.insert(name.clone(), format!("issued: {why}"));
        }
        leaves.insert(name.clone(), leaf);
    }
    for name in present.keys().filter(|name| !wanted.contains_key(*name)) {
        changed.leaves.insert(name.clone(), "dropped: it is not wanted any more".to_owned());
    }
    if authorities.drop_before(now, &leaves, lifetimes) {
        changed.authority = Some("the authority before is no longer trusted".to_owned());
    }
    Ok((authorities.into_bundle(leaves), changed))
}

/// One authority with its key.
struct Authority {
    pem: String,
    key: KeyPair,
    facts: CertificateFacts,
}

/// All that a bundle trusts.
struct Authorities {
    signer: Authority,
    /// Trusted, and not signing any more.
    before: Vec<(String, CertificateFacts)>,
    next: Option<Authority>,
}

impl Authorities {
    fn new(now: Timestamp, lifetimes: &Lifetimes) -> Result<Self, TlsError> {
        Ok(Self { signer: Authority::make(now, lifetimes)?, before: Vec::new(), next: None })
    }

    /// Reads a bundle; the error says why a new authority is needed.
    fn read(bundle: &AuthorityBundle, now: Timestamp) -> Result<Self, String> {
        let mut all = each(&bundle.ca_pem).map_err(|error| error.to_string())?;
        let next = match &bundle.next_ca_key_pem {
            Some(key) if all.len() > 1 => all
                .pop()
                .and_then(|(pem, facts)| Authority::read(pem, facts, key).ok())
                .filter(|next| next.facts.check(now).is_ok()),
            _ => None,
        };
        let mut all = all.into_iter();
        let (pem, signer) = all.next().ok_or("`ca.crt` holds no certificate")?;
        let before = all.filter(|(_, facts)| facts.check(now).is_ok()).collect();
        let signer = Authority::read(pem, signer, &bundle.ca_key_pem)?;
        match (signer.facts.check(now), next) {
            (Ok(()), next) => Ok(Self { signer, before, next }),
            // the writer was away for so long that the turn of the next one has come
            (Err(_), Some(next)) => Ok(Self { signer: next, before, next: None }),
            (Err(error), None) => Err(error.to_string()),
        }
    }

    /// Adds the next authority, or lets it sign, when the time for that has come.
    fn advance(&mut self, now: Timestamp, lifetimes: &Lifetimes) -> Result<Option<String>, TlsError> {
        if let Some(next) = self.next.take() {
            if now < next.facts.not_before.plus(lifetimes.backdate).plus(lifetimes.settle) {
                self.next = Some(next);
                return Ok(None);
            }
            let old = std::mem::replace(&mut self.signer, next);
            self.before.push((old.pem, old.facts));
            return Ok(Some("the next authority signs from now on".to_owned()));
        }
        if now < self.signer.facts.rotate_at() {
            return Ok(None);
        }
        self.next = Some(Authority::make(now, lifetimes)?);
        Ok(Some("the next authority is trusted from now on, and signs later".to_owned()))
    }

    /// Stops trusting those before, once everybody has had the time to read what the signer issued.
    fn drop_before(&mut self, now: Timestamp, leaves: &BTreeMap<String, Leaf>, lifetimes: &Lifetimes) -> bool {
        let issued = leaves.iter().filter_map(|(name, leaf)| leaf_facts(name, leaf).ok()).map(|facts| facts.not_before);
        let signs_since = issued.min().unwrap_or_else(|| self.signer.facts.not_before.plus(lifetimes.settle));
        let is_due = now >= signs_since.plus(lifetimes.backdate).plus(lifetimes.settle);
        if !is_due || self.before.is_empty() {
            return false;
        }
        self.before.clear();
        true
    }

    fn into_bundle(self, leaves: BTreeMap<String, Leaf>) -> AuthorityBundle {
        let before = self.before.iter().map(|(pem, _)| pem.as_str());
        let next = self.next.iter().map(|next| next.pem.as_str());
        AuthorityBundle {
            ca_pem: [self.signer.pem.as_str()].into_iter().chain(before).chain(next).collect(),
            ca_key_pem: PrivateKeyPem::new(self.signer.key.serialize_pem()),
            next_ca_key_pem: self.next.as_ref().map(|next| PrivateKeyPem::new(next.key.serialize_pem())),
            leaves,
        }
    }
}

impl Authority {
    fn make(now: Timestamp, lifetimes: &Lifetimes) -> Result<Self, TlsError> {
        let name = format!("{AUTHORITY_NAME} {}", now.as_nanos());
        let issue = |error: rcgen::Error| TlsError::Issue { name: name.clone(), why: error.to_string() };
        let key = KeyPair::generate().map_err(issue)?;
        let mut params = authority_params(&name);
        set_life(&mut params, now.minus(lifetimes.backdate), now.plus(lifetimes.authority));
        let certificate = params.self_signed(&key).map_err(issue)?;
        Ok(Self { pem: certificate.pem(), key, facts: facts(certificate.der())? })
    }

    fn read(pem: String, facts: CertificateFacts, key: &PrivateKeyPem) -> Result<Self, String> {
        let key = KeyPair::from_pem(key.expose()).map_err(|error| format!("its key cannot be read: {error}"))?;
        if !facts.is_authority {
            return Err("its certificate is none of an authority".to_owned());
        }
        let key_id = CertificateParams::default().key_identifier(&key);
        if facts.key_id.as_ref() != Some(&key_id) {
            return Err("its key is not that of its certificate".to_owned());
        }
        Ok(Self { pem, key, facts })
    }

    /// Whether a leaf is as it should be and has two thirds of its life not behind it; the error says why not.
    fn accepts(&self, leaf: &Leaf, spec: &LeafSpec, now: Timestamp) -> Result<(), String> {
        let text = |error: TlsError| error.to_string();
        let found = leaf_facts(&spec.common_name, leaf).map_err(text)?;
        if found.common_name.as_deref() != Some(&spec.common_name)
            || found.dns != spec.dns
            || found.addresses != spec.addresses
        {
            return Err("its names changed".to_owned());
        }
        if found.issuer_key_id != self.facts.key_id {
            return Err("another authority signs now".to_owned());
        }
        found.check(now).map_err(text)?;
        if now >= found.rotate_at() {
            return Err("two thirds of its life are over".to_owned());
        }
        issued_by(leaf, &self.pem, spec.usage, now).map_err(text)
    }

    fn issue(&self, spec: &LeafSpec, now: Timestamp, lifetimes: &Lifetimes) -> Result<Leaf, TlsError> {
        let issue = |error: rcgen::Error| TlsError::Issue { name: spec.common_name.clone(), why: error.to_string() };
        let key = KeyPair::generate().map_err(issue)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&spec.common_name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match spec.usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        for dns in &spec.dns {
            params.subject_alt_names.push(SanType::DnsName(dns.as_str().try_into().map_err(issue)?));
        }
        params.subject_alt_names.extend(spec.addresses.iter().map(|address| SanType::IpAddress(*address)));
        let until = now.plus(lifetimes.leaf).min(self.facts.not_after);
        set_life(&mut params, now.minus(lifetimes.backdate), until);
        let signer = authority_params(self.facts.common_name.as_deref().unwrap_or_default());
        let certificate = params.signed_by(&key, &Issuer::from_params(&signer, &self.key)).map_err(issue)?;
        Ok(Leaf { certificate_pem: certificate.pem(), key_pem: PrivateKeyPem::new(key.serialize_pem()) })
    }
}

fn leaf_facts(name: &str, leaf: &Leaf) -> Result<CertificateFacts, TlsError> {
    let all = certificates(name, &leaf.certificate_pem)?;
    facts(all.first().map_or(&[], |first| first))
}

fn authority_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// Sets from when and until when it is valid; certificates write both in whole seconds.
fn set_life(params: &mut CertificateParams, from: Timestamp, until: Timestamp) {
    let whole_seconds = |at: Timestamp| Duration::from_secs(at.since(Timestamp::ZERO).as_secs());
    params.not_before = date_time_ymd(1970, 1, 1) + whole_seconds(from);
    params.not_after = date_time_ymd(1970, 1, 1) + whole_seconds(until);
}

/// The certificates of a PEM text, each as text and with what it says.
fn each(pem: &str) -> Result<Vec<(String, CertificateFacts)>, TlsError> {
    const END: &str = "-----END CERTIFICATE-----";
    let whole = certificates("ca.crt", pem)?;
    let blocks = pem.split_inclusive(END).map(|block| format!("{}\n", block.trim())).filter(|block| block.len() > 1);
    whole.iter().zip(blocks).map(|(der, block)| Ok((block, facts(der)?))).collect()
}
