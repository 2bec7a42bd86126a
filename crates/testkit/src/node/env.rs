//! A container's environment and command line, as its pod's manifest asks for them.

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, EnvVarSource, Pod};
use std::collections::BTreeMap;

/// Names and values of one ConfigMap or Secret.
pub(super) type Values = BTreeMap<String, Vec<u8>>;

/// The objects that a pod refers to, as read when the container starts.
#[derive(Debug, Clone, Default)]
pub(super) struct Objects {
    pub(super) config_maps: BTreeMap<String, Values>,
    pub(super) secrets: BTreeMap<String, Values>,
}

/// What a pod knows about itself through the downward API.
#[derive(Debug, Clone, Default)]
pub(super) struct Downward {
    pub(super) pod: Pod,
    pub(super) pod_ip: String,
    pub(super) host_ip: String,
}

impl Downward {
    /// The value of a `fieldRef`.
    ///
    /// # Errors
    /// For a path the downward API does not have.
    pub(super) fn field(&self, path: &str) -> Result<String> {
        let metadata = &self.pod.metadata;
        let spec = self.pod.spec.as_ref();
        Ok(match path {
            "metadata.name" => metadata.name.clone().unwrap_or_default(),
            "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
            "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
            "metadata.labels" => lines(metadata.labels.as_ref()),
            "metadata.annotations" => lines(metadata.annotations.as_ref()),
            "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            "spec.serviceAccountName" => {
                spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_else(|| "default".to_owned())
            }
            "status.podIP" | "status.podIPs" => self.pod_ip.clone(),
            "status.hostIP" | "status.hostIPs" => self.host_ip.clone(),
            _ => {
                let keyed = |prefix: &str| path.strip_prefix(prefix).and_then(|rest| rest.strip_suffix("']"));
                if let Some(key) = keyed("metadata.labels['") {
                    metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned().unwrap_or_default()
                } else if let Some(key) = keyed("metadata.annotations['") {
                    metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned().unwrap_or_default()
                } else {
                    bail!("fieldRef `{path}` is not known to the downward API");
                }
            }
        })
    }

    /// The value of a `resourceFieldRef` of `container` in units of `divisor`, rounded up.
    ///
    /// # Errors
    /// For a resource that is neither cpu nor memory, and for bad quantities.
    pub(super) fn resource(&self, container: &str, resource: &str, divisor: &str) -> Result<String> {
        let spec = self.pod.spec.as_ref().context("the pod has no spec")?;
        let of = spec.containers.iter().find(|one| one.name == container);
        let resources = of.and_then(|one| one.resources.as_ref());
        let (kind, name) = resource.split_once('.').with_context(|| format!("resourceFieldRef `{resource}`"))?;
        let table =
            resources.and_then(|all| if kind == "limits" { all.limits.as_ref() } else { all.requests.as_ref() });
        let text = table.and_then(|table| table.get(name)).map_or("0", |quantity| quantity.0.as_str());
        let milli = |text: &str| -> Result<i64> {
            Ok(text.parse::<loadline_base::Quantity>().map_err(|e| anyhow!("quantity `{text}`: {e}"))?.milli_value())
        };
        let unit = if matches!(divisor, "" | "0") { 1000 } else { milli(divisor)?.max(1) };
        Ok(milli(text)?.saturating_add(unit - 1).div_euclid(unit).to_string())
    }
}

fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

/// Replaces `$(NAME)` by the value of a known name; `$$` stands for one `$`; unknown names stay as written.
pub(super) fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match known.get(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// The environment of `container`: `base` first, then `envFrom`, then `env`, each later entry winning.
///
/// # Errors
/// If an object or key that is not optional does not exist; the text names it.
pub(super) fn environment(
    container: &Container,
    base: BTreeMap<String, String>,
    objects: &Objects,
    downward: &Downward,
) -> Result<BTreeMap<String, String>> {
    let mut known = base;
    for source in container.env_from.iter().flatten() {
        from_object(source, objects, &mut known)?;
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(variable, container, &known, objects, downward)? {
            known.insert(variable.name.clone(), value);
        }
    }
    Ok(known)
}

fn from_object(source: &EnvFromSource, objects: &Objects, known: &mut BTreeMap<String, String>) -> Result<()> {
    let prefix = source.prefix.as_deref().unwrap_or_default();
    let (kind, table, name, optional) = match (&source.config_map_ref, &source.secret_ref) {
        (Some(map), _) => ("configmap", &objects.config_maps, &map.name, map.optional),
        (None, Some(secret)) => ("secret", &objects.secrets, &secret.name, secret.optional),
        (None, None) => return Ok(()),
    };
    match table.get(name) {
        Some(values) => {
            for (key, value) in values {
                known.insert(format!("{prefix}{key}"), String::from_utf8_lossy(value).into_owned());
            }
            Ok(())
        }
        None if optional == Some(true) => Ok(()),
        None => bail!("{kind} \"{name}\" not found"),
    }
}

fn value_of(
    variable: &EnvVar,
    container: &Container,
    known: &BTreeMap<String, String>,
    objects: &Objects,
    downward: &Downward,
) -> Result<Option<String>> {
    let Some(source) = &variable.value_from else {
        return Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), known)));
    };
    match source {
        EnvVarSource { field_ref: Some(field), .. } => downward.field(&field.field_path).map(Some),
        EnvVarSource { resource_field_ref: Some(field), .. } => {
            let of = field.container_name.as_deref().unwrap_or(&container.name);
            downward.resource(of, &field.resource, field.divisor.as_ref().map_or("", |q| q.0.as_str())).map(Some)
        }
        EnvVarSource { config_map_key_ref: Some(key), .. } => {
            keyed("configmap", &objects.config_maps, &key.name, &key.key, key.optional)
        }
        EnvVarSource { secret_key_ref: Some(key), .. } => {
            keyed("secret", &objects.secrets, &key.name, &key.key, key.optional)
        }
        _ => bail!("env `{}` has a source that is not known here", variable.name),
    }
}

fn keyed(
    kind: &str,
    table: &BTreeMap<String, Values>,
    name: &str,
    key: &str,
    optional: Option<bool>,
) -> Result<Option<String>> {
    match table.get(name).map(|values| values.get(key)) {
        Some(Some(value)) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        _ if optional == Some(true) => Ok(None),
        Some(None) => bail!("couldn't find key {key} in {kind} {name}"),
        None => bail!("{kind} \"{name}\" not found"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_expanded() {
        struct Case {
            name: &'static str,
            input: &'static str,
            expect: &'static str,
        }
        let known = BTreeMap::from([("A".to_owned(), "one".to_owned()), ("B".to_owned(), "$(A)".to_owned())]);
        for case in [
            Case { name: "plain", input: "x", expect: "x" },
            Case { name: "one", input: "--a=$(A)!", expect: "--a=one!" },
            Case { name: "unknown stays", input: "$(C) $(A)", expect: "$(C) one" },
            Case { name: "escaped", input: "$$(A) $$$(A)", expect: "$(A) $one" },
            Case { name: "not expanded twice", input: "$(B)", expect: "$(A)" },
            Case { name: "shell forms", input: "$A ${A} $", expect: "$A ${A} $" },
            Case { name: "unclosed", input: "$(A", expect: "$(A" },
        ] {
            assert_eq!(expand(case.input, &known), case.expect, "{}", case.name);
        }
    }

    #[test]
    fn environment_follows_its_sources() {
        let container: Container = serde_json::from_value(serde_json::json!({
            "name": "c",
            "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}},
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "none", "optional": true}}],
            "env": [
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "URL", "value": "http://$(IP):8000/$(P_k)"},
                {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "t"}}},
                {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "u", "optional": true}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "MIB", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}}
            ]
        }))
        .unwrap();
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "labels": {"app": "x"}}, "spec": {"containers": [container]}
        }))
        .unwrap();
        let objects = Objects {
            config_maps: BTreeMap::from([("m".to_owned(), BTreeMap::from([("k".to_owned(), b"v".to_vec())]))]),
            secrets: BTreeMap::from([("s".to_owned(), BTreeMap::from([("t".to_owned(), b"hush".to_vec())]))]),
        };
        let downward = Downward { pod, pod_ip: "10.244.1.2".to_owned(), host_ip: "10.244.0.1".to_owned() };
        let got = environment(&container, BTreeMap::new(), &objects, &downward).unwrap();
        let expect = [
            ("APP", "x"),
            ("CPU", "2"),
            ("IP", "10.244.1.2"),
            ("KEY", "hush"),
            ("MIB", "1024"),
            ("P_k", "v"),
            ("URL", "http://10.244.1.2:8000/v"),
        ];
        assert_eq!(got, expect.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        let none = environment(&container, BTreeMap::new(), &Objects::default(), &downward).unwrap_err();
        assert_eq!(none.to_string(), "configmap \"m\" not found");
    }
}
