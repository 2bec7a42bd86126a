//! From the endpoints that discovery found to scrape targets, with the secrets they need.

use loadline_base::{Labels, ModelId, ReplicaId};
use loadline_cluster::{
    EndpointTls, HolderKind, Relabelings, ScrapeEndpoint, SecretStore, SecretText, Snapshot, ValueRef,
};
use loadline_manifest::autoscaler::{EngineKind, Scheme};
use loadline_manifest::monitor::relabel::Relabeled;
use loadline_scrape::{Secret, Target, TargetAuth, TlsClient};
use loadline_signals::dialect;
use loadline_signals::served::{Keep, PageSource, PodKey};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How often secrets are read again.
const SECRETS_PERIOD: std::time::Duration = std::time::Duration::from_secs(30);

/// One page that is read.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// Where, as discovery found it.
    pub(crate) found: ScrapeEndpoint,
    /// The page's name in the store of latest values.
    pub(crate) source: PageSource,
    /// Rules over its series.
    pub(crate) rules: Option<Relabelings>,
    /// Tells sets of rules apart.
    pub(crate) rules_id: u64,
}

impl Endpoint {
    /// Applies the rules to one series.
    pub(crate) fn relabel(&self, name: &mut String, labels: &mut Labels) -> Keep {
        let Some(rules) = &self.rules else { return Keep::Yes };
        match rules.rules().series(name, labels) {
            Relabeled::Kept => Keep::Yes,
            Relabeled::Dropped => Keep::No,
        }
    }
}

/// What a secret's value is, or why there is none.
type Values = BTreeMap<ValueRef, Result<SecretText, String>>;

/// The endpoints in force.
pub(crate) struct Scraping {
    /// By pod and page.
    endpoints: BTreeMap<(ReplicaId, Arc<str>), Arc<Endpoint>>,
    /// The page of each pod on which an engine was found last.
    engines: BTreeMap<ReplicaId, Arc<str>>,
    /// Sets of rules that endpoints have, with their ids.
    rules: Vec<(u64, Relabelings)>,
    last_rules: u64,
    wanted: watch::Sender<BTreeSet<ValueRef>>,
    values: watch::Receiver<Values>,
}

impl Scraping {
    /// Nothing is scraped yet; secrets are read by a task that ends with `cancel`.
    pub(crate) fn new(
        secrets: SecretStore,
        changed: mpsc::Sender<()>,
        cancel: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let (wanted, wants) = watch::channel(BTreeSet::new());
        let (publish, values) = watch::channel(Values::new());
        let scraping = Self {
            endpoints: BTreeMap::new(),
            engines: BTreeMap::new(),
            rules: Vec::new(),
            last_rules: 0,
            wanted,
            values,
        };
        (scraping, read_secrets(secrets, wants, publish, changed, cancel))
    }

    /// The page of a report.
    pub(crate) fn endpoint(&self, replica: &ReplicaId, page: &Arc<str>) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(&(replica.clone(), Arc::clone(page)))
    }

    /// An engine was found on this page of a pod. Where several have one, the first in order stays.
    pub(crate) fn speaks_for(&mut self, replica: &ReplicaId, page: &Arc<str>) {
        let known = self.engines.entry(replica.clone()).or_insert_with(|| Arc::clone(page));
        if page < known {
            *known = Arc::clone(page);
        }
    }

    /// Whether what a page says is about the engine of its pod.
    pub(crate) fn is_evidence(&self, replica: &ReplicaId, page: &Arc<str>, is_first: bool) -> bool {
        self.engines.get(replica).map_or(is_first, |known| known == page)
    }

    /// Makes what the snapshot says the endpoints, and gives the targets.
    pub(crate) fn targets(&mut self, snapshot: &Snapshot) -> Vec<Target> {
        let found: Vec<&ScrapeEndpoint> = snapshot.scrape.values().flat_map(|pod| &pod.endpoints).collect();
        let refs: BTreeSet<ValueRef> = found.iter().flat_map(|endpoint| secrets_of(endpoint)).cloned().collect();
        self.wanted.send_if_modified(|wanted| {
            let is_new = *wanted != refs;
            *wanted = refs.clone();
            is_new
        });
        let values = self.values.borrow().clone();
        let mut endpoints = BTreeMap::new();
        let mut targets = Vec::new();
        for endpoint in found {
            let replica = ReplicaId::new(endpoint.pod.to_string());
            let page: Arc<str> = format!("{}{}", endpoint.address.port(), endpoint.path).into();
            let auth = match auth_of(endpoint, &values) {
                Ok(auth) => auth,
                Err(why) => {
                    tracing::debug!(endpoint = endpoint.id(), why, "not scraped yet");
                    continue;
                }
            };
            let url = format!("{}://{}{}", scheme(endpoint.scheme), endpoint.address, endpoint.path);
            targets.push(Target {
                endpoint: Arc::clone(&page),
                engine: engine(endpoint.engine),
                auth,
                period: endpoint.period,
                ..Target::new(replica.clone(), ModelId::new(replica.as_str()), url)
            });
            let id = (replica, page);
            let known = self.endpoints.get(&id).filter(|known| known.found == *endpoint).cloned();
            let entry = known.unwrap_or_else(|| Arc::new(self.entry(endpoint, &id.1)));
            endpoints.insert(id, entry);
        }
        self.endpoints = endpoints;
        let endpoints = &self.endpoints;
        self.engines.retain(|replica, page| endpoints.contains_key(&(replica.clone(), Arc::clone(page))));
        self.rules.retain(|(id, _)| endpoints.values().any(|endpoint| endpoint.rules_id == *id));
        targets
    }

    fn entry(&mut self, endpoint: &ScrapeEndpoint, page: &Arc<str>) -> Endpoint {
        let pod = PodKey { namespace: Arc::clone(&endpoint.pod.namespace), name: Arc::clone(&endpoint.pod.name) };
        let source = PageSource { pod, endpoint: Arc::clone(page) };
        let has_rules = !endpoint.metric_relabelings.is_empty();
        let rules = has_rules.then(|| endpoint.metric_relabelings.clone());
        let rules_id = rules.as_ref().map_or(0, |rules| self.id_of(rules));
        Endpoint { found: endpoint.clone(), source, rules, rules_id }
    }

    /// The id of a set of rules. Ids are never given again.
    fn id_of(&mut self, rules: &Relabelings) -> u64 {
        if let Some((id, _)) = self.rules.iter().find(|(_, known)| known == rules) {
            return *id;
        }
        self.last_rules = self.last_rules.saturating_add(1);
        self.rules.push((self.last_rules, rules.clone()));
        self.last_rules
    }
}

fn secrets_of(endpoint: &ScrapeEndpoint) -> impl Iterator<Item = &ValueRef> {
    endpoint.bearer.iter().chain(&endpoint.tls.ca)
}

fn auth_of(endpoint: &ScrapeEndpoint, values: &Values) -> Result<TargetAuth, String> {
    let value = |wanted: &Option<ValueRef>| -> Result<Option<Arc<str>>, String> {
        match wanted {
            None => Ok(None),
            Some(wanted) => match values.get(wanted) {
                Some(Ok(value)) => Ok(Some(Arc::from(value.expose()))),
                Some(Err(why)) => Err(why.clone()),
                None => Err(format!("{} has not been read yet", name(wanted))),
            },
        }
    };
    let EndpointTls { ca, insecure_skip_verify, server_name } = &endpoint.tls;
    let is_plain = ca.is_none() && !insecure_skip_verify && server_name.is_none();
    let tls = if is_plain {
        None
    } else {
        Some(TlsClient { ca_pem: value(ca)?, insecure: *insecure_skip_verify, server_name: server_name.clone() })
    };
    Ok(TargetAuth { bearer: value(&endpoint.bearer)?.map(|token| Secret::new(&token)), tls })
}

fn name(wanted: &ValueRef) -> String {
    let kind = match wanted.kind {
        HolderKind::Secret => "Secret",
        HolderKind::ConfigMap => "ConfigMap",
    };
    format!("{kind} {} (key `{}`)", wanted.object, wanted.key)
}

const fn scheme(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    }
}

/// The engine where it is declared.
pub(crate) const fn engine(kind: EngineKind) -> Option<dialect::EngineKind> {
    match kind {
        EngineKind::Auto => None,
        EngineKind::Vllm => Some(dialect::EngineKind::Vllm),
        EngineKind::Sglang => Some(dialect::EngineKind::Sglang),
        EngineKind::Dynamo => Some(dialect::EngineKind::DynamoFrontend),
        EngineKind::Llamacpp => Some(dialect::EngineKind::LlamaCpp),
        EngineKind::Tgi => Some(dialect::EngineKind::Tgi),
        EngineKind::RayServe => Some(dialect::EngineKind::RayServe),
    }
}

/// Reads what is wanted, when that changes and from time to time.
async fn read_secrets(
    secrets: SecretStore,
    mut wants: watch::Receiver<BTreeSet<ValueRef>>,
    publish: watch::Sender<Values>,
    changed: mpsc::Sender<()>,
    cancel: CancellationToken,
) {
    loop {
        let wanted = wants.borrow_and_update().clone();
        let mut values = Values::new();
        for one in wanted {
            let value = secrets.value(&one).await.map_err(|error| error.to_string());
            if let Err(error) = &value
                && publish.borrow().get(&one) != Some(&value)
            {
                tracing::warn!(value = name(&one), error, "cannot be read; pages that need it are not scraped");
            }
            values.insert(one, value);
        }
        let is_new = publish.send_if_modified(|before| {
            let is_new = *before != values;
            *before = values;
            is_new
        });
        if is_new && changed.try_send(()).is_err() {
            tracing::debug!("a look at changed secrets is already due");
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            wanted = wants.changed() => if wanted.is_err() { return },
            () = tokio::time::sleep(SECRETS_PERIOD) => {}
        }
    }
}
