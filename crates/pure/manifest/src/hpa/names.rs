//! Kubernetes name rules that API validation needs.

/// The most characters of a DNS subdomain (RFC 1123 names as Kubernetes limits them).
const SUBDOMAIN_MAX: usize = 253;
/// The most characters of a DNS label, and of the name part of a qualified name.
const LABEL_MAX: usize = 63;

fn is_lower_alphanumeric(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| is_lower_alphanumeric(c) || c == '-')
        && text.starts_with(is_lower_alphanumeric)
        && text.ends_with(is_lower_alphanumeric)
}

/// What is wrong with a DNS label (a container's name).
pub(crate) fn label_fault(text: &str) -> Option<String> {
    if text.len() > LABEL_MAX {
        return Some(format!("must be no more than {LABEL_MAX} characters"));
    }
    (!is_label(text)).then(|| {
        "a lowercase RFC 1123 label has only lower case alphanumeric characters or '-', and starts and ends with an \
         alphanumeric character (for example 'engine-0')"
            .to_owned()
    })
}

/// What is wrong with a DNS subdomain (an object's name).
pub(crate) fn subdomain_fault(text: &str) -> Option<String> {
    if text.len() > SUBDOMAIN_MAX {
        return Some(format!("must be no more than {SUBDOMAIN_MAX} characters"));
    }
    (!text.split('.').all(is_label)).then(|| {
        "a lowercase RFC 1123 subdomain has only lower case alphanumeric characters, '-' or '.', and starts and ends \
         with an alphanumeric character (for example 'vllm.example')"
            .to_owned()
    })
}

/// Everything wrong with a name that becomes part of an API path.
pub(crate) fn path_segment_faults(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"].iter().filter(|bad| text.contains(**bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

fn is_qualified_part(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_alphanumeric();
    !text.is_empty()
        && text.len() <= LABEL_MAX
        && text.chars().all(|c| alphanumeric(c) || matches!(c, '-' | '_' | '.'))
        && text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
}

fn is_qualified(text: &str) -> bool {
    match text.split_once('/') {
        None => is_qualified_part(text),
        Some((prefix, name)) => subdomain_fault(prefix).is_none() && is_qualified_part(name),
    }
}

/// Resource names without a `/` that the core API knows for containers.
const CONTAINER_RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Further names that the core API knows, but not for containers (quota and node names).
const OTHER_RESOURCES: [&str; 16] = [
    "storage",
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
];

/// Everything wrong with the name of a container resource.
pub(super) fn container_resource_faults(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !is_qualified(text) {
        faults.push("must be a qualified name: an optional DNS subdomain and '/', then alphanumeric characters, '-', '_' or '.'".to_owned());
    }
    if text.contains('/') {
        return faults;
    }
    let for_containers = CONTAINER_RESOURCES.contains(&text) || text.starts_with("hugepages-");
    if !for_containers && !OTHER_RESOURCES.contains(&text) && text != "limits.ephemeral-storage" {
        faults.push("must be a standard resource type or fully qualified".to_owned());
    } else if !for_containers {
        faults.push("must be a standard resource for containers".to_owned());
    }
    faults
}

/// Group of an `apiVersion`, or what is wrong with it.
pub(super) fn api_group(text: &str) -> Result<&str, String> {
    match text.split('/').collect::<Vec<_>>().as_slice() {
        [""] | ["", ""] => Ok(""),
        [_version] => Ok(""),
        [group, _version] => Ok(group),
        _ => Err("must be `version` or `group/version`, such as 'apps/v1'".to_owned()),
    }
}
