//! Who is believed, who may, and what a change does to open connections.

use super::fake::Fake;
use super::wire::{Authority, Identity, Session};
use super::{Table, World, keys, server_tls};
use crate::auth::Gate;
use crate::auth::authorities::CurrentAuthorities;
use crate::auth::peer::Peer;
use crate::route::Attributes;
use crate::{AuthoritySource, Settings};
use http::{HeaderMap, Method, StatusCode};
use loadline_net::Clock;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const PODS: &str = "/apis/custom.metrics.k8s.io/v1beta1/namespaces/ns/pods/*/some-metric";

fn world() -> World {
    World::start(Arc::new(Table), |_| {})
}

struct Case<'a> {
    name: &'a str,
    identity: Option<Identity>,
    headers: &'a [(&'a str, &'a str)],
    status: u16,
    /// The user that access is reviewed for; none if it does not come to that.
    user: Option<Value>,
    /// A part of the message.
    message: &'a str,
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
async fn callers_are_recognised_in_order() {
    let world = world();
    world.fake.token("good-token", "system:serviceaccount:a:b", &["system:serviceaccounts"]);
    for user in ["hpa", "alice", "system:serviceaccount:a:b"] {
        world.fake.allow(user);
    }
    let proxy = || Some(world.proxies.client("front-proxy-client", &[]));
    let stranger = Authority::new("stranger");
    let reviewed = |user: &str, groups: &[&str]| Some(json!({"user": user, "groups": groups}));
    let remote: &[(&str, &str)] = &[("x-remote-user", "hpa"), ("x-remote-group", "g1"), ("x-remote-group", "g2")];
    let cases = [
        Case {
            name: "front proxy",
            identity: proxy(),
            headers: remote,
            status: 200,
            user: reviewed("hpa", &["g1", "g2", "system:authenticated"]),
            message: "",
        },
        Case {
            name: "front proxy's uid and extra are handed on",
            identity: proxy(),
            headers: &[
                ("x-remote-user", "alice"),
                ("x-remote-uid", "u1"),
                ("x-remote-extra-Scopes%2fx", "a"),
                ("authorization", "Bearer bad"),
            ],
            status: 200,
            user: Some(
                json!({"user": "alice", "uid": "u1", "groups": ["system:authenticated"], "extra": {"scopes/x": ["a"]}}),
            ),
            message: "",
        },
        Case {
            name: "front proxy hands on a caller without credentials",
            identity: proxy(),
            headers: &[("x-remote-user", "system:anonymous"), ("x-remote-group", "system:unauthenticated")],
            status: 403,
            user: reviewed("system:anonymous", &["system:unauthenticated"]),
            message: "without credentials you cannot get resource `pods/some-metric`",
        },
        Case {
            name: "masters need no review",
            identity: proxy(),
            headers: &[("x-remote-user", "system:kube-aggregator"), ("x-remote-group", "system:masters")],
            status: 200,
            user: None,
            message: "",
        },
        Case {
            name: "the right authority, the wrong name",
            identity: Some(world.proxies.client("somebody-else", &[])),
            headers: remote,
            status: 401,
            user: None,
            message: "common name `somebody-else` is not in `requestheader-allowed-names`",
        },
        Case {
            name: "headers without a certificate",
            identity: None,
            headers: &[("x-remote-user", "hpa"), ("x-remote-group", "system:masters")],
            status: 403,
            user: None, // the same question was asked before, and its answer is kept
            message: "without credentials you cannot",
        },
        Case {
            name: "headers with a client's certificate",
            identity: Some(world.clients.client("bob", &[])),
            headers: &[("x-remote-user", "hpa"), ("x-remote-group", "system:masters")],
            status: 403,
            user: reviewed("bob", &["system:authenticated"]),
            message: "user `bob` cannot get resource `pods/some-metric` named `*` of API group `custom.metrics.k8s.io` in namespace `ns`: by the test",
        },
        Case {
            name: "client certificate",
            identity: Some(world.clients.client("alice", &["team"])),
            headers: &[],
            status: 200,
            user: reviewed("alice", &["team", "system:authenticated"]),
            message: "",
        },
        Case {
            name: "a certificate of nobody we know",
            identity: Some(stranger.client("front-proxy-client", &["system:masters"])),
            headers: remote,
            status: 401,
            user: None,
            message: "the client certificate is not accepted",
        },
        Case {
            name: "a certificate of nobody we know, with a good token",
            identity: Some(stranger.client("x", &[])),
            headers: &[("authorization", "Bearer good-token")],
            status: 200,
            user: reviewed("system:serviceaccount:a:b", &["system:serviceaccounts", "system:authenticated"]),
            message: "",
        },
        Case {
            name: "bad token",
            identity: None,
            headers: &[("authorization", "Bearer bad-token")],
            status: 401,
            user: None,
            message: "the bearer token is not valid",
        },
        Case {
            name: "no credentials",
            identity: None,
            headers: &[],
            status: 403,
            user: None, // the same question was asked before, and its answer is kept
            message: "without credentials",
        },
    ];
    for Case { name, identity, headers, status, user, message } in cases {
        let before = world.fake.asked("SubjectAccessReview").len();
        let answer = world.connect(identity.as_ref()).await.get_with(PODS, headers).await;
        assert_eq!(answer.status.as_u16(), status, "{name}: {}", answer.text);
        if status != 200 {
            assert!(answer.message().contains(message), "{name}: {}", answer.text);
        }
        let mut asked = world.fake.asked("SubjectAccessReview").into_iter().skip(before).collect::<Vec<_>>();
        for spec in &mut asked {
            let attributes = json!({"verb": "get", "group": "custom.metrics.k8s.io", "version": "v1beta1", "namespace": "ns",
                "resource": "pods", "subresource": "some-metric", "name": "*"});
            assert_eq!(spec["resourceAttributes"], attributes, "{name}");
            spec.as_object_mut().expect("spec").remove("resourceAttributes");
        }
        assert_eq!(asked, user.into_iter().collect::<Vec<_>>(), "{name}");
    }
    world.handle.shutdown().await;
}

#[tokio::test]
async fn without_anonymous_callers_credentials_are_asked_for() {
    let world = World::start(Arc::new(Table), |settings| settings.anonymous = false);
    let mut session = world.connect(None).await;
    let answer = session.get(PODS).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(answer.message().contains("credentials are required"));
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping"] {
        assert_eq!(session.get(path).await.status, StatusCode::OK, "{path}");
    }
    world.handle.shutdown().await;
}

#[tokio::test]
async fn a_review_that_fails_refuses_and_is_asked_again() {
    let world = world();
    world.fake.allow("alice");
    let mut session = world.connect(Some(&world.clients.client("alice", &[]))).await;
    world.fake.set_broken(true);
    let answer = session.get(PODS).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer.message().contains("could not be found out"), "{}", answer.text);
    let answer = world.connect(None).await.get_with(PODS, &[("authorization", "Bearer t")]).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    let count = "loadline_metricsapi_review_failures_total 2";
    assert!(world.handle.exposition().lines().any(|line| line == count), "{}", world.handle.exposition());
    world.fake.set_broken(false);
    assert_eq!(session.get(PODS).await.status, StatusCode::OK);
    world.handle.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn answers_of_reviews_are_kept_for_their_time() {
    let fake = Fake::new(BTreeMap::new());
    let gate =
        Gate::new(&Settings::default(), CurrentAuthorities::default(), fake.client(), Arc::default(), Clock::real());
    fake.token("t", "alice", &[]);
    let mut headers = HeaderMap::new();
    headers.insert("authorization", "bearer t".parse().expect("header"));
    let peer = Peer::default();
    let attributes = Attributes::Path { verb: "get".to_owned(), path: "/metrics".to_owned() };
    let user = gate.who(&peer, &headers).await.expect("alice");
    assert!(!gate.may(&user, &attributes).await.expect("verdict").allowed);
    fake.revoke("t");
    fake.allow("alice");
    tokio::time::advance(Duration::from_millis(9_900)).await;
    assert_eq!(gate.who(&peer, &headers).await, Ok(Arc::clone(&user)), "the kept answer holds");
    assert!(!gate.may(&user, &attributes).await.expect("verdict").allowed, "a denial is kept as well");
    assert_eq!((fake.asked("TokenReview").len(), fake.asked("SubjectAccessReview").len()), (1, 1));
    tokio::time::advance(Duration::from_millis(200)).await;
    assert!(gate.who(&peer, &headers).await.is_err(), "it ends");
    assert!(gate.may(&user, &attributes).await.expect("verdict").allowed);
    assert_eq!((fake.asked("TokenReview").len(), fake.asked("SubjectAccessReview").len()), (2, 2));
    let both = tokio::join!(gate.who(&peer, &headers), gate.who(&peer, &headers));
    assert!(both.0.is_err() && both.1.is_err());
    assert_eq!(fake.asked("TokenReview").len(), 2, "refusals are kept as well");
}

#[tokio::test]
async fn a_change_of_the_configmap_reaches_open_connections() {
    let world = World::start(Arc::new(Table), |settings| settings.authorities = AuthoritySource::default());
    let old = world.proxies.client("front-proxy-client", &[]);
    let masters: &[(&str, &str)] = &[("x-remote-user", "a"), ("x-remote-group", "system:masters")];
    let mut before = Session::open_with(world.handle.local_addr(), &world.serving, Some(&old), b"h2").await;
    while !world.handle.is_ready() {
        tokio::task::yield_now().await;
    }
    assert_eq!(before.get_with(PODS, masters).await.status, StatusCode::OK);
    let next = Authority::new("front-proxy-2");
    let mut after = world.connect(Some(&next.client("front-proxy-client", &[]))).await;
    assert_eq!(after.get_with(PODS, masters).await.status, StatusCode::UNAUTHORIZED);
    // something that cannot be read changes nothing
    let mut broken = keys(&next, &world.clients);
    broken.insert("requestheader-allowed-names".to_owned(), "[".to_owned());
    world.fake.set_config(broken);
    assert_eq!(before.get_with(PODS, masters).await.status, StatusCode::OK);
    world.fake.set_config(keys(&next, &world.clients));
    let changed = async {
        while after.get_with(PODS, masters).await.status != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), changed).await.expect("the change arrives");
    assert_eq!(before.get_with(PODS, masters).await.status, StatusCode::UNAUTHORIZED, "the old authority is over");
    world.handle.shutdown().await;
}

#[tokio::test]
async fn the_serving_certificate_is_replaced_for_new_connections() {
    let world = world();
    let mut old = world.master().await;
    let next = Authority::new("serving-2");
    world.tls.replace(&server_tls(&next)).expect("replace");
    let mut new =
        Session::open(world.handle.local_addr(), &next, Some(&world.clients.client("b", &["system:masters"]))).await;
    assert_eq!(new.get(PODS).await.status, StatusCode::OK);
    assert_eq!(old.get(PODS).await.status, StatusCode::OK);
    world.handle.shutdown().await;
}

#[tokio::test]
async fn only_get_is_served_and_too_much_at_once_is_refused() {
    let world = World::start(Arc::new(Table), |settings: &mut Settings| settings.max_in_flight = 0);
    let mut session = world.master().await;
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
        let answer = session.send(method.clone(), PODS, &[]).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(answer.headers["allow"], "GET");
    }
    let answer = session.get(PODS).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(session.get("/healthz").await.text, "ok");
    world.handle.shutdown().await;
}

#[tokio::test]
async fn idle_connections_are_ended_and_connections_are_bounded() {
    let world = World::start(Arc::new(Table), |settings: &mut Settings| {
        settings.idle_timeout = Duration::from_millis(20);
        settings.max_connections = 1;
    });
    let admin = world.clients.client("admin", &["system:masters"]);
    for protocol in [&b"http/1.1"[..], b"h2"] {
        let mut held = Session::open_with(world.handle.local_addr(), &world.serving, Some(&admin), protocol).await;
        // the only place is taken: the next handshake is answered when this connection has been idle for too long
        let _next = Session::open_with(world.handle.local_addr(), &world.serving, Some(&admin), protocol).await;
        assert!(held.is_closed().await, "the idle connection is ended first");
    }
    world.handle.shutdown().await;
}

#[tokio::test]
async fn open_requests_are_answered_when_the_server_stops() {
    let world = world();
    world.fake.allow("alice");
    let mut session = world.connect(Some(&world.clients.client("alice", &[]))).await;
    assert_eq!(session.get("/livez").await.status, StatusCode::OK);
    world.fake.hold();
    let request = session.get(PODS);
    let stop = async {
        world.fake.reviewing().await;
        let stopping = tokio::spawn(world.handle.shutdown());
        world.fake.release();
        stopping.await.expect("shutdown");
    };
    let (answer, ()) = tokio::join!(request, stop);
    assert_eq!(answer.status, StatusCode::OK);
}
