//! Certificates, and a client that speaks HTTP/1.1 or HTTP/2 over TLS.

use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;

/// A certificate with its key.
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: String,
}

/// An authority of one test.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("authority"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn server_pem(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("name");
        (params.signed_by(&key, &self.0).expect("certificate").pem(), key.serialize_pem())
    }

    pub(crate) fn client(&self, name: &str, groups: &[&str]) -> Identity {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.0).expect("certificate");
        Identity { chain: vec![certificate.der().clone()], key: key.serialize_pem() }
    }
}

/// One reply.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The message of a Status, whose form is checked.
    pub(crate) fn message(&self) -> String {
        let body = self.json();
        assert_eq!(
            (&body["kind"], &body["apiVersion"], &body["status"]),
            (&"Status".into(), &"v1".into(), &"Failure".into())
        );
        assert_eq!(body["code"], self.status.as_u16());
        body["message"].as_str().expect("message").to_owned()
    }
}

enum Sender {
    One(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
    Two(hyper::client::conn::http2::SendRequest<Empty<Bytes>>),
}

/// One open connection.
pub(crate) struct Session(Sender);

impl Session {
    pub(crate) async fn open(address: SocketAddr, server: &Authority, identity: Option<&Identity>) -> Self {
        Self::open_with(address, server, identity, b"http/1.1").await
    }

    pub(crate) async fn open_with(
        address: SocketAddr,
        server: &Authority,
        identity: Option<&Identity>,
        protocol: &[u8],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(server.pem().as_bytes()).expect("pem");
        roots.add(authority).expect("authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("tls");
        let builder = builder.with_root_certificates(roots);
        let mut config = match identity {
            Some(identity) => {
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("key");
                builder.with_client_auth_cert(identity.chain.clone(), key).expect("identity")
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(address).await.expect("connect");
        let name = ServerName::try_from("metrics.test").expect("name");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = TokioIo::new(connector.connect(name, stream).await.expect("handshake"));
        if protocol == b"h2" {
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.expect("http2");
            tokio::spawn(connection);
            return Self(Sender::Two(sender));
        }
        let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.expect("http1");
        tokio::spawn(connection);
        Self(Sender::One(sender))
    }

    /// Whether the server has ended the connection; waits for the client's side to notice.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let closed = async {
            loop {
                let is_closed = match &self.0 {
                    Sender::One(sender) => sender.is_closed(),
                    Sender::Two(sender) => sender.is_closed(),
                };
                if is_closed {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), closed).await.is_ok()
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(Method::GET, path, &[]).await
    }

    pub(crate) async fn get_with(&mut self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(Method::GET, path, headers).await
    }

    pub(crate) async fn send(&mut self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        let uri = match &self.0 {
            Sender::One(_) => path.to_owned(),
            Sender::Two(_) => format!("https://metrics.test{path}"),
        };
        let mut request = Request::builder().method(method).uri(uri).header(header::HOST, "metrics.test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::new()).expect("request");
        let reply = match &mut self.0 {
            Sender::One(sender) => sender.send_request(request).await,
            Sender::Two(sender) => sender.send_request(request).await,
        };
        let (head, body) = reply.expect("reply").into_parts();
        let bytes = body.collect().await.expect("body").to_bytes();
        Answer { status: head.status, headers: head.headers, text: String::from_utf8(bytes.to_vec()).expect("utf-8") }
    }
}
