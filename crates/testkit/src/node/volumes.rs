//! Volumes as folders below the pod's own, and the mounts that show them.

use super::env::{Downward, Objects, Values};
use super::process::Mount;
use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Container, DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, Volume};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Component, Path, PathBuf};

/// Files of one volume by their path inside it.
type Files = BTreeMap<String, Vec<u8>>;

/// Where the token of a service account comes from while a volume is filled: the tokens asked for so far, by audience.
pub(super) type Tokens = BTreeMap<String, String>;

/// What fills the volumes of a pod.
#[derive(Debug, Default)]
pub(super) struct Filling {
    pub(super) objects: Objects,
    pub(super) downward: Downward,
    pub(super) tokens: Tokens,
}

/// The audiences of the tokens that the pod's volumes ask for; the empty one is the API server's own.
pub(super) fn audiences(volumes: &[Volume]) -> Vec<(String, i64)> {
    let projections = volumes.iter().filter_map(|volume| volume.projected.as_ref());
    let sources = projections.flat_map(|projected| projected.sources.iter().flatten());
    sources
        .filter_map(|source| source.service_account_token.as_ref())
        .map(|token| (token.audience.clone().unwrap_or_default(), token.expiration_seconds.unwrap_or(3607)))
        .collect()
}

/// Fills every volume of a pod under `root/volumes`; safe to repeat: only what changed is written, each file by renaming.
///
/// # Errors
/// For missing objects and for volume kinds that are not known here.
pub(super) fn fill(root: &Path, volumes: &[Volume], filling: &Filling) -> Result<BTreeMap<String, PathBuf>> {
    let mut places = BTreeMap::new();
    for volume in volumes {
        let place = match &volume.host_path {
            Some(host) => PathBuf::from(&host.path),
            None => root.join("volumes").join(&volume.name),
        };
        if let Some(files) = files_of(volume, filling).with_context(|| format!("volume `{}`", volume.name))? {
            write_all(&place, &files)?;
        } else {
            fs::create_dir_all(&place).with_context(|| format!("cannot make `{}`", place.display()))?;
        }
        places.insert(volume.name.clone(), place);
    }
    Ok(places)
}

fn files_of(volume: &Volume, filling: &Filling) -> Result<Option<Files>> {
    if volume.empty_dir.is_some() || volume.host_path.is_some() {
        return Ok(None);
    }
    let mut files = Files::new();
    if let Some(map) = &volume.config_map {
        choose(("configmap", &filling.objects.config_maps, &map.name), map.items.as_deref(), map.optional, &mut files)?;
    } else if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        choose(("secret", &filling.objects.secrets, name), secret.items.as_deref(), secret.optional, &mut files)?;
    } else if let Some(down) = &volume.downward_api {
        downward(down.items.as_deref().unwrap_or_default(), filling, &mut files)?;
    } else if let Some(projected) = &volume.projected {
        project(projected, filling, &mut files)?;
    } else {
        bail!("only emptyDir, hostPath, configMap, secret, downwardAPI and projected volumes are known here");
    }
    Ok(Some(files))
}

fn project(projected: &ProjectedVolumeSource, filling: &Filling, files: &mut Files) -> Result<()> {
    for source in projected.sources.iter().flatten() {
        if let Some(token) = &source.service_account_token {
            let audience = token.audience.as_deref().unwrap_or_default();
            let text = filling.tokens.get(audience).context("no token was issued")?;
            files.insert(token.path.clone(), text.clone().into_bytes());
        }
        if let Some(map) = &source.config_map {
            choose(("configmap", &filling.objects.config_maps, &map.name), map.items.as_deref(), map.optional, files)?;
        }
        if let Some(secret) = &source.secret {
            choose(
                ("secret", &filling.objects.secrets, &secret.name),
                secret.items.as_deref(),
                secret.optional,
                files,
            )?;
        }
        if let Some(down) = &source.downward_api {
            downward(down.items.as_deref().unwrap_or_default(), filling, files)?;
        }
    }
    Ok(())
}

/// A kind for people, the objects of that kind, and the name asked for.
type Wanted<'a> = (&'a str, &'a BTreeMap<String, Values>, &'a str);

fn choose(wanted: Wanted<'_>, items: Option<&[KeyToPath]>, optional: Option<bool>, files: &mut Files) -> Result<()> {
    let (kind, table, name) = wanted;
    let Some(values) = table.get(name) else {
        if optional == Some(true) {
            return Ok(());
        }
        bail!("{kind} \"{name}\" not found");
    };
    match items {
        None => files.extend(values.iter().map(|(key, value)| (key.clone(), value.clone()))),
        Some(items) => {
            for item in items {
                match values.get(&item.key) {
                    Some(value) => drop(files.insert(item.path.clone(), value.clone())),
                    None if optional == Some(true) => {}
                    None => bail!("{kind} \"{name}\" has no key `{}`", item.key),
                }
            }
        }
    }
    Ok(())
}

fn downward(items: &[DownwardAPIVolumeFile], filling: &Filling, files: &mut Files) -> Result<()> {
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            filling.downward.field(&field.field_path)?
        } else if let Some(field) = &item.resource_field_ref {
            let divisor = field.divisor.as_ref().map_or("", |quantity| quantity.0.as_str());
            filling.downward.resource(field.container_name.as_deref().unwrap_or_default(), &field.resource, divisor)?
        } else {
            bail!("item `{}` has no source", item.path);
        };
        files.insert(item.path.clone(), text.into_bytes());
    }
    Ok(())
}

/// A path below a volume, refused if it would leave it.
fn below(place: &Path, path: &str) -> Result<PathBuf> {
    if Path::new(path).components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        bail!("path `{path}` leaves its volume");
    }
    Ok(place.join(path))
}

fn write_all(place: &Path, files: &Files) -> Result<()> {
    fs::create_dir_all(place).with_context(|| format!("cannot make `{}`", place.display()))?;
    for (path, content) in files {
        let target = below(place, path)?;
        if fs::read(&target).is_ok_and(|old| &old == content) {
            continue;
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        let draft = target.with_extension("draft~");
        fs::File::create(&draft)?.write_all(content)?;
        fs::rename(&draft, &target).with_context(|| format!("cannot write `{}`", target.display()))?;
    }
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_wanted = files.keys().any(|path| path.split('/').next() == Some(name.as_str()));
        if !is_wanted && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The mounts of one container, in the order of its manifest.
///
/// # Errors
/// For a mount of a volume that the pod does not have.
pub(super) fn mounts(container: &Container, places: &BTreeMap<String, PathBuf>) -> Result<Vec<Mount>> {
    let mut all = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let place = places.get(&mount.name).with_context(|| format!("no volume is named `{}`", mount.name))?;
        let source = match mount.sub_path.as_deref() {
            None | Some("") => place.clone(),
            Some(path) => {
                let source = below(place, path)?;
                if !source.exists() {
                    fs::create_dir_all(&source)?;
                }
                source
            }
        };
        all.push(Mount { source, target: mount.mount_path.clone(), read_only: mount.read_only == Some(true) });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volumes() -> Vec<Volume> {
        serde_json::from_value(serde_json::json!([
            {"name": "work", "emptyDir": {}},
            {"name": "rules", "configMap": {"name": "m", "items": [{"key": "a", "path": "sub/a.yaml"}]}},
            {"name": "api", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}},
                {"configMap": {"name": "m"}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}
            ]}}
        ]))
        .unwrap()
    }

    #[test]
    fn volumes_are_filled_and_follow_their_objects() {
        let root = std::env::temp_dir().join(format!("loadline-volumes-{}", std::process::id()));
        let mut filling = Filling::default();
        filling.tokens.insert(String::new(), "t0".to_owned());
        filling.downward.pod.metadata.namespace = Some("ns".to_owned());
        let error = fill(&root, &volumes(), &filling).unwrap_err();
        assert_eq!(format!("{error:#}"), "volume `rules`: configmap \"m\" not found");
        let values = Values::from([("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())]);
        filling.objects.config_maps.insert("m".to_owned(), values);
        let places = fill(&root, &volumes(), &filling).unwrap();
        let read = |name: &str, path: &str| fs::read_to_string(places[name].join(path)).ok();
        assert_eq!(read("rules", "sub/a.yaml").as_deref(), Some("1"));
        assert_eq!(read("rules", "b"), None);
        assert_eq!(read("api", "token").as_deref(), Some("t0"));
        assert_eq!(read("api", "namespace").as_deref(), Some("ns"));
        filling.objects.config_maps.get_mut("m").unwrap().remove("b");
        filling.tokens.insert(String::new(), "t1".to_owned());
        fill(&root, &volumes(), &filling).unwrap();
        assert_eq!(read("api", "token").as_deref(), Some("t1"));
        assert_eq!(read("api", "b"), None);
        fs::remove_dir_all(&root).unwrap();
        assert!(below(Path::new("/x"), "../y").is_err());
        assert!(below(Path::new("/x"), "/y").is_err());
    }
}
