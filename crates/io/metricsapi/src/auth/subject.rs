//! The common name and organisations of a certificate's subject: the two fields that Kubernetes reads as user and groups.

/// The DER tags that are read.
mod tag {
    pub(super) const INTEGER: u8 = 0x02;
    pub(super) const OID: u8 = 0x06;
    pub(super) const UTF8: u8 = 0x0c;
    pub(super) const NUMERIC: u8 = 0x12;
    pub(super) const PRINTABLE: u8 = 0x13;
    pub(super) const T61: u8 = 0x14;
    pub(super) const IA5: u8 = 0x16;
    pub(super) const BMP: u8 = 0x1e;
    pub(super) const SEQUENCE: u8 = 0x30;
    pub(super) const SET: u8 = 0x31;
    pub(super) const VERSION: u8 = 0xa0;
}

/// id-at-commonName, 2.5.4.3 (X.520).
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];
/// id-at-organizationName, 2.5.4.10 (X.520).
const ORGANIZATION: [u8; 3] = [0x55, 0x04, 0x0a];

/// What a certificate says about whom it names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Subject {
    /// The last common name; empty if there is none.
    pub(crate) common_name: String,
    /// Organisations in their order.
    pub(crate) organizations: Vec<String>,
}

/// Reads the subject of a DER certificate (RFC 5280, 4.1); `None` for bytes that are no certificate.
pub(crate) fn subject_of(certificate: &[u8]) -> Option<Subject> {
    let (outer, _) = expect(certificate, tag::SEQUENCE)?;
    let (mut body, _) = expect(outer, tag::SEQUENCE)?;
    if body.first() == Some(&tag::VERSION) {
        body = element(body)?.2;
    }
    let (_, rest) = expect(body, tag::INTEGER)?;
    // the signature algorithm, the issuer and the validity stand before the subject
    let mut rest = rest;
    for _ in 0..3 {
        rest = expect(rest, tag::SEQUENCE)?.1;
    }
    let (mut names, _) = expect(rest, tag::SEQUENCE)?;
    let mut subject = Subject::default();
    while !names.is_empty() {
        let (mut set, after) = expect(names, tag::SET)?;
        names = after;
        while !set.is_empty() {
            let (attribute, after) = expect(set, tag::SEQUENCE)?;
            set = after;
            let (oid, value) = expect(attribute, tag::OID)?;
            if oid == COMMON_NAME {
                subject.common_name = text(value)?;
            } else if oid == ORGANIZATION {
                subject.organizations.push(text(value)?);
            }
        }
    }
    Some(subject)
}

fn text(bytes: &[u8]) -> Option<String> {
    let (tag, value, _) = element(bytes)?;
    match tag {
        tag::UTF8 | tag::NUMERIC | tag::PRINTABLE | tag::IA5 => String::from_utf8(value.to_vec()).ok(),
        tag::T61 => Some(value.iter().map(|&byte| char::from(byte)).collect()),
        tag::BMP => {
            let units = value.chunks(2).map(|pair| match pair {
                [high, low] => Some(u16::from_be_bytes([*high, *low])),
                _ => None,
            });
            String::from_utf16(&units.collect::<Option<Vec<_>>>()?).ok()
        }
        _ => None,
    }
}

/// The content of the first element, which must have this tag, and what follows it.
fn expect(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (have, content, rest) = element(bytes)?;
    (have == tag).then_some((content, rest))
}

/// Tag, content and remainder of the first element; definite lengths of at most four bytes only, as in DER.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 {
            return None;
        }
        let (digits, rest) = rest.split_at_checked(count)?;
        (digits.iter().fold(0_usize, |sum, &digit| (sum << 8) | usize::from(digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    #[test]
    fn common_name_and_organisations_are_read_in_every_string_type() {
        let cases = [
            ("utf8", DnValue::Utf8String("ключ".to_owned()), "ключ"),
            ("printable", DnValue::PrintableString("front-proxy".try_into().expect("printable")), "front-proxy"),
            ("ia5", DnValue::Ia5String("a@b".try_into().expect("ia5")), "a@b"),
            ("bmp", DnValue::BmpString("bmp-ö".try_into().expect("bmp")), "bmp-ö"),
        ];
        for (name, value, expect) in cases {
            let mut params = CertificateParams::default();
            let mut subject = DistinguishedName::new();
            subject.push(DnType::CommonName, value);
            subject.push(DnType::OrganizationName, "system:masters");
            subject.push(DnType::CountryName, "CH");
            params.distinguished_name = subject;
            let certificate = params.self_signed(&KeyPair::generate().expect("key")).expect("certificate");
            let read = subject_of(certificate.der()).expect(name);
            assert_eq!(
                (read.common_name.as_str(), read.organizations.as_slice()),
                (expect, &["system:masters".to_owned()][..])
            );
        }
    }

    #[test]
    fn cut_and_changed_certificates_do_not_panic() {
        let certificate =
            CertificateParams::default().self_signed(&KeyPair::generate().expect("key")).expect("certificate");
        let bytes = certificate.der().to_vec();
        for end in 0..bytes.len() {
            assert_eq!(subject_of(&bytes[..end]), None, "cut at {end}");
        }
        for index in 0..bytes.len() {
            for value in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut changed = bytes.clone();
                changed[index] = value;
                let _ = subject_of(&changed);
            }
        }
    }
}
