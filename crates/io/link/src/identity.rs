//! Who may say to be which gateway.

use loadline_base::{GatewayId, ModelId};

/// The DNS name in the writer's certificate. Clients ask for it wherever the writer listens: its address is a pod's.
pub const SERVER_NAME: &str = "writer.loadline.internal";

/// What the common name of a gateway's certificate begins with.
pub const CERTIFICATE_PREFIX: &str = "gateway";

/// The common name of a certificate for the gateways of one name in one namespace: their ids are `namespace/name`, or
/// `namespace/name-SUFFIX` for the pods of a Deployment.
///
/// Shorter names allow more: `gateway/NAMESPACE` any gateway of a namespace, `gateway` any gateway.
#[must_use]
pub fn certificate_name(namespace: &str, name: &str) -> String {
    format!("{CERTIFICATE_PREFIX}/{namespace}/{name}")
}

/// Whether a certificate with this common name may be shown by this gateway.
pub(crate) fn allows(common_name: &str, gateway: &GatewayId) -> bool {
    let mut allowed = common_name.split('/');
    if allowed.next() != Some(CERTIFICATE_PREFIX) {
        return false;
    }
    let Some((namespace, pod)) = parts(gateway.as_str()) else { return false };
    let namespace_allowed = allowed.next().is_none_or(|allowed| allowed == namespace);
    let name_allowed = allowed.next().is_none_or(|allowed| {
        pod.strip_prefix(allowed).is_some_and(|suffix| suffix.is_empty() || suffix.starts_with('-'))
    });
    namespace_allowed && name_allowed && allowed.next().is_none()
}

/// Whether a model is of the gateway's namespace.
pub(crate) fn is_of_namespace(gateway: &GatewayId, model: &ModelId) -> bool {
    match (parts(gateway.as_str()), model.as_str().split_once('/')) {
        (Some((namespace, _)), Some((of, name))) => namespace == of && !name.is_empty(),
        _ => false,
    }
}

/// Namespace and pod of a gateway's id.
fn parts(id: &str) -> Option<(&str, &str)> {
    id.split_once('/').filter(|(namespace, pod)| !namespace.is_empty() && !pod.is_empty() && !pod.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_allows_what_its_name_says_and_no_more() {
        for (common_name, gateway, expect) in [
            ("gateway/a/g", "a/g", true),
            ("gateway/a/g", "a/g-7f9-x2", true),
            ("gateway/a/g", "a/gate", false),
            ("gateway/a/g", "b/g-1", false),
            ("gateway/a", "a/anything", true),
            ("gateway/a", "b/anything", false),
            ("gateway", "b/anything", true),
            ("gateway", "anything", false),
            ("gateway", "a/b/c", false),
            ("gateway/a/g/x", "a/g", false),
            ("gateways", "a/g", false),
            ("gateway/", "a/g", false),
            ("", "a/g", false),
        ] {
            assert_eq!(allows(common_name, &GatewayId::from(gateway)), expect, "{common_name} {gateway}");
        }
        assert!(allows(&certificate_name("ns", "g"), &GatewayId::from("ns/g-1")));
    }

    #[test]
    fn models_are_of_the_gateways_namespace() {
        for (model, expect) in [("a/m", true), ("a/m/pool", true), ("b/m", false), ("m", false), ("a/", false)] {
            assert_eq!(is_of_namespace(&GatewayId::from("a/g-1"), &ModelId::from(model)), expect, "{model}");
        }
    }
}
