//! The two reviews that kube-apiserver makes for us: whose token is this, and may this caller do that.

use super::user::User;
use crate::route::Attributes;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};
use std::future::Future;
use std::time::Duration;
use thiserror::Error;

/// Longest reason of a denial that is passed on, in characters.
const MAX_REASON: usize = 512;

/// Why a review gave no answer. Never holds a credential.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ReviewError {
    /// The API server refused it or could not be reached.
    #[error("the review failed: {0}")]
    Failed(String),
    /// It took too long.
    #[error("the review was not answered within {0:?}")]
    TimedOut(Duration),
    /// The answer holds no verdict.
    #[error("the review came back without a status")]
    NoStatus,
}

/// The answer of an access review.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Whether it may.
    pub(crate) allowed: bool,
    /// The authorizer's words, or empty.
    pub(crate) reason: String,
}

/// Asks kube-apiserver.
#[derive(Clone)]
pub(crate) struct Reviews {
    client: kube::Client,
    timeout: Duration,
}

impl Reviews {
    pub(crate) fn new(client: kube::Client, timeout: Duration) -> Self {
        Self { client, timeout }
    }

    /// Whose token this is; `None` if it is nobody's.
    pub(crate) async fn token(&self, token: &str) -> Result<Option<User>, ReviewError> {
        let spec = TokenReviewSpec { token: Some(token.to_owned()), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api = Api::<TokenReview>::all(self.client.clone());
        let status =
            self.within(api.create(&PostParams::default(), &review)).await?.status.ok_or(ReviewError::NoStatus)?;
        let user = status.user.filter(|_| status.authenticated == Some(true)).map(user_of);
        Ok(user.filter(|user| !user.name.is_empty()))
    }

    /// Whether `user` may do what `attributes` say.
    pub(crate) async fn access(&self, user: &User, attributes: &Attributes) -> Result<Verdict, ReviewError> {
        let review = SubjectAccessReview { spec: access_spec(user, attributes), ..SubjectAccessReview::default() };
        let api = Api::<SubjectAccessReview>::all(self.client.clone());
        let status =
            self.within(api.create(&PostParams::default(), &review)).await?.status.ok_or(ReviewError::NoStatus)?;
        let allowed = status.allowed && status.denied != Some(true);
        if !allowed && let Some(error) = status.evaluation_error.filter(|error| !error.is_empty()) {
            tracing::debug!(%error, "an access review was denied after an evaluation error");
        }
        Ok(Verdict { allowed, reason: status.reason.unwrap_or_default().chars().take(MAX_REASON).collect() })
    }

    async fn within<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<T, ReviewError> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(ReviewError::Failed(error.to_string())),
            Err(_) => Err(ReviewError::TimedOut(self.timeout)),
        }
    }
}

fn user_of(seen: UserInfo) -> User {
    User {
        name: seen.username.unwrap_or_default(),
        uid: seen.uid.unwrap_or_default(),
        groups: seen.groups.unwrap_or_default(),
        extra: seen.extra.unwrap_or_default(),
    }
}

/// The body of an access review; empty attributes are left out, as Go's client does.
fn access_spec(user: &User, attributes: &Attributes) -> SubjectAccessReviewSpec {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut spec = SubjectAccessReviewSpec {
        user: some(&user.name),
        uid: some(&user.uid),
        groups: (!user.groups.is_empty()).then(|| user.groups.clone()),
        extra: (!user.extra.is_empty()).then(|| user.extra.clone()),
        ..SubjectAccessReviewSpec::default()
    };
    match attributes {
        Attributes::Path { verb, path } => {
            spec.non_resource_attributes = Some(NonResourceAttributes { path: some(path), verb: some(verb) });
        }
        Attributes::Resource(resource) => {
            spec.resource_attributes = Some(ResourceAttributes {
                verb: some(&resource.verb),
                group: some(&resource.group),
                version: some(&resource.version),
                namespace: some(&resource.namespace),
                resource: some(&resource.resource),
                subresource: some(&resource.subresource),
                name: some(&resource.name),
                ..ResourceAttributes::default()
            });
        }
    }
    spec
}
