//! The one place where a question becomes values. Another way to answer (rules, a query language, another provider) is
//! another [`MetricSource`], or one that asks several.

use loadline_base::{Labels, Timestamp};
use loadline_signals::served::{NoValue, PodSelector, PodValue, Selector, Served};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use thiserror::Error;

/// What is asked, as the path and its parameters say it.
#[derive(Debug, Clone, Copy)]
pub enum Query<'a> {
    /// A metric of one object.
    Object {
        /// The resource in the plural, with `.group` unless that is the core group.
        resource: &'a str,
        /// The object's namespace; `None` for a cluster-scoped one.
        namespace: Option<&'a str>,
        /// Its name.
        name: &'a str,
        /// The metric.
        metric: &'a str,
        /// Which of its series.
        series: &'a Selector,
    },
    /// A metric of every object that matches.
    Objects {
        /// The resource in the plural, with `.group` unless that is the core group.
        resource: &'a str,
        /// The objects' namespace; `None` for cluster-scoped ones.
        namespace: Option<&'a str>,
        /// Which objects.
        selector: &'a Selector,
        /// The metric.
        metric: &'a str,
        /// Which of its series.
        series: &'a Selector,
    },
    /// A metric about a namespace.
    Namespace {
        /// The namespace.
        namespace: &'a str,
        /// The metric.
        metric: &'a str,
        /// Which of its series.
        series: &'a Selector,
    },
    /// A metric about anything, seen from a namespace.
    External {
        /// The namespace.
        namespace: &'a str,
        /// The metric.
        metric: &'a str,
        /// Which of its series.
        selector: &'a Selector,
    },
}

/// One value with what it describes.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// What it describes.
    pub of: Described,
    /// The value; one that is not finite is never served.
    pub value: f64,
    /// When the sample was taken.
    pub at: Timestamp,
}

/// What a value describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Described {
    /// An object.
    Object {
        /// Its kind.
        kind: &'static str,
        /// `GROUP/VERSION`; the core group reads `/v1`, as every such server prints it.
        api_version: &'static str,
        /// Its namespace, if it has one.
        namespace: Option<Arc<str>>,
        /// Its name.
        name: Arc<str>,
    },
    /// Series with these labels.
    Labels(Labels),
}

/// Why there is nothing to answer; the text is the message a person sees in `kubectl describe hpa`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Missing {
    /// No such metric, object or resource.
    #[error("{0}")]
    NotFound(String),
    /// Something went wrong on our side.
    #[error("{0}")]
    Internal(String),
}

/// The metrics that discovery lists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    /// Resources with a metric each: (resource, namespaced, metric), sorted.
    pub custom: Vec<(String, bool, String)>,
    /// External metrics, sorted.
    pub external: Vec<String>,
}

/// Where values come from.
pub trait MetricSource: Send + Sync + 'static {
    /// The values, at least one; never a made-up one.
    ///
    /// # Errors
    /// [`Missing`] with the whole reason.
    fn read(&self, now: Timestamp, query: &Query<'_>) -> Result<Vec<Value>, Missing>;

    /// What can be asked for.
    fn names(&self) -> Names;

    /// Whether the pods are known, so that a missing one is really missing.
    fn is_synced(&self) -> bool;
}

/// Resources that the store of latest values answers for, in the spellings that API paths use.
const PODS: [&str; 2] = ["pods", "pod"];

/// The latest scraped values: each series of a pod is a metric of that pod, and sums over pods are External metrics and
/// metrics of their namespace.
#[derive(Debug, Clone)]
pub struct ServedSource {
    served: Arc<RwLock<Served>>,
    synced: Arc<AtomicBool>,
}

impl ServedSource {
    /// Over a store that others write; not synced until [`Self::set_synced`].
    #[must_use]
    pub fn new(served: Arc<RwLock<Served>>) -> Self {
        Self { served, synced: Arc::new(AtomicBool::new(false)) }
    }

    /// Says that the store has been given the pods of the cluster, so that what is not in it does not exist. Until then
    /// every question is answered with 503.
    pub fn set_synced(&self) {
        self.synced.store(true, Ordering::Release);
    }

    fn store(&self) -> RwLockReadGuard<'_, Served> {
        self.served.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MetricSource for ServedSource {
    fn read(&self, now: Timestamp, query: &Query<'_>) -> Result<Vec<Value>, Missing> {
        match *query {
            Query::Object { resource, namespace, name, metric, series } => {
                let namespace = pods_namespace(resource, namespace, metric)?;
                let value = self.store().pod_metric(now, namespace, name, metric, series).map_err(missing)?;
                Ok(vec![of_pod(value)])
            }
            Query::Objects { resource, namespace, selector, metric, series } => {
                let namespace = pods_namespace(resource, namespace, metric)?;
                let selector: &PodSelector = selector;
                let values = self.store().pods_metric(now, namespace, selector, metric, series).map_err(missing)?;
                Ok(values.into_iter().map(of_pod).collect())
            }
            Query::Namespace { namespace, metric, series } => {
                let values = self.store().external(now, namespace, metric, series).map_err(missing)?;
                let name: Arc<str> = namespace.into();
                let of = |name| Described::Object { kind: "Namespace", api_version: CORE, namespace: None, name };
                let values = values.into_iter();
                Ok(values.map(|sum| Value { of: of(Arc::clone(&name)), value: sum.value, at: sum.at }).collect())
            }
            Query::External { namespace, metric, selector } => {
                let values = self.store().external(now, namespace, metric, selector).map_err(missing)?;
                let values = values.into_iter();
                Ok(values
                    .map(|sum| Value { of: Described::Labels(sum.labels), value: sum.value, at: sum.at })
                    .collect())
            }
        }
    }

    fn names(&self) -> Names {
        let store = self.store();
        let pods = store.custom_names();
        let sums: Vec<String> = store.external_names().into_iter().collect();
        drop(store);
        let custom = sums.iter().map(|name| ("namespaces".to_owned(), false, name.clone()));
        let custom = custom.chain(pods.into_iter().map(|name| ("pods".to_owned(), true, name))).collect();
        Names { custom, external: sums }
    }

    fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }
}

/// The core group as every server of this kind prints it: an empty group, a slash, the version.
const CORE: &str = "/v1";

fn of_pod(value: PodValue) -> Value {
    let PodValue { namespace, pod, value, at, .. } = value;
    Value { of: Described::Object { kind: "Pod", api_version: CORE, namespace: Some(namespace), name: pod }, value, at }
}

fn missing(why: NoValue) -> Missing {
    Missing::NotFound(why.to_string())
}

/// The namespace of a question about pods; a reason why there is no answer for anything else.
fn pods_namespace<'a>(resource: &str, namespace: Option<&'a str>, metric: &str) -> Result<&'a str, Missing> {
    if !PODS.contains(&resource) {
        return Err(Missing::NotFound(format!(
            "metric `{metric}` of resource `{resource}` is not served: scraped series are metrics of `pods`, their sums are \
             metrics of namespaces (`namespaces/NAMESPACE/metrics/{metric}`) and External metrics"
        )));
    }
    namespace.ok_or_else(|| {
        Missing::NotFound(format!("pods are in namespaces: ask for `namespaces/NAMESPACE/pods/NAME/{metric}`"))
    })
}
