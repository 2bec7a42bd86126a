//! The programs of the control plane and its peers, built from their Go modules and kept by version outside the checkout.
//!
//! Modules, versions and link flags: `crates/testkit/modules`. Each tool's folder in the cache is written under another name and
//! renamed when it is whole; a lock keeps two builders apart.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Between two lines that a build still runs.
const PROGRESS: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// A Kubernetes minor the tests run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Minor {
    /// The oldest supported.
    V1_33,
    /// The newest.
    #[default]
    V1_37,
}

impl Minor {
    /// All of them, the newest last.
    pub const ALL: [Self; 2] = [Self::V1_33, Self::V1_37];

    /// As people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V1_33 => "1.33",
            Self::V1_37 => "1.37",
        }
    }

    /// Reads `1.37`.
    ///
    /// # Errors
    /// For a minor that is not built here, naming those that are.
    pub fn parse(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|minor| minor.name() == text).with_context(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|minor| minor.name()).collect();
            format!("there is no Kubernetes minor `{text}` here; there are {}", known.join(", "))
        })
    }

    /// Its tool.
    #[must_use]
    pub fn tool(self) -> &'static Tool {
        match self {
            Self::V1_33 => &KUBERNETES_1_33,
            Self::V1_37 => &KUBERNETES_1_37,
        }
    }
}

/// One Go module of programs.
#[derive(Debug, PartialEq, Eq)]
pub struct Tool {
    /// The first part of its folder's name in the cache.
    pub name: &'static str,
    /// Without the `v`.
    pub version: &'static str,
    /// Its folder in `crates/testkit/modules`.
    pub module: &'static str,
    /// What is built.
    pub packages: &'static [&'static str],
    /// Whether `k8s.io/component-base/version` is set when linking: without it `/version` says what clients cannot parse.
    has_version_flags: bool,
    /// Seconds a cold build took on two cores, for people who wait.
    cold_seconds: u32,
}

const KUBERNETES: [&str; 4] = [
    "k8s.io/kubernetes/cmd/kube-apiserver",
    "k8s.io/kubernetes/cmd/kube-controller-manager",
    "k8s.io/kubernetes/cmd/kube-scheduler",
    "k8s.io/kubernetes/cmd/kubectl",
];
const KUBERNETES_1_33: Tool = Tool {
    name: "kubernetes",
    version: "1.33.13",
    module: "kubernetes-1.33",
    packages: &KUBERNETES,
    has_version_flags: true,
    cold_seconds: 570,
};
const KUBERNETES_1_37: Tool = Tool { version: "1.37.2", module: "kubernetes-1.37", ..KUBERNETES_1_33 };

/// The store.
pub const ETCD: Tool = Tool {
    name: "etcd",
    version: "3.7.3",
    module: "etcd",
    packages: &["go.etcd.io/etcd/server/v3"],
    has_version_flags: false,
    cold_seconds: 36,
};
/// The package installer.
pub const HELM: Tool = Tool {
    name: "helm",
    version: "4.3.1",
    module: "helm",
    packages: &["helm.sh/helm/v4/cmd/helm"],
    has_version_flags: false,
    cold_seconds: 95,
};
/// Prometheus 3.16, compared with.
pub const PROMETHEUS: Tool = Tool {
    name: "prometheus",
    version: "0.316.0",
    module: "prometheus",
    packages: &["github.com/prometheus/prometheus/cmd/prometheus"],
    has_version_flags: false,
    cold_seconds: 335,
};
/// prometheus-adapter, compared with.
pub const PROMETHEUS_ADAPTER: Tool = Tool {
    name: "prometheus-adapter",
    version: "0.12.0",
    module: "prometheus-adapter",
    packages: &["sigs.k8s.io/prometheus-adapter/cmd/adapter"],
    has_version_flags: false,
    cold_seconds: 110,
};

/// Where tools and run files are kept: `$LOADLINE_CACHE`, else `loadline` in `$XDG_CACHE_HOME` or `~/.cache`.
///
/// # Errors
/// If none of these is known.
pub fn cache() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("LOADLINE_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("loadline")))
        .or_else(|| Some(set("HOME")?.join(".cache/loadline")))
        .context("none of `LOADLINE_CACHE`, `XDG_CACHE_HOME` and `HOME` is set; set one")?;
    std::path::absolute(&folder).with_context(|| format!("`{}` is no path", folder.display()))
}

impl Tool {
    /// Its folder in the cache.
    ///
    /// # Errors
    /// As [`cache`].
    pub fn folder(&self) -> Result<PathBuf> {
        Ok(cache()?.join("tools").join(format!("{}-v{}", self.name, self.version)))
    }

    /// One of its programs; a tool of one program needs no name (`go build` has its own rule for that file's name).
    ///
    /// # Errors
    /// If it is not built.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder()?;
        find(&folder, name, self.packages.len() == 1).with_context(|| {
            format!(
                "`{name}` of {} {} is not in {}; run `cargo xtask cluster build`",
                self.name,
                self.version,
                folder.display()
            )
        })
    }

    /// Whether it is built.
    #[must_use]
    pub fn is_built(&self) -> bool {
        self.folder().is_ok_and(|folder| folder.is_dir())
    }

    /// Builds it if it is not there.
    ///
    /// # Errors
    /// If Go is missing, or the build fails.
    pub fn build(&self) -> Result<()> {
        if self.is_built() {
            return Ok(());
        }
        let folder = self.folder()?;
        let parent = folder.parent().context("the cache has no folder")?;
        std::fs::create_dir_all(parent).with_context(|| format!("{} cannot be made", parent.display()))?;
        let lock_path = parent.join(format!("{}-v{}.lock", self.name, self.version));
        let lock = File::create(&lock_path).with_context(|| format!("{} cannot be made", lock_path.display()))?;
        if lock.try_lock().is_err() {
            eprintln!("another build of {} {} runs; waiting for it", self.name, self.version);
            lock.lock().with_context(|| format!("{} cannot be locked", lock_path.display()))?;
        }
        if self.is_built() {
            return Ok(());
        }
        let part = parent.join(format!("{}-v{}.part", self.name, self.version));
        if part.exists() {
            // Of a build that was killed: the lock says that none runs.
            std::fs::remove_dir_all(&part).with_context(|| format!("{} cannot be removed", part.display()))?;
        }
        let built = self.build_into(&part).and_then(|()| {
            std::fs::rename(&part, &folder).with_context(|| format!("{} cannot be renamed", part.display()))
        });
        if built.is_err() {
            // A half-built folder is of no use; that it cannot be removed does not matter more than the failure.
            let _ = std::fs::remove_dir_all(&part);
        }
        built
    }

    fn link_flags(&self) -> String {
        let mut flags = "-s -w".to_owned();
        if self.has_version_flags {
            let mut numbers = self.version.split('.');
            let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
            let version = self.version;
            for (name, value) in
                [("gitVersion", format!("v{version}")), ("gitMajor", major.into()), ("gitMinor", minor.into())]
            {
                flags.push_str(&format!(" -X k8s.io/component-base/version.{name}={value}"));
            }
        }
        flags
    }

    fn build_into(&self, folder: &Path) -> Result<()> {
        if Command::new("go").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            bail!("`go` is not in PATH: {} {} is built with Go 1.26 (https://go.dev/dl)", self.name, self.version);
        }
        eprintln!("building {} {} (about {} s on two cold cores)", self.name, self.version, self.cold_seconds);
        let begun = Instant::now();
        let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("modules");
        // `go build -o` takes a path as a folder only if it exists.
        std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        let mut child = Command::new("go")
            .args(["build", "-mod=readonly", "-trimpath", "-ldflags", &self.link_flags(), "-o"])
            .arg(folder)
            .args(self.packages)
            .current_dir(modules.join(self.module))
            .env("CGO_ENABLED", "0")
            .env_remove("GOFLAGS")
            .stdin(Stdio::null())
            .spawn()
            .context("`go build` could not be started")?;
        let mut told = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                eprintln!("building {} {}: {} s", self.name, self.version, begun.elapsed().as_secs());
            }
            std::thread::sleep(LOOK);
        };
        if !status.success() {
            bail!("`go build` of {} {} failed: {status}", self.name, self.version);
        }
        eprintln!("built {} {} in {} s", self.name, self.version, begun.elapsed().as_secs());
        Ok(())
    }
}

fn find(folder: &Path, name: &str, is_only: bool) -> Option<PathBuf> {
    let named = folder.join(name);
    if named.is_file() {
        return Some(named);
    }
    let mut files =
        std::fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_file());
    let first = files.next()?;
    (is_only && files.next().is_none()).then_some(first)
}

/// What one control plane needs.
#[must_use]
pub fn needed(minor: Minor) -> [&'static Tool; 3] {
    [&ETCD, minor.tool(), &HELM]
}

/// Builds what a control plane of that minor needs.
///
/// # Errors
/// As [`Tool::build`].
pub fn build(minor: Minor) -> Result<()> {
    needed(minor).into_iter().try_for_each(Tool::build)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_program_is_found_under_any_name() {
        let folder = std::env::temp_dir().join(format!("loadline-tools-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("server"), "").unwrap();
        assert_eq!(find(&folder, "etcd", true), Some(folder.join("server")));
        assert_eq!(find(&folder, "etcd", false), None);
        std::fs::write(folder.join("etcd"), "").unwrap();
        assert_eq!(find(&folder, "etcd", false), Some(folder.join("etcd")));
        assert_eq!(find(&folder, "v3", true), None);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn modules_say_the_versions_of_the_table() {
        for (tool, required) in [
            (&ETCD, "go.etcd.io/etcd/server/v3"),
            (&KUBERNETES_1_33, "k8s.io/kubernetes"),
            (&KUBERNETES_1_37, "k8s.io/kubernetes"),
            (&HELM, "helm.sh/helm/v4"),
            (&PROMETHEUS, "github.com/prometheus/prometheus"),
            (&PROMETHEUS_ADAPTER, "sigs.k8s.io/prometheus-adapter"),
        ] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("modules").join(tool.module).join("go.mod");
            let text = std::fs::read_to_string(&path).unwrap();
            let line = format!("{required} v{}", tool.version);
            assert!(text.contains(&line), "{} lacks `{line}`", path.display());
        }
    }

    #[test]
    fn kubernetes_is_linked_with_its_version() {
        let flags = KUBERNETES_1_37.link_flags();
        assert!(flags.contains("version.gitVersion=v1.37.2 ") && flags.ends_with("version.gitMinor=37"), "{flags}");
        assert_eq!(ETCD.link_flags(), "-s -w");
    }

    #[test]
    fn an_unknown_minor_is_refused_with_those_known() {
        assert_eq!(Minor::parse("1.33").unwrap(), Minor::V1_33);
        let error = Minor::parse("1.2").unwrap_err().to_string();
        assert!(error.contains("`1.2`") && error.contains("1.33, 1.37"), "{error}");
    }
}
