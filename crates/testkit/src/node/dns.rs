//! Cluster DNS: addresses of Services, of the pods behind headless ones, and nothing else.

use super::faults::lock;
use super::mirror::Mirror;
use super::proxy::by_service;
use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The domain of the cluster.
const DOMAIN: &str = "cluster.local";
/// Seconds that an answer may be kept.
const TTL: u32 = 5;
/// The most of one answer over UDP, unless the question allows more.
const UDP_BYTES: usize = 512;
/// The most of one message over UDP, whatever the question allows.
const MAX_UDP_BYTES: usize = 1232;
/// Connections over TCP at one time, and how long one may last.
const MAX_STREAMS: usize = 256;
const STREAM_LIMIT: Duration = Duration::from_secs(10);

const TYPE_A: u16 = 1;
const TYPE_OPT: u16 = 41;
const CLASS_IN: u16 = 1;
const NAME_ERROR: u16 = 3;
const NOT_IMPLEMENTED: u16 = 4;

/// Addresses by full name in lower case, without the final dot.
pub(super) type Zone = BTreeMap<String, Vec<Ipv4Addr>>;

/// The names that Services and their endpoints have.
pub(super) fn zone(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> Zone {
    let by_service = by_service(slices);
    let mut zone = Zone::new();
    for service in services {
        let (Some(name), Some(namespace)) = (&service.metadata.name, &service.metadata.namespace) else { continue };
        let base = format!("{name}.{namespace}.svc.{DOMAIN}");
        let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
        if let Some(ip) = address.and_then(|text| text.parse().ok()) {
            zone.insert(base.clone(), vec![ip]);
        }
        let Some(slices) = by_service.get(&(namespace.clone(), name.clone())) else { continue };
        for endpoint in slices.iter().flat_map(|slice| &slice.endpoints) {
            if endpoint.conditions.as_ref().is_some_and(|all| all.ready == Some(false)) {
                continue;
            }
            for ip in endpoint.addresses.iter().filter_map(|text| text.parse::<Ipv4Addr>().ok()) {
                let host = endpoint.hostname.clone().unwrap_or_else(|| ip.to_string().replace('.', "-"));
                zone.entry(format!("{host}.{base}")).or_default().push(ip);
                if address == Some("None") {
                    zone.entry(base.clone()).or_default().push(ip);
                }
            }
        }
    }
    for addresses in zone.values_mut() {
        addresses.sort_unstable();
        addresses.dedup();
    }
    zone
}

/// The addresses of a name; `None` if there is no such name.
fn resolve(zone: &Zone, name: &str) -> Option<Vec<Ipv4Addr>> {
    if let Some(found) = zone.get(name) {
        return Some(found.clone());
    }
    // `10-244-1-2.ns.pod.cluster.local` spells its address.
    let (host, rest) = name.split_once('.')?;
    let is_pod = rest.strip_suffix(DOMAIN).is_some_and(|head| head.ends_with(".pod."));
    if is_pod && let Ok(ip) = host.replace('-', ".").parse() {
        return Some(vec![ip]);
    }
    // Names above those that exist are there, without addresses.
    let ending = format!(".{name}");
    (name == DOMAIN || zone.keys().any(|known| known.ends_with(&ending))).then(Vec::new)
}

/// A question as it was asked.
struct Question<'a> {
    id: [u8; 2],
    recursion: bool,
    operation: u8,
    /// Its bytes, to be repeated in the answer.
    text: &'a [u8],
    name: String,
    kind: u16,
    class: u16,
    /// What the asker can take over UDP.
    room: usize,
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn parse(message: &[u8]) -> Option<Question<'_>> {
    let flags = *message.get(2)?;
    if flags & 0x80 != 0 || number(message, 4)? != 1 {
        return None;
    }
    let mut at = 12;
    let mut name = String::new();
    loop {
        let length = usize::from(*message.get(at)?);
        if length == 0 {
            break;
        }
        if length > 63 || name.len() > 255 {
            return None;
        }
        let label = message.get(at + 1..at + 1 + length)?;
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&String::from_utf8_lossy(label).to_ascii_lowercase());
        at += 1 + length;
    }
    let (kind, class) = (number(message, at + 1)?, number(message, at + 3)?);
    let end = at + 5;
    // Of further records only EDNS matters: root name, then type and size.
    let has_edns = number(message, 10)? > 0 && number(message, end + 1) == Some(TYPE_OPT);
    let room = if has_edns { usize::from(number(message, end + 3)?) } else { UDP_BYTES };
    Some(Question {
        id: [*message.first()?, *message.get(1)?],
        recursion: flags & 1 != 0,
        operation: (flags >> 3) & 0xf,
        text: message.get(12..end)?,
        name,
        kind,
        class,
        room: room.clamp(UDP_BYTES, MAX_UDP_BYTES),
    })
}

/// The answer to one message, `None` if it is no question. Over UDP it is cut to what fits and says so.
pub(super) fn answer(zone: &Zone, message: &[u8], is_udp: bool) -> Option<Vec<u8>> {
    let question = parse(message)?;
    let found =
        if question.operation == 0 && question.class == CLASS_IN { resolve(zone, &question.name) } else { None };
    let code = match (&found, question.operation) {
        (_, 1..) => NOT_IMPLEMENTED,
        (None, 0) => NAME_ERROR,
        (Some(_), 0) => 0,
    };
    let addresses = if question.kind == TYPE_A { found.unwrap_or_default() } else { Vec::new() };
    let room = if is_udp { question.room } else { usize::from(u16::MAX) };
    let fits = room.saturating_sub(12 + question.text.len()) / 16;
    let sent = addresses.get(..fits.min(addresses.len())).unwrap_or_default();
    let mut flags: u16 = 0x8400 | (u16::from(question.operation) << 11) | code;
    if question.recursion {
        flags |= 0x0180;
    }
    if sent.len() < addresses.len() {
        flags |= 0x0200;
    }
    let mut out = Vec::with_capacity(12 + question.text.len() + 16 * sent.len());
    out.extend(question.id);
    for field in [flags, 1, u16::try_from(sent.len()).ok()?, 0, 0] {
        out.extend(field.to_be_bytes());
    }
    out.extend(question.text);
    for ip in sent {
        out.extend([0xc0, 12]);
        for field in [TYPE_A, CLASS_IN] {
            out.extend(field.to_be_bytes());
        }
        out.extend(TTL.to_be_bytes());
        out.extend(4_u16.to_be_bytes());
        out.extend(ip.octets());
    }
    Some(out)
}

/// Serves UDP and TCP on port 53 of `address`.
///
/// # Errors
/// If the port cannot be had.
pub(super) async fn start(
    tasks: &mut JoinSet<()>,
    address: Ipv4Addr,
    services: Arc<Mirror<Service>>,
    slices: Arc<Mirror<EndpointSlice>>,
) -> Result<()> {
    let socket = UdpSocket::bind((address, 53)).await.with_context(|| format!("cannot serve DNS on {address}:53"))?;
    let listener =
        TcpListener::bind((address, 53)).await.with_context(|| format!("cannot serve DNS on {address}:53"))?;
    let zone: Arc<Mutex<Arc<Zone>>> = Arc::default();
    let (udp, tcp) = (Arc::clone(&zone), Arc::clone(&zone));
    tasks.spawn(async move {
        let (mut one, mut two) = (services.changes(), slices.changes());
        loop {
            let fresh = self::zone(&services.all(), &slices.all());
            *lock(&zone) = Arc::new(fresh);
            let alive = tokio::select! {
                changed = one.changed() => changed.is_ok(),
                changed = two.changed() => changed.is_ok(),
            };
            if !alive {
                return;
            }
        }
    });
    tasks.spawn(async move {
        let mut message = [0; 2048];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut message).await else { continue };
            let zone = Arc::clone(&lock(&udp));
            if let Some(reply) = message.get(..length).and_then(|message| answer(&zone, message, true)) {
                let _lost = socket.send_to(&reply, from).await;
            }
        }
    });
    tasks.spawn(async move {
        let permits = Arc::new(Semaphore::new(MAX_STREAMS));
        let mut streams = JoinSet::new();
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else { continue };
            let zone = Arc::clone(&tcp);
            streams.spawn(async move {
                let _ended = tokio::time::timeout(STREAM_LIMIT, converse(stream, zone)).await;
                drop(permit);
            });
            while streams.try_join_next().is_some() {}
        }
    });
    Ok(())
}

async fn converse(mut stream: TcpStream, zone: Arc<Mutex<Arc<Zone>>>) -> Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut message = vec![0; usize::from(length)];
        stream.read_exact(&mut message).await?;
        let now = Arc::clone(&lock(&zone));
        let reply = answer(&now, &message, false).context("no question")?;
        stream.write_u16(u16::try_from(reply.len())?).await?;
        stream.write_all(&reply).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn ask(name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
        for label in name.split('.') {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend(label.as_bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        if let Some(room) = edns {
            message.extend([0, 0, 41]);
            message.extend(room.to_be_bytes());
            message.extend([0; 6]);
        }
        message
    }

    fn example() -> Zone {
        let services = [("web", "10.96.0.9"), ("engines", "None"), ("none", "None")].map(|(name, ip)| {
            Arc::new(
                serde_json::from_value(
                    json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"clusterIP": ip}}),
                )
                .unwrap(),
            )
        });
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4",
            "metadata": {"name": "e-1", "namespace": "n", "labels": {"kubernetes.io/service-name": "engines"}},
            "endpoints": [
                {"addresses": ["10.244.1.2"], "hostname": "engines-0", "conditions": {"ready": true}},
                {"addresses": ["10.244.1.3"], "conditions": {"ready": true}},
                {"addresses": ["10.244.1.4"], "hostname": "engines-2", "conditions": {"ready": false}}
            ]
        }))
        .unwrap();
        zone(&services, &[Arc::new(slice)])
    }

    #[test]
    fn names_lead_to_addresses() {
        struct Case {
            name: &'static str,
            kind: u16,
            code: u16,
            expect: &'static [[u8; 4]],
        }
        let zone = example();
        for case in [
            Case { name: "web.n.svc.cluster.local", kind: 1, code: 0, expect: &[[10, 96, 0, 9]] },
            Case { name: "WEB.n.svc.Cluster.local", kind: 1, code: 0, expect: &[[10, 96, 0, 9]] },
            Case { name: "web.n.svc.cluster.local", kind: 28, code: 0, expect: &[] },
            Case { name: "engines.n.svc.cluster.local", kind: 1, code: 0, expect: &[[10, 244, 1, 2], [10, 244, 1, 3]] },
            Case { name: "engines-0.engines.n.svc.cluster.local", kind: 1, code: 0, expect: &[[10, 244, 1, 2]] },
            Case { name: "10-244-1-3.engines.n.svc.cluster.local", kind: 1, code: 0, expect: &[[10, 244, 1, 3]] },
            Case { name: "engines-2.engines.n.svc.cluster.local", kind: 1, code: 3, expect: &[] },
            Case { name: "none.n.svc.cluster.local", kind: 1, code: 3, expect: &[] },
            Case { name: "10-244-7-8.n.pod.cluster.local", kind: 1, code: 0, expect: &[[10, 244, 7, 8]] },
            Case { name: "svc.cluster.local", kind: 1, code: 0, expect: &[] },
            Case { name: "web.n.svc.cluster.local.n.svc.cluster.local", kind: 1, code: 3, expect: &[] },
            Case { name: "example.com", kind: 1, code: 3, expect: &[] },
        ] {
            let reply = answer(&zone, &ask(case.name, case.kind, None), true).unwrap();
            assert_eq!(reply[..2], [0x12, 0x34]);
            assert_eq!(number(&reply, 2).unwrap() & 0xf, case.code, "{}", case.name);
            assert_eq!(usize::from(number(&reply, 6).unwrap()), case.expect.len(), "{}", case.name);
            let start = reply.len() - 16 * case.expect.len();
            let got: Vec<&[u8]> = reply[start..].chunks(16).map(|record| &record[12..]).collect();
            assert_eq!(got, case.expect.iter().map(<[u8; 4]>::as_slice).collect::<Vec<_>>(), "{}", case.name);
        }
    }

    #[test]
    fn long_answers_are_cut_over_udp_only() {
        let many: Vec<Ipv4Addr> = (0..200).map(|n| Ipv4Addr::new(10, 244, 1, n)).collect();
        let zone = Zone::from([("x.cluster.local".to_owned(), many)]);
        for (edns, is_udp, least, most, cut) in
            [(None, true, 400, 512, true), (Some(1232), true, 1200, 1232, true), (None, false, 3200, 3300, false)]
        {
            let reply = answer(&zone, &ask("x.cluster.local", 1, edns), is_udp).unwrap();
            assert!((least..=most).contains(&reply.len()), "{}", reply.len());
            assert_eq!(number(&reply, 2).unwrap() & 0x0200 != 0, cut);
        }
    }

    proptest! {
        #[test]
        fn no_message_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..80), cut in 0_usize..60) {
            let zone = example();
            let _any = answer(&zone, &bytes, true);
            let whole = ask("web.n.svc.cluster.local", 1, Some(1232));
            let _any = answer(&zone, whole.get(..cut.min(whole.len())).unwrap(), true);
        }
    }
}
