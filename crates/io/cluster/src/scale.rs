//! `autoscaling/v1` Scale.

use serde::{Deserialize, Serialize};

/// The part of a Scale that is read and written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Scale {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) metadata: ScaleMeta,
    pub(crate) spec: ScaleSpec,
    #[serde(skip_serializing)]
    pub(crate) status: ScaleStatus,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ScaleMeta {
    pub(crate) name: String,
    pub(crate) namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) resource_version: String,
}

/// A count of 0 is left out by the server when it writes, and read as 0 here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ScaleSpec {
    pub(crate) replicas: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ScaleStatus {
    pub(crate) replicas: u32,
    pub(crate) selector: String,
}
