//! What says which pods are read, made ready for matching.

use super::monitors::MonitorRule;
use super::{Asked, NotScraped};
use crate::key::{Key, TargetKey};
use crate::labels::Selector;
use crate::snapshot::{PodSeen, Snapshot};
use loadline_manifest::autoscaler::ScrapeSpec;
use loadline_manifest::monitor::MonitorSpec;
use std::collections::BTreeMap;
use std::sync::Arc;

type Monitors = BTreeMap<Key, Result<MonitorSpec, Arc<str>>>;

/// What rules are made of.
pub(crate) struct RulesInput<'a> {
    pub(crate) view: &'a Snapshot,
    pub(crate) pod_monitors: &'a Monitors,
    pub(crate) service_monitors: &'a Monitors,
    pub(crate) respect_monitor_interval: bool,
}

/// The pods of one target.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TargetRule {
    pub(super) key: Key,
    selector: Arc<Selector>,
    pub(super) scrape: Option<ScrapeSpec>,
}

/// Everything that can say that a pod is read. Two sets that are equal give the same pages for every pod.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Rules {
    /// By namespace, in name order.
    autoscalers: BTreeMap<Arc<str>, Vec<TargetRule>>,
    hpas: BTreeMap<Arc<str>, Vec<TargetRule>>,
    monitors: Vec<MonitorRule>,
}

impl Rules {
    pub(crate) fn new(input: &RulesInput<'_>) -> Self {
        let view = input.view;
        let mut rules = Self::default();
        let selector = |target: &TargetKey| view.targets.get(target).and_then(|seen| seen.selector.clone());
        for seen in view.autoscalers.values() {
            let Ok(spec) = &seen.spec else { continue };
            for pool in &seen.targets {
                if let Some(selector) = selector(&pool.target) {
                    let rule = TargetRule { key: seen.key.clone(), selector, scrape: spec.scrape.clone() };
                    rules.autoscalers.entry(Arc::clone(&seen.key.namespace)).or_default().push(rule);
                }
            }
        }
        for hpa in view.hpas.values().filter(|hpa| !hpa.pods_metrics.is_empty() || !hpa.object_metrics.is_empty()) {
            if let Some(selector) = selector(&hpa.target) {
                let rule = TargetRule { key: hpa.key.clone(), selector, scrape: None };
                rules.hpas.entry(Arc::clone(&hpa.key.namespace)).or_default().push(rule);
            }
        }
        let pod_monitors = input.pod_monitors.iter().map(|(key, spec)| MonitorRule::of_pods(key, spec));
        let service_monitors =
            input.service_monitors.iter().flat_map(|(key, spec)| MonitorRule::of_services(key, spec, view));
        rules.monitors = pod_monitors.chain(service_monitors).collect();
        if !input.respect_monitor_interval {
            rules.monitors.iter_mut().for_each(MonitorRule::forget_interval);
        }
        rules
    }

    pub(super) fn autoscalers_of<'a>(&'a self, pod: &'a PodSeen) -> impl Iterator<Item = &'a TargetRule> {
        of(&self.autoscalers, pod)
    }

    pub(super) fn hpas_of<'a>(&'a self, pod: &'a PodSeen) -> impl Iterator<Item = &'a TargetRule> {
        of(&self.hpas, pod)
    }

    pub(super) fn monitors_of(&self, pod: &PodSeen, asked: &mut Vec<Asked>, reasons: &mut Vec<NotScraped>) {
        for monitor in &self.monitors {
            monitor.ask(pod, asked, reasons);
        }
    }
}

fn of<'a>(rules: &'a BTreeMap<Arc<str>, Vec<TargetRule>>, pod: &'a PodSeen) -> impl Iterator<Item = &'a TargetRule> {
    let list = rules.get(&pod.key.namespace).into_iter().flatten();
    list.filter(|rule| rule.selector.matches(&pod.labels))
}
