//! From objects of the API to the small values that are kept.

mod pod;
mod rest;

pub(crate) use pod::{PodObject, PodReader};
pub(crate) use rest::{
    ObjectSeen, ScalableObject, autoscaler, hpa, monitor, node, scalable, scaled_object, service, slice,
};

use crate::key::Key;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use loadline_base::Timestamp;

pub(crate) fn key_of(meta: &ObjectMeta) -> Option<Key> {
    Some(Key::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref()?))
}

pub(crate) fn time_of(time: Option<&Time>) -> Option<Timestamp> {
    i64::try_from(time?.0.as_nanosecond()).ok().map(Timestamp::from_nanos)
}
