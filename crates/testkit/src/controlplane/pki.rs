//! Certificates, keys and kubeconfigs of one control plane, made anew for each.

use super::https::Https;
use crate::netns::Plan;
use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::path::{Path, PathBuf};

/// An authority: its certificate and what it signs with.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A signed pair, as PEM.
struct Pair {
    certificate: String,
    key: String,
}

/// The files of a control plane's public key infrastructure, all in one folder.
pub(super) struct Pki {
    folder: PathBuf,
    server: String,
    cluster: Authority,
}

/// The name the API server calls extension servers by.
pub const FRONT_PROXY_CLIENT: &str = "front-proxy-client";
const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";
/// The names under which pods call the API server.
const SERVER_NAMES: [&str; 5] =
    ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];

impl Pki {
    /// Makes all of them in `folder`.
    pub(super) fn make(folder: &Path, plan: Plan, port: u16) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        let pki = Self {
            folder: folder.to_owned(),
            server: format!("https://{}:{port}", plan.bridge_address()),
            cluster: Authority::new("loadline-cluster-ca")?,
        };
        pki.write("ca.crt", &pki.cluster.pem)?;
        let front = Authority::new("loadline-front-proxy-ca")?;
        pki.write("front-proxy-ca.crt", &front.pem)?;
        pki.write_pair(FRONT_PROXY_CLIENT, &front.client(FRONT_PROXY_CLIENT, &[])?)?;
        let mut names: Vec<String> = SERVER_NAMES.iter().map(|&name| name.to_owned()).collect();
        names.extend([plan.bridge_address(), plan.kubernetes_service(), plan.loopback()].map(|ip| ip.to_string()));
        names.push("127.0.0.1".to_owned());
        pki.write_pair("apiserver", &pki.cluster.server("kube-apiserver", &names)?)?;
        for component in ["kube-controller-manager", "kube-scheduler"] {
            pki.write_pair(component, &pki.cluster.server(component, &[plan.loopback().to_string()])?)?;
            pki.kubeconfig(&format!("{component}-client"), &format!("system:{component}"), &[])?;
        }
        pki.write_pair(KUBELET_CLIENT, &pki.cluster.client(KUBELET_CLIENT, &["system:masters"])?)?;
        pki.kubeconfig("admin", "kubernetes-admin", &["system:masters"])?;
        pki.kubeconfig("agent", "loadline-node-agent", &["system:masters"])?;
        let accounts = KeyPair::generate()?;
        pki.write("service-accounts.key", &accounts.serialize_pem())?;
        pki.write("service-accounts.pub", &accounts.public_key_pem())?;
        Ok(pki)
    }

    /// The path of one of its files.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The cluster's authority.
    pub(super) fn ca_pem(&self) -> &str {
        &self.cluster.pem
    }

    /// A client of the API server with the certificate of that name.
    pub(super) fn https(&self, name: &str) -> Result<Https> {
        let read = |suffix: &str| {
            let path = self.path(&format!("{name}.{suffix}"));
            std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
        };
        Https::new(&self.cluster.pem, &read("crt")?, &read("key")?)
    }

    /// A client certificate and the kubeconfig that uses it: `NAME.kubeconfig`.
    pub(super) fn kubeconfig(&self, name: &str, user: &str, groups: &[&str]) -> Result<PathBuf> {
        self.write_pair(name, &self.cluster.client(user, groups)?)?;
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": name,
            "clusters": [{"name": "loadline", "cluster": {"server": self.server, "certificate-authority": self.path("ca.crt")}}],
            "users": [{"name": name, "user": {
                "client-certificate": self.path(&format!("{name}.crt")), "client-key": self.path(&format!("{name}.key")),
            }}],
            "contexts": [{"name": name, "context": {"cluster": "loadline", "user": name, "namespace": "default"}}],
        });
        self.write(&format!("{name}.kubeconfig"), &text.to_string())
    }

    fn write_pair(&self, name: &str, pair: &Pair) -> Result<()> {
        self.write(&format!("{name}.crt"), &pair.certificate)?;
        self.write(&format!("{name}.key"), &pair.key).map(|_| ())
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(path)
    }
}

impl Authority {
    fn new(name: &str) -> Result<Self> {
        let mut params = params(name, &[], &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Self { pem: certificate.pem(), issuer: Issuer::new(params, key) })
    }

    fn client(&self, name: &str, groups: &[&str]) -> Result<Pair> {
        self.sign(params(name, groups, &[])?, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn server(&self, name: &str, subjects: &[String]) -> Result<Pair> {
        self.sign(params(name, &[], subjects)?, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn sign(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<Pair> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        Ok(Pair { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }
}

/// A subject with its groups (organisations) and alternative names.
fn params(name: &str, groups: &[&str], subjects: &[String]) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(subjects.to_vec())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    for &group in groups {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    Ok(params)
}
