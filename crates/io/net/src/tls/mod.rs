//! Certificates of our own private authority, and TLS configurations that are replaced while serving.
//!
//! A bundle of certificates is plain values ([`AuthorityBundle`]): whoever keeps it in a Secret asks [`ensure`] for the bundle
//! that should be there now, and writes it if it changed. Who serves or connects with them takes the configuration anew for every
//! connection ([`ReloadableServer`], [`ReloadableClient`]), so that a replacement never ends a connection.

mod authority;
mod bundle;
mod certificate;
mod der;
mod error;
mod files;
mod reload;

pub use authority::{Changed, LeafSpec, Lifetimes, Usage, ensure};
pub use bundle::{AuthorityBundle, Leaf, PrivateKeyPem};
pub use certificate::{CertificateFacts, certificates, facts};
pub use error::TlsError;
pub use files::{FILES, client_of_entries, read_directory};
pub use reload::{ClientTls, Clients, ReloadableClient, ReloadableServer, ServerTls, issued_by};

#[cfg(test)]
mod tests;
