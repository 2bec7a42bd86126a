//! Certificates in a directory, as a mounted Secret of type `kubernetes.io/tls` has them.

use super::certificate::MAX_PEM_BYTES;
use super::{ClientTls, Leaf, PrivateKeyPem, TlsError};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// The files: the authority, the certificate, its key.
pub const FILES: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];

/// Reads a client's authority, certificate and key.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn read_directory(directory: &Path) -> Result<ClientTls, TlsError> {
    let [authority, certificate, key] = FILES;
    Ok(ClientTls {
        ca_pem: read(&directory.join(authority))?,
        identity: Some(Leaf {
            certificate_pem: read(&directory.join(certificate))?,
            key_pem: PrivateKeyPem::new(read(&directory.join(key))?),
        }),
        alpn: Vec::new(),
    })
}

/// The same of the entries of a Secret that are named like the files.
///
/// # Errors
/// Names the entry and what is wrong with it.
pub fn client_of_entries(entries: &BTreeMap<String, Vec<u8>>) -> Result<ClientTls, TlsError> {
    let text = |name: &str| -> Result<String, TlsError> {
        let bytes = entries.get(name).ok_or_else(|| TlsError::unusable(name, "there is no such entry"))?;
        if bytes.len() > MAX_PEM_BYTES {
            return Err(TlsError::unusable(name, format!("it is longer than {MAX_PEM_BYTES} bytes")));
        }
        String::from_utf8(bytes.clone()).map_err(|_| TlsError::unusable(name, "it is not text in PEM form"))
    };
    let [authority, certificate, key] = FILES;
    let identity = Leaf { certificate_pem: text(certificate)?, key_pem: PrivateKeyPem::new(text(key)?) };
    Ok(ClientTls { ca_pem: text(authority)?, identity: Some(identity), alpn: Vec::new() })
}

fn read(path: &Path) -> Result<String, TlsError> {
    let name = path.display().to_string();
    let most = u64::try_from(MAX_PEM_BYTES).unwrap_or(u64::MAX);
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(most.saturating_add(1)).read_to_string(&mut text))
        .map_err(|error| TlsError::unusable(&name, error))?;
    if text.len() > MAX_PEM_BYTES {
        return Err(TlsError::unusable(&name, format!("it is longer than {MAX_PEM_BYTES} bytes")));
    }
    Ok(text)
}
