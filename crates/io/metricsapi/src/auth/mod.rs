//! Who asks, and whether it may: delegated authentication and authorization as aggregated API servers do them
//! (apiserver's `DelegatingAuthenticationOptions` and `DelegatingAuthorizationOptions`).

pub(crate) mod authorities;
pub(crate) mod cache;
pub(crate) mod peer;
pub(crate) mod reviews;
pub(crate) mod subject;
pub(crate) mod user;
pub(crate) mod watch;

use crate::meter::Meter;
use crate::route::Attributes;
use crate::settings::Settings;
use authorities::{CurrentAuthorities, RequestHeader};
use cache::{Cache, Key, KeyParts, sha256};
use http::{HeaderMap, header};
use loadline_base::Timestamp;
use loadline_net::Clock;
use peer::{Peer, Worth};
use reviews::{ReviewError, Reviews, Verdict};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use user::{MASTERS, User};

/// Why nobody could be recognised; the text is for the caller and holds no credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unauthenticated(pub(crate) String);

/// Recognises callers and asks whether they may.
pub(crate) struct Gate {
    authorities: CurrentAuthorities,
    reviews: Reviews,
    tokens: Cache<Option<Arc<User>>, ReviewError>,
    access: Cache<Verdict, ReviewError>,
    meter: Arc<Meter>,
    clock: Clock,
    anonymous: bool,
    recheck: Duration,
}

impl Gate {
    pub(crate) fn new(
        settings: &Settings,
        authorities: CurrentAuthorities,
        client: kube::Client,
        meter: Arc<Meter>,
        clock: Clock,
    ) -> Self {
        Self {
            authorities,
            reviews: Reviews::new(client, settings.review_timeout),
            tokens: Cache::new(settings.token_ttl, settings.review_entries),
            access: Cache::new(settings.access_ttl, settings.review_entries),
            meter,
            clock,
            anonymous: settings.anonymous,
            recheck: settings.certificate_recheck,
        }
    }

    /// Whether somebody could be recognised by a certificate.
    pub(crate) fn is_loaded(&self) -> bool {
        self.authorities.get().is_loaded()
    }

    /// Who asks: the front proxy's headers, then the client certificate, then a bearer token, then nobody in particular.
    /// Credentials that were shown and not believed end in an error even where anonymous callers are let in.
    pub(crate) async fn who(&self, peer: &Peer, headers: &HeaderMap) -> Result<Arc<User>, Unauthenticated> {
        let authorities = self.authorities.get();
        let judged = peer.judge(&authorities, self.clock.now(), self.recheck);
        let mut faults = Vec::new();
        match (&judged.as_proxy, &authorities.request_header) {
            (Worth::Trusted(_), Some(header)) => {
                if let Some(user) = header_user(header, headers) {
                    return Ok(Arc::new(user.authenticated()));
                }
            }
            (Worth::Refused(why), _) => faults.push(format!("as front proxy: {why}")),
            _ => {}
        }
        match &judged.as_client {
            Worth::Trusted(subject) if !subject.common_name.is_empty() => {
                let (name, groups) = (subject.common_name.clone(), subject.organizations.clone());
                return Ok(Arc::new(User { name, groups, ..User::default() }.authenticated()));
            }
            Worth::Refused(why) => faults.push(format!("as client: {why}")),
            _ => {}
        }
        if let Some(token) = bearer(headers) {
            match self.token(token).await {
                Ok(Some(user)) => return Ok(user),
                Ok(None) => return Err(Unauthenticated("the bearer token is not valid".to_owned())),
                Err(error) => {
                    Meter::up(&self.meter.reviews_failed);
                    tracing::warn!(%error, "a bearer token could not be reviewed");
                    return Err(Unauthenticated("the bearer token could not be reviewed; try again".to_owned()));
                }
            }
        }
        if !faults.is_empty() {
            return Err(Unauthenticated(format!("the client certificate is not accepted ({})", faults.join("; "))));
        }
        if self.anonymous {
            Ok(Arc::new(User::anonymous()))
        } else {
            Err(Unauthenticated("credentials are required: a client certificate or a bearer token".to_owned()))
        }
    }

    async fn token(&self, token: &str) -> Result<Option<Arc<User>>, ReviewError> {
        let ask = || async {
            let user = self.reviews.token(token).await?;
            Ok(user.map(|user| Arc::new(user.authenticated())))
        };
        self.tokens.get(sha256(token.as_bytes()), || self.now(), ask).await
    }

    /// Whether `user` may; a review that fails is an error, never a yes.
    pub(crate) async fn may(&self, user: &User, attributes: &Attributes) -> Result<Verdict, ReviewError> {
        if user.is_in(MASTERS) {
            return Ok(Verdict { allowed: true, reason: String::new() });
        }
        let key = access_key(user, attributes);
        let verdict = self.access.get(key, || self.now(), || self.reviews.access(user, attributes)).await;
        if verdict.is_err() {
            Meter::up(&self.meter.reviews_failed);
        }
        verdict
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

fn access_key(user: &User, attributes: &Attributes) -> Key {
    let mut parts = KeyParts::default();
    parts.add(&user.name).add(&user.uid).add(&user.groups.len().to_string());
    for group in &user.groups {
        parts.add(group);
    }
    for (key, values) in &user.extra {
        parts.add(key).add(&values.len().to_string());
        for value in values {
            parts.add(value);
        }
    }
    match attributes {
        Attributes::Path { verb, path } => parts.add("path").add(verb).add(path),
        Attributes::Resource(resource) => parts
            .add("resource")
            .add(&resource.verb)
            .add(&resource.group)
            .add(&resource.version)
            .add(&resource.namespace)
            .add(&resource.resource)
            .add(&resource.subresource)
            .add(&resource.name),
    };
    parts.key()
}

/// The token of an `Authorization: Bearer` header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The caller that a believed front proxy names.
fn header_user(header: &RequestHeader, headers: &HeaderMap) -> Option<User> {
    let all = |names: &[String]| -> Vec<String> {
        let values = names.iter().flat_map(|name| headers.get_all(name.as_str())).filter_map(text_of);
        values.filter(|value| !value.is_empty()).collect()
    };
    let name = all(&header.user).into_iter().next()?;
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        // header names are lower case already
        let key = header.extra.iter().find_map(|prefix| name.as_str().strip_prefix(prefix.as_str()));
        if let (Some(key), Some(value)) = (key, text_of(value)) {
            let key = crate::route::decode(key).unwrap_or_else(|| key.to_owned());
            extra.entry(key).or_default().push(value);
        }
    }
    let uid = all(&header.uid).into_iter().next().unwrap_or_default();
    Some(User { name, uid, groups: all(&header.group), extra })
}

/// A header value as text; other bytes than UTF-8 make no name.
fn text_of(value: &http::HeaderValue) -> Option<String> {
    std::str::from_utf8(value.as_bytes()).ok().map(str::to_owned)
}
