//! APIServices: whose they are, and the authority under which ours are reached.

use crate::error::ClusterError;
use crate::key::Key;
use crate::rest::Rest;
use crate::settings::COMPONENT;
use k8s_openapi::ByteString;
use serde::Deserialize;

/// What became of a caBundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaOutcome {
    /// It was written.
    Patched,
    /// It was there already.
    AlreadySet,
    /// The APIService points to a Service that is not ours: `namespace/name`, or `the API server itself`. Nothing was written.
    OwnedBy(String),
    /// There is no such APIService.
    Missing,
}

/// Reads and patches APIServices.
#[derive(Clone)]
pub struct ApiServices {
    rest: Rest,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Raw {
    spec: RawSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    service: Option<RawService>,
    ca_bundle: Option<ByteString>,
    #[serde(rename = "insecureSkipTLSVerify")]
    insecure_skip_tls_verify: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawService {
    namespace: String,
    name: String,
}

impl RawSpec {
    fn owner(&self) -> String {
        self.service.as_ref().map_or_else(
            || "the API server itself".to_owned(),
            |service| format!("{}/{}", service.namespace, service.name),
        )
    }
}

impl ApiServices {
    pub(crate) const fn new(rest: Rest) -> Self {
        Self { rest }
    }

    /// The Service behind an APIService as `namespace/name`, or `None` where there is no such APIService.
    ///
    /// # Errors
    /// Those of the request.
    pub async fn owner_of(&self, name: &str) -> Result<Option<String>, ClusterError> {
        Ok(self.find(name).await?.map(|raw| raw.spec.owner()))
    }

    /// Makes an APIService of ours trust an authority (PEM).
    ///
    /// # Errors
    /// Those of the requests.
    pub async fn patch_ca_bundle(&self, name: &str, ca_pem: &str, ours: &Key) -> Result<CaOutcome, ClusterError> {
        let Some(Raw { spec }) = self.find(name).await? else { return Ok(CaOutcome::Missing) };
        if spec.owner() != ours.to_string() {
            return Ok(CaOutcome::OwnedBy(spec.owner()));
        }
        let bundle = ByteString(ca_pem.as_bytes().to_vec());
        if spec.ca_bundle.as_ref() == Some(&bundle) && !spec.insecure_skip_tls_verify {
            return Ok(CaOutcome::AlreadySet);
        }
        // the server allows a bundle only where certificates are checked
        let body = serde_json::json!({ "spec": { "caBundle": bundle, "insecureSkipTLSVerify": false } });
        let path = format!("{}?fieldManager={COMPONENT}", path_of(name));
        let what = format!("patch APIService `{name}`");
        let _: serde_json::Value = self.rest.patch(&what, &path, &body).await?;
        Ok(CaOutcome::Patched)
    }

    async fn find(&self, name: &str) -> Result<Option<Raw>, ClusterError> {
        self.rest.find(&format!("read APIService `{name}`"), &path_of(name)).await
    }
}

fn path_of(name: &str) -> String {
    format!("/apis/apiregistration.k8s.io/v1/apiservices/{name}")
}
