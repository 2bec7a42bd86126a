//! Which representation a client can read.

use http::{HeaderMap, header};

/// What a reply is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Plain JSON.
    Json,
    /// The aggregated discovery document, in this version.
    Aggregated(DiscoveryVersion),
}

/// Versions of aggregated discovery; their bodies are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiscoveryVersion {
    V2,
    V2Beta1,
}

impl DiscoveryVersion {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V2Beta1 => "v2beta1",
        }
    }
}

/// Most media ranges that are looked at.
const MAX_RANGES: usize = 64;

/// The first form that the client names and we have; `aggregated` says whether the path has that form. No header, and an
/// empty one, accept everything. `None` when nothing that is named can be given, such as protobuf alone.
pub(crate) fn form(headers: &HeaderMap, aggregated: bool) -> Option<Form> {
    let mut named = false;
    let values = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let mut best: Option<(Form, f64)> = None;
    for range in values.flat_map(|value| value.split(',')).take(MAX_RANGES) {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        if media.is_empty() {
            continue;
        }
        named = true;
        let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let parameter = |name: &str| {
            parameters.iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        let quality = parameter("q").map_or(1.0, |q| q.parse::<f64>().unwrap_or(0.0));
        // `q=0` refuses; a quality that is no number does too
        let is_refused = quality.is_nan() || quality <= 0.0;
        let is_json =
            ["application/json", "application/*", "*/*"].iter().any(|known| media.eq_ignore_ascii_case(known));
        let form = match parameter("as") {
            _ if !is_json || is_refused => None,
            None => Some(Form::Json),
            Some("APIGroupDiscoveryList") if aggregated && parameter("g") == Some("apidiscovery.k8s.io") => {
                match parameter("v") {
                    Some("v2") => Some(Form::Aggregated(DiscoveryVersion::V2)),
                    Some("v2beta1") => Some(Form::Aggregated(DiscoveryVersion::V2Beta1)),
                    _ => None,
                }
            }
            Some(_) => None,
        };
        if let Some(form) = form
            && best.is_none_or(|(_, have)| quality > have)
        {
            best = Some((form, quality));
        }
    }
    if named { best.map(|(form, _)| form) } else { Some(Form::Json) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_for_what_is_accepted() {
        let v2 = Some(Form::Aggregated(DiscoveryVersion::V2));
        let beta = Some(Form::Aggregated(DiscoveryVersion::V2Beta1));
        let json = Some(Form::Json);
        for (accept, on_apis, elsewhere) in [
            ("", json, json),
            ("*/*", json, json),
            ("application/json", json, json),
            ("application/vnd.kubernetes.protobuf", None, None),
            ("application/vnd.kubernetes.protobuf, */*", json, json),
            ("application/vnd.kubernetes.protobuf,application/json", json, json),
            ("application/yaml", None, None),
            ("text/html", None, None),
            ("application/json;q=0", None, None),
            ("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", v2, None),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
                v2,
                json,
            ),
            ("application/json;as=APIGroupDiscoveryList;v=v2beta1;g=apidiscovery.k8s.io,application/json", beta, json),
            ("application/json;as=APIGroupDiscoveryList;v=v3;g=apidiscovery.k8s.io", None, None),
            (
                "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
                json,
                json,
            ),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", json, json),
            ("application/json;as=Table;v=v1;g=meta.k8s.io", None, None),
            ("application/json;q=0.5,application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", v2, json),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().expect("header"));
            assert_eq!((form(&headers, true), form(&headers, false)), (on_apis, elsewhere), "{accept}");
        }
        assert_eq!(form(&HeaderMap::new(), true), json);
    }
}
