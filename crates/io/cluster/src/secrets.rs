//! Secrets: tokens and authorities of endpoints, and our own certificates.

use crate::discovery::{HolderKind, ValueRef};
use crate::error::ClusterError;
use crate::key::Key;
use crate::rest::Rest;
use crate::settings::COMPONENT;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Largest value taken from a Secret or ConfigMap.
const MAX_VALUE: usize = 256 * 1024;
/// How long a failed read is not tried again.
const FAILURE_TTL: Duration = Duration::from_secs(10);
/// How long a value is used although it cannot be read again.
const GRACE: Duration = Duration::from_secs(600);
/// Objects remembered.
const MAX_OBJECTS: usize = 1_024;

/// Text that never appears in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Arc<str>);

impl SecretText {
    /// The text itself; for the request it is meant for only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Values of one object; empty texts are kept, since a missing key is told apart from them.
type Values = Arc<BTreeMap<String, SecretText>>;

struct Cached {
    /// The last good read.
    good: Option<(Values, Instant)>,
    /// The last failure, if it is later.
    failure: Option<(ClusterError, Instant)>,
}

/// Our own TLS Secret as found.
#[derive(Clone)]
pub struct TlsSecret {
    /// Its entries, such as `tls.crt`.
    pub data: BTreeMap<String, Vec<u8>>,
    /// The version to write against.
    pub resource_version: String,
}

impl fmt::Debug for TlsSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.data.keys().collect();
        f.debug_struct("TlsSecret").field("keys", &names).field("resource_version", &self.resource_version).finish()
    }
}

/// Reads values by reference and keeps them for a while; reads and writes our own TLS Secret.
#[derive(Clone)]
pub struct SecretStore {
    rest: Rest,
    namespace: Arc<str>,
    ttl: Duration,
    cache: Arc<Mutex<BTreeMap<(HolderKind, Key), Cached>>>,
}

impl SecretStore {
    pub(crate) fn new(rest: Rest, namespace: &str, ttl: Duration) -> Self {
        Self { rest, namespace: namespace.into(), ttl, cache: Arc::default() }
    }

    /// The text that a reference names, with surrounding white space removed. Read again after the configured time; where that fails, what
    /// was read before stays in use for ten minutes.
    ///
    /// # Errors
    /// Names the object or key that is missing, or the verb that is not granted.
    pub async fn value(&self, wanted: &ValueRef) -> Result<SecretText, ClusterError> {
        let values = self.object(wanted.kind, &wanted.object).await?;
        values.get(&*wanted.key).cloned().ok_or_else(|| ClusterError::NotFound {
            what: format!("read {} {}", kind_name(wanted.kind), wanted.object),
            why: format!("it has no key `{}`", wanted.key),
        })
    }

    async fn object(&self, kind: HolderKind, key: &Key) -> Result<Values, ClusterError> {
        let slot = (kind, key.clone());
        if let Some(cached) = self.lock().get(&slot) {
            if let Some((values, _)) = cached.good.as_ref().filter(|(_, at)| at.elapsed() < self.ttl) {
                return Ok(Arc::clone(values));
            }
            if let Some((error, _)) = cached.failure.as_ref().filter(|(_, at)| at.elapsed() < FAILURE_TTL) {
                return match cached.good.as_ref().filter(|(_, at)| at.elapsed() < GRACE) {
                    Some((values, _)) => Ok(Arc::clone(values)),
                    None => Err(error.clone()),
                };
            }
        }
        let read = self.read(kind, key).await;
        let mut cache = self.lock();
        if cache.len() >= MAX_OBJECTS && !cache.contains_key(&slot) {
            cache.clear();
        }
        let cached = cache.entry(slot).or_insert(Cached { good: None, failure: None });
        match read {
            Ok(values) => {
                cached.good = Some((Arc::clone(&values), Instant::now()));
                cached.failure = None;
                Ok(values)
            }
            Err(error) => {
                cached.failure = Some((error.clone(), Instant::now()));
                // a refusal or a deletion is meant; silence is not
                match cached.good.as_ref().filter(|(_, at)| error.is_transient() && at.elapsed() < GRACE) {
                    Some((values, _)) => Ok(Arc::clone(values)),
                    None => {
                        cached.good = None;
                        Err(error)
                    }
                }
            }
        }
    }

    async fn read(&self, kind: HolderKind, key: &Key) -> Result<Values, ClusterError> {
        let what = format!("read {} {key}", kind_name(kind));
        let base = format!("/api/v1/namespaces/{}", key.namespace);
        let texts: BTreeMap<String, String> = match kind {
            HolderKind::Secret => {
                let secret: Secret = self.rest.get(&what, &format!("{base}/secrets/{}", key.name)).await?;
                let data = secret.data.unwrap_or_default();
                data.into_iter().filter_map(|(name, bytes)| Some((name, String::from_utf8(bytes.0).ok()?))).collect()
            }
            HolderKind::ConfigMap => {
                let map: ConfigMap = self.rest.get(&what, &format!("{base}/configmaps/{}", key.name)).await?;
                map.data.unwrap_or_default()
            }
        };
        let values = texts
            .into_iter()
            .filter(|(_, text)| text.len() <= MAX_VALUE)
            .map(|(name, text)| (name, SecretText(text.trim().into())))
            .collect();
        Ok(Arc::new(values))
    }

    /// A Secret of the install namespace, or `None` where there is none.
    ///
    /// # Errors
    /// Those of the request.
    pub async fn read_tls(&self, name: &str) -> Result<Option<TlsSecret>, ClusterError> {
        let path = format!("{}/{name}", self.folder());
        let found: Option<Secret> = self.rest.find(&format!("read Secret `{name}`"), &path).await?;
        Ok(found.map(read_tls))
    }

    /// Writes a Secret of the install namespace against a version; creates it without one.
    ///
    /// # Errors
    /// [`ClusterError::Conflict`] where another replica was first: read it and use what it wrote.
    pub async fn write_tls(
        &self,
        name: &str,
        data: &BTreeMap<String, Vec<u8>>,
        against: Option<&str>,
    ) -> Result<TlsSecret, ClusterError> {
        let what = format!("write Secret `{name}`");
        let is_pair = data.contains_key("tls.crt") && data.contains_key("tls.key");
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(self.namespace.to_string()),
                resource_version: against.map(str::to_owned),
                labels: Some([("app.kubernetes.io/managed-by".to_owned(), COMPONENT.to_owned())].into()),
                ..ObjectMeta::default()
            },
            type_: Some(if is_pair { "kubernetes.io/tls" } else { "Opaque" }.to_owned()),
            data: Some(data.iter().map(|(key, value)| (key.clone(), ByteString(value.clone()))).collect()),
            ..Secret::default()
        };
        let written: Secret = if against.is_some() {
            let path = format!("{}/{name}?fieldManager={COMPONENT}", self.folder());
            self.rest.put(&what, &path, &secret).await?
        } else {
            self.rest.post(&what, &format!("{}?fieldManager={COMPONENT}", self.folder()), &secret).await?
        };
        Ok(read_tls(written))
    }

    fn folder(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets", self.namespace)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(HolderKind, Key), Cached>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_tls(secret: Secret) -> TlsSecret {
    TlsSecret {
        data: secret.data.unwrap_or_default().into_iter().map(|(name, bytes)| (name, bytes.0)).collect(),
        resource_version: secret.metadata.resource_version.unwrap_or_default(),
    }
}

const fn kind_name(kind: HolderKind) -> &'static str {
    match kind {
        HolderKind::Secret => "Secret",
        HolderKind::ConfigMap => "ConfigMap",
    }
}
