//! Certificates in a directory, as a mounted Secret of type `kubernetes.io/tls` has them.

use super::certificate::MAX_PEM_BYTES;
use super::{ClientTls, Leaf, PrivateKeyPem, ReloadableClient, TlsError};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

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

/// Looks at the directory once per period and takes changed files into force, until it is dropped.
///
/// Files are read again instead of watched: a mounted Secret is replaced by moving a symbolic link. While files are half
/// written or wrong, what was in force stays, and `report` hears why, once.
pub async fn follow_directory(
    directory: &Path,
    client: &ReloadableClient,
    period: Duration,
    mut report: impl FnMut(Result<(), TlsError>),
) {
    let mut known = read_directory(directory).ok();
    let mut refused = None;
    loop {
        tokio::time::sleep(period).await;
        let found = read_directory(directory);
        if let Ok(tls) = &found
            && known.as_ref() == Some(tls)
        {
            refused = None;
            continue;
        }
        let outcome = found.and_then(|tls| client.replace(tls.clone()).map(|()| tls));
        match outcome {
            Ok(tls) => {
                known = Some(tls);
                refused = None;
                report(Ok(()));
            }
            Err(error) => {
                if refused.as_ref() != Some(&error) {
                    report(Err(error.clone()));
                }
                refused = Some(error);
            }
        }
    }
}
