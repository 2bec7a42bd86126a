//! One request: read the path, recognise the caller, ask whether it may, answer.

use crate::accept::{Form, form};
use crate::auth::peer::Peer;
use crate::auth::user::{ANONYMOUS, User};
use crate::auth::{Gate, Unauthenticated};
use crate::bodies::{self, NoNumber, Shared};
use crate::health::{self, Check};
use crate::meter::{Kind, Meter};
use crate::route::{Attributes, CustomVersion, PathError, Route, attributes, parameter, route, segments};
use crate::selector::{LabelSelector, parse};
use crate::source::{MetricSource, Missing, Query, Value};
use crate::status::{Reply, failure, json, text};
use crate::{discovery, openapi};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use loadline_base::Timestamp;
use loadline_net::Clock;
use loadline_signals::served::Selector;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Everything that requests share.
pub(crate) struct Service {
    pub(crate) gate: Gate,
    pub(crate) source: Arc<dyn MetricSource>,
    pub(crate) clock: Clock,
    pub(crate) meter: Arc<Meter>,
    pub(crate) places: Semaphore,
    pub(crate) deadline: Duration,
    pub(crate) window: Duration,
    pub(crate) stop: CancellationToken,
}

impl Service {
    /// Answers one request. The body is never read: a GET has none.
    pub(crate) async fn answer<B>(&self, peer: &Peer, request: Request<B>) -> Reply {
        let started = tokio::time::Instant::now();
        let (head, _body) = request.into_parts();
        let (kind, reply) = self.reply(peer, &head.method, &head.uri, &head.headers).await;
        self.meter.reply(kind, reply.status(), started.elapsed());
        reply
    }

    async fn reply(&self, peer: &Peer, method: &Method, uri: &Uri, headers: &HeaderMap) -> (Kind, Reply) {
        let parts = match segments(uri.path()) {
            Ok(parts) => parts,
            Err(error @ PathError::TooLong) => {
                return (Kind::Other, failure(StatusCode::NOT_FOUND, &error.to_string()));
            }
            Err(error) => return (Kind::Other, failure(StatusCode::BAD_REQUEST, &error.to_string())),
        };
        let route = route(&parts);
        let kind = kind_of(&route);
        let may_head = kind == Kind::Health && *method == Method::HEAD;
        if *method != Method::GET && !may_head {
            let message = format!("{method} is not served: metrics are read with GET");
            return (kind, failure(StatusCode::METHOD_NOT_ALLOWED, &message));
        }
        if let Route::Health { probe, check } = &route {
            return (kind, health::reply(probe, check.as_deref(), uri.query(), &self.checks(probe)));
        }
        let Ok(_place) = self.places.try_acquire() else {
            return (kind, failure(StatusCode::TOO_MANY_REQUESTS, "too many requests at once; try again"));
        };
        let admitted = tokio::time::timeout(self.deadline, self.admit(peer, &parts, uri.query(), headers)).await;
        let reply = match admitted {
            Err(_) => failure(StatusCode::GATEWAY_TIMEOUT, "the request was not answered within its time"),
            Ok(Err(refused)) => refused,
            Ok(Ok(())) => self.serve(&route, uri.query(), headers),
        };
        (kind, reply)
    }

    /// Who asks and whether it may; the refusal otherwise.
    async fn admit(
        &self,
        peer: &Peer,
        parts: &[String],
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<(), Reply> {
        let user = self
            .gate
            .who(peer, headers)
            .await
            .map_err(|Unauthenticated(why)| failure(StatusCode::UNAUTHORIZED, &format!("unauthorized: {why}")))?;
        let is_watch = matches!(parameter(query, "watch").as_deref(), Ok("true" | "1"));
        let attributes = attributes(parts, is_watch);
        match self.gate.may(&user, &attributes).await {
            Ok(verdict) if verdict.allowed => Ok(()),
            Ok(verdict) => Err(failure(StatusCode::FORBIDDEN, &forbidden(&user, &attributes, &verdict.reason))),
            Err(error) => {
                tracing::warn!(%error, user = user.name, "an access review failed; the request is refused");
                let message = format!("whether you may read this could not be found out: {error}");
                Err(failure(StatusCode::INTERNAL_SERVER_ERROR, &message))
            }
        }
    }

    fn checks(&self, probe: &str) -> Vec<Check> {
        let mut checks: Vec<Check> = vec![("ping", Ok(()))];
        if probe == "readyz" {
            let no_authority = "no client certificate authority is loaded yet: the ConfigMap `extension-apiserver-authentication` could not be read";
            checks.push(("authentication", if self.gate.is_loaded() { Ok(()) } else { Err(no_authority) }));
            checks.push(("served", if self.source.is_synced() { Ok(()) } else { Err("the pods are not known yet") }));
            checks.push(("shutdown", if self.stop.is_cancelled() { Err("the process is stopping") } else { Ok(()) }));
        }
        checks
    }

    fn serve(&self, route: &Route, query: Option<&str>, headers: &HeaderMap) -> Reply {
        if let Route::Metrics = route {
            return text(StatusCode::OK, self.meter.exposition());
        }
        let Some(form) = form(headers, *route == Route::Groups) else {
            return failure(StatusCode::NOT_ACCEPTABLE, "only `application/json` is served");
        };
        match route {
            Route::Objects { version, namespace, resource, name, metric } => {
                self.objects(*version, (namespace.as_deref(), resource, name), metric, query)
            }
            Route::Namespace { version, namespace, metric } => self.with_selector(query, METRIC_SELECTOR, |series| {
                let asked = Query::Namespace { namespace, metric, series };
                self.values(&asked, |values| bodies::custom(*version, values, &self.shared(metric, series)))
            }),
            Route::External { namespace, metric } => self.with_selector(query, LABEL_SELECTOR, |selector| {
                let asked = Query::External { namespace, metric, selector };
                self.values(&asked, |values| bodies::external(values, &self.shared(metric, &Selector::all())))
            }),
            Route::Groups => match form {
                Form::Json => discovery::groups(),
                Form::Aggregated(version) => discovery::aggregated(version, &self.source.names(), headers),
            },
            Route::Group(name) => discovery::group(name),
            Route::CustomResources(version) => discovery::custom_resources(*version, &self.source.names()),
            Route::ExternalResources => discovery::external_resources(&self.source.names()),
            Route::OpenApiV2 => openapi::v2(headers),
            Route::OpenApiV3 => openapi::v3_index(headers),
            Route::OpenApiV3Of { group, version } => openapi::v3(group, version, headers),
            Route::Version => version(),
            Route::Nothing(message) => failure(StatusCode::NOT_FOUND, message),
            // answered before
            Route::Metrics | Route::Health { .. } => failure(StatusCode::NOT_FOUND, "not served here"),
        }
    }

    /// One object, or with the name `*` all that match.
    fn objects(
        &self,
        version: CustomVersion,
        (namespace, resource, name): (Option<&str>, &str, &str),
        metric: &str,
        query: Option<&str>,
    ) -> Reply {
        self.with_selector(query, METRIC_SELECTOR, |series| {
            let print = |values: &[Value]| bodies::custom(version, values, &self.shared(metric, series));
            if name == "*" {
                return self.with_selector(query, LABEL_SELECTOR, |selector| {
                    self.values(&Query::Objects { resource, namespace, selector, metric, series }, print)
                });
            }
            self.values(&Query::Object { resource, namespace, name, metric, series }, print)
        })
    }

    fn with_selector(&self, query: Option<&str>, name: &str, then: impl FnOnce(&Selector) -> Reply) -> Reply {
        let refuse = |why: String| failure(StatusCode::BAD_REQUEST, &format!("parameter `{name}`: {why}"));
        match parameter(query, name) {
            Err(_) => refuse("not percent-encoded UTF-8".to_owned()),
            Ok(text) => match parse(&text) {
                Ok(selector) => then(&selector),
                Err(error) => refuse(error.to_string()),
            },
        }
    }

    fn shared<'a>(&self, metric: &'a str, series: &Selector) -> Shared<'a> {
        Shared { metric, selector: LabelSelector::of(series), window: self.window }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn values(&self, query: &Query<'_>, print: impl FnOnce(&[Value]) -> Result<Reply, NoNumber>) -> Reply {
        if !self.source.is_synced() {
            return failure(
                StatusCode::SERVICE_UNAVAILABLE,
                "the pods are not known yet: this process has just started",
            );
        }
        match self.source.read(self.now(), query) {
            Ok(values) => print(&values).unwrap_or_else(|NoNumber(value)| {
                failure(StatusCode::NOT_FOUND, &format!("the value is {value}, which is no value that can be served"))
            }),
            Err(Missing::NotFound(message)) => failure(StatusCode::NOT_FOUND, &message),
            Err(Missing::Internal(message)) => failure(StatusCode::INTERNAL_SERVER_ERROR, &message),
        }
    }
}

const LABEL_SELECTOR: &str = "labelSelector";
const METRIC_SELECTOR: &str = "metricLabelSelector";

fn kind_of(route: &Route) -> Kind {
    match route {
        Route::Objects { .. } | Route::Namespace { .. } => Kind::Custom,
        Route::External { .. } => Kind::External,
        Route::Groups
        | Route::Group(_)
        | Route::CustomResources(_)
        | Route::ExternalResources
        | Route::OpenApiV2
        | Route::OpenApiV3
        | Route::OpenApiV3Of { .. }
        | Route::Version => Kind::Discovery,
        Route::Health { .. } => Kind::Health,
        Route::Metrics | Route::Nothing(_) => Kind::Other,
    }
}

fn forbidden(user: &User, attributes: &Attributes, reason: &str) -> String {
    let who =
        if user.name == ANONYMOUS { "without credentials you".to_owned() } else { format!("user `{}`", user.name) };
    let what = match attributes {
        Attributes::Path { verb, path } => format!("{verb} path `{path}`"),
        Attributes::Resource(of) => {
            let sub = if of.subresource.is_empty() { String::new() } else { format!("/{}", of.subresource) };
            let named = if of.name.is_empty() { String::new() } else { format!(" named `{}`", of.name) };
            let place =
                if of.namespace.is_empty() { String::new() } else { format!(" in namespace `{}`", of.namespace) };
            format!("{} resource `{}{sub}`{named} of API group `{}`{place}", of.verb, of.resource, of.group)
        }
    };
    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("forbidden: {who} cannot {what}{why}")
}

fn version() -> Reply {
    let number = env!("CARGO_PKG_VERSION");
    let mut parts = number.split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let body =
        serde_json::json!({"major": major, "minor": minor, "gitVersion": format!("v{number}"), "platform": "rust"});
    json(&body, crate::status::JSON)
}
