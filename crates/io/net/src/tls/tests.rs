use super::*;
use loadline_base::Timestamp;
use rustls::pki_types::{ServerName, UnixTime};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HOUR: Duration = Duration::from_secs(3_600);
const START: Timestamp = Timestamp::from_secs(1_795_000_000);

fn short() -> Lifetimes {
    Lifetimes { authority: HOUR * 300, leaf: HOUR * 30, settle: HOUR, backdate: Duration::from_secs(60) }
}

fn wanted() -> BTreeMap<String, LeafSpec> {
    let mut server = LeafSpec::server(["writer.test", "other.test"]);
    server.addresses.extend([IpAddr::from([10, 0, 0, 1]), "fd00::1".parse().expect("an address")]);
    BTreeMap::from([("serving".to_owned(), server), ("client".to_owned(), LeafSpec::client("gateway/ns/g"))])
}

fn made(now: Timestamp) -> AuthorityBundle {
    ensure(None, now, &wanted(), &short()).expect("made").0
}

/// A clock that tests set.
#[derive(Debug)]
struct Set(AtomicU64);

impl rustls::time_provider::TimeProvider for Set {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}

fn at(now: Timestamp) -> Arc<Set> {
    Arc::new(Set(AtomicU64::new(now.since(Timestamp::ZERO).as_secs())))
}

fn server_tls(bundle: &AuthorityBundle) -> ServerTls {
    let clients = Clients::Required { ca_pem: bundle.ca_pem.clone() };
    ServerTls { identity: bundle.leaves["serving"].clone(), clients, alpn: Vec::new() }
}

fn client_tls(bundle: &AuthorityBundle) -> ClientTls {
    ClientTls { ca_pem: bundle.ca_pem.clone(), identity: Some(bundle.leaves["client"].clone()), alpn: Vec::new() }
}

/// Whether a client and a server come to terms, each with its own bundle.
async fn meet(server: &ReloadableServer, client: &ReloadableClient, name: &str) -> Result<(), String> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let accept = async {
        let mut stream = server.acceptor().accept(far).await.map_err(|error| error.to_string())?;
        stream.write_all(b"x").await.map_err(|error| error.to_string())
    };
    let connect = async {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut stream = client.connector().connect(name, near).await.map_err(|error| error.to_string())?;
        // a client hears with the first byte whether its certificate was taken
        stream.read_u8().await.map(|_| ()).map_err(|error| error.to_string())
    };
    let (accepted, connected) = tokio::join!(accept, connect);
    accepted.and(connected)
}

#[test]
fn a_certificate_says_what_was_asked_for() {
    let bundle = made(START);
    let facts = bundle.leaf_facts("serving").expect("facts");
    let spec = &wanted()["serving"];
    assert_eq!((facts.common_name.as_deref(), &facts.dns), (Some("writer.test"), &spec.dns));
    assert_eq!(facts.addresses, spec.addresses);
    assert_eq!(facts.not_before, START.minus(Duration::from_secs(60)));
    assert_eq!(facts.not_after, START.plus(HOUR * 30));
    assert!(!facts.is_authority);
    assert_eq!(facts.time_to_rotate(START), HOUR * 20 - Duration::from_secs(20));
    assert!(matches!(facts.check(START.plus(HOUR * 31)), Err(TlsError::Expired { .. })));
    assert!(matches!(facts.check(START.minus(HOUR)), Err(TlsError::NotYetValid { .. })));
    let authority = certificates("ca.crt", &bundle.ca_pem).expect("one");
    assert!(super::facts(&authority[0]).expect("facts").is_authority);
}

#[test]
fn a_bundle_is_kept_while_it_is_good_and_survives_a_secret() {
    let bundle = made(START);
    let again = AuthorityBundle::from_secret(&bundle.to_secret()).expect("reads").expect("is there");
    assert_eq!(again, bundle);
    let (kept, changed) = ensure(Some(again), START.plus(HOUR), &wanted(), &short()).expect("kept");
    assert_eq!((kept, changed), (bundle.clone(), Changed::default()));
    let secret = bundle.leaf_secret("client").expect("is there");
    assert_eq!(secret.keys().map(String::as_str).collect::<Vec<_>>(), FILES);
    assert!(AuthorityBundle::from_secret(&BTreeMap::new()).expect("reads").is_none());
}

#[test]
fn no_key_is_in_a_debug_text() {
    let bundle = made(START);
    let text = format!("{bundle:?} {:?} {:?}", server_tls(&bundle), client_tls(&bundle));
    assert!(!text.contains("PRIVATE KEY"), "{text}");
    let body = |key: &PrivateKeyPem| key.expose().lines().nth(1).expect("a line").to_owned();
    assert!(!text.contains(&body(&bundle.ca_key_pem)) && !text.contains(&body(&bundle.leaves["client"].key_pem)));
}

struct Spoilt {
    name: &'static str,
    spoil: fn(&mut AuthorityBundle, &mut BTreeMap<String, LeafSpec>),
    later: Duration,
    authority: bool,
    leaves: &'static [&'static str],
}

const SPOILT: &[Spoilt] = &[
    Spoilt { name: "nothing", spoil: |_, _| {}, later: hours(19), authority: false, leaves: &[] },
    Spoilt { name: "aged", spoil: |_, _| {}, later: hours(21), authority: false, leaves: &["client", "serving"] },
    Spoilt { name: "expired", spoil: |_, _| {}, later: hours(40), authority: false, leaves: &["client", "serving"] },
    Spoilt {
        name: "half a leaf",
        spoil: |bundle, _| drop(bundle.leaves.remove("client")),
        later: HOUR,
        authority: false,
        leaves: &["client"],
    },
    Spoilt {
        name: "another name",
        spoil: |_, wanted| drop(wanted.insert("serving".to_owned(), LeafSpec::server(["new.test"]))),
        later: HOUR,
        authority: false,
        leaves: &["serving"],
    },
    Spoilt {
        name: "the wrong key",
        spoil: |bundle, _| {
            let key = bundle.leaves["serving"].key_pem.clone();
            if let Some(leaf) = bundle.leaves.get_mut("client") {
                leaf.key_pem = key;
            }
        },
        later: HOUR,
        authority: false,
        leaves: &["client"],
    },
    Spoilt {
        name: "of another authority",
        spoil: |bundle, _| drop(bundle.leaves.insert("client".to_owned(), made(START).leaves["client"].clone())),
        later: HOUR,
        authority: false,
        leaves: &["client"],
    },
    Spoilt {
        name: "not wanted",
        spoil: |_, wanted| drop(wanted.remove("client")),
        later: HOUR,
        authority: false,
        leaves: &["client"],
    },
    Spoilt {
        name: "garbage",
        spoil: |bundle, _| bundle.ca_pem = "garbage".to_owned(),
        later: HOUR,
        authority: true,
        leaves: &["client", "serving"],
    },
    Spoilt {
        name: "a key of another authority",
        spoil: |bundle, _| bundle.ca_key_pem = made(START).ca_key_pem,
        later: HOUR,
        authority: true,
        leaves: &["client", "serving"],
    },
    Spoilt {
        name: "an expired authority",
        spoil: |_, _| {},
        later: hours(301),
        authority: true,
        leaves: &["client", "serving"],
    },
];

const fn hours(count: u64) -> Duration {
    Duration::from_secs(3_600 * count)
}

#[test]
fn what_is_wrong_is_made_anew_and_nothing_else() {
    let other = made(START.plus(HOUR));
    for case in SPOILT {
        let (mut bundle, mut wanted) = (made(START), wanted());
        (case.spoil)(&mut bundle, &mut wanted);
        let now = START.plus(case.later);
        let (after, changed) = ensure(Some(bundle), now, &wanted, &short()).expect(case.name);
        let leaves: Vec<&str> = changed.leaves.keys().map(String::as_str).collect();
        assert_eq!((changed.authority.is_some(), leaves.as_slice()), (case.authority, case.leaves), "{}", case.name);
        assert_eq!(after.leaves.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{}", case.name);
        for (name, spec) in &wanted {
            issued_by(&after.leaves[name], &after.ca_pem, spec.usage, now).expect(case.name);
            assert!(issued_by(&after.leaves[name], &other.ca_pem, spec.usage, now).is_err(), "{}", case.name);
        }
        let (_, changed) = ensure(Some(after), now, &wanted, &short()).expect(case.name);
        assert!(!changed.any(), "{}: {changed:?}", case.name);
    }
}

#[test]
fn names_that_no_certificate_may_have_are_an_error() {
    let wanted = BTreeMap::from([("x".to_owned(), LeafSpec::server(["näme.test"]))]);
    assert!(matches!(ensure(None, START, &wanted, &short()), Err(TlsError::Issue { .. })));
}

/// Two peers read a changed bundle at any time within `settle`; whoever is ahead, they come to terms.
#[tokio::test]
async fn an_authority_is_replaced_without_a_moment_of_disagreement() {
    let time = at(START);
    let mut bundle = made(START);
    let mut before;
    let (mut authorities, mut steps) = (std::collections::BTreeSet::new(), Vec::new());
    let mut now = START;
    while now < START.plus(HOUR * 320) {
        let (next, changed) = ensure(Some(bundle.clone()), now, &wanted(), &short()).expect("ensured");
        time.0.store(now.since(Timestamp::ZERO).as_secs(), Ordering::Relaxed);
        if changed.any() {
            (before, bundle) = (bundle, next);
            steps.extend(changed.authority);
            authorities.insert(bundle.ca_key_pem.expose().to_owned());
            let newest = before.leaf_facts("client").expect("facts");
            for (server, client) in [(&before, &bundle), (&bundle, &before), (&bundle, &bundle)] {
                let server = ReloadableServer::with_time(&server_tls(server), time.clone()).expect("usable");
                let client = ReloadableClient::with_time(&client_tls(client), time.clone()).expect("usable");
                meet(&server, &client, "writer.test").await.unwrap_or_else(|why| panic!("at {now}: {why} {newest:?}"));
            }
        }
        now = now.plus(HOUR / 2);
    }
    assert_eq!(authorities.len(), 2);
    assert_eq!(steps.len(), 3, "{steps:?}");
    assert_eq!(certificates("ca.crt", &bundle.ca_pem).expect("one").len(), 1);
}

#[tokio::test]
async fn peers_of_another_authority_without_certificate_or_for_another_use_are_refused() {
    let (bundle, other) = (made(START), made(START));
    let time = at(START);
    let server = ReloadableServer::with_time(&server_tls(&bundle), time.clone()).expect("usable");
    let as_client = |tls: &ClientTls| ReloadableClient::with_time(tls, time.clone()).expect("usable");
    let good = client_tls(&bundle);
    meet(&server, &as_client(&good), "writer.test").await.expect("comes to terms");
    assert!(meet(&server, &as_client(&good), "stranger.test").await.is_err());
    let stranger = ClientTls { identity: client_tls(&other).identity, ..good.clone() };
    let nobody = ClientTls { identity: None, ..good.clone() };
    let server_as_client = ClientTls { identity: Some(bundle.leaves["serving"].clone()), ..good.clone() };
    for tls in [stranger, nobody.clone(), server_as_client, client_tls(&other)] {
        assert!(meet(&server, &as_client(&tls), "writer.test").await.is_err(), "{tls:?}");
    }
    let known = ServerTls { clients: Clients::Known { ca_pem: bundle.ca_pem.clone() }, ..server_tls(&bundle) };
    server.replace(&known).expect("usable");
    meet(&server, &as_client(&nobody), "writer.test").await.expect("comes to terms");
    time.0.store(START.plus(HOUR * 31).since(Timestamp::ZERO).as_secs(), Ordering::Relaxed);
    assert!(meet(&server, &as_client(&nobody), "writer.test").await.is_err(), "the server's certificate is over");
}

#[tokio::test]
async fn a_replacement_ends_no_connection_and_a_wrong_one_changes_nothing() {
    let (bundle, other) = (made(START), made(START));
    let time = at(START);
    let server = ReloadableServer::with_time(&server_tls(&bundle), time.clone()).expect("usable");
    let client = ReloadableClient::with_time(&client_tls(&bundle), time).expect("usable");
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from("writer.test").expect("a name");
    let (accepted, connected) = tokio::join!(server.acceptor().accept(far), client.connector().connect(name, near));
    let (mut accepted, mut connected) = (accepted.expect("accepted"), connected.expect("connected"));
    server.replace(&server_tls(&other)).expect("usable");
    client.replace(client_tls(&other)).expect("usable");
    let mut mixed = server_tls(&bundle);
    mixed.identity.key_pem = other.leaves["serving"].key_pem.clone();
    assert!(matches!(server.replace(&mixed), Err(TlsError::Unusable { what, .. }) if what == "tls.key"));
    for byte in 0..5 {
        accepted.write_u8(byte).await.expect("written");
        accepted.flush().await.expect("written");
        assert_eq!(connected.read_u8().await.expect("read"), byte);
    }
    meet(&server, &client, "writer.test").await.expect("the new ones come to terms");
}

#[test]
fn files_and_entries_of_a_secret_say_the_same() {
    let directory = std::env::temp_dir().join(format!("loadline-tls-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("made");
    let entries = made(START).leaf_secret("client").expect("is there");
    for (file, text) in &entries {
        std::fs::write(directory.join(file), text).expect("written");
    }
    let read = read_directory(&directory);
    std::fs::remove_dir_all(&directory).expect("removed");
    assert_eq!(client_of_entries(&entries).expect("whole"), read.expect("reads"));
    for name in FILES {
        let names = |error: TlsError| matches!(error, TlsError::Unusable { what, .. } if what == name);
        let mut without = entries.clone();
        without.remove(name);
        assert!(names(client_of_entries(&without).expect_err("an entry is missing")), "{name}");
        without.insert(name.to_owned(), vec![0xff]);
        assert!(names(client_of_entries(&without).expect_err("no text")), "{name}");
    }
}
