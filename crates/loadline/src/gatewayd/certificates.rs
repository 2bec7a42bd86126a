//! Where the gateway's certificate for the link comes from, and that a changed one is taken while running.

use loadline_cluster::SecretStore;
use loadline_net::tls::{ClientTls, ReloadableClient, client_of_entries, read_directory};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// The longest pause before a certificate that is not there yet is looked for again.
const IMPATIENT: Duration = Duration::from_secs(1);

/// Where the certificate is.
#[derive(Clone)]
pub(crate) enum TlsSource {
    /// Nowhere: there is no link.
    None,
    /// In files, as a mounted Secret has them.
    Directory(PathBuf),
    /// In a Secret of the namespace where `loadline serve` is, read through the API: a mount reaches no other namespace.
    Secret {
        /// Reads it.
        store: SecretStore,
        /// Its name.
        name: String,
    },
}

impl fmt::Debug for TlsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Directory(path) => write!(f, "Directory({})", path.display()),
            Self::Secret { name, .. } => write!(f, "Secret({name})"),
        }
    }
}

impl TlsSource {
    async fn read(&self) -> Result<ClientTls, String> {
        match self {
            Self::None => Err("there is no certificate".to_owned()),
            Self::Directory(path) => read_directory(path).map_err(|error| error.to_string()),
            Self::Secret { store, name } => match store.read_tls(name).await {
                Ok(Some(secret)) => {
                    client_of_entries(&secret.data).map_err(|error| format!("Secret `{name}`: {error}"))
                }
                Ok(None) => Err(format!("there is no Secret `{name}`; `loadline serve` makes it when it first starts")),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

/// Gives the client's configuration as soon as it can be read, and then looks once per period whether it changed. While it cannot be
/// read or used, the one before stays, and the log says why, once.
pub(crate) async fn follow(source: TlsSource, period: Duration, ready: mpsc::Sender<Arc<ReloadableClient>>) {
    if matches!(source, TlsSource::None) {
        tracing::warn!(
            "without `--tls-secret` or `--tls-dir` the writer of replica counts hears nothing of this gateway"
        );
        return;
    }
    let mut in_force: Option<(ClientTls, Arc<ReloadableClient>)> = None;
    let mut said = None;
    loop {
        let outcome = match source.read().await {
            Ok(tls) if in_force.as_ref().is_some_and(|(known, _)| *known == tls) => Ok(()),
            Ok(tls) => take(tls, &mut in_force, &ready).await,
            Err(why) => Err(why),
        };
        let why = outcome.err();
        if let Some(why) = why.as_ref().filter(|why| said.as_ref() != Some(*why)) {
            match in_force {
                Some(_) => tracing::warn!("the client certificate is not renewed; the one before stays: {why}"),
                None => tracing::warn!("no link to the writer yet: {why}"),
            }
        }
        said = why;
        tokio::time::sleep(if in_force.is_some() { period } else { period.min(IMPATIENT) }).await;
    }
}

async fn take(
    tls: ClientTls,
    in_force: &mut Option<(ClientTls, Arc<ReloadableClient>)>,
    ready: &mpsc::Sender<Arc<ReloadableClient>>,
) -> Result<(), String> {
    let client = if let Some((_, client)) = in_force.take() {
        let replaced = client.replace(tls.clone());
        if let Err(error) = replaced {
            // the one before is still in force, but what was read is not worth another try
            *in_force = Some((tls, client));
            return Err(error.to_string());
        }
        tracing::info!("the changed client certificate is in force for new connections");
        client
    } else {
        let client = Arc::new(ReloadableClient::new(&tls).map_err(|error| error.to_string())?);
        // the loop is gone when it does not listen
        let _ = ready.send(Arc::clone(&client)).await;
        client
    };
    *in_force = Some((tls, client));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use loadline_net::Clock;
    use loadline_net::tls::{AuthorityBundle, LeafSpec, Lifetimes, ensure};
    use std::collections::BTreeMap;

    fn made() -> AuthorityBundle {
        let wanted = BTreeMap::from([("client".to_owned(), LeafSpec::client("gateway"))]);
        ensure(None, Clock::real().now(), &wanted, &Lifetimes::default()).expect("made").0
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_is_read_again_and_a_half_written_one_is_not_taken() {
        let directory = std::env::temp_dir().join(format!("loadline-gateway-tls-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("made");
        let write = |bundle: &AuthorityBundle| {
            for (file, text) in bundle.leaf_secret("client").expect("is there") {
                std::fs::write(directory.join(file), text).expect("written");
            }
        };
        let (ready, mut clients) = mpsc::channel(1);
        let period = Duration::from_secs(10);
        let following = tokio::spawn(follow(TlsSource::Directory(directory.clone()), period, ready));
        tokio::time::sleep(period).await;
        assert!(clients.try_recv().is_err(), "there is none yet");
        write(&made());
        let client = clients.recv().await.expect("it is found");
        let first = client.config();
        let other = made();
        std::fs::write(directory.join("tls.key"), other.leaves["client"].key_pem.expose()).expect("written");
        tokio::time::sleep(period * 3).await;
        assert!(Arc::ptr_eq(&first, &client.config()), "a key of another certificate is not taken");
        write(&other);
        tokio::time::sleep(period * 3).await;
        assert!(!Arc::ptr_eq(&first, &client.config()), "the whole one is");
        following.abort();
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
