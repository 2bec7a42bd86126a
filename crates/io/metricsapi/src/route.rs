//! From a request path to what is asked, and to the attributes that an access review is made of.

use thiserror::Error;

/// The group of metrics about objects.
pub const CUSTOM: &str = "custom.metrics.k8s.io";
/// The group of metrics about anything else.
pub const EXTERNAL: &str = "external.metrics.k8s.io";

/// Most segments of a path; every route is shorter.
const MAX_SEGMENTS: usize = 16;

/// A version of the custom group; their bodies differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CustomVersion {
    V1Beta1,
    V1Beta2,
}

impl CustomVersion {
    /// Both, the preferred one first.
    pub(crate) const ALL: [Self; 2] = [Self::V1Beta2, Self::V1Beta1];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V1Beta1 => "v1beta1",
            Self::V1Beta2 => "v1beta2",
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.name() == name)
    }
}

/// The only version of the external group.
pub(crate) const EXTERNAL_VERSION: &str = "v1beta1";

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// A metric of one object, or of all that a selector matches (`name` is `*`).
    Objects { version: CustomVersion, namespace: Option<String>, resource: String, name: String, metric: String },
    /// A metric about a namespace.
    Namespace { version: CustomVersion, namespace: String, metric: String },
    /// A metric about anything.
    External { namespace: String, metric: String },
    /// `/apis`.
    Groups,
    /// `/apis/GROUP` of ours.
    Group(&'static str),
    /// `/apis/custom.metrics.k8s.io/VERSION`.
    CustomResources(CustomVersion),
    /// `/apis/external.metrics.k8s.io/v1beta1`.
    ExternalResources,
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3`.
    OpenApiV3,
    /// `/openapi/v3/apis/GROUP/VERSION` of ours.
    OpenApiV3Of { group: &'static str, version: &'static str },
    /// `/version`.
    Version,
    /// `/metrics`.
    Metrics,
    /// `/healthz`, `/livez`, `/readyz`, each with an optional check below it.
    Health { probe: &'static str, check: Option<String> },
    /// Nothing that is served; says what was missing or wrong.
    Nothing(String),
}

/// Why a path cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum PathError {
    #[error("path segment `{0}` is not percent-encoded UTF-8")]
    Encoding(String),
    #[error("path segment `{0}` holds `/`, a control character, or is `.` or `..`")]
    Segment(String),
    #[error("a path has at most {MAX_SEGMENTS} segments")]
    TooLong,
}

/// Reads a path's segments: split first, each decoded once. Empty segments (double or final slashes) are passed over.
pub(crate) fn segments(path: &str) -> Result<Vec<String>, PathError> {
    let shown = |raw: &str| raw.chars().take(100).collect::<String>();
    let mut segments = Vec::new();
    for raw in path.split('/').filter(|raw| !raw.is_empty()) {
        let segment = decode(raw).ok_or_else(|| PathError::Encoding(shown(raw)))?;
        if segment.contains('/') || segment.contains(char::is_control) || segment == "." || segment == ".." {
            return Err(PathError::Segment(shown(raw)));
        }
        if segments.len() == MAX_SEGMENTS {
            return Err(PathError::TooLong);
        }
        segments.push(segment);
    }
    Ok(segments)
}

/// Percent-decodes once; `None` if an escape is not two hexadecimal digits or the result is not UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    decode_with(text, false)
}

fn decode_with(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let (high, low) = (hex(rest.next()?)?, hex(rest.next()?)?);
                bytes.push((high << 4) | low);
            }
            b'+' if plus_is_space => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// The first value of a query parameter, decoded; absent and empty read alike.
pub(crate) fn parameter(query: Option<&str>, name: &str) -> Result<String, PathError> {
    for pair in query.unwrap_or_default().split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decode_with(key, true).as_deref() == Some(name) {
            return decode_with(value, true).ok_or_else(|| PathError::Encoding(value.chars().take(100).collect()));
        }
    }
    Ok(String::new())
}

/// What the segments ask for.
pub(crate) fn route(segments: &[String]) -> Route {
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["apis"] => Route::Groups,
        ["apis", group] if *group == CUSTOM => Route::Group(CUSTOM),
        ["apis", group] if *group == EXTERNAL => Route::Group(EXTERNAL),
        ["apis", group, version, rest @ ..] if *group == CUSTOM => match CustomVersion::of(version) {
            Some(version) => custom(version, rest),
            None => Route::Nothing(format!("`{CUSTOM}` is served in v1beta1 and v1beta2, not in `{version}`")),
        },
        ["apis", group, version, rest @ ..] if *group == EXTERNAL => {
            if *version == EXTERNAL_VERSION {
                external(rest)
            } else {
                Route::Nothing(format!("`{EXTERNAL}` is served in {EXTERNAL_VERSION}, not in `{version}`"))
            }
        }
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiV3,
        ["openapi", "v3", "apis", group, version] => openapi_of(group, version),
        ["version"] => Route::Version,
        ["metrics"] => Route::Metrics,
        [probe, rest @ ..] if rest.len() < 2 => {
            match ["healthz", "livez", "readyz"].into_iter().find(|known| known == probe) {
                Some(probe) => Route::Health { probe, check: rest.first().map(|check| (*check).to_owned()) },
                None => nothing_there(),
            }
        }
        _ => nothing_there(),
    }
}

fn nothing_there() -> Route {
    Route::Nothing(format!("the server could not find the requested resource; it serves `{CUSTOM}` and `{EXTERNAL}`"))
}

fn openapi_of(group: &str, version: &str) -> Route {
    if group == EXTERNAL && version == EXTERNAL_VERSION {
        return Route::OpenApiV3Of { group: EXTERNAL, version: EXTERNAL_VERSION };
    }
    match CustomVersion::of(version) {
        Some(version) if group == CUSTOM => Route::OpenApiV3Of { group: CUSTOM, version: version.name() },
        _ => nothing_there(),
    }
}

fn custom(version: CustomVersion, rest: &[&str]) -> Route {
    let objects = |namespace: Option<&str>, resource: &str, name: &str, metric: &str| Route::Objects {
        version,
        namespace: namespace.map(str::to_owned),
        resource: resource.to_owned(),
        name: name.to_owned(),
        metric: metric.to_owned(),
    };
    match rest {
        [] => Route::CustomResources(version),
        ["namespaces", namespace, "metrics", metric] => {
            Route::Namespace { version, namespace: (*namespace).to_owned(), metric: (*metric).to_owned() }
        }
        ["namespaces", namespace, resource, name, metric] => objects(Some(namespace), resource, name, metric),
        ["namespaces", _, _] | ["namespaces", _, _, _] => Route::Nothing(
            "the path lacks a part: write `namespaces/NAMESPACE/RESOURCE/NAME/METRIC` or `namespaces/NAMESPACE/metrics/METRIC`"
                .to_owned(),
        ),
        [resource, name, metric] => objects(None, resource, name, metric),
        _ => Route::Nothing(
            "the path lacks a part: write `namespaces/NAMESPACE/RESOURCE/NAME/METRIC` or `RESOURCE/NAME/METRIC`".to_owned(),
        ),
    }
}

fn external(rest: &[&str]) -> Route {
    match rest {
        [] => Route::ExternalResources,
        ["namespaces", namespace, metric] => {
            Route::External { namespace: (*namespace).to_owned(), metric: (*metric).to_owned() }
        }
        _ => Route::Nothing("the path lacks a part: write `namespaces/NAMESPACE/METRIC`".to_owned()),
    }
}

/// What an access review is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attributes {
    /// A path that is no resource.
    Path { verb: String, path: String },
    /// A resource.
    Resource(ResourceRequest),
}

/// The attributes of a resource request; those that do not apply are empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ResourceRequest {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) name: String,
}

/// The attributes of a GET, as every Kubernetes API server derives them (apiserver's `RequestInfoFactory`).
pub(crate) fn attributes(segments: &[String], is_watch: bool) -> Attributes {
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (group, version, mut rest) = match parts.as_slice() {
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return Attributes::Path { verb: "get".to_owned(), path: format!("/{}", parts.join("/")) },
    };
    let mut verb = "get";
    if let [special @ ("proxy" | "watch"), after @ ..] = rest
        && !after.is_empty()
    {
        (verb, rest) = (special, after);
    }
    let mut namespace = "";
    if let ["namespaces", name, after @ ..] = rest {
        namespace = name;
        // `status` and `finalize` are parts of the namespace object itself
        if after.first().is_some_and(|next| !matches!(*next, "status" | "finalize")) {
            rest = after;
        }
    }
    let part = |index: usize| rest.get(index).copied().unwrap_or_default().to_owned();
    let name = part(1);
    if name.is_empty() && verb == "get" {
        verb = if is_watch { "watch" } else { "list" };
    }
    Attributes::Resource(ResourceRequest {
        verb: verb.to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        namespace: namespace.to_owned(),
        resource: part(0),
        subresource: if matches!(verb, "proxy" | "watch") { String::new() } else { part(2) },
        name,
    })
}
