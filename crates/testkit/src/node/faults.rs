//! Faults that a test may cause: slow pulls, failing pods, cut links, frozen processes, lost nodes.

use super::process::signal_group;
use super::status::Record;
use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Namespace and name.
pub(super) type Key = (String, String);

/// Which pods a rule is about; every part that is given must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// Their namespace.
    pub namespace: Option<String>,
    /// How their name begins.
    pub name_prefix: Option<String>,
    /// Labels that they carry.
    pub labels: BTreeMap<String, String>,
    /// The image of the container.
    pub image: Option<String>,
}

impl Selector {
    /// Pods with this label.
    #[must_use]
    pub fn label(key: &str, value: &str) -> Self {
        Self { labels: BTreeMap::from([(key.to_owned(), value.to_owned())]), ..Self::default() }
    }

    /// Whether a container with `image` of `pod` is meant.
    #[must_use]
    pub fn matches(&self, pod: &Pod, image: &str) -> bool {
        let metadata = &pod.metadata;
        let has = |key: &str, value: &str| {
            metadata.labels.as_ref().and_then(|labels| labels.get(key)).is_some_and(|found| found == value)
        };
        self.namespace.as_ref().is_none_or(|wanted| metadata.namespace.as_ref() == Some(wanted))
            && self
                .name_prefix
                .as_deref()
                .is_none_or(|start| metadata.name.as_deref().unwrap_or_default().starts_with(start))
            && self.labels.iter().all(|(key, value)| has(key, value))
            && self.image.as_deref().is_none_or(|wanted| wanted == image)
    }
}

/// How pods of a rule fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Their containers end with 1 as soon as they start; running ones are killed.
    CrashLoop,
    /// Their readiness probes fail, whatever was answered.
    NeverReady,
    /// Their images cannot be pulled (containers that already run go on).
    PullError,
}

/// How a node is lost; in each case its pods' links are down and nothing is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Every process is killed.
    Dead,
    /// Every process is stopped.
    Frozen,
    /// The processes go on, unreachable.
    Unreachable,
}

/// A rule that [`Faults::clear`] takes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule(u64);

#[derive(Debug, Clone, Copy)]
enum Effect {
    Delay(Duration),
    Fail(Failure),
}

/// What the agent knows of a pod that it runs.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) key: Key,
    pub(super) node: String,
    pub(super) pod: Mutex<Arc<Pod>>,
    pub(super) record: Mutex<Record>,
    /// Counts changes of `record`.
    pub(super) changed: watch::Sender<u64>,
    /// The link's name in the root namespace.
    pub(super) link: Mutex<Option<String>>,
    /// Leaders of the process groups that run now, by container.
    pub(super) pids: Mutex<BTreeMap<String, u32>>,
}

impl Handle {
    pub(super) fn pod(&self) -> Arc<Pod> {
        Arc::clone(&lock(&self.pod))
    }

    /// Changes the record and wakes whoever reports it.
    pub(super) fn change(&self, how: impl FnOnce(&mut Record)) {
        how(&mut lock(&self.record));
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }

    pub(super) fn signal(&self, container: Option<&str>, signal: Signal) -> bool {
        let pids = lock(&self.pids);
        let chosen = pids.iter().filter(|(name, _)| container.is_none_or(|wanted| wanted == name.as_str()));
        let mut any = false;
        for (_, pid) in chosen {
            signal_group(*pid, signal);
            any = true;
        }
        any
    }
}

/// A lock whose holder never leaves it half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Inner {
    next: u64,
    rules: BTreeMap<Rule, (Selector, Effect)>,
    lost: BTreeMap<String, Loss>,
    pods: BTreeMap<Key, Arc<Handle>>,
    nodes: Vec<String>,
}

/// The agent's switchboard; clones share it.
#[derive(Debug, Clone)]
pub struct Faults {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<u64>,
    logs: PathBuf,
}

impl Faults {
    pub(super) fn new(nodes: Vec<String>, logs: PathBuf) -> Self {
        let inner = Inner { next: 0, rules: BTreeMap::new(), lost: BTreeMap::new(), pods: BTreeMap::new(), nodes };
        Self { inner: Arc::new(Mutex::new(inner)), changed: watch::Sender::new(0), logs }
    }

    fn wake(&self) {
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }

    fn rule(&self, selector: Selector, effect: Effect) -> Rule {
        let rule = {
            let mut inner = lock(&self.inner);
            inner.next = inner.next.wrapping_add(1);
            let rule = Rule(inner.next);
            inner.rules.insert(rule, (selector, effect));
            rule
        };
        self.wake();
        rule
    }

    /// Images of these containers take this long to arrive, from now on.
    pub fn delay_pulls(&self, selector: Selector, delay: Duration) -> Rule {
        self.rule(selector, Effect::Delay(delay))
    }

    /// These containers fail, from now on.
    pub fn fail(&self, selector: Selector, failure: Failure) -> Rule {
        self.rule(selector, Effect::Fail(failure))
    }

    /// Takes one rule back.
    pub fn clear(&self, rule: Rule) {
        lock(&self.inner).rules.remove(&rule);
        self.wake();
    }

    /// Takes every rule back; lost nodes and cut links stay.
    pub fn clear_all(&self) {
        lock(&self.inner).rules.clear();
        self.wake();
    }

    fn handle(&self, namespace: &str, pod: &str) -> Result<Arc<Handle>> {
        let key = (namespace.to_owned(), pod.to_owned());
        lock(&self.inner).pods.get(&key).cloned().with_context(|| format!("no pod `{namespace}/{pod}` runs here"))
    }

    /// Takes the pod's link down: connections to it hang.
    ///
    /// # Errors
    /// If it does not run here or has no link of its own.
    pub fn cut(&self, namespace: &str, pod: &str) -> Result<()> {
        set_link(&*self.handle(namespace, pod)?, "down")
    }

    /// Takes the pod's link up again.
    ///
    /// # Errors
    /// As [`Faults::cut`].
    pub fn mend(&self, namespace: &str, pod: &str) -> Result<()> {
        set_link(&*self.handle(namespace, pod)?, "up")
    }

    /// Stops the pod's processes (SIGSTOP).
    ///
    /// # Errors
    /// If nothing of it runs here.
    pub fn freeze(&self, namespace: &str, pod: &str) -> Result<()> {
        self.signal(namespace, pod, None, Signal::SIGSTOP)
    }

    /// Lets the pod's processes go on (SIGCONT).
    ///
    /// # Errors
    /// If nothing of it runs here.
    pub fn thaw(&self, namespace: &str, pod: &str) -> Result<()> {
        self.signal(namespace, pod, None, Signal::SIGCONT)
    }

    /// Kills one container, or all of the pod's (SIGKILL); its restart policy decides what follows.
    ///
    /// # Errors
    /// If it does not run here.
    pub fn kill(&self, namespace: &str, pod: &str, container: Option<&str>) -> Result<()> {
        self.signal(namespace, pod, container, Signal::SIGKILL)
    }

    fn signal(&self, namespace: &str, pod: &str, container: Option<&str>, signal: Signal) -> Result<()> {
        if !self.handle(namespace, pod)?.signal(container, signal) {
            bail!("no such process of `{namespace}/{pod}` runs now");
        }
        Ok(())
    }

    /// Loses a node: its Lease is not renewed, its pods are not reported.
    ///
    /// # Errors
    /// If there is no such node, or a link cannot be taken down.
    pub fn lose_node(&self, node: &str, loss: Loss) -> Result<()> {
        let pods = self.set_lost(node, Some(loss))?;
        for pod in &pods {
            match loss {
                Loss::Dead => drop(pod.signal(None, Signal::SIGKILL)),
                Loss::Frozen => drop(pod.signal(None, Signal::SIGSTOP)),
                Loss::Unreachable => {}
            }
            if lock(&pod.link).is_some() {
                set_link(pod, "down")?;
            }
        }
        Ok(())
    }

    /// Brings a lost node back.
    ///
    /// # Errors
    /// If there is no such node, or a link cannot be taken up.
    pub fn restore_node(&self, node: &str) -> Result<()> {
        let pods = self.set_lost(node, None)?;
        for pod in &pods {
            pod.signal(None, Signal::SIGCONT);
            if lock(&pod.link).is_some() {
                set_link(pod, "up")?;
            }
        }
        Ok(())
    }

    fn set_lost(&self, node: &str, loss: Option<Loss>) -> Result<Vec<Arc<Handle>>> {
        let pods = {
            let mut inner = lock(&self.inner);
            if !inner.nodes.iter().any(|known| known == node) {
                bail!("no node is named `{node}`");
            }
            match loss {
                Some(loss) => inner.lost.insert(node.to_owned(), loss),
                None => inner.lost.remove(node),
            };
            inner.pods.values().filter(|pod| pod.node == node).cloned().collect()
        };
        self.wake();
        Ok(pods)
    }

    /// The containers of a pod that run now, with the leaders of their process groups.
    #[must_use]
    pub fn processes(&self, namespace: &str, pod: &str) -> Vec<(String, u32)> {
        let Ok(handle) = self.handle(namespace, pod) else { return Vec::new() };
        lock(&handle.pids).iter().map(|(name, pid)| (name.clone(), *pid)).collect()
    }

    /// Where a container's output goes, over all its restarts.
    #[must_use]
    pub fn log_path(&self, namespace: &str, pod: &str, container: &str) -> PathBuf {
        self.logs.join(format!("{namespace}_{pod}")).join(format!("{container}.log"))
    }

    pub(super) fn is_lost(&self, node: &str) -> bool {
        lock(&self.inner).lost.contains_key(node)
    }

    /// Waits while the node is lost.
    pub(super) async fn present(&self, node: &str) {
        let mut changes = self.changes();
        while self.is_lost(node) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How long the image of a container takes to arrive.
    pub(super) fn pull_delay(&self, pod: &Pod, image: &str) -> Duration {
        let inner = lock(&self.inner);
        let delays = inner.rules.values().filter_map(|(selector, effect)| match effect {
            Effect::Delay(delay) if selector.matches(pod, image) => Some(*delay),
            _ => None,
        });
        delays.max().unwrap_or_default()
    }

    pub(super) fn fails(&self, pod: &Pod, image: &str, failure: Failure) -> bool {
        let inner = lock(&self.inner);
        inner.rules.values().any(|(selector, effect)| {
            matches!(effect, Effect::Fail(found) if *found == failure) && selector.matches(pod, image)
        })
    }

    pub(super) fn enter(&self, handle: &Arc<Handle>) {
        lock(&self.inner).pods.insert(handle.key.clone(), Arc::clone(handle));
    }

    pub(super) fn leave(&self, handle: &Arc<Handle>) {
        let mut inner = lock(&self.inner);
        if inner.pods.get(&handle.key).is_some_and(|known| Arc::ptr_eq(known, handle)) {
            inner.pods.remove(&handle.key);
        }
    }

    pub(super) fn pods(&self) -> Vec<Arc<Handle>> {
        lock(&self.inner).pods.values().cloned().collect()
    }
}

fn set_link(handle: &Handle, to: &str) -> Result<()> {
    let (namespace, name) = &handle.key;
    let link = lock(&handle.link).clone().with_context(|| format!("`{namespace}/{name}` has no link of its own"))?;
    let output = Command::new("ip").args(["link", "set", &link, to]).output().context("cannot start `ip`")?;
    if !output.status.success() {
        bail!("`ip link set {link} {to}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_match_all_their_parts() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web-1", "namespace": "n", "labels": {"app": "web"}}, "spec": {"containers": []}
        }))
        .unwrap();
        let faults = Faults::new(vec!["node-1".to_owned()], PathBuf::new());
        assert!(Selector::default().matches(&pod, "x"));
        assert!(Selector::label("app", "web").matches(&pod, "x"));
        assert!(!Selector::label("app", "db").matches(&pod, "x"));
        let image =
            Selector { image: Some("x".to_owned()), name_prefix: Some("web-".to_owned()), ..Selector::default() };
        assert!(image.matches(&pod, "x") && !image.matches(&pod, "y"));
        let slow = faults.delay_pulls(image.clone(), Duration::from_secs(3));
        faults.delay_pulls(Selector::default(), Duration::from_secs(1));
        assert_eq!(faults.pull_delay(&pod, "x"), Duration::from_secs(3));
        faults.clear(slow);
        assert_eq!(faults.pull_delay(&pod, "x"), Duration::from_secs(1));
        faults.fail(image, Failure::NeverReady);
        assert!(faults.fails(&pod, "x", Failure::NeverReady) && !faults.fails(&pod, "x", Failure::CrashLoop));
        assert!(faults.lose_node("node-9", Loss::Dead).is_err());
        faults.lose_node("node-1", Loss::Dead).unwrap();
        assert!(faults.is_lost("node-1"));
        faults.restore_node("node-1").unwrap();
        assert!(!faults.is_lost("node-1"));
    }
}
