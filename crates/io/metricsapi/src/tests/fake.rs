//! A kube-apiserver that knows tokens, rules and one ConfigMap, and remembers what it was asked.

use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

type Keys = BTreeMap<String, String>;

#[derive(Default)]
struct State {
    /// Token to (user, groups).
    tokens: BTreeMap<String, (String, Vec<String>)>,
    /// Users that may do everything.
    allowed: BTreeSet<String>,
    /// Whether reviews fail.
    broken: bool,
    asked: Vec<(String, Value)>,
}

#[derive(Clone)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    config: watch::Sender<Keys>,
    /// Whether reviews wait.
    held: watch::Sender<bool>,
    /// Reviews begun.
    begun: watch::Sender<u32>,
}

impl Fake {
    pub(crate) fn new(keys: Keys) -> Self {
        Self {
            state: Arc::default(),
            config: watch::Sender::new(keys),
            held: watch::Sender::new(false),
            begun: watch::Sender::new(0),
        }
    }

    pub(crate) fn client(&self) -> kube::Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move { Ok::<_, Infallible>(fake.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    pub(crate) fn token(&self, token: &str, user: &str, groups: &[&str]) {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        self.state.lock().expect("lock").tokens.insert(token.to_owned(), (user.to_owned(), groups));
    }

    pub(crate) fn revoke(&self, token: &str) {
        self.state.lock().expect("lock").tokens.remove(token);
    }

    pub(crate) fn allow(&self, user: &str) {
        self.state.lock().expect("lock").allowed.insert(user.to_owned());
    }

    pub(crate) fn set_broken(&self, broken: bool) {
        self.state.lock().expect("lock").broken = broken;
    }

    pub(crate) fn set_config(&self, keys: Keys) {
        self.config.send_replace(keys);
    }

    /// Reviews wait from now on.
    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Lets them go.
    pub(crate) fn release(&self) {
        self.held.send_replace(false);
    }

    /// Waits until a review has begun.
    pub(crate) async fn reviewing(&self) {
        self.begun.subscribe().wait_for(|begun| *begun > 0).await.expect("alive");
    }

    /// The specs of the reviews of this kind so far.
    pub(crate) fn asked(&self, kind: &str) -> Vec<Value> {
        let state = self.state.lock().expect("lock");
        state.asked.iter().filter(|(have, _)| have == kind).map(|(_, spec)| spec.clone()).collect()
    }

    async fn answer(&self, request: Request<Body>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let (head, body) = request.into_parts();
        if head.uri.path().ends_with("/configmaps") {
            assert_eq!(head.uri.path(), "/api/v1/namespaces/kube-system/configmaps");
            let query = head.uri.query().unwrap_or_default().to_owned();
            assert!(query.contains("extension-apiserver-authentication"), "{query}");
            return if query.contains("watch=true") { self.watch() } else { self.list() };
        }
        self.begun.send_modify(|begun| *begun += 1);
        self.held.subscribe().wait_for(|held| !held).await.expect("alive");
        let bytes = body.collect().await.expect("body").to_bytes();
        let review: Value = serde_json::from_slice(&bytes).expect("review");
        let kind = review["kind"].as_str().expect("kind").to_owned();
        let expected = match kind.as_str() {
            "TokenReview" => "/apis/authentication.k8s.io/v1/tokenreviews",
            _ => "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        };
        assert_eq!(head.uri.path(), expected);
        let mut state = self.state.lock().expect("lock");
        let spec = review["spec"].clone();
        state.asked.push((kind.clone(), spec.clone()));
        if state.broken {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "etcd is away", "reason": "InternalError", "code": 500});
            return reply(500, &status);
        }
        let status = if kind == "TokenReview" {
            match state.tokens.get(spec["token"].as_str().unwrap_or_default()) {
                Some((user, groups)) => json!({"authenticated": true, "user": {"username": user, "groups": groups}}),
                None => json!({"authenticated": false, "error": "unknown token"}),
            }
        } else {
            json!({"allowed": state.allowed.contains(spec["user"].as_str().unwrap_or_default()), "reason": "by the test"})
        };
        let (api_version, kind) = (review["apiVersion"].clone(), review["kind"].clone());
        reply(201, &json!({"apiVersion": api_version, "kind": kind, "metadata": {}, "spec": spec, "status": status}))
    }

    fn list(&self) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let items = [config_map(&self.config.borrow())];
        reply(
            200,
            &json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}),
        )
    }

    /// Each change as an event, for ever.
    fn watch(&self) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let events = futures_util::stream::unfold(self.config.subscribe(), |mut changes| async move {
            changes.changed().await.ok()?;
            let event = json!({"type": "MODIFIED", "object": config_map(&changes.borrow_and_update())});
            Some((Ok(Frame::data(Bytes::from(format!("{event}\n")))), changes))
        });
        Response::new(UnsyncBoxBody::new(StreamBody::new(events.boxed())))
    }
}

fn config_map(keys: &Keys) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "data": keys,
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system", "resourceVersion": "2"}})
}

fn reply(code: u16, body: &Value) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let body = http_body_util::Full::new(Bytes::from(body.to_string()));
    let reply = Response::builder().status(code).header("content-type", "application/json");
    reply.body(UnsyncBoxBody::new(body)).expect("reply")
}
